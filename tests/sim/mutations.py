"""Protections taken away, by name: the simulator must miss each of them within a few seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from hashmill.domain.job import OutboxState
from hashmill.ledger import expansions, files, outbox, runs, seal, tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """`applied` takes a protection away while its context lasts; `surely` are the rates of what it protects from."""

    applied: Callable[[], AbstractContextManager[Any]]
    surely: Mapping[str, float]


MUTATIONS: dict[str, Mutation] = {}


def mutation(**surely: float) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Keep the protection that a function takes away, by the name of the function."""

    def keep(function: Callable[[], Iterator[None]]) -> None:
        MUTATIONS[function.__name__] = Mutation(applied=contextmanager(function), surely=surely)

    return keep


@mutation(freeze=0.6, storage_slow=0.6)
def settle_asks_for_no_fence() -> Iterator[None]:
    """Who was thought dead and comes back writes a result in somebody else's claim."""
    settle = files.settle

    def without(connection: sa.Connection, run_id: str, outcomes: Sequence[Any]) -> int:
        rows = connection.execute(sa.select(tables.files.c.file_no, tables.files.c.fence).filter_by(run_id=run_id))
        fences = {row.file_no: row.fence for row in rows}
        return settle(connection, run_id, [replace(one, fence=fences[one.file_no]) for one in outcomes])

    without.__qualname__, without.__module__ = "settle", files.__name__
    with patch.object(files, "settle", without):
        yield


@mutation(bell_doubles=0.6, bell_delays=0.6)
def claim_takes_what_is_not_queued() -> Iterator[None]:
    """A ticket that is late or doubled claims a file that another works on, or that is done."""

    def without(connection: sa.Connection, ticket: Any) -> list[int]:
        return [file_no for file_no, _ in ticket.files]

    with patch.object(files, "_lock_queued", without):
        yield


@mutation(bell_loses=0.6)
def sweep_hands_nothing_out_again() -> Iterator[None]:
    """A ticket that the broker lost is lost."""
    with patch.object(files, "reissue", lambda connection, **_: 0):
        yield


@mutation(crash=0.6, storage_slow=0.6)
def sweep_takes_nothing_back() -> Iterator[None]:
    """A file whose process died stays with the dead."""
    with patch.object(files, "lapsed", lambda connection, **_: []):
        yield


@mutation(api_refuses=0.6)
def a_status_is_no_fence() -> Iterator[None]:
    """Messages and hashes pass the status before them."""
    take = outbox.take

    def without(connection: sa.Connection, run_id: str, *, limit: int = 256) -> list[Any]:
        undelivered = outbox._undelivered

        def no_status(*args: Any, **kwargs: Any) -> Iterator[Any]:
            rows = list(undelivered(*args, **kwargs))
            others = [row for row in rows if row.kind != "status"]
            yield from others or rows

        with patch.object(outbox, "_undelivered", no_status):
            return take(connection, run_id, limit=limit)

    with patch.object(outbox, "take", without):
        yield


@mutation(crash=0.6, api_slow=0.6)
def what_was_being_sent_counts_as_sent() -> Iterator[None]:
    """A report found `sending` after a crash is not sent again."""
    take = outbox.take

    def without(connection: sa.Connection, run_id: str, *, limit: int = 256) -> list[Any]:
        found = connection.execute(
            sa.select(tables.outbox.c.seq).filter_by(run_id=run_id, state=OutboxState.SENDING)
        ).scalars()
        outbox.mark(connection, run_id, sent=list(found))
        return take(connection, run_id, limit=limit)

    with patch.object(outbox, "take", without):
        yield


@mutation(posted_often=0.6)
def accept_knows_no_idempotency() -> Iterator[None]:
    """The same event posted again makes another run."""
    accept, count = runs.accept, iter(range(10**9))

    def without(connection: sa.Connection, *, idempotency_key: str, **others: Any) -> Any:
        key = f"{idempotency_key}" if (number := next(count)) == 0 else f"{idempotency_key} {number}"
        return accept(connection, idempotency_key=key, **others)

    with patch.object(runs, "accept", without):
        yield


@mutation(ledger_forgets=0.2)
def postponing_blames_a_listing_that_is_through() -> Iterator[None]:
    """A lost answer to the last page fails a run that was listed. This was so once, and a seed found it."""

    def without(connection: sa.Connection, expansion: Any, *, after_s: float, error_class: Any, detail: str) -> None:
        connection.execute(
            sa.update(tables.runs)
            .where(tables.runs.c.run_id == expansion.run.run_id, tables.runs.c.expand_fence == expansion.fence)
            .values(
                expand_fence=tables.runs.c.expand_fence + 1,
                expand_until_ms=None,
                error_class=error_class,
                error_detail=detail,
            )
        )

    with patch.object(expansions, "postpone", without):
        yield


@mutation()
def keys_are_never_wiped() -> Iterator[None]:
    """A key stays in the ledger after its run has ended."""
    with patch.object(seal, "wipe", lambda connection, run_id: None):
        yield


@mutation()
def a_result_comes_without_its_reports() -> Iterator[None]:
    """What is owed is written in a transaction of its own, which may never come: here it never does."""
    settle = files.settle

    def without(connection: sa.Connection, run_id: str, outcomes: Sequence[Any]) -> int:
        return settle(connection, run_id, [replace(one, reports=()) for one in outcomes])

    without.__qualname__, without.__module__ = "settle", files.__name__
    with patch.object(files, "settle", without):
        yield
