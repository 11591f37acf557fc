"""
What does a byte cost in the native kernel, beside hashlib?

    .venv/bin/python -m benchmarks.bench_kernel [--rounds 7] [--megabytes 32]

CPU time of one thread, hashlib and kernel in one run, forwards and backwards in turn; each figure is the median of the
rounds with the lowest and the highest beside it. `times` is against hashlib for the same algorithms, one after the
other. The blocks are 1 MiB; a small file is 4 KiB with opening and every hex digest.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import circumstances
from hashmill.hashing import fused
from hashmill.hashing.fused import ALGORITHMS, Fused, update_many

RESULT = Path(__file__).parent / "results" / "kernel.json"
BLOCK_BYTES = 1 << 20
SMALL_BYTES = 4096
STREAMS = (1, 2, 3, 4, 8, 16)
SUBSETS = (ALGORITHMS, ("sha1", "sha256"), ("md5", "sha1"), ("md5", "sha256"), ("md5",), ("sha1",), ("sha256",))
BLOCKS = [os.urandom(BLOCK_BYTES) for _ in range(max(STREAMS))]
Case = Callable[[], int]
"""Hashes something and returns how many bytes, or files, that were."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--megabytes", type=int, default=32, help="hashed in each case of each round")
    asked = options.parse_args()
    if not fused.available():
        print(f"no native kernel here: {fused.why_not()}")
        return
    load_before = os.getloadavg()[0]
    cases: dict[tuple[str, str], Case] = {}
    for algorithms in SUBSETS:
        cases["+".join(algorithms), "hashlib"] = in_turn(algorithms, asked.megabytes)
        for streams in STREAMS:
            cases["+".join(algorithms), f"{streams} streams"] = side_by_side(algorithms, streams, asked.megabytes)
    cases["+".join(ALGORITHMS), "portable"] = side_by_side(ALGORITHMS, 1, max(1, asked.megabytes // 8), "portable")
    cases["small files", "hashlib"] = small_by_hashlib
    for streams in STREAMS:
        cases["small files", f"{streams} streams"] = small_files(streams)
    result = {
        "question": "CPU time of hashing: native kernel beside hashlib",
        "kernel": Fused(ALGORITHMS).backend,
        "unit": {"algorithms": "GB/s of one core", "small files": "files per CPU second"},
        "rates": report(measured(cases, asked.rounds)),
        "n": asked.rounds,
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        **circumstances(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def measured(cases: dict[tuple[str, str], Case], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return the rates of every case, one a round; the order turns with each round."""
    rates: dict[tuple[str, str], list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()  # once for the caches, and for the check of the kernel
    for number in range(rounds):
        for name in list(cases)[:: 1 if number % 2 == 0 else -1]:
            began = time.thread_time()
            done = cases[name]()
            rates[name].append(done / (time.thread_time() - began))
    return rates


def report(rates: dict[tuple[str, str], list[float]]) -> dict[str, dict[str, dict[str, float]]]:
    told: dict[str, dict[str, dict[str, float]]] = {}
    for (what, how), found in rates.items():
        scale, places = (1, 0) if what == "small files" else (1e9, 3)
        told.setdefault(what, {})[how] = {
            "median": round(statistics.median(found) / scale, places),
            "lowest": round(min(found) / scale, places),
            "highest": round(max(found) / scale, places),
            "times": round(statistics.median(found) / statistics.median(rates[what, "hashlib"]), 2),
        }
    return told


def in_turn(algorithms: Sequence[str], megabytes: int) -> Case:
    def run() -> int:
        hashers = [hashlib.new(name, usedforsecurity=False) for name in algorithms]
        for _ in range(megabytes):
            for hasher in hashers:
                hasher.update(BLOCKS[0])
        return megabytes * BLOCK_BYTES

    return run


def side_by_side(algorithms: Sequence[str], streams: int, megabytes: int, kernel: str | None = None) -> Case:
    def run() -> int:
        pairs = [(Fused(algorithms, kernel=kernel), BLOCKS[number]) for number in range(streams)]
        turns = max(1, megabytes // streams)
        for _ in range(turns):
            update_many(pairs)
        return turns * streams * BLOCK_BYTES

    return run


SMALL = [os.urandom(SMALL_BYTES) for _ in range(240)]


def small_by_hashlib() -> int:
    for content in SMALL:
        for name in ALGORITHMS:
            hasher = hashlib.new(name, usedforsecurity=False)
            hasher.update(content)
            hasher.hexdigest()
    return len(SMALL)


def small_files(streams: int) -> Case:
    def run() -> int:
        for start in range(0, len(SMALL), streams):
            pairs = [(Fused(ALGORITHMS), content) for content in SMALL[start : start + streams]]
            update_many(pairs)
            for hasher, _ in pairs:
                for name in ALGORITHMS:
                    hasher.hexdigest(name)
        return len(SMALL)

    return run


if __name__ == "__main__":
    main()
