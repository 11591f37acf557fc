"""Jobs with every status they took, and their messages."""

from typing import Any, Final

from hashmill.sandbox.database import Database, as_key, stamp
from hashmill.sandbox.records import JobRecord, MessageRecord, StatusChange

# Known: the seed names these three. The status of a job that no function has begun is assumed.
PENDING: Final = "PENDING"
FAILED: Final = "FAILED"
STATUSES: Final = ("RUNNING", "COMPLETED", FAILED)

_JOB: Final = (
    "SELECT CAST(id AS TEXT) AS id, CAST(container_id AS TEXT) AS container_id, user_id, name, status,"
    " date_create, date_update, (SELECT count(*) FROM messages WHERE job_id=jobs.id) AS message_count FROM jobs"
)
_MESSAGE: Final = (
    "SELECT CAST(id AS TEXT) AS id, CAST(job_id AS TEXT) AS job_id, type, message,"
    " CAST(file_id AS TEXT) AS file_id, date_create FROM messages"
)


class Jobs:
    """What LABDRIVE knows of executions. Ids go in and come out as strings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, container_id: str, name: str, *, user_id: str = "") -> str:
        """Return the new job's id; its status is PENDING."""
        now = stamp()
        job = self._database.write(
            "INSERT INTO jobs (container_id, user_id, name, status, date_create, date_update) VALUES (?,?,?,?,?,?)",
            (int(container_id), user_id, name, PENDING, now, now),
        )
        self._add_status(job, PENDING, "", now)
        return str(job)

    def set_status(self, job_id: str, status: str, reason: str = "") -> None:
        """Give the job a status; any may follow any, so that a wrong order is seen and not hidden."""
        now = stamp()
        self._database.write("UPDATE jobs SET status=?, date_update=? WHERE id=?", (status, now, int(job_id)))
        self._add_status(int(job_id), status, reason, now)

    def container_of(self, job_id: str) -> str | None:
        """Return the id of the job's container, or None when there is no such job."""
        row = self._database.row("SELECT container_id FROM jobs WHERE id=?", (as_key(job_id),))
        return str(row["container_id"]) if row else None

    def job(self, job_id: str) -> JobRecord | None:
        row = self._database.row(f"{_JOB} WHERE jobs.id=?", (as_key(job_id),))
        return self._record(row) if row else None

    def jobs(self, *, container_id: str | None = None, limit: int = -1, offset: int = 0) -> list[JobRecord]:
        """Return jobs, of one container or of all, newest first; a negative `limit` means all."""
        where = "WHERE ? IS NULL OR jobs.container_id=? ORDER BY jobs.id DESC LIMIT ? OFFSET ?"
        rows = self._database.rows(f"{_JOB} {where}", (container_id, as_key(container_id), limit, offset))
        return [self._record(row) for row in rows]

    def count(self, container_id: str | None = None) -> int:
        sql = "SELECT count(*) FROM jobs WHERE ? IS NULL OR container_id=?"
        return self._database.count(sql, (container_id, as_key(container_id)))

    def add_message(self, job_id: str, *, type: str, message: str, file_id: str | None) -> str:
        """Return the new message's id."""
        sql = "INSERT INTO messages (job_id, type, message, file_id, date_create) VALUES (?,?,?,?,?)"
        return str(self._database.write(sql, (int(job_id), type, message, as_key(file_id), stamp())))

    def messages(self, job_id: str, *, limit: int = -1, offset: int = 0) -> list[MessageRecord]:
        """Return a job's messages, oldest first; a negative `limit` means all."""
        where = "WHERE messages.job_id=? ORDER BY messages.id LIMIT ? OFFSET ?"
        rows = self._database.rows(f"{_MESSAGE} {where}", (as_key(job_id), limit, offset))
        return [MessageRecord(**row) for row in rows]

    def _add_status(self, job: int, status: str, reason: str, now: str) -> None:
        sql = "INSERT INTO job_statuses (job_id, status, reason, date) VALUES (?,?,?,?)"
        self._database.write(sql, (job, status, reason, now))

    def _record(self, row: dict[str, Any]) -> JobRecord:
        sql = "SELECT status, reason, date FROM job_statuses WHERE job_id=? ORDER BY id"
        changes = self._database.rows(sql, (int(row["id"]),))
        return JobRecord(**row, history=tuple(StatusChange(**change) for change in changes))
