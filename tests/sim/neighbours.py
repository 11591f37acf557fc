"""What a simulated process talks to: a broker, an S3, a LABDRIVE, and a process beside it in which suspects are read.

A request that has left its process is the server's: it takes effect even if whoever sent it is killed meanwhile.
"""

import asyncio
import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hashmill.domain.checksums import PartSizes, StoredChecksum
from hashmill.domain.errors import (
    ApiAuth,
    ApiRejected,
    ApiUnavailable,
    HashmillError,
    ObjectChanged,
    ObjectForbidden,
    ObjectMissing,
    ObjectOffline,
    ObjectTruncated,
    StorageThrottled,
    StorageTimeout,
)
from hashmill.domain.job import SizeClass
from hashmill.domain.remote import FilePage, RemoteContainer, RemoteFile, RemoteMessage
from hashmill.domain.work import FileOutcome, Ticket
from hashmill.flow.hash_one import read_one
from hashmill.flow.tools import MillTools
from hashmill.flow.trial import Fault, Question, TrialEnded
from hashmill.storage.config import ObjectHead
from tests.sim.engine import Body

if TYPE_CHECKING:
    from tests.sim.world import World

ANSWER_S = 30.0
"""So long a process waits for an answer that does not come."""


@dataclass(slots=True, eq=False)
class Message:
    """What waits in the broker: a ticket, or the id of a run to be expanded."""

    number: int
    what: Ticket | str

    @property
    def queue(self) -> str:
        if isinstance(self.what, str):
            return "runs"
        return "big" if self.what.size_class is SizeClass.BIG else "files"


class Broker:
    """One for all; messages get lost, doubled, late and out of order by the plan."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._count = 0
        self.away = False
        self.waiting: list[Message] = []

    def publish(self, what: Ticket | str) -> None:
        world = self._world
        if world.happens("bell_loses"):
            world.note("broker", "loses", _told(what))
            return
        for _ in range(2 if world.happens("bell_doubles") else 1):
            self._count += 1
            delay_s = world.chance.uniform(0.001, 0.02)
            if world.happens("bell_delays"):
                delay_s = world.chance.uniform(0.1, 12.0)
            world.loop.apart(delay_s, self._arrive, Message(self._count, what))

    def _arrive(self, message: Message) -> None:
        self.waiting.append(message)
        self.pump()

    def pump(self) -> None:
        """Give what waits to whoever has a free slot, in any order."""
        world = self._world
        while self.waiting and not self.away:
            free = [worker for worker in world.workers if worker.takes_messages]
            if not free:
                return
            message = self.waiting.pop(world.chance.randrange(len(self.waiting)))
            worker = world.chance.choice(free)
            world.note(worker.body.name, "gets", message.number, _told(message.what))
            worker.take(message)

    def empty(self) -> None:
        self._world.note("broker", "emptied", len(self.waiting))
        self.waiting.clear()

    def orphaned(self, messages: Sequence[Message]) -> None:
        """The process that had these is gone; some brokers give them to the next."""
        for message in messages:
            if self._world.chance.random() < 0.3:
                self._world.loop.apart(self._world.chance.uniform(0.1, 5.0), self._arrive, message)


class SimQueue:
    """The interface of `hashmill.queue.Queue`, for one process."""

    def __init__(self, world: "World", body: Body) -> None:
        self._world = world
        self._body = body

    def _reached(self) -> bool:
        return not (self._body.over or self._world.broker.away or self._world.happens("bell_refuses"))

    def send(self, tickets: Sequence[Ticket]) -> bool:
        reached = self._reached()
        # A connection that breaks may have carried some of them.
        gone = len(tickets) if reached else 0 if self._world.broker.away else self._world.chance.randrange(len(tickets))
        self._world.note(self._body.name, "sends", reached, *(_told(ticket) for ticket in tickets))
        for ticket in tickets[:gone]:
            self._world.broker.publish(ticket)
        return reached

    def ring(self, run_id: str) -> bool:
        reached = self._reached()
        self._world.note(self._body.name, "rings", reached, run_id)
        if reached:
            self._world.broker.publish(run_id)
        return reached

    def waiting(self) -> dict[str, int] | None:
        if not self._reached():
            return None
        return dict(Counter(message.queue for message in self._world.broker.waiting))


def _told(what: Ticket | str) -> str:
    return what if isinstance(what, str) else f"{what.run_id[-6:]} {what.size_class} {what.files}"


@dataclass(slots=True)
class Thing:
    """An object: what it held over time by ETag, what is wrong with it, and what was done to those who read it."""

    key: str
    versions: dict[str, bytes] = field(default_factory=dict)
    nature: str = "fine"
    kills: bool = False
    strikes: Counter[str] = field(default_factory=Counter)
    """Errors given, by class."""
    deaths: int = 0
    """How often a process ended that held the lease of this file."""

    @property
    def etag(self) -> str:
        return list(self.versions)[-1]

    def size_of(self, etag: str) -> int:
        return len(self.versions[etag])

    def stated(self, etag: str) -> tuple[StoredChecksum, ...]:
        """Return what the server stores of a version: nothing, a checksum of it, or one of its halves."""
        body, halves = self.versions[etag], self.halves(etag)
        match zlib.crc32(self.key.encode()) % 4:
            case 0:
                return ()
            case 1:
                return (StoredChecksum(algorithm="crc32", digest=f"{zlib.crc32(body):08x}"),)
            case _:
                digests = b"".join(hashlib.sha1(half, usedforsecurity=False).digest() for half in halves)
                over_all = hashlib.sha1(digests, usedforsecurity=False).hexdigest()
                return (StoredChecksum(algorithm="sha1", digest=over_all, parts=2),)

    def halves(self, etag: str) -> tuple[bytes, bytes]:
        """Return the two parts a version was uploaded in."""
        body = self.versions[etag]
        return body[: len(body) // 3], body[len(body) // 3 :]

    def parts_of(self, etag: str) -> PartSizes:
        """Return how long these are; of some objects the server does not tell."""
        if zlib.crc32(self.key.encode()) % 4 == 3:
            return PartSizes(reason="the sizes of the parts are not told: 403")
        return PartSizes(sizes_bytes=tuple(len(half) for half in self.halves(etag)))

    def overwrite(self, body: bytes) -> None:
        self.versions[f'"{len(self.versions)}-{hashlib.sha256(body).hexdigest()[:8]}"'] = body


@dataclass(frozen=True, slots=True, kw_only=True)
class SimObject:
    """An open object: one question, which told what it is, and then its bytes."""

    head: ObjectHead
    blocks: Callable[[], AsyncIterator[memoryview]]


class SimStorage:
    """The interface of `hashmill.storage.client.Storage`, for one process. `killed` ends it."""

    def __init__(self, world: "World", body: Body, killed: Callable[[], None]) -> None:
        self._world = world
        self._body = body
        self._killed = killed

    async def answers(self, config: Any, bucket: str) -> bool:
        await self._pause()
        return not self._world.storage_away

    async def head(self, config: Any, bucket: str, key: str, *, even_offline: bool = False) -> ObjectHead:
        thing = await self._found(key, even_offline=even_offline)
        return _head_of(thing)

    async def parts(self, config: Any, bucket: str, key: str, head: ObjectHead, count: int) -> PartSizes:
        thing = self._world.things[key]
        if self._world.storage_away or thing.etag != head.etag:
            return PartSizes(reason="the sizes of the parts are not told: no answer")
        return thing.parts_of(thing.etag)

    @asynccontextmanager
    async def open(
        self,
        config: Any,
        bucket: str,
        key: str,
        *,
        expected_bytes: int | None = None,
        start_byte: int = 0,
        pin: ObjectHead | None = None,
    ) -> AsyncIterator["SimObject"]:
        thing = await self._found(key)
        head = _head_of(thing)
        if pin is not None and pin.etag != head.etag:
            raise struck(thing, ObjectChanged(f"{key} was replaced"))
        yield SimObject(head=head, blocks=lambda: self._blocks(key, head, start_byte))

    async def _blocks(self, key: str, head: ObjectHead, start_byte: int) -> AsyncIterator[memoryview]:
        world = self._world
        thing = await self._found(key)
        if thing.kills and world.faulty:
            world.note(self._body.name, "killed by", key)
            self._killed()
            await asyncio.sleep(0)
        body = thing.versions[head.etag][start_byte:]
        if world.happens("storage_lies"):
            thing.strikes[ObjectTruncated.error_class] += 1
            body = body[:-1]
        middle = len(body) // 2
        yield memoryview(body[:middle])
        await self._pause()
        self._may_fail(thing)
        if thing.etag != head.etag:
            raise struck(thing, ObjectChanged(f"{key} was replaced"))
        yield memoryview(body[middle:])

    async def _found(self, key: str, *, even_offline: bool = False) -> Thing:
        await self._pause()
        thing = self._world.things[key]
        self._may_fail(thing)
        match thing.nature:
            case "missing":
                raise struck(thing, ObjectMissing(key))
            case "offline" if not even_offline:
                raise struck(thing, ObjectOffline(key))
            case "forbidden":
                raise struck(thing, ObjectForbidden(key))
        return thing

    async def _pause(self) -> None:
        slow = self._world.happens("storage_slow")
        await asyncio.sleep(self._world.chance.uniform(0.5, 12.0) if slow else self._world.chance.uniform(0.001, 0.05))

    def _may_fail(self, thing: Thing) -> None:
        world = self._world
        if world.storage_away:
            raise struck(thing, StorageTimeout("no answer"))
        if world.happens("storage_fails"):
            raise struck(
                thing,
                world.chance.choice(
                    (
                        StorageTimeout("slow"),
                        StorageThrottled("SlowDown", retry_after_s=world.chance.choice((None, 0.5, 2.0))),
                        ObjectTruncated(thing.key, expected_bytes=2, received_bytes=1),
                    )
                ),
            )


def _head_of(thing: Thing) -> ObjectHead:
    return ObjectHead(size_bytes=thing.size_of(thing.etag), etag=thing.etag, checksums=thing.stated(thing.etag))


def struck(thing: Thing, error: HashmillError) -> HashmillError:
    thing.strikes[error.error_class] += 1
    return error


class _Ended(BaseException):
    """The process in which a suspect was read has ended."""


class SimTrial:
    """The interface of `hashmill.flow.trial.Trial`: a process beside the worker's, which ends with it."""

    def __init__(self, world: "World", tools: MillTools, body: Body) -> None:
        self._world = world
        self._body = body
        self._tools = MillTools(
            process=tools.process,
            rules=tools.rules,
            storage=world.storage(world, body, self._end),  # type: ignore[arg-type]
            engine=tools.engine,
            place_of=tools.place_of,
            draining=tools.draining,
            clock_s=tools.clock_s,
        )
        self._starting: asyncio.Task[None] | None = None
        self.ready = False

    def _end(self) -> None:
        self.ready = False
        raise _Ended

    def warm_up(self) -> "asyncio.Task[None] | None":
        if self.ready:
            return None
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
        return self._starting

    async def _start(self) -> None:
        await asyncio.sleep(self._world.chance.uniform(0.1, 1.0))
        self.ready = True

    async def read(self, question: Question) -> FileOutcome:
        try:
            return await read_one(self._tools, question.run, question.file)
        except _Ended:
            raise TrialEnded("signal 9 (Killed)") from None
        except HashmillError as error:
            raise Fault.of(error).error() from None

    async def stop(self) -> None:
        self.ready = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing that happened at LABDRIVE; `token` names the report it was owed as, where the call carries one."""

    at_s: float
    process: str
    kind: str
    job_id: str
    file_id: str | None
    said: tuple[str, ...]
    token: str | None


@dataclass(slots=True)
class Labdrive:
    """The platform: what it knows, what was done to it, in order, and which errors it gave to whom."""

    files: dict[str, dict[str, RemoteFile]] = field(default_factory=dict)
    """By container, then by id."""
    effects: list[Effect] = field(default_factory=list)
    given: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Error classes by whom the call was about: a job, a file or a container."""
    lists_messages: bool = True
    rejects: set[str] = field(default_factory=set)
    away: bool = False
    locked: bool = False


class SimLabdrive:
    """The interface of `hashmill.labdrive.client.LabdriveClient`, for one process."""

    def __init__(self, world: "World", body: Body) -> None:
        self._world = world
        self._body = body

    async def set_job_status(self, access: Any, job_id: str, status: str, idempotency_key: str) -> None:
        await self._write("status", job_id, None, (str(status),), idempotency_key)

    async def create_message(
        self, access: Any, job_id: str, text: str, message_type: str, file_id: str | None, idempotency_key: str
    ) -> None:
        await self._write("message", job_id, file_id, (str(message_type), text), idempotency_key)

    async def set_hash(self, access: Any, file_id: str, algorithm: str, hexdigest: str, idempotency_key: str) -> None:
        await self._write("hash", "", file_id, (algorithm, hexdigest), idempotency_key)

    def type_name(self, message_type: str) -> str:
        return str(message_type)

    async def list_messages(self, access: Any, job_id: str, *, most: int) -> Any:
        if not self._world.labdrive.lists_messages:
            return None
        messages = [
            RemoteMessage(text=effect.said[1], type=effect.said[0], file_id=effect.file_id)
            for effect in self._world.labdrive.effects
            if effect.kind == "message" and effect.job_id == job_id
        ]
        return await self._read(job_id, lambda: messages)

    async def get_file(self, access: Any, file_id: str) -> Any:
        known = {name: file for files in self._world.labdrive.files.values() for name, file in files.items()}
        return await self._read(file_id, lambda: known.get(file_id))

    async def get_file_by_path(self, access: Any, container_id: str, path: str) -> Any:
        known = {file.path: file for file in self._world.labdrive.files[container_id].values()}
        return await self._read(path, lambda: known.get(path))

    async def list_files(self, access: Any, container_id: str, cursor: str | None, limit: int) -> Any:
        everything = list(self._world.labdrive.files[container_id].values())
        start = int(cursor or 0)
        page = tuple(everything[start : start + limit])
        return await self._read(
            container_id, lambda: FilePage(files=page, next_cursor=str(start + len(page)) if page else None)
        )

    async def get_container(self, access: Any, container_id: str) -> Any:
        return await self._read(container_id, lambda: RemoteContainer(container_id=container_id, storage_id=None))

    async def probe(self, access: Any) -> None:
        await self._read("probe", lambda: True)

    async def _write(
        self, kind: str, job_id: str, file_id: str | None, said: tuple[str, ...], token: str | None
    ) -> None:
        world = self._world
        about = job_id or file_id or ""

        def serve() -> HashmillError | None:
            if file_id in world.labdrive.rejects:
                return ApiRejected("404: no such file", status=404)
            effect = Effect(
                at_s=world.loop.time(),
                process=self._body.name,
                kind=kind,
                job_id=job_id,
                file_id=file_id,
                said=said,
                token=token,
            )
            world.labdrive.effects.append(effect)
            world.note("labdrive", kind, job_id, file_id, *said, token)
            return None

        await self._ask(about, serve)

    async def _read(self, about: str, look: Callable[[], Any]) -> Any:
        def serve() -> Any:
            found = look()
            return ApiRejected(f"404: no {about}", status=404) if found is None else found

        return await self._ask(about, serve)

    async def _ask(self, about: str, serve: Callable[[], Any]) -> Any:
        """The request leaves at once; what it does and what the caller learns are two things."""
        world, chance = self._world, self._world.chance
        if self._body.over:
            raise ApiUnavailable("the world has ended")
        answer: asyncio.Future[Any] = world.loop.create_future()
        slow = world.happens("api_slow")
        world.loop.apart(chance.uniform(0.001, 0.05), self._serve, answer, about, serve, slow)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            self._given(about, ApiUnavailable.error_class)
            raise ApiUnavailable(f"no answer within {ANSWER_S} s") from None

    def _serve(self, answer: "asyncio.Future[Any]", about: str, serve: Callable[[], Any], slow: bool) -> None:
        world, chance = self._world, self._world.chance
        result: Any
        if world.labdrive.away or world.happens("api_refuses"):
            result = ApiUnavailable("503")
        elif world.labdrive.locked:
            result = ApiAuth("401", status=401)
        elif world.happens("api_throttles"):
            result = ApiUnavailable("429", retry_after_s=chance.uniform(0.1, 3.0))
        else:
            result = serve()
            if world.happens("api_forgets"):
                world.note("labdrive", "answer lost", about)
                result = ApiUnavailable("connection reset")
        if isinstance(result, HashmillError):
            self._given(about, result.error_class)
        world.loop.apart(
            chance.uniform(0.2, 1.5 * ANSWER_S) if slow else chance.uniform(0.001, 0.05), _give, answer, result
        )

    def _given(self, about: str, error_class: str) -> None:
        self._world.labdrive.given[about][error_class] += 1


def _give(answer: "asyncio.Future[Any]", result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
