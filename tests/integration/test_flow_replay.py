"""A replay opens what failed, says so to LABDRIVE, and the job ends again; over a real ledger."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable, ObjectForbidden, ReplayRefused
from hashmill.domain.job import FileState, RunState
from hashmill.flow.expand import expand
from hashmill.flow.hash_files import hash_files
from hashmill.flow.replay import FILE_IDS_MAX, ReplayReport, ReplayRequest, replay
from hashmill.ledger import entries, files, replays, seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, accepted, delivered, dispatched, listed, remote, run_now, staged
from tests.helpers.ledger import fresh_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


async def ask(stage: Stage, **request: Any) -> ReplayReport:
    return await replay(stage.tools, ReplayRequest(**{"reason": "repaired", "who": "ada", **request}))


async def work(stage: Stage) -> None:
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)
    await delivered(stage)


async def failed_run(stage: Stage, *, start: int = 1, **event: Any) -> Run:
    """Return an ended run of three files: one hashed, one missing, one forbidden."""
    run = await listed(stage, 3, start=start, **event)
    del stage.storage.objects[f"dir/{start + 1}.bin"]
    stage.storage.objects[f"dir/{start + 2}.bin"] = ObjectForbidden("no")
    await work(stage)
    ended = await run_now(stage, run)
    assert ended.state is RunState.FAILED
    return ended


def repair(stage: Stage) -> None:
    stage.storage.objects |= {f"dir/{number}.bin": b"now it is here" for number in range(1, 30)}


async def test_the_failed_files_are_read_again_and_the_job_goes_back_to_running_and_completes(stage: Stage) -> None:
    run = await failed_run(stage)
    told_before = len(stage.api.calls)
    repair(stage)

    report = await ask(stage, run_id=run.run_id)
    assert (await run_now(stage, run)).state is RunState.RUNNING
    await work(stage)

    told = stage.api.calls[told_before:]
    assert report.files == 2
    assert [call.what["status"] for call in told if call.name == "set_job_status"] == ["RUNNING", "COMPLETED"]
    assert told[1].what["text"] == "Replayed by ada: repaired"
    assert {call.what["file_id"] for call in told if call.name == "set_hash"} == {"2", "3"}
    after = await run_now(stage, run)
    assert (after.state, after.generation, after.error_class) == (RunState.COMPLETED, 1, None)
    kinds = [entry.kind for entry in stage.tools.ledger.read_now(entries.of_run, run.run_id)]
    assert kinds.count("file_failed") == 2
    assert kinds.count("run_ended") == 2


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"job_id": "A"}, {"2", "3", "12", "13"}),
        ({"job_id": "B"}, {"22", "23"}),
        ({"error_class": "s3.not_found"}, {"2", "12", "22"}),
        ({"job_id": "A", "error_class": "s3.forbidden"}, {"3", "13"}),
        ({"file_ids": ("3", "22")}, {"3", "22"}),
        ({"job_id": "A", "file_ids": ("3", "22")}, {"3"}),
        ({"job_id": "B", "mode": "all"}, {"21", "22", "23"}),
        ({"file_ids": ("21",), "mode": "all"}, {"21"}),
    ],
)
async def test_selectors_choose_and_narrow(stage: Stage, selector: dict[str, Any], expected: set[str]) -> None:
    made = [
        await failed_run(stage, start=1, job_id="A"),
        await failed_run(stage, start=11, job_id="A"),
        await failed_run(stage, start=21, job_id="B"),
    ]

    dry = await ask(stage, **selector, dry_run=True)
    report = await ask(stage, **selector)

    rows = [row for run in made for row in stage.tools.ledger.read_now(files.of_run, run.run_id)]
    assert {row.file_id for row in rows if row.state is FileState.READY} == expected
    assert report.runs == dry.runs
    assert report.files == len(expected)


async def test_a_dry_run_counts_and_changes_nothing(stage: Stage) -> None:
    run = await failed_run(stage)
    before = stage.tools.ledger.read_now(entries.of_run, run.run_id)

    report = await ask(stage, run_id=run.run_id, dry_run=True)

    (selection,) = report.runs
    assert (report.dry_run, report.files, report.size_bytes) == (True, 2, 20)
    assert selection.by_class == {"s3.forbidden": 1, "s3.not_found": 1}
    assert await run_now(stage, run) == run
    assert stage.tools.ledger.read_now(entries.of_run, run.run_id) == before


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"run_id": "R", "reason": " "}, "needs a reason"),
        ({}, "say what to replay"),
        ({"run_id": "none"}, "there is no run none"),
        ({"job_id": "none"}, "no run belongs to LABDRIVE job none"),
        ({"run_id": "R", "job_id": "other"}, "belongs to LABDRIVE job 299"),
        ({"run_id": "R", "error_class": "s3.timeout"}, "nothing to replay"),
        ({"file_ids": tuple(str(number) for number in range(FILE_IDS_MAX + 1))}, "at most"),
    ],
)
async def test_what_cannot_be_replayed_is_refused_with_the_reason_and_changes_nothing(
    stage: Stage, request_: dict[str, Any], complaint: str
) -> None:
    run = await failed_run(stage)
    if request_.get("run_id") == "R":
        request_ = {**request_, "run_id": run.run_id}

    with pytest.raises(ReplayRefused, match=complaint):
        await ask(stage, **request_)

    assert await run_now(stage, run) == run


async def test_as_many_file_ids_as_are_allowed_are_looked_for(ledger_url: str) -> None:
    with fresh_ledger(ledger_url) as ledger, staged(ledger) as stage:
        run = await failed_run(stage)

        report = await ask(stage, file_ids=tuple(str(number) for number in range(FILE_IDS_MAX)), dry_run=True)

        assert [selection.run_id for selection in report.runs] == [run.run_id]


async def test_an_active_run_is_refused_unless_forced(stage: Stage) -> None:
    run = await listed(stage, 2)
    del stage.storage.objects["dir/2.bin"]
    (ticket,) = await dispatched(stage)
    await hash_files(stage.tools, ticket)

    with pytest.raises(ReplayRefused, match="is settled: wait"):
        await ask(stage, run_id=run.run_id)
    repair(stage)
    await ask(stage, run_id=run.run_id, force=True)
    await work(stage)

    assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_wiped_keys_are_refused_with_the_way_out(stage: Stage) -> None:
    run = await failed_run(stage)
    stage.tools.ledger.write_now(seal.wipe, run.run_id)

    with pytest.raises(ReplayRefused, match="post the event again"):
        await ask(stage, run_id=run.run_id)


async def test_reports_that_were_set_aside_are_sent_by_a_replay_without_reading_anything(stage: Stage) -> None:
    run = await listed(stage, 2)

    def locked(call: object) -> None:
        raise ApiAuth("401")

    stage.api.answer = locked
    await work(stage)
    assert (await run_now(stage, run)).error_class == "api.auth"
    stage.api.answer = lambda call: None
    told_before = len(stage.api.calls)

    report = await ask(stage, run_id=run.run_id)
    await delivered(stage)

    assert report.files == 0
    assert len([call for call in stage.api.calls[told_before:] if call.name == "set_hash"]) == 2
    assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_a_file_labdrive_did_not_know_is_looked_up_again(stage: Stage) -> None:
    run = await listed(stage, 1, file_ids=["1", "2"])
    await work(stage)
    assert (await run_now(stage, run)).error_class == "api.rejected"
    stage.api.add(remote(2))
    repair(stage)

    await ask(stage, run_id=run.run_id)
    await expand(stage.tools, run.run_id)
    await work(stage)

    after = await run_now(stage, run)
    assert (after.state, after.files_total, after.files_failed) == (RunState.COMPLETED, 2, 0)


async def test_a_listing_that_failed_is_tried_again(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, expand_give_up_after_s=-1.0)) as stage:
        run = await accepted(stage, file_ids=["1"])

        def away(call: object) -> None:
            raise ApiUnavailable("503")

        stage.api.answer = away
        await expand(stage.tools, run.run_id)
        stage.api.answer = lambda call: None
        await delivered(stage)
        assert (await run_now(stage, run)).state is RunState.FAILED
        stage.api.add(remote(1))
        repair(stage)

        await ask(stage, run_id=run.run_id)
        await expand(stage.tools, run.run_id)
        await work(stage)

        assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_of_many_replays_at_once_one_opens_the_run_and_the_others_are_refused(ledger_url: str) -> None:
    with fresh_ledger(ledger_url) as ledger, staged(ledger) as stage:
        run = await failed_run(stage)

        answers = await asyncio.gather(
            *(ask(stage, run_id=run.run_id, force=True) for _ in range(4)), return_exceptions=True
        )

        assert sorted(type(answer).__name__ for answer in answers) == ["ReplayRefused"] * 3 + ["ReplayReport"]
        after = await run_now(stage, run)
        assert (after.generation, after.files_open, after.files_failed) == (1, 2, 0)


async def test_a_job_that_refuses_its_status_ends_failed_and_can_be_replayed_to_completed(stage: Stage) -> None:
    run = await listed(stage, 1)

    def closed_job(call: Any) -> None:
        if call.name == "set_job_status":
            raise ApiRejected("409", status=409)

    stage.api.answer = closed_job
    await work(stage)
    assert (await run_now(stage, run)).state is RunState.FAILED
    stage.api.answer = lambda call: None

    await ask(stage, run_id=run.run_id)
    await delivered(stage)

    assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_a_replay_of_nothing_but_reports_is_selected_by_their_run(stage: Stage) -> None:
    run = await listed(stage, 1)

    def refuse_hash(call: Any) -> None:
        if call.name == "set_hash":
            raise ApiRejected("422", status=422)

    stage.api.answer = refuse_hash
    await work(stage)

    assert stage.tools.ledger.read_now(replays.select, run.run_id, everything=False).reports_dead == 1
