"""What holds a run back, and what to do about it: for a person who wonders why nothing moves."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from hashmill.domain.errors import ConfigFault, SecretExpired
from hashmill.domain.job import RunState
from hashmill.domain.origin import origin_of
from hashmill.flow.dispatch import HELD
from hashmill.flow.lead import LEADER
from hashmill.ledger import gates
from hashmill.ledger.gates import GateKind, ShutGate
from hashmill.ledger.presence import Presence, presence
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer


class HeldBy(StrEnum):
    """Nobody there, a server away, or a gate that is shut."""

    LEADER = "leader"
    WORKER = "worker"
    STORAGE = "storage"
    API = GateKind.API
    KEY = GateKind.KEY
    DISPATCH = GateKind.DISPATCH


TO_DO: Final = {
    HeldBy.LEADER: "start `hashmill worker` (worker.lead true) or `hashmill dispatcher`",
    HeldBy.WORKER: "start `hashmill worker`; until then files wait",
    HeldBy.STORAGE: "check that it runs and can be reached from the workers; its files wait and lose no attempt",
    HeldBy.API: "check that LABDRIVE runs and can be reached; what is owed to it waits",
    HeldBy.KEY: "give the key its rights back, or post the event again with a good one; what is owed with it waits",
    HeldBy.DISPATCH: "see why its reports are not taken; dispatch goes on when fewer are owed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One thing that holds a run back. None: since when is not known; there is no next try, or nobody knows when."""

    by: HeldBy
    what: str
    reason: str = ""
    for_s: float | None = None
    next_try_in_s: float | None = None
    """0 when it is due."""

    @property
    def to_do(self) -> str:
        return TO_DO[self.by]


def held_back(connection: sa.Connection, run: Run, *, sealer: Sealer | None, storage: str | None = None) -> list[Hold]:
    """Return what holds `run` back, the cause before the consequence; nothing does when it has ended.

    `sealer` tells the run's own key from others of its user; without it, or with another sealing key, each of them
    counts. `storage` is the address of the S3 server of its files, as `storage_address` spells it.
    """
    if run.state.ended:
        return []
    shut = [gate for gate in gates.listed(connection) if _concerns(connection, gate, run, sealer)]
    there = presence(connection, leader=LEADER)
    return [*_absent(there, run), *_storage_away(there, run, storage), *(_shut(gate, run) for gate in shut)]


def _absent(there: Presence, run: Run) -> Iterator[Hold]:
    if there.leading is None:
        yield Hold(by=HeldBy.LEADER, what="no process leads")
    if not there.slots and (run.files_open or run.state in (RunState.ACCEPTED, RunState.EXPANDING)):
        yield Hold(by=HeldBy.WORKER, what="no worker lives")


def _storage_away(there: Presence, run: Run, storage: str | None) -> Iterator[Hold]:
    for away in there.storages_away if run.files_open else ():
        if away.address == storage:
            yield Hold(
                by=HeldBy.STORAGE, what=f"the S3 server {away.address} is away", reason=away.reason, for_s=away.for_s
            )


def _concerns(connection: sa.Connection, gate: ShutGate, run: Run, sealer: Sealer | None) -> bool:
    origin = origin_of(run.api_url)
    match gate.kind:
        case GateKind.API:
            return gate.name == origin
        case GateKind.DISPATCH:
            return gate.name == HELD + origin and run.files_open > 0
        case GateKind.KEY:
            of_user = f"{origin} user {run.user_id[:60]} key "
            marks = _fingerprints(connection, run, sealer)
            if marks is None:
                return gate.name.startswith(of_user)
            # A name too long was cut in front.
            return any((of_user + mark).endswith(gate.name) for mark in marks)


def _fingerprints(connection: sa.Connection, run: Run, sealer: Sealer | None) -> list[str] | None:
    if sealer is None:
        return None
    try:
        return [sealer.fingerprint(key) for key in sealer.open(connection, run.run_id).values()]
    except SecretExpired:
        return []  # its reports are refused for that reason, by no gate
    except ConfigFault:
        return None


def _shut(gate: ShutGate, run: Run) -> Hold:
    origin = origin_of(run.api_url)
    what = {
        GateKind.API: f"LABDRIVE at {origin} is away",
        GateKind.KEY: f"LABDRIVE at {origin} refuses the key of user {run.user_id}",
        GateKind.DISPATCH: f"no new files are handed out for {origin}",
    }[gate.kind]
    # Dispatch opens by what is owed, not by a try.
    tries = gate.kind is not GateKind.DISPATCH
    return Hold(
        by=HeldBy(gate.kind),
        what=what,
        reason=gate.reason,
        for_s=gate.shut_s,
        next_try_in_s=max(0.0, gate.remaining_s) if tries else None,
    )
