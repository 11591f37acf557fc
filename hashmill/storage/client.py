"""What is asked of S3 servers, each with the patience it needs: HEAD, and the blocks of an object."""

import asyncio
import random as chance
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiobotocore.session import AioSession

from hashmill.domain.checksums import PartSizes
from hashmill.domain.errors import ConfigFault, ObjectMissing, SigningRefused, StorageThrottled, StorageTimeout
from hashmill.storage.ask import get_object, head_object, in_words
from hashmill.storage.budget import ByteBudget
from hashmill.storage.checksums import part_sizes
from hashmill.storage.config import ObjectHead, ObjectPlace, StorageConfig, StoragePace
from hashmill.storage.faults import LIBRARY_ERRORS, translate
from hashmill.storage.link import Link, open_link
from hashmill.storage.ranges import RANGE_BYTES, RANGES_FROM_BYTES, OpenRange, WideBody
from hashmill.storage.retry import Retry
from hashmill.storage.stream import Body, ObjectReader
from hashmill.storage.wire import READ_AHEAD_BYTES, TLS_BYTES

LEAST_BLOCK_BYTES: Final = 65_536
"""To this a stream's blocks shrink when the budget is short."""

PROBE_S: Final = 5.0
"""Who has not answered the smallest question within this time is away."""

KEY_MAX_BYTES: Final = 1024
"""known: S3 user guide, object keys."""

_BUCKET: Final = r"[A-Za-z0-9](?!.*\.\.)[A-Za-z0-9._-]{0,254}"

Widener = Callable[[int, Body], Body]
"""Takes a byte and the body that begins there."""


class Storage:
    """Reads objects of any number of S3 servers. Belongs to one event loop; whoever made it closes it.

    `session` may be shared with others of the same process: it holds botocore's models, which take 0.2 s to read.
    `sleep`, `random` (0 to 1) and `clock` (seconds) are only ever replaced by tests.
    """

    def __init__(
        self,
        pace: StoragePace,
        budget: ByteBudget,
        *,
        session: AioSession | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = chance.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pace = pace
        self._budget = budget
        self._retry = Retry(pace=pace, sleep=sleep, random=random)
        self._clock = clock
        self._session = session or AioSession()
        self._links: dict[StorageConfig, Link] = {}
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()
        self._open_reads = 0

    async def close(self) -> None:
        """Hang up everywhere. Streams that are still read break off."""
        self._links.clear()
        await self._open.aclose()

    async def head(self, config: StorageConfig, bucket: str, key: str, *, even_offline: bool = False) -> ObjectHead:
        """Return what the server says of the object now; `even_offline` also where it could not be read now.

        Raises `ObjectMissing`, `ObjectForbidden`, `ObjectOffline` (also when HEAD only says that a GET would fail),
        `StorageThrottled`, `StorageTimeout`, `ConfigFault`, `SigningRefused`.
        """
        place = _place(bucket, key)
        link = await self._link(config)

        def ask() -> Awaitable[ObjectHead]:
            return head_object(link, place, even_offline=even_offline)

        return await self._retry.in_place(place, lambda: in_words(link, place, ask))

    async def parts(self, config: StorageConfig, bucket: str, key: str, head: ObjectHead, count: int) -> PartSizes:
        """Return how long each of the object's `count` parts is, or why that is not known; asks without patience.

        The object may be open meanwhile, and its server waits for us no longer than we for it.
        """
        try:
            link = await self._link(config)
            async with asyncio.timeout(PROBE_S):
                return await part_sizes(link, _place(bucket, key), head, count)
        except TimeoutError:
            return PartSizes(reason=f"the sizes of the parts are not told within {PROBE_S:g} s")

    async def answers(self, config: StorageConfig, bucket: str) -> bool:
        """Return whether the server answers a HEAD of the bucket now.

        A refusal is an answer, also 501 and 505; other 5xx and 429 are not, nor is a refusal of our keys or clock.
        """
        place = ObjectPlace(bucket=bucket, key="")
        try:
            link = await self._link(config)
            async with asyncio.timeout(PROBE_S):
                await in_words(link, place, lambda: link.client.head_bucket(Bucket=bucket))
        except LIBRARY_ERRORS as error:  # a TimeoutError is an OSError
            fault = translate(error, place)
            return not isinstance(fault, StorageThrottled | StorageTimeout | SigningRefused)
        return True

    @asynccontextmanager
    async def open(
        self,
        config: StorageConfig,
        bucket: str,
        key: str,
        *,
        expected_bytes: int | None = None,
        start_byte: int = 0,
        pin: ObjectHead | None = None,
    ) -> AsyncIterator[ObjectReader]:
        """Ask for an object once there is room in the budget, and give it open: what it is, and its blocks.

        Without `pin` the first answer says which object it is, and all that follows is of that one. With `pin` it is
        the object described there, from `start_byte` on, which must be less than its size unless it is 0.
        `expected_bytes` is how long somebody else says it is. Room is kept for so much; and an answer that says another
        length is held against HEAD, as it may be cut. Who does not know the length passes what `head` said as `pin`.

        A block is valid until the one after the next is asked for, and none after the context ends. All blocks
        together have exactly the bytes promised, or one of these is raised, in the context or by the blocks: what
        `head` raises, `ObjectChanged`, `ObjectTruncated`.
        """
        if start_byte and not (pin and pin.resumable and start_byte < pin.size_bytes):
            raise ValueError("a read that starts later needs a resumable pin of a longer object")
        place = _place(bucket, key)
        link = await self._link(config)

        async def ask(at_byte: int, end_byte: int | None = None) -> tuple[ObjectHead, Body]:
            def get() -> Awaitable[tuple[ObjectHead, Body]]:
                return get_object(
                    link, place, start_byte=at_byte, end_byte=end_byte, pin=pin, expected_bytes=expected_bytes
                )

            return await self._retry.in_place(place, lambda: in_words(link, place, get))

        async def open_range(at_byte: int, end_byte: int | None) -> Body:
            return (await ask(at_byte, end_byte))[1]

        likely_bytes = pin.size_bytes - start_byte if pin else expected_bytes
        while True:
            least_bytes, wanted_bytes = self._needs(link, likely_bytes)
            async with self._budget.reserve(wanted_bytes, least_bytes=least_bytes) as held_bytes:
                pin, body = await ask(start_byte)
                likely_bytes = pin.size_bytes - start_byte
                if block_bytes := self._block_bytes(link, likely_bytes, held_bytes):
                    widened = self._widener(link, pin, open_range, left_bytes=likely_bytes, held_bytes=held_bytes)

                    async def open_at(at_byte: int, widened: Widener = widened) -> Body:
                        return widened(at_byte, await open_range(at_byte, None))

                    reader = ObjectReader(
                        place,
                        pin,
                        widened(start_byte, body),
                        open_at,
                        start_byte=start_byte,
                        block_bytes=block_bytes,
                        pace=self._pace,
                        retry=self._retry,
                        clock=self._clock,
                    )
                    self._open_reads += 1
                    try:
                        yield reader
                    finally:
                        self._open_reads -= 1
                        reader.close()
                    return
                # Larger than it was said to be, and what was kept has no room for two small blocks: come again.
                body.close()

    def _needs(self, link: Link, size_bytes: int | None) -> tuple[int, int]:
        """Return the least that a stream of so many bytes can do with, and what it wants: two blocks, and what is read
        ahead.

        One that is said to be tiny keeps some room all the same, so that a small mistake about it costs nothing.
        """
        block_bytes = self._pace.block_bytes
        likely_bytes = sys.maxsize if size_bytes is None else max(size_bytes, LEAST_BLOCK_BYTES)
        beside_bytes = min(likely_bytes, _read_ahead_bytes(link))
        least_bytes = min(likely_bytes, 2 * min(LEAST_BLOCK_BYTES, block_bytes)) + beside_bytes
        wanted_bytes = min(likely_bytes, 2 * block_bytes) + beside_bytes
        if self._pace.ranges_max > 1 and likely_bytes >= RANGES_FROM_BYTES:
            wanted_bytes += self._pace.ranges_max * (RANGE_BYTES + _read_ahead_bytes(link))
        return least_bytes, wanted_bytes

    def _widener(
        self, link: Link, head: ObjectHead, open_range: OpenRange, *, left_bytes: int, held_bytes: int
    ) -> Widener:
        """Return what lets a body of the object be joined by others, as far as what is held has room for ranges."""
        spare_bytes = held_bytes - 2 * self._pace.block_bytes - _read_ahead_bytes(link)
        buffers = min(self._pace.ranges_max, spare_bytes // (RANGE_BYTES + _read_ahead_bytes(link)))
        if buffers < 2 or left_bytes < RANGES_FROM_BYTES or not head.resumable:
            return lambda _at_byte, body: body
        return lambda at_byte, body: WideBody(
            body,
            open_range,
            start_byte=at_byte,
            end_byte=head.size_bytes,
            buffers=buffers,
            width_max=lambda: self._pace.ranges_max // max(1, self._open_reads),
            clock=self._clock,
        )

    def _block_bytes(self, link: Link, size_bytes: int, held_bytes: int) -> int:
        """Return how long the blocks of an object may be where so much is held; 0 where that is too little."""
        beside_bytes = min(size_bytes, _read_ahead_bytes(link))
        if min(size_bytes, 2 * self._pace.block_bytes) + beside_bytes <= held_bytes:
            return self._pace.block_bytes
        block_bytes = (held_bytes - beside_bytes) // 2
        return block_bytes if block_bytes >= min(LEAST_BLOCK_BYTES, self._pace.block_bytes) else 0

    async def _link(self, config: StorageConfig) -> Link:
        if config not in self._links:
            async with self._opening:
                if config not in self._links:
                    opening = open_link(self._session, config, self._pace)
                    self._links[config] = await self._open.enter_async_context(opening)
        return self._links[config]


def _place(bucket: str, key: str) -> ObjectPlace:
    """Return the object's address, or refuse one that no object can have."""
    place = ObjectPlace(bucket=bucket, key=key)
    if not re.fullmatch(_BUCKET, bucket):
        # Above all no ARN: botocore would leave the configured endpoint and ask the one that it names.
        raise ConfigFault(f"{place}: no bucket can have this name; check s3.bucket and the template in labdrive.toml")
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError as error:
        raise ObjectMissing(f"{place}: S3 keys are UTF-8, and this one cannot be written so") from error
    if not 0 < size_bytes <= KEY_MAX_BYTES:
        raise ObjectMissing(f"{place}: S3 keys have 1 to {KEY_MAX_BYTES} bytes, and this one has {size_bytes}")
    return place


def _read_ahead_bytes(link: Link) -> int:
    return READ_AHEAD_BYTES + (TLS_BYTES if link.tls else 0)
