"""The dispatcher: keeps a bounded number of tickets outstanding, chosen fairly over tenants and runs."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from hashmill.domain.fair import DeficitRing, run_weights
from hashmill.domain.job import SizeClass
from hashmill.domain.work import Ticket
from hashmill.flow.tools import Rules, WorkTools
from hashmill.ledger import files, leases, runs
from hashmill.ledger.files import OpenRun

log = logging.getLogger(__name__)

ORDER = (SizeClass.BIG, SizeClass.NORMAL, SizeClass.TINY)


@dataclass(slots=True)
class Dispatcher:
    """What the dispatcher remembers between two rounds. Losing it costs nothing but a fresh start of the cursors."""

    tenants: dict[SizeClass, DeficitRing[str]] = field(default_factory=dict)
    members: dict[tuple[SizeClass, str], DeficitRing[str]] = field(default_factory=dict)
    cursors: dict[tuple[str, SizeClass], int] = field(default_factory=dict)
    rung: dict[str, float] = field(default_factory=dict)

    async def round(self, tools: WorkTools) -> int:
        """Hand out what there is room for and return how many messages were sent."""
        tickets = await tools.ledger.write(self._choose, tools.rules)
        if tickets:
            loop = asyncio.get_running_loop()
            sent = await loop.run_in_executor(tools.threads, tools.queue.send, tickets)
            if not sent:
                # Taken back at once instead of waiting for the sweep; should one have got through, its epoch is void.
                await tools.ledger.write(_take_back, tickets)
                await asyncio.sleep(min(1.0, tools.rules.reissue_after_s))
        return len(tickets) + await self._ring(tools)

    async def _ring(self, tools: WorkTools) -> int:
        """Ring for runs that wait to be expanded, each at most once per `reissue_after_s`."""
        due = await tools.ledger.read(runs.due_expansions)
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self.rung = {run_id: at_s for run_id, at_s in self.rung.items() if run_id in set(due)}
        count = 0
        for run_id in due:
            # The first sight is not rung for: the intake has just done so.
            last_s = self.rung.setdefault(run_id, now_s - tools.rules.reissue_after_s + 1.0)
            if now_s - last_s < tools.rules.reissue_after_s:
                continue
            self.rung[run_id] = now_s
            count += await loop.run_in_executor(tools.threads, tools.queue.ring, run_id)
        return count

    def _choose(self, connection: sa.Connection, rules: Rules) -> list[Ticket]:
        ready = {size_class: files.open_runs(connection, size_class) for size_class in ORDER}
        if not any(ready.values()):
            self.cursors.clear()
            return []
        outstanding = files.outstanding(connection)
        window, big_window = _windows(connection, rules)
        tickets: list[Ticket] = []
        used = sum(-(-outstanding.get(sort, 0) // rules.batch(sort)) for sort in (SizeClass.TINY, SizeClass.NORMAL))
        for size_class in ORDER:
            if size_class is SizeClass.BIG:
                room = big_window - outstanding.get(size_class, 0)
            else:
                room = window - used - sum(ticket.size_class is not SizeClass.BIG for ticket in tickets)
            if room > 0:
                tickets += self._serve(connection, rules, ready[size_class], size_class, room)
        return tickets

    def _serve(
        self, connection: sa.Connection, rules: Rules, open_runs: list[OpenRun], size_class: SizeClass, room: int
    ) -> list[Ticket]:
        """Return at most `room` tickets of one size class: round robin over tenants, and over the runs of each."""
        given: list[Ticket] = []
        by_tenant: dict[str, list[OpenRun]] = {}
        for run in open_runs:
            by_tenant.setdefault(run.tenant_id, []).append(run)
        for key in [key for key in self.members if key[0] == size_class and key[1] not in by_tenant]:
            del self.members[key]

        def from_run(run_id: str) -> int:
            ticket = self._ticket(connection, rules, run_id, size_class)
            if ticket is None:
                return 0
            given.append(ticket)
            return 1

        def from_tenant(tenant_id: str) -> int:
            ring = self.members.setdefault((size_class, tenant_id), DeficitRing())
            weights = run_weights([(run.run_id, run.priority) for run in by_tenant[tenant_id]])
            return ring.serve(weights, 1, _known_empty(from_run, empty))

        empty: set[str] = set()
        tenants = self.tenants.setdefault(size_class, DeficitRing())
        tenants.serve({name: float(rules.weight_of(name)) for name in by_tenant}, room, from_tenant)
        return given

    def _ticket(self, connection: sa.Connection, rules: Rules, run_id: str, size_class: SizeClass) -> Ticket | None:
        key = (run_id, size_class)
        start = self.cursors.get(key, 0)
        limit = rules.batch(size_class)
        queued = files.queue(connection, run_id, size_class, after_no=start, limit=limit)
        if not queued and start:
            # At the end: once more from the top, for files that came back meanwhile.
            queued = files.queue(connection, run_id, size_class, after_no=0, limit=limit)
        if not queued:
            self.cursors.pop(key, None)
            return None
        self.cursors[key] = queued[-1][0]
        return Ticket(run_id=run_id, size_class=size_class, files=queued)


def _known_empty(take: Callable[[str], int], empty: set[str]) -> Callable[[str], int]:
    """Ask each run only until it had nothing, in this round."""

    def asked(run_id: str) -> int:
        if run_id in empty:
            return 0
        given = take(run_id)
        if not given:
            empty.add(run_id)
        return given

    return asked


def _windows(connection: sa.Connection, rules: Rules) -> tuple[int, int]:
    """Return how many tickets, and how many big files, may be outstanding; 0 in the rules means by living slots."""
    slots = [
        int(lease.detail.get("slots", 0))
        for lease in leases.listed(connection, leases.PROCESS)
        if lease.remaining_s > 0
    ]
    working = [count for count in slots if count]
    return (
        rules.window or max(2, 2 * sum(working)),
        rules.big_window or max(2, sum(max(2, count // 8) for count in working)),
    )


def _take_back(connection: sa.Connection, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        files.unqueue(connection, ticket)
