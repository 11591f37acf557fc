"""The content of files: objects in the real bucket of a storage."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from hashmill.sandbox.catalog import ObjectFound
from hashmill.sandbox.config import StorageConfig

# S3's own bound on every part but the last (known: AWS's limits of multipart uploads).
PART_MIN_BYTES: Final = 5 * 1024 * 1024
PAGE_OBJECTS: Final = 1000


class StorageFault(Exception):
    """The bucket of a storage did not do what was asked; the message holds the server's own words."""


def object_key(container_id: str, fullpath: str) -> str:
    """Return where a file's content lies: the container's id, then the path without its one leading slash.

    Inferred: one bucket per storage, the container's id as the first part of the key.
    """
    return f"{container_id}/{fullpath.removeprefix('/')}"


class Objects:
    """One storage's bucket. The connection is opened by the first call that needs it."""

    def __init__(self, storage: StorageConfig) -> None:
        self._storage = storage
        self._open = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def put(self, key: str, chunks: Sequence[Path]) -> None:
        """Store the chunks, one after another, as one object.

        Two or more chunks that are large enough become the parts of a multipart upload; all else is one put.
        """
        sizes_bytes = [chunk.stat().st_size for chunk in chunks]
        try:
            if len(chunks) > 1 and min(sizes_bytes[:-1]) >= PART_MIN_BYTES:
                await self._put_parts(key, chunks)
            else:
                await self._put_whole(key, chunks)
        except (ClientError, BotoCoreError) as error:
            raise StorageFault(f"storage {self._storage.id}: {error}") from error

    async def get(self, key: str, *, max_bytes: int) -> bytes:
        """Return the first `max_bytes` of an object."""
        client = await self._connected()
        try:
            answer = await client.get_object(Bucket=self._storage.bucket, Key=key)
            async with answer["Body"] as body:
                content = bytearray()
                while len(content) < max_bytes and (piece := await body.read(max_bytes - len(content))):
                    content += piece
        except (ClientError, BotoCoreError) as error:
            raise StorageFault(f"storage {self._storage.id}: {error}") from error
        return bytes(content)

    async def listing(self, container_id: str) -> AsyncIterator[list[ObjectFound]]:
        """Yield a container's objects page by page, in the order of their keys."""
        client = await self._connected()
        prefix = object_key(container_id, "/")
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self._storage.bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_OBJECTS}
        )
        try:
            async for page in pages:
                yield [
                    ObjectFound(fullpath="/" + found["Key"][len(prefix) :], size_bytes=found["Size"])
                    for found in page.get("Contents", [])
                    if found["Key"] != prefix
                ]
        except (ClientError, BotoCoreError) as error:
            raise StorageFault(f"storage {self._storage.id}: {error}") from error

    async def _put_whole(self, key: str, chunks: Sequence[Path]) -> None:
        client = await self._connected()
        whole, *rest = chunks
        await asyncio.to_thread(_append, whole, rest)
        with whole.open("rb") as body:
            await client.put_object(Bucket=self._storage.bucket, Key=key, Body=body)

    async def _put_parts(self, key: str, chunks: Sequence[Path]) -> None:
        client = await self._connected()
        target = {"Bucket": self._storage.bucket, "Key": key}
        upload_id = (await client.create_multipart_upload(**target))["UploadId"]
        parts = []
        try:
            for number, chunk in enumerate(chunks, start=1):
                with chunk.open("rb") as body:
                    done = await client.upload_part(**target, UploadId=upload_id, PartNumber=number, Body=body)
                parts.append({"PartNumber": number, "ETag": done["ETag"]})
            await client.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})
        except (ClientError, BotoCoreError):
            await client.abort_multipart_upload(**target, UploadId=upload_id)
            raise

    async def _connected(self) -> Any:
        if self._client is None:
            if not self._storage.endpoint_url:
                raise StorageFault(f"storage {self._storage.id} has no endpoint_url, so there is no bucket")
            # Checksums only where S3 demands them: not every S3 server keeps the newer ones.
            config = AioConfig(
                signature_version="s3v4",
                s3={"addressing_style": self._storage.addressing_style},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"mode": "standard", "total_max_attempts": 3},
            )
            self._client = await self._open.enter_async_context(
                get_session().create_client(
                    "s3",
                    endpoint_url=self._storage.endpoint_url,
                    region_name=self._storage.region,
                    aws_access_key_id=self._storage.access_key_id,
                    aws_secret_access_key=self._storage.secret_access_key,
                    config=config,
                )
            )
        return self._client


def _append(whole: Path, rest: Sequence[Path]) -> None:
    with whole.open("ab") as target:
        for chunk in rest:
            with chunk.open("rb") as more:
                shutil.copyfileobj(more, target, 1024 * 1024)
