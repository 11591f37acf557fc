"""What runs every tick reads only what moves: a million rows that rest cost it nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import SizeClass
from hashmill.domain.work import ClaimedFile, Ticket
from hashmill.ledger import baselines, entries, expansions, files, outbox, runs
from hashmill.ledger.engine import Ledger
from tests.helpers.ledger import claim, done, expanded_run, fresh_ledger, queue_ticket


def ticket(run_id: str) -> Ticket:
    """Return a ticket of files 3 and 4, which are queued."""
    return Ticket(run_id=run_id, size_class=SizeClass.TINY, files=((3, 1), (4, 1)))


def running(run_id: str) -> list[ClaimedFile]:
    """Return files 1 and 2, which are claimed."""
    made: dict[str, Any] = {"path": "", "size_bytes": 10, "fence": 1, "attempts": 0, "generation": 0}
    return [ClaimedFile(file_no=number, file_id=str(number), **made) for number in (1, 2)]


DUTIES: dict[str, Callable[[sa.Connection, str], Any]] = {
    "open_runs": lambda connection, _: files.open_runs(connection, SizeClass.BIG),
    "outstanding": lambda connection, _: files.outstanding(connection),
    "queue": lambda connection, run_id: files.queue(connection, run_id, SizeClass.TINY, after_no=0, limit=64),
    "claim": lambda connection, run_id: files.claim(connection, ticket(run_id), owner="me", lease_s=30),
    "settle": lambda connection, run_id: files.settle(connection, run_id, [done(file) for file in running(run_id)]),
    "unqueue": lambda connection, run_id: files.unqueue(connection, ticket(run_id)),
    "mark": lambda connection, run_id: outbox.mark(connection, run_id, sent=[1, 2]),
    "reissue": lambda connection, _: files.reissue(connection, older_than_s=20),
    "lapsed": lambda connection, _: files.lapsed(connection),
    "renew": lambda connection, _: files.renew(connection, owners=["me", "us"], lease_s=30),
    "runs_that_owe": lambda connection, _: outbox.runs_that_owe(connection),
    "take": lambda connection, run_id: outbox.take(connection, run_id),
    "refuse_all": lambda connection, run_id: outbox.refuse_all(
        connection, run_id, error_class=ErrorClass.API_AUTH, detail=""
    ),
    "owed_by_api": lambda connection, _: outbox.owed_by_api(connection),
    "settled": lambda connection, _: runs.settled(connection),
    "closed": lambda connection, _: runs.closed(connection),
    "due_expansions": lambda connection, _: expansions.due(connection),
    "number": lambda connection, _: entries.number(connection),
    "baselines": lambda connection, _: baselines.newest(connection, ["0" * 32, "1" * 32]),
}
GROWING = ("files", "outbox", "entries", "positions")
"""Tables whose rows stay when all is done."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    """Collect what is sent to the database, with its values."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, ___: Any, many: bool) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
            seen.append((statement, values[0] if many else values))

    sa.event.listen(ledger.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(ledger.engine, "before_cursor_execute", note)


def plan(ledger: Ledger, statement: str, values: Any) -> list[str]:
    """Return the steps in which SQLite would answer `statement`."""
    with ledger.engine.connect() as connection:
        return [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize("name", DUTIES)
def test_a_duty_of_every_tick_never_walks_over_rows_that_rest(ledger: Ledger, name: str) -> None:
    run = expanded_run(ledger, 6)
    claim(ledger, queue_ticket(ledger, run, limit=2))
    queue_ticket(ledger, run, limit=2)

    with statements(ledger) as seen:
        ledger.write_now(DUTIES[name], run.run_id)

    assert seen
    for statement, values in seen:
        steps = plan(ledger, statement, values)
        assert not [step for step in steps if step.startswith(tuple(f"SCAN {table}" for table in GROWING))], statement
        # All reports of a run begin with its id: without the index over what is owed, each look walks over all sent.
        assert not [step for step in steps if "outbox" in step and step.endswith("autoindex_outbox_1 (run_id=?)")]


def test_asking_for_big_files_does_not_walk_over_the_tiny_ones(ledger: Ledger) -> None:
    expanded_run(ledger, 2)

    with statements(ledger) as seen:
        ledger.read_now(files.open_runs, SizeClass.BIG)

    (steps,) = [plan(ledger, statement, values) for statement, values in seen]
    assert "SEARCH files USING INDEX ix_files_ready (run_id=? AND size_class=?)" in steps
