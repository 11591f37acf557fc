"""The bytes of one open object: resumed where they broke off, laid into blocks."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

import aiohttp

from hashmill.domain.errors import ObjectChanged, ObjectTruncated, StorageTimeout
from hashmill.storage.config import ObjectHead, ObjectPlace, StoragePace
from hashmill.storage.faults import LIBRARY_ERRORS
from hashmill.storage.retry import Retry


class Body(Protocol):
    """An open answer to GET; whoever opened it closes it."""

    async def fill(self, room: memoryview, /) -> int:
        """Put the next bytes into `room` and return how many; 0 at the end. Raises what breaks the connection."""

    def close(self) -> None:
        """Hang up if the answer was not read to its end; else the connection is free for others already."""


class ByteStream:
    """A body as aiohttp gives it, piece by piece."""

    _ahead = memoryview(b"")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def arrived(self, size_bytes: int) -> bytes | None:
        """Return the body without copying it if that is all of it and is here already; nothing is left then."""
        content = self._response.content
        return content.read_nowait() if content.is_eof() and content.total_bytes == size_bytes else None

    async def next_piece(self) -> bytes:
        """Return the next bytes as they came, at most 256 KiB; none at the end."""
        while True:
            piece, ends_http_chunk = await self._response.content.readchunk()
            if piece or not ends_http_chunk:
                return piece

    async def fill(self, room: memoryview, /) -> int:
        if not self._ahead:
            self._ahead = memoryview(await self.next_piece())
        taken = min(len(room), len(self._ahead))
        room[:taken] = self._ahead[:taken]
        self._ahead = self._ahead[taken:]
        return taken

    def close(self) -> None:
        self._response.close()


class ObjectReader:
    """An open object: `head` says which it is, and `blocks`, read once, are its bytes from `start_byte` to the end.

    `open_at` opens the same object at another byte, with every patience that needs. Whoever made it closes it.
    """

    def __init__(
        self,
        place: ObjectPlace,
        head: ObjectHead,
        body: Body,
        open_at: Callable[[int], Awaitable[Body]],
        *,
        start_byte: int = 0,
        block_bytes: int,
        pace: StoragePace,
        retry: Retry,
        clock: Callable[[], float],
    ) -> None:
        self.head = head
        self._place = place
        self._body = body
        self._open_at = open_at
        self._next_byte = start_byte
        self._block_bytes = block_bytes
        self._pace = pace
        self._retry = retry
        self._clock = clock
        self._watch = _ThroughputWatch(place, pace, clock)
        self._resumes = 0

    def close(self) -> None:
        """Hang up if there is more to come."""
        self._body.close()

    async def blocks(self) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes in blocks of `block_bytes`, the last one shorter; two buffers in turn hold them.

        So a block is valid until the one after the next is asked for. All have exactly the bytes that `head` promises,
        or `ObjectTruncated`, `ObjectChanged`, `StorageTimeout`, or what `open_at` raises, is raised.
        """
        left_bytes = self.head.size_bytes - self._next_byte
        small = left_bytes <= self._block_bytes
        if whole := self._body.arrived(left_bytes) if small and isinstance(self._body, ByteStream) else None:
            self._next_byte += left_bytes
            yield memoryview(whole)
            return
        buffers = [memoryview(b""), memoryview(b"")]
        turn = 0
        while left_bytes:
            room_bytes = min(self._block_bytes, left_bytes)
            if len(buffers[turn]) < room_bytes:
                buffers[turn] = memoryview(bytearray(room_bytes))
            block = buffers[turn][:room_bytes]
            room = block
            while room:
                room = room[await self._fill(room) :]
            yield block
            left_bytes -= room_bytes
            turn = 1 - turn
        await self._fill(memoryview(bytearray(1)))  # nothing: only then is it the whole object

    async def _fill(self, room: memoryview) -> int:
        """Lay the next bytes into `room` and return how many, 0 at the end, whatever becomes of the connections.

        At most `resumes_max` of them anew; what cannot be resumed is truncated where it breaks off.
        """
        while True:
            fault: ObjectTruncated | StorageTimeout
            try:
                if got_bytes := await self._watch.time(self._body.fill, room):
                    self._next_byte += got_bytes
                    if self._next_byte > self.head.size_bytes:
                        raise ObjectChanged(f"{self._place}: more than the {self.head.size_bytes} bytes promised")
                    return got_bytes
                fault = self._broken_off()
            except TimeoutError as error:
                fault = StorageTimeout(f"{self._place}: nothing came for {self._pace.idle_timeout_s:g} s")
                fault.__cause__ = error
            except LIBRARY_ERRORS as error:
                fault = self._broken_off()
                fault.__cause__ = error
            except StorageTimeout as too_slow:
                fault = too_slow
            self._body.close()
            if self._next_byte == self.head.size_bytes:
                return 0
            if self._resumes == self._pace.resumes_max or not self.head.resumable:
                raise fault
            self._resumes += 1
            await self._retry.pause(self._resumes)
            self._body = await self._open_at(self._next_byte)
            self._watch = _ThroughputWatch(self._place, self._pace, self._clock)

    def _broken_off(self) -> ObjectTruncated:
        return ObjectTruncated(str(self._place), expected_bytes=self.head.size_bytes, received_bytes=self._next_byte)


class _ThroughputWatch:
    """Ends a stream that drips. Only the time spent waiting for the server counts, not the time we take to hash."""

    def __init__(self, place: ObjectPlace, pace: StoragePace, clock: Callable[[], float]) -> None:
        self._place = place
        self._pace = pace
        self._clock = clock
        self._waited_s = 0.0
        self._got_bytes = 0

    async def time(self, fill: Callable[[memoryview], Awaitable[int]], room: memoryview) -> int:
        """Return what `fill` returns; raise `StorageTimeout` instead when the window before it brought too little."""
        if self._waited_s >= self._pace.throughput_window_s:
            if self._got_bytes < self._pace.min_bytes_per_s * self._waited_s:
                raise StorageTimeout(
                    f"{self._place}: only {self._got_bytes} bytes came in {self._waited_s:.1f} s; "
                    f"s3.min_bytes_per_s is {self._pace.min_bytes_per_s}"
                )
            self._waited_s, self._got_bytes = 0.0, 0
        started_s = self._clock()
        got_bytes = await fill(room)
        self._waited_s += self._clock() - started_s
        self._got_bytes += got_bytes
        return got_bytes
