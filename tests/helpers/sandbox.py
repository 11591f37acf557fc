"""A sandbox LABDRIVE for one test, and somebody who calls it as a client would."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp
from yarl import URL

from hashmill.sandbox import (
    ContainerConfig,
    FunctionConfig,
    IntakeConfig,
    RunningSandbox,
    SandboxConfig,
    StorageConfig,
    UserConfig,
    start,
)

ROOT_KEY, USER_KEY, READER_KEY, STRANGER_KEY = "key-of-root", "key-of-user", "key-of-reader", "key-of-stranger"


def sandbox_config(
    *,
    storage: StorageConfig | None = None,
    intake: IntakeConfig | None = None,
    database: str = ":memory:",
    on_upload: str = "",
    regex: str = "",
) -> SandboxConfig:
    """Return a config with four users, container "1" and the function "hashmill", on a free port."""
    return SandboxConfig(
        port=0,
        database=database,
        intake=intake or IntakeConfig(),
        users=(
            UserConfig(id="1", name="root", key=ROOT_KEY, root=True),
            UserConfig(id="2", name="user", key=USER_KEY),
            UserConfig(id="3", name="reader", key=READER_KEY, rights="read"),
            UserConfig(id="4", name="stranger", key=STRANGER_KEY, containers=()),
        ),
        storages=(storage or StorageConfig(),),
        containers=(ContainerConfig(id="1", name="First", on_upload=on_upload),),
        functions=(FunctionConfig(id="7", key="hashmill", name="Fixity", regex=regex, params={"depth": "full"}),),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: HTTP status, headers, the parsed envelope."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def result(self) -> Any:
        assert self.status == 200, self.body
        assert self.body["success"] is True
        return self.body["result"]


class Caller:
    """Calls one sandbox with one key at a time."""

    def __init__(self, sandbox: RunningSandbox, http: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.http = http

    async def call(self, method: str, path: str, *, key: str | None = USER_KEY, **more: Any) -> Answer:
        """Return the answer to one call; `path` goes out letter by letter, as it is."""
        headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        url = URL(self.sandbox.url + path, encoded=True)
        async with self.http.request(method, url, headers=headers, **more) as answer:
            body = await answer.json() if answer.content_type == "application/json" else await answer.text()
            return Answer(status=answer.status, headers=dict(answer.headers), body=body)

    async def upload(self, name: str, content: bytes, *, index: int = 0, container: str = "1", **fields: str) -> Answer:
        """Return the answer to one chunk of an upload."""
        form = aiohttp.FormData()
        for field, value in {"fileName": name, "chunkIndex": str(index), **fields}.items():
            form.add_field(field, value)
        form.add_field("file", BytesIO(content), filename="blob", content_type="application/octet-stream")
        return await self.call("POST", f"/api/container/{container}/file/upload", data=form)


@asynccontextmanager
async def calling(config: SandboxConfig) -> AsyncIterator[Caller]:
    """Yield a caller of a sandbox that runs as long as the block."""
    sandbox = await start(config)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            yield Caller(sandbox, http)
    finally:
        await sandbox.stop()
