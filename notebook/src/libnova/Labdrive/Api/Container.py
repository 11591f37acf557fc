"""Data containers."""

from collections.abc import Iterator
from typing import Any

from libnova.Labdrive.Api import File
from libnova.Labdrive.Api._listing import record

__all__ = ["files", "get"]


def get(container_id: str) -> dict[str, Any]:
    """Return the container as LABDRIVE tells it. Raises `NotFound`, or what a call raises."""
    return record("get_container", container_id=str(container_id))


def files(container_id: str) -> Iterator["File.File"]:
    """Return every file of the container, without its folders."""
    return File.list(container_id)
