"""Execution jobs: what a function runs in relation to, and logs its progress to."""

from enum import StrEnum
from typing import Any

from libnova import _table
from libnova.Labdrive.Api import Driver

__all__ = ["JobStatus", "get", "set_status"]


class JobStatus(StrEnum):
    """The statuses a function gives its job (known)."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


def get(job_id: str) -> dict[str, Any]:
    """Return the job as LABDRIVE tells it. Raises `NotFound`, or what a call raises."""
    found: dict[str, Any] = Driver.current().call("get_job", job_id=str(job_id))
    return found


def set_status(job_id: str, status: JobStatus) -> None:
    """Give the job a status. Raises `NotFound`, or what a call raises."""
    name = _table.table().value(f"status.{JobStatus(status)}")
    Driver.current().call("set_job_status", job_id=str(job_id), level=str(JobStatus(status)), status=name)
