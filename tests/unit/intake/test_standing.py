from typing import Any

from hashmill.domain.job import RunState
from hashmill.intake.broker import BrokerState
from hashmill.intake.standing import Standing, worries
from hashmill.ledger.gates import GateKind, ShutGate
from hashmill.ledger.leases import Lease
from hashmill.ledger.overview import Moving, Overview, Totals

UP = BrokerState(state="ok", waiting={})
DOWN = BrokerState(state="unavailable", waiting={})


def lease(name: str, *, remaining_s: float = 3.0, **detail: Any) -> Lease:
    return Lease(name=name, holder="a", fence=1, remaining_s=remaining_s, detail=detail)


def standing(*, runs: dict[RunState, int] | None = None, files_open: int = 0, **changes: Any) -> Standing:
    totals = Totals(
        runs={RunState.RUNNING: 1} if runs is None else runs,
        files_total=10,
        files_open=files_open,
        files_failed=2,
        bytes_total=0,
        bytes_done=0,
        reports_owed=0,
        reports_dead=0,
    )
    values: dict[str, Any] = {
        "totals": totals,
        "moving": Moving(queued=0, running=0),
        "oldest_ready_s": None,
        "oldest_queued_s": None,
        "oldest_owed_s": None,
        "oldest_unlisted_s": None,
        "leader": lease("leader"),
        "processes": [lease("process:a", slots=4)],
    }
    return Standing(overview=Overview(**{**values, **changes}))


def test_nothing_worries_while_work_flows() -> None:
    flowing = standing(files_open=5, moving=Moving(queued=1, running=4), oldest_ready_s=900.0)

    assert worries(flowing, UP) == []


def test_an_idle_service_without_processes_is_no_worry() -> None:
    idle = standing(runs={RunState.COMPLETED: 3, RunState.FAILED: 1}, leader=None, processes=[])

    assert worries(idle, UP) == []


def test_what_is_missing_is_named_cause_first() -> None:
    said = worries(standing(files_open=5, leader=None, processes=[]), DOWN)

    assert [worry.split(":")[0] for worry in said] == [
        "The broker does not answer",
        "No process leads",
        "No worker lives",
    ]


def test_a_lapsed_lease_is_nobody() -> None:
    lapsed = standing(leader=lease("leader", remaining_s=-1.0), processes=[lease("process:a", remaining_s=-1, slots=4)])

    there = lapsed.presence
    assert there.leading is None
    assert (list(there.living), there.slots) == ([], 0)


def test_what_waits_too_long_is_said_with_its_age() -> None:
    said = worries(
        standing(
            files_open=1, oldest_ready_s=61.0, oldest_queued_s=200.0, oldest_owed_s=7300.0, oldest_unlisted_s=200_000.0
        ),
        UP,
    )

    assert said == [
        "The files of a run have not been listed for 2 days: see its error below.",
        "A ticket has waited 3 minutes for a worker to claim it.",
        "A report has been owed to LABDRIVE for 2 hours.",
        "A file has been ready for 61 seconds, and no file is being read.",
    ]


def test_files_by_state_add_up_to_the_total() -> None:
    counted = standing(files_open=5, moving=Moving(queued=1, running=2)).files_by_state

    assert counted == {"ready": 2, "queued": 1, "running": 2, "done": 3, "failed": 2}


def test_slots_that_are_no_number_count_as_none() -> None:
    assert standing(processes=[lease("process:a", slots="many"), lease("process:b")]).presence.slots == 0


def test_what_is_shut_is_said_with_since_when_and_the_next_try() -> None:
    def gate(kind: GateKind, remaining_s: float) -> ShutGate:
        return ShutGate(name="x", kind=kind, failures=3, shut_s=600.0, remaining_s=remaining_s, reason="no")

    said = worries(standing(gates=[gate(GateKind.API, 45.0), gate(GateKind.KEY, -1.0)]), UP)

    assert said[0].startswith("LABDRIVE at x is away for 10 minutes, next try in 45 seconds: reports wait")
    assert said[1].startswith("LABDRIVE refuses a key (x) for 10 minutes, next try now: what is owed")


def test_an_s3_server_that_is_away_is_said_with_how_many_find_it_so() -> None:
    away = [{"address": "http://s3", "for_s": 600.0, "reason": "no answer"}]

    (said,) = worries(
        standing(processes=[lease("process:a", slots=4, storages_away=away), lease("process:b", slots=4)]), UP
    )

    assert said.startswith("The S3 server http://s3 is away for 10 minutes, as 1 of 2 processes find: its files wait")
    assert said.endswith("no answer")
