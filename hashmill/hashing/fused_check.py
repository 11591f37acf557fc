"""
Is the native kernel right? Asked in every process before the first digest: hashlib is the judge.

A digest that is wrong is worse than none, and a kernel can be wrong on one kind of CPU only, or by one bad build.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview


class NativeHasher(Protocol):
    """`Fused` of the extension."""

    @property
    def kernel(self) -> str: ...

    @property
    def length(self) -> int: ...

    @property
    def mask(self) -> int: ...

    def update(self, block: Buffer, /) -> None: ...

    def digest(self, bit: int, /) -> bytes: ...

    def export(self) -> bytes: ...


class NativeHasherType(Protocol):
    def __call__(self, mask: int, kernel: str | None = None) -> NativeHasher: ...

    def restore(self, state: Buffer, /, kernel: str | None = None) -> NativeHasher: ...


class NativeKernel(Protocol):
    """The extension module, or what a test puts in its place."""

    @property
    def Fused(self) -> NativeHasherType: ...  # noqa: N802 - named as the extension names it

    def update_many(self, pairs: tuple[tuple[NativeHasher, Buffer], ...], /) -> None: ...

    def calibrate(self) -> Mapping[int, Sequence[int]]: ...


BITS: Final = {"md5": 1, "sha1": 2, "sha256": 4}
"""The bit of each algorithm in a mask."""

MASKS: Final = range(1, 8)

ANSWERS: Final = (
    # RFC 1321, A.5; FIPS 180 examples
    ("md5", b"", "d41d8cd98f00b204e9800998ecf8427e"),
    ("md5", b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
    ("sha1", b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
)
EDGES: Final = (0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000)
"""Lengths around a full block, and around the last one that leaves room for the length behind it."""

CUTS: Final = ((700, 900, 260, 1500), (64, 64, 64, 64), (1, 2000, 5, 700), (5000, 5100, 4800, 6000))
"""Lengths of pieces that are fed side by side."""


def fault_of(native: NativeKernel, kernel: str | None = None) -> str:
    """Return what is wrong with `native` (its kernel of that name, else its best), or an empty string.

    Takes a few milliseconds. What the extension raises goes through.
    """
    for name, text, answer in ANSWERS:
        hasher = native.Fused(BITS[name], kernel)
        hasher.update(text)
        if hasher.digest(BITS[name]).hex() != answer:
            return f"{name} of {text!r} is wrong"
    data = memoryview(random.Random(1).randbytes(8192))  # noqa: S311 - the same in every process, so that a fault is too
    for mask in MASKS:
        for fault in _faults(native, kernel, mask, data):
            return fault
    return ""


def _faults(native: NativeKernel, kernel: str | None, mask: int, data: memoryview) -> Iterator[str]:
    for length in EDGES:
        hasher = native.Fused(mask, kernel)
        # Unaligned, in two cuts, and through a saved state between them.
        cut = length * 2 // 3
        hasher.update(data[1 : 1 + cut])
        hasher = native.Fused.restore(hasher.export(), kernel=kernel)
        hasher.update(data[1 + cut : 1 + length])
        yield from _differences(hasher, mask, data[1 : 1 + length], f"{length} bytes through a saved state")
    for streams in (2, 3, 4, 16):
        hashers = [native.Fused(mask, kernel) for _ in range(streams)]
        pieces: list[list[memoryview]] = [[] for _ in hashers]
        for lengths in CUTS if streams <= 4 else CUTS[:3]:
            for number, length in enumerate(islice(cycle(lengths), streams)):
                pieces[number].append(data[number * 7 : number * 7 + length])
            native.update_many(tuple((hasher, piece[-1]) for hasher, piece in zip(hashers, pieces, strict=True)))
        for hasher, fed in zip(hashers, pieces, strict=True):
            yield from _differences(hasher, mask, b"".join(fed), f"one of {streams} streams")


def _differences(hasher: NativeHasher, mask: int, fed: Buffer, case: str) -> Iterator[str]:
    for name, bit in BITS.items():
        if mask & bit and hasher.digest(bit) != hashlib.new(name, fed, usedforsecurity=False).digest():
            yield f"{name} (mask {mask}) of {case} differs from hashlib"
