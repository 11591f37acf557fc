"""Claims, fences, leases and counters, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, RunState, SizeClass
from hashmill.domain.work import FileOutcome, Ticket
from hashmill.ledger import entries, files
from hashmill.ledger.engine import Ledger
from tests.helpers.ledger import claim, done, expanded_run, fresh_ledger, get_run, lapse, queue_ticket


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def test_a_ticket_claims_its_files_once_and_a_doubled_one_claims_nothing(ledger: Ledger) -> None:
    ticket = queue_ticket(ledger, expanded_run(ledger, 5))

    first, second = claim(ledger, ticket), claim(ledger, ticket, owner="other")

    assert [file.file_no for file in first] == [1, 2, 3, 4, 5]
    assert second == []


def test_a_ticket_of_an_older_epoch_claims_nothing(ledger: Ledger) -> None:
    run = expanded_run(ledger, 3)
    old = queue_ticket(ledger, run)
    ledger.write_now(files.unqueue, old)
    new = queue_ticket(ledger, run)

    assert claim(ledger, old) == []
    assert len(claim(ledger, new)) == 3


def test_a_forged_ticket_claims_nothing(ledger: Ledger) -> None:
    run = expanded_run(ledger, 2)

    forged = Ticket(run_id=run.run_id, size_class=SizeClass.TINY, files=((1, 1), (2, 7), (99, 0)))

    assert claim(ledger, forged) == []


def test_many_workers_that_race_for_one_ticket_share_its_files_without_a_double(ledger: Ledger) -> None:
    ticket = queue_ticket(ledger, expanded_run(ledger, 40))

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda owner: claim(ledger, ticket, owner=f"w{owner}"), range(8)))

    numbers = sorted(file.file_no for claimed in claims for file in claimed)
    assert numbers == list(range(1, 41))


def test_a_result_is_written_with_its_entry_its_reports_and_the_counters(ledger: Ledger) -> None:
    run = expanded_run(ledger, 2)
    claimed = claim(ledger, queue_ticket(ledger, run))

    refused = ledger.write_now(files.settle, run.run_id, [done(file) for file in claimed])

    after = get_run(ledger, run.run_id)
    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, run.run_id)]
    assert refused == 0
    assert (after.files_open, after.files_failed, after.bytes_done) == (0, 0, 20)
    assert after.state is RunState.SETTLED
    assert kinds == ["run_accepted", "run_started", "run_expanded", "file_hashed", "file_hashed", "run_settled"]
    assert after.outbox_owed == 1 + 2 * 2


def test_a_zombie_whose_file_was_taken_back_writes_nothing(ledger: Ledger) -> None:
    run = expanded_run(ledger, 1)
    (stale,) = claim(ledger, queue_ticket(ledger, run), owner="zombie")
    lapse(ledger, run)
    ledger.write_now(lambda connection: files.take_back(connection, files.lapsed(connection)))
    (fresh,) = claim(ledger, queue_ticket(ledger, run), owner="heir")

    refused = ledger.write_now(files.settle, run.run_id, [done(stale)])
    accepted = ledger.write_now(files.settle, run.run_id, [done(fresh)])

    assert (refused, accepted) == (1, 0)
    assert fresh.fence > stale.fence
    assert get_run(ledger, run.run_id).outbox_owed == 1 + 2


def test_the_same_result_settled_twice_counts_once(ledger: Ledger) -> None:
    run = expanded_run(ledger, 2)
    claimed = claim(ledger, queue_ticket(ledger, run))

    ledger.write_now(files.settle, run.run_id, [done(claimed[0])])
    again = ledger.write_now(files.settle, run.run_id, [done(claimed[0])])

    assert again == 1
    assert get_run(ledger, run.run_id).files_open == 1


def test_a_transient_trouble_counts_an_attempt_and_a_released_file_does_not(ledger: Ledger) -> None:
    run = expanded_run(ledger, 2)
    trouble, released = claim(ledger, queue_ticket(ledger, run))
    later = FileOutcome(
        file_no=trouble.file_no,
        fence=trouble.fence,
        state=FileState.READY,
        error_class=ErrorClass.S3_TIMEOUT,
        error_detail="slow",
        retry_in_s=3600,
    )
    back = FileOutcome(file_no=released.file_no, fence=released.fence, state=FileState.READY, counted=False)

    ledger.write_now(files.settle, run.run_id, [later, back])

    rows = ledger.read_now(files.of_run, run.run_id)
    assert [row.attempts for row in rows] == [1, 0]
    assert [number for number, _ in queue_ticket(ledger, run).files] == [released.file_no]


def test_renewing_wakes_a_lapsed_lease_and_not_one_that_was_taken_back(ledger: Ledger) -> None:
    run = expanded_run(ledger, 2)
    claim(ledger, queue_ticket(ledger, run, limit=1), owner="slow")
    claim(ledger, queue_ticket(ledger, run, limit=1), owner="late")
    lapse(ledger, run)

    assert ledger.write_now(files.renew, owners=["slow"], lease_s=30) == 1
    lapsed = ledger.write_now(files.lapsed)
    ledger.write_now(files.take_back, lapsed)

    assert [file.lease_owner for file in lapsed] == ["late"]
    assert ledger.write_now(files.renew, owners=["late"], lease_s=30) == 0


def test_a_ticket_nobody_claimed_is_issued_anew(ledger: Ledger) -> None:
    run = expanded_run(ledger, 3)
    lost = queue_ticket(ledger, run)

    assert ledger.write_now(files.reissue, older_than_s=60) == 0
    assert ledger.write_now(files.reissue, older_than_s=-1) == 3
    assert claim(ledger, lost) == []
    assert len(claim(ledger, queue_ticket(ledger, run))) == 3


def test_the_run_settles_exactly_once_however_many_settle_at_the_same_time(ledger: Ledger) -> None:
    run = expanded_run(ledger, 24)
    claimed = claim(ledger, queue_ticket(ledger, run))

    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(lambda file: ledger.write_now(files.settle, run.run_id, [done(file)]), claimed))

    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, run.run_id, limit=100)]
    assert sum(refused) == 0
    assert kinds.count("run_settled") == 1
    assert kinds[-1] == "run_settled"


def test_size_and_digests_come_back_as_written(ledger: Ledger) -> None:
    run = expanded_run(ledger, 1)
    (file,) = claim(ledger, queue_ticket(ledger, run))
    outcome = replace(done(file), size_bytes=5_000_000_000_000, etag='"e"', version_id="v")

    ledger.write_now(files.settle, run.run_id, [outcome])

    (row,) = ledger.read_now(files.of_run, run.run_id, states=[FileState.DONE])
    assert (row.size_bytes, row.etag, row.version_id, row.digests) == (5_000_000_000_000, '"e"', "v", outcome.digests)
