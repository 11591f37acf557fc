"""Entries are the very bytes, numbered without a gap, never changed; and a walk over them finds what was."""

import hashlib
import json
import re
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.job import FileState
from hashmill.domain.work import ClaimedFile, FileOutcome
from hashmill.ledger import entries, files, replays
from hashmill.ledger.engine import Ledger
from hashmill.ledger.entries import StoredEntry, Verification
from hashmill.ledger.tables import positions
from tests.helpers.ledger import accept_run, claim, done, expanded_run, fresh_ledger, get_run, queue_ticket


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def append(ledger: Ledger, *bodies: dict[str, Any], run_id: str = "run", kind: str = "note") -> None:
    ledger.write_now(entries.append, run_id, [(kind, body) for body in bodies], tenant_id="default", shard=0)


def number_all(ledger: Ledger) -> None:
    while ledger.write_now(entries.number):
        pass


def log(ledger: Ledger) -> list[StoredEntry]:
    return ledger.read_now(lambda connection: list(entries.in_order(connection, page=7)))


def verify(ledger: Ledger) -> Verification:
    number_all(ledger)
    return ledger.read_now(entries.verify)


def execute(ledger: Ledger, statement: str, **values: Any) -> None:
    ledger.write_now(lambda connection: connection.execute(sa.text(statement), values))


def unlock(ledger: Ledger, table: str = "entries") -> None:
    """Take the triggers away, as somebody with the keys of the database could."""

    def drop(connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            return
        for change in ("update", "delete", "replace"):
            connection.execute(sa.text(f"DROP TRIGGER {table}_no_{change}"))

    ledger.write_now(drop)


def test_an_entry_is_stored_as_its_canonical_bytes_with_their_leaf_hash(ledger: Ledger) -> None:
    append(ledger, {"z": 1, "a": "ü ☃ \n", "n": None, "list": [True, 1.5]}, run_id="r", kind="file_hashed")

    (stored,) = ledger.read_now(entries.of_run, "r")

    body = json.loads(stored.body)
    assert stored.body == rfc8785.dumps(body)
    assert stored.leaf_hash == hashlib.sha256(b"\x00" + stored.body).digest()
    assert {name: body[name] for name in ("z", "a", "n", "list")} == {
        "z": 1,
        "a": "ü ☃ \n",
        "n": None,
        "list": [True, 1.5],
    }
    assert (body["entry_id"], body["kind"], body["run_id"], body["v"]) == (stored.entry_id, "file_hashed", "r", 1)
    assert body["recorded_at"] == entries.moment(stored.recorded_at_ms)


def test_what_an_entry_says_of_itself_cannot_be_written_over(ledger: Ledger) -> None:
    append(ledger, {"kind": "forged", "run_id": "other", "entry_id": "x", "recorded_at": "1999"}, run_id="r")

    body = json.loads(ledger.read_now(entries.of_run, "r")[0].body)

    assert (body["kind"], body["run_id"]) == ("note", "r")
    assert body["recorded_at"] != "1999"


def test_numbers_follow_without_a_gap_while_four_write_and_two_number(ledger: Ledger) -> None:
    stop = threading.Event()

    def sequence() -> None:
        # Two at once are never meant to be; should it happen, one of them fails as a whole.
        while not stop.wait(0.002):
            with suppress(IntegrityError, LedgerUnavailable):
                ledger.write_now(entries.number, limit=3)

    def write(writer: int) -> None:
        for count in range(10):
            append(ledger, *({"n": count} for _ in range(3)), run_id=f"r{writer}")

    with ThreadPoolExecutor(6) as pool:
        rivals = [pool.submit(sequence) for _ in range(2)]
        list(pool.map(write, range(4)))
        stop.set()
        for rival in rivals:
            rival.result()
    number_all(ledger)

    assert [entry.leaf_index for entry in log(ledger)] == list(range(120))
    assert verify(ledger).faults == ()


def test_entries_of_one_transaction_keep_their_order_and_so_do_transactions(ledger: Ledger) -> None:
    for start in range(0, 30, 10):
        append(ledger, *({"n": start + offset} for offset in range(10)))
    number_all(ledger)

    assert [json.loads(entry.body)["n"] for entry in log(ledger)] == list(range(30))
    assert [json.loads(entry.body)["n"] for entry in ledger.read_now(entries.of_run, "run")] == list(range(30))


def test_a_process_whose_clock_is_wrong_keeps_the_order(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    append(ledger, {"n": 1})
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: 4_000_000_000 * 10**9)
        patched.setattr(time, "time", lambda: 4_000_000_000.0)
        append(ledger, {"n": 2})
    append(ledger, {"n": 3})

    stored = ledger.read_now(entries.of_run, "run")

    assert [json.loads(entry.body)["n"] for entry in stored] == [1, 2, 3]
    assert stored[1].entry_id < str(uuid.UUID(int=(stored[0].recorded_at_ms + 60_000) << 80))


def test_ids_are_uuid_7_and_say_when_they_were_made(ledger: Ledger) -> None:
    append(ledger, *({"n": n} for n in range(5000)))

    stored = ledger.read_now(entries.of_run, "run", limit=5000)
    ids = [uuid.UUID(entry.entry_id) for entry in stored]
    assert {found.version for found in ids} == {7}
    assert {found.variant for found in ids} == {uuid.RFC_4122}
    assert all(abs((found.int >> 80) - entry.recorded_at_ms) <= 10 for found, entry in zip(ids, stored, strict=True))
    assert [json.loads(entry.body)["n"] for entry in stored] == list(range(5000))


def test_pages_of_a_runs_entries_neither_miss_nor_repeat_one(ledger: Ledger) -> None:
    append(ledger, *({"n": n} for n in range(10)))
    append(ledger, {"n": 0}, run_id="other")

    seen: list[int] = []
    after = ""
    while page := ledger.read_now(entries.of_run, "run", after=after, limit=4):
        seen += [json.loads(entry.body)["n"] for entry in page]
        after = page[-1].entry_id

    assert seen == list(range(10))


@pytest.mark.parametrize("table", ["entries", "positions"])
def test_what_is_written_is_never_changed_nor_taken_away(ledger: Ledger, table: str) -> None:
    append(ledger, {"n": 1}, {"n": 2})
    number_all(ledger)
    before = log(ledger)
    column = "entry_id" if table == "entries" else "leaf_index"

    for change in (
        "UPDATE {table} SET {column} = {column}",
        "DELETE FROM {table}",
        "TRUNCATE {table} CASCADE",
        "INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
        "REPLACE INTO {table} SELECT * FROM {table}",
        "INSERT INTO {table} SELECT * FROM {table} WHERE true "
        "ON CONFLICT ({column}) DO UPDATE SET {column} = {table}.{column}",
    ):
        with pytest.raises((DBAPIError, LedgerUnavailable)):
            execute(ledger, change.format(table=table, column=column))
        assert log(ledger) == before

    assert len(before) == 2


def test_an_untouched_ledger_has_no_faults_and_counts_what_was_hashed(ledger: Ledger) -> None:
    worked(ledger, 5)

    found = verify(ledger)

    assert found.faults == ()
    assert (found.entries, found.waiting, found.files_hashed) == (3 + 5 + 1, 0, 5)


def worked(ledger: Ledger, count: int) -> str:
    run = expanded_run(ledger, count)
    claimed = claim(ledger, queue_ticket(ledger, run))
    ledger.write_now(files.settle, run.run_id, [told(file) for file in claimed])
    number_all(ledger)
    return run.run_id


def told(file: ClaimedFile) -> FileOutcome:
    """Return the outcome of a hashed file whose entry says all that the files table keeps of it."""
    outcome = done(file)
    entry = {
        **(outcome.entry or {}),
        "path": file.path,
        "size_bytes": outcome.size_bytes,
        "verdict": outcome.verdict,
        "generation": file.generation,
    }
    return replace(outcome, entry=entry)


def altered_body(ledger: Ledger) -> None:
    unlock(ledger)
    (entry, *_) = [entry for entry in log(ledger) if entry.kind == "file_hashed"]
    body = entry.body.replace(b'"md5":"0', b'"md5":"1')
    assert body != entry.body
    execute(ledger, "UPDATE entries SET body = :body WHERE entry_id = :id", body=body, id=entry.entry_id)


def altered_body_and_hash(ledger: Ledger) -> None:
    """Well done, but no longer what the files table says."""
    unlock(ledger)
    (entry, *_) = [entry for entry in log(ledger) if entry.kind == "file_hashed"]
    body = entry.body.replace(b'"md5":"0', b'"md5":"1')
    statement = "UPDATE entries SET body = :body, leaf_hash = :hash WHERE entry_id = :id"
    execute(ledger, statement, body=body, hash=entries.leaf_hash(body), id=entry.entry_id)


def not_canonical(ledger: Ledger) -> None:
    unlock(ledger)
    entry = log(ledger)[0]
    body = json.dumps(json.loads(entry.body), indent=1).encode()
    statement = "UPDATE entries SET body = :body, leaf_hash = :hash WHERE entry_id = :id"
    execute(ledger, statement, body=body, hash=entries.leaf_hash(body), id=entry.entry_id)


def not_json(ledger: Ledger) -> None:
    unlock(ledger)
    statement = "UPDATE entries SET body = :body, leaf_hash = :hash WHERE entry_id = :id"
    for entry, body in zip(log(ledger), (b"{", b"[1]", b"[" * 100_000), strict=False):
        execute(ledger, statement, body=body, hash=entries.leaf_hash(body), id=entry.entry_id)


def missing_position(ledger: Ledger) -> None:
    unlock(ledger, "positions")
    execute(ledger, "DELETE FROM positions WHERE leaf_index = 2")


def lying_column(ledger: Ledger) -> None:
    unlock(ledger)
    execute(ledger, "UPDATE entries SET kind = 'file_failed' WHERE kind = 'file_hashed'")


def lying_time(ledger: Ledger) -> None:
    unlock(ledger)
    execute(ledger, "UPDATE entries SET recorded_at_ms = recorded_at_ms - 86400000 WHERE kind = 'run_started'")


def lying_tenant(ledger: Ledger) -> None:
    unlock(ledger)
    execute(ledger, "UPDATE entries SET tenant_id = 'other' WHERE kind = 'file_hashed'")


def unlocked_entries(ledger: Ledger) -> None:
    unlock(ledger)


def unlocked_positions(ledger: Ledger) -> None:
    unlock(ledger, "positions")


def removed_file(ledger: Ledger) -> None:
    execute(ledger, "DELETE FROM files WHERE file_no = 2")


def failed_afterwards(ledger: Ledger) -> None:
    execute(ledger, "UPDATE files SET state = 'failed' WHERE file_no = 2")


def altered_path(ledger: Ledger) -> None:
    execute(ledger, "UPDATE files SET path = 'other' WHERE file_no = 2")


def altered_size(ledger: Ledger) -> None:
    execute(ledger, "UPDATE files SET size_bytes = 11 WHERE file_no = 2")


def altered_verdict(ledger: Ledger) -> None:
    execute(ledger, "UPDATE files SET verdict = 'changed' WHERE file_no = 2")


def removed_run(ledger: Ledger) -> None:
    unlock(ledger)
    unlock(ledger, "positions")
    (entry,) = [entry for entry in log(ledger) if entry.kind == "run_accepted"]
    execute(ledger, "DELETE FROM positions WHERE entry_id = :id", id=entry.entry_id)
    execute(ledger, "UPDATE positions SET leaf_index = leaf_index - 1")
    execute(ledger, "DELETE FROM entries WHERE entry_id = :id", id=entry.entry_id)


def removed_result(ledger: Ledger) -> None:
    unlock(ledger)
    unlock(ledger, "positions")
    last = [entry for entry in log(ledger) if entry.kind == "file_hashed"][-1]
    execute(ledger, "DELETE FROM positions WHERE leaf_index >= :index", index=last.leaf_index)
    execute(ledger, "DELETE FROM entries WHERE entry_id >= :id", id=last.entry_id)


def altered_digest(ledger: Ledger) -> None:
    execute(ledger, "UPDATE files SET digests = :digests WHERE file_no = 1", digests='{"md5": "forged"}')


def result_without_entry(ledger: Ledger) -> None:
    execute(
        ledger, "UPDATE files SET state = 'done', digests = :digests WHERE file_no = 6", digests='{"md5": "made up"}'
    )


@pytest.mark.parametrize(
    ("forge", "complaint"),
    [
        (altered_body, "do not have the stored leaf hash"),
        (altered_body_and_hash, "file 1 of run .* other digests"),
        (not_canonical, "not canonical JSON"),
        (not_json, "no JSON"),
        (missing_position, "number 2 is missing"),
        (lying_column, "columns say something else"),
        (lying_time, "columns say something else"),
        (lying_tenant, "columns say something else"),
        (unlocked_entries, "entries is not insert-only"),
        (unlocked_positions, "positions is not insert-only"),
        (removed_file, "file 2 of run .* does not have it"),
        (failed_afterwards, "file 2 of run .* has it as failed"),
        (altered_path, "file 2 of run .* another path"),
        (altered_size, "file 2 of run .* another size_bytes"),
        (altered_verdict, "file 2 of run .* another verdict"),
        (removed_run, "1 runs have no run_accepted entry"),
        (removed_result, "1 files are done without an entry"),
        (altered_digest, "file 1 of run .* other digests"),
        (result_without_entry, "1 files are done without an entry"),
    ],
)
def test_whatever_was_forged_is_found(ledger: Ledger, forge: Callable[[Ledger], None], complaint: str) -> None:
    run_id = worked(ledger, 5)
    if forge is result_without_entry:
        execute(
            ledger,
            "INSERT INTO files (run_id, file_no, tenant_id, shard, file_ref, path, size_class, state, epoch, fence, "
            "attempts, lost_leases, generation, not_before_ms) "
            "VALUES (:run_id, 6, 'default', 0, '6', 'p', 'tiny', 'ready', 0, 0, 0, 0, 0, 0)",
            run_id=run_id,
        )

    forge(ledger)

    found = ledger.read_now(entries.verify)
    assert found.faults
    assert [fault for fault in found.faults if re.search(complaint, fault)], found.faults


def test_a_replay_is_no_forgery_before_during_and_after_the_second_reading(ledger: Ledger) -> None:
    run_id = worked(ledger, 5)
    run = get_run(ledger, run_id)
    how: dict[str, Any] = {"everything": True, "error_class": None, "file_ids": (), "reports": [], "entry": {}}
    ledger.write_now(replays.reopen, run, **how)
    opened = verify(ledger)
    one, two, *others = claim(ledger, queue_ticket(ledger, run))
    gone = replace(told(two), state=FileState.FAILED, digests={}, entry={"file_no": 2, "generation": 1})
    ledger.write_now(files.settle, run_id, [told(one), gone])
    begun = verify(ledger)
    ledger.write_now(files.settle, run_id, [told(file) for file in others])

    assert [found.faults for found in (opened, begun, verify(ledger))] == [(), (), ()]


def test_a_ledger_at_work_is_no_forged_one(ledger: Ledger) -> None:
    """What is written while the walk goes on must not look like a fault."""
    accept_run(ledger)
    append(ledger, *({"n": n} for n in range(300)))
    number_all(ledger)
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.002):
            append(ledger, {"n": 0}, {"n": 1})

    def sequence() -> None:
        while not stop.wait(0.002):
            ledger.write_now(entries.number, limit=5)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(write), pool.submit(sequence)]
        found = [ledger.read_now(entries.verify) for _ in range(5)]
        stop.set()
        for future in futures:
            future.result()

    assert [each.faults for each in found] == [()] * 5


def test_entries_that_wait_for_their_number_are_looked_at_as_well(ledger: Ledger) -> None:
    append(ledger, {"n": 1})
    unlock(ledger)
    execute(ledger, "UPDATE entries SET body = :body", body=b"{}")

    found = ledger.read_now(entries.verify)

    assert (found.entries, found.waiting) == (0, 1)
    assert found.faults


def test_a_ruined_ledger_is_told_in_a_hundred_lines_not_a_million(ledger: Ledger) -> None:
    append(ledger, *({"n": n} for n in range(300)))
    number_all(ledger)
    unlock(ledger)
    execute(ledger, "UPDATE entries SET kind = 'x'")

    assert len(ledger.read_now(entries.verify).faults) == entries.FAULTS_MAX


def test_the_memory_a_walk_needs_does_not_grow_with_the_log(ledger: Ledger) -> None:
    def walk(connection: sa.Connection) -> int:
        return sum(1 for _ in entries.in_order(connection, page=50))

    def peak(count: int) -> int:
        append(ledger, *({"text": "x" * 1000} for _ in range(count)))
        number_all(ledger)
        ledger.read_now(walk)
        tracemalloc.start()
        assert ledger.read_now(walk) >= count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(200), peak(1500)

    assert large < 1.5 * small + 100_000


def test_the_positions_are_the_only_order(ledger: Ledger) -> None:
    append(ledger, {"n": 1})

    assert ledger.read_now(entries.of_run, "run")[0].leaf_index is None
    assert log(ledger) == []
    number_all(ledger)
    assert ledger.read_now(entries.of_run, "run")[0].leaf_index == 0
    count = sa.select(sa.func.count()).select_from(positions)
    assert ledger.read_now(lambda connection: connection.execute(count).scalar_one()) == 1
