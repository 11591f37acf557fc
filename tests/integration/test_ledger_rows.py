"""Rows written together are the rows one would have written alone, to the byte, on both databases."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashmill.ledger.engine import open_engine
from hashmill.ledger.rows import Given, among_given, execute, insert

SHELF = sa.Table(
    "shelf",
    sa.MetaData(),
    sa.Column("shelf_id", sa.String(36), primary_key=True),
    sa.Column("no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("known", sa.Boolean),
)
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
"""What a database takes as text: no NUL, no half of a surrogate pair."""
ROW = st.fixed_dictionaries(
    {
        "text": st.none()
        | TEXTS
        | st.sampled_from(["\\x41", "{1,2}", '"', "\\u0000", "null", "'", "%s %(rows)s :rows"]),
        "bytes": st.none() | st.binary(),
        "size_bytes": st.none() | st.integers(-(2**63), 2**63 - 1),
        "known": st.none() | st.booleans(),
    }
)
ON_ONE_LEDGER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture
def connection(ledger_url: str) -> Iterator[sa.Connection]:
    engine = open_engine(ledger_url)
    with engine.begin() as opened:
        SHELF.create(opened)
        yield opened
    engine.dispose()


def shelved(connection: sa.Connection, *where: sa.ColumnElement[bool], **given: Any) -> list[dict[str, Any]]:
    """Return the rows, without their shelf."""
    found = connection.execute(sa.select(SHELF).where(*where).order_by(SHELF.c.no), given)
    rows = [{name: value for name, value in row._mapping.items() if name != "shelf_id"} for row in found]
    return [{**row, "bytes": None if row["bytes"] is None else bytes(row["bytes"])} for row in rows]


@given(st.lists(ROW, max_size=6))
@ON_ONE_LEDGER
def test_what_is_inserted_together_is_what_was_given(connection: sa.Connection, made: list[dict[str, Any]]) -> None:
    connection.execute(sa.delete(SHELF))
    rows = [{**row, "no": no} for no, row in enumerate(made)]

    insert(connection, SHELF, [{"shelf_id": "a", **row} for row in rows])

    assert shelved(connection) == rows


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(-2, 2**31 - 1) | st.integers(0, 9)))
@ON_ONE_LEDGER
def test_a_given_list_picks_what_is_in_it(connection: sa.Connection, there: set[int], asked: set[int]) -> None:
    connection.execute(sa.delete(SHELF))
    insert(connection, SHELF, [{"shelf_id": f"id-{no}", "no": no} for no in there])
    dialect = connection.dialect.name

    by_number = shelved(connection, among_given(SHELF.c.no, "asked", dialect=dialect), asked=sorted(asked))
    names = [f"id-{no}" for no in asked]
    by_name = shelved(connection, among_given(SHELF.c.shelf_id, "asked", dialect=dialect), asked=names)

    assert [row["no"] for row in by_number] == [row["no"] for row in by_name] == sorted(there & asked)


@given(st.lists(st.tuples(ROW, ROW), min_size=1, max_size=6))
@ON_ONE_LEDGER
def test_each_row_gets_the_values_given_for_it(connection: sa.Connection, made: list[tuple[Any, Any]]) -> None:
    connection.execute(sa.delete(SHELF))
    insert(
        connection, SHELF, [{"shelf_id": shelf, "no": no, **row} for no, (row, _) in enumerate(made) for shelf in "ab"]
    )
    given_ = Given(connection.dialect.name, b_no=sa.Integer, b_text=sa.Text, b_size=sa.BigInteger, b_known=sa.Boolean)
    statement = (
        sa.update(SHELF)
        .where(SHELF.c.shelf_id == sa.bindparam("b_shelf"), SHELF.c.no == given_["b_no"])
        .values(text=given_["b_text"], size_bytes=given_["b_size"], known=given_["b_known"])
    )

    changes = [
        {"b_no": no, "b_text": row["text"], "b_size": row["size_bytes"], "b_known": row["known"]}
        for no, (_, row) in enumerate(made)
    ]
    execute(connection, statement, changes, b_shelf="a")

    untouched = shelved(connection, SHELF.c.shelf_id == "b")
    changed = shelved(connection, SHELF.c.shelf_id == "a")
    assert untouched == [{"no": no, **before} for no, (before, _) in enumerate(made)]
    assert changed == [{"no": no, **after, "bytes": before["bytes"]} for no, (before, after) in enumerate(made)]
