"""Opening a run again: what is chosen, what the counters say after it, and what is left as it was."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, JobStatus, RunState, SizeClass
from hashmill.domain.secret import Secret
from hashmill.domain.work import FileOutcome, NewFile
from hashmill.flow import words
from hashmill.ledger import entries, expansions, files, outbox, replays, results, runs, seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.replays import Selection
from hashmill.ledger.runs import Run
from tests.helpers.ledger import (
    accept_run,
    claim,
    claim_expansion,
    done,
    expanded_run,
    fresh_ledger,
    get_run,
    message,
    new_files,
    queue_ticket,
)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def failed(file: files.ClaimedFile, error_class: ErrorClass) -> FileOutcome:
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.FAILED,
        error_class=error_class,
        error_detail="no",
        entry={"file_no": file.file_no, "error_class": error_class},
    )


def worked(ledger: Ledger, run: Run) -> None:
    """End four files: two hashed, one missing, one throttled."""
    one, two, three, four = claim(ledger, queue_ticket(ledger, run, limit=4))
    outcomes = [
        done(one),
        failed(two, ErrorClass.S3_NOT_FOUND),
        failed(three, ErrorClass.S3_THROTTLED),
        done(four),
    ]
    ledger.write_now(files.settle, run.run_id, outcomes)


def ended(ledger: Ledger) -> Run:
    """Return a run of four files, two of them failed, that has ended."""
    run = expanded_run(ledger, 4)
    worked(ledger, run)
    return end(ledger, run)


def end(ledger: Ledger, run: Run) -> Run:
    ledger.write_now(
        lambda connection: connection.execute(
            sa.update(runs.runs).where(runs.runs.c.run_id == run.run_id).values(state=RunState.FAILED)
        )
    )
    return get_run(ledger, run.run_id)


def select(ledger: Ledger, run: Run, *, everything: bool = False, **narrow: Any) -> Selection:
    return ledger.read_now(replays.select, run.run_id, everything=everything, **narrow)


def reopen(ledger: Ledger, run: Run, *, everything: bool = False, **narrow: Any) -> int:
    how: dict[str, Any] = {"error_class": None, "file_ids": (), **narrow}
    reports = [words.status(JobStatus.RUNNING)]
    return ledger.write_now(replays.reopen, run, everything=everything, reports=reports, entry={"who": "me"}, **how)


def recount(ledger: Ledger, run: Run) -> dict[str, int]:
    """Return the counters as the file rows say them."""
    rows = ledger.read_now(files.of_run, run.run_id, limit=1000)
    return {
        "files_total": len(rows),
        "files_open": len([row for row in rows if row.state not in results.ENDED]),
        "files_failed": len([row for row in rows if row.state in (FileState.FAILED, FileState.DEAD)]),
        "bytes_done": sum(row.size_bytes or 0 for row in rows if row.state is FileState.DONE),
    }


def counters(ledger: Ledger, run: Run) -> dict[str, int]:
    now = get_run(ledger, run.run_id)
    return {name: getattr(now, name) for name in ("files_total", "files_open", "files_failed", "bytes_done")}


@pytest.mark.parametrize(
    ("how", "by_class", "size_bytes"),
    [
        ({}, {"s3.not_found": 1, "s3.throttled": 1}, 20),
        ({"error_class": "s3.throttled"}, {"s3.throttled": 1}, 10),
        ({"file_ids": ["2", "4"]}, {"s3.not_found": 1}, 10),
        ({"everything": True}, {"s3.not_found": 1, "s3.throttled": 1, "none": 2}, 40),
        ({"everything": True, "file_ids": ["4", "99"]}, {"none": 1}, 10),
        ({"error_class": "s3.timeout"}, {}, 0),
    ],
)
def test_a_selection_counts_what_a_replay_would_open(
    ledger: Ledger, how: dict[str, Any], by_class: dict[str, int], size_bytes: int
) -> None:
    run = ended(ledger)

    selection = select(ledger, run, **how)
    opened = reopen(ledger, run, **how)

    assert (selection.by_class, selection.size_bytes) == (by_class, size_bytes)
    assert selection.files == opened == sum(by_class.values())


@pytest.mark.parametrize("how", [{}, {"everything": True}, {"error_class": "s3.throttled"}, {"file_ids": ["1", "2"]}])
def test_after_opening_and_working_again_the_counters_are_a_recount(ledger: Ledger, how: dict[str, Any]) -> None:
    run = ended(ledger)

    reopen(ledger, run, **how)
    between = counters(ledger, run), recount(ledger, run)
    again = claim(ledger, queue_ticket(ledger, run))
    ledger.write_now(files.settle, run.run_id, [done(file) for file in again])

    assert between[0] == between[1]
    assert counters(ledger, run) == recount(ledger, run)
    assert get_run(ledger, run.run_id).state is RunState.SETTLED


def test_running_is_told_before_the_reports_that_were_set_aside(ledger: Ledger) -> None:
    run = ended(ledger)
    ledger.write_now(outbox.refuse_all, run.run_id, error_class=ErrorClass.API_AUTH, detail="401")

    reopen(ledger, run)

    (first,) = ledger.write_now(outbox.take, run.run_id)
    assert first.body == {"status": "RUNNING"}


def test_what_earlier_attempts_found_stays_in_the_ledger(ledger: Ledger) -> None:
    run = ended(ledger)
    before = ledger.read_now(entries.of_run, run.run_id)

    reopen(ledger, run, everything=True)

    after = ledger.read_now(entries.of_run, run.run_id)
    assert after[: len(before)] == before
    assert [entry.kind for entry in after[len(before) :]] == ["run_replayed"]


def test_a_new_generation_starts_its_attempts_anew_and_old_tickets_are_void(ledger: Ledger) -> None:
    run = expanded_run(ledger, 4)
    old = queue_ticket(ledger, run)
    one, *_ = claim(ledger, old)
    ledger.write_now(files.settle, run.run_id, [failed(one, ErrorClass.S3_TIMEOUT)])
    reopen(ledger, end(ledger, run))

    (fresh,) = claim(ledger, queue_ticket(ledger, run))
    late = ledger.write_now(files.settle, run.run_id, [done(one)])

    assert claim(ledger, old) == []
    assert (fresh.file_no, fresh.generation, fresh.attempts) == (1, 1, 0)
    assert late == 1


def test_keys_that_were_about_to_be_wiped_are_kept_again(ledger: Ledger) -> None:
    run = ended(ledger)
    sealer = seal.Sealer(Secret(seal.new_key()))
    ledger.write_now(sealer.put, run.run_id, {"user": Secret("k")})
    ledger.write_now(seal.keep_for, run.run_id, days=-1)

    reopen(ledger, run)

    assert ledger.write_now(seal.wipe_expired) == 0


def unknown(number: int) -> NewFile:
    return NewFile(
        file_ref=str(number),
        file_id=str(number),
        path="",
        size_bytes=None,
        size_class=SizeClass.NORMAL,
        error_class=ErrorClass.API_REJECTED,
        error_detail="unknown",
    )


def listing(ledger: Ledger, run: Run) -> expansions.Expansion:
    """Write two files that are there and one LABDRIVE does not know."""
    expansion = claim_expansion(ledger, run.run_id)
    ledger.write_now(
        expansions.add_files,
        expansion,
        new_files(2),
        cursor={"phase": "ids", "at": 3},
        lease_s=30,
        failures=[(unknown(3), {"file_id": "3"}, [message("no 3")])],
    )
    return expansion


def test_a_file_labdrive_did_not_know_is_forgotten_and_listed_anew(ledger: Ledger) -> None:
    run = accept_run(ledger)
    ledger.write_now(expansions.end, listing(ledger, run), {})
    for file in claim(ledger, queue_ticket(ledger, run)):
        ledger.write_now(files.settle, run.run_id, [done(file)])

    reopened = reopen(ledger, end(ledger, run))

    assert reopened == 1
    assert counters(ledger, run) == recount(ledger, run)
    assert get_run(ledger, run.run_id).state is RunState.EXPANDING
    again = claim_expansion(ledger, run.run_id)
    assert again.cursor == {}
    assert ledger.write_now(expansions.add_files, again, new_files(3), cursor={}, lease_s=30)
    assert ledger.write_now(expansions.end, again, {})
    assert counters(ledger, run) == recount(ledger, run)
    assert get_run(ledger, run.run_id).files_open == 1


def test_a_listing_that_fails_again_after_a_replay_is_tried_again_by_the_next_one(ledger: Ledger) -> None:
    run = accept_run(ledger)
    ledger.write_now(expansions.end, listing(ledger, run), {})
    for file in claim(ledger, queue_ticket(ledger, run)):
        ledger.write_now(files.settle, run.run_id, [done(file)])
    reopen(ledger, end(ledger, run))
    again = claim_expansion(ledger, run.run_id)
    ledger.write_now(expansions.fail, again, error_class=ErrorClass.API_UNAVAILABLE, detail="away", entry={})

    reopen(ledger, end(ledger, run))

    assert get_run(ledger, run.run_id).state is RunState.EXPANDING


def test_a_run_still_being_listed_lists_what_it_forgot_and_the_lister_of_before_writes_nothing_more(
    ledger: Ledger,
) -> None:
    run = accept_run(ledger)
    before = listing(ledger, run)

    reopen(ledger, get_run(ledger, run.run_id))

    late = ledger.write_now(expansions.add_files, before, new_files(1, start=50), cursor={"phase": "list"}, lease_s=30)
    assert late is False
    assert claim_expansion(ledger, run.run_id).cursor == {}
    assert counters(ledger, run) == recount(ledger, run)


def test_a_running_run_takes_its_failed_files_in_without_touching_the_others(ledger: Ledger) -> None:
    run = expanded_run(ledger, 6)
    worked(ledger, run)
    (five,) = claim(ledger, queue_ticket(ledger, run, limit=1))

    reopen(ledger, get_run(ledger, run.run_id))

    assert ledger.write_now(files.settle, run.run_id, [done(five)]) == 0
    assert counters(ledger, run) == recount(ledger, run)
    assert get_run(ledger, run.run_id).state is RunState.RUNNING


def test_two_replays_at_once_open_each_file_once(ledger: Ledger) -> None:
    run = ended(ledger)

    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: reopen(ledger, run), range(4)))

    assert sorted(opened) == [0, 0, 0, 2]
    assert counters(ledger, run) == recount(ledger, run)


def test_a_replay_beside_workers_that_settle_loses_no_count(ledger: Ledger) -> None:
    run = expanded_run(ledger, 40)
    claimed = claim(ledger, queue_ticket(ledger, run))

    def settle(file: files.ClaimedFile) -> None:
        outcome = done(file) if file.file_no % 2 else failed(file, ErrorClass.S3_TIMEOUT)
        ledger.write_now(files.settle, run.run_id, [outcome])

    with ThreadPoolExecutor(4) as pool:
        settling = [pool.submit(settle, file) for file in claimed]
        for _ in range(5):
            reopen(ledger, get_run(ledger, run.run_id))
        for future in settling:
            future.result()

    assert counters(ledger, run) == recount(ledger, run)


def test_the_runs_that_hold_a_file_are_found_newest_first(ledger: Ledger) -> None:
    older, newer = (expanded_run(ledger, 4, key=key) for key in "ab")
    for run in (older, newer):
        worked(ledger, run)

    def found(*file_ids: str, everything: bool = False) -> list[str]:
        return ledger.read_now(replays.runs_with, file_ids, everything=everything)

    assert found("2", "1") == [newer.run_id, older.run_id]
    assert found("1", "4") == []
    assert found("1", "4", everything=True) == [newer.run_id, older.run_id]


def test_the_size_a_read_found_is_what_the_counters_hold(ledger: Ledger) -> None:
    """What LABDRIVE said of the size may have been wrong, or nothing: progress in bytes must still end at its total."""
    run = expanded_run(ledger, 1)
    (file,) = claim(ledger, queue_ticket(ledger, run))

    ledger.write_now(files.settle, run.run_id, [replace(done(file), size_bytes=77)])

    after = get_run(ledger, run.run_id)
    assert (after.bytes_done, after.bytes_total) == (77, 77)
