"""
Blocks in, every digest out: the next block is fetched while the present one is hashed.

What is for the native kernel goes to the hash threads as soon as it is there, behind the block before it, and a thread
goes on with it by itself. By way of the event loop it would wait for two wake-ups between any two blocks.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Any, Final

from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import AlgorithmFailed
from hashmill.hashing import fused
from hashmill.hashing.plugins import PluginHasher
from hashmill.hashing.registry import Block, Hasher, open_hashers

WIDE: Final = 5
"""From how many streams on a group is of the kernel's wide kind, which costs the same however many of its lanes are
used: two threads that share one take as long as one of them does, and twice the CPU."""
NEARLY_FULL: Final = 12
"""While one thread has such a group in hand, another one takes the next only when it is so large."""
TURNS: Final = 16
"""So many shares a hash thread feeds on end; then the other jobs of the pool have their turn."""

Asked = tuple[PluginHasher, "Future[Any]"]
"""A plug-in and what it was asked."""

Waiting = tuple[fused.Fused, Block, "Future[None]"]
"""A block, whom it is for, and what ends when it was fed."""

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
        self._weaver = _Weaver(threads, self._pool.submit)
        self._objects_in_work = 0

    async def digest(self, blocks: AsyncIterator[Block], algorithms: Sequence[str]) -> HashedObject:
        """Read `blocks` once, to the end, and return every digest asked for.

        One block is hashed while the next is fetched: a block must stay valid until the one after the next is asked
        for. Whatever happens, also on cancellation, no thread touches a block any more when this returns or raises;
        what `blocks` raises goes through.

        Raises `AlgorithmFailed`, which names the algorithm, when there is none of that name or its library fails.
        """
        hashers = open_hashers(algorithms)
        return hashed(hashers, algorithms, size_bytes=await self.feed(hashers, blocks))

    async def feed(
        self,
        hashers: Sequence[Hasher],
        blocks: AsyncIterator[Block],
        *,
        enough: Callable[[int], bool] | None = None,
    ) -> int:
        """Feed `hashers`, as `digest` does, and return how many bytes that were.

        Ends early, between two blocks, when `enough` says so of the bytes fed until then.
        """
        plugins = [hasher for hasher in hashers if isinstance(hasher, PluginHasher)]
        mills = [_Mill(hasher) for hasher in hashers if not isinstance(hasher, PluginHasher)]
        others = [mill for mill in mills if not isinstance(mill.hasher, fused.Fused)]
        fed_bytes = 0
        woven: list[asyncio.Future[None]] = []
        jobs: list[asyncio.Future[None]] = []
        lent: list[Asked] = []
        self._objects_in_work += 1
        try:
            async for block in blocks:
                if len(block) <= self._inline_max_bytes:
                    await _finish(woven + jobs)
                    woven, jobs = [], []
                    _feed(mills, block)
                else:
                    await _finish(jobs)
                    before, jobs = woven, self._start(others, block)
                    woven = before + self._weave(hashers, block)
                    await _finish(before)
                    woven = woven[len(before) :]
                await _taken(lent)
                lent = [(hasher, hasher.feed(block)) for hasher in plugins]
                fed_bytes += len(block)
                if enough is not None and enough(fed_bytes):
                    break
            await _finish(woven + jobs)
            await _taken(lent)
            await _taken([(hasher, hasher.finish()) for hasher in plugins], digest=True)
        finally:
            self._objects_in_work -= 1
            await _quiet(woven + jobs)
        return fed_bytes

    def close(self) -> None:
        """Wait for the blocks under way and end the threads."""
        self._pool.shutdown()

    def _weave(self, hashers: Sequence[Hasher], block: Block) -> list[asyncio.Future[None]]:
        """Let the kernel have `block` in its turn; return what ends when it was fed."""
        return [
            asyncio.wrap_future(self._weaver.add(hasher, block))
            for hasher in hashers
            if isinstance(hasher, fused.Fused)
        ]

    def _start(self, mills: "list[_Mill]", block: Block) -> list[asyncio.Future[None]]:
        """Feed `block` to every mill, none of which is being fed, in the pool; return the jobs to wait for."""
        if not mills:
            return []
        if self._objects_in_work > 1 or self._threads == 1:
            # Every core has an object of its own: one job, so that the block is still in the cache for the next mill.
            parts = [mills]
        else:
            # The slowest first, measured and not assumed, so that the quick ones share the other cores.
            parts = [[mill] for mill in sorted(mills, key=lambda mill: mill.spent_s, reverse=True)]
        loop = asyncio.get_running_loop()
        return [loop.run_in_executor(self._pool, _feed, part, block) for part in parts]


def hashed(hashers: Sequence[Hasher], algorithms: Sequence[str], *, size_bytes: int) -> HashedObject:
    """Return what `hashers` found in the order of `algorithms`, each of which one of them computes."""
    computed = {name: hasher for hasher in hashers for name in hasher.algorithms}
    failures = {
        name: hasher.failure
        for hasher in hashers
        if isinstance(hasher, PluginHasher) and hasher.failure
        for name in hasher.algorithms
    }
    asked = [name for name in dict.fromkeys(algorithms) if name not in failures]
    return HashedObject(
        size_bytes=size_bytes,
        digests={name: computed[name].hexdigest(name) for name in asked},
        backends={name: computed[name].backend for name in asked},
        failures=failures,
    )


class _Mill:
    """One hasher of one object, and the time it took so far."""

    __slots__ = ("hasher", "spent_s")

    def __init__(self, hasher: Hasher) -> None:
        self.hasher = hasher
        self.spent_s = 0.0


def _feed(mills: list[_Mill], block: Block) -> None:
    for mill in mills:
        started = perf_counter()
        try:
            mill.hasher.update(block)
        except _LIBRARY_ERRORS as error:
            raise _failed(mill.hasher, error) from error
        mill.spent_s += perf_counter() - started


def _failed(hasher: Hasher, error: BaseException) -> AlgorithmFailed:
    return AlgorithmFailed(f"{', '.join(hasher.algorithms)} ({hasher.backend}): {error}")


@dataclass(slots=True)
class _Weaver:
    """Blocks of several objects that wait for the native kernel, which hashes some side by side in much less time.

    Each hasher has one block that waits or is fed, and behind it those that come next. `feed_some` is called, by way of
    `submit`, once for each block that begins to wait; a call whose block another one took along, or leaves to another
    one, finds nothing to do.
    """

    threads: int
    submit: Callable[[Callable[[], None]], object]
    _waiting: deque[Waiting] = field(default_factory=deque)
    _behind: dict[fused.Fused, deque[Waiting]] = field(default_factory=dict)
    _at_work: int = 0
    _wide: int = 0
    _passed: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self, hasher: fused.Fused, block: Block) -> "Future[None]":
        """Let `block` wait; the future ends when it was fed."""
        fed: Future[None] = Future()
        fed.set_running_or_notify_cancel()  # not to be cancelled: the block is lent until it was fed
        with self._lock:
            if (behind := self._behind.get(hasher)) is not None:
                behind.append((hasher, block, fed))
                return fed
            self._behind[hasher] = deque()
            self._waiting.append((hasher, block, fed))
        self.submit(self.feed_some)
        return fed

    def feed_some(self) -> None:
        """Feed this thread's share of what waits, and take the turns that are left to it meanwhile.

        Not until nothing waits: other jobs of the pool want their turn too.
        """
        for _ in range(TURNS):
            self._feed_share()
            if not self._is_left_to_us():
                return
        self.submit(self.feed_some)

    def _is_left_to_us(self) -> bool:
        with self._lock:
            self._passed = self._passed if self._waiting else 0
            left = self._passed > 0 and not self._wide  # else they are for whoever has a group in hand
            self._passed -= left
            return left

    def _feed_share(self) -> None:
        """Feed one share. Whatever goes wrong, no future is left without an end."""
        taken: list[Waiting] = []
        ours = 0
        with self._lock:
            self._at_work += 1
        try:
            with self._lock:
                self._take_into(taken)
                self._wide += len(taken) >= WIDE
            if taken:
                fused.update_many([(hasher, block) for hasher, block, _ in taken])
            for _, _, fed in taken:
                fed.set_result(None)
            ours = 1
        except _LIBRARY_ERRORS:
            # None was fed. One by one, so that what is wrong with one object fails no other.
            for hasher, block, fed in taken:
                _feed_one(hasher, block, fed)
        finally:
            with self._lock:
                self._at_work -= 1
                self._wide -= len(taken) >= WIDE
                turns = self._let_follow(taken)
                ours = min(ours, turns)
                self._passed += ours
            for hasher, _, fed in taken:
                if not fed.done():
                    fed.set_exception(
                        AlgorithmFailed(f"{hasher.backend}: the thread ended with the block in its hands")
                    )
            for _ in range(ours, turns):
                self.submit(self.feed_some)

    def _let_follow(self, taken: list[Waiting]) -> int:
        """Let the blocks behind those that were fed wait now; return how many these are."""
        turns = 0
        for hasher, _, _ in taken:
            if behind := self._behind[hasher]:
                self._waiting.append(behind.popleft())
                turns += 1
            else:
                del self._behind[hasher]
        return turns

    def _take_into(self, taken: list[Waiting]) -> None:
        """Take some that want the same algorithms: a group that costs least, or this thread's share of a small one."""
        if not self._waiting:
            return
        algorithms = self._waiting[0][0].algorithms
        alike = sum(job[0].algorithms == algorithms for job in self._waiting)
        share = fused.group(algorithms, alike)
        if share >= WIDE and self._wide and share < NEARLY_FULL:
            self._passed += 1  # whoever has the other group takes this turn when it is done
            return
        if share < WIDE:
            idle = 1 + max(0, self.threads - self._at_work)  # this one, which is at work, and those that are not
            share = min(share, -(-len(self._waiting) // idle))
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            if len(taken) < share and job[0].algorithms == algorithms:
                taken.append(job)
            else:
                self._waiting.append(job)


def _feed_one(hasher: fused.Fused, block: Block, fed: "Future[None]") -> None:
    try:
        hasher.update(block)
    except _LIBRARY_ERRORS as error:
        fed.set_exception(_failed(hasher, error))
    else:
        fed.set_result(None)


async def _finish(jobs: list[asyncio.Future[None]]) -> None:
    """Wait for `jobs`; raise what the first failed one raised."""
    await _quiet(jobs)
    for job in jobs:
        job.result()


async def _taken(asked: "list[Asked]", *, digest: bool = False) -> None:
    """Wait for plug-ins, for each as long as one may take; those of a cancelled task are left to themselves."""
    if not asked:
        return
    waiting = [asyncio.wrap_future(future) for _, future in asked]
    for each in waiting:
        each.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whoever waits
    await asyncio.wait(waiting, timeout=max(hasher.patience_s for hasher, _ in asked))
    for hasher, future in asked:
        hasher.take(future, digest=digest)


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
