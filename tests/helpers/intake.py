"""A door that answers on a free port over a real ledger, and what a test does through it and behind it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, JobStatus, SizeClass
from hashmill.domain.secret import Secret
from hashmill.domain.work import ClaimedFile, FileOutcome, NewFile, Ticket
from hashmill.flow import words
from hashmill.flow.tools import DoorTools, Rules
from hashmill.home import app_home
from hashmill.intake.config import IntakeConfig
from hashmill.intake.server import serve
from hashmill.ledger import expansions, files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.migrate import upgrade
from hashmill.ledger.seal import Sealer, new_key
from hashmill.queue import Queue
from tests.helpers.wait import wait_until_async

API = "https://labdrive.example.org"
CANARY = "canary-7f3d9a-never-shown"
TOKEN = "a-token-for-tests"


def event(**changes: Any) -> dict[str, Any]:
    """An event of the seed's shape; `job_id` and the like replace what they name."""
    return {
        "api": {"url": changes.get("url", API), "key_user": CANARY, "key_root": f"{CANARY}-root"},
        "labdrive": {
            "container": {"id": changes.get("container_id", "1")},
            "user": {"id": "1"},
            "files": {"ids": [], "paths": []},
            "job": {"id": changes.get("job_id", "299")},
            "trigger": {"id": "0", "type": "", "regex": ""},
            "function": {"id": "0", "key": ""},
        },
        "function_params": changes.get("params", {}),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def faults(self) -> dict[str, str]:
        return {fault["path"]: fault["problem"] for fault in self.json["faults"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDoor:
    """`ask` sends what it is given and nothing else; the rest is done in the ledger, as workers would."""

    url: str
    tools: DoorTools
    http: aiohttp.ClientSession

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for those who speak no HTTP."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    async def ask(self, method: str, path: str, **options: Any) -> Answered:
        async with self.http.request(method, self.url + path, allow_redirects=False, **options) as response:
            return Answered(status=response.status, headers=response.headers, raw=await response.read())

    async def get(self, path: str) -> Answered:
        return await self.ask("GET", path)

    async def post(self, body: Any, path: str = "/v1/events", *, key: str | None = None) -> Answered:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.ask("POST", path, json=body, headers=headers)

    async def accepted(self, **changes: Any) -> str:
        """Post an event and return its run's id."""
        answered = await self.post(event(**changes))
        assert answered.status == 202, answered.raw
        return str(answered.json["run_id"])

    async def expand(self, run_id: str, found: Sequence[NewFile]) -> None:
        """Write the files of a run, all that it has."""

        def work(connection: Any) -> None:
            running = words.status(JobStatus.RUNNING)
            claimed = expansions.claim(connection, run_id, lease_s=30, running=running, entry={})
            assert claimed is not None
            assert expansions.add_files(connection, claimed, found, cursor={}, lease_s=30)
            assert expansions.end(connection, claimed, {})

        await self.tools.ledger.write(work)

    async def claim(self, run_id: str, *, limit: int = 100) -> list[ClaimedFile]:
        """Queue and claim the next files of a run."""

        def work(connection: Any) -> list[ClaimedFile]:
            queued = files.queue(connection, run_id, SizeClass.TINY, after_no=0, limit=limit)
            ticket = Ticket(run_id=run_id, size_class=SizeClass.TINY, files=queued)
            return files.claim(connection, ticket, owner="a-worker", lease_s=30)

        return await self.tools.ledger.write(work)

    async def settle(self, run_id: str, outcomes: Sequence[FileOutcome]) -> None:
        assert await self.tools.ledger.write(files.settle, run_id, outcomes) == 0


def new_file(number: int, *, path: str | None = None, size_bytes: int = 1000) -> NewFile:
    return NewFile(
        file_ref=f"id:{number}",
        file_id=str(number),
        path=path or f"folder/file {number}",
        size_bytes=size_bytes,
        size_class=SizeClass.TINY,
    )


def hashed(file: ClaimedFile) -> FileOutcome:
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.DONE,
        size_bytes=file.size_bytes,
        digests={"md5": "0" * 32},
        verdict="no_baseline",
        entry={"file_no": file.file_no, "path": file.path},
    )


def failed(file: ClaimedFile, error_class: ErrorClass = ErrorClass.S3_NOT_FOUND) -> FileOutcome:
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.FAILED,
        size_bytes=file.size_bytes,
        error_class=error_class,
        error_detail=f"{file.path}: no",
        entry={"file_no": file.file_no, "path": file.path},
    )


def closed_port() -> int:
    """Return a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def open_door(
    ledger_url: str, *, broker_url: str | None = None, token: str = "", upgraded: bool = True, **config: Any
) -> AsyncIterator[OpenDoor]:
    """Open a door over the ledger at `ledger_url`; with no `broker_url` there is no broker."""
    ledger = Ledger(ledger_url, timeout_s=5.0)
    if upgraded:
        upgrade(ledger.engine, app_home() / "migrations")
    queue = Queue(broker_url or f"redis://127.0.0.1:{closed_port()}/0", cell="test", timeout_s=1.0)
    tools = DoorTools(
        ledger=ledger,
        queue=queue,
        sealer=Sealer(Secret(new_key())),
        rules=Rules(allowed_origins=frozenset({API})),
        process="the-door",
    )
    stop, urls = asyncio.Event(), list[str]()
    serving = asyncio.create_task(
        serve(tools, IntakeConfig(bearer_token=Secret(token), **config), stop, ready=urls.append)
    )
    try:
        await wait_until_async(lambda: urls or serving.done(), what="the door answers")
        if serving.done():
            serving.result()
        async with aiohttp.ClientSession() as http:
            yield OpenDoor(url=urls[0], tools=tools, http=http)
    finally:
        stop.set()
        await asyncio.wait([serving])
        tools.threads.shutdown(wait=True)
        queue.close()
        ledger.close()
    serving.result()
