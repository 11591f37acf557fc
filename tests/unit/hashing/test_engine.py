import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashmill.domain.digest import DEFAULT_ALGORITHMS, KNOWN_ALGORITHMS
from hashmill.domain.errors import AlgorithmFailed, ObjectTruncated
from hashmill.hashing import fused, registry
from hashmill.hashing.engine import HashEngine, _Weaver
from hashmill.hashing.registry import Block, Hasher, open_hasher

PATIENCE_S = 20.0


class Probe:
    """A hasher that calls `seen` with each block and digests nothing."""

    backend = "probe/1"

    def __init__(self, seen: Callable[[Block], object]) -> None:
        self._seen = seen

    def update(self, block: Block, /) -> None:
        self._seen(block)

    def hexdigest(self) -> str:
        return "00"


@pytest.fixture
def engine() -> Iterator[HashEngine]:
    engine = HashEngine(threads=2, inline_max_bytes=16)
    yield engine
    engine.close()


def teach(monkeypatch: pytest.MonkeyPatch, name: str, seen: Callable[[Block], object]) -> None:
    opener: Callable[[], Hasher] = lambda: Probe(seen)  # noqa: E731
    monkeypatch.setitem(registry._OPENERS, name, opener)


async def in_two_buffers(body: bytes, block_bytes: int) -> AsyncIterator[memoryview]:
    """Give `body` through two buffers in turn, as a reader does that holds no more than two blocks."""
    buffers = (bytearray(block_bytes), bytearray(block_bytes))
    for number, start in enumerate(range(0, len(body), block_bytes)):
        block = body[start : start + block_bytes]
        buffer = buffers[number % 2]
        buffer[: len(block)] = block
        await asyncio.sleep(0)
        yield memoryview(buffer)[: len(block)]


@settings(deadline=None, max_examples=60)
@given(body=st.binary(max_size=20_000), block_bytes=st.integers(1, 9_000), inline_max_bytes=st.integers(0, 4_000))
def test_where_the_blocks_are_cut_never_changes_a_digest(body: bytes, block_bytes: int, inline_max_bytes: int) -> None:
    engine = HashEngine(threads=2, inline_max_bytes=inline_max_bytes)
    try:
        hashed = asyncio.run(engine.digest(in_two_buffers(body, max(block_bytes, len(body) // 50)), KNOWN_ALGORITHMS))
    finally:
        engine.close()

    whole = {}
    for name in KNOWN_ALGORITHMS:
        hasher = open_hasher(name)
        hasher.update(body)
        whole[name] = hasher.hexdigest()
    assert hashed.size_bytes == len(body)
    assert hashed.digests == whole


async def test_an_empty_object_has_the_digests_of_nothing(engine: HashEngine) -> None:
    hashed = await engine.digest(in_two_buffers(b"", 1), DEFAULT_ALGORITHMS)

    assert hashed.size_bytes == 0
    assert hashed.digests == {name: hashlib.new(name).hexdigest() for name in DEFAULT_ALGORITHMS}


async def test_digests_and_backends_stand_in_the_order_asked_for_and_once(engine: HashEngine) -> None:
    hashed = await engine.digest(in_two_buffers(b"x" * 99, 50), ("sha1", "md5", "sha1"))

    assert list(hashed.digests) == list(hashed.backends) == ["sha1", "md5"]
    assert hashed.backends["md5"].startswith("fused/" if fused.accelerated() else "hashlib/OpenSSL ")


async def test_without_the_kernel_hashlib_computes_the_same(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(range(256)) * 33
    before = await engine.digest(in_two_buffers(body, 50), DEFAULT_ALGORITHMS)
    monkeypatch.setattr(fused, "accelerated", lambda: False)

    hashed = await engine.digest(in_two_buffers(body, 50), DEFAULT_ALGORITHMS)

    assert hashed.digests == before.digests
    assert {backend.partition("/")[0] for backend in hashed.backends.values()} == {"hashlib"}


async def test_many_objects_at_once_each_have_their_own_digests(engine: HashEngine) -> None:
    bodies = [random.Random(number).randbytes(30_000 + 977 * number) for number in range(24)]
    sets = (DEFAULT_ALGORITHMS, ("sha256", "blake3"), ("md5",))

    hashed = await asyncio.gather(
        *(engine.digest(in_two_buffers(body, 4096), sets[n % 3]) for n, body in enumerate(bodies))
    )

    for number, (body, found) in enumerate(zip(bodies, hashed, strict=True)):
        assert list(found.digests) == list(sets[number % 3])
        for name in set(found.digests) & set(hashlib.algorithms_available):
            assert found.digests[name] == hashlib.new(name, body).hexdigest()


class Kernel:
    """Stands in for the native kernel: notes who was fed together; fed together with a bad one, it refuses all."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    def update_many(self, pairs: Sequence[tuple["Stream", bytes]]) -> None:
        self.groups.append(len(pairs))
        if any(stream.bad for stream, _ in pairs):
            raise ValueError("one of them is bad")
        for stream, block in pairs:
            stream.update(block)


class Stream:
    backend = "fused/0"

    def __init__(self, *, bad: bool = False, algorithms: tuple[str, ...] = ("md5",)) -> None:
        self.bad = bad
        self.algorithms = algorithms
        self.fed = b""

    def update(self, block: bytes) -> None:
        if self.bad:
            raise ValueError("bad")
        self.fed += block


def nobody(call: Callable[[], None]) -> None:
    """Stands in for the pool: here the test calls `feed_some` itself."""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that costs least with six or more streams together, and with four where there are fewer."""
    kernel = Kernel()
    monkeypatch.setattr(fused, "group", lambda _, streams: min(streams, 16 if streams > 5 else 4))
    monkeypatch.setattr(fused, "update_many", kernel.update_many)
    return kernel


@pytest.mark.parametrize(
    ("threads", "waiting", "groups"),
    [
        (2, 4, [2, 2]),
        (1, 4, [4]),
        (1, 5, [4, 1]),
        (4, 3, [1, 1, 1]),
        (2, 9, [9]),
        (2, 20, [16, 4]),
        (2, 27, [16]),
        (2, 28, [16, 12]),
    ],
)
def test_what_waits_is_shared_out_to_idle_threads_and_hashed_side_by_side(
    kernel: Kernel, threads: int, waiting: int, groups: list[int]
) -> None:
    weaver = _Weaver(threads, nobody)
    for _ in range(waiting):
        weaver.add(Stream(), b"x")  # type: ignore[arg-type]
    if threads > 1:  # the other threads take theirs before the first is through
        takes: list[list[object]] = []
        for _ in range(threads):
            weaver._at_work += 1
            takes.append([])
            weaver._take_into(takes[-1])  # type: ignore[arg-type]
            weaver._wide += len(takes[-1]) > 4
        assert [len(taken) for taken in takes if taken] == groups
        return
    for _ in range(waiting):
        weaver.feed_some()

    assert kernel.groups == groups


def test_what_is_left_to_another_thread_is_fed_by_it(kernel: Kernel) -> None:
    weaver = _Weaver(2, nobody)
    first = [Stream() for _ in range(16)]
    second = [Stream() for _ in range(8)]
    ended = [weaver.add(stream, b"x") for stream in first]  # type: ignore[arg-type]

    def meanwhile(pairs: Sequence[tuple[Stream, bytes]]) -> None:
        Kernel.update_many(kernel, pairs)
        if not weaver._waiting and len(ended) == len(first):
            ended.extend(weaver.add(stream, b"y") for stream in second)  # type: ignore[arg-type]
            weaver.feed_some()  # as the other thread would, while this one has its group in hand
            assert kernel.groups == [16]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "update_many", meanwhile)
        weaver.feed_some()

    assert kernel.groups == [16, 8]
    assert all(future.done() for future in ended)
    assert (weaver._wide, weaver._at_work) == (0, 0)


def test_a_thread_goes_on_with_the_block_behind_by_itself_and_in_order(kernel: Kernel) -> None:
    weaver, stream = _Weaver(1, nobody), Stream()
    ended = [weaver.add(stream, block) for block in (b"a", b"b", b"c")]  # type: ignore[arg-type]

    weaver.feed_some()

    assert kernel.groups == [1, 1, 1]
    assert stream.fed == b"abc"
    assert all(future.done() for future in ended)


def test_a_thread_with_groups_in_hand_gives_the_other_jobs_of_the_pool_their_turn(kernel: Kernel) -> None:
    weaver = _Weaver(1, nobody)
    for _ in range(40):
        weaver.add(Stream(), b"x")  # type: ignore[arg-type]

    weaver.feed_some()

    assert kernel.groups == [16]


@pytest.mark.skipif(not fused.available(), reason="no kernel was built here")
def test_whatever_threads_leave_to_each_other_no_block_is_left_behind() -> None:
    chance = random.Random(1)
    for _ in range(60):
        threads, streams = chance.randint(1, 4), []
        with ThreadPoolExecutor(threads) as pool:
            weaver, ended = _Weaver(threads, pool.submit), []
            for _ in range(chance.randint(1, 90)):
                hasher, body = fused.Fused(chance.choice((("md5",), DEFAULT_ALGORITHMS))), b""
                for _ in range(chance.randint(1, 5)):
                    block = chance.randbytes(chance.randint(1, 20_000))
                    ended.append(weaver.add(hasher, block))
                    body += block
                streams.append((hasher, body))
            assert not wait(ended, 60).not_done
        assert (weaver._wide, weaver._at_work, len(weaver._waiting), weaver._behind) == (0, 0, 0, {})
        assert all(
            hasher.digest("md5") == hashlib.new("md5", body, usedforsecurity=False).digest() for hasher, body in streams
        )


def test_only_those_that_want_the_same_algorithms_are_hashed_side_by_side(kernel: Kernel) -> None:
    weaver = _Weaver(1, nobody)
    streams = [Stream(algorithms=(name,)) for name in ("md5", "sha1", "md5", "sha1")]
    for stream in streams:
        weaver.add(stream, b"x")  # type: ignore[arg-type]
    for _ in streams:
        weaver.feed_some()

    assert kernel.groups == [2, 2]
    assert [stream.fed for stream in streams] == [b"x"] * 4


def test_an_object_the_kernel_refuses_fails_no_neighbour(kernel: Kernel) -> None:
    weaver = _Weaver(1, nobody)
    good, bad = Stream(), Stream(bad=True)
    ended = [weaver.add(stream, b"x") for stream in (good, bad)]  # type: ignore[arg-type]
    weaver.feed_some()

    assert ended[0].result(0) is None
    assert isinstance(ended[1].exception(0), AlgorithmFailed)
    assert good.fed == b"x"


async def test_many_objects_share_the_engine_and_do_not_mix(engine: HashEngine) -> None:
    bodies = [bytes([number]) * (number * 37) for number in range(64)]

    hashed = await asyncio.gather(*(engine.digest(in_two_buffers(body, 64), ("sha256",)) for body in bodies))

    assert [one.digests["sha256"] for one in hashed] == [hashlib.sha256(body).hexdigest() for body in bodies]


async def test_the_next_block_is_fetched_while_the_present_one_is_hashed(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_was_asked_for = threading.Event()
    in_time: list[bool] = []
    teach(monkeypatch, "probe", lambda _block: in_time.append(next_was_asked_for.wait(PATIENCE_S)))

    async def blocks() -> AsyncIterator[bytes]:
        yield bytes(100)
        next_was_asked_for.set()

    await engine.digest(blocks(), ("probe",))

    assert in_time == [True]


async def test_small_blocks_are_hashed_in_the_loop_and_large_ones_are_not(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[int, str] = {}
    teach(monkeypatch, "probe", lambda block: threads.setdefault(len(block), threading.current_thread().name))

    async def blocks() -> AsyncIterator[bytes]:
        yield bytes(17)
        yield bytes(16)

    await engine.digest(blocks(), ("probe",))

    assert threads[16] == threading.current_thread().name
    assert threads[17].startswith("hash")


async def test_a_lone_object_is_hashed_by_several_threads_at_once(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)
    teach(monkeypatch, "one", lambda _block: both.wait())
    teach(monkeypatch, "two", lambda _block: both.wait())

    hashed = await engine.digest(in_two_buffers(bytes(300), 100), ("one", "two"))

    assert hashed.size_bytes == 300


async def test_with_many_objects_one_thread_feeds_all_algorithms_of_a_block(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed_by: dict[int, set[str]] = {}

    def seen(block: Block) -> None:
        fed_by.setdefault(block[0], set()).add(threading.current_thread().name)

    teach(monkeypatch, "one", seen)
    teach(monkeypatch, "two", seen)
    other_may_end = asyncio.Event()

    async def other() -> AsyncIterator[bytes]:
        await other_may_end.wait()
        return
        yield b""

    async with asyncio.TaskGroup() as group:
        group.create_task(engine.digest(other(), ("md5",)))
        await asyncio.sleep(0)
        await engine.digest(
            in_two_buffers(bytes(number for number in range(50) for _ in range(100)), 100), ("one", "two")
        )
        other_may_end.set()

    assert [len(threads) for threads in fed_by.values()] == [1] * 50


@pytest.mark.parametrize("size_bytes", [1, 1000])
async def test_a_failing_library_is_reported_by_the_algorithms_name(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    def fail(_block: Block) -> None:
        raise MemoryError("no room")

    teach(monkeypatch, "probe", fail)

    with pytest.raises(AlgorithmFailed, match=r"^probe \(probe/1\): no room$"):
        await engine.digest(in_two_buffers(bytes(size_bytes), 500), ("md5", "probe", "sha1"))


async def test_an_unknown_algorithm_is_refused_before_anything_is_read(engine: HashEngine) -> None:
    asked = []

    async def blocks() -> AsyncIterator[bytes]:
        asked.append(True)
        yield b"x"

    with pytest.raises(AlgorithmFailed, match="no such algorithm"):
        await engine.digest(blocks(), ("md5", "crc1"))
    assert asked == []


async def test_what_the_source_raises_goes_through_even_when_a_hasher_fails_too(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_block: Block) -> None:
        raise ValueError("late")

    teach(monkeypatch, "probe", fail)

    async def blocks() -> AsyncIterator[bytes]:
        yield bytes(1000)
        raise ObjectTruncated("key", expected_bytes=2000, received_bytes=1000)

    with pytest.raises(ObjectTruncated):
        await engine.digest(blocks(), ("probe",))


async def test_cancelling_waits_until_no_thread_touches_a_block(
    engine: HashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    hashing = asyncio.Event()
    may_end = threading.Event()

    def seen(_block: Block) -> None:
        loop.call_soon_threadsafe(hashing.set)
        assert may_end.wait(PATIENCE_S)

    teach(monkeypatch, "probe", seen)

    async def blocks() -> AsyncIterator[bytes]:
        yield bytes(1000)
        await asyncio.Event().wait()

    task = asyncio.create_task(engine.digest(blocks(), ("probe",)))
    await hashing.wait()
    for _ in range(3):  # impatient
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.02)
        assert not done
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("trouble", [MemoryError, SystemExit, ZeroDivisionError])
def test_no_block_waits_for_ever_whatever_ends_the_thread(
    monkeypatch: pytest.MonkeyPatch, trouble: type[BaseException]
) -> None:
    def fails(pairs: object) -> None:
        raise trouble

    monkeypatch.setattr(fused, "update_many", fails)
    weaver = _Weaver(1, nobody)
    ended = weaver.add(Stream(), b"x")  # type: ignore[arg-type]
    with suppress(SystemExit):
        weaver.feed_some()

    assert ended.done()
