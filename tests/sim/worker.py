"""A simulated worker process: what `worker` is in life, without Celery, threads and signals."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from hashmill.domain.errors import HouseFault, LedgerUnavailable
from hashmill.domain.secret import Secret
from hashmill.domain.work import Ticket
from hashmill.flow.expand import expand
from hashmill.flow.hash_files import hash_files
from hashmill.flow.lead import lead
from hashmill.flow.present import keep_leases, leave
from hashmill.flow.tools import MillTools, ObjectPlace, Rules, WorkTools
from hashmill.hashing.engine import HashEngine
from hashmill.ledger.seal import Sealer
from hashmill.storage.config import StorageConfig
from tests.sim.engine import BEGIN_S, Body, Fate
from tests.sim.ledger import SimLedger
from tests.sim.neighbours import Message, SimLabdrive, SimQueue, SimTrial

if TYPE_CHECKING:
    from tests.sim.world import World

API = "http://labdrive.sim"
SEALER = Sealer(Secret("c2ltdWxhdGVkIGtleSwgMzIgYnl0ZXMgbG9uZyEhISE="))
RULES = Rules(
    allowed_origins=frozenset({API}),
    keep_keys_days=1,
    file_lease_s=9.0,
    leader_lease_s=9.0,
    retry_base_s=0.2,
    retry_cap_s=3.0,
    page_files=3,
    list_page=3,
    lookups=4,
    report_concurrency=4,
    report_base_s=0.2,
    report_cap_s=3.0,
    report_probe_cap_s=3.0,
    batch_max=4,
    batch_normal_max=2,
    tiny_max_bytes=20,
    normal_max_bytes=40,
    reissue_after_s=4.0,
    tick_s=0.5,
    idle_tick_s=3.0,
)


class Worker:
    """A worker process: slots for messages, the leader's duties, the keeping of leases."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        chance = world.chance
        skewed = world.happens("skew", scale=3)
        self.body = Body(
            name,
            # Monotonic clocks count from the start of a machine: this one has just started, or long ago.
            offset_s=chance.choice((1.0 - BEGIN_S, 3600.0, chance.uniform(0.0, 1e6))) if skewed else 0.0,
            rate=1.0 + chance.uniform(-1e-4, 1e-4) if skewed else 1.0,
        )
        self.tickets: dict[asyncio.Task[None], Message] = {}
        self.stop = asyncio.Event()
        self.engine = HashEngine(1, world.inline_max_bytes)
        storage = world.storage(world, self.body, lambda: world.kill(self))
        self.tools = WorkTools(
            ledger=cast(Any, SimLedger(world, self.body)),
            queue=cast(Any, SimQueue(world, self.body)),
            sealer=SEALER,
            rules=world.rules,
            process=name,
            labdrive=cast(Any, SimLabdrive(world, self.body)),
            storage=cast(Any, storage),
            engine=self.engine,
            place_of=place_of,
            in_flight=asyncio.Semaphore(4),
            draining=asyncio.Event(),
            clock_s=self.body.clock_s,
            presence={"slots": world.plan.slots, "host": "sim"},
        )
        mill = MillTools(
            process=name,
            rules=world.rules,
            storage=cast(Any, storage),
            engine=self.engine,
            place_of=place_of,
            clock_s=self.body.clock_s,
        )
        object.__setattr__(self.tools, "trial", SimTrial(world, mill, self.body))
        loop = world.loop
        self.leading = loop.start(self.body, self._duty("lead", lead(self.tools, self.stop)))
        self.keeping = loop.start(self.body, self._duty("keep_leases", keep_leases(self.tools)))

    @property
    def takes_messages(self) -> bool:
        return (
            self.body.fate is not Fate.DEAD
            and not self.tools.draining.is_set()
            and len(self.tickets) < self.world.plan.slots
        )

    def take(self, message: Message) -> None:
        task = self.world.loop.start(self.body, self._door(message))
        self.tickets[task] = message
        task.add_done_callback(self._door_closed, context=self.world.nobody)

    def _door_closed(self, task: "asyncio.Task[None]") -> None:
        del self.tickets[task]
        self.world.broker.pump()

    async def _door(self, message: Message) -> None:
        """What `tasks.base` does with a step."""
        what = message.what
        try:
            if isinstance(what, Ticket):
                await hash_files(self.tools, what)
            else:
                await expand(self.tools, what)
        except asyncio.CancelledError:
            self.world.note(self.body.name, "gives back", message.number)
        except LedgerUnavailable:
            self.world.note(self.body.name, "ledger away", message.number)
        except HouseFault as fault:
            self.world.bug(f"{self.body.name}: a step met {fault!r}")
        except Exception as error:
            self.world.bug(f"{self.body.name}: a step ended with {error!r}")

    async def _duty(self, name: str, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if not (self.tools.draining.is_set() or self.body.over):
                self.world.bug(f"{self.body.name}: {name} was cancelled")
            raise
        except Exception as error:
            self.world.bug(f"{self.body.name}: {name} ended with {error!r}")

    async def drain(self, grace_s: float) -> None:
        """What `worker.house` does at SIGTERM."""
        self.world.note(self.body.name, "drains", grace_s)
        self.tools.draining.set()
        self.stop.set()
        if self.tickets:
            await asyncio.wait(list(self.tickets), timeout=grace_s)
        for task in list(self.tickets):
            task.cancel()
        await asyncio.gather(*self.tickets, self.leading, return_exceptions=True)
        self.keeping.cancel()
        await asyncio.gather(self.keeping, return_exceptions=True)
        try:
            await leave(self.tools)
        except LedgerUnavailable:
            self.world.note(self.body.name, "leaves unsaid")
        self.world.kill(self)


def place_of(tenant_id: str, container_id: str, storage_id: str | None, file_id: str, path: str) -> ObjectPlace:
    return ObjectPlace(config=StorageConfig(), bucket="bucket", key=f"{container_id}/{path}")
