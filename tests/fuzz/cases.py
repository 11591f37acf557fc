"""One random case against hashlib: lengths, cuts, alignment, algorithms, streams, saved states."""

import hashlib
import random
import zlib
from typing import Any

from hashmill.hashing import libcrypto, saved
from hashmill.hashing.fused_check import BITS, EDGES

POOL = random.Random(0).randbytes(1 << 15)


def check(native: Any, seed: int, number: int) -> None:
    """Try case `number` of `seed` on the extension `native`; raises AssertionError where it differs from hashlib."""
    chance = random.Random(seed * 1_000_003 + number)
    mask = chance.randint(1, 7)
    kernel = chance.choice(native.kernels())
    streams = chance.choice((1, 1, 2, 3, 4, 5, 8, 16))
    hashers = [native.Fused(mask, kernel) for _ in range(streams)]
    references = [
        {bit: hashlib.new(name, usedforsecurity=False) for name, bit in BITS.items() if mask & bit} for _ in hashers
    ]
    for _ in range(chance.randint(1, 4)):
        blocks = [_block(chance) for _ in hashers]
        for block, reference in zip(blocks, references, strict=True):
            for judge in reference.values():
                judge.update(block)
        if chance.random() < 0.7:
            native.update_many(tuple(zip(hashers, blocks, strict=True)))
        else:
            for hasher, block in zip(hashers, blocks, strict=True):
                hasher.update(block)
        if chance.random() < 0.3:
            states = [hasher.export() for hasher in hashers]
            kernel = chance.choice(native.kernels())
            hashers = [native.Fused.restore(state, kernel=kernel) for state in states]
            assert [hasher.export() for hasher in hashers] == states, "a state that was not taken up as it was"
        if chance.random() < 0.1:
            _refuse_damage(native, chance, hashers[0].export())
    for hasher, reference in zip(hashers, references, strict=True):
        for bit, judge in reference.items():
            assert hasher.digest(bit) == judge.digest(), f"mask {mask}, bit {bit}, {streams} streams, {kernel}"


def _block(chance: random.Random) -> bytes | memoryview:
    """Return some bytes of the pool: of a length near an edge or of any, at any alignment, with or without a copy."""
    length = chance.choice(EDGES) if chance.random() < 0.4 else chance.randint(0, chance.choice((200, 1000, 5000)))
    start = chance.randint(0, 64 + chance.randint(0, 20_000))
    block = memoryview(POOL)[start : start + length]
    return block if chance.random() < 0.7 else bytes(block)


def _refuse_damage(native: Any, chance: random.Random, state: bytes) -> None:
    """Turn a bit, sometimes cut, sometimes seal anew: refused or taken as it stands, never a crash."""
    damaged = bytearray(state)
    damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.5:
        del damaged[chance.randrange(len(damaged) + 1) :]
    sealed = chance.random() < 0.5 and len(damaged) >= 4
    if sealed:
        damaged[-4:] = zlib.crc32(damaged[:-4]).to_bytes(4, "little")
    try:
        restored = native.Fused.restore(damaged)
    except ValueError:
        return
    assert sealed, "a damaged state was taken up"
    assert restored.export() == bytes(damaged), "a state that was not taken up as it was"


def check_saved(seed: int, number: int) -> None:
    """Try case `number` of `seed` on what can be saved: libcrypto's calls, and the kernel in turn with them.

    Raises AssertionError where it differs from hashlib.
    """
    chance = random.Random(seed * 1_000_003 + number)
    names = [name for name in libcrypto.ALGORITHMS if libcrypto.available(name)]
    names = chance.sample(names, chance.randint(1, min(3, len(names))))
    judges = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    hashers: list[Any] = [libcrypto.Classic(name) for name in names]
    for _ in range(chance.randint(1, 4)):
        block = _block(chance)
        for hasher in hashers:
            hasher.update(block)
        for judge in judges.values():
            judge.update(block)
        if chance.random() < 0.3:
            hashers = [type(hasher).restore(hasher.export()) for hasher in hashers]
        elif chance.random() < 0.5:
            hashers = list(saved.go_on(names, saved.save(hashers)))
    for hasher in hashers:
        for name in hasher.algorithms:
            assert hasher.hexdigest(name) == judges[name].hexdigest(), f"{name} by {hasher.backend}"
