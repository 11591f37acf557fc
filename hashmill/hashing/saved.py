"""
Running digests as text, so that another process can go on where this one stopped.

What cannot be saved (hashlib shows its state to nobody, blake3 and xxhash neither) is hashed from zero instead.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from hashmill.hashing import fused
from hashmill.hashing.registry import CRCS, Hasher, open_crc

VERSION: Final = 1


class SavedHasher(Hasher, Protocol):
    """A hasher whose state can be told."""

    def export(self) -> bytes: ...


def can_be_saved(algorithms: Sequence[str]) -> bool:
    """Return whether the state of all of them can be saved here, at no loss of speed."""
    return all(name in CRCS or (name in fused.ALGORITHMS and fused.accelerated()) for name in algorithms)


def begin(algorithms: Sequence[str]) -> list[SavedHasher]:
    """Return fresh hashers for `algorithms`, for which `can_be_saved`."""
    together = _together(algorithms)
    crcs: list[SavedHasher] = [open_crc(name) for name in dict.fromkeys(algorithms) if name in CRCS]
    return [fused.Fused(together), *crcs] if together else crcs


def save(hashers: Sequence[SavedHasher]) -> str:
    """Return the state of `hashers` as text, below 1 KiB for each."""
    parts = {"+".join(hasher.algorithms): base64.b64encode(hasher.export()).decode() for hasher in hashers}
    return json.dumps({"v": VERSION, "kernel": fused.KERNEL_VERSION, "parts": parts})


def go_on(
    algorithms: Sequence[str], text: str, *, beside: Mapping[str, Callable[[bytes], SavedHasher]] | None = None
) -> list[SavedHasher]:
    """Return hashers that go on where `save` was called. `beside` restores those that are of no algorithm, by name.

    Raises `ValueError` when the text was saved by another version or another kernel, for other algorithms, or is
    damaged: then only the beginning is left.
    """
    told = json.loads(text)
    if not isinstance(told, dict) or (told.get("v"), told.get("kernel")) != (VERSION, fused.KERNEL_VERSION):
        raise ValueError("saved by another version")
    together = _together(algorithms)
    wanted = ["+".join(together)] if together else []
    wanted += [name for name in dict.fromkeys(algorithms) if name in CRCS]
    wanted += beside or {}
    parts = told.get("parts")
    if not isinstance(parts, dict) or sorted(parts) != sorted(wanted):
        raise ValueError("saved for other algorithms")
    return [(beside or {}).get(name, partial(_restored, name))(_bytes(parts[name])) for name in wanted]


def _together(algorithms: Sequence[str]) -> list[str]:
    return [name for name in fused.ALGORITHMS if name in algorithms]


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise ValueError(f"damaged: {error}") from error


def _restored(name: str, state: bytes) -> SavedHasher:
    if name in CRCS:
        return open_crc(name, state)
    restored = fused.Fused.restore(state)
    if "+".join(restored.algorithms) != name:
        raise ValueError("saved for other algorithms")
    return restored
