"""Messages of a job, bound to a file or not."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from libnova import _table
from libnova.errors import ApiRejected
from libnova.Labdrive.Api import Driver
from libnova.Labdrive.Api._listing import pages

__all__ = ["JobMessageType", "create", "list"]


class JobMessageType(StrEnum):
    """The kinds of message. INFO is known; the vendor's list has others, whose names are assumed (`labdrive.toml`)."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def create(
    job_id: str, message: str, type: JobMessageType | str = JobMessageType.INFO, file_id: str | None = None
) -> None:
    """Write a message.

    Raises `ApiRejected` for a type that is none, `NotFound` for a job or file that is not there, or what a call raises.
    """
    if type not in [*JobMessageType]:
        raise ApiRejected(f"a message's type is one of {', '.join(JobMessageType)}, not {type!r}")
    Driver.current().call(
        "create_message",
        job_id=str(job_id),
        text=str(message),
        level=str(type),
        type=_table.table().value(f"message_types.{type}"),
        file_id=None if file_id is None else str(file_id),
    )


def list(job_id: str) -> Iterator[dict[str, Any]]:
    """Return the messages of a job, oldest first. Raises `NotFound`, or what a call raises."""
    return pages("list_messages", job_id=str(job_id))
