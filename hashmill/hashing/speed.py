"""How fast an algorithm is here: one thread, over a few megabytes."""

import time

from hashmill.hashing.registry import open_hashers

BLOCK_BYTES = 1 << 20
LEAST_S = 0.02
"""Measured for at least so long."""


def mb_per_s(algorithm: str) -> float:
    """Return megabytes (10^6 bytes) a second that one thread hashes. Raises what `open_hashers` raises."""
    block = bytes(BLOCK_BYTES)
    (hasher,) = open_hashers([algorithm])
    hasher.update(block)  # once for what is loaded or made at the first call
    began_s = time.perf_counter()
    fed_bytes = 0
    while not fed_bytes or time.perf_counter() - began_s < LEAST_S:
        hasher.update(block)
        fed_bytes += BLOCK_BYTES
    return fed_bytes / (time.perf_counter() - began_s) / 1e6
