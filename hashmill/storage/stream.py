"""The bytes of one open object: resumed where they broke off, cut into blocks."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp

from hashmill.domain.errors import ObjectChanged, ObjectTruncated, StorageTimeout
from hashmill.storage.config import ObjectHead, ObjectPlace, StoragePace
from hashmill.storage.faults import LIBRARY_ERRORS
from hashmill.storage.retry import Retry


class ByteStream:
    """An open answer to GET; whoever opened it closes it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next_piece(self) -> bytes:
        """Return the next bytes as they came, at most 256 KiB; none at the end."""
        while True:
            piece, ends_http_chunk = await self._response.content.readchunk()
            if piece or not ends_http_chunk:
                return piece

    def close(self) -> None:
        """Hang up if the answer was not read to its end; else the connection is free for others already."""
        self._response.close()


class ObjectReader:
    """An open object: `head` says which it is, and `blocks`, read once, are its bytes from `start_byte` to the end.

    `open_at` opens the same object at another byte, with every patience that needs. Whoever made it closes it.
    """

    def __init__(
        self,
        place: ObjectPlace,
        head: ObjectHead,
        stream: ByteStream,
        open_at: Callable[[int], Awaitable[ByteStream]],
        *,
        start_byte: int = 0,
        block_bytes: int,
        pace: StoragePace,
        retry: Retry,
        clock: Callable[[], float],
    ) -> None:
        self.head = head
        self._place = place
        self._stream = stream
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
        self._stream.close()

    async def blocks(self) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes in blocks of `block_bytes`, the last one shorter; two buffers in turn hold them.

        So a block is valid until the one after the next is asked for. All have exactly the bytes that `head` promises,
        or `ObjectTruncated`, `ObjectChanged`, `StorageTimeout`, or what `open_at` raises, is raised.
        """
        block_bytes, left_bytes = self._block_bytes, self.head.size_bytes - self._next_byte
        small = left_bytes <= block_bytes
        buffers = [memoryview(b""), memoryview(b"")]
        turn = filled = 0
        while piece := await self._next_piece():
            rest = memoryview(piece)
            if small and len(piece) == left_bytes:  # a small object in one piece needs no copy
                yield rest
                continue
            while rest:
                room = min(block_bytes, left_bytes)
                if len(buffers[turn]) < room:
                    buffers[turn] = memoryview(bytearray(room))
                taken = min(room - filled, len(rest))
                buffers[turn][filled : filled + taken] = rest[:taken]
                filled += taken
                rest = rest[taken:]
                if filled == room:
                    yield buffers[turn][:room]
                    left_bytes -= room
                    filled, turn = 0, 1 - turn

    async def _next_piece(self) -> bytes:
        """Return the next bytes, none at the end, whatever becomes of the connections, at most `resumes_max` anew.

        What cannot be resumed is truncated where it breaks off.
        """
        while True:
            fault: ObjectTruncated | StorageTimeout
            try:
                if piece := await self._watch.time(self._stream.next_piece):
                    self._next_byte += len(piece)
                    if self._next_byte > self.head.size_bytes:
                        raise ObjectChanged(f"{self._place}: more than the {self.head.size_bytes} bytes promised")
                    return piece
                fault = self._broken_off()
            except TimeoutError as error:
                fault = StorageTimeout(f"{self._place}: nothing came for {self._pace.idle_timeout_s:g} s")
                fault.__cause__ = error
            except LIBRARY_ERRORS as error:
                fault = self._broken_off()
                fault.__cause__ = error
            except StorageTimeout as too_slow:
                fault = too_slow
            self._stream.close()
            if self._next_byte == self.head.size_bytes:
                return b""
            if self._resumes == self._pace.resumes_max or not self.head.resumable:
                raise fault
            self._resumes += 1
            await self._retry.pause(self._resumes)
            self._stream = await self._open_at(self._next_byte)
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

    async def time(self, next_piece: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the next piece; raise `StorageTimeout` instead when the window before it brought too little."""
        if self._waited_s >= self._pace.throughput_window_s:
            if self._got_bytes < self._pace.min_bytes_per_s * self._waited_s:
                raise StorageTimeout(
                    f"{self._place}: only {self._got_bytes} bytes came in {self._waited_s:.1f} s; "
                    f"s3.min_bytes_per_s is {self._pace.min_bytes_per_s}"
                )
            self._waited_s, self._got_bytes = 0.0, 0
        started_s = self._clock()
        piece = await next_piece()
        self._waited_s += self._clock() - started_s
        self._got_bytes += len(piece)
        return piece
