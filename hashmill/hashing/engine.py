"""Blocks in, every digest out: the next block is fetched while the present one is hashed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Final

from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import AlgorithmFailed
from hashmill.hashing.registry import Block, Hasher, open_hasher

_LIBRARY_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    BufferError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a digest library can raise over a buffer."""


class HashEngine:
    """A pool of hash threads that all objects of a process share.

    `threads` is how many blocks are hashed at once; `inline_max_bytes` is the largest block hashed in the event loop
    itself, because a hop to a thread costs more than hashing it.
    """

    def __init__(self, threads: int, inline_max_bytes: int) -> None:
        self._threads = threads
        self._inline_max_bytes = inline_max_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hash")
        self._objects_in_work = 0

    async def digest(self, blocks: AsyncIterator[Block], algorithms: Sequence[str]) -> HashedObject:
        """Read `blocks` once, to the end, and return every digest asked for.

        One block is hashed while the next is fetched: a block must stay valid until the one after the next is asked
        for. Whatever happens, also on cancellation, no thread touches a block any more when this returns or raises;
        what `blocks` raises goes through.

        Raises `AlgorithmFailed`, which names the algorithm, when there is none of that name or its library fails.
        """
        mills = [_Mill(name, open_hasher(name)) for name in dict.fromkeys(algorithms)]
        size_bytes = 0
        jobs: list[asyncio.Future[None]] = []
        self._objects_in_work += 1
        try:
            async for block in blocks:
                await _finish(jobs)
                jobs = self._start(mills, block)
                size_bytes += len(block)
            await _finish(jobs)
        finally:
            self._objects_in_work -= 1
            await _quiet(jobs)
        return HashedObject(
            size_bytes=size_bytes,
            digests={mill.algorithm: mill.hasher.hexdigest() for mill in mills},
            backends={mill.algorithm: mill.hasher.backend for mill in mills},
        )

    def close(self) -> None:
        """Wait for the blocks under way and end the threads."""
        self._pool.shutdown()

    def _start(self, mills: "list[_Mill]", block: Block) -> list[asyncio.Future[None]]:
        """Feed `block` to every mill: here when it is small, else in the pool; return the jobs to wait for."""
        if len(block) <= self._inline_max_bytes:
            _feed(mills, block)
            return []
        if self._objects_in_work > 1 or self._threads == 1:
            # Every core has an object of its own: one job, so that the block is still in the cache for the next mill.
            parts = [mills]
        else:
            # The slowest first, measured and not assumed, so that the quick ones share the other cores.
            parts = [[mill] for mill in sorted(mills, key=lambda mill: mill.spent_s, reverse=True)]
        loop = asyncio.get_running_loop()
        return [loop.run_in_executor(self._pool, _feed, part, block) for part in parts]


class _Mill:
    """One algorithm of one object, and the time it took so far."""

    __slots__ = ("algorithm", "hasher", "spent_s")

    def __init__(self, algorithm: str, hasher: Hasher) -> None:
        self.algorithm = algorithm
        self.hasher = hasher
        self.spent_s = 0.0


def _feed(mills: list[_Mill], block: Block) -> None:
    for mill in mills:
        started = perf_counter()
        try:
            mill.hasher.update(block)
        except _LIBRARY_ERRORS as error:
            raise AlgorithmFailed(f"{mill.algorithm} ({mill.hasher.backend}): {error}") from error
        mill.spent_s += perf_counter() - started


async def _finish(jobs: list[asyncio.Future[None]]) -> None:
    """Wait for `jobs`; raise what the first failed one raised."""
    await _quiet(jobs)
    for job in jobs:
        job.result()


async def _quiet(jobs: list[asyncio.Future[None]]) -> None:
    """Wait until every job has ended, however often this task is cancelled meanwhile; then pass the cancellation on."""
    cancelled: asyncio.CancelledError | None = None
    while at_work := [job for job in jobs if not job.done()]:
        try:
            await asyncio.wait(at_work)  # which leaves the jobs alone when it is cancelled itself
        except asyncio.CancelledError as error:
            cancelled = error
    for job in jobs:
        job.exception()  # seen; the loop would complain of one that nobody looked at
    if cancelled is not None:
        raise cancelled
