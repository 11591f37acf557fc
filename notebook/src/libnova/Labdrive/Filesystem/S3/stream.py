"""A seekable stream over ranges of one object: read ahead, repeated where it broke off, pinned to one version."""

import io
import operator
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from libnova import _progress
from libnova.errors import ObjectChanged, StorageRefused, StorageUnavailable

LEAST_BYTES: Final = 256 * 1024
"""The first range after a seek: what a reader of an index or a header needs."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""The longest range. Two of them are held: the one that is read, and the one after it."""
PIECE_BYTES: Final = 256 * 1024
TRIES: Final = 6
BACKOFF_S: Final = 0.3
BAR_BYTES: Final = 32 * 1024 * 1024
"""From this size on reading shows a bar."""

_CHANGED = ("PreconditionFailed", "412")


class Stream(io.RawIOBase):
    """Bytes of one object. As any binary file that is open for reading: `read`, `readinto`, `seek`, `tell`, `with`.

    Ranges grow while they are read in order, and the next one is fetched meanwhile. Each asks for the version that was
    there at the begin (If-Match). Reading raises `ObjectChanged` when there is another one, `StorageRefused` when the
    keys are refused, `StorageUnavailable` when the server does not answer any more.
    """

    def __init__(
        self,
        client: Any,
        *,
        bucket: str,
        key: str,
        size_bytes: int,
        etag: str,
        name: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self.name = name
        """The file's name, as readers like it on a file."""
        self.size_bytes = size_bytes
        self.etag = etag
        """The version that is read."""
        self._client, self._bucket, self._key, self._sleep = client, bucket, key, sleep
        self._position = 0
        self._start, self._range = 0, b""
        self._length = LEAST_BYTES
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="libnova-read")
        self._bar = _progress.of_bytes(size_bytes, what=name) if size_bytes >= BAR_BYTES else None
        self._shown = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; nothing is fetched before the next read. Raises `ValueError` for one before the begin."""
        self._open()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}
        if whence not in bases:
            raise ValueError(f"whence is one of 0, 1, 2, not {whence}")
        place = bases[whence] + operator.index(offset)
        if place < 0:
            raise ValueError(f"a place before the begin: {place}")
        self._position = place
        return place

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as the bytes reach, and return how many that are; 0 at the end.

        After an error the place is the one before, so that reading again gives these bytes and not later ones.
        """
        self._open()
        view = memoryview(buffer).cast("B")
        filled, place = 0, self._position
        while filled < len(view) and place < self.size_bytes:
            piece = self._piece(place, len(view) - filled)
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            place += len(piece)
        self._go_on(place)
        return filled

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, all that are left without one; b"" at the end."""
        self._open()
        left = max(0, self.size_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        found = bytearray(wanted)
        return bytes(memoryview(found)[: self.readinto(found)]) if wanted else b""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the bytes up to and with the next line feed, at most `size`; b"" at the end."""
        self._open()
        left = max(0, self.size_bytes - self._position)
        most = left if size is None or size < 0 else min(size, left)
        line, place = bytearray(), self._position
        while len(line) < most and not line.endswith(b"\n"):
            piece = self._piece(place, most - len(line))
            at = place - self._start
            end = self._range.find(b"\n", at, at + len(piece)) + 1
            line += piece[: end - at] if end else piece
            place = self._position + len(line)
        self._go_on(place)
        return bytes(line)

    def write(self, _: Any, /) -> int:
        raise io.UnsupportedOperation("this file is open for reading only")

    def readall(self) -> bytes:
        return self.read()

    def close(self) -> None:
        """Let go of what is held. Closing again does nothing."""
        if not self.closed:
            if self._bar is not None:
                self._bar.close()
            self._reader.shutdown(wait=False, cancel_futures=True)
            self._range, self._ahead = b"", None
        super().close()

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _piece(self, place: int, most: int) -> memoryview:
        """Return what is held at `place`, up to `most`; fetch it when nothing is."""
        if not self._start <= place < self._start + len(self._range):
            self._turn_to(place)
        at = place - self._start
        return memoryview(self._range)[at : at + most]

    def _turn_to(self, place: int) -> None:
        """Hold the range at `place`: the one fetched ahead, or a new one; have the next one fetched when in order."""
        in_order = place == self._start + len(self._range)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == place:
            found = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].cancel()
            self._length = self._length if in_order else LEAST_BYTES
            found = self._fetch(place, self._length)
        self._start, self._range = place, found
        after = place + len(found)
        if in_order and after < self.size_bytes:
            self._length = min(2 * self._length, MOST_BYTES)
            self._ahead = after, self._reader.submit(self._fetch, after, self._length)

    def _fetch(self, place: int, length: int) -> bytes:
        """Return the range, asked for again from where it broke off."""
        end = min(place + length, self.size_bytes)
        found = bytearray()
        last: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                self._sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                self._receive(found, place + len(found), end - 1)
            except ClientError as error:
                self._raise_if_final(error)
                last = error
            except (BotoCoreError, OSError) as error:
                last = error
            if len(found) == end - place:
                return bytes(found)
        raise StorageUnavailable(
            f"Reading {self._key} broke off at byte {place + len(found)} of {self.size_bytes}, {TRIES} times: {last}. "
            "Is the network there? Read it again later: nothing was changed."
        ) from last

    def _receive(self, found: bytearray, first: int, last: int) -> None:
        """Add bytes `first` to `last` to what was found, or as many as come."""
        pinned = {"IfMatch": self.etag} if self.etag else {}
        answer = self._client.get_object(Bucket=self._bucket, Key=self._key, Range=f"bytes={first}-{last}", **pinned)
        body = answer["Body"]
        try:
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
                raise StorageUnavailable(f"The S3 server does not know ranges, and would send all of {self._key}.")
            left = last + 1 - first
            while left and (piece := body.read(min(PIECE_BYTES, left))):
                found += piece
                left -= len(piece)
        finally:
            body.close()

    def _raise_if_final(self, error: ClientError) -> None:
        """Return when the error may pass."""
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _CHANGED or status == 412:
            raise ObjectChanged(
                f"{self._key} was written anew while it was read. Open it again, and read it from the begin."
            ) from error
        if status == 404:
            raise ObjectChanged(f"{self._key} was deleted while it was read.") from error
        if status in (401, 403):
            raise StorageRefused(
                f"The S3 server does not let this key pair read {self._key} any more ({code})."
            ) from error

    def _go_on(self, place: int) -> None:
        self._position = place
        if self._bar is not None and self._position > self._shown:
            self._bar.update(self._position - self._shown)
            self._shown = self._position
