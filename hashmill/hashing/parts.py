"""
A checksum over the checksums of an object's parts, in the one read: S3's composite checksums.

known: S3 user guide, "Checking object integrity": the raw checksums of the parts, one behind the other, are hashed with
the same algorithm.
"""

import struct
from collections.abc import Sequence
from typing import Final

from hashmill.hashing import saved
from hashmill.hashing.registry import Block, Hasher, open_alone

_HEAD: Final = struct.Struct(">4sIQH")
_MARK: Final = b"prt1"


class PartsHasher:
    """Hashes each part, and the parts' digests; fed like any other hasher, with blocks that end where they like."""

    def __init__(self, name: str, algorithm: str, sizes_bytes: Sequence[int]) -> None:
        """`name` is what the digest is called among others. Raises what `open_hasher` raises."""
        self.algorithms = (name,)
        self._algorithm = algorithm
        self._sizes_bytes = sizes_bytes
        self._over_all = _open(algorithm)
        self._part = _open(algorithm)
        self._number = 0
        self._left_bytes = sizes_bytes[0] if sizes_bytes else 0
        self._end_parts()

    @property
    def backend(self) -> str:
        return self._over_all.backend

    def update(self, block: Block, /) -> None:
        """Feed `block`. Raises `ValueError` for more bytes than the parts have."""
        rest = memoryview(block)
        while rest:
            if self._number >= len(self._sizes_bytes):
                raise ValueError("more bytes than the parts have")
            piece = rest[: self._left_bytes]
            self._part.update(piece)
            self._left_bytes -= len(piece)
            rest = rest[len(piece) :]
            self._end_parts()

    def hexdigest(self, algorithm: str, /) -> str:
        """Return the digest over those of the parts that have ended."""
        return self._over_all.hexdigest(self._algorithm)

    def _end_parts(self) -> None:
        while self._number < len(self._sizes_bytes) and not self._left_bytes:
            self._over_all.update(bytes.fromhex(self._part.hexdigest(self._algorithm)))
            self._part = _open(self._algorithm)
            self._number += 1
            if self._number < len(self._sizes_bytes):
                self._left_bytes = self._sizes_bytes[self._number]

    def export(self) -> bytes:
        """Return the state, below 1 KiB however many parts there are; the algorithm must be one of `can_be_saved`."""
        part: bytes = self._part.export()  # type: ignore[attr-defined]
        over_all: bytes = self._over_all.export()  # type: ignore[attr-defined]
        return _HEAD.pack(_MARK, self._number, self._left_bytes, len(part)) + part + over_all

    @classmethod
    def restore(cls, name: str, algorithm: str, sizes_bytes: Sequence[int], state: bytes) -> "PartsHasher":
        """Take up what `export` gave, over parts of the same sizes. Raises `ValueError` for anything else."""
        if len(state) < _HEAD.size:
            raise ValueError(f"{name}: cut")
        mark, number, left_bytes, length = _HEAD.unpack_from(state)
        if mark != _MARK or number > len(sizes_bytes):
            raise ValueError(f"{name}: saved over other parts")
        if left_bytes > (sizes_bytes[number] if number < len(sizes_bytes) else 0):
            raise ValueError(f"{name}: saved over other parts")
        restored = cls(name, algorithm, sizes_bytes)
        restored._number, restored._left_bytes = number, left_bytes
        restored._part = _open(algorithm, state[_HEAD.size : _HEAD.size + length])
        restored._over_all = _open(algorithm, state[_HEAD.size + length :])
        return restored


def can_be_saved(algorithm: str) -> bool:
    """Return whether the state of a `PartsHasher` of this algorithm can be saved here."""
    return saved.can_be_saved([algorithm])


def _open(algorithm: str, state: bytes | None = None) -> Hasher:
    if state is not None or can_be_saved(algorithm):
        return saved.open_one(algorithm, state)
    return open_alone(algorithm)
