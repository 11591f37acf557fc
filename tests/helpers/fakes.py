"""
What stands in for the walls when a step is tested: an API, a storage and a broker that do what a test says.

Honest ones: they keep the contract of the real client, storage and sender, and remember what they were asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from hashmill.domain.checksums import PartSizes, StoredChecksum
from hashmill.domain.errors import ApiRejected, HashmillError, ObjectChanged, ObjectMissing, StorageTimeout
from hashmill.domain.event import from_public
from hashmill.domain.job import JobStatus, MessageType
from hashmill.domain.remote import FilePage, RemoteContainer, RemoteFile, RemoteKind, RemoteMessage
from hashmill.domain.secret import Secret
from hashmill.domain.work import Ticket
from hashmill.flow.accept import accept
from hashmill.flow.deliver import Deliverer
from hashmill.flow.dispatch import Dispatcher
from hashmill.flow.expand import expand
from hashmill.flow.finish import finish
from hashmill.flow.tools import ObjectPlace, Rules, WorkTools
from hashmill.hashing.engine import HashEngine
from hashmill.labdrive.client import LabdriveClient
from hashmill.ledger import runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.entries import new_id
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer, new_key
from hashmill.queue import Queue
from hashmill.storage.client import Storage
from hashmill.storage.config import ObjectHead, StorageConfig

ORIGIN = "http://127.0.0.1:1"
CANARY = "key-that-must-never-be-seen"
OTHER_ORIGIN = "http://127.0.0.1:2"
RULES = Rules(
    allowed_origins=frozenset({ORIGIN, OTHER_ORIGIN}),
    window=32,
    big_window=4,
    retry_base_s=0.0,
    report_base_s=0.0,
    report_auth_give_up_after_s=0.0,
    tick_s=0.01,
    idle_tick_s=0.02,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the API as it arrived; `at_s` is when, on the loop's clock."""

    name: str
    url: str
    what: Mapping[str, Any]
    at_s: float


@dataclass(slots=True)
class FakeLabdrive:
    """An API with files. `answer` is asked before every call: it may raise, and it may wait."""

    files: dict[str, RemoteFile] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    answer: Callable[[Call], Any] = lambda call: None
    storage_id: str | None = None
    messages: Callable[[str], list[RemoteMessage]] | None = None
    """What a job's list of messages says; None where the platform has no such list."""

    def add(self, *files: RemoteFile) -> None:
        self.files.update({file.file_id: file for file in files})

    def made(self, *names: str) -> list[Call]:
        """Return the calls of these names that were not refused, in order."""
        return [call for call in self.calls if call.name in names]

    async def _asked(self, name: str, access: Any, **what: Any) -> None:
        call = Call(name=name, url=access.url, what=what, at_s=asyncio.get_running_loop().time())
        answer = self.answer(call)
        if asyncio.iscoroutine(answer):
            await answer
        else:
            await asyncio.sleep(0)
        self.calls.append(call)

    async def set_job_status(self, access: Any, job_id: str, status: JobStatus, idempotency_key: str) -> None:
        await self._asked("set_job_status", access, job_id=job_id, status=status, key=idempotency_key)

    async def create_message(
        self, access: Any, job_id: str, text: str, type: MessageType, file_id: str | None, idempotency_key: str
    ) -> None:
        await self._asked(
            "create_message", access, job_id=job_id, text=text, type=type, file_id=file_id, key=idempotency_key
        )

    async def list_messages(self, access: Any, job_id: str, *, most: int) -> list[RemoteMessage] | None:
        await self._asked("list_messages", access, job_id=job_id)
        return None if self.messages is None else self.messages(job_id)

    def type_name(self, message_type: MessageType) -> str:
        return str(message_type)

    async def set_hash(self, access: Any, file_id: str, algorithm: str, digest: str, idempotency_key: str) -> None:
        await self._asked("set_hash", access, file_id=file_id, algorithm=algorithm, digest=digest, key=idempotency_key)

    async def get_container(self, access: Any, container_id: str) -> RemoteContainer:
        await self._asked("get_container", access, container_id=container_id)
        return RemoteContainer(container_id=container_id, storage_id=self.storage_id)

    async def get_file(self, access: Any, file_id: str) -> RemoteFile:
        await self._asked("get_file", access, file_id=file_id)
        if file_id not in self.files:
            raise ApiRejected(f"get_file: 404: no file {file_id}", status=404)
        return self.files[file_id]

    async def get_file_by_path(self, access: Any, container_id: str, path: str) -> RemoteFile:
        await self._asked("get_file_by_path", access, path=path)
        for file in self.files.values():
            if file.path == path:
                return file
        raise ApiRejected(f"get_file_by_path: 404: no file {path}", status=404)

    async def list_files(self, access: Any, container_id: str, cursor: str | None, limit: int) -> FilePage:
        await self._asked("list_files", access, cursor=cursor)
        start = int(cursor or 0)
        page = tuple(list(self.files.values())[start : start + limit])
        return FilePage(files=page, next_cursor=str(start + len(page)) if page else None)


def remote(number: int | str, *, path: str | None = None, size_bytes: int | None = 10, **file: Any) -> RemoteFile:
    """Return a file of container 1."""
    named = {"container_id": "1", "kind": RemoteKind.FILE, **file}
    return RemoteFile(file_id=str(number), path=path or f"dir/{number}.bin", size_bytes=size_bytes, **named)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeObject:
    """An open object."""

    head: ObjectHead
    blocks: Callable[[], AsyncIterator[memoryview]]


@dataclass(slots=True)
class FakeStorage:
    """Objects by key: bytes, an error to raise, or a function that gives or raises them. Others are missing.

    `read_gate` holds every read until it is set; `away` says that the server answers nobody, or what it
    tells everybody; `mute`, that it does not answer the small question, and reads all the same.
    """

    objects: dict[str, Any] = field(default_factory=dict)
    read_gate: asyncio.Event | None = None
    reading: int = 0
    away: bool | HashmillError = False
    mute: bool = False
    asked: int = 0
    tried: int = 0
    block_bytes: int = 1 << 30
    read_bytes: int = 0
    etags: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, tuple[StoredChecksum, ...]] = field(default_factory=dict)
    """What the server states of an object, by key; nothing of others."""
    part_sizes: dict[str, PartSizes] = field(default_factory=dict)
    asked_parts: int = 0

    async def answers(self, config: StorageConfig, bucket: str) -> bool:
        self.asked += 1
        await asyncio.sleep(0)
        return not (self.away or self.mute)

    async def head(self, config: StorageConfig, bucket: str, key: str, *, even_offline: bool = False) -> ObjectHead:
        self.tried += 1
        body = self._body(key)
        return ObjectHead(
            size_bytes=len(body), etag=self.etags.get(key, f'"{key}"'), checksums=self.checksums.get(key, ())
        )

    async def parts(self, config: StorageConfig, bucket: str, key: str, head: ObjectHead, count: int) -> PartSizes:
        self.asked_parts += 1
        await asyncio.sleep(0)
        return self.part_sizes.get(key, PartSizes(reason="the sizes of the parts are not told: 403"))

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
    ) -> AsyncIterator["FakeObject"]:
        head = await self.head(config, bucket, key)
        if pin is not None and (pin.etag, pin.size_bytes) != (head.etag, head.size_bytes):
            raise ObjectChanged(f"{key}: another one")
        head = pin or head

        async def blocks() -> AsyncIterator[memoryview]:
            self.reading += 1
            try:
                if self.read_gate is not None:
                    await self.read_gate.wait()
                body = memoryview(self._body(key))[start_byte:]
                for start in range(0, max(len(body), 1), self.block_bytes):
                    block = body[start : start + self.block_bytes]
                    self.read_bytes += len(block)
                    yield block
            finally:
                self.reading -= 1

        yield FakeObject(head=head, blocks=blocks)

    def _body(self, key: str) -> bytes:
        body = self.objects.get(key, ObjectMissing(f"{key}: there is none"))
        if self.away:
            body = StorageTimeout(f"{key}: no answer") if self.away is True else self.away
        if callable(body):
            body = body()
        if isinstance(body, BaseException):
            raise body
        return cast(bytes, body)


@dataclass(slots=True)
class FakeQueue:
    """A broker that keeps what it is sent; `down` makes it unreachable, `held` is how many messages it says it has."""

    tickets: list[Ticket] = field(default_factory=list)
    rung: list[str] = field(default_factory=list)
    down: bool = False
    held: int = 0

    def waiting(self) -> dict[str, int] | None:
        return None if self.down else {"files": self.held}

    def send(self, tickets: Sequence[Ticket]) -> bool:
        if not self.down:
            self.tickets += tickets
        return not self.down

    def ring(self, run_id: str) -> bool:
        if not self.down:
            self.rung.append(run_id)
        return not self.down


@dataclass(slots=True, kw_only=True)
class Stage:
    """Open tools over a real ledger, and the fakes behind them."""

    tools: WorkTools
    api: FakeLabdrive
    storage: FakeStorage
    queue: FakeQueue


@contextmanager
def staged(
    ledger: Ledger, *, rules: Rules = RULES, process: str = "here", sealer: Sealer | None = None
) -> Iterator[Stage]:
    """Yield the tools of one process on `ledger`."""
    api, storage, queue = FakeLabdrive(), FakeStorage(), FakeQueue()
    engine = HashEngine(1, 1_048_576)

    def place_of(tenant_id: str, container_id: str, storage_id: str | None, file_id: str, path: str) -> ObjectPlace:
        return ObjectPlace(config=StorageConfig(), bucket="bucket", key=path)

    tools = WorkTools(
        ledger=ledger,
        queue=cast(Queue, queue),
        sealer=sealer or Sealer(Secret(new_key())),
        rules=rules,
        process=process,
        labdrive=cast(LabdriveClient, api),
        storage=cast(Storage, storage),
        engine=engine,
        place_of=place_of,
        in_flight=asyncio.Semaphore(64),
        draining=asyncio.Event(),
        presence={"slots": 4},
    )
    try:
        yield Stage(tools=tools, api=api, storage=storage, queue=queue)
    finally:
        tools.threads.shutdown(wait=True, cancel_futures=True)
        engine.close()


async def accepted(stage: Stage, **differs: Any) -> Run:
    """Accept an event of job 299 through the step itself; `differs` are fields of `TriggerEvent`."""
    public = {
        "api_url": ORIGIN,
        "container_id": "1",
        "user_id": "1",
        "job_id": "299",
        "file_ids": [],
        "file_paths": [],
        "trigger_id": "0",
        "trigger_type": "",
        "trigger_regex": "",
        "function_id": "0",
        "function_key": "",
        "function_params": {},
        "algorithms": ["md5"],
        "priority": 5,
        "mode": "hash",
    }
    event = from_public({**public, **differs}, key_user=Secret(CANARY))
    run, made = await accept(stage.tools, event, idempotency_key=new_id())
    assert made
    return run


async def listed(stage: Stage, count: int, *, size_bytes: int | None = 10, start: int = 1, **event: Any) -> Run:
    """Accept a run of `count` files by id and expand it; their objects are there. `event` as in `accepted`."""
    numbers = range(start, start + count)
    stage.api.add(*(remote(number, size_bytes=size_bytes) for number in numbers))
    stage.storage.objects.update({f"dir/{number}.bin": b"0123456789" for number in numbers})
    run = await accepted(stage, **{"file_ids": [str(number) for number in numbers], **event})
    await expand(stage.tools, run.run_id)
    return await run_now(stage, run)


async def run_now(stage: Stage, run: Run) -> Run:
    """Return the run as the ledger has it now."""
    found = await stage.tools.ledger.read(runs.get, run.run_id)
    assert found is not None
    return found


async def dispatched(stage: Stage) -> list[Ticket]:
    """Let a fresh dispatcher hand out what there is room for, and return its tickets."""
    before = len(stage.queue.tickets)
    await Dispatcher().round(stage.tools)
    return stage.queue.tickets[before:]


async def delivered(stage: Stage, *, rounds: int = 50) -> None:
    """Send what is owed, and close and end what can be, until nothing moves."""
    sender = Deliverer()
    for _ in range(rounds):
        moved = await sender.round(stage.tools)
        moved += await finish(stage.tools)
        if not moved:
            return
    await sender.stop()
