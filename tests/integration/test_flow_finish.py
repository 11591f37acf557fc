"""How a run ends: COMPLETED or FAILED, what the last message says, and what becomes of its keys."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ApiRejected, ErrorClass, ObjectForbidden, SecretExpired
from hashmill.domain.job import JobStatus, RunState
from hashmill.flow import finish as finish_step
from hashmill.flow import words
from hashmill.flow.access import access_of
from hashmill.flow.deliver import Deliverer
from hashmill.flow.expand import expand
from hashmill.flow.finish import finish
from hashmill.flow.hash_files import hash_files
from hashmill.ledger import entries, expansions, outbox, seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import CANARY, RULES, Stage, accepted, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


async def work(stage: Stage) -> None:
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)


def last_entry(stage: Stage, run: Run) -> entries.StoredEntry:
    return stage.tools.ledger.read_now(entries.of_run, run.run_id, limit=1000)[-1]


async def test_all_hashed_and_all_told_is_completed_and_the_keys_are_gone(stage: Stage) -> None:
    run = await listed(stage, 3)
    assert (await access_of(stage.tools, run)).key.reveal() == CANARY

    await work(stage)
    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class, after.outbox_owed) == (RunState.COMPLETED, None, 0)
    assert after.finished_at_ms is not None
    with pytest.raises(SecretExpired, match="post the event again"):
        await access_of(stage.tools, run)
    assert b'"status":"COMPLETED"' in last_entry(stage, run).body


async def test_one_failed_file_is_a_failed_job_that_counts_why_and_the_keys_stay_for_a_replay(stage: Stage) -> None:
    run = await listed(stage, 4)
    stage.storage.objects |= {"dir/1.bin": ObjectForbidden("no"), "dir/2.bin": ObjectForbidden("no")}
    del stage.storage.objects["dir/3.bin"]

    await work(stage)
    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class) == (RunState.FAILED, "s3.forbidden")
    assert after.error_detail == "2 files s3.forbidden, 1 files s3.not_found"
    closing = stage.api.calls[-2].what["text"]
    assert closing == "1 of 4 files hashed (md5; 10 bytes); 3 failed: s3.forbidden 2, s3.not_found 1"
    assert stage.tools.ledger.read_now(seal.kept, run.run_id)


async def test_a_run_without_files_completes_and_says_so(stage: Stage) -> None:
    run = await accepted(stage)

    await expand(stage.tools, run.run_id)
    await delivered(stage)

    assert (await run_now(stage, run)).state is RunState.COMPLETED
    assert stage.api.calls[-2].what["text"].startswith("0 of 0 files hashed")


async def test_nothing_closes_before_every_report_is_through(stage: Stage) -> None:
    run = await listed(stage, 1)
    await work(stage)

    moved = await finish(stage.tools)

    assert moved == 0
    assert (await run_now(stage, run)).state is RunState.SETTLED


async def test_a_final_status_nobody_takes_is_a_failed_run(stage: Stage) -> None:
    run = await listed(stage, 1)
    await work(stage)

    def answer(call: Any) -> None:
        if call.what.get("status") == "COMPLETED":
            raise ApiRejected("409", status=409)

    stage.api.answer = answer
    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class) == (RunState.FAILED, "api.rejected")
    assert b'"status_delivered":false' in last_entry(stage, run).body


async def test_a_run_is_closed_once_however_often_it_is_looked_at(stage: Stage) -> None:
    run = await listed(stage, 1)
    await work(stage)
    await delivered(stage)
    told = len(stage.api.calls)

    for _ in range(3):
        assert await finish(stage.tools) == 0
        await delivered(stage)

    kinds = [entry.kind for entry in stage.tools.ledger.read_now(entries.of_run, run.run_id)]
    assert (kinds.count("run_settled"), kinds.count("run_ended"), kinds[-1]) == (1, 1, "run_ended")
    assert len(stage.api.calls) == told


async def test_keys_of_a_failed_run_are_wiped_when_their_days_are_over(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, keep_keys_days=0)) as stage:
        run = await listed(stage, 1)
        stage.storage.objects.clear()
        await work(stage)
        await delivered(stage)

        _pass_a_moment(ledger)

        assert ledger.write_now(seal.wipe_expired) == 1
        assert not ledger.read_now(seal.kept, run.run_id)


def _pass_a_moment(ledger: Ledger) -> None:
    ledger.write_now(lambda connection: connection.execute(sa.text("UPDATE secrets SET wipe_after_ms = 1")))


async def test_many_runs_end_side_by_side(stage: Stage) -> None:
    made = [await listed(stage, 2, start=number * 10) for number in range(8)]

    await work(stage)
    await delivered(stage)

    assert {(await run_now(stage, run)).state for run in made} == {RunState.COMPLETED}
    assert stage.tools.ledger.read_now(outbox.owed_by_api) == {}


async def test_a_listing_that_failed_ends_the_job_failed_with_the_reason(stage: Stage) -> None:
    run = await accepted(stage)
    expansion = stage.tools.ledger.write_now(
        expansions.claim, run.run_id, lease_s=30, running=words.status(JobStatus.RUNNING), entry={}
    )
    assert expansion is not None
    stage.tools.ledger.write_now(
        expansions.fail, expansion, error_class=ErrorClass.API_REJECTED, detail="no such container", entry={}
    )

    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class, after.error_detail) == (
        RunState.FAILED,
        "api.rejected",
        "no such container",
    )
    assert "not all files could be listed: api.rejected: no such container" in stage.api.calls[-2].what["text"]


async def test_a_run_that_cannot_be_closed_rests_and_the_others_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await listed(stage, 1), await listed(stage, 1, start=2)
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)
    closing, tries = finish_step._close, []

    def close(connection: sa.Connection, run: Run) -> bool:
        if run.run_id == first.run_id:
            tries.append(run.run_id)
            raise ZeroDivisionError("a bug")
        return closing(connection, run)

    monkeypatch.setattr(finish_step, "_close", close)
    sender, resting = Deliverer(), dict[str, float]()
    for _ in range(20):
        await sender.round(stage.tools)
        await finish(stage.tools, resting)
    await sender.stop()

    assert tries == [first.run_id]
    assert (await run_now(stage, first)).state is RunState.SETTLED
    assert (await run_now(stage, second)).state is RunState.COMPLETED

    monkeypatch.undo()
    await delivered(stage)
    assert (await run_now(stage, first)).state is RunState.COMPLETED
