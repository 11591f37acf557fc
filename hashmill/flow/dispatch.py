"""The dispatcher: keeps a bounded number of tickets outstanding, chosen fairly over tenants and runs."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import sqlalchemy as sa

from hashmill.domain.fair import DeficitRing, run_weight
from hashmill.domain.job import SizeClass
from hashmill.domain.origin import origin_of
from hashmill.domain.work import Ticket
from hashmill.flow.tools import Rules, WorkTools
from hashmill.ledger import expansions, files, gates, leases, outbox
from hashmill.ledger.files import OpenRun
from hashmill.ledger.gates import GateKind

log = logging.getLogger(__name__)

LANES = ((SizeClass.BIG,), (SizeClass.NORMAL, SizeClass.TINY))
"""Size classes that share a window. They are served together: neither may starve the other."""
WATER_EVERY_S = 1.0
"""So often it is asked how many reports each API is owed."""
LOW_WATER = 0.8
"""An API that was owed too many reports gets tickets again when less than this share of the high-water mark is left."""
HELD = "dispatch "
"""The gate of an API that is held back is named so, and by its origin."""
CURSORS_MAX = 10_000
LOOK_SHARE = 4
"""After a look at the open runs there is no other for so many times as long as it took, or `LOOK_MAX_S`: thousands of
open runs cost a fifth of a core at most, and among a few a new one is seen in the next round."""
LOOK_MAX_S = 1.0
FILES_SHARE = 3
"""Small files outstanding for each that is read at once: one being read, one that waits beside it, one on its way."""
IN_FLIGHT = 64
"""Files in flight of a process that does not say how many it has."""

Lane = tuple[SizeClass, ...]
Share = tuple[str, SizeClass]
"""The files of one size class of one run: what takes its turn."""


@dataclass(slots=True)
class Dispatcher:
    """What the dispatcher remembers between two rounds. Losing it costs nothing but a fresh start of the cursors.

    `open` holds, by lane and tenant, the weight of each share that had files at the last look and was not found empty.
    `held_back` are the origins of the APIs that are owed too many reports; None: the ledger has not been asked yet.
    """

    open: dict[Lane, dict[str, dict[Share, float]]] = field(default_factory=dict)
    look_at_s: float = 0.0
    tenants: dict[Lane, DeficitRing[str]] = field(default_factory=dict)
    members: dict[tuple[Lane, str], DeficitRing[Share]] = field(default_factory=dict)
    cursors: dict[Share, int] = field(default_factory=dict)
    rung: dict[str, float] = field(default_factory=dict)
    held_back: set[str] | None = None
    water_at_s: float = float("-inf")

    async def round(self, tools: WorkTools) -> int:
        """Hand out what there is room for and return how many messages were sent."""
        held_back = await self._held_back(tools)
        room = await tools.ledger.read(self._look, tools.rules, tools.clock_s, held_back)
        tickets = await tools.ledger.write(self._choose, tools.rules, room) if room else []
        if tickets:
            loop = asyncio.get_running_loop()
            sent = await loop.run_in_executor(tools.threads, tools.queue.send, tickets)
            if not sent:
                # Taken back at once instead of waiting for the sweep; should one have got through, its epoch is void.
                await tools.ledger.write(_take_back, tickets)
                await asyncio.sleep(min(1.0, tools.rules.reissue_after_s))
        return len(tickets) + await self._ring(tools)

    async def _held_back(self, tools: WorkTools) -> Set[str]:
        """Return the APIs that are owed so much that more results would only grow the ledger; kept there for all."""
        now_s = tools.clock_s()
        if self.held_back is None:
            shut = await tools.ledger.read(gates.listed)
            self.held_back = {gate.name.removeprefix(HELD) for gate in shut if gate.kind is GateKind.DISPATCH}
        if now_s < self.water_at_s + WATER_EVERY_S:
            return self.held_back
        high = tools.rules.report_high_water
        owed: Counter[str] = Counter()
        for api_url, count in (await tools.ledger.read(outbox.owed_by_api)).items():
            owed[origin_of(api_url)] += count
        for origin in sorted({*owed, *self.held_back}):
            if origin not in self.held_back and owed[origin] > high:
                reason = f"more than {high} reports are owed to {origin}"
                kind = GateKind.DISPATCH
                await tools.ledger.write(gates.shut, HELD + origin, kind=kind, failures=0, for_s=0.0, reason=reason)
                log.warning("dispatch_held_back", extra={"api": origin, "owed": owed[origin], "high_water": high})
            elif origin in self.held_back and owed[origin] < LOW_WATER * high:
                await tools.ledger.write(gates.open_, HELD + origin)
                log.info("dispatch_goes_on", extra={"api": origin, "owed": owed[origin]})
            else:
                continue
            self.held_back ^= {origin}
            self.look_at_s = now_s  # the last look saw it otherwise
        self.water_at_s = now_s
        return self.held_back

    async def _ring(self, tools: WorkTools) -> int:
        """Ring for runs that wait to be expanded, each at most once per `reissue_after_s`."""
        due = await tools.ledger.read(expansions.due)
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

    def _look(
        self, connection: sa.Connection, rules: Rules, clock_s: Callable[[], float], held_back: Set[str]
    ) -> Mapping[Lane, int]:
        """See what is open, and return for how many tickets of each lane there is room. Locks nothing."""
        started_s = clock_s()
        if started_s >= self.look_at_s:
            found = {
                size_class: [
                    run for run in files.open_runs(connection, size_class) if origin_of(run.api_url) not in held_back
                ]
                for lane in LANES
                for size_class in lane
            }
            self.open = {lane: _shares({size_class: found[size_class] for size_class in lane}) for lane in LANES}
            ended_s = clock_s()
            self.look_at_s = ended_s + min(LOOK_MAX_S, LOOK_SHARE * (ended_s - started_s))
            self._forget()
        lanes = [lane for lane in LANES if self.open[lane]]
        if not lanes:
            return {}
        outstanding = files.outstanding(connection)
        windows = dict(zip(LANES, _windows(connection, rules), strict=True))
        room = {lane: windows[lane].room(rules, {sort: outstanding.get(sort, 0) for sort in lane}) for lane in lanes}
        return {lane: tickets for lane, tickets in room.items() if tickets > 0}

    def _forget(self) -> None:
        """Forget the turns and, when there are too many, the cursors of runs that have nothing to hand out."""
        self.members = {(lane, name): ring for (lane, name), ring in self.members.items() if name in self.open[lane]}
        if len(self.cursors) > CURSORS_MAX or not any(self.open.values()):
            open_ = {share for by_tenant in self.open.values() for shares in by_tenant.values() for share in shares}
            self.cursors = {share: at for share, at in self.cursors.items() if share in open_}

    def _choose(self, connection: sa.Connection, rules: Rules, room: Mapping[Lane, int]) -> list[Ticket]:
        return [ticket for lane in room for ticket in self._serve(connection, rules, lane, room[lane])]

    def _serve(self, connection: sa.Connection, rules: Rules, lane: Lane, room: int) -> list[Ticket]:
        """Return at most `room` tickets of one lane: round robin over tenants, and over the runs of each."""
        given: list[Ticket] = []
        by_tenant = self.open[lane]

        def from_tenant(tenant_id: str) -> float:
            shares = by_tenant[tenant_id]

            def from_share(share: Share) -> float:
                ticket = self._ticket(connection, rules, *share)
                if ticket is None:
                    del shares[share]  # not asked again before the next look
                    return 0
                given.append(ticket)
                return len(ticket.files) / rules.batch(ticket.size_class)

            return self.members.setdefault((lane, tenant_id), DeficitRing()).serve(shares, 1, from_share)

        tenants = self.tenants.setdefault(lane, DeficitRing())
        tenants.serve({name: float(rules.weight_of(name)) for name in by_tenant}, room, from_tenant)
        self.open[lane] = {tenant_id: shares for tenant_id, shares in by_tenant.items() if shares}
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


def _shares(found: Mapping[SizeClass, Sequence[OpenRun]]) -> dict[str, dict[Share, float]]:
    """Return the weight of each share by tenant; a run that is open in several classes has its weight once."""
    classes = Counter(run.run_id for open_runs in found.values() for run in open_runs)
    shares: dict[str, dict[Share, float]] = {}
    for size_class, open_runs in found.items():
        for run in open_runs:
            weight = run_weight(run.priority) / classes[run.run_id]
            shares.setdefault(run.tenant_id, {})[run.run_id, size_class] = weight
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """How much of one lane may be outstanding: so many tickets, and beyond `files` only what is begun already."""

    tickets: int
    files: float = math.inf

    def room(self, rules: Rules, outstanding: Mapping[SizeClass, int]) -> int:
        """Return how many tickets more there may be; the batches of tiny files count, being the largest."""
        tickets = self.tickets - sum(-(-count // rules.batch(sort)) for sort, count in outstanding.items())
        left = self.files - sum(outstanding.values())
        return tickets if left == math.inf else min(tickets, math.ceil(left / rules.batch_max))


def _windows(connection: sa.Connection, rules: Rules) -> tuple[_Window, _Window]:
    """Return what may be outstanding in each lane; 0 in the rules means by what the living processes can do.

    More slots do not read faster once the files in flight are as many as a process reads at once. What is handed out
    beyond that is a queue, and whoever comes next waits behind it.
    """
    working = [
        lease.detail
        for lease in leases.listed(connection, leases.PROCESS)
        if lease.remaining_s > 0 and lease.detail.get("slots")
    ]
    slots = [int(detail["slots"]) for detail in working]
    in_flight = sum(int(detail.get("files_in_flight", IN_FLIGHT)) for detail in working)
    small = _Window(tickets=max(2, 2 * sum(slots)), files=max(2 * rules.batch_max, FILES_SHARE * in_flight))
    return (
        _Window(tickets=rules.big_window or max(2, sum(max(2, count // 8) for count in slots))),
        _Window(tickets=rules.window) if rules.window else small,
    )


def _take_back(connection: sa.Connection, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        files.unqueue(connection, ticket)
