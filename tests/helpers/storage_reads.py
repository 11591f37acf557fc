"""Reading a double of an S3 server through `Storage`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

from aiobotocore.session import AioSession

from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import ObjectHead, StoragePace
from tests.helpers.faulty_s3 import FaultyS3

BODY = Random(2).randbytes(700_000)
SESSION = AioSession()
QUICK = StoragePace(
    connect_timeout_s=2.0,
    idle_timeout_s=10.0,
    resumes_max=2,
    throttle_attempts=3,
    block_bytes=100_000,
)
IMPATIENT = replace(QUICK, idle_timeout_s=0.25)


@asynccontextmanager
async def storage_of(pace: StoragePace = QUICK, budget: ByteBudget | None = None) -> AsyncIterator[Storage]:
    storage = Storage(pace, budget or ByteBudget(64 << 20), session=SESSION, random=lambda: 0.0)
    try:
        yield storage
    finally:
        await storage.close()


async def read(storage: Storage, server: FaultyS3, pin: ObjectHead | None = None, **more: Any) -> bytes:
    body = bytearray()
    async with storage.open(server.config, "bucket", "key", pin=pin, **more) as opened:
        async for block in opened.blocks():
            body += block
    return bytes(body)


async def asked_by(storage: Storage, server: FaultyS3, method: str) -> None:
    """Ask for the object in one of the two ways."""
    if method == "HEAD":
        await storage.head(server.config, "bucket", "key")
    else:
        await read(storage, server)
