"""How the service stands: one look at the ledger, and what a person should worry about."""

from dataclasses import dataclass

import sqlalchemy as sa

from hashmill.domain.job import RunState
from hashmill.flow.lead import LEADER
from hashmill.flow.tools import DoorTools
from hashmill.intake.broker import BrokerState
from hashmill.ledger import overview
from hashmill.ledger.gates import GateKind, ShutGate
from hashmill.ledger.overview import Overview
from hashmill.ledger.presence import Presence

WORRY_AFTER_S = 60.0
"""A ready file, an unclaimed ticket or an owed report that is older stands out on the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the ledger shows, with what follows from it."""

    overview: Overview

    @property
    def presence(self) -> Presence:
        """Who is there."""
        return Presence(leader=self.overview.leader, processes=self.overview.processes)

    @property
    def files_by_state(self) -> dict[str, int]:
        """Files by state as the runs' counters tell it; `failed` includes dead and cancelled ones."""
        totals, moving = self.overview.totals, self.overview.moving
        return {
            "ready": max(0, totals.files_open - moving.queued - moving.running),
            "queued": moving.queued,
            "running": moving.running,
            "done": totals.files_total - totals.files_open - totals.files_failed,
            "failed": totals.files_failed,
        }


async def look(tools: DoorTools) -> Standing:
    """Return how the service stands now, or raise `LedgerUnavailable`."""
    return await tools.ledger.read(_look)


def _look(connection: sa.Connection) -> Standing:
    return Standing(overview=overview.overview(connection, leader=LEADER))


def worries(standing: Standing, broker: BrokerState) -> list[str]:
    """Return what keeps work from flowing, the cause before the consequence; empty when nothing does."""
    seen, there = standing.overview, standing.presence
    runs = seen.totals.runs
    unended = sum(count for state, count in runs.items() if not state.ended)
    said = []
    if broker.state == "unavailable":
        said.append("The broker does not answer: accepted events wait in the ledger until it is back.")
    if there.leading is None and unended:
        said.append("No process leads: nothing is dispatched or delivered until a worker or dispatcher starts.")
    if not there.slots and (seen.totals.files_open or runs.get(RunState.ACCEPTED)):
        said.append("No worker lives: files wait until one starts.")
    if off := there.kernels["off"]:
        said.append(f"{off} workers hash without their kernel, which is wrong there: right, and at half the speed.")
    for away in there.storages_away:
        said.append(
            f"The S3 server {away.address} is away for {_spoken(away.for_s)}, as {away.processes} of "
            f"{len(there.living)} processes find: its files wait and lose no attempt. They saw: {away.reason}"
        )
    for gate in seen.gates:
        said.append(_SHUT[gate.kind].format(name=gate.name, reason=gate.reason, when=_when(gate)))
    for age_s, what in (
        (seen.oldest_unlisted_s, "The files of a run have not been listed for {}: see its error below."),
        (seen.oldest_queued_s, "A ticket has waited {} for a worker to claim it."),
        (seen.oldest_owed_s, "A report has been owed to LABDRIVE for {}."),
    ):
        if age_s is not None and age_s > WORRY_AFTER_S:
            said.append(what.format(_spoken(age_s)))
    if seen.oldest_ready_s is not None and seen.oldest_ready_s > WORRY_AFTER_S and not seen.moving.running:
        said.append(f"A file has been ready for {_spoken(seen.oldest_ready_s)}, and no file is being read.")
    return said


_SHUT = {
    GateKind.API: "LABDRIVE at {name} is away {when}: reports wait, and one call at a time tries. It said: {reason}",
    GateKind.KEY: (
        "LABDRIVE refuses a key ({name}) {when}: what is owed with it waits. Give the key its rights back, or post the "
        "event again with a good one. It said: {reason}"
    ),
    GateKind.DISPATCH: "Dispatch is held back for the runs of one API: {reason}.",
}


def _when(gate: ShutGate) -> str:
    tries = f"in {_spoken(gate.remaining_s)}" if gate.remaining_s > 0 else "now"
    return f"for {_spoken(gate.shut_s)}, next try {tries}"


def _spoken(age_s: float) -> str:
    for size_s, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if age_s >= 2 * size_s:
            return f"{age_s / size_s:.0f} {unit}"
    return f"{age_s:.0f} seconds"
