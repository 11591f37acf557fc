import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.errors import ObjectChanged, ObjectTruncated, StorageTimeout
from hashmill.storage.config import ObjectHead, ObjectPlace, StoragePace
from hashmill.storage.retry import Retry
from hashmill.storage.stream import ByteStream, ObjectReader

PLACE = ObjectPlace(bucket="bucket", key="key")


class Pieces(ByteStream):
    """A stream of given pieces; then the end, or `error`."""

    def __init__(self, pieces: Sequence[bytes], error: Exception | None = None) -> None:
        self.left = list(pieces)
        self.error = error
        self.closed = False

    def arrived(self, size_bytes: int) -> bytes | None:
        return self.left.pop() if [len(piece) for piece in self.left] == [size_bytes] else None

    async def next_piece(self) -> bytes:
        await asyncio.sleep(0)
        if self.left:
            return self.left.pop(0)
        if self.error is not None:
            raise self.error
        return b""

    def close(self) -> None:
        self.closed = True


async def no_pause(_pause_s: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def reader(
    size_bytes: int,
    open_at: Callable[[int], Awaitable[ByteStream]],
    *,
    block_bytes: int,
    start_byte: int = 0,
    etag: str = '"one"',
    pace: StoragePace | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[ObjectReader]:
    pace = pace or StoragePace()
    reader = ObjectReader(
        PLACE,
        ObjectHead(size_bytes=size_bytes, etag=etag),
        await open_at(start_byte),
        open_at,
        start_byte=start_byte,
        block_bytes=block_bytes,
        pace=pace,
        retry=Retry(pace=pace, sleep=no_pause, random=lambda: 0.0),
        clock=clock,
    )
    try:
        yield reader
    finally:
        reader.close()


async def all_blocks(
    size_bytes: int, open_at: Callable[[int], Awaitable[ByteStream]], *, block_bytes: int, **more: Any
) -> list[bytes]:
    async with reader(size_bytes, open_at, block_bytes=block_bytes, **more) as opened:
        return [bytes(block) async for block in opened.blocks()]


def cut(body: bytes, random: Random) -> list[bytes]:
    pieces = []
    while body:
        size_bytes = random.randint(1, 1 + len(body) // random.randint(1, 4))
        pieces.append(body[:size_bytes])
        body = body[size_bytes:]
    return pieces


@given(
    body=st.binary(max_size=3_000),
    block_bytes=st.integers(1, 4_000),
    resumes_max=st.integers(0, 8),
    seed=st.integers(0, 2**32),
)
def test_resumed_at_any_cuts_from_any_byte_the_blocks_are_the_object(
    body: bytes, block_bytes: int, resumes_max: int, seed: int
) -> None:
    random = Random(seed)
    first_byte = random.choice([0, random.randint(0, max(0, len(body) - 1))])
    block_bytes = max(block_bytes, len(body) // 40)
    breaks_left = resumes_max
    opened: list[Pieces] = []

    async def open_at(start_byte: int) -> Pieces:
        nonlocal breaks_left
        rest = body[start_byte:]
        error: Exception | None = None
        if breaks_left and random.random() < 0.8:
            breaks_left -= 1
            rest = rest[: random.randint(0, len(rest))]
            error = random.choice([None, ConnectionResetError(), TimeoutError(), aiohttp.ClientPayloadError()])
        opened.append(Pieces(cut(rest, random), error))
        return opened[-1]

    async def read() -> list[bytes]:
        seen: list[bytes] = []
        before = None
        pace = StoragePace(resumes_max=resumes_max)
        async with reader(len(body), open_at, block_bytes=block_bytes, start_byte=first_byte, pace=pace) as opened:
            async for block in opened.blocks():
                if before is not None:
                    assert bytes(before) == seen[-1]  # still valid while this one is in hand
                seen.append(bytes(block))
                before = block
        return seen

    blocks = asyncio.run(read())

    assert b"".join(blocks) == body[first_byte:]
    assert all(len(block) == block_bytes for block in blocks[:-1])
    assert all(blocks)
    assert all(stream.closed for stream in opened)


async def test_a_small_object_that_came_in_one_piece_is_not_copied() -> None:
    piece = bytes(1000)

    async def open_at(_start_byte: int) -> Pieces:
        return Pieces([piece])

    async with reader(1000, open_at, block_bytes=4096) as opened:
        blocks = [block async for block in opened.blocks()]

    assert [block.obj for block in blocks] == [piece]


async def test_a_stream_that_keeps_breaking_off_is_truncated_after_its_resumes() -> None:
    asked: list[int] = []

    async def open_at(start_byte: int) -> Pieces:
        asked.append(start_byte)
        return Pieces([b"x" * 10], ConnectionResetError("reset"))

    with pytest.raises(ObjectTruncated) as raised:
        await all_blocks(1000, open_at, block_bytes=100, pace=StoragePace(resumes_max=3))

    assert asked == [0, 10, 20, 30]
    assert (raised.value.expected_bytes, raised.value.received_bytes) == (1000, 40)
    assert raised.value.key == "s3://bucket/key"
    assert isinstance(raised.value.__cause__, ConnectionResetError)


async def test_a_stream_that_keeps_falling_silent_is_a_timeout() -> None:
    async def open_at(_start_byte: int) -> Pieces:
        return Pieces([b"x"], TimeoutError())

    with pytest.raises(StorageTimeout, match=r"s3://bucket/key: nothing came for 20 s"):
        await all_blocks(1000, open_at, block_bytes=100)


async def test_more_bytes_than_promised_are_another_object() -> None:
    async def open_at(_start_byte: int) -> Pieces:
        return Pieces([b"x" * 60, b"x" * 41])

    with pytest.raises(ObjectChanged, match="more than the 100 bytes"):
        await all_blocks(100, open_at, block_bytes=100)


async def test_an_error_after_the_last_byte_does_not_matter() -> None:
    async def open_at(_start_byte: int) -> Pieces:
        return Pieces([b"x" * 60, b"x" * 40], ConnectionResetError())

    blocks = await all_blocks(100, open_at, block_bytes=64, pace=StoragePace(resumes_max=0))

    assert b"".join(blocks) == b"x" * 100


async def test_a_dripping_stream_is_cut_after_one_window_and_keeps_what_it_got() -> None:
    asked: list[int] = []
    seconds = count()

    async def open_at(start_byte: int) -> Pieces:
        asked.append(start_byte)
        return Pieces([b"x"] * 1000)

    slow = StoragePace(min_bytes_per_s=2, throughput_window_s=10, resumes_max=1)
    with pytest.raises(StorageTimeout, match=r"only 10 bytes came in 10\.0 s; s3\.min_bytes_per_s is 2"):
        await all_blocks(1000, open_at, block_bytes=100, pace=slow, clock=lambda: float(next(seconds)))

    assert asked == [0, 10]


async def test_the_time_we_take_ourselves_does_not_count_as_slowness() -> None:
    taken: list[bytes] = []

    async def open_at(_start_byte: int) -> Pieces:
        return Pieces([b"x"] * 100)

    def clock() -> float:
        return 3600.0 * len(taken)

    pace = StoragePace(min_bytes_per_s=1_000_000, throughput_window_s=10, resumes_max=0)
    async with reader(100, open_at, block_bytes=1, pace=pace, clock=clock) as opened:
        async for block in opened.blocks():
            taken.append(bytes(block))

    assert b"".join(taken) == b"x" * 100


async def test_a_reader_that_stops_early_hangs_up() -> None:
    stream = Pieces([b"x" * 10] * 10)

    async def open_at(_start_byte: int) -> Pieces:
        return stream

    async with reader(100, open_at, block_bytes=10) as opened:
        await anext(opened.blocks())

    assert stream.closed


async def test_a_weak_etag_is_no_pin_and_its_object_is_not_resumed() -> None:
    asked: list[int] = []

    async def open_at(start_byte: int) -> Pieces:
        asked.append(start_byte)
        return Pieces([b"x" * 10], ConnectionResetError("reset"))

    with pytest.raises(ObjectTruncated):
        await all_blocks(1000, open_at, block_bytes=100, etag='W/"one"')

    assert asked == [0]
