"""Everybody at once, over a few runs: workers, sweep, sender, replays, dispatcher; and then the books are balanced."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass, LedgerUnavailable
from hashmill.domain.job import FileState, JobStatus, SizeClass
from hashmill.domain.work import Ticket
from hashmill.flow import words
from hashmill.ledger import entries, files, outbox, replays, results, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.outbox import Refused
from tests.helpers.ledger import done, expanded_run, fresh_ledger, get_run
from tests.helpers.wait import wait_until

STORM_S = 2.0
ENOUGH = 50
"""A storm in which fewer files were settled than this shows nothing; on a busy machine it blows longer."""
RUNS, FILES = 3, 30


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


class Storm:
    """What each of the parts does, again and again, over runs picked at random."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.run_ids = [expanded_run(ledger, FILES, key=str(number)).run_id for number in range(RUNS)]
        self.tickets: list[Ticket] = []
        self.done = 0
        self.troubles: list[str] = []

    def worker(self, dice: random.Random) -> None:
        if not self.tickets:
            return
        ticket = dice.choice(self.tickets)
        claimed = self.ledger.write_now(files.claim, ticket, owner=f"w{dice.randrange(3)}", lease_s=30)
        outcomes = [self.outcome(file, dice) for file in claimed]
        dice.shuffle(outcomes)
        for start in range(0, len(outcomes), 4):
            self.ledger.write_now(files.settle, ticket.run_id, outcomes[start : start + 4])
        self.done += len(outcomes)

    def outcome(self, file: files.ClaimedFile, dice: random.Random) -> Any:
        hashed = replace(done(file), entry={**(done(file).entry or {}), "generation": file.generation})
        match dice.randrange(4):
            case 0:
                return replace(
                    hashed,
                    state=FileState.FAILED,
                    error_class=ErrorClass.S3_TIMEOUT,
                    digests={},
                    size_bytes=None,
                    reports=(),
                )
            case 1:
                return replace(hashed, state=FileState.READY, counted=False, digests={}, entry=None, reports=())
        return hashed

    def renewal(self, dice: random.Random) -> None:
        self.ledger.write_now(files.renew, owners=["w0", "w1", "w2"], lease_s=dice.choice([30, -1]))

    def dispatcher(self, dice: random.Random) -> None:
        def choose(connection: sa.Connection) -> list[Ticket]:
            chosen = []
            for run_id in dice.sample(self.run_ids, RUNS):
                queued = files.queue(connection, run_id, SizeClass.TINY, after_no=0, limit=8)
                if queued:
                    chosen.append(Ticket(run_id=run_id, size_class=SizeClass.TINY, files=queued))
            return chosen

        chosen = self.ledger.write_now(choose)
        self.tickets = [*self.tickets[-10:], *chosen]
        if chosen and not dice.randrange(3):
            self.ledger.write_now(files.unqueue, chosen[0])

    def sweeper(self, dice: random.Random) -> None:
        self.ledger.write_now(lambda connection: files.take_back(connection, files.lapsed(connection, limit=10)))
        self.ledger.write_now(files.reissue, older_than_s=dice.choice([20, -1]))

    def sender(self, dice: random.Random) -> None:
        run_id = dice.choice(self.run_ids)
        batch = self.ledger.write_now(outbox.take, run_id, limit=20)
        bad = [Refused(seq=report.seq, error_class=ErrorClass.API_REJECTED, detail="") for report in batch[:1]]
        self.ledger.write_now(outbox.mark, run_id, sent=[report.seq for report in batch[1:]], refused=bad)
        if not dice.randrange(10):
            self.ledger.write_now(outbox.refuse_all, run_id, error_class=ErrorClass.API_AUTH, detail="")

    def admin(self, dice: random.Random) -> None:
        def several(connection: sa.Connection) -> None:
            for run_id in sorted(self.run_ids):
                run = runs.lock(connection, run_id)
                assert run is not None
                replays.reopen(
                    connection,
                    run,
                    everything=bool(dice.randrange(2)),
                    error_class=None,
                    file_ids=(),
                    reports=[words.status(JobStatus.RUNNING)],
                    entry={"who": "storm"},
                )

        self.ledger.write_now(several)

    def sequencer(self, dice: random.Random) -> None:
        self.ledger.write_now(entries.number, limit=50)

    def blow(self) -> None:
        over = threading.Event()
        parts: list[Callable[[random.Random], None]] = [
            self.worker,
            self.worker,
            self.worker,
            self.renewal,
            self.dispatcher,
            self.sweeper,
            self.sender,
            self.admin,
            self.sequencer,
        ]

        def play(number: int) -> None:
            dice = random.Random(number)
            while not over.wait(0.02 if parts[number] in (self.admin, self.sweeper) else 0.002):
                try:
                    parts[number](dice)
                except LedgerUnavailable as trouble:
                    self.troubles.append(f"{parts[number].__name__}: {trouble}")

        with ThreadPoolExecutor(len(parts)) as pool:
            playing = [pool.submit(play, number) for number in range(len(parts))]
            over.wait(STORM_S)
            try:
                wait_until(lambda: self.done > ENOUGH, timeout_s=60, what="enough files settled")
            finally:
                over.set()
            for future in playing:
                future.result()


def test_after_a_storm_the_counters_are_a_recount_the_log_is_whole_and_nobody_waited_for_nobody(ledger: Ledger) -> None:
    storm = Storm(ledger)

    storm.blow()

    assert storm.troubles == []
    assert storm.done > ENOUGH
    for run_id in storm.run_ids:
        run = get_run(ledger, run_id)
        rows = ledger.read_now(files.of_run, run_id, limit=1000)
        states = [row.state for row in rows]
        owed, dead = _reports(ledger, run_id)
        assert run.files_total == len(rows) == FILES
        assert run.files_open == len([state for state in states if state not in results.ENDED])
        assert run.files_failed == states.count(FileState.FAILED)
        assert run.bytes_done == sum(row.size_bytes or 0 for row in rows if row.state is FileState.DONE)
        assert run.bytes_total == sum(row.size_bytes or 0 for row in rows)
        assert (run.outbox_owed, run.outbox_dead) == (owed, dead)
    while ledger.write_now(entries.number):
        pass
    assert ledger.read_now(entries.verify).faults == ()


def _reports(ledger: Ledger, run_id: str) -> tuple[int, int]:
    statement = sa.text("SELECT state, count(*) FROM outbox WHERE run_id = :run_id GROUP BY state")
    rows = ledger.read_now(lambda connection: connection.execute(statement, {"run_id": run_id}).all())
    states = {state: count for state, count in rows}
    return states.get("owed", 0) + states.get("sending", 0), states.get("dead", 0)
