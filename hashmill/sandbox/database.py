"""The sandbox's memory: one SQLite connection whose writes are committed in groups."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

# A call of the API costs a statement or two; a commit for each would cost more than the call.
STATEMENTS_PER_COMMIT: Final = 500
ID_DIGITS_MAX: Final = 18  # what fits SQLite's 64-bit integer

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS containers (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL, storage_id TEXT NOT NULL,
  on_upload TEXT NOT NULL, creator TEXT NOT NULL, date_create TEXT NOT NULL, date_update TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY, container_id INTEGER NOT NULL, parent INTEGER, filename TEXT NOT NULL,
  fullpath TEXT NOT NULL, deleted TEXT NOT NULL DEFAULT '0', size INTEGER NOT NULL, type TEXT NOT NULL,
  format TEXT NOT NULL DEFAULT '', mime TEXT NOT NULL, date_create TEXT NOT NULL, date_update TEXT NOT NULL,
  storage_class_id TEXT NOT NULL DEFAULT '1', UNIQUE (container_id, fullpath, type)
);
CREATE INDEX IF NOT EXISTS files_of_container ON files (container_id);
CREATE TABLE IF NOT EXISTS hashes (
  file_id INTEGER NOT NULL, algorithm TEXT NOT NULL, hash TEXT NOT NULL, date_update TEXT NOT NULL,
  PRIMARY KEY (file_id, algorithm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file_tags (
  file_id INTEGER NOT NULL, tag_id TEXT NOT NULL, PRIMARY KEY (file_id, tag_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metadata (
  id INTEGER PRIMARY KEY, container_id INTEGER NOT NULL, file_id INTEGER, iecode TEXT NOT NULL,
  value TEXT NOT NULL, creator TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS metadata_of_owner ON metadata (container_id, file_id);
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY, container_id INTEGER NOT NULL, user_id TEXT NOT NULL, name TEXT NOT NULL,
  status TEXT NOT NULL, date_create TEXT NOT NULL, date_update TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS job_statuses (
  id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, date TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS statuses_of_job ON job_statuses (job_id);
CREATE TABLE IF NOT EXISTS messages (
  id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, type TEXT NOT NULL, message TEXT NOT NULL, file_id INTEGER,
  date_create TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of_job ON messages (job_id);
CREATE TABLE IF NOT EXISTS calls (
  id INTEGER PRIMARY KEY, at_s REAL NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL, user_id TEXT NOT NULL,
  status INTEGER, fault TEXT NOT NULL, idempotency_key TEXT NOT NULL
);
"""


class Database:
    """One connection, for one thread at a time.

    What was written is seen at once by every later read here, and reaches the disk at the next `commit()`
    or after 500 statements.
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.row_factory = _by_name
        self._uncommitted = 0
        # A double need not outlive a power cut; it must be cheap to call a hundred thousand times.
        self._connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)

    def write(self, sql: str, values: Sequence[Any]) -> int:
        """Run one statement and return the id of the row it inserted, if it did."""
        cursor = self._connection.execute(sql, values)
        self._count(1)
        return cursor.lastrowid or 0

    def write_many(self, sql: str, rows: Sequence[Sequence[Any] | Mapping[str, Any]]) -> None:
        self._connection.executemany(sql, rows)
        self._count(len(rows))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._connection.execute(sql, values).fetchone()
        return found

    def count(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Return the one number that `sql` selects."""
        (number,) = self._connection.execute(sql, values).fetchone().values()
        return int(number)

    def commit(self) -> None:
        """Write what was done since the last commit."""
        if self._uncommitted:
            self._connection.commit()
            self._uncommitted = 0

    def close(self) -> None:
        self.commit()
        self._connection.close()

    def _count(self, statements: int) -> None:
        self._uncommitted += statements
        if self._uncommitted >= STATEMENTS_PER_COMMIT:
            self.commit()


def as_key(id: str | None) -> int | None:
    """Return an id as the number it is stored as; what is no id becomes None, which equals no row."""
    if id is None or not (id.isascii() and id.isdigit() and len(id) <= ID_DIGITS_MAX):
        return None
    return int(id)


def stamp() -> str:
    """Return now in LABDRIVE's form of a date (known), in UTC (assumed: the samples name no zone)."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _by_name(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}
