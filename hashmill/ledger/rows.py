"""
Many rows in one statement whose text does not depend on how many: nothing is compiled or prepared anew for another
count, and what a driver does for each row, which costs more than the row, is not done.

The rows travel as one JSON text. An SQLite that writes takes them one by one: there it is the driver that is cheap.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa


class Listed(sa.types.TypeDecorator[Sequence[Any]]):
    """A list as one JSON text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else _ENCODED(value)


def _bytea(value: object) -> str:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"  # as PostgreSQL reads it
    raise TypeError(f"{type(value).__name__} is nothing a row may hold")


_ENCODED: Callable[[Any], str] = json.JSONEncoder(default=_bytea).encode


def among_given(column: sa.Column[Any], name: str, *, dialect: str) -> sa.ColumnElement[bool]:
    """Return `column IN (the list given as parameter `name`)`, which an index of the column serves."""
    given = sa.bindparam(name, type_=Listed)
    if dialect == "sqlite":
        return column.in_(sa.select(sa.func.json_each(given).table_valued("value").c.value))
    elements = sa.func.json_array_elements_text(sa.cast(given, sa.JSON))
    # Made an array first: its elements are looked up in the index, however few or many the planner thinks they are.
    array: Any = sa.func.array(sa.select(sa.cast(elements, column.type)).scalar_subquery())
    return column == sa.any_(array)


class Given:
    """The columns of rows given with the statement, to be used in it by name."""

    def __init__(self, dialect: str, **columns: type[sa.types.TypeEngine[Any]]) -> None:
        self._columns: Any = {name: sa.bindparam(name, type_=kind) for name, kind in columns.items()}
        if dialect != "sqlite":
            self._columns = _recordset({name: kind() for name, kind in columns.items()}).c

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


def _recordset(columns: Mapping[str, sa.types.TypeEngine[Any]]) -> sa.TableValuedAlias:
    rows = sa.cast(sa.bindparam("rows", type_=Listed), sa.JSON)
    typed = [sa.column(name, kind) for name, kind in columns.items()]
    return sa.func.json_to_recordset(rows).table_valued(*typed, name="given").render_derived(with_types=True)


def execute(connection: sa.Connection, statement: sa.Update, rows: Sequence[Mapping[str, Any]], **same: object) -> None:
    """Execute a statement made with `Given` over `rows`; `same` are its other parameters."""
    if connection.dialect.name == "sqlite":
        connection.execute(statement, [{**row, **same} for row in rows])
    else:
        connection.execute(statement, {"rows": rows, **same})


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(sa.insert(table), rows)
    else:
        connection.execute(_inserting(table, tuple(rows[0])), {"rows": rows})


@cache
def _inserting(table: sa.Table, names: tuple[str, ...]) -> sa.Insert:
    given = _recordset({name: table.c[name].type for name in names})
    return sa.insert(table).from_select(list(names), sa.select(*(given.c[name] for name in names)))
