"""
A world: some processes, their neighbours, events that are posted, and what befalls them all; made of one seed.

Faults live until the horizon. Then everything is healthy again, and the world must come to rest.
"""

import asyncio
import contextvars
import hashlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sqlalchemy as sa

from hashmill.domain.errors import LedgerUnavailable, ReplayRefused
from hashmill.domain.event import TriggerEvent, from_public
from hashmill.domain.job import FileState, RunState
from hashmill.domain.remote import RemoteFile, RemoteKind
from hashmill.domain.secret import Secret
from hashmill.domain.work import ClaimedFile, Ticket
from hashmill.flow.accept import accept
from hashmill.flow.replay import ReplayRequest, replay
from hashmill.flow.tools import DoorTools, Rules
from hashmill.ledger import tables
from tests.sim.engine import Body, Fate, VirtualLoop
from tests.sim.ledger import Database, SimLedger
from tests.sim.neighbours import (
    Broker,
    Labdrive,
    SimQueue,
    SimStorage,
    Thing,
)
from tests.sim.plan import Plan, plan_of
from tests.sim.seeded import seeded
from tests.sim.worker import API, RULES, SEALER, Worker

REST_S = 400.0
"""A healthy world has so long to come to rest: the longest pause a step takes by itself, some times over."""
SAMPLE_S = 3.0
HOSTILE_BEFORE_S = 0.85
"""What befalls begins in this part of the time up to the horizon."""


@dataclass(slots=True, eq=False)
class Posted:
    """An event that is posted, how often it was acknowledged and with which run, and what it must list."""

    key: str
    event: TriggerEvent
    refs: frozenset[str]
    unknown: frozenset[str]
    runs: set[str] = field(default_factory=set)
    made: int = 0
    acknowledged: int = 0


class World:
    """Everything of one seed. `run` lives it; then `trace`, `bugs`, `labdrive`, `posted` and the ledger tell of it."""

    rules: Rules = RULES
    storage: type[SimStorage] = SimStorage
    inline_max_bytes = 1_048_576
    look_every_s = 3.0
    """How often the leader sweeps, and the others look whether anybody leads."""

    def __init__(self, database: Database, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(f"world {plan.seed}")
        self.database = database
        self.loop = VirtualLoop(lambda: self.chance.uniform(0.001, 0.01))
        self.nobody = contextvars.Context()
        database.renew(self.loop.time)
        self.broker = Broker(self)
        self.labdrive = Labdrive()
        self.things: dict[str, Thing] = {}
        self.posted: list[Posted] = []
        self.workers: list[Worker] = []
        self.bodies: list[Body] = []
        self.faulty = True
        self.ledger_away = False
        self.storage_away = False
        self.trace: list[tuple[Any, ...]] = []
        self.bugs: list[str] = []
        self.broken_on_the_way: list[str] = []
        self.claims: defaultdict[tuple[str, int], list[tuple[float, str, int]]] = defaultdict(list)
        """By run and file number: when, by which process and with which fence it was claimed."""
        self.replays: Counter[str] = Counter()
        self.at_rest = False
        self._names = itertools.count(1)
        self._begin_s: list[float] = []
        self._busy_posting = 0
        self._excused_until_s = 0.0
        self._lapsed_since: dict[tuple[str, int], float] = {}

    def note(self, *what: Any) -> None:
        self.trace.append((round(self.loop.time(), 4), *what))

    def bug(self, told: str) -> None:
        self.note("BUG", told)
        if told not in self.bugs:
            self.bugs.append(told)

    def happens(self, fault: str, *, scale: float = 1.0) -> bool:
        """Draw whether this call meets `fault`; never after the horizon."""
        rate = self.plan.rates[fault]
        return self.faulty and rate > 0 and self.chance.random() < rate * scale

    def committed(self, body: Body, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Look at what a transaction did; called with each that was committed."""
        if name == "files.claim":
            ticket: Ticket = args[0]
            for file in cast(list[ClaimedFile], result):
                self.claims[ticket.run_id, file.file_no].append((self.loop.time(), body.name, file.fence))

    # --- life

    def live(self) -> None:
        """Live the plan to its end; `at_rest` says whether the world came to rest."""
        asyncio.set_event_loop(self.loop)
        try:
            with seeded(self):
                self.loop.run_until_complete(self._live())
                for worker in self.workers:
                    worker.body.fate = Fate.DEAD
                self.loop.take_down(self.bodies)
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _live(self) -> None:
        plan = self.plan
        self._populate()
        for _ in range(plan.processes):
            self._start_worker()
        self._post_all()
        self._befall()
        ends_s = self.loop.time() + plan.horizon_s
        while (left_s := ends_s - self.loop.time()) > 0:
            await asyncio.sleep(min(SAMPLE_S, left_s))
            self._sample()
            if not self._busy_posting and self._quiet():
                break
        self._heal()
        await self._come_to_rest()

    async def _come_to_rest(self) -> None:
        ends_s = self.loop.time() + REST_S
        while self.loop.time() < ends_s:
            await asyncio.sleep(SAMPLE_S / 2)
            self._sample()
            if self._busy_posting or not self._quiet():
                continue
            if self._replay_what_failed():
                continue
            await asyncio.sleep(2.0)  # what is still on its way arrives
            if self._quiet():
                self.at_rest = True
                return

    def _start_worker(self) -> None:
        worker = Worker(self, f"w{next(self._names)}")
        self.note(worker.body.name, "starts")
        self.bodies.append(worker.body)
        self.workers.append(worker)
        self.loop.apart(0.0, self.broker.pump)

    # --- what is there

    def _populate(self) -> None:
        plan, chance = self.plan, self.chance
        self.labdrive.lists_messages = chance.random() < 0.5
        for number in range(1, plan.runs + 1):
            container = str(number)
            known: dict[str, RemoteFile] = {}
            count = chance.randrange(0 if chance.random() < 0.1 else 1, plan.files_max + 1)
            for place in range(count):
                file_id, path = f"{number}{place:02}", chance.choice(("a", "b/c", "b")) + f"/{place}.bin"
                thing = Thing(key=f"{container}/{path}")
                thing.overwrite(chance.randbytes(chance.choice((0, 1, 10, 20, 30, 60))))
                for nature in ("missing", "offline", "forbidden"):
                    if self.happens(nature):
                        thing.nature = nature
                thing.kills = self.happens("killer")
                self.things[thing.key] = thing
                size = len(thing.versions[thing.etag]) if chance.random() < 0.9 else None
                known[file_id] = RemoteFile(
                    file_id=file_id, container_id=container, path=path, size_bytes=size, kind=RemoteKind.FILE
                )
                if self.happens("api_rejects"):
                    self.labdrive.rejects.add(file_id)
            for place, folder in enumerate(("a", "b", "b/c")):
                folder_id = f"{number}9{place}"
                known[folder_id] = RemoteFile(
                    file_id=folder_id, container_id=container, path=folder, size_bytes=None, kind=RemoteKind.FOLDER
                )
            self.labdrive.files[container] = known
            self.posted.append(self._event(number, container, known))

    def _event(self, number: int, container: str, known: Mapping[str, RemoteFile]) -> Posted:
        chance = self.chance
        files = [file for file in known.values() if file.kind is RemoteKind.FILE]
        how = chance.choice(("ids", "paths", "all", "all"))
        ids: list[str] = []
        paths: list[str] = []
        unknown: set[str] = set()
        if how == "ids":
            ids = [file.file_id for file in files if chance.random() < 0.9]
            if self.happens("unknown"):
                ids.append("404")
                unknown.add("404")
            refs = set(ids)
        elif how == "paths":
            chosen = [file for file in files if chance.random() < 0.7]
            paths = [file.path for file in chosen]
            refs = {file.file_id for file in chosen}
            if chance.random() < 0.5:
                paths.append("b")
                refs |= {file.file_id for file in files if file.path.startswith("b/")}
            if self.happens("unknown"):
                paths.append("no/such.bin")
                ref = f"path:{hashlib.sha256(b'no/such.bin').hexdigest()}"
                unknown.add(ref)
                refs.add(ref)
        if not (ids or paths):
            refs = {file.file_id for file in files}
        event = event_of(
            container,
            file_ids=ids,
            file_paths=paths,
            algorithms=chance.choice((["md5"], ["sha256", "md5"])),
            priority=chance.randrange(10),
        )
        return Posted(key=f"event {number}", event=event, refs=frozenset(refs), unknown=frozenset(unknown))

    # --- what people do

    def _post_all(self) -> None:
        plan, chance = self.plan, self.chance
        for posted in self.posted:
            often = chance.randrange(1, 5) if plan.has("posted_often") else 1
            at_s = chance.uniform(0.0, 0.6 * plan.horizon_s)
            self._begin_s.append(at_s)
            for _ in range(often):
                late_s = at_s + (0.0 if chance.random() < 0.5 else chance.uniform(0.0, plan.horizon_s))
                self._post_later(late_s, posted)

    def _post_later(self, after_s: float, posted: Posted) -> None:
        body = Body(f"door{len(self.bodies)}")
        self.bodies.append(body)
        self._busy_posting += 1
        self.loop.apart(after_s, lambda: self.loop.start(body, self._post(body, posted)))

    async def _post(self, body: Body, posted: Posted) -> None:
        """Post until it is acknowledged, as a trigger does."""
        while True:
            try:
                run, made = await accept(self._door(body), posted.event, idempotency_key=posted.key)
                break
            except LedgerUnavailable:
                await asyncio.sleep(self.chance.uniform(0.1, 2.0))
        posted.acknowledged += 1
        posted.made += made
        posted.runs.add(run.run_id)
        self.note(body.name, "accepted", run.run_id, made)
        self._busy_posting -= 1

    def _door(self, body: Body) -> DoorTools:
        return DoorTools(
            ledger=cast(Any, SimLedger(self, body)),
            queue=cast(Any, SimQueue(self, body)),
            sealer=SEALER,
            rules=self.rules,
            process=body.name,
        )

    def _replay_what_failed(self) -> bool:
        """Mend what was wrong with the objects and replay each failed run, once; True when there was any."""
        if not self.plan.has("replay"):
            return False
        failed = [
            run_id
            for run_id in self._column(sa.select(tables.runs.c.run_id).where(tables.runs.c.state == RunState.FAILED))
            if not self.replays[run_id]
        ]
        for thing in self.things.values():
            thing.nature = "fine"
        self.labdrive.rejects.clear()
        for run_id in failed:
            self.replays[run_id] += 1
            body = Body(f"door{len(self.bodies)}")
            self.bodies.append(body)
            self._busy_posting += 1
            self.loop.start(body, self._replay(body, run_id))
        return bool(failed)

    async def _replay(self, body: Body, run_id: str) -> None:
        mode = "all" if self.chance.random() < 0.3 else "failed"
        request = ReplayRequest(run_id=run_id, reason="mended", who="sim", mode=cast(Any, mode))
        try:
            report = await replay(self._door(body), request)
            self.note(body.name, "replays", run_id, report.files)
        except ReplayRefused as refusal:
            self.bug(f"a failed run cannot be replayed: {refusal}")
        self._busy_posting -= 1

    # --- what befalls

    def _befall(self) -> None:
        plan, chance = self.plan, self.chance
        fates = {
            "crash": self._crash,
            "freeze": self._freeze,
            "drain": self._drain,
            "ledger_away": lambda: self._away("ledger_away", self),
            "storage_away": lambda: self._away("storage_away", self),
            "bell_away": lambda: self._away("away", self.broker),
            "bell_empties": self.broker.empty,
            "api_away": lambda: self._away("away", self.labdrive),
            "api_locks_out": lambda: self._away("locked", self.labdrive),
            "replaced": self._overwrite,
        }
        for fault, befall in fates.items():
            if plan.has(fault):
                for _ in range(chance.randrange(1, 5)):
                    # Mostly while there is something to disturb.
                    soon_s = chance.choice(self._begin_s) + chance.uniform(0.0, 6.0)
                    any_s = chance.uniform(0.0, HOSTILE_BEFORE_S * plan.horizon_s)
                    self.loop.apart(soon_s if chance.random() < 0.6 else any_s, befall)

    def _some_worker(self) -> Worker | None:
        alive = [worker for worker in self.workers if worker.body.alive]
        busy = [worker for worker in alive if worker.tickets]
        among = busy if busy and self.chance.random() < 0.6 else alive
        return self.chance.choice(among) if among else None

    def _crash(self) -> None:
        if self.faulty and (worker := self._some_worker()):
            self.kill(worker)

    def kill(self, worker: Worker) -> None:
        """End a process where it stands; another takes its place."""
        if worker.body.fate is Fate.DEAD:
            return
        self.note(worker.body.name, "ends")
        worker.body.fate = Fate.DEAD
        self.workers.remove(worker)
        self._count_deaths(worker.body.name)
        self.broker.orphaned(list(worker.tickets.values()))
        self.loop.apart(self.chance.uniform(0.1, 3.0), self._start_worker)

    def _count_deaths(self, process: str) -> None:
        held = (
            sa.select(tables.runs.c.container_id, tables.files.c.path)
            .join(tables.runs)
            .where(tables.files.c.state == FileState.RUNNING, tables.files.c.lease_owner.like(f"{process}/%"))
        )
        for container_id, path in self.database.run(lambda connection: connection.execute(held).all()):
            self.things[f"{container_id}/{path}"].deaths += 1

    def _freeze(self) -> None:
        if self.faulty and (worker := self._some_worker()):
            lasts_s = self.rules.file_lease_s * self.chance.choice((0.3, 1.5, 2.0, 3.0))
            self.note(worker.body.name, "stopped for", lasts_s)
            self.loop.stop_body(worker.body)
            self.loop.apart(lasts_s, self._thaw, worker)

    def _thaw(self, worker: Worker) -> None:
        if worker.body.fate is Fate.STOPPED:
            self.note(worker.body.name, "goes on")
            self.loop.continue_body(worker.body)

    def _drain(self) -> None:
        if self.faulty and (worker := self._some_worker()) and not worker.tools.draining.is_set():
            self.loop.start(worker.body, worker.drain(self.chance.choice((0.0, 0.5, 5.0))))

    def _away(self, what: str, whose: Any) -> None:
        if self.faulty and not getattr(whose, what):
            lasts_s = self.chance.choice((0.5, 3.0, 10.0))
            self.note(type(whose).__name__, what, lasts_s)
            setattr(whose, what, True)
            self.loop.apart(lasts_s, self._back, what, whose)

    def _back(self, what: str, whose: Any) -> None:
        setattr(whose, what, False)
        self.note(type(whose).__name__, what, "over")
        self.broker.pump()

    def _overwrite(self) -> None:
        if self.faulty and self.things:
            thing = self.chance.choice(list(self.things.values()))
            thing.overwrite(self.chance.randbytes(self.chance.choice((1, 10, 30))))
            self.note("storage", "replaced", thing.key)

    def _heal(self) -> None:
        self.note("world", "heals")
        self.faulty = False
        self.ledger_away = self.storage_away = self.broker.away = self.labdrive.away = self.labdrive.locked = False
        for worker in self.workers:
            self._thaw(worker)
        self.broker.pump()

    # --- what is seen

    def _column(self, statement: Any) -> list[Any]:
        found: list[Any] = self.database.run(lambda connection: list(connection.execute(statement).scalars()))
        return found

    def _quiet(self) -> bool:
        """Every run has ended, and every entry has its number."""
        open_ = sa.select(tables.runs.c.run_id).where(tables.runs.c.state.not_in([s for s in RunState if s.ended]))
        return not self._column(open_.limit(1)) and not self._column(sa.select(tables.unnumbered).limit(1))

    def _sample(self) -> None:
        """Nothing is `running` without a live lease for more than two leases, while somebody could take it back."""
        now_s = self.loop.time()
        able = any(worker.body.alive and not worker.tools.draining.is_set() for worker in self.workers)
        if (
            not able
            or self.ledger_away
            or (self.plan.has("ledger_refuses", "ledger_forgets", "ledger_slow") and self.faulty)
        ):
            self._excused_until_s = now_s
        lapsed = sa.select(tables.files.c.run_id, tables.files.c.file_no).where(
            tables.files.c.state == FileState.RUNNING, tables.files.c.lease_until_ms < self.database.now_ms()
        )
        rows = self.database.run(lambda connection: connection.execute(lapsed).all())
        found = {(row.run_id, row.file_no) for row in rows}
        self._lapsed_since = {file: self._lapsed_since.get(file, now_s) for file in sorted(found)}
        for file, since_s in self._lapsed_since.items():
            if now_s - max(since_s, self._excused_until_s) > 2 * self.rules.file_lease_s:
                told = f"file {file[1]} of {file[0]} has been running without a lease since {since_s:.1f}"
                if told not in self.broken_on_the_way:
                    self.note("world", told)
                    self.broken_on_the_way.append(told)


def lived(database: Database, seed: int, *, surely: Mapping[str, float] | None = None) -> World:
    """Return the world of `seed` after it was lived."""
    world = World(database, plan_of(seed, surely=surely))
    world.live()
    return world


def event_of(
    container: str,
    *,
    algorithms: Sequence[str],
    file_ids: Sequence[str] = (),
    file_paths: Sequence[str] = (),
    priority: int = 5,
    api_url: str = API,
) -> TriggerEvent:
    """Return an event for a container; its job has the container's number."""
    public = {
        "api_url": api_url,
        "container_id": container,
        "user_id": "1",
        "job_id": f"job{container}",
        "file_ids": list(file_ids),
        "file_paths": list(file_paths),
        "trigger_id": "0",
        "trigger_type": "",
        "trigger_regex": "",
        "function_id": "0",
        "function_key": "",
        "function_params": {},
        "algorithms": list(algorithms),
        "priority": priority,
        "mode": "hash",
    }
    return from_public(public, key_user=Secret("key"))
