"""Progress bars: in a notebook, where nobody sees a log go by."""

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

if importlib.util.find_spec("ipywidgets") is None:
    from tqdm.std import tqdm  # text; `auto` would complain
else:
    from tqdm.auto import tqdm

T = TypeVar("T")


def wanted() -> bool:
    """Return whether to show progress: LIBNOVA_PROGRESS says so, or this is a notebook's kernel."""
    asked = os.environ.get("LIBNOVA_PROGRESS", "")
    if asked in {"0", "1"}:
        return asked == "1"
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def over(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Go through `items`, showing how many of `total` were reached."""
    yield from tqdm(items, total=total, desc=what, unit="file", disable=not wanted())


def of_bytes(size_bytes: int, *, what: str) -> Any:
    """Return a bar of bytes: `update(n)` and `close()`."""
    return tqdm(total=size_bytes, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=not wanted())
