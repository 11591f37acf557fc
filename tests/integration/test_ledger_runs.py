"""Runs: accepted once, expanded under a fence, listed page by page."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import RunState
from hashmill.domain.work import NewFile, SizeClass
from hashmill.flow import words
from hashmill.ledger import entries, expansions, files, outbox, runs
from hashmill.ledger.engine import Ledger
from tests.helpers.ledger import accept_run, claim_expansion, expanded_run, fresh_ledger, get_run, new_files


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def _accept(ledger: Ledger, key: str) -> tuple[str, bool]:
    run, made = ledger.write_now(
        runs.accept,
        tenant_id="default",
        idempotency_key=key,
        event_digest="d",
        event={"api_url": "http://127.0.0.1:1", "user_id": "", "algorithms": ["md5"]},
        job_id="1",
        container_id="1",
        priority=5,
        entry={},
    )
    return run.run_id, made


def test_one_key_posted_many_times_at_once_makes_one_run(ledger: Ledger) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: _accept(ledger, "same"), range(50)))

    assert len({run_id for run_id, _ in answers}) == 1
    assert sum(made for _, made in answers) == 1
    assert len(ledger.read_now(entries.of_run, answers[0][0])) == 1


def test_two_tenants_may_use_the_same_key(ledger: Ledger) -> None:
    ours, theirs = accept_run(ledger, key="k"), accept_run(ledger, key="k", tenant_id="other")

    assert ours.run_id != theirs.run_id


def test_a_run_is_expanded_by_one_at_a_time(ledger: Ledger) -> None:
    run = accept_run(ledger)
    claim_expansion(ledger, run.run_id)

    second = ledger.write_now(expansions.claim, run.run_id, lease_s=30, running=words.message("x"), entry={})

    assert second is None
    assert get_run(ledger, run.run_id).outbox_owed == 1


def test_an_expansion_taken_over_goes_on_at_the_cursor_and_the_first_one_writes_nothing_more(ledger: Ledger) -> None:
    run = accept_run(ledger)
    dead = claim_expansion(ledger, run.run_id, lease_s=-1)
    assert ledger.write_now(expansions.add_files, dead, new_files(3), cursor={"at": 3}, lease_s=-1)

    heir = claim_expansion(ledger, run.run_id)
    late = ledger.write_now(expansions.add_files, dead, new_files(3, start=10), cursor={"at": 99}, lease_s=30)

    assert heir.cursor == {"at": 3}
    assert late is False
    assert get_run(ledger, run.run_id).files_total == 3


def test_a_page_written_twice_counts_its_files_once(ledger: Ledger) -> None:
    run = accept_run(ledger)
    expansion = claim_expansion(ledger, run.run_id)

    for _ in range(2):
        ledger.write_now(expansions.add_files, expansion, new_files(4), cursor={}, lease_s=30)
    ledger.write_now(expansions.add_files, expansion, new_files(4, start=3), cursor={}, lease_s=30)

    after = get_run(ledger, run.run_id)
    assert (after.files_total, after.files_open, after.bytes_total) == (6, 6, 60)
    assert [row.file_no for row in ledger.read_now(files.of_run, run.run_id)] == [1, 2, 3, 4, 5, 6]


def test_a_run_without_files_settles_at_once(ledger: Ledger) -> None:
    run = accept_run(ledger)
    expansion = claim_expansion(ledger, run.run_id)

    ledger.write_now(expansions.end, expansion, {})

    assert get_run(ledger, run.run_id).state is RunState.SETTLED


def test_a_file_that_cannot_be_looked_up_is_failed_from_the_start_with_its_entry(ledger: Ledger) -> None:
    run = accept_run(ledger)
    expansion = claim_expansion(ledger, run.run_id)
    unknown = NewFile(
        file_ref="77",
        file_id="77",
        path="",
        size_bytes=None,
        size_class=SizeClass.NORMAL,
        error_class=ErrorClass.API_REJECTED,
        error_detail="unknown",
    )

    ledger.write_now(
        expansions.add_files,
        expansion,
        new_files(1),
        cursor={},
        lease_s=30,
        failures=[(unknown, {"file_id": "77"}, [words.message("no 77")])],
    )

    after = get_run(ledger, run.run_id)
    assert (after.files_total, after.files_open, after.files_failed) == (2, 1, 1)
    assert ledger.read_now(files.failed_by_class, run.run_id) == {"api.rejected": 1}
    last = ledger.read_now(entries.of_run, run.run_id)[-1]
    body = json.loads(last.body)
    assert (last.kind, body["file_no"], body["generation"]) == ("file_failed", 2, after.generation)


@pytest.mark.parametrize(("after_s", "due"), [(3600, False), (-1, True)])
def test_a_postponed_expansion_is_due_again_later(ledger: Ledger, after_s: float, due: bool) -> None:
    run = accept_run(ledger)
    expansion = claim_expansion(ledger, run.run_id)

    ledger.write_now(
        expansions.postpone, expansion, after_s=after_s, error_class=ErrorClass.API_UNAVAILABLE, detail="away"
    )

    assert ledger.read_now(expansions.due) == [run.run_id] * due


def test_pages_of_runs_neither_miss_nor_repeat_one(ledger: Ledger) -> None:
    made = [accept_run(ledger, key=str(number)).run_id for number in range(7)]

    seen: list[str] = []
    before = None
    while page := ledger.read_now(runs.listed, before=before, limit=3):
        seen += [run.run_id for run in page]
        before = seen[-1]

    assert seen == sorted(made, reverse=True)


def test_filters_find_runs_by_state_job_and_error_class(ledger: Ledger) -> None:
    waiting = accept_run(ledger, key="a", job_id="1")
    expanded = expanded_run(ledger, 1, key="b", job_id="2")

    def found(**filters: object) -> list[str]:
        return [run.run_id for run in ledger.read_now(runs.listed, **filters)]  # type: ignore[arg-type]

    assert found(states=[RunState.ACCEPTED]) == [waiting.run_id]
    assert found(job_id="2") == [expanded.run_id]
    assert found(error_class="s3.not_found") == []


def test_settled_runs_close_only_when_nothing_is_owed(ledger: Ledger) -> None:
    run = accept_run(ledger)
    ledger.write_now(expansions.end, claim_expansion(ledger, run.run_id), {})

    assert ledger.read_now(runs.settled) == []
    (report,) = ledger.write_now(outbox.take, run.run_id)
    ledger.write_now(outbox.mark, run.run_id, sent=[report.seq])
    assert [found.run_id for found in ledger.read_now(runs.settled)] == [run.run_id]
