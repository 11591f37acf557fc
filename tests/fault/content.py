"""Small objects whose bytes follow from a seed, and their digests, computed by hashlib apart from all under test."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ALGORITHMS: Final = ("md5", "sha1", "sha256")
SMALLEST_BYTES: Final = 1024
LARGEST_BYTES: Final = 4096


def digests_of(body: bytes) -> dict[str, str]:
    """Return md5, sha1 and sha256 of `body`."""
    return {name: hashlib.new(name, body, usedforsecurity=False).hexdigest() for name in ALGORITHMS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One object. `digests` holds each content it ever had: a file that is replaced has two right answers."""

    size_bytes: int
    digests: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A seed, and how many files each container has; everything else follows."""

    seed: int
    files: Mapping[str, int]

    def paths(self, container: str) -> list[str]:
        return [f"d{number % 20:02}/{number:06}.bin" for number in range(self.files[container])]

    def size_bytes(self, container: str, path: str) -> int:
        return random.Random(f"{self.seed}/{container}/{path}").randint(SMALLEST_BYTES, LARGEST_BYTES)

    def body(self, container: str, path: str) -> bytes:
        """Return the object's bytes, the same ones each time."""
        text = f"{self.seed}/{container}/{path}".encode()
        return hashlib.shake_128(text).digest(self.size_bytes(container, path))

    def items(self, container: str) -> dict[str, Item]:
        """Return path -> item of a whole container; this computes every digest."""
        bodies = ((path, self.body(container, path)) for path in self.paths(container))
        return {path: Item(size_bytes=len(body), digests=(digests_of(body),)) for path, body in bodies}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every object a test knows of: container -> path -> item."""

    items: dict[str, dict[str, Item]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        plain = {
            container: {name: [item.size_bytes, *item.digests] for name, item in items.items()}
            for container, items in self.items.items()
        }
        path.write_text(json.dumps(plain))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        plain: dict[str, dict[str, Sequence[object]]] = json.loads(path.read_text())
        return cls(
            items={
                container: {name: _item(values) for name, values in items.items()} for container, items in plain.items()
            }
        )


def _item(values: Sequence[object]) -> Item:
    size_bytes, *digests = values
    assert isinstance(size_bytes, int)
    found = tuple(each for each in digests if isinstance(each, dict))
    return Item(size_bytes=size_bytes, digests=found)
