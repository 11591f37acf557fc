import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, JobStatus, RunState, SizeClass
from hashmill.domain.work import FileOutcome, NewFile, Ticket
from hashmill.flow import words
from hashmill.home import app_home
from hashmill.ledger import expansions, files, leases, overview, runs
from hashmill.ledger.engine import Ledger, now_ms
from hashmill.ledger.migrate import upgrade
from hashmill.ledger.tables import files as files_table
from hashmill.ledger.tables import outbox as outbox_table
from hashmill.ledger.tables import runs as runs_table


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = Ledger(ledger_url)
    upgrade(opened.engine, app_home() / "migrations")
    yield opened
    opened.close()


def expanded_run(connection: sa.Connection, *, key: str = "k", count: int = 4, failed: int = 0) -> str:
    """Make a run of `count` files to read and `failed` more that failed while they were listed."""
    run, _ = runs.accept(
        connection,
        tenant_id="default",
        idempotency_key=key,
        event_digest="d",
        event={"api_url": "http://127.0.0.1:1", "user_id": "", "algorithms": ["md5"]},
        job_id="1",
        container_id="1",
        priority=5,
        entry={},
    )
    claimed = expansions.claim(connection, run.run_id, lease_s=30, running=words.status(JobStatus.RUNNING), entry={})
    assert claimed is not None
    bad = [_file(100_000 + number, ErrorClass.S3_FORBIDDEN) for number in range(failed)]
    expansions.add_files(
        connection,
        claimed,
        [_file(number) for number in range(count)],
        cursor={},
        lease_s=30,
        failures=[(file, {}, []) for file in bad],
    )
    expansions.end(connection, claimed, {})
    return run.run_id


def _file(number: int, error_class: ErrorClass | None = None) -> NewFile:
    return NewFile(
        file_ref=f"id:{number}",
        file_id=str(number),
        path=f"file {number}",
        size_bytes=10,
        size_class=SizeClass.TINY,
        error_class=error_class,
        error_detail=f"no file {number}" if error_class else None,
    )


def look(connection: sa.Connection) -> overview.Overview:
    return overview.overview(connection, leader="leader")


def test_an_empty_ledger_has_no_ages_and_nobody(ledger: Ledger) -> None:
    seen = ledger.read_now(look)

    assert seen.totals.runs == {}
    assert (seen.totals.files_total, seen.totals.reports_owed) == (0, 0)
    assert (seen.oldest_ready_s, seen.oldest_queued_s, seen.oldest_owed_s, seen.oldest_unlisted_s) == (None,) * 4
    assert (seen.leader, list(seen.processes)) == (None, [])


def test_counts_and_ages_follow_the_files(ledger: Ledger) -> None:
    def work(connection: sa.Connection) -> overview.Overview:
        run_id = expanded_run(connection, failed=1)
        queued = files.queue(connection, run_id, SizeClass.TINY, after_no=0, limit=2)
        files.claim(
            connection,
            Ticket(run_id=run_id, size_class=SizeClass.TINY, files=queued[:1]),
            owner="a",
            lease_s=30,
        )
        _age(connection, runs_table, "created_at_ms", 90)
        _age(connection, files_table, "queued_at_ms", 20)
        _age(connection, outbox_table, "created_at_ms", 50)
        leases.take(connection, "leader", "a", lease_s=30)
        leases.take(connection, "leaderless", "b", lease_s=30)
        leases.take(connection, f"{leases.PROCESS}a", "a", lease_s=30, detail={"slots": 4})
        return look(connection)

    seen = ledger.write_now(work)

    assert seen.totals.runs == {RunState.RUNNING: 1}
    assert (seen.totals.files_total, seen.totals.files_open, seen.totals.files_failed) == (5, 4, 1)
    assert (seen.totals.bytes_total, seen.totals.bytes_done, seen.totals.reports_owed) == (50, 0, 1)
    assert seen.moving == overview.Moving(queued=1, running=1)
    assert seen.oldest_ready_s == pytest.approx(90, abs=5)
    assert seen.oldest_queued_s == pytest.approx(20, abs=5)
    assert seen.oldest_owed_s == pytest.approx(50, abs=5)
    assert seen.oldest_unlisted_s is None
    assert seen.leader is not None
    assert seen.leader.holder == "a"
    assert [lease.name for lease in seen.processes] == ["process:a"]


def test_a_file_that_waits_for_its_next_try_is_not_ready_before_it_is_due(ledger: Ledger) -> None:
    def work(connection: sa.Connection) -> list[float | None]:
        run_id = expanded_run(connection, count=1)
        queued = files.queue(connection, run_id, SizeClass.TINY, after_no=0, limit=1)
        ticket = Ticket(run_id=run_id, size_class=SizeClass.TINY, files=queued)
        (file,) = files.claim(connection, ticket, owner="a", lease_s=30)
        again = FileOutcome(file_no=file.file_no, fence=file.fence, state=FileState.READY, retry_in_s=60)
        files.settle(connection, run_id, [again])
        _age(connection, runs_table, "created_at_ms", 1000)
        before = look(connection).oldest_ready_s
        _age(connection, files_table, "not_before_ms", 7)
        return [before, look(connection).oldest_ready_s]

    before, after = ledger.write_now(work)

    assert before is None
    assert after == pytest.approx(7, abs=3)


def test_failures_are_grouped_with_the_first_file_as_a_sample(ledger: Ledger) -> None:
    run_id = ledger.write_now(expanded_run, count=1, failed=3)

    (group,) = ledger.read_now(overview.failures, run_id)

    assert (group.error_class, group.files, group.path, group.error_detail) == (
        "s3.forbidden",
        3,
        "file 100000",
        "no file 100000",
    )


def test_no_more_failed_files_are_counted_than_the_limit(ledger: Ledger) -> None:
    run_id = ledger.write_now(expanded_run, failed=5)

    (group,) = ledger.read_now(overview.failures, run_id, limit=3)

    assert group.files == 3


def test_a_run_is_there_or_not(ledger: Ledger) -> None:
    run_id = ledger.write_now(expanded_run)

    assert ledger.read_now(overview.run_exists, run_id)
    assert not ledger.read_now(overview.run_exists, "nothing")


@pytest.mark.parametrize(
    "read",
    [look, lambda c: overview.moving(c, "r"), lambda c: overview.failures(c, "r"), overview.totals],
    ids=["overview", "moving", "failures", "totals"],
)
def test_sqlite_reads_no_table_of_files_or_reports_from_end_to_end(
    tmp_path: Any, read: Callable[[sa.Connection], object]
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    upgrade(ledger.engine, app_home() / "migrations")
    statements: list[tuple[str, Any]] = []

    @sa.event.listens_for(ledger.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.lstrip().startswith("SELECT"):
            statements.append((statement, parameters))

    def plans(connection: sa.Connection) -> list[str]:
        read(connection)
        explained = []
        for statement, parameters in list(statements):
            rows = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            explained += [str(row[3]) for row in rows]
        return explained

    said = ledger.read_now(plans)
    ledger.close()

    assert said
    # A scan of a partial index is one over what moves; a search that names no index is one over everything.
    whole = [line for line in said if re.match(r"(SCAN|SEARCH) (files|outbox)(?! USING .*=)", line)]
    assert [line for line in whole if not re.search(r"ix_files_(outstanding|ready)|ix_outbox_owed", line)] == []


def _age(connection: sa.Connection, table: sa.Table, column: str, by_s: float) -> None:
    """Make `column` of every row so many seconds old."""
    aged = now_ms() - int(by_s * 1000)
    connection.execute(sa.update(table).where(table.c[column].is_not(None)).values({column: aged}))
