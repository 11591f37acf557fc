"""A library of the same name is never written over, and never half used."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from libnova._guard import others, refusal

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


def test_pip_refuses_to_install_over_it(tmp_path: Path) -> None:
    """The real pip, in an environment of its own; the builder is the one of this environment."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "builder.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    installed(site, "vendors-own", "libnova/__init__.py")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]

    refused = subprocess.run(
        [*install, "--no-build-isolation", str(ROOT / "notebook")], capture_output=True, text=True, timeout=120
    )

    assert refused.returncode != 0
    assert "vendors-own installs a library named libnova" in refused.stderr + refused.stdout
    assert (site / "libnova" / "__init__.py").read_text() == "REAL = True\n"
