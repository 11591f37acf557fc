"""A library of the same name is never written over, and never half used."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from libnova._guard import others, refusal, unclaimed

ROOT = Path(__file__).parents[3]


def installed(folder: Path, name: str, file: str) -> None:
    """Lay down what an installer would for a distribution of one file."""
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("REAL = True\n")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "RECORD").write_text(f"{file},,\n{about.name}/METADATA,,\n{about.name}/RECORD,,\n")


@pytest.mark.parametrize(
    ("name", "file", "found"),
    [
        ("libnova", "libnova/__init__.py", ["libnova"]),
        ("vendors-own", "libnova.py", ["vendors-own"]),
        ("libnova", "astronomy/__init__.py", []),
        ("Hashmill_Notebook", "libnova/__init__.py", []),
    ],
)
def test_who_else_has_the_name_is_found_by_its_files(tmp_path: Path, name: str, file: str, found: list[str]) -> None:
    installed(tmp_path, name, file)

    assert others([str(tmp_path)]) == found


def test_one_installed_to_work_on_it_is_found_by_where_it_leads(tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "src"
    (source / "libnova").mkdir(parents=True)
    (source / "libnova" / "__init__.py").write_text("REAL = True\n")
    installed(site, "vendors-own", "_vendors_own.pth")
    (site / "_vendors_own.pth").write_text("import sys\n/none/such\n")
    assert others([str(site)]) == []

    (site / "_vendors_own.pth").write_text(f"import sys\n{source}\n")
    assert others([str(site)]) == ["vendors-own"]

    installed(tmp_path / "named", "vendors-finder", "__editable___vendors_finder.py")
    (tmp_path / "named" / "vendors_finder-1.0.dist-info" / "top_level.txt").write_text("libnova\n")
    assert others([str(tmp_path / "named")]) == ["vendors-finder"]


def test_a_folder_that_nobody_installed_is_found_and_ours_is_not(tmp_path: Path) -> None:
    left, copied, ours = tmp_path / "left", tmp_path / "copied", tmp_path / "ours"
    (left / "libnova" / "__pycache__").mkdir(parents=True)
    (left / "libnova" / "__pycache__" / "__init__.pyc").write_bytes(b"")
    (copied / "libnova").mkdir(parents=True)
    (copied / "libnova" / "__init__.py").write_text("REAL = True\n")
    installed(ours, "hashmill-notebook", "libnova/__init__.py")

    assert unclaimed([str(left), str(left)]) == []
    assert unclaimed([str(copied), str(copied)]) == [str(copied / "libnova")]
    assert unclaimed([str(ours)]) == []


def test_here_nobody_else_has_it() -> None:
    assert others() == []


def test_an_import_beside_another_one_says_what_to_do(tmp_path: Path) -> None:
    installed(tmp_path, "vendors-own", "libnova/other.py")

    done = subprocess.run(
        [sys.executable, "-c", "import libnova"],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'notebook' / 'src'}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr.strip().endswith(refusal(["vendors-own"]))


@pytest.mark.parametrize("gone", [False, True])
def test_one_that_was_installed_after_ours_is_refused_where_ours_begins(tmp_path: Path, gone: bool) -> None:
    site = tmp_path / "site"
    shutil.copytree(ROOT / "notebook" / "src" / "libnova", site / "libnova")
    installed(site, "vendors-own", "libnova/__init__.py")
    if gone:  # and taken away again: its files went, ours stayed
        (site / "libnova" / "__init__.py").unlink()
        shutil.rmtree(site / "vendors_own-1.0.dist-info")

    for module in ("libnova.Labdrive.Api.File", "libnova.common.api.File", "libnova.Labdrive"):
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"import {module}"],
            env={"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert done.stderr.strip().endswith(refusal(["a part of one" if gone else "vendors-own"]))


@pytest.mark.parametrize("installer", [True, False])
def test_pip_refuses_to_install_over_it(tmp_path: Path, installer: bool) -> None:
    """The real pip, in an environment of its own; the builder is the one of this environment."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "builder.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    installed(site, "vendors-own", "libnova/__init__.py")
    if not installer:  # copied there by hand
        shutil.rmtree(site / "vendors_own-1.0.dist-info")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]

    refused = subprocess.run(
        [*install, "--no-build-isolation", str(ROOT / "notebook")], capture_output=True, text=True, timeout=120
    )

    assert refused.returncode != 0
    who = "vendors-own" if installer else str(site / "libnova")
    assert f"another library named libnova here ({who})" in refused.stderr + refused.stdout
    assert (site / "libnova" / "__init__.py").read_text() == "REAL = True\n"
