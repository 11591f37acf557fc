"""What went quiet is taken back, what kills is retired, what nobody needs is wiped."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.domain.job import FileState, RunState
from hashmill.flow import hash_files as hash_files_step
from hashmill.flow.hash_files import hash_files
from hashmill.flow.sweep import sweep
from hashmill.ledger import counters, entries, files, leases, seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import claim, done, fresh_ledger, lapse
from tests.helpers.wait import wait_until_async


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


async def test_a_file_whose_worker_died_is_handed_out_again_and_ends_right(stage: Stage) -> None:
    run = await listed(stage, 2)
    (ticket,) = await dispatched(stage)
    claim(stage.tools.ledger, ticket, owner="dead")
    assert (await sweep(stage.tools))["leases_taken_back"] == 0
    lapse(stage.tools.ledger, run)

    swept = await sweep(stage.tools)
    await _worked_off(stage, run)
    await delivered(stage)

    assert swept["leases_taken_back"] == 2
    assert (await run_now(stage, run)).state is RunState.COMPLETED
    rows = stage.tools.ledger.read_now(files.of_run, run.run_id)
    assert [(row.state, row.attempts) for row in rows] == [("done", 1), ("done", 1)]


async def test_a_file_that_takes_its_worker_down_again_and_again_is_poison_and_the_others_end(stage: Stage) -> None:
    run = await listed(stage, 3)

    for _ in range(RULES.lost_unproven_max):
        (ticket,) = await dispatched(stage)
        claimed = claim(stage.tools.ledger, ticket, owner="victim")
        others = [file for file in claimed if file.file_no != 2]
        if others:
            stage.tools.ledger.write_now(files.settle, run.run_id, [done(file) for file in others])
        lapse(stage.tools.ledger, run)
        swept = await sweep(stage.tools)

    assert swept["poison"] == 1
    rows = stage.tools.ledger.read_now(files.of_run, run.run_id)
    assert [row.state for row in rows] == ["done", "dead", "done"]
    assert "lost its lease 10 times, the last one held by victim" in (rows[1].error_detail or "")
    await delivered(stage)
    after = await run_now(stage, run)
    assert (after.state, after.error_class, after.files_failed) == (RunState.FAILED, "poison", 1)
    kinds = [entry.kind for entry in stage.tools.ledger.read_now(entries.of_run, run.run_id)]
    assert kinds.count("file_failed") == 1
    counted = stage.tools.ledger.read_now(counters.all)
    assert counted[Counted.FILES_POISONED] == 1
    assert counted[Counted.LEASES_LOST] == RULES.lost_unproven_max


async def test_more_lapsed_files_than_one_round_takes_are_taken_in_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await listed(stage, 12)
    (ticket,) = await dispatched(stage)
    claim(stage.tools.ledger, ticket)
    lapse(stage.tools.ledger, run)
    monkeypatch.setattr(files.lapsed, "__kwdefaults__", {"limit": 5})

    taken = [(await sweep(stage.tools))["leases_taken_back"] for _ in range(4)]

    assert taken == [5, 5, 2, 0]


async def test_tickets_that_were_lost_are_issued_anew(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, reissue_after_s=-1)) as stage:
        run = await listed(stage, 5)
        await dispatched(stage)

        assert (await sweep(stage.tools))["tickets_reissued"] == 5
        assert ledger.read_now(counters.all)[Counted.TICKETS_REISSUED] == 5
        assert stage.tools.ledger.read_now(files.count_by_state, run.run_id) == {FileState.READY: 5}


async def test_keys_past_their_time_and_processes_long_gone_are_removed(stage: Stage) -> None:
    run = await listed(stage, 1)
    ledger = stage.tools.ledger
    ledger.write_now(seal.keep_for, run.run_id, days=-1)
    ledger.write_now(leases.take, "process:gone", "gone", lease_s=-4000)
    ledger.write_now(leases.take, "process:quiet", "quiet", lease_s=-10)
    ledger.write_now(leases.take, "leader", "gone", lease_s=-4000)

    swept = await sweep(stage.tools)

    assert swept["keys_wiped"] == 1
    assert [lease.name for lease in ledger.read_now(leases.listed)] == ["leader", "process:quiet"]


@pytest.mark.parametrize(("held", "down", "reissued"), [(1, False, 0), (0, False, 3), (0, True, 3)])
async def test_tickets_the_broker_still_holds_are_not_written_anew_so_soon(
    ledger: Ledger, held: int, down: bool, reissued: int
) -> None:
    with staged(ledger, rules=replace(RULES, reissue_after_s=1.0)) as stage:
        await listed(stage, 3)
        await dispatched(stage)
        ledger.write_now(
            lambda connection: connection.execute(sa.text("UPDATE files SET queued_at_ms = queued_at_ms - 5000"))
        )
        stage.queue.held, stage.queue.down = held, down

        assert (await sweep(stage.tools))["tickets_reissued"] == reissued


async def test_a_loss_is_not_the_files_fault_while_its_process_lives(stage: Stage) -> None:
    run = await listed(stage, 2)
    stage.tools.ledger.write_now(leases.take, f"{leases.PROCESS}alive", "alive", lease_s=60)
    for _ in range(RULES.lost_unproven_max + 1):
        (ticket,) = await dispatched(stage)
        claim(stage.tools.ledger, ticket, owner="alive/1")
        lapse(stage.tools.ledger, run)

        assert (await sweep(stage.tools))["poison"] == 0

    await _worked_off(stage, run)
    assert (await run_now(stage, run)).files_failed == 0


async def test_of_files_that_lost_their_lease_together_a_process_works_on_one_at_a_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_files_step, "SUSPECT_PAUSE_S", (0.0, 0.2))
    run = await listed(stage, 6)
    (ticket,) = await dispatched(stage)
    claim(stage.tools.ledger, ticket, owner="dead/1")
    lapse(stage.tools.ledger, run)
    await sweep(stage.tools)
    gate = stage.storage.read_gate = asyncio.Event()
    (again,) = await dispatched(stage)

    working = asyncio.create_task(hash_files(stage.tools, again))
    await wait_until_async(lambda: stage.storage.reading, timeout_s=5)

    assert stage.tools.ledger.read_now(files.count_by_state, run.run_id) == {"running": 1, "ready": 5}
    gate.set()
    await working
    await _worked_off(stage, run)
    rows = stage.tools.ledger.read_now(files.of_run, run.run_id)
    assert [(row.state, row.attempts) for row in rows] == [("done", 1)] * 6


async def _worked_off(stage: Stage, run: Run) -> None:
    """Hand out and work until the run has no open file."""

    async def ended() -> bool:
        for ticket in await dispatched(stage):
            await hash_files(stage.tools, ticket)
        return (await run_now(stage, run)).files_open == 0

    await wait_until_async(ended, timeout_s=20)
