"""A ticket is worked: mixed outcomes, bugs, drains and stolen leases, over a real ledger."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.domain.errors import ErrorClass, ObjectForbidden, StorageTimeout
from hashmill.domain.job import FileState, RunState
from hashmill.flow.hash_files import hash_files
from hashmill.flow.present import keep_leases
from hashmill.flow.sweep import sweep
from hashmill.ledger import counters, entries, files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger, lapse
from tests.helpers.wait import wait_until_async

MD5 = "781e5e245d69b566979b86e28d23f2c7"  # of 0123456789


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


def rows(stage: Stage, run: Run) -> list[files.FileRow]:
    return stage.tools.ledger.read_now(files.of_run, run.run_id, limit=1000)


async def test_every_file_of_a_ticket_ends_as_its_own_object_says(stage: Stage) -> None:
    run = await listed(stage, 5)
    stage.storage.objects |= {
        "dir/2.bin": ObjectForbidden("no"),
        "dir/3.bin": StorageTimeout("slow", retry_after_s=3600),
    }
    del stage.storage.objects["dir/4.bin"]
    (ticket,) = await dispatched(stage)

    await hash_files(stage.tools, ticket)

    after = rows(stage, run)
    assert [row.state for row in after] == ["done", "failed", "ready", "failed", "done"]
    assert [row.error_class for row in after] == [None, "s3.forbidden", "s3.timeout", "s3.not_found", None]
    assert [row.digests.get("md5") for row in after] == [MD5, None, None, None, MD5]
    assert [row.attempts for row in after] == [1, 1, 1, 1, 1]
    assert (await run_now(stage, run)).files_open == 1


async def test_a_bug_in_one_file_is_its_own_failure_and_the_others_are_hashed(stage: Stage) -> None:
    run = await listed(stage, 3)
    stage.storage.objects["dir/2.bin"] = ZeroDivisionError("a bug")
    (ticket,) = await dispatched(stage)

    await hash_files(stage.tools, ticket)

    assert [row.state for row in rows(stage, run)] == ["done", "ready", "done"]
    assert rows(stage, run)[1].error_detail == "ZeroDivisionError: a bug"


async def test_a_trouble_that_passes_is_tried_until_the_attempts_are_used_up(stage: Stage) -> None:
    run = await listed(stage, 1)
    stage.storage.objects["dir/1.bin"] = StorageTimeout("slow")

    for _ in range(RULES.attempts_max):
        (ticket,) = await dispatched(stage)
        await hash_files(stage.tools, ticket)

    (row,) = rows(stage, run)
    assert (row.state, row.attempts, row.error_class) == ("failed", RULES.attempts_max, "s3.timeout")
    assert (await run_now(stage, run)).state is RunState.SETTLED


async def test_a_complaint_no_database_can_hold_is_written_without_its_odd_characters(ledger_url: str) -> None:
    with fresh_ledger(ledger_url) as ledger, staged(ledger) as stage:
        run = await listed(stage, 2)
        stage.storage.objects["dir/1.bin"] = ObjectForbidden("no\x00 \udcff way")
        (ticket,) = await dispatched(stage)

        await hash_files(stage.tools, ticket)

        assert [(row.state, row.error_detail) for row in rows(stage, run)] == [("failed", "no way"), ("done", None)]


async def test_a_drained_worker_gives_its_files_back_and_counts_no_attempt(stage: Stage) -> None:
    run = await listed(stage, 3)
    (ticket,) = await dispatched(stage)
    stage.storage.read_gate = asyncio.Event()
    work = asyncio.create_task(hash_files(stage.tools, ticket))
    await wait_until_async(lambda: stage.storage.reading == 3)

    work.cancel()
    with suppress(asyncio.CancelledError):
        await work

    assert stage.storage.reading == 0
    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("ready", 0)] * 3
    assert (await run_now(stage, run)).files_open == 3


async def test_a_worker_told_to_stop_in_the_middle_of_a_claim_gives_it_back(stage: Stage) -> None:
    run = await listed(stage, 3)
    (ticket,) = await dispatched(stage)
    with stage.tools.ledger.engine.begin():  # SQLite's one writer: the claim waits behind it
        work = asyncio.create_task(hash_files(stage.tools, ticket))
        await asyncio.sleep(0)
        await wait_until_async(lambda: stage.tools.claims)
        work.cancel()

    with suppress(asyncio.CancelledError):
        await work

    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("ready", 0)] * 3


async def test_a_worker_that_drains_claims_nothing_more(stage: Stage) -> None:
    run = await listed(stage, 1)
    (ticket,) = await dispatched(stage)
    stage.tools.draining.set()

    await hash_files(stage.tools, ticket)

    assert [row.state for row in rows(stage, run)] == ["queued"]


async def test_a_result_whose_lease_was_lost_is_not_written_but_counted(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    run = await listed(stage, 2)
    (ticket,) = await dispatched(stage)
    stage.storage.read_gate = asyncio.Event()
    zombie = asyncio.create_task(hash_files(stage.tools, ticket))
    await wait_until_async(lambda: stage.storage.reading == 2)
    lapse(stage.tools.ledger, run)
    await sweep(stage.tools)

    with caplog.at_level(logging.WARNING, "hashmill.flow.hash_files"):
        stage.storage.read_gate.set()
        await zombie

    assert [row.state for row in rows(stage, run)] == ["ready", "ready"]
    (told,) = [record for record in caplog.records if record.message == "results_refused"]
    assert told.__dict__["files"] == 2
    assert stage.tools.ledger.read_now(counters.all)[Counted.RESULTS_REFUSED] == 2
    assert "file_hashed" not in [entry.kind for entry in stage.tools.ledger.read_now(entries.of_run, run.run_id)]


async def test_the_leases_of_files_at_work_are_renewed(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, file_lease_s=0.3)) as stage:
        run = await listed(stage, 1)
        (ticket,) = await dispatched(stage)
        stage.storage.read_gate = asyncio.Event()
        renewing = asyncio.create_task(keep_leases(stage.tools))
        work = asyncio.create_task(hash_files(stage.tools, ticket))
        await wait_until_async(lambda: stage.storage.reading == 1)

        until_ms = _lease_until_ms(ledger)
        await wait_until_async(lambda: (_lease_until_ms(ledger) or 0) > (until_ms or 0) + 600)
        stage.storage.read_gate.set()
        await work
        renewing.cancel()

        assert [row.state for row in rows(stage, run)] == ["done"]


async def test_files_whose_ticket_broke_off_are_let_go_while_the_process_lives_on(ledger: Ledger) -> None:
    """Else the process would renew for ever what nobody in it works on any more."""
    with staged(ledger, rules=replace(RULES, file_lease_s=0.3)) as stage:
        run = await listed(stage, 1)
        (ticket,) = await dispatched(stage)
        renewing = asyncio.create_task(keep_leases(stage.tools))
        # Stands for anything that breaks a ticket off between claim and result: no entry can be written.
        _forbid_entries(ledger)
        with suppress(sa.exc.IntegrityError):
            await hash_files(stage.tools, ticket)

        await wait_until_async(lambda: ledger.write_now(files.lapsed), timeout_s=3)
        renewing.cancel()

        assert (await sweep(stage.tools))["leases_taken_back"] == 1
        assert [row.error_class for row in rows(stage, run)] == [ErrorClass.LEASE_LOST]


def _lease_until_ms(ledger: Ledger) -> int | None:
    return ledger.read_now(
        lambda connection: connection.execute(
            sa.text("SELECT max(lease_until_ms) FROM files WHERE state = :state"), {"state": FileState.RUNNING}
        ).scalar_one()
    )


def _forbid_entries(ledger: Ledger) -> None:
    ledger.write_now(
        lambda connection: connection.execute(
            sa.text("CREATE TRIGGER no_more BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'no more'); END")
        )
    )
