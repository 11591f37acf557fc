"""
The ledger of a simulated world: the real functions on SQLite in memory, by the virtual clock.

A transaction runs inline and whole, in its process's turn: what is simulated is in which order transactions come, and
whether the one who asked learns what became of them; not how two of them meet inside a database.
"""

import asyncio
import functools
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hashmill.domain.errors import LedgerUnavailable
from hashmill.home import app_home
from hashmill.ledger import migrate
from hashmill.ledger.engine import translated
from tests.sim.engine import BEGIN_S, Body

if TYPE_CHECKING:
    from tests.sim.world import World

BEGIN_MS = 1_767_225_600_000
"""The database's clock when a world begins: the start of 2026."""
TIMEOUT_S = 10.0


class Database:
    """One SQLite in memory that every world of this process takes in turn; `renew` empties it."""

    def __init__(self) -> None:
        self.clock_s: Callable[[], float] = lambda: BEGIN_S
        self._raw = self._opened()
        self.engine = sa.create_engine("sqlite://", creator=lambda: self._raw, poolclass=sa.StaticPool)
        sa.event.listen(self.engine, "begin", lambda connection: self._raw.execute("BEGIN"))
        migrate.upgrade(self.engine, app_home() / "migrations")
        self._empty = self._raw.serialize()
        self._connection = self.engine.connect()

    def _opened(self) -> sqlite3.Connection:
        raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        raw.execute("PRAGMA foreign_keys = ON")
        # What now_ms() is made of on SQLite. 0.5: a fraction of a millisecond must not round down.
        raw.create_function(
            "julianday", 1, lambda _: 2440587.5 + (int(self.now_ms()) + 0.5) / 86_400_000, deterministic=False
        )
        return raw

    def now_ms(self) -> float:
        return BEGIN_MS + (self.clock_s() - BEGIN_S) * 1000

    def renew(self, clock_s: Callable[[], float]) -> None:
        """Start over: an empty ledger at head, and another clock."""
        self._connection.close()
        self.engine.dispose()
        # A new connection: on one that has used json_each, SQLite 3.40 keeps that table in a schema which deserialize
        # frees, and crashes.
        self._raw = self._opened()
        self._raw.deserialize(self._empty)
        self._connection = self.engine.connect()
        self.clock_s = clock_s

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `work(connection, …)` in a transaction, with no fault."""
        with translated(), self._connection.begin():
            return work(self._connection, *args, **kwargs)


class SimLedger:
    """The interface of `hashmill.ledger.engine.Ledger`, for one process of a world."""

    def __init__(self, world: "World", body: Body) -> None:
        self._world = world
        self._body = body
        self.engine = world.database.engine

    async def write(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await self._transaction(work, args, kwargs)

    write_lease = write

    async def read(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await self._transaction(work, args, kwargs, reads=True)

    def write_now(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._world.database.run(work, *args, **kwargs)

    read_now = write_now

    def close(self) -> None:
        pass

    async def _transaction(self, work: Any, args: Any, kwargs: Any, *, reads: bool = False) -> Any:
        world, chance = self._world, self._world.chance
        if self._body.over:
            raise LedgerUnavailable("the world has ended")
        answer = world.loop.create_future()
        delay_s = chance.uniform(0.001, 0.01)
        if world.happens("ledger_slow"):
            delay_s = chance.uniform(0.1, 0.8 * TIMEOUT_S)
        handle = world.loop.call_later(delay_s, self._run, answer, work, args, kwargs, reads)
        try:
            return await answer
        except asyncio.CancelledError:
            if chance.random() < 0.5:
                handle.cancel()  # it had not begun
            raise

    def _run(self, answer: "asyncio.Future[Any]", work: Any, args: Any, kwargs: Any, reads: bool) -> None:
        world, chance = self._world, self._world.chance
        if self._body.over:
            _give(answer, LedgerUnavailable("the world has ended"))
            return
        name = _name(work)
        if world.ledger_away or world.happens("ledger_refuses"):
            world.note(self._body.name, "ledger refuses", name)
            # A server that is gone refuses at once; one that is cut off is waited for.
            world.loop.call_later(chance.choice((0.0, 0.0, 0.0, TIMEOUT_S)), _give, answer, LedgerUnavailable(name))
            return
        forgets = not reads and world.happens("ledger_forgets")
        try:
            result: Any = world.database.run(work, *args, **kwargs)
            world.committed(self._body, name, args, kwargs, result)
        except Exception as error:
            result = error
        if not reads or isinstance(result, Exception):
            world.note(self._body.name, "ledger", name, _shown(result), "forgets" if forgets else "")
        if forgets and not isinstance(result, Exception):
            result = LedgerUnavailable(f"{name}: the answer was lost")
        if reads:
            _give(answer, result)
        else:
            # A process may end between the commit and its answer.
            world.loop.call_later(chance.uniform(0.0, 0.005), _give, answer, result)


def _give(answer: "asyncio.Future[Any]", result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _name(work: Any) -> str:
    while isinstance(work, functools.partial):
        work = work.func
    return f"{work.__module__.rpartition('.')[2]}.{work.__qualname__}"


def _shown(result: Any) -> str:
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {result}"
    if isinstance(result, list):
        return f"{len(result)} of them"
    return str(result) if isinstance(result, bool | int | float | str | None) else type(result).__name__
