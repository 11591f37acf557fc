"""What is owed goes out in order, once marked stays marked, and the counters are always a recount."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import JobStatus, ReportKind
from hashmill.domain.work import Report
from hashmill.flow import words
from hashmill.ledger import outbox
from hashmill.ledger.engine import Ledger
from hashmill.ledger.outbox import OwedReport, Postponed, Refused
from hashmill.ledger.runs import Run
from tests.helpers.ledger import accept_run, fresh_ledger, get_run, message
from tests.helpers.wait import wait_until


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def owing(ledger: Ledger, reports: Sequence[Report]) -> Run:
    run = accept_run(ledger)
    owe(ledger, run, reports)
    return run


def owe(ledger: Ledger, run: Run, reports: Sequence[Report]) -> None:
    ledger.write_now(outbox.owe, run.run_id, reports, shard=0)


def take(ledger: Ledger, run: Run, *, limit: int = 256) -> list[OwedReport]:
    return ledger.write_now(outbox.take, run.run_id, limit=limit)


def seqs(taken: Sequence[OwedReport]) -> list[int]:
    return [report.seq for report in taken]


def mark(ledger: Ledger, run: Run, **how: Any) -> None:
    ledger.write_now(outbox.mark, run.run_id, **how)


def postponed(seq: int, after_s: float = 3600) -> Postponed:
    return Postponed(seq=seq, after_s=after_s, error_class=ErrorClass.API_UNAVAILABLE, detail="away")


def refused(seq: int) -> Refused:
    return Refused(seq=seq, error_class=ErrorClass.API_REJECTED, detail="no")


def recount(ledger: Ledger, run: Run) -> tuple[int, int]:
    """Return (owed, dead) as the rows say."""

    def count(connection: sa.Connection) -> tuple[int, int]:
        rows = connection.execute(
            sa.text("SELECT state, count(*) FROM outbox WHERE run_id = :run_id GROUP BY state"), {"run_id": run.run_id}
        )
        states = {state: number for state, number in rows}
        return states.get("owed", 0) + states.get("sending", 0), states.get("dead", 0)

    return ledger.read_now(count)


def counters(ledger: Ledger, run: Run) -> tuple[int, int]:
    now = get_run(ledger, run.run_id)
    return now.outbox_owed, now.outbox_dead


RUNNING, COMPLETED = words.status(JobStatus.RUNNING), words.status(JobStatus.COMPLETED)


def test_reports_come_out_in_the_order_they_were_owed_with_what_they_say(ledger: Ledger) -> None:
    run = owing(ledger, [message("a"), message("b", 1), message("c ☃", 2)])

    taken = take(ledger, run)

    assert seqs(taken) == [1, 2, 3]
    assert [report.body["text"] for report in taken] == ["a", "b", "c ☃"]
    assert [report.file_no for report in taken] == [None, 1, 2]
    assert [report.token for report in taken] == [f"{run.run_id}:{seq}" for seq in (1, 2, 3)]


def test_a_status_is_taken_alone_and_nothing_behind_it_before_it_is_through(ledger: Ledger) -> None:
    run = owing(ledger, [RUNNING, message("a", 1), message("b", 2), COMPLETED])

    first = take(ledger, run)
    again = take(ledger, run)
    mark(ledger, run, sent=seqs(first))
    middle = take(ledger, run)
    mark(ledger, run, sent=[2])
    rest = take(ledger, run)
    mark(ledger, run, sent=[3])
    last = take(ledger, run)

    assert [seqs(batch) for batch in (first, again, middle, rest, last)] == [[1], [1], [2, 3], [3], [4]]
    assert last[0].kind is ReportKind.STATUS


def test_a_status_that_is_not_due_holds_back_all_behind_it(ledger: Ledger) -> None:
    run = owing(ledger, [RUNNING, message("a", 1)])
    mark(ledger, run, postponed=[postponed(take(ledger, run)[0].seq)])

    assert take(ledger, run) == []


def test_a_report_that_is_not_due_holds_back_only_its_own_file_and_the_final_status(ledger: Ledger) -> None:
    run = owing(ledger, [message("1a", 1), message("1b", 1), message("2a", 2), message("job"), COMPLETED])
    take(ledger, run)

    mark(ledger, run, postponed=[postponed(1)], untouched=[2, 3, 4])
    taken = take(ledger, run)
    mark(ledger, run, sent=seqs(taken))

    assert seqs(taken) == [3, 4]
    assert take(ledger, run) == []


def test_many_reports_that_are_not_due_do_not_hide_the_due_ones_behind_them(ledger: Ledger) -> None:
    run = owing(ledger, [message("later", number) for number in range(1, 21)] + [message("now", 99)])
    take(ledger, run)
    mark(ledger, run, postponed=[postponed(seq) for seq in range(1, 21)], untouched=[21])

    assert seqs(take(ledger, run, limit=8)) == [21]


def test_no_more_than_the_limit_is_taken(ledger: Ledger) -> None:
    run = owing(ledger, [message("x", number) for number in range(1, 21)])

    assert seqs(take(ledger, run, limit=8)) == list(range(1, 9))


def test_a_report_found_in_sending_after_a_crash_is_sent_again_and_called_uncertain(ledger: Ledger) -> None:
    run = owing(ledger, [message("a", 1), message("b", 2)])
    before = take(ledger, run, limit=1)

    after = take(ledger, run)

    assert [report.uncertain for report in before] == [False]
    assert [(report.seq, report.uncertain) for report in after] == [(1, True), (2, False)]


def test_marking_twice_changes_nothing(ledger: Ledger) -> None:
    run = owing(ledger, [message("a", 1), message("b", 2), message("c", 3), message("d", 4)])
    take(ledger, run)
    how: dict[str, Any] = {"sent": [1], "refused": [refused(2)], "postponed": [postponed(3)], "untouched": [4]}

    mark(ledger, run, **how)
    once = counters(ledger, run)
    mark(ledger, run, **how)

    assert once == counters(ledger, run) == recount(ledger, run) == (2, 1)
    assert seqs(take(ledger, run)) == [4]


def test_what_is_dead_stays_dead_until_it_is_revived(ledger: Ledger) -> None:
    run = owing(ledger, [message("a", 1), message("b", 2)])

    dead = ledger.write_now(outbox.refuse_all, run.run_id, error_class=ErrorClass.API_AUTH, detail="401")

    assert dead == 2
    assert take(ledger, run) == []
    assert ledger.read_now(outbox.dead_by_class, run.run_id) == {"api.auth": 2}
    assert ledger.write_now(outbox.revive, run.run_id) == 2
    assert [report.body["text"] for report in take(ledger, run)] == ["a", "b"]
    assert counters(ledger, run) == recount(ledger, run) == (2, 0)


def test_what_is_revived_goes_behind_what_is_owed_already_and_in_its_order(ledger: Ledger) -> None:
    run = owing(ledger, [message("a", 1), message("b", 2), message("c", 3)])
    take(ledger, run)
    mark(ledger, run, sent=[2], refused=[refused(1), refused(3)])
    owe(ledger, run, [RUNNING, message("replayed")])

    ledger.write_now(outbox.revive, run.run_id)
    owe(ledger, run, [message("later")])

    assert [report.body for report in take(ledger, run)] == [RUNNING.body]
    mark(ledger, run, sent=[4])
    taken = take(ledger, run)
    assert [report.body["text"] for report in taken] == ["replayed", "a", "c", "later"]
    assert seqs(taken) == [5, 6, 7, 8]
    assert counters(ledger, run) == recount(ledger, run) == (4, 0)


def test_one_runs_revival_leaves_the_dead_of_another_as_they_are(ledger: Ledger) -> None:
    one, other = (accept_run(ledger, key=key) for key in "ab")
    for run in (one, other):
        owe(ledger, run, [message("a", 1), message("b", 2)])
        ledger.write_now(outbox.refuse_all, run.run_id, error_class=ErrorClass.API_AUTH, detail="401")

    ledger.write_now(outbox.revive, one.run_id)

    assert counters(ledger, one) == recount(ledger, one) == (2, 0)
    assert counters(ledger, other) == recount(ledger, other) == (0, 2)


def test_a_closing_message_nobody_took_is_not_revived_but_one_that_quotes_it_is(ledger: Ledger) -> None:
    said = words.closing(
        files=1,
        size_bytes=1,
        algorithms=["md5"],
        failed_by_class={},
        undelivered_by_class={},
        error_class=None,
        error_detail=None,
    )
    run = owing(ledger, [message('"closing": true', 1), said, COMPLETED])
    ledger.write_now(outbox.refuse_all, run.run_id, error_class=ErrorClass.API_AUTH, detail="401")

    assert ledger.write_now(outbox.revive, run.run_id) == 1

    assert [report.body["text"] for report in take(ledger, run)] == ['"closing": true']
    assert counters(ledger, run) == recount(ledger, run) == (1, 0)


def test_a_revived_run_no_longer_counts_the_status_nobody_took(ledger: Ledger) -> None:
    """A replay owes fresh statuses; an old one that stayed dead would make the job fail for ever."""
    run = owing(ledger, [RUNNING, message("a", 1)])
    ledger.write_now(outbox.refuse_all, run.run_id, error_class=ErrorClass.API_AUTH, detail="401")

    ledger.write_now(outbox.revive, run.run_id)

    assert ledger.read_now(outbox.dead_by_class, run.run_id) == {}
    assert counters(ledger, run) == recount(ledger, run) == (1, 0)
    assert [report.body["text"] for report in take(ledger, run)] == ["a"]


def _somebody_waits(ledger: Ledger) -> bool:
    if ledger.engine.dialect.name == "sqlite":
        return True  # whoever comes second waits before its first look
    return ledger.read_now(lambda c: c.execute(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar()) > 0


def test_what_another_sender_delivers_meanwhile_is_not_taken_again(ledger: Ledger) -> None:
    """A leader that lost its lease may still be writing down what it sent while the next one takes the same rows."""
    run = owing(ledger, [message("a"), message("b"), message("c")])
    take(ledger, run)
    with ThreadPoolExecutor(1) as pool, ledger.engine.connect() as old:
        outbox.mark(old, run.run_id, sent=[1, 3])
        late = pool.submit(take, ledger, run)
        wait_until(lambda: _somebody_waits(ledger))
        old.commit()
        taken = late.result()

    assert seqs(taken) == [2]
    mark(ledger, run, sent=[2])
    assert counters(ledger, run) == recount(ledger, run) == (0, 0)


def test_the_final_status_is_the_newest_one(ledger: Ledger) -> None:
    run = owing(ledger, [RUNNING, message("a"), COMPLETED])

    owed = ledger.read_now(outbox.final_status, run.run_id)
    mark(ledger, run, sent=[1, 2, 3])
    told = ledger.read_now(outbox.final_status, run.run_id)

    assert owed is not None
    assert (owed.status, owed.delivered) == ("COMPLETED", False)
    assert told is not None
    assert told.delivered


def test_runs_that_owe_come_a_page_at_a_time(ledger: Ledger) -> None:
    made = [accept_run(ledger, key=str(number)) for number in range(5)]
    for run in made:
        owe(ledger, run, [message("a")])

    first = ledger.read_now(outbox.runs_that_owe, limit=3)
    second = ledger.read_now(outbox.runs_that_owe, after=first[-1].run_id, limit=3)

    assert [owing.run_id for owing in first + second] == [run.run_id for run in made]
    assert {owing.api_url for owing in first} == {made[0].api_url}


def test_reports_owed_from_many_sides_at_once_get_numbers_without_gap_or_double(ledger: Ledger) -> None:
    run = accept_run(ledger)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: owe(ledger, run, [message("x", number)] * 3), range(8)))

    assert seqs(take(ledger, run)) == list(range(1, 25))
    assert counters(ledger, run) == (24, 0)


@dataclass(slots=True)
class Row:
    """One report as it ought to be."""

    seq: int
    file_no: int | None
    status: bool
    state: str = "owed"
    due: bool = True
    uncertain: bool = False


class OutboxLaw(RuleBasedStateMachine):
    """Whatever is done in whatever order, the outbox does as this page of Python says."""

    ledger: Ledger
    keys = iter(range(1_000_000))

    @initialize()
    def begin(self) -> None:
        self.run_ = accept_run(self.ledger, key=f"law {next(self.keys)}")
        self.rows: list[Row] = []
        self.last = 0

    def undelivered(self) -> list[Row]:
        return [row for row in self.rows if row.state in ("owed", "sending")]

    @rule(files=st.lists(st.one_of(st.none(), st.just("status"), st.integers(1, 3)), max_size=5))
    def owe(self, files: list[Any]) -> None:
        reports = [RUNNING if file == "status" else message("m", file) for file in files]
        owe(self.ledger, self.run_, reports)
        for file in files:
            self.last += 1
            self.rows.append(Row(self.last, None if file == "status" else file, file == "status"))

    @rule(limit=st.integers(1, 6))
    def take(self, limit: int) -> None:
        expected: list[Row] = []
        late: set[int | None] = set()
        for row in self.undelivered():
            if len(expected) == limit:
                break
            if row.status:
                if row.due and not expected and not late:
                    expected.append(row)
                break
            if not row.due or row.file_no in late:
                late.add(row.file_no)
            else:
                expected.append(row)

        taken = take(self.ledger, self.run_, limit=limit)

        assert seqs(taken) == [row.seq for row in expected]
        for row in expected:
            row.uncertain |= row.state == "sending"
            row.state = "sending"
        assert [report.uncertain for report in taken] == [row.uncertain for row in expected]

    @rule(data=st.data())
    def mark(self, data: st.DataObject) -> None:
        if not self.rows:
            return
        ends = data.draw(st.dictionaries(st.sampled_from([row.seq for row in self.rows]), st.integers(0, 3)))
        groups = [[seq for seq, end in ends.items() if end == which] for which in range(4)]
        for _ in range(data.draw(st.integers(1, 2))):
            mark(
                self.ledger,
                self.run_,
                sent=groups[0],
                postponed=[postponed(seq) for seq in groups[1]],
                refused=[refused(seq) for seq in groups[2]],
                untouched=groups[3],
            )
        for row in self.undelivered():
            match ends.get(row.seq):
                case 0:
                    row.state = "sent"
                case 1:
                    row.state, row.due = "owed", False
                case 2:
                    row.state = "dead"
                case 3:
                    row.state = "owed"

    @rule()
    def refuse_all(self) -> None:
        dead = self.ledger.write_now(outbox.refuse_all, self.run_.run_id, error_class=ErrorClass.API_AUTH, detail="401")
        assert dead == len(self.undelivered())
        for row in self.undelivered():
            row.state = "dead"

    @rule()
    def revive(self) -> None:
        revived = self.ledger.write_now(outbox.revive, self.run_.run_id)
        assert revived == len([row for row in self.rows if row.state == "dead" and not row.status])
        dead = [row for row in self.rows if row.state == "dead" and not row.status]
        self.rows = [row for row in self.rows if row.state != "dead"]
        for row in dead:
            self.last += 1
            self.rows.append(Row(self.last, row.file_no, status=False, uncertain=row.uncertain))

    @invariant()
    def counters_are_a_recount(self) -> None:
        if hasattr(self, "run_"):
            dead = len([row for row in self.rows if row.state == "dead"])
            assert counters(self.ledger, self.run_) == recount(self.ledger, self.run_)
            assert counters(self.ledger, self.run_) == (len(self.undelivered()), dead)


def test_the_outbox_keeps_its_law_whatever_happens(tmp_path: Path) -> None:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as ledger:
        OutboxLaw.ledger = ledger
        run_state_machine_as_test(
            OutboxLaw,
            settings=settings(
                max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
