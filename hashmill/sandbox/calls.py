"""Every call of the API, for tests to count and read."""

from typing import Any, Final

from hashmill.sandbox.database import Database
from hashmill.sandbox.records import CallRecord

_CALL: Final = "SELECT CAST(id AS TEXT) AS id, at_s, method, path, user_id, status, fault, idempotency_key FROM calls"


class Calls:
    """The witness's notebook."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        at_s: float,
        method: str,
        path: str,
        user_id: str,
        status: int | None,
        fault: str,
        idempotency_key: str,
    ) -> None:
        self._database.write(
            "INSERT INTO calls (at_s, method, path, user_id, status, fault, idempotency_key) VALUES (?,?,?,?,?,?,?)",
            (at_s, method, path, user_id, status, fault, idempotency_key),
        )

    def calls(
        self,
        *,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> list[CallRecord]:
        """Return calls in the order they ended. In `path`, `*` stands for any run of characters."""
        where, values = _filter(method, path, status)
        rows = self._database.rows(f"{_CALL} {where} ORDER BY calls.id LIMIT ? OFFSET ?", (*values, limit, offset))
        return [CallRecord(**row) for row in rows]

    def count(self, *, method: str | None = None, path: str | None = None, status: int | None = None) -> int:
        where, values = _filter(method, path, status)
        return self._database.count(f"SELECT count(*) FROM calls {where}", values)  # noqa: S608 - literals only


def _filter(method: str | None, path: str | None, status: int | None) -> tuple[str, list[Any]]:
    asked = [("method=?", method), ("path GLOB ?", path), ("status=?", status)]
    given = [(clause, value) for clause, value in asked if value is not None]
    where = "WHERE " + " AND ".join(clause for clause, _ in given) if given else ""
    return where, [value for _, value in given]
