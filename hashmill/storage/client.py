"""One open S3 client per endpoint and credentials, and what is asked of it: HEAD, and the blocks of an object."""

import asyncio
import random as chance
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError

from hashmill.domain.errors import (
    ConfigFault,
    ObjectMissing,
    ObjectOffline,
    SigningRefused,
    StorageThrottled,
    StorageTimeout,
)
from hashmill.storage.budget import ByteBudget
from hashmill.storage.config import ObjectHead, ObjectPlace, StorageConfig, StoragePace
from hashmill.storage.faults import LIBRARY_ERRORS, is_wordless, translate
from hashmill.storage.retry import Retry
from hashmill.storage.stream import ByteStream, ObjectReader, open_stream
from hashmill.storage.wire import READ_AHEAD_BYTES, TLS_BYTES, WireSession

T = TypeVar("T")

LEAST_BLOCK_BYTES: Final = 65_536
"""To this a stream's blocks shrink when the budget is short."""

PROBE_S: Final = 5.0
"""Who has not answered the smallest question within this time is away."""

KEY_MAX_BYTES: Final = 1024
"""known: S3 user guide, object keys."""

_BUCKET: Final = r"[A-Za-z0-9](?!.*\.\.)[A-Za-z0-9._-]{0,254}"
_WORD: Final = r"[!-~]*"

_OFFLINE_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""known: S3 API reference, x-amz-storage-class; GLACIER_IR is on-line."""


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
        self._clients: dict[StorageConfig, Any] = {}
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()

    async def close(self) -> None:
        """Hang up everywhere. Streams that are still read break off."""
        self._clients.clear()
        await self._open.aclose()

    async def head(self, config: StorageConfig, bucket: str, key: str) -> ObjectHead:
        """Return what the server says of the object now.

        Raises `ObjectMissing`, `ObjectForbidden`, `ObjectOffline` (also when HEAD only says that a GET would fail),
        `StorageThrottled`, `StorageTimeout`, `ConfigFault`, `SigningRefused`.
        """
        place = _place(bucket, key)
        client = await self._client(config)
        answer = await self._retry.in_place(
            place, lambda: _in_words(client, bucket, lambda: client.head_object(Bucket=bucket, Key=key))
        )
        _refuse_offline(answer, place)
        if not answer.get("ETag") or "ContentLength" not in answer:
            raise ConfigFault(f"{place}: HEAD was answered without ETag or length; is s3.endpoint_url an S3 server?")
        version_id = answer.get("VersionId")
        return ObjectHead(
            size_bytes=answer["ContentLength"],
            etag=answer["ETag"],
            version_id=None if version_id == "null" else version_id,
            storage_class=answer.get("StorageClass"),
            last_modified=answer.get("LastModified"),
        )

    async def answers(self, config: StorageConfig, bucket: str) -> bool:
        """Return whether the server answers a HEAD of the bucket now.

        A refusal is an answer, also 501 and 505; other 5xx and 429 are not, nor is a refusal of our keys or clock.
        """
        try:
            client = await self._client(config)
            async with asyncio.timeout(PROBE_S):
                await _in_words(client, bucket, lambda: client.head_bucket(Bucket=bucket))
        except LIBRARY_ERRORS as error:  # a TimeoutError is an OSError
            fault = translate(error, ObjectPlace(bucket=bucket, key=""))
            return not isinstance(fault, StorageThrottled | StorageTimeout | SigningRefused)
        return True

    @asynccontextmanager
    async def read(
        self, config: StorageConfig, bucket: str, key: str, head: ObjectHead
    ) -> AsyncIterator[AsyncIterator[memoryview]]:
        """Wait for room in the budget and give the blocks of the very object that `head` describes, in order.

        A block is valid until the one after the next is asked for, and none after the context ends. All blocks
        together have exactly `head.size_bytes` bytes, or one of these is raised, in the context or by the blocks:
        what `head` raises, `ObjectChanged`, `ObjectTruncated`.
        """
        place = _place(bucket, key)
        client = await self._client(config)

        async def open_at(start_byte: int) -> ByteStream:
            return await self._retry.in_place(place, lambda: open_stream(client, place, head, start_byte=start_byte))

        reader = ObjectReader(place, head.size_bytes, open_at, pace=self._pace, retry=self._retry, clock=self._clock)
        beside_bytes, least_bytes, wanted_bytes = self._needs(client, head.size_bytes)
        async with self._budget.reserve(wanted_bytes, least_bytes=least_bytes) as held_bytes:
            block_bytes = self._pace.block_bytes
            if held_bytes < wanted_bytes:
                block_bytes = (held_bytes - beside_bytes) // 2
            async with aclosing(reader.blocks(block_bytes)) as blocks:
                yield blocks

    def _needs(self, client: Any, size_bytes: int) -> tuple[int, int, int]:
        """Return what a stream holds beside its two blocks, the least it can do with in all, and what it wants."""
        beside_bytes = READ_AHEAD_BYTES + (TLS_BYTES if client.meta.endpoint_url.startswith("https:") else 0)
        beside_bytes = min(size_bytes, beside_bytes)
        least_bytes = min(size_bytes, 2 * min(LEAST_BLOCK_BYTES, self._pace.block_bytes)) + beside_bytes
        return beside_bytes, least_bytes, min(size_bytes, 2 * self._pace.block_bytes) + beside_bytes

    async def _client(self, config: StorageConfig) -> Any:
        if config not in self._clients:
            async with self._opening:
                if config not in self._clients:
                    opening = _open_client(self._session, config, self._pace)
                    self._clients[config] = await self._open.enter_async_context(opening)
        return self._clients[config]


@asynccontextmanager
async def _open_client(session: AioSession, config: StorageConfig, pace: StoragePace) -> AsyncIterator[Any]:
    """Open a client that does what we say and nothing of its own accord; raise `ConfigFault` when it cannot be."""
    _check_words(config)
    ours = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": config.addressing_style},
        connect_timeout=pace.connect_timeout_s,
        read_timeout=pace.idle_timeout_s,
        max_pool_connections=pace.connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,  # the settings are the allow-list
        http_session_cls=WireSession,
        warm_up_loader_caches=True,
    )
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    endpoint_url=config.endpoint_url or None,
                    region_name=config.region,
                    aws_access_key_id=config.access_key_id or None,
                    aws_secret_access_key=config.secret_access_key.reveal() if config.secret_access_key else None,
                    aws_session_token=config.session_token.reveal() if config.session_token else None,
                    config=ours,
                )
            )
        except (BotoCoreError, ValueError, OSError) as error:  # ValueError: an endpoint that is no address
            raise ConfigFault(f"no S3 client for {config.endpoint_url or config.region}: {error}") from error
        client.meta.events.register_last("before-parameter-build.s3", _stay_here)
        yield client


def _check_words(config: StorageConfig) -> None:
    """Refuse what could not stand in a header: most often a line break at the end of a mounted secret."""
    words = {
        "region": config.region,
        "access_key_id": config.access_key_id or "",
        "secret_access_key": config.secret_access_key.reveal() if config.secret_access_key else "",
        "session_token": config.session_token.reveal() if config.session_token else "",
    }
    for name, word in words.items():
        if not re.fullmatch(_WORD, word):
            raise ConfigFault(f"s3.{name} holds a space, a line break or a letter outside ASCII")
    if not config.region:
        raise ConfigFault("s3.region is empty; write the region your S3 server expects, us-east-1 if it has none")


def _stay_here(context: dict[str, Any], **_: object) -> None:
    """Tell botocore that it has followed its one redirect already: else it would look up the bucket's region itself."""
    context.setdefault("s3_redirect", {})["redirected"] = True


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


async def _in_words(client: Any, bucket: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Return what `ask`, a HEAD, returns. It answers without a body: who says no is asked what is wrong with our keys.

    The bucket is asked, not the object: a path that some proxy rewrites has a wrong signature, and the keys are right.
    """
    try:
        return await ask()
    except ClientError as refusal:
        place = ObjectPlace(bucket=bucket, key="")
        if is_wordless(refusal) and not isinstance(translate(refusal, place), SigningRefused):
            try:
                await client.get_bucket_versioning(Bucket=bucket)
            except LIBRARY_ERRORS as reason:
                if isinstance(translate(reason, place), SigningRefused | StorageThrottled | StorageTimeout):
                    raise reason from refusal
        raise


def _refuse_offline(answer: dict[str, Any], place: ObjectPlace) -> None:
    state = (
        answer.get("StorageClass") if answer.get("StorageClass") in _OFFLINE_CLASSES else answer.get("ArchiveStatus")
    )
    restore = answer.get("Restore", "")
    if state and 'ongoing-request="false"' not in restore:
        problem = "a restore is under way" if 'ongoing-request="true"' in restore else "restore it first"
        raise ObjectOffline(f"{place}: the object is off-line in {state}; {problem}")
