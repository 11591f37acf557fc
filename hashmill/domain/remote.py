"""What LABDRIVE says about its files and containers."""

from dataclasses import dataclass
from enum import StrEnum


class RemoteKind(StrEnum):
    """What an item of a container is (known: the two values of the search's `type`)."""

    FILE = "FILE"
    FOLDER = "FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One item of a container.

    `path` is relative to the container: the platform's full path without its one leading slash. `size_bytes` is None
    when the platform does not say. A deleted item may still exist (known: soft delete).
    """

    file_id: str
    container_id: str
    path: str
    size_bytes: int | None
    kind: RemoteKind
    deleted: bool = False
    storage_class_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteContainer:
    """A container, and the storage its objects are in, or None when the platform does not say."""

    container_id: str
    storage_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteMessage:
    """A message of a job as the platform has it; `type` in the platform's own name, None where it does not say."""

    text: str
    type: str | None
    file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePage:
    """A part of a listing; `next_cursor` asks for the part behind it and is None at the end."""

    files: tuple[RemoteFile, ...]
    next_cursor: str | None
