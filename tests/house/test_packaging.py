"""The wheel brings one import name and all that a process needs beside it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hashmill import __version__

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "hashmill/hashing/_kernel.abi3.so"
DOORS = ("worker", "tasks", "config", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def carried(wheel: Path) -> set[str]:
    """What the wheel holds."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def in_the_tree(room: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }


def test_one_version_is_said_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == __version__


def test_the_wheel_claims_one_import_name(carried: set[str]) -> None:
    tops = {name.split("/")[0] for name in carried}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"hashmill"}


def test_the_wheel_carries_the_house_and_the_doors_file_by_file(carried: set[str]) -> None:
    wanted = in_the_tree("hashmill") | {f"hashmill/_app/{name}" for room in DOORS for name in in_the_tree(room)}

    assert {name for name in carried if name.startswith("hashmill/")} - {KERNEL} == wanted


def test_a_wheel_with_a_kernel_says_for_which_systems_it_is(carried: set[str], wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl") == (KERNEL not in carried)
    assert "-cp311-abi3-" in wheel.name or KERNEL not in carried


def test_the_wheel_carries_its_licence_and_its_command(carried: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in carried)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in carried)


@pytest.mark.parametrize("room", [*DOORS, "libnova"])
def test_no_installed_distribution_claims_a_name_of_ours(room: str) -> None:
    assert packages_distributions().get(room, []) == []
