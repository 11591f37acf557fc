"""The bytes of one object: opened pinned, resumed where they broke off, cut into blocks."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

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


async def open_stream(client: Any, place: ObjectPlace, head: ObjectHead, *, start_byte: int) -> ByteStream:
    """GET the object that `head` describes, from `start_byte` to its end.

    Raises `ObjectChanged` when the answer is of any other object, or is not the range asked for; lets the errors of
    the libraries through.
    """
    pin = {"VersionId": head.version_id} if head.version_id is not None else {"IfMatch": head.etag}
    part = {"Range": f"bytes={start_byte}-"} if start_byte else {}
    answer = await client.get_object(Bucket=place.bucket, Key=place.key, **pin, **part)
    stream = ByteStream(answer["Body"].raw_stream)
    if difference := _difference(answer, head, start_byte):
        stream.close()
        raise ObjectChanged(f"{place}: {difference}")
    return stream


def _difference(answer: dict[str, Any], head: ObjectHead, start_byte: int) -> str | None:
    """Return how the answer differs from what was asked for, or None."""
    left_bytes = head.size_bytes - start_byte
    facts: list[tuple[str, object, object]] = [
        ("ETag", head.etag, answer.get("ETag", head.etag)),
        ("status", 206 if start_byte else 200, answer["ResponseMetadata"]["HTTPStatusCode"]),
        ("length", left_bytes, answer.get("ContentLength", left_bytes)),
    ]
    if head.version_id is not None:
        facts.append(("version", head.version_id, answer.get("VersionId", head.version_id)))
    if start_byte:
        whole_rest = f"bytes {start_byte}-{head.size_bytes - 1}/{head.size_bytes}"
        facts.append(("range", whole_rest, answer.get("ContentRange", whole_rest)))
    for name, expected, found in facts:
        if found != expected:
            return f"not the object that HEAD described: {name} is {found!r}, not {expected!r}"
    return None


class ObjectReader:
    """Reads one object once. `open_at` opens its stream at a byte, with every patience that needs."""

    def __init__(
        self,
        place: ObjectPlace,
        size_bytes: int,
        open_at: Callable[[int], Awaitable[ByteStream]],
        *,
        pace: StoragePace,
        retry: Retry,
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._size_bytes = size_bytes
        self._open_at = open_at
        self._pace = pace
        self._retry = retry
        self._clock = clock

    async def blocks(self, block_bytes: int) -> AsyncGenerator[memoryview, None]:
        """Yield the object in blocks of `block_bytes`, the last one shorter; two buffers in turn hold them.

        So a block is valid until the one after the next is asked for.
        """
        buffers = [memoryview(b""), memoryview(b"")]
        turn = filled = yielded = 0
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                rest = memoryview(piece)
                if len(rest) == self._size_bytes <= block_bytes:  # a small object in one piece needs no copy
                    yield rest
                    continue
                while rest:
                    room = min(block_bytes, self._size_bytes - yielded)
                    if len(buffers[turn]) < room:
                        buffers[turn] = memoryview(bytearray(room))
                    taken = min(room - filled, len(rest))
                    buffers[turn][filled : filled + taken] = rest[:taken]
                    filled += taken
                    rest = rest[taken:]
                    if filled == room:
                        yield buffers[turn][:room]
                        yielded += room
                        filled, turn = 0, 1 - turn

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the object's bytes in order, whatever becomes of the connections, at most `resumes_max` times anew."""
        got_bytes = resumes = 0
        while True:
            fault: ObjectTruncated | StorageTimeout
            stream = await self._open_at(got_bytes)
            watch = _ThroughputWatch(self._place, self._pace, self._clock)
            try:
                while piece := await watch.time(stream.next_piece):
                    got_bytes += len(piece)
                    if got_bytes > self._size_bytes:
                        raise ObjectChanged(f"{self._place}: more than the {self._size_bytes} bytes that HEAD promised")
                    yield piece
                fault = self._broken_off(got_bytes)
            except TimeoutError as error:
                fault = StorageTimeout(f"{self._place}: nothing came for {self._pace.idle_timeout_s:g} s")
                fault.__cause__ = error
            except LIBRARY_ERRORS as error:
                fault = self._broken_off(got_bytes)
                fault.__cause__ = error
            except StorageTimeout as too_slow:
                fault = too_slow
            finally:
                stream.close()
            if got_bytes == self._size_bytes:
                return
            if resumes == self._pace.resumes_max:
                raise fault
            resumes += 1
            await self._retry.pause(resumes)

    def _broken_off(self, got_bytes: int) -> ObjectTruncated:
        return ObjectTruncated(str(self._place), expected_bytes=self._size_bytes, received_bytes=got_bytes)


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
