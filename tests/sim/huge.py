"""
A world with a file of 5 TB in it, read slice by slice, hundreds of kills, and the small runs of others beside it.

Nothing of the file exists but one byte for each MiB, and those are really hashed: the digests, the saved states, the
places they go on from are the product's own. Whoever reads a byte twice, leaves one out or takes one of another version
ends with another digest.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import sqlalchemy as sa

from hashmill.domain.checksums import StoredChecksum
from hashmill.domain.errors import ObjectChanged
from hashmill.domain.job import FileState
from hashmill.domain.remote import RemoteFile, RemoteKind
from hashmill.domain.work import FileOutcome
from hashmill.flow.tools import Rules, Tenant
from hashmill.ledger import tables
from hashmill.storage.config import ObjectHead
from tests.sim.engine import Body, Fate
from tests.sim.invariants import Evidence, broken
from tests.sim.ledger import Database
from tests.sim.neighbours import SimObject, SimStorage, Thing, struck
from tests.sim.plan import FAULTS, Plan
from tests.sim.worker import RULES, Worker
from tests.sim.world import Posted, World, event_of

GIANT_BYTES = 5_000_000_000_000
GIANT = "1/raw/detector.h5"
UNIT_BYTES = 1 << 20
"""One real byte stands for so many."""
RATE_BYTES_PER_S = 2e9
BLOCK_BYTES = 512 * UNIT_BYTES
"""The longest block. Larger than in life: the clock moves and fate strikes between two blocks, whatever they hold."""
KILLED = (0.15, 0.35)
"""The share of slices whose process is killed, in one world or another: some hundred kills."""
SMALL_RUNS = 40
SMALL_WAITS_S = 300.0
"""A small run has ended so long after it was posted, whatever befalls it: a kill or two."""
PAUSE_S = 10.0
"""At most so long, on average, lies between two slices: a ticket is written, sent, claimed and settled."""
CUT_S = 60.0
"""At most so long, on average, passes from what broke a slice off until the next one begins: lease, sweep, trial."""
HORIZON_S = 50_000.0
OF_GIANT, OF_OTHERS = "http://giant.sim", "http://others.sim"
HUGE_RULES = replace(
    RULES,
    file_lease_s=12.0,
    leader_lease_s=12.0,
    idle_tick_s=4.0,
    allowed_origins=frozenset({OF_GIANT, OF_OTHERS}),
    tenants=(Tenant(name="giant", api_origins=(OF_GIANT,)), Tenant(name="others", api_origins=(OF_OTHERS,))),
)
SELDOM = (
    "ledger_refuses",
    "ledger_forgets",
    "bell_loses",
    "bell_doubles",
    "bell_delays",
    "bell_refuses",
    "storage_fails",
    "api_refuses",
    "api_forgets",
)
"""Faults per call. There are tens of thousands of calls: each of these meets few of them."""


class Scaled(bytes):
    """A block that is longer than the bytes that stand for it; the engine counts the length, the digests the bytes."""

    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes


@dataclass(slots=True, eq=False)
class HugeThing(Thing):
    """An object of which each version is a byte per `UNIT_BYTES`, and what was read of it by ETag."""

    size_bytes: int = 0
    versioned: bool = False
    """Whether a version stays when there is a newer one."""
    read_bytes: Counter[str] = field(default_factory=Counter)

    def size_of(self, etag: str) -> int:
        return self.size_bytes

    def stated(self, etag: str) -> tuple[StoredChecksum, ...]:
        return ()

    def piece(self, etag: str, start_byte: int, length: int) -> Scaled:
        """Return so many bytes of a version; both ends are at a unit's edge, or the object's."""
        end_byte = start_byte + length
        if start_byte % UNIT_BYTES or (end_byte % UNIT_BYTES and end_byte != self.size_bytes):
            raise ValueError(f"a read of {start_byte} to {end_byte}, where no block began or ended")
        block = Scaled(self.versions[etag][start_byte // UNIT_BYTES : -(-end_byte // UNIT_BYTES)])
        block.size_bytes = length
        return block


class HugeStorage(SimStorage):
    """An S3 that gives huge objects at a pace, and old versions where they are kept."""

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
    ) -> AsyncIterator[SimObject]:
        thing = self._world.things[key]
        if isinstance(thing, HugeThing) and thing.versioned:
            await self._found(key)
            etag = pin.etag if pin and pin.version_id in thing.versions else thing.etag
            head = ObjectHead(size_bytes=thing.size_bytes, etag=etag, version_id=etag)
            yield SimObject(head=head, blocks=lambda: self._blocks(key, head, start_byte))
            return
        whole = super().open(config, bucket, key, expected_bytes=expected_bytes, start_byte=start_byte, pin=pin)
        async with whole as opened:
            yield opened

    async def _blocks(self, key: str, head: ObjectHead, start_byte: int) -> AsyncIterator[memoryview]:
        thing = self._world.things[key]
        if not isinstance(thing, HugeThing):
            async for small in super()._blocks(key, head, start_byte):
                yield small
            return
        world = cast(HugeWorld, self._world)
        at_byte = start_byte
        while at_byte < thing.size_bytes:
            units = world.chance.randrange(1, BLOCK_BYTES // UNIT_BYTES + 1)
            length = min(units * UNIT_BYTES, thing.size_bytes - at_byte)
            await world.pass_time(length)
            self._may_fail(thing)
            if thing.etag != head.etag and not thing.versioned:
                raise struck(thing, ObjectChanged(f"{key} was replaced"))
            thing.read_bytes[head.etag] += length
            yield cast(memoryview, thing.piece(head.etag, at_byte, length))
            at_byte += length


class HugeWorld(World):
    """One tenant's file of 5 TB, other tenants' runs beside it all the time, and hundreds of kills."""

    storage = HugeStorage
    inline_max_bytes = BLOCK_BYTES
    look_every_s = 4.0

    def __init__(self, database: Database, plan: Plan, giant_bytes: int = GIANT_BYTES) -> None:
        super().__init__(database, plan)
        self.giant_bytes = giant_bytes
        self.rules: Rules = replace(
            HUGE_RULES,
            slice_max_bytes=self.chance.choice((4 << 30, 8 << 30, 1 << 40)),
            slice_max_s=4.0,
        )
        share = self.chance.uniform(*KILLED) if plan.has("crash") else 0.0
        self._killed = share * (BLOCK_BYTES / 2) / self.slice_bytes
        self.reading_s = giant_bytes / RATE_BYTES_PER_S
        self.saves = 0
        """Slices of the giant that were saved, the last one of a read to its end among them."""
        self.saved_etags: set[str] = set()
        """Of which versions a slice was saved."""
        self.cuts: Counter[str] = Counter()
        """What broke a slice of the giant off, or may have done so, by its name."""

    async def pass_time(self, length: int) -> None:
        """Let pass what the network takes for so many bytes of a huge file; the giant's reader may be killed."""
        lasts_s = length / (RATE_BYTES_PER_S * self.chance.uniform(0.8, 1.2))
        if self.faulty and self.chance.random() < self._killed:
            self.loop.apart(self.chance.uniform(0.0, 2 * lasts_s), self._kill_reader)
        await asyncio.sleep(lasts_s)

    @property
    def giant(self) -> HugeThing:
        return cast(HugeThing, self.things[GIANT])

    @property
    def giant_run_id(self) -> str | None:
        """The giant's run, once it was accepted."""
        return next(iter(self.posted[0].runs), None)

    @property
    def cut_count(self) -> int:
        """How many slices may have been broken off: by a kill, by an error of S3, by a ledger that was away."""
        ledger = sum("ledger_away" in line or "ledger refuses" in line or "forgets" in line for line in self.trace)
        return self.cuts.total() + self.giant.strikes.total() + ledger

    @property
    def slice_bytes(self) -> float:
        """No slice is longer."""
        return min(self.rules.slice_max_bytes, 1.2 * RATE_BYTES_PER_S * self.rules.slice_max_s) + BLOCK_BYTES

    # --- what is there

    def _populate(self) -> None:
        chance = self.chance
        giant = HugeThing(key=GIANT, size_bytes=self.giant_bytes, versioned=chance.random() < 0.5)
        self._write(giant)
        self.things[giant.key] = giant
        self._add("1", {GIANT.partition("/")[2]: self.giant_bytes}, OF_GIANT, ["md5", "sha1", "sha256"])
        for number in range(2, SMALL_RUNS + 2):
            sizes: dict[str, int] = {}
            for place in range(chance.randrange(1, 5)):
                path = f"a/{place}.bin"
                if chance.random() < 0.05:  # not small, but two slices or three
                    thing: Thing = HugeThing(key=f"{number}/{path}", size_bytes=chance.randrange(4 << 30, 20 << 30))
                    self._write(cast(HugeThing, thing))
                else:
                    thing = Thing(key=f"{number}/{path}")
                    thing.overwrite(chance.randbytes(chance.choice((1, 20, 30, 60))))
                self.things[thing.key] = thing
                sizes[path] = thing.size_of(thing.etag)
            self._add(str(number), sizes, OF_OTHERS, ["sha256", "md5"])

    def _write(self, thing: HugeThing) -> None:
        thing.overwrite(self.chance.randbytes(-(-thing.size_bytes // UNIT_BYTES)))

    def _add(self, container: str, sizes: Mapping[str, int], api_url: str, algorithms: Sequence[str]) -> None:
        known = {
            f"{container}{place:02}": RemoteFile(
                file_id=f"{container}{place:02}",
                container_id=container,
                path=path,
                size_bytes=size_bytes,
                kind=RemoteKind.FILE,
            )
            for place, (path, size_bytes) in enumerate(sizes.items())
        }
        self.labdrive.files[container] = known
        event = event_of(container, algorithms=algorithms, api_url=api_url)
        self.posted.append(Posted(key=f"event {container}", event=event, refs=frozenset(known), unknown=frozenset()))

    def _post_all(self) -> None:
        giant, *others = self.posted
        self._post_later(self.chance.uniform(0.0, 5.0), giant)
        for posted in others:
            self._post_later(self.chance.uniform(0.0, self.reading_s), posted)

    # --- what befalls

    def _befall(self) -> None:
        fates = {
            "crash": (self._crash, (10, 50)),
            "freeze": (self._freeze, (5, 20)),
            "drain": (self._drain, (5, 40)),
            "ledger_away": (lambda: self._away("ledger_away", self), (2, 6)),
            "storage_away": (lambda: self._away("storage_away", self), (2, 6)),
            "bell_away": (lambda: self._away("away", self.broker), (2, 6)),
            "bell_empties": (self.broker.empty, (2, 20)),
            "replaced": (self._replace, (1, 2)),
        }
        for fault, (befall, often) in fates.items():
            for _ in range(self.chance.randrange(*often) if self.plan.has(fault) else 0):
                self.loop.apart(self.chance.uniform(0.0, self.reading_s), befall)

    def _some_worker(self) -> Worker | None:
        """Often the one that reads the giant."""
        reader = next((worker for worker in self.workers if worker.body.name == self._reader()), None)
        return reader if reader and self.chance.random() < 0.5 else super()._some_worker()

    def _kill_reader(self) -> None:
        if reader := next((worker for worker in self.workers if worker.body.name == self._reader()), None):
            self.kill(reader)

    def _reader(self) -> str | None:
        """The process that holds the giant's lease."""
        held = sa.select(tables.files.c.lease_owner).where(
            tables.files.c.run_id == self.giant_run_id, tables.files.c.state == FileState.RUNNING
        )
        return next((owner.partition("/")[0] for owner in self._column(held)), None)

    def _cut(self, what: str, worker: Worker) -> None:
        if worker.body.name == self._reader():
            self.cuts[what] += 1

    def kill(self, worker: Worker) -> None:
        if worker.body.fate is not Fate.DEAD:
            self._cut("kill", worker)
        super().kill(worker)

    def _freeze(self) -> None:
        before = {worker.body.name for worker in self.workers if worker.body.alive}
        super()._freeze()
        for worker in self.workers:
            if worker.body.name in before and not worker.body.alive:
                self._cut("freeze", worker)

    def _drain(self) -> None:
        before = {worker.body.name for worker in self.workers if worker.tools.draining.is_set()}
        if self.faulty and (worker := self._some_worker()) and worker.body.name not in before:
            grace_s = self.chance.choice((0.0, 5.0))
            if not grace_s:
                self._cut("drain", worker)
            self.loop.start(worker.body, worker.drain(grace_s))

    def _replace(self) -> None:
        if self.faulty:
            self._write(self.giant)
            self.note("storage", "replaced", GIANT)

    def committed(self, body: Body, name: str, args: Any, kwargs: Any, result: Any) -> None:
        super().committed(body, name, args, kwargs, result)
        if name == "files.settle" and args[0] == self.giant_run_id and not result:
            outcomes: Sequence[FileOutcome] = args[1]
            self.saves += sum(one.saved is not None or one.state is FileState.DONE for one in outcomes)
            self.saved_etags |= {one.saved.etag for one in outcomes if one.saved}


def huge_plan_of(seed: int, *, surely: Mapping[str, float] | None = None) -> Plan:
    """Return the plan of `seed`, with the rates `surely`."""
    chance = random.Random(f"huge {seed}")
    rates = dict.fromkeys(FAULTS, 0.0)
    hostile = chance.random() < 0.75  # else nothing but kills
    for fault in ("freeze", "drain", "ledger_away", "storage_away", "bell_away", "bell_empties", "replaced"):
        rates[fault] = float(hostile and chance.random() < 0.5)
    for fault in SELDOM:
        rates[fault] = chance.uniform(0.0, 0.002) if hostile and chance.random() < 0.5 else 0.0
    return Plan(
        seed=seed,
        horizon_s=HORIZON_S,
        processes=chance.choice((2, 3)),
        slots=chance.choice((2, 3)),
        runs=SMALL_RUNS + 1,
        files_max=4,
        rates=rates | {"crash": 1.0, "skew": float(hostile and chance.random() < 0.5), **(surely or {})},
    )


def lived_huge(database: Database, plan: Plan, giant_bytes: int = GIANT_BYTES) -> HugeWorld:
    """Return a huge world after it was lived."""
    world = HugeWorld(database, plan, giant_bytes)
    world.live()
    return world


def broken_huge(world: HugeWorld) -> list[str]:
    """Return what does not hold: of any world, and of the giant and those beside it."""
    found = broken(world)
    if world.at_rest:
        evidence = Evidence.of(world)
        found += [f"{law.__name__}: {told}" for law in LAWS for told in law(world, evidence)]
    return found


Law = Callable[[HugeWorld, Evidence], Iterator[str]]
LAWS: list[Law] = []


def law(function: Law) -> Law:
    LAWS.append(function)
    return function


def _of_giant(world: HugeWorld, evidence: Evidence) -> tuple[Any, dict[str, Any]]:
    """The giant's row, and the newest entry of its run that tells of a file."""
    (file,) = (file for file in evidence.files if file.run_id == world.giant_run_id)
    told = [json.loads(row.body) for row in evidence.entries if row.run_id == file.run_id and "file" in row.kind]
    return file, told[-1] if told else {}


@law
def the_giant_has_one_result_and_was_read_in_slices(world: HugeWorld, evidence: Evidence) -> Iterator[str]:
    """That its digests are right, each byte in its turn and once, is for `each_digest_equals_an_independent_one`."""
    file, entry = _of_giant(world, evidence)
    hashed = [row for row in evidence.entries if row.run_id == file.run_id and row.kind == "file_hashed"]
    if file.state != FileState.DONE or len(hashed) != 1:
        yield f"it is {file.state} with {len(hashed)} results: {file.error_detail}"
    elif entry["size_bytes"] != world.giant_bytes or not 1 < entry["slices"] <= world.saves:
        yield f"{entry['slices']} slices of {entry['size_bytes']} bytes, {world.saves} saved"


@law
def what_breaks_a_slice_off_costs_one_slice(world: HugeWorld, evidence: Evidence) -> Iterator[str]:
    again = sum(max(0, count - world.giant_bytes) for count in world.giant.read_bytes.values())
    if again > world.cut_count * world.slice_bytes:
        yield f"{again / world.slice_bytes:.1f} slices were read again for {dict(world.cuts)}"


@law
def a_version_that_stays_is_read_to_its_end(world: HugeWorld, evidence: Evidence) -> Iterator[str]:
    if world.giant.versioned and len(world.saved_etags) > 1:
        yield f"slices of {world.saved_etags} were saved"


@law
def the_giant_ends_in_its_time(world: HugeWorld, evidence: Evidence) -> Iterator[str]:
    file, _ = _of_giant(world, evidence)
    (run,) = (run for run in evidence.runs if run.run_id == file.run_id)
    took_s = (file.finished_at_ms - run.created_at_ms) / 1000
    reading_s = sum(world.giant.read_bytes.values()) / (0.8 * RATE_BYTES_PER_S)
    bound_s = reading_s + PAUSE_S * world.saves + CUT_S * (1 + world.cut_count)
    if took_s > bound_s:
        yield f"it took {took_s:.0f} s, and {bound_s:.0f} s is the most it may"


@law
def nobody_beside_the_giant_is_starved(world: HugeWorld, evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        took_s = ((run.finished_at_ms or 0) - run.created_at_ms) / 1000
        if run.tenant_id == "others" and not 0 < took_s < SMALL_WAITS_S:
            yield f"run {run.run_id} of another tenant took {took_s:.0f} s"
