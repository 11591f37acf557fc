"""
One object over several connections, where one alone is slower than its reader: ranges side by side, joined in order.

They win nothing where bytes come as fast as they are hashed, and cost a copy (docs/performance.md). So a body begins
on one connection, and what it is waited for decides. Only tried is known: when more connections bring no more bytes,
they are given up again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiohttp

from hashmill.storage.stream import Body

RANGE_BYTES: Final = 8_388_608
"""The length of a range; it is held in memory until it is read."""

RANGES_FROM_BYTES: Final = 8 * RANGE_BYTES
"""A shorter object is read over one connection."""

WINDOW_S: Final = 2.0
"""So long is measured before more, or fewer, connections are tried."""

WAITING_SHARE: Final = 0.5
"""More are tried when the reader has waited for bytes more than this share of the time."""

FIRST_BYTES_S: Final = 2.0
"""So long the one connection, with its part read, waits for the first bytes of the range behind it. No longer: that may
wait for the very connection, where they are few."""

GAIN: Final = 1.15
"""Twice as many connections must bring so many times the bytes."""

OpenRange = Callable[[int, int | None], Awaitable[Body]]
"""Opens the object from a byte to another one, which is not read any more, or to the end."""


class WideBody:
    """The bytes of an object from `start_byte` to `end_byte`, read by `first` and by up to `width_max()` connections.

    `buffers` is how many ranges may be held at most. What breaks a range is raised where its bytes are due; but the one
    connection is only given up for ranges once the first of them has brought bytes, and goes on alone when that fails:
    a server need not know ranges (known: RFC 9110, 14.2).
    """

    def __init__(
        self,
        first: Body,
        open_range: OpenRange,
        *,
        start_byte: int,
        end_byte: int,
        buffers: int,
        width_max: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._open_range = open_range
        self._end_byte = end_byte
        self._width = _Width(clock, most=lambda: min(buffers, width_max()))
        self._next_byte = start_byte
        self._plain: Body | None = first
        self._plain_end_byte = end_byte
        self._parts: deque[_Part] = deque()
        self._asked_byte = end_byte
        self._free: list[memoryview] = []

    async def fill(self, room: memoryview, /) -> int:
        """Put the next bytes into `room` and return how many; 0 at the end."""
        if self._next_byte == self._end_byte and self._plain is None:
            return 0
        self._width.begin()
        if self._plain is None and not self._parts:
            self._plain = await self._open_range(self._next_byte, None)
            self._plain_end_byte = self._asked_byte = self._end_byte
        if self._plain is not None:
            got_bytes = await self._from_plain(self._plain, room)
        else:
            got_bytes = await self._parts[0].take(room)
            self._drop_read_part()
        self._next_byte += got_bytes
        if self._width.end() > 1 and self._plain_end_byte == self._end_byte:
            self._cut_plain()
        self._ask_more()
        return got_bytes

    def close(self) -> None:
        """Hang up everywhere."""
        if self._plain is not None:
            self._plain.close()
        for part in self._parts:
            part.close()

    async def _from_plain(self, plain: Body, room: memoryview) -> int:
        left_bytes = self._plain_end_byte - self._next_byte
        got_bytes = await plain.fill(room[:left_bytes] if left_bytes else room)
        self._width.arrived(got_bytes)
        if got_bytes == left_bytes and self._plain_end_byte < self._end_byte:
            if not self._parts or await self._parts[0].brings():
                plain.close()
                self._plain = None
            else:
                self._go_on_alone()
        return got_bytes

    def _go_on_alone(self) -> None:
        for part in self._parts:
            part.close()
        self._parts.clear()
        self._plain_end_byte = self._asked_byte = self._end_byte
        self._width.give_up()

    def _cut_plain(self) -> None:
        """Let the one connection go on for a range yet, while those behind it are fetched."""
        if self._plain is not None and self._end_byte - self._next_byte > 2 * RANGE_BYTES:
            self._plain_end_byte = self._asked_byte = self._next_byte + RANGE_BYTES

    def _ask_more(self) -> None:
        while self._asked_byte < self._end_byte and 1 < self._width.now > len(self._parts) + (self._plain is not None):
            end_byte = min(self._asked_byte + RANGE_BYTES, self._end_byte)
            buffer = self._free.pop() if self._free else memoryview(bytearray(RANGE_BYTES))
            fetching = _Part(self._open_range, self._asked_byte, end_byte, buffer, arrived=self._width.arrived)
            self._parts.append(fetching)
            self._asked_byte = end_byte

    def _drop_read_part(self) -> None:
        if self._parts[0].is_read:
            self._free.append(self._parts.popleft().buffer)


class _Part:
    """One range on its way into `buffer`."""

    def __init__(
        self,
        open_range: OpenRange,
        start_byte: int,
        end_byte: int,
        buffer: memoryview,
        *,
        arrived: Callable[[int], None],
    ) -> None:
        self.buffer = buffer
        self._arrived = arrived
        self._size_bytes = end_byte - start_byte
        self._got_bytes = 0
        self._taken_bytes = 0
        self._news = asyncio.Event()
        self._fetching = asyncio.create_task(self._fetch(open_range, start_byte, end_byte))
        self._fetching.add_done_callback(self._fetched)

    @property
    def is_read(self) -> bool:
        return self._taken_bytes == self._size_bytes

    async def brings(self) -> bool:
        """Wait for the first bytes, for `FIRST_BYTES_S` at most; return whether they came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_BYTES_S):
                while not self._got_bytes and not self._fetching.done():
                    self._news.clear()
                    await self._news.wait()
        return self._got_bytes > 0

    async def take(self, room: memoryview) -> int:
        while self._taken_bytes == self._got_bytes:
            if self._fetching.done():
                self._fetching.result()
            self._news.clear()
            await self._news.wait()
        taken_bytes = min(len(room), self._got_bytes - self._taken_bytes)
        room[:taken_bytes] = self.buffer[self._taken_bytes : self._taken_bytes + taken_bytes]
        self._taken_bytes += taken_bytes
        return taken_bytes

    def close(self) -> None:
        self._fetching.cancel()

    async def _fetch(self, open_range: OpenRange, start_byte: int, end_byte: int) -> None:
        body = await open_range(start_byte, end_byte)
        try:
            while self._got_bytes < self._size_bytes:
                got_bytes = await body.fill(self.buffer[self._got_bytes : self._size_bytes])
                if not got_bytes:
                    raise aiohttp.ClientPayloadError("the range ended early")
                self._got_bytes += got_bytes
                self._arrived(got_bytes)
                self._news.set()
        finally:
            body.close()

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        with suppress(asyncio.CancelledError):
            fetching.exception()  # seen; it is raised where the bytes are due
        self._news.set()


@dataclass(slots=True)
class _Window:
    began_s: float
    waited_s: float = 0.0
    got_bytes: int = 0


class _Width:
    """How many connections are worth it now; `begin` and `end` enclose each wait for bytes."""

    def __init__(self, clock: Callable[[], float], most: Callable[[], int]) -> None:
        self.now = 1
        self._clock = clock
        self._most = most
        self._window = _Window(clock())
        self._waits_since_s = 0.0
        self._tried_against_bytes_per_s: float | None = None
        self._warm = True
        self._enough = False

    def begin(self) -> None:
        self._waits_since_s = self._clock()

    def arrived(self, got_bytes: int) -> None:
        """Count bytes that came over any of the connections."""
        self._window.got_bytes += got_bytes

    def end(self) -> int:
        """Return the width from now on."""
        now_s = self._clock()
        window = self._window
        window.waited_s += now_s - self._waits_since_s
        self.now = min(self.now, max(1, self._most()))
        if now_s - window.began_s >= WINDOW_S:
            if self._warm:
                self._judge(window, now_s - window.began_s)
            self._warm = True  # what came while connections were opened tells nothing
            self._window = _Window(now_s)
        return self.now

    def give_up(self) -> None:
        """Stay with one connection from now on."""
        self.now, self._enough, self._tried_against_bytes_per_s = 1, True, None

    def _judge(self, window: _Window, lasted_s: float) -> None:
        bytes_per_s = window.got_bytes / lasted_s
        before, self._tried_against_bytes_per_s = self._tried_against_bytes_per_s, None
        if before is not None and bytes_per_s < GAIN * before:
            self.now = max(1, self.now // 2)
            self._enough = True
        elif not self._enough and window.waited_s > WAITING_SHARE * lasted_s and 2 * self.now <= self._most():
            self.now *= 2
            self._tried_against_bytes_per_s = bytes_per_s
            self._warm = False
