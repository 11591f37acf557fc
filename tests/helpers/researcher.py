"""What a researcher has: a LABDRIVE with files in a real S3 server, a job, and an event written by hand."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from libnova.Labdrive.Api.Driver import Driver

from hashmill.parts.s3 import S3Server
from hashmill.sandbox import ContainerConfig, RunningSandbox, SandboxConfig, StorageConfig, UserConfig, start

T = TypeVar("T")

SAMPLE_KEY = "1234567890abcdefghijklmnopqrstuvwxyz"
"""The key in the vendor's sample."""
SAMPLE_JOB = 299
"""And its job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A sandbox in a thread of its own, and the bucket of its storage."""

    sandbox: RunningSandbox
    s3: S3Server
    bucket: str
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self.sandbox.url

    def ask(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; it is done where the sandbox lives."""

        async def done() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(60)

    def put(self, path: str, content: bytes, *, container_id: str = "1") -> str:
        """Store a file and return its id."""
        client = self.s3.client()
        client.put_object(Bucket=self.bucket, Key=f"{container_id}/{path}", Body=content)
        client.close()
        return self.ask(lambda: self.sandbox.add_file(container_id, f"/{path}", size_bytes=len(content)))

    def job(self) -> str:
        return self.ask(lambda: self.sandbox.add_job("1", "notebook"))

    def set_faults(self, *rules: Any) -> None:
        self.ask(lambda: self.sandbox.set_faults(*rules))


def event(*, ids: Any = (), paths: Any = (), job: str = "", key: str = SAMPLE_KEY, block: str = "labdrive") -> Any:
    """Return the event a notebook writes by hand; it names an address that nobody must call."""
    body = {
        "api": {"url": "http://labdrive.invalid", "key_user": key, "key_root": ""},
        block: {
            "container": {"id": "1"},
            "user": {"id": "1"},
            "files": {"ids": list(ids), "paths": list(paths)},
            "job": {"id": job},
        },
        "function_params": {"depth": "full"},
    }
    return SimpleNamespace(body=json.dumps(body))


@contextmanager
def desk(s3: S3Server) -> Iterator[Desk]:
    """A running sandbox that knows the sample's key and its job."""
    bucket = s3.make_bucket()
    config = SandboxConfig(
        port=0,
        database=":memory:",
        users=(
            UserConfig(id="1", name="researcher", key=SAMPLE_KEY),
            UserConfig(id="2", name="reader", key="key-of-reader", rights="read"),
        ),
        storages=(
            StorageConfig(
                endpoint_url=s3.endpoint_url,
                bucket=bucket,
                access_key_id=s3.access_key_id,
                secret_access_key=s3.secret_access_key,
            ),
        ),
        containers=(ContainerConfig(id="1", name="Research"),),
    )
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="sandbox")
    thread.start()
    sandbox = asyncio.run_coroutine_threadsafe(start(config), loop).result(60)
    running = Desk(sandbox=sandbox, s3=s3, bucket=bucket, loop=loop)
    try:
        running.ask(lambda: [sandbox.add_job("1") for _ in range(SAMPLE_JOB)])
        yield running
    finally:
        asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def sit_down(monkeypatch: pytest.MonkeyPatch, place: Desk, *, endpoint_url: str | None = None) -> None:
    """Set the environment as LABDRIVE's notebooks would, and start the driver."""
    for name, value in {
        "LIBNOVA_API_URL": place.url,
        "LIBNOVA_S3_ENDPOINT_URL": endpoint_url or place.s3.endpoint_url,
        "LIBNOVA_S3_BUCKET": place.bucket,
        "LIBNOVA_S3_ADDRESSING": "path",
        "AWS_ACCESS_KEY_ID": place.s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": place.s3.secret_access_key,
        "AWS_DEFAULT_REGION": place.s3.region,
    }.items():
        monkeypatch.setenv(name, value)
    for name in (
        "LIBNOVA_API_KEY",
        "LIBNOVA_TABLE",
        "LIBNOVA_PROGRESS",
        "LIBNOVA_EVENT",
        "LIBNOVA_CAPTURE",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("libnova.Labdrive.Api.Driver._current", Driver(key=SAMPLE_KEY))
