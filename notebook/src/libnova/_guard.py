"""Is somebody else's `libnova` installed here? The vendor's real library has this name, and only one can have it."""

import re
from collections.abc import Sequence
from importlib.metadata import distributions

NAME = "libnova"
OURS = "hashmill-notebook"


def others(paths: Sequence[str] | None = None) -> list[str]:
    """Return the distributions other than ours that install `libnova`, below `paths` or wherever Python looks."""
    found = distributions(path=list(paths)) if paths is not None else distributions()
    names = {one.name: one.files or () for one in found if _normal(one.name or "") != OURS}
    return sorted(name for name, files in names.items() if any(file.parts[0] in _PLACES for file in files))


def refusal(names: Sequence[str]) -> str:
    """Return what to tell a person who has both."""
    return (
        f"{', '.join(names)} installs a library named {NAME}, and {OURS} would write over its files. Use one of them: "
        f"keep yours and leave {OURS} out (pip uninstall {OURS}; where both were installed, install yours anew), or "
        f"make an environment of its own for {OURS} (python -m venv)."
    )


_PLACES = frozenset({NAME, f"{NAME}.py"})


def _normal(name: str) -> str:
    """Return the name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
