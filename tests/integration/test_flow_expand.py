"""A run's files are listed: by id, by path, by folder, the whole container; whatever the API does meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable, ConfigFault, ErrorClass
from hashmill.domain.job import FileState, JobStatus, RunState
from hashmill.domain.remote import RemoteKind
from hashmill.flow import words
from hashmill.flow.dispatch import Dispatcher
from hashmill.flow.expand import expand
from hashmill.ledger import entries, expansions, files, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Call, Stage, accepted, delivered, remote, run_now, staged
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until_async


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        opened.api.add(*(remote(number) for number in range(1, 8)))
        yield opened


def rows(stage: Stage, run: Run) -> list[files.FileRow]:
    return stage.tools.ledger.read_now(files.of_run, run.run_id, limit=10_000)


def ids(stage: Stage, run: Run) -> list[str | None]:
    return [row.file_id for row in rows(stage, run)]


def raising(error: Exception, *, times: int = 1_000_000, name: str = "", **what: Any) -> Any:
    """Return an answer that raises `error` so many times for such calls."""
    left = [times]

    def answer(call: Call) -> None:
        if left[0] and name in ("", call.name) and what.items() <= dict(call.what).items():
            left[0] -= 1
            raise error

    return answer


async def test_files_named_by_id_become_rows_with_what_labdrive_says_of_them(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["3", "1"])

    await expand(stage.tools, run.run_id)

    assert [(row.file_id, row.path, row.size_bytes) for row in rows(stage, run)] == [
        ("3", "dir/3.bin", 10),
        ("1", "dir/1.bin", 10),
    ]
    after = await run_now(stage, run)
    assert (after.state, after.files_total, after.files_open, after.bytes_total) == (RunState.RUNNING, 2, 2, 20)
    kinds = [entry.kind for entry in stage.tools.ledger.read_now(entries.of_run, run.run_id)]
    assert kinds == ["run_accepted", "run_started", "run_expanded"]


async def test_files_named_by_path_are_looked_up(stage: Stage) -> None:
    run = await accepted(stage, file_paths=["dir/2.bin", "dir/5.bin"])

    await expand(stage.tools, run.run_id)

    assert ids(stage, run) == ["2", "5"]


async def test_a_file_named_by_id_and_by_path_is_one_file(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["2", "4"], file_paths=["dir/4.bin", "dir/6.bin"])

    await expand(stage.tools, run.run_id)

    assert ids(stage, run) == ["2", "4", "6"]
    assert (await run_now(stage, run)).files_total == 3


async def test_no_names_mean_the_whole_container_page_by_page_without_folders_and_deleted_files(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, list_page=100, page_files=30)) as stage:
        stage.api.add(*(remote(number) for number in range(1, 251)))
        stage.api.add(remote("f", path="dir", kind=RemoteKind.FOLDER), remote("gone", deleted=True))
        run = await accepted(stage)

        await expand(stage.tools, run.run_id)

        assert ids(stage, run) == [str(number) for number in range(1, 251)]
        assert len(stage.api.made("list_files")) == 4


@pytest.mark.parametrize("folder", ["sub", "sub/"])
async def test_a_folder_among_the_ids_means_every_file_below_it_and_none_beside_it(stage: Stage, folder: str) -> None:
    stage.api.add(
        remote("f", path=folder, kind=RemoteKind.FOLDER),
        remote("11", path="sub/a"),
        remote("12", path="sub/deeper/b"),
        remote("13", path="subway"),
    )
    run = await accepted(stage, file_ids=["f", "1"])

    await expand(stage.tools, run.run_id)

    assert ids(stage, run) == ["1", "11", "12"]


async def test_the_root_folder_among_the_ids_means_the_whole_container(stage: Stage) -> None:
    stage.api.add(replace(remote("root", kind=RemoteKind.FOLDER), path=""))
    run = await accepted(stage, file_ids=["root"])

    await expand(stage.tools, run.run_id)

    assert ids(stage, run) == [str(number) for number in range(1, 8)]


async def test_an_id_labdrive_does_not_know_is_a_failed_file_and_the_rest_goes_on(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1", "77"], file_paths=["no/such", "dir/2.bin"])

    await expand(stage.tools, run.run_id)

    after = {row.file_id or row.path: (row.state, row.error_class) for row in rows(stage, run)}
    assert after == {
        "1": (FileState.READY, None),
        "2": (FileState.READY, None),
        "77": (FileState.FAILED, "api.rejected"),
        "no/such": (FileState.FAILED, "api.rejected"),
    }
    await delivered(stage)
    texts = [call.what["text"] for call in stage.api.made("create_message")]
    assert len([text for text in texts if text.startswith(("File not hashed: 77:", "File not hashed: no/such:"))]) == 2


async def test_a_file_of_another_container_is_never_read_from_this_one(stage: Stage) -> None:
    """Its path may be another file's here, and the digest of that would be stored as its own."""
    stage.api.add(remote("stray", path="dir/1.bin", container_id="2"))
    run = await accepted(stage, file_ids=["1", "stray"])

    await expand(stage.tools, run.run_id)

    assert [(row.file_id, row.state) for row in rows(stage, run)] == [("1", "ready"), ("stray", "failed")]
    assert "container 2" in (rows(stage, run)[1].error_detail or "")


async def test_a_trouble_that_passes_postpones_the_rest_and_goes_on_at_the_cursor(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, page_files=2)) as stage:
        stage.api.add(*(remote(number) for number in range(1, 8)))
        run = await accepted(stage, file_ids=[str(number) for number in range(1, 8)])
        stage.api.answer = raising(ApiUnavailable("503"), times=1, name="get_file", file_id="5")

        await expand(stage.tools, run.run_id)
        between = await run_now(stage, run)
        looked_up = len(stage.api.made("get_file"))
        await expand(stage.tools, run.run_id)

        assert (between.state, between.files_total, between.error_class) == (RunState.EXPANDING, 4, "api.unavailable")
        assert [call.what["file_id"] for call in stage.api.made("get_file")[looked_up:]] == ["5", "6", "7"]
        after = await run_now(stage, run)
        assert (after.state, after.files_total, after.error_class) == (RunState.RUNNING, 7, None)


async def test_a_pause_the_api_asks_for_is_kept(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    stage.api.answer = raising(ApiUnavailable("429", retry_after_s=3600), times=1)

    await expand(stage.tools, run.run_id)
    await expand(stage.tools, run.run_id)

    assert (await run_now(stage, run)).state is RunState.EXPANDING
    assert stage.tools.ledger.read_now(expansions.due) == []


@pytest.mark.parametrize(
    ("error", "error_class"), [(ApiAuth("401"), "api.auth"), (ApiRejected("404", status=404), "api.rejected")]
)
async def test_a_trouble_that_stays_fails_the_run(stage: Stage, error: Exception, error_class: str) -> None:
    run = await accepted(stage)
    stage.api.answer = raising(error, name="list_files")

    await expand(stage.tools, run.run_id)
    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class) == (RunState.FAILED, error_class)
    assert [call.what["status"] for call in stage.api.made("set_job_status")] == ["RUNNING", "FAILED"]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), ConfigFault("a wrong knob")])
async def test_a_bug_or_a_wrong_setting_is_tried_again_and_in_the_end_fails_the_run(
    ledger: Ledger, error: Exception
) -> None:
    """A run nobody can list must end all the same, and say why."""
    with staged(ledger, rules=replace(RULES, expand_give_up_after_s=0.2)) as stage:
        run = await accepted(stage, file_ids=["1"])
        stage.api.answer = raising(error, name="get_file")

        async def failed() -> bool:
            await expand(stage.tools, run.run_id)
            return (await run_now(stage, run)).state is RunState.SETTLED

        await expand(stage.tools, run.run_id)
        assert (await run_now(stage, run)).state is RunState.EXPANDING
        await wait_until_async(failed, timeout_s=3)

        assert str(error) in ((await run_now(stage, run)).error_detail or "")


async def test_a_run_that_could_not_be_listed_for_too_long_fails_and_what_is_written_is_worked(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, page_files=1, expand_give_up_after_s=-1.0)) as stage:
        stage.api.add(remote(1))
        run = await accepted(stage, file_ids=["1", "2"])
        stage.api.answer = raising(ApiUnavailable("503"), name="get_file", file_id="2")

        await expand(stage.tools, run.run_id)

        after = await run_now(stage, run)
        assert (after.state, after.files_open, after.error_class) == (RunState.RUNNING, 1, "api.unavailable")


async def test_a_cancelled_listing_is_given_back_at_once_with_nothing_left_running(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1", "2"])
    stage.api.answer = lambda call: asyncio.Event().wait()
    work = asyncio.create_task(expand(stage.tools, run.run_id))
    await wait_until_async(lambda: len(asyncio.all_tasks()) > 3)

    work.cancel()
    with suppress(asyncio.CancelledError):
        await work

    assert stage.tools.ledger.read_now(expansions.due) == [run.run_id]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_page_that_takes_longer_than_the_lease_keeps_it(ledger: Ledger) -> None:
    """Else a slow API lets each page be looked up by one worker after the other, and written by none."""
    with staged(ledger, rules=replace(RULES, file_lease_s=0.3)) as stage:
        stage.api.add(remote(1))
        run = await accepted(stage, file_ids=["1"])
        release = asyncio.Event()
        stage.api.answer = lambda call: release.wait()
        work = asyncio.create_task(expand(stage.tools, run.run_id))
        seen: list[int] = []

        async def later() -> bool:
            if until_ms := await _until_ms(ledger, run):
                seen.append(until_ms)
            return bool(seen) and seen[-1] > seen[0] + 400

        await wait_until_async(later, timeout_s=3)
        release.set()
        await work

        assert (await run_now(stage, run)).files_total == 1


async def _until_ms(ledger: Ledger, run: Run) -> int:
    column = runs.runs.c.expand_until_ms
    statement = runs.sa.select(column).where(runs.runs.c.run_id == run.run_id)
    return await ledger.read(lambda connection: connection.execute(statement).scalar_one()) or 0


async def test_a_lister_whose_lease_went_to_another_stops(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, file_lease_s=0.3)) as stage:
        run = await accepted(stage, file_ids=["1"])
        stage.api.answer = lambda call: asyncio.Event().wait()
        work = asyncio.create_task(expand(stage.tools, run.run_id))
        await wait_until_async(lambda: ledger.read_now(runs.get, run.run_id).state == "expanding")  # type: ignore[union-attr]
        ledger.write_now(
            lambda connection: connection.execute(
                runs.sa.update(runs.runs).values(expand_fence=runs.runs.c.expand_fence + 1)
            )
        )

        await asyncio.wait_for(work, timeout=3)


async def test_a_run_that_is_done_or_drained_is_left_alone(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    stage.tools.draining.set()
    await expand(stage.tools, run.run_id)
    assert (await run_now(stage, run)).state is RunState.ACCEPTED
    stage.tools.draining.clear()

    await expand(stage.tools, run.run_id)
    await expand(stage.tools, run.run_id)
    await expand(stage.tools, "no such run")

    assert len(stage.api.made("get_file")) == 1


async def test_the_storage_is_asked_for_once_where_the_objects_depend_on_it(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, wants_storage=True)) as stage:
        stage.api.storage_id = "7"
        stage.api.add(remote(1))
        run = await accepted(stage)

        await expand(stage.tools, run.run_id)

        assert (await run_now(stage, run)).storage_id == "7"
        assert len(stage.api.made("get_container")) == 1


async def test_the_dispatcher_rings_for_a_run_nobody_has_heard_of(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, reissue_after_s=1.1)) as stage:
        run = await accepted(stage)
        await wait_until_async(lambda: stage.queue.rung)
        stage.queue.rung.clear()
        dispatcher = Dispatcher()

        async def rung() -> bool:
            await dispatcher.round(stage.tools)
            return bool(stage.queue.rung)

        await wait_until_async(rung, timeout_s=3)

        assert stage.queue.rung == [run.run_id]


async def test_a_run_whose_listing_takes_every_process_down_ends_in_the_end(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, expand_give_up_after_s=-1.0)) as stage:
        stage.api.add(remote(1))
        run = await accepted(stage, file_ids=["1"])
        died = ledger.write_now(
            expansions.claim, run.run_id, lease_s=-1, running=words.status(JobStatus.RUNNING), entry={}
        )
        assert died is not None
        assert not died.lapsed

        await expand(stage.tools, run.run_id)

        after = await run_now(stage, run)
        assert (after.state, after.error_class) == (RunState.SETTLED, "lease_lost")
        assert stage.api.calls == []


async def test_a_renewal_that_comes_late_does_not_take_back_what_was_given_back(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    ledger = stage.tools.ledger
    for give_back in (expansions.release, _postpone_for_nothing):
        claimed = ledger.write_now(
            expansions.claim, run.run_id, lease_s=30, running=words.status(JobStatus.RUNNING), entry={}
        )
        assert claimed is not None
        ledger.write_now(give_back, claimed)

        assert not ledger.write_now(expansions.renew, claimed, lease_s=30)
        assert ledger.read_now(expansions.due) == [run.run_id]


def _postpone_for_nothing(connection: Any, expansion: expansions.Expansion) -> None:
    expansions.postpone(connection, expansion, after_s=-1, error_class=ErrorClass.API_UNAVAILABLE, detail="")


async def test_a_listing_whose_last_answer_was_lost_is_through_and_not_to_blame(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    ledger = stage.tools.ledger
    claimed = ledger.write_now(
        expansions.claim, run.run_id, lease_s=30, running=words.status(JobStatus.RUNNING), entry={}
    )
    assert claimed is not None
    assert ledger.write_now(expansions.end, claimed, {})

    ledger.write_now(expansions.postpone, claimed, after_s=1, error_class=ErrorClass.INTERNAL, detail="away")

    after = await run_now(stage, run)
    assert (after.state, after.error_class) == (RunState.SETTLED, None)
