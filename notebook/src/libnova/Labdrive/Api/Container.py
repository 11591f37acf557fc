"""Data containers."""

from collections.abc import Iterator
from typing import Any

from libnova.Labdrive.Api import Driver, File

__all__ = ["files", "get"]


def get(container_id: str) -> dict[str, Any]:
    """Return the container as LABDRIVE tells it. Raises `NotFound`, or what a call raises."""
    found: dict[str, Any] = Driver.current().call("get_container", container_id=str(container_id))
    return found


def files(container_id: str) -> Iterator["File.File"]:
    """Return every file of the container, without its folders."""
    return File.list(container_id)
