"""
The body of one answer, received straight into the reader's own blocks.

aiohttp opens the connection, sends the request and reads the headers; then the transport is lent to us until the last
byte of a body whose length is known, and goes back to aiohttp's pool. So a large body is copied once, by the kernel
(by TLS: once more), and wakes the loop once per block: docs/performance.md. What is used of aiohttp beside its
documented face: `Connection.protocol` and `.transport`, and `pause_reading` and `resume_reading` of the former (known:
read in aiohttp 3.14, whose next request makes a new parser on the old connection).
"""

import asyncio
from typing import Final

import aiohttp

TICK_S: Final = 1.0
"""A block that does not fill up is handed over so late, with what there is."""

LOOKS: Final = 3
"""So many turns of the loop until a byte that is here is seen: TLS asks in the first, and the socket in the second."""


class DirectStream(asyncio.BufferedProtocol):
    """An open answer with a body of `left_bytes`; whoever opened it closes it."""

    def __init__(self, response: aiohttp.ClientResponse, left_bytes: int, *, idle_timeout_s: float) -> None:
        connection = response.connection
        if connection is None or connection.protocol is None or connection.transport is None:
            raise aiohttp.ClientConnectionError("the answer has arrived already, or its connection is lost")
        self._response = response
        self._lender = connection.protocol
        self._transport = connection.transport
        self._idle_timeout_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._view = memoryview(b"")
        self._got_bytes = 0
        self._woken: asyncio.Future[None] | None = None
        self._lost: BaseException | None = None
        # What aiohttp has received already. Its parser may hold some of that back until there is room: so, to the end.
        ahead = bytearray()
        while piece := response.content.read_nowait():
            ahead += piece
        self._ahead = memoryview(ahead)
        self._left_bytes = left_bytes - len(ahead)
        if self._left_bytes > 0:
            self._lender.pause_reading()  # and its timer of silence stops
            self._transport.set_protocol(self)

    async def fill(self, room: memoryview) -> int:
        """Receive into `room` until it is full, or for `TICK_S` where something came; return how many bytes came.

        0 at the end. Raises `TimeoutError` when nothing comes for so long, and aiohttp's error, or none of its own
        kind but an `OSError`, when the connection breaks. `room` is not touched any more when this returns or raises.
        """
        if self._ahead:
            taken = min(len(room), len(self._ahead))
            room[:taken] = self._ahead[:taken]
            self._ahead = self._ahead[taken:]
            return taken
        if self._left_bytes <= 0:
            return 0
        if self._lost is None:
            await self._receive(room[: self._left_bytes])
        got_bytes, self._got_bytes = self._got_bytes, 0
        self._left_bytes -= got_bytes
        if self._left_bytes == 0:
            await self._give_back()
        elif not got_bytes:
            raise self._lost or TimeoutError(f"nothing came for {self._idle_timeout_s:g} s")
        return got_bytes

    def close(self) -> None:
        """Hang up if the answer was not read to its end; else the connection is free for others already."""
        self._response.close()

    async def _receive(self, room: memoryview) -> None:
        self._view = room
        self._woken = self._loop.create_future()
        silent_at_s = self._loop.time() + self._idle_timeout_s
        timer = self._loop.call_later(min(TICK_S, self._idle_timeout_s), self._tick)
        self._transport.resume_reading()
        try:
            while True:
                await self._woken
                if self._got_bytes or self._lost is not None or self._loop.time() >= silent_at_s:
                    return
                self._woken = self._loop.create_future()
                timer = self._loop.call_at(min(self._loop.time() + TICK_S, silent_at_s), self._tick)
        finally:
            timer.cancel()
            self._transport.pause_reading()
            self._view, self._woken = memoryview(b""), None

    def _tick(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _give_back(self) -> None:
        """Let aiohttp see the end of the answer, which frees the connection.

        Not where more than the answer has come: those bytes would pass for the answer to the next request.
        """
        self._view = memoryview(bytearray(1))
        self._transport.resume_reading()
        try:
            for _ in range(LOOKS):
                await asyncio.sleep(0)
        finally:
            self._transport.pause_reading()
            self._view = memoryview(b"")
        if self._got_bytes:
            self.close()
        elif self._lost is None:
            self._transport.set_protocol(self._lender)
            self._lender.resume_reading()
            self._response.content.feed_eof()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._got_bytes :]

    def buffer_updated(self, nbytes: int) -> None:
        self._got_bytes += nbytes
        if self._got_bytes == len(self._view):
            self._transport.pause_reading()
            self._tick()

    def pause_writing(self) -> None:
        self._lender.pause_writing()

    def resume_writing(self) -> None:
        self._lender.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or aiohttp.ClientPayloadError("the connection ended before the body did")
        self._lender.connection_lost(exc)
        self._tick()
