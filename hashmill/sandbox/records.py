"""What the sandbox knows, as tests and pages read it. Ids are strings, as LABDRIVE's answers show them (known)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """One data container. Dates here and below are UTC, in LABDRIVE's form `2021-06-08 11:01:00.089657` (known)."""

    id: str
    name: str
    description: str
    storage_id: str
    on_upload: str
    creator: str
    date_create: str
    date_update: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file or folder. `fullpath` begins with one slash that is not part of the object's key."""

    id: str
    container_id: str
    parent: str | None
    filename: str
    fullpath: str
    deleted: str
    size: int
    type: str
    format: str
    mime: str
    date_create: str
    date_update: str
    storage_class_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """One status a job took, why if the sandbox knows, and when."""

    status: str
    reason: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job with every status it ever took, oldest first."""

    id: str
    container_id: str
    user_id: str
    name: str
    status: str
    date_create: str
    date_update: str
    history: tuple[StatusChange, ...]
    message_count: int

    @property
    def statuses(self) -> list[str]:
        """The names of the statuses in the order they were taken."""
        return [change.status for change in self.history]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """One job message, bound to a file or not."""

    id: str
    job_id: str
    type: str
    message: str
    file_id: str | None
    date_create: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataRecord:
    """One metadata value of a container (`file_id` is None) or of a file."""

    id: str
    container_id: str
    file_id: str | None
    iecode: str
    value: str
    creator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call of the API. `status` is None when no answer was given; `fault` names the fault that met it, or is "".

    `user_id` is "" when the key was unknown; the key itself is never kept.
    """

    id: str
    at_s: float
    method: str
    path: str
    user_id: str
    status: int | None
    fault: str
    idempotency_key: str
