"""Files: what LABDRIVE knows of them, their metadata and their hashes."""

import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, overload

from libnova import _table
from libnova.errors import AnswerUnreadable, ApiRejected
from libnova.Labdrive.Api import Driver
from libnova.Labdrive.Api._listing import pages, record

__all__ = [
    "File",
    "get",
    "get_by_path",
    "get_hash",
    "get_metadata",
    "list",
    "set_hash",
    "set_metadata",
    "set_metadata_values",
]


class File:
    """One file. Of a file that was named by its id LABDRIVE is asked only when more than the id is wanted."""

    def __init__(
        self, id: str = "", *, record: Mapping[str, Any] | None = None, container_id: str = "", path: str = ""
    ) -> None:
        """By its `id`, by `container_id` and `path`, or as LABDRIVE told it (`record`)."""
        self._id = str(id)
        self._path = path
        self._container_id = str(container_id)
        if record is not None:
            self.__dict__["record"] = record

    def __repr__(self) -> str:
        """Return what named it."""
        return f"File({self._id!r})" if self._id else f"File(path={self._path!r})"

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The file as LABDRIVE tells it. Raises `NotFound`, or what a call raises."""
        if self._id:
            return record("get_file", file_id=self._id)
        return record("get_file_by_path", container_id=self._container_id, path=self._path)

    @property
    def id(self) -> str:
        """The file's id, as text (known)."""
        return self._id or self._needed("id")

    @property
    def container_id(self) -> str:
        """The id of its container."""
        return self._field("container_id") or self._container_id or self._needed("container_id")

    @property
    def path(self) -> str:
        """The path within the container, without a slash at its begin."""
        return self._needed("path").removeprefix("/")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def size_bytes(self) -> int | None:
        """The size that LABDRIVE knows; None where it says none."""
        size = self._field("size")
        return int(size) if size.isascii() and size.isdigit() else None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, which has no bytes."""
        return self._field("type") == _table.table().value("item_types.FOLDER")

    def _needed(self, name: str) -> str:
        """Return a field without which a file is none. Raises `AnswerUnreadable` when LABDRIVE told none."""
        if not (value := self._field(name)):
            field = _table.table().value(f"file.{name}")
            raise AnswerUnreadable(f"LABDRIVE told of a file without {field!r}. Correct [file] in labdrive.toml.")
        return value

    def _field(self, name: str) -> str:
        value: Any = self.record
        for part in _table.table().value(f"file.{name}").split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return "" if value is None else str(value)


def get(file_id: str) -> File:
    """Return the file of that id. Raises `NotFound`, or what a call raises."""
    file = File(file_id)
    _ = file.path
    return file


def get_by_path(container_id: str, path: str) -> File:
    """Return the file at a path of a container. Raises `NotFound`, or what a call raises."""
    file = File(container_id=container_id, path=path)
    _ = file.id
    return file


def list(container_id: str) -> Iterator[File]:
    """Return every file of a container, without its folders. Raises `NotFound`, or what a call raises."""
    for told in pages("list_files", container_id=str(container_id)):
        file = File(record=told, container_id=container_id)
        if not file.is_folder:
            yield file


@overload
def get_metadata(file_id: str, flatten: Literal[True]) -> dict[str, Any] | None: ...
@overload
def get_metadata(file_id: str, flatten: Literal[False] = False) -> builtins.list[dict[str, Any]] | None: ...
def get_metadata(file_id: str, flatten: bool = False) -> Any:
    """Return the file's metadata as LABDRIVE tells it, or None when it has none (known).

    With `flatten` it is one value for each `iecode`, or a list where there are several (assumed: what is flattened).
    Raises `NotFound` for an unknown file, or what a call raises.
    """
    entries = Driver.current().call("get_metadata", file_id=str(file_id))
    if not entries:
        return None
    if not isinstance(entries, builtins.list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise AnswerUnreadable(
            "the call get_metadata gave no list of objects. Correct [calls.get_metadata] in labdrive.toml."
        )
    if not flatten:
        return entries
    values: dict[str, builtins.list[Any]] = {}
    for entry in entries:
        values.setdefault(str(entry.get("iecode")), []).append(entry.get("value"))
    return {code: several[0] if len(several) == 1 else several for code, several in values.items()}


def set_metadata(file_id: str, metadata: str | Mapping[str, Any]) -> None:
    """Write metadata: `{"metadata": [{"iecode": ..., "value": ...}]}`, as JSON text (seen) or as it is.

    Raises `ApiRejected` for another shape, `NotFound`, or what a call raises.
    """
    given = _parsed(metadata)
    entries = given.get("metadata") if isinstance(given, Mapping) else None
    if not _are_entries(entries):
        raise ApiRejected('set_metadata takes {"metadata": [{"iecode": ..., "value": ...}]}')
    Driver.current().call("set_metadata", file_id=str(file_id), metadata=entries)


def set_metadata_values(file_id: str, values: str | Sequence[Mapping[str, Any]]) -> None:
    """Write metadata of several values: `[{"iecode": ..., "value": [...]}]`, as JSON text (seen) or as it is.

    The first value of a code replaces what was there, the others join it (assumed). No value at all is refused: how
    LABDRIVE takes values away is not known. Raises what `set_metadata` raises.
    """
    entries = _parsed(values)
    if not _are_entries(entries) or any(entry["value"] in ([], ()) for entry in entries):
        raise ApiRejected('set_metadata_values takes [{"iecode": ..., "value": [...]}] with one value or more')
    each = [
        {"iecode": entry["iecode"], "value": value, "action": "replace" if first else "add"}
        for entry in entries
        for first, value in _marked(entry["value"])
    ]
    Driver.current().call("set_metadata", file_id=str(file_id), metadata=each)


def set_hash(file_id: str, algorithm: str, hexdigest: str) -> None:
    """Store a hash in LABDRIVE; one call for each algorithm (known), one more for the same replaces (assumed).

    Raises `ApiRejected` for what is no text, `NotFound` for an unknown file, or what a call raises.
    """
    if not isinstance(algorithm, str) or not isinstance(hexdigest, str):
        raise ApiRejected("set_hash takes the algorithm's name and the digest as text: hexdigest(), not digest()")
    Driver.current().call("set_hash", file_id=str(file_id), algorithm=algorithm, hexdigest=hexdigest)


@overload
def get_hash(file_id: str, algorithm: None = None) -> dict[str, Any]: ...
@overload
def get_hash(file_id: str, algorithm: str) -> str | None: ...
def get_hash(file_id: str, algorithm: str | None = None) -> Any:
    """Return the stored hash of an algorithm, or None; without an algorithm all of them, by name (assumed).

    Raises `NotFound` for an unknown file, or what a call raises.
    """
    hashes = record("get_hashes", file_id=str(file_id))
    return hashes if algorithm is None else hashes.get(algorithm)


def _are_entries(given: Any) -> bool:
    return isinstance(given, builtins.list | tuple) and all(
        isinstance(entry, Mapping) and {"iecode", "value"} <= entry.keys() for entry in given
    )


def _parsed(given: Any) -> Any:
    try:
        return json.loads(given) if isinstance(given, str | bytes) else given
    except ValueError as error:
        raise ApiRejected(f"metadata is no JSON: {error}") from error


def _marked(value: Any) -> Iterator[tuple[bool, Any]]:
    """Return each value with whether it is the first."""
    values = value if isinstance(value, builtins.list | tuple) else (value,)
    return ((not at, each) for at, each in enumerate(values))
