"""One call of a function, or the event a notebook wrote by hand."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from libnova import _progress
from libnova.errors import ApiRejected, EventInvalid
from libnova.Labdrive.Api import Driver, Job, JobMessage
from libnova.Labdrive.Api.File import File
from libnova.Labdrive.Filesystem.S3.Storage import Storage

__all__ = ["Request"]

log = logging.getLogger(__name__)

_BLOCKS = ("labdrive", "function_data")
"""Names of the block that says what the call is about: of today's documentation, and of third-party code."""


class Request:
    """Reads an event and starts the API driver with the user's key (known).

    The event in the file that LIBNOVA_EVENT names wins over the one given: so a notebook with an event written by hand
    is run for other files as it is.
    `Files` are the event's files, `Storage` is where their bytes are, `JSONData` the event itself.
    """

    def __init__(self, context: Any, event: Any) -> None:
        """`event.body` is JSON as text, bytes, or read already; `context` is Nuclio's, or None in a notebook.

        Raises `EventInvalid` for anything else, `SettingMissing` or `KeyMissing` without an address or a key.
        """
        self.context = context
        self.JSONData = _read(event)
        self._block = _block_of(self.JSONData)
        files = _mapping(self._block, "files")
        self.container_id = _id(self._block, "container")
        """Id of the container, or ""."""
        self.job_id = _id(self._block, "job")
        """Id of the execution job, or ""."""
        self.user_id = _id(self._block, "user")
        """Id of the user whose key it is, or ""."""
        self.function_params: Mapping[str, Any] = _mapping(self.JSONData, "function_params")
        """The function's own parameters."""
        self.Files = RequestFiles(
            ids=[str(one) for one in _list(files, "ids")],
            paths=[str(one) for one in _list(files, "paths")],
            container_id=self.container_id,
        )
        self.Storage = Storage(report=self._not_read)
        api = _mapping(self.JSONData, "api")
        Driver.use(Driver.Driver(_text(api, "url"), _text(api, "key_user")))

    def job_init(self) -> None:
        """Give the job the status RUNNING (known)."""
        Job.set_status(self._job("job_init"), Job.JobStatus.RUNNING)

    def log(
        self,
        message: str,
        type: JobMessage.JobMessageType | str = JobMessage.JobMessageType.INFO,
        file_id: str | None = None,
    ) -> None:
        """Write a message to the job, where wanted bound to a file (known)."""
        JobMessage.create(self._job("log"), message, type, file_id)

    def job_end(self, ok: bool) -> None:
        """Give the job its last status: COMPLETED or FAILED (known).

        Raises `ApiRejected` for what is neither true nor false: the text "False" would be COMPLETED.
        """
        if isinstance(ok, str | bytes) or ok not in (True, False):
            raise ApiRejected(f"job_end takes True or False, not {ok!r}")
        Job.set_status(self._job("job_end"), Job.JobStatus.COMPLETED if ok else Job.JobStatus.FAILED)

    def _job(self, what: str) -> str:
        if not self.job_id:
            raise EventInvalid(
                f"{what} needs a job. LABDRIVE makes one for each call of a function; in a notebook write the id of "
                "one that exists as labdrive.job.id into the event."
            )
        return self.job_id

    def _not_read(self, file: File, why: str) -> None:
        """Say in the job that a file was not read: code that only skips it would end as if all were well."""
        if self.job_id:
            self.log(f"File {file.id} was not read: {why}", JobMessage.JobMessageType.ERROR, file.id)


class RequestFiles(Sequence[File]):
    """The files of an event: those named by id, then those named by path. Going through them shows progress."""

    def __init__(self, *, ids: Sequence[str], paths: Sequence[str], container_id: str) -> None:
        """Without repetitions. A path is one of the event's container, with or without a slash at its begin."""
        self._files = [File(id) for id in dict.fromkeys(ids)]
        if paths and not container_id:
            raise EventInvalid("labdrive.files.paths needs labdrive.container.id: paths are those of a container.")
        self._files += [
            File(container_id=container_id, path=path)
            for path in dict.fromkeys(path.removeprefix("/") for path in paths)
        ]

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, at: int) -> File: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[File]: ...
    def __getitem__(self, at: int | slice) -> File | Sequence[File]:
        return self._files[at]

    def __iter__(self) -> Iterator[File]:
        return _progress.over(self._files, total=len(self._files), what="files")


def _read(event: Any) -> Mapping[str, Any]:
    body = getattr(event, "body", event)
    if path := os.environ.get("LIBNOVA_EVENT"):
        try:
            body = Path(path).read_bytes()
        except OSError as error:
            raise EventInvalid(f"LIBNOVA_EVENT names {path}, which cannot be read: {error.strerror}") from error
    if isinstance(body, str | bytes | bytearray):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise EventInvalid(f"The event's body is no JSON: {error}") from error
    if not isinstance(body, Mapping):
        raise EventInvalid(f"An event's body is a JSON object, and this is {type(body).__name__}.")
    return body


def _block_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in _BLOCKS:
        if name in event:
            return _mapping(event, name)
    raise EventInvalid(f"The event has none of the blocks {' and '.join(_BLOCKS)}.")


def _mapping(outer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = outer.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise EventInvalid(f"{name} of the event is no object.")
    return value


def _list(outer: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = outer.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str | int) for one in value):
        raise EventInvalid(f"files.{name} of the event is no list of texts or numbers.")
    return value


def _text(outer: Mapping[str, Any], name: str) -> str:
    value = outer.get(name)
    if value is not None and not isinstance(value, str):
        raise EventInvalid(f"{name} of the event is no text.")
    return value or ""


def _id(block: Mapping[str, Any], name: str) -> str:
    """Return the id of a part of the block. "" and "0" name nothing: hand-made events hold them (known)."""
    value = _mapping(block, name).get("id")
    return "" if value in (None, "", "0", 0) else str(value)
