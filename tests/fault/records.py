"""What a load writes down for the checker, a line of JSON each: what was uploaded, what was posted, what was seen."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

MANIFEST = "manifest.json"
POSTS = "posts.jsonl"
LAPSED = "lapsed.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One answer to one posted event; `status` None means that none came, so whether it was accepted is unknown.

    One LABDRIVE job is one event here, however often it is posted. `paths` None means the whole container. `failing`
    names the files that cannot be hashed, with the error classes that may be given for each.
    """

    job_id: str
    container: str
    status: int | None
    run_id: str | None = None
    paths: Sequence[str] | None = None
    failing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    at_s: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.status in (200, 202)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """A file that stayed `running` with its lease run out for longer than allowed, seen in a ledger that answered."""

    run_id: str
    file_no: int
    lapsed_s: float
    allowed_s: float


class Records:
    """Appends to one file; lines are whole whoever writes, and on the disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        path.touch()

    def add(self, record: Post | Lapsed) -> None:
        with self._lock, self._path.open("a") as lines:
            lines.write(json.dumps(asdict(record)) + "\n")


def posts(folder: Path) -> list[Post]:
    return [Post(**values) for values in _lines(folder / POSTS)]


def lapsed(folder: Path) -> list[Lapsed]:
    return [Lapsed(**values) for values in _lines(folder / LAPSED)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open() as lines:
            for line in lines:
                yield json.loads(line)
