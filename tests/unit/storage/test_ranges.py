"""Several ranges of one object, on a clock that only the played connections move."""

import asyncio
from collections.abc import Callable
from random import Random

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashmill.domain.errors import ObjectChanged
from hashmill.storage import ranges
from hashmill.storage.ranges import WideBody
from hashmill.storage.stream import Body

RANGE_BYTES = 1000
WINDOW_S = 10.0
ALONE_BYTES_PER_S = 100.0
"""What one connection brings at most."""


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE_BYTES", RANGE_BYTES)
    monkeypatch.setattr(ranges, "WINDOW_S", WINDOW_S)


class Net:
    """Connections that share `bytes_per_s`; each turn of the clock all of them get some bytes."""

    def __init__(self, body: bytes, *, bytes_per_s: float) -> None:
        self.body = body
        self.bytes_per_s = bytes_per_s
        self.now_s = 0.0
        self.open: list[Connection] = []
        self.opened: list[tuple[int, int | None]] = []
        self.most_open = 0

    async def open_range(self, start_byte: int, end_byte: int | None) -> Body:
        self.opened.append((start_byte, end_byte))
        connection = Connection(self, start_byte, len(self.body) if end_byte is None else end_byte)
        self.open.append(connection)
        self.most_open = max(self.most_open, len(self.open))
        return connection

    def turn(self) -> None:
        """Let a second pass."""
        self.now_s += 1.0
        share = min(ALONE_BYTES_PER_S, self.bytes_per_s / max(1, len(self.open)))
        for connection in self.open:
            connection.ready_bytes += share


class Connection:
    def __init__(self, net: Net, start_byte: int, end_byte: int) -> None:
        self.net = net
        self.at_byte = start_byte
        self.end_byte = end_byte
        self.ready_bytes = 0.0
        self.breaks_at: int | None = None

    async def fill(self, room: memoryview, /) -> int:
        while True:
            await asyncio.sleep(0)
            if self.at_byte == self.end_byte:
                return 0
            if self.breaks_at is not None and self.at_byte >= self.breaks_at:
                raise ConnectionResetError("cut")
            if count := min(len(room), int(self.ready_bytes), self.end_byte - self.at_byte):
                room[:count] = self.net.body[self.at_byte : self.at_byte + count]
                self.at_byte += count
                self.ready_bytes -= count
                return count

    def close(self) -> None:
        if self in self.net.open:
            self.net.open.remove(self)


async def read(
    net: Net, *, width_max: Callable[[], int], buffers: int = 8, hash_s_per_block: float = 0.0, room_bytes: int = 250
) -> bytes:
    """Read all, as a reader does that takes so long over each block."""
    first = await net.open_range(0, None)
    body = WideBody(
        first,
        net.open_range,
        start_byte=0,
        end_byte=len(net.body),
        buffers=buffers,
        width_max=width_max,
        clock=lambda: net.now_s,
    )
    got = bytearray()
    room = memoryview(bytearray(room_bytes))
    try:
        while True:
            filling = asyncio.create_task(body.fill(room))  # type: ignore[arg-type]
            while not filling.done():
                for _ in range(8):
                    await asyncio.sleep(0)
                if not filling.done():
                    net.turn()
            if not (count := filling.result()):
                return bytes(got)
            got += room[:count]
            for _ in range(round(hash_s_per_block)):
                net.turn()
    finally:
        body.close()


BODY = Random(5).randbytes(60_000)


async def test_a_slow_connection_is_joined_by_others_until_they_are_as_many_as_allowed() -> None:
    net = Net(BODY, bytes_per_s=10_000)

    assert await read(net, width_max=lambda: 4) == BODY

    assert net.most_open == 4
    assert net.now_s < 0.45 * len(BODY) / ALONE_BYTES_PER_S
    assert net.open == []


async def test_a_reader_that_is_slower_than_one_connection_keeps_to_one() -> None:
    net = Net(BODY, bytes_per_s=10_000)

    assert await read(net, width_max=lambda: 8, hash_s_per_block=6) == BODY

    assert net.opened == [(0, None)]


async def test_where_more_connections_bring_no_more_bytes_they_are_given_up() -> None:
    net = Net(BODY, bytes_per_s=ALONE_BYTES_PER_S)

    assert await read(net, width_max=lambda: 8) == BODY

    assert net.most_open <= 3  # two, and the first one that was about to end
    start_byte, end_byte = net.opened[-1]
    assert end_byte is None, "read to the end over one connection again"
    assert start_byte < len(BODY) // 2


async def test_other_objects_in_work_take_their_share_of_the_connections() -> None:
    net = Net(BODY, bytes_per_s=10_000)

    assert await read(net, width_max=lambda: 4 if net.now_s < 60 else 1) == BODY

    assert net.opened[-1][1] is None
    assert len(net.open) == 0


@settings(max_examples=60, deadline=None)
@given(
    size_bytes=st.integers(1, 20_000),
    seed=st.integers(0, 2**32),
    buffers=st.integers(2, 8),
    room_bytes=st.integers(1, 1500),
)
def test_however_wide_it_gets_the_bytes_are_the_object(
    size_bytes: int, seed: int, buffers: int, room_bytes: int
) -> None:
    body = Random(seed).randbytes(size_bytes)
    random = Random(seed)
    net = Net(body, bytes_per_s=random.choice([100, 300, 10_000]))
    room_bytes = max(room_bytes, size_bytes // 100)

    assert (
        asyncio.run(read(net, width_max=lambda: random.randint(1, 9), buffers=buffers, room_bytes=room_bytes)) == body
    )
    assert net.most_open <= buffers + 1
    assert net.open == []


async def test_a_range_that_breaks_is_an_error_where_its_bytes_are_due_and_all_are_closed() -> None:
    net = Net(BODY, bytes_per_s=10_000)
    opening = net.open_range

    async def breaking(start_byte: int, end_byte: int | None) -> Body:
        connection = await opening(start_byte, end_byte)
        assert isinstance(connection, Connection)
        if end_byte is not None and start_byte > 10_000:
            connection.breaks_at = start_byte + 500
        return connection

    net.open_range = breaking  # type: ignore[method-assign]
    with pytest.raises(ConnectionResetError, match="cut"):
        await read(net, width_max=lambda: 4)
    for _ in range(3):
        await asyncio.sleep(0)

    assert net.open == []


async def test_a_range_that_ends_early_is_no_end() -> None:
    net = Net(BODY, bytes_per_s=10_000)
    opening = net.open_range

    async def short(start_byte: int, end_byte: int | None) -> Body:
        return await opening(start_byte, None if end_byte is None else end_byte - 1)

    net.open_range = short  # type: ignore[method-assign]
    with pytest.raises(aiohttp.ClientPayloadError, match="ended early"):
        await read(net, width_max=lambda: 4)


@pytest.mark.parametrize("fault", [ObjectChanged("status is 200, not 206"), ConnectionRefusedError()])
async def test_where_the_first_range_fails_the_one_connection_goes_on_alone(fault: Exception) -> None:
    class Rangeless(Net):
        async def open_range(self, start_byte: int, end_byte: int | None) -> Body:
            if start_byte or end_byte is not None:
                self.opened.append((start_byte, end_byte))
                raise fault
            return await super().open_range(start_byte, end_byte)

    net = Rangeless(Random(8).randbytes(40 * RANGE_BYTES), bytes_per_s=1000.0)

    assert await read(net, width_max=lambda: 8) == net.body

    assert len(net.opened) == 2  # tried once
    assert net.open == []


async def test_where_no_connection_is_left_for_a_range_the_one_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Net):
        async def open_range(self, start_byte: int, end_byte: int | None) -> Body:
            if start_byte or end_byte is not None:
                await asyncio.Event().wait()
            return await super().open_range(start_byte, end_byte)

    monkeypatch.setattr(ranges, "FIRST_BYTES_S", 0.01)
    net = Full(Random(9).randbytes(40 * RANGE_BYTES), bytes_per_s=1000.0)

    assert await read(net, width_max=lambda: 8) == net.body
