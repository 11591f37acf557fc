"""A database that is away, locked, full or read-only: said quickly, as one error, and nothing is half written."""

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from hashmill.domain.errors import ConfigFault, LedgerUnavailable
from hashmill.ledger import entries, leases, migrate, runs
from hashmill.ledger.engine import Ledger, now_ms
from hashmill.parts.postgres import Databases, Postgres, start_postgres
from tests.fault.proxy import BLACK_HOLE, FaultProxy
from tests.helpers.ledger import MIGRATIONS, accept_run, fresh_ledger, get_run
from tests.helpers.servers import work_folder
from tests.helpers.wait import wait_until

IMPATIENT_S = 0.4


@contextmanager
def quickly(limit_s: float = 3.0) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    assert time.monotonic() - started_s < limit_s


@contextmanager
def impatient(url: str, *, threads: int = 4) -> Iterator[Ledger]:
    """An open ledger at head that waits for nobody longer than `IMPATIENT_S`."""
    with fresh_ledger(url):
        pass
    ledger = Ledger(url, threads=threads, timeout_s=IMPATIENT_S)
    try:
        yield ledger
    finally:
        ledger.close()


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with impatient(ledger_url) as opened:
        yield opened


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    with work_folder("pg") as folder, start_postgres(folder) as server:
        yield server


def count_runs(ledger: Ledger) -> int:
    return sum(ledger.read_now(runs.count_by_state).values())


def test_a_closed_port_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    ledger = Ledger(f"postgresql+psycopg://u:secret-word@127.0.0.1:{port}/none", timeout_s=IMPATIENT_S)

    for ask in (ledger.read_now, ledger.write_now):
        with quickly(), pytest.raises(LedgerUnavailable) as error:
            ask(runs.count_by_state)
        assert "secret-word" not in str(error.value)
    ledger.close()


def test_a_killed_postgresql_is_said_and_a_restarted_one_is_used_again(own_postgres: Postgres) -> None:
    with impatient(own_postgres.fresh_database()) as ledger:
        accept_run(ledger, key="before")
        own_postgres.kill()

        with quickly(), pytest.raises(LedgerUnavailable):
            accept_run(ledger, key="during")
        with quickly(), pytest.raises(LedgerUnavailable):
            ledger.read_now(runs.count_by_state)
        own_postgres.restart()
        accept_run(ledger, key="after")

        assert count_runs(ledger) == 2


def test_a_postgresql_that_dies_in_mid_transaction_leaves_nothing_half_written(own_postgres: Postgres) -> None:
    with impatient(own_postgres.fresh_database()) as ledger:

        def die(connection: sa.Connection) -> None:
            entries.append(connection, "r", [("note", {})], tenant_id="t", shard=0)
            own_postgres.kill()
            connection.execute(sa.select(now_ms()))

        with pytest.raises(LedgerUnavailable):
            ledger.write_now(die)
        own_postgres.restart()

        assert ledger.read_now(entries.of_run, "r") == []


def test_a_connection_that_was_cut_is_opened_anew(postgres: Databases) -> None:
    with impatient(postgres.fresh_database()) as ledger:
        accept_run(ledger)
        cut = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with impatient(str(ledger.engine.url.render_as_string(hide_password=False))) as other:
            other.read_now(lambda connection: connection.execute(sa.text(cut)).all())

        assert count_runs(ledger) == 1


def test_a_standby_that_refuses_to_write_is_away_for_writers(postgres: Databases) -> None:
    url = postgres.fresh_database()
    name = urlsplit(url).path[1:]
    with impatient(url) as ledger:
        ledger.write_now(
            lambda connection: connection.execute(
                sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            )
        )
    ledger = Ledger(url, timeout_s=IMPATIENT_S)

    with pytest.raises(LedgerUnavailable, match="read-only"):
        accept_run(ledger)
    assert count_runs(ledger) == 0
    ledger.close()


def test_a_row_locked_for_too_long_on_postgresql_is_given_up(postgres: Databases) -> None:
    with impatient(postgres.fresh_database()) as ledger:
        run = accept_run(ledger)
        with ledger.engine.begin() as holder:
            runs.lock(holder, run.run_id)

            with quickly(), pytest.raises(LedgerUnavailable):
                ledger.write_now(runs.lock, run.run_id)

        assert ledger.write_now(runs.lock, run.run_id) is not None


def test_a_locked_sqlite_file_is_given_up_by_writers_and_still_read(sqlite_path: Path) -> None:
    with impatient(f"sqlite:///{sqlite_path}") as ledger:
        accept_run(ledger, key="before")
        other = sqlite3.connect(sqlite_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with quickly(), pytest.raises(LedgerUnavailable, match="locked"):
            accept_run(ledger, key="during")
        assert count_runs(ledger) == 1
        other.execute("ROLLBACK")
        other.close()

        accept_run(ledger, key="after")
        assert count_runs(ledger) == 2


def test_processes_that_open_a_new_sqlite_file_together_wait_for_each_other(sqlite_path: Path) -> None:
    """Going over to WAL wants the file alone, and does not wait by itself as everything else does."""
    other = sqlite3.connect(sqlite_path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    letting_go = threading.Timer(0.3, other.execute, ["ROLLBACK"])
    letting_go.start()
    ledger = Ledger(f"sqlite:///{sqlite_path}", timeout_s=3)

    mode = ledger.read_now(lambda connection: connection.execute(sa.text("PRAGMA journal_mode")).scalar_one())

    assert mode == "wal"
    letting_go.join()
    other.close()
    ledger.close()


def test_more_callers_than_connections_wait_no_longer_than_the_knob_says(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool, suppress(LedgerUnavailable):
        held = [pool.submit(ledger.read_now, lambda _: time.sleep(1.5 * IMPATIENT_S)) for _ in range(4)]
        wait_until(lambda: all(future.running() for future in held))

        with quickly(2.0), suppress(LedgerUnavailable):
            ledger.read_now(runs.count_by_state)
        for future in held:
            with suppress(LedgerUnavailable):
                future.result()


def accept_many(ledger: Ledger) -> None:
    for number in range(1000):
        accept_run(ledger, key=f"{number}", job_id="x" * 200)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(sqlite_path: Path) -> None:
    with impatient(f"sqlite:///{sqlite_path}") as ledger:
        accept_run(ledger, key="before")
        pages: dict[str, Any] = {"PRAGMA max_page_count": 0}

        @sa.event.listens_for(ledger.engine, "checkout")
        def limit(connection: Any, *_: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages['PRAGMA max_page_count'] or 1_000_000}")

        used = ledger.read_now(lambda connection: connection.execute(sa.text("PRAGMA page_count")).scalar_one())
        pages["PRAGMA max_page_count"] = used + 2
        with pytest.raises(LedgerUnavailable, match="full"):
            accept_many(ledger)
        found = count_runs(ledger)
        written = ledger.read_now(
            lambda connection: connection.execute(sa.text("SELECT count(*) FROM entries")).scalar_one()
        )
        pages["PRAGMA max_page_count"] = 0
        accept_run(ledger, key="after")

        assert found == written
        assert count_runs(ledger) == found + 1


def test_a_read_only_sqlite_file_is_away_for_writers(sqlite_path: Path) -> None:
    with impatient(f"sqlite:///{sqlite_path}") as ledger:
        sa.event.listen(ledger.engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only = ON"))

        with pytest.raises(LedgerUnavailable, match="readonly"):
            accept_run(ledger)
        assert count_runs(ledger) == 0


@pytest.mark.parametrize(
    "bytes_", [b"this is no database, but long enough to look like one" * 100, b"SQLite format 3\0x"]
)
def test_a_file_that_is_no_database_is_said_so(sqlite_path: Path, bytes_: bytes) -> None:
    sqlite_path.write_bytes(bytes_)
    ledger = Ledger(f"sqlite:///{sqlite_path}", timeout_s=IMPATIENT_S)

    with pytest.raises(LedgerUnavailable, match="not a database"):
        ledger.read_now(runs.count_by_state)
    with pytest.raises(LedgerUnavailable, match="not a database"):
        migrate.upgrade(ledger.engine, MIGRATIONS)
    ledger.close()


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/no/such/folder/ledger.sqlite3", timeout_s=IMPATIENT_S)

    with pytest.raises(LedgerUnavailable):
        ledger.write_now(runs.count_by_state)
    ledger.close()


def test_a_ledger_without_tables_says_what_to_do(ledger_url: str) -> None:
    ledger = Ledger(ledger_url, timeout_s=IMPATIENT_S)

    with pytest.raises(LedgerUnavailable, match=r"no such table|hashmill ledger upgrade"):
        ledger.read_now(runs.count_by_state)
    ledger.close()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://u:secret-word@h/db", "postgresql+psycopg"])
def test_an_address_that_is_none_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigFault, match=r"ledger\.url") as error:
        Ledger(url)

    assert "secret-word" not in str(error.value)


def test_a_bug_of_ours_is_not_taken_for_a_database_that_is_away(ledger: Ledger) -> None:
    with pytest.raises(IntegrityError):
        ledger.write_now(lambda connection: connection.execute(sa.text("INSERT INTO unnumbered VALUES ('no entry')")))
    with pytest.raises(DBAPIError):
        ledger.write_now(lambda connection: connection.execute(sa.text("SELECT no_such_column FROM runs")))


def test_what_fails_in_the_middle_is_undone_as_a_whole(ledger: Ledger) -> None:
    def half(connection: sa.Connection) -> None:
        entries.append(connection, "r", [("note", {})], tenant_id="t", shard=0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.write_now(half)

    assert ledger.read_now(entries.of_run, "r") == []


async def test_cancelling_a_caller_undoes_no_transaction_under_way(ledger: Ledger) -> None:
    run = accept_run(ledger)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE runs SET job_id = 'changed'"))
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.05)

    writing = asyncio.create_task(ledger.write(slow))
    await begun.wait()
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing

    wait_until(lambda: get_run(ledger, run.run_id).job_id == "changed", timeout_s=2)


async def test_many_at_once_are_served_in_threads(ledger: Ledger) -> None:
    answers = await asyncio.gather(*(ledger.read(runs.count_by_state) for _ in range(40)))

    assert answers == [{}] * 40


def test_a_reader_sees_one_snapshot_however_long_it_reads(ledger: Ledger) -> None:
    accept_run(ledger, key="a")

    def read_twice(connection: sa.Connection) -> tuple[int, int]:
        before = len(runs.listed(connection))
        accept_run(ledger, key="b")
        return before, len(runs.listed(connection))

    assert ledger.read_now(read_twice) == (1, 1)
    assert count_runs(ledger) == 2


def test_the_clock_is_the_databases_in_milliseconds_and_goes_on_within_a_transaction(ledger: Ledger) -> None:
    def twice(connection: sa.Connection) -> tuple[int, int]:
        first = entries.clock_ms(connection)
        wait_until(lambda: entries.clock_ms(connection) > first, timeout_s=2)
        return first, entries.clock_ms(connection)

    first, second = ledger.write_now(twice)

    assert first < second
    assert abs(first / 1000 - time.time()) < 60


def test_a_password_in_the_address_is_in_no_error(postgres: Databases) -> None:
    parts = urlsplit(postgres.url)
    wrong = urlunsplit(parts._replace(netloc=f"postgres:secret-word@{parts.hostname}:{parts.port}"))
    ledger = Ledger(wrong, timeout_s=IMPATIENT_S)

    with pytest.raises(LedgerUnavailable) as error:
        ledger.read_now(runs.count_by_state)

    assert "secret-word" not in str(error.value)
    ledger.close()


async def test_behind_a_ledger_that_hangs_each_caller_waits_for_its_own_time_out(tmp_path: Path) -> None:
    with fresh_ledger(f"sqlite:///{tmp_path / 'slow.sqlite3'}") as ready:
        url = str(ready.engine.url)
    ledger = Ledger(url, timeout_s=0.5)
    release = threading.Event()

    def hang(connection: sa.Connection) -> None:
        release.wait(20)

    hanging = [asyncio.create_task(ledger.read(hang)) for _ in range(8)]
    await asyncio.sleep(0)  # they stand in front
    began_s = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="too slow"):
        await ledger.read(entries.clock_ms)
    waited_s = time.monotonic() - began_s
    release.set()
    ends = await asyncio.gather(*hanging, return_exceptions=True)
    ledger.close()

    assert waited_s < 5
    assert sum(end is None for end in ends) == 2
    assert sum(isinstance(end, LedgerUnavailable) for end in ends) == 6


async def test_a_postgresql_that_falls_silent_in_mid_transaction_is_given_up_and_used_again(
    postgres: Databases,
) -> None:
    url = postgres.fresh_database()
    with fresh_ledger(url), FaultProxy(url) as proxy:
        ledger = Ledger(proxy.through(url), threads=2, timeout_s=IMPATIENT_S)
        await ledger.read(lambda connection: connection.execute(sa.select(now_ms())).scalar_one())
        proxy.set(BLACK_HOLE)

        with quickly(5.0), pytest.raises(LedgerUnavailable):
            await ledger.write(lambda connection: connection.execute(sa.select(now_ms())).scalar_one())

        proxy.heal()
        with suppress(LedgerUnavailable):
            await ledger.read(lambda connection: connection.execute(sa.select(now_ms())).scalar_one())
        assert await ledger.read(lambda connection: connection.execute(sa.select(now_ms())).scalar_one())
        ledger.close()


async def test_a_lease_is_renewed_while_every_thread_is_at_work(ledger_url: str) -> None:
    at_work, done = threading.Barrier(3), threading.Event()

    def slow(connection: sa.Connection) -> None:
        at_work.wait(30.0)
        done.wait(30.0)

    with fresh_ledger(ledger_url):
        pass
    ledger = Ledger(ledger_url, threads=2)
    readers = [asyncio.create_task(ledger.read(slow)) for _ in range(2)]
    try:
        await asyncio.to_thread(at_work.wait, 30.0)
        async with asyncio.timeout(10.0):
            assert await ledger.write_lease(leases.take, "leader", "me", lease_s=3.0) == 1
        assert not any(reader.done() for reader in readers)
    finally:
        done.set()
        await asyncio.gather(*readers)
        ledger.close()
