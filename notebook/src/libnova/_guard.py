"""Is somebody else's `libnova` installed here? The vendor's real library has this name, and only one can have it."""

import re
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

NAME = "libnova"
OURS = "hashmill-notebook"


def others(paths: Sequence[str] | None = None) -> list[str]:
    """Return the distributions other than ours that give `libnova`, below `paths` or wherever Python looks."""
    found = distributions(path=list(paths)) if paths is not None else distributions()
    return sorted({one.name for one in found if _normal(one.name or "") != OURS and _gives(one)})


def unclaimed(paths: Sequence[str]) -> list[str]:
    """Return each `libnova` below `paths` that was not installed with ours: somebody copied it there, or links to it.

    For the time before ours is there; afterwards its files are where ours are.
    """
    ours = [one for one in distributions(path=list(paths)) if _normal(one.name or "") == OURS]
    if any(file.parts[0] in _PLACES for one in ours for file in one.files or ()):
        return []
    return sorted({str(Path(path, place)) for path in paths for place in _PLACES if _holds_code(Path(path, place))})


def refusal(names: Sequence[str]) -> str:
    """Return what to tell a person who has both."""
    return (
        f"There is another library named {NAME} here ({', '.join(names)}), and {OURS} has files of the same names. Use "
        f"one of them: keep yours and leave {OURS} out (pip uninstall {OURS}; where both were installed, install yours "
        f"anew), or make an environment of its own for {OURS} (python -m venv)."
    )


def in_anothers() -> str:
    """Return a refusal when the package `libnova` that is being imported is not ours; else ""."""
    package = sys.modules[NAME]
    if getattr(package, "WHOSE", None) == OURS:
        return ""
    return refusal(others() or [getattr(package, "__file__", None) or "a part of one"])


_PLACES = frozenset({NAME, f"{NAME}.py"})


def _gives(one: Distribution) -> bool:
    """Say whether the distribution lays down `libnova`, names it as its own, or leads Python to a folder with it."""
    files = one.files or ()
    return (
        any(file.parts[0] in _PLACES for file in files)
        or NAME in (one.read_text("top_level.txt") or "").split()
        or any(_leads_to_it(Path(str(file.locate()))) for file in files if file.suffix == ".pth")
    )


def _leads_to_it(pth: Path) -> bool:
    """Say whether a line of a .pth file is a folder that holds `libnova`: so a library is installed to work on it."""
    try:
        lines = pth.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    folders = [pth.parent / line.strip() for line in lines if line.strip() and not line.startswith(("import ", "#"))]
    return any(_holds_code(folder / place) for folder in folders for place in _PLACES)


def _holds_code(place: Path) -> bool:
    """Say whether it is a file, or a folder with more than what Python leaves behind."""
    return place.is_file() or any(one.is_file() and one.parent.name != "__pycache__" for one in place.rglob("*"))


def _normal(name: str) -> str:
    """Return the name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
