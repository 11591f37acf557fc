"""
The ledger's connection: SQLite (WAL) or PostgreSQL behind a small thread pool.

The functions of this room are plain: they take an open connection inside one transaction. `Ledger.write`
and `Ledger.read` run them on a thread of the pool, so that steps stay `async` and migrations, the CLI and
tests use the same functions without an async twin.
"""

import asyncio
import logging
import os
import socket
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from hashmill.domain.errors import ConfigFault, LedgerUnavailable

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_OURS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""What a driver raises over a statement, not over the database."""


class now_ms(FunctionElement[int]):  # noqa: N801 - it reads as the SQL function it is
    """The database's clock in milliseconds since 1970: the only clock that leases know."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(now_ms, "postgresql")
def _now_ms_postgresql(element: now_ms, compiler: Any, **kw: Any) -> str:
    # clock_timestamp, not now(): a transaction that waited for a lock must not live in the past.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


@compiles(now_ms, "sqlite")
def _now_ms_sqlite(element: now_ms, compiler: Any, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


def open_engine(url: str, *, threads: int = 1, timeout_s: float = 10.0) -> sa.Engine:
    """Return an engine whose connections wait at most `timeout_s` for a connect, a lock or a statement."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            parsed,
            poolclass=sa.QueuePool,
            pool_size=threads,
            max_overflow=0,
            pool_timeout=timeout_s,
            hide_parameters=True,
        )

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: Any, record: Any) -> None:
            # We say BEGIN ourselves: the driver's own habit would start read transactions that
            # cannot become writers while somebody else writes.
            connection.isolation_level = None
            for pragma in (
                f"busy_timeout = {int(timeout_s * 1000)}",
                "synchronous = FULL",
                "foreign_keys = ON",
                "temp_store = MEMORY",
            ):
                connection.execute(f"PRAGMA {pragma}")
            _go_over_to_wal(connection, timeout_s)

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            how = "DEFERRED" if connection.get_execution_options().get("reads") else "IMMEDIATE"
            connection.exec_driver_sql(f"BEGIN {how}")

        return engine
    timeout_ms = int(timeout_s * 1000)
    return sa.create_engine(
        parsed,
        pool_size=threads,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text must not hold what was being written
        connect_args={
            "connect_timeout": max(2, int(timeout_s)),
            "options": f"-c statement_timeout={timeout_ms} -c lock_timeout={timeout_ms}",
            "keepalives_idle": 5,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": timeout_ms,
        },
    )


def _go_over_to_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Switch to the write-ahead log, which is kept in the file; wait for a writer, as the switch itself does not.

    known: beside a writer with a rollback journal the switch fails at once, whatever busy_timeout says.
    """
    ends_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > ends_s:
                raise
        time.sleep(0.01)


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        # The text is not shown: it may hold a password.
        raise ConfigFault(
            "ledger.url is no address of a ledger: write postgresql+psycopg://user:password@host/name, or sqlite:///path"
        )
    return parsed


class Ledger:
    """An open ledger. One per process; `close()` when the process ends."""

    def __init__(self, url: str, *, threads: int = 4, timeout_s: float = 10.0) -> None:
        sqlite = _parsed(url).get_backend_name() == "sqlite"
        # SQLite has one writer in all the world; a second thread lets a page be read beside it.
        self._threads = 2 if sqlite else threads
        self.engine = open_engine(url, threads=self._threads + 1, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._lines = _Lines(self.engine)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="ledger")
        self._kept_free = ThreadPoolExecutor(1, thread_name_prefix="ledger-leases")

    async def write(self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, …)` in one transaction and return what it returns, after the commit.

        Raises `LedgerUnavailable` when the database cannot be reached, is locked too long or is full.
        Cancelling the caller does not undo a transaction under way: it commits or fails as a whole.
        """
        return await self._in_turn(self._pool, lambda: self.write_now(work, *args, **kwargs))

    async def write_lease(
        self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, on a thread and a connection kept free for leases.

        A lease that waited its turn behind results could run out although the ledger and its holder are well.
        """
        return await self._in_turn(self._kept_free, lambda: self.write_now(work, *args, **kwargs))

    async def read(self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, in a transaction that only reads and so waits for no writer."""
        return await self._in_turn(self._pool, lambda: self.read_now(work, *args, **kwargs))

    async def _in_turn(self, pool: ThreadPoolExecutor, transaction: Callable[[], T]) -> T:
        """Run `transaction` on a thread; one that has not begun within `timeout_s` never will, and counts as refused.

        So behind a ledger that hangs a caller waits for its own time-out, not for those of everybody before it. The
        server itself ends a statement after `timeout_s`: one that says nothing for twice that is not slow but gone.
        """
        future = pool.submit(transaction)
        waited = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait([waited], timeout=self._timeout_s)
            if not done and future.cancel():
                raise LedgerUnavailable(f"the ledger is too slow: nothing was begun within {self._timeout_s:g} s")
            while not done:
                done, _ = await asyncio.wait([waited], timeout=2 * self._timeout_s)
                if not done:
                    self._lines.cut()
            return await waited
        except asyncio.CancelledError:
            future.cancel()  # only what has not begun
            waited.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else will look
            raise

    def write_now(self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`write` for callers without a loop: the CLI, migrations, tests."""
        with translated(), self.engine.begin() as connection:
            return work(connection, *args, **kwargs)

    def read_now(self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`read` for callers without a loop."""
        with translated(), self._snapshot() as connection, connection.begin():
            return work(connection, *args, **kwargs)

    def _snapshot(self) -> sa.Connection:
        """Return a connection whose transaction sees one state of the ledger, however long it reads."""
        connection = self.engine.connect().execution_options(reads=True)
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        return connection

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._kept_free.shutdown(wait=True)
        self.engine.dispose()


class _Lines:
    """The connections to the server, to be cut when it has gone silent: nothing else wakes a thread that listens.

    known: libpq has no time-out for an answer, and a proxy on the way that lives keeps TCP content.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self._is_closed = engine.dialect.loaded_dbapi.Error
        if engine.dialect.name == "postgresql":
            sa.event.listen(engine, "connect", lambda connection, record: self._open.add(connection))

    def cut(self) -> None:
        """Hang up; whoever listens gets an error at once, and the pool opens new connections."""
        lines = list(self._open)
        log.warning("ledger_silent", extra={"connections": len(lines)})
        for line in lines:
            with suppress(OSError, self._is_closed), socket.socket(fileno=os.dup(line.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def translated() -> Iterator[None]:
    """Raise `LedgerUnavailable` for a database that is away, refuses to work or has no tables; bugs of ours go through.

    known: SQLite calls every bug SQLITE_ERROR and an outage by a name of its own (SQLITE_BUSY, FULL, READONLY, NOTADB);
    a standby of PostgreSQL refuses to write with an InternalError.
    """
    try:
        yield
    except PoolTimeout as error:
        raise LedgerUnavailable(_reason(error)) from error
    except DBAPIError as error:
        state, code = (getattr(error.orig, name, None) for name in ("sqlstate", "sqlite_errorcode"))
        if state == "42P01" or (code == sqlite3.SQLITE_ERROR and str(error.orig).startswith("no such table")):
            raise LedgerUnavailable("the ledger has no tables yet: run `hashmill ledger upgrade`") from error
        ours = isinstance(error, _OURS) or code == sqlite3.SQLITE_ERROR
        if ours and not error.connection_invalidated:
            raise
        raise LedgerUnavailable(_reason(error)) from error


def _reason(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first_line = str(cause).strip().splitlines()
    return f"the ledger is not available: {first_line[0] if first_line else type(cause).__name__}"
