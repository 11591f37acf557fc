"""Execution jobs: what a function runs in relation to, and logs its progress to."""

from enum import StrEnum
from typing import Any

from libnova import _table
from libnova.errors import ApiRejected
from libnova.Labdrive.Api import Driver
from libnova.Labdrive.Api._listing import record

__all__ = ["JobStatus", "get", "set_status"]


class JobStatus(StrEnum):
    """The statuses a function gives its job (known)."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


def get(job_id: str) -> dict[str, Any]:
    """Return the job as LABDRIVE tells it. Raises `NotFound`, or what a call raises."""
    return record("get_job", job_id=str(job_id))


def set_status(job_id: str, status: JobStatus | str) -> None:
    """Give the job a status. Raises `ApiRejected` for one that is none, `NotFound`, or what a call raises."""
    if status not in list(JobStatus):
        raise ApiRejected(f"a job's status is one of {', '.join(JobStatus)}, not {status!r}")
    name = _table.table().value(f"status.{status}")
    Driver.current().call("set_job_status", job_id=str(job_id), level=str(status), status=name)
