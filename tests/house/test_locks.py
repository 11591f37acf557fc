"""What is installed is what was locked: exact versions, with hashes, from whatever index a machine uses."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.txt", "requirements-all.txt", "benchmarks/peers.txt", "notebook/lab.txt")
PINNED = re.compile(r"([A-Za-z0-9._-]+)==[^\s;]+(?: ; .+)?")
HASHED = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def requirements(lock: str) -> list[list[str]]:
    """Return each requirement as its parts: what is pinned, then its hashes."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    logical = text.replace("\\\n", "\n\0").split("\n")
    found: list[list[str]] = []
    for line in logical:
        if line.startswith("\0"):
            found[-1].append(line[1:].strip())
        elif line.strip():
            found.append([line.strip()])
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()

    assert re.findall(r"[a-z][a-z0-9+.-]*://\S+", text) == []
    assert re.findall(r"^\s*-(?:i|f|e|-index|-extra-index|-find-links|-editable)\S*", text, flags=re.MULTILINE) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_one_version_with_hashes(lock: str) -> None:
    found = requirements(lock)

    assert len(found) > 20
    for pinned, *hashes in found:
        assert PINNED.fullmatch(pinned), pinned
        assert hashes, pinned
        assert all(HASHED.fullmatch(entry) for entry in hashes), pinned


def test_the_locks_name_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"]
    groups = [name for group in project["dependency-groups"].values() for name in group]

    def names(lock: str) -> set[str]:
        return {normal(re.split(r"[=\[]", parts[0])[0]) for parts in requirements(lock)}

    def bare(lines: list[str]) -> set[str]:
        return {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines}

    assert bare(asked) <= names("requirements.txt")
    assert bare(asked + groups) <= names("requirements-all.txt")


def test_both_locks_agree_on_every_version() -> None:
    def versions(lock: str) -> set[str]:
        return {parts[0].partition(" ; ")[0] for parts in requirements(lock)}

    assert versions("requirements.txt") <= versions("requirements-all.txt")
