"""
Two of ours, each in a process of its own: the library alone (Storage and HashEngine), and the kernel alone.

Orders and answers are those of `benchmarks.peer_boto3`. The kernel reads the same objects where they are in memory,
which is the limit that hashing sets; where no kernel was built it is hashlib's.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

from benchmarks.source import Shelf, ring
from hashmill.domain.secret import Secret
from hashmill.hashing import fused
from hashmill.hashing.engine import HashEngine
from hashmill.hashing.registry import open_hashers
from hashmill.settings import Settings
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import StorageConfig, StoragePace

ALGORITHMS = ("md5", "sha1", "sha256")
Found = list[dict[str, str]]


def main() -> None:
    which, endpoint_url, word = sys.argv[1:]
    shelf = Shelf.of(word)
    if which == "kernel":
        answer_orders(lambda order: by_kernel(shelf))
        return
    with asyncio.Runner() as runner:
        library = runner.run(Library.open(endpoint_url))
        answer_orders(lambda order: runner.run(library.read(order["bucket"], order["keys"], shelf.size_bytes)))
        runner.run(library.close())


def answer_orders(work: Callable[[Any], Found]) -> None:
    """Do `work` for each line of standard input, and say what it took."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        found = work(order)
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
        rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "rss_mib": rss_mib, "digests": found}), flush=True)


class Library:
    """Storage and HashEngine with the knobs' defaults, and no service around them."""

    def __init__(self, storage: Storage, engine: HashEngine, config: StorageConfig, in_flight: int) -> None:
        self._storage, self._engine, self._config, self._in_flight = storage, engine, config, in_flight

    @classmethod
    async def open(cls, endpoint_url: str) -> "Library":
        knobs = Settings()
        config = StorageConfig(
            endpoint_url=endpoint_url, access_key_id="source", secret_access_key=Secret("source-secret")
        )
        storage = Storage(
            StoragePace(block_bytes=knobs.hashing.block_bytes, connections=knobs.s3.connections),
            ByteBudget(knobs.hashing.buffer_bytes),
        )
        engine = HashEngine(knobs.hashing.threads or os.cpu_count() or 1, knobs.hashing.inline_max_bytes)
        return cls(storage, engine, config, knobs.worker.files_in_flight)

    async def read(self, bucket: str, keys: Sequence[str], size_bytes: int) -> Found:
        """Return the digests of all, as many read at once as a worker does."""
        found: Found = [{} for _ in keys]
        waiting = iter(enumerate(keys))

        async def some() -> None:
            for at, key in waiting:
                async with self._storage.open(self._config, bucket, key, expected_bytes=size_bytes) as opened:
                    done = await self._engine.digest(opened.blocks(), ALGORITHMS)
                found[at] = dict(done.digests)

        await asyncio.gather(*(some() for _ in range(min(self._in_flight, len(keys)))))
        return found

    async def close(self) -> None:
        self._engine.close()
        await self._storage.close()


def by_kernel(shelf: Shelf) -> Found:
    """Hash every object of the shelf out of memory, on every core, as many side by side as a hash thread takes."""
    ring()
    numbers = range(shelf.count)
    width = fused.group(ALGORITHMS, fused.SIDE_BY_SIDE_MAX)
    groups = [numbers[at : at + width] for at in range(0, shelf.count, width)]

    def together(group: Sequence[int]) -> Found:
        if not fused.available():
            return [_one_by_one(shelf, number) for number in group]
        hashers = [fused.Fused(ALGORITHMS) for _ in group]
        for pieces in zip_longest(*(shelf.pieces(number) for number in group)):
            fused.update_many([(one, piece) for one, piece in zip(hashers, pieces, strict=True) if piece is not None])
        return [{name: one.hexdigest(name) for name in ALGORITHMS} for one in hashers]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [digests for group in pool.map(together, groups) for digests in group]


def _one_by_one(shelf: Shelf, number: int) -> dict[str, str]:
    (hasher, *more) = hashers = open_hashers(ALGORITHMS)
    for piece in shelf.pieces(number):
        for each in hashers:
            each.update(piece)
    return {name: each.hexdigest(name) for each in (hasher, *more) for name in each.algorithms}


if __name__ == "__main__":
    main()
