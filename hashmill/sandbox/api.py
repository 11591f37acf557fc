"""
The platform's routes, below `/api`.

Known, seen in third-party code, or assumed: each route says which. Where nothing is public, this is our own design,
the same one the client's table of paths assumes.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from hashmill.sandbox.envelope import (
    Refused,
    file_result,
    id_of,
    job_result,
    read_fields,
    success,
    text_of,
    window_of,
)
from hashmill.sandbox.gate import USER
from hashmill.sandbox.jobs import STATUSES
from hashmill.sandbox.platform import Platform
from hashmill.sandbox.records import ContainerRecord, FileRecord

BY_PATH: Final = "/file/path/"


class Api:
    """Handlers of the API. The gate has checked the key; rights to one container are checked here."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def routes(self) -> list[web.RouteDef]:
        container, file, job = "/api/container/{container_id}", "/api/file/{file_id}", "/api/job/{job_id}"
        return [
            web.post("/api/container", self.create_container),  # known
            web.get(container, self.show_container),  # inferred
            web.put(container + "/metadata", self.set_container_metadata),  # seen in third-party code
            web.get(container + "/metadata", self.show_container_metadata),  # assumed
            web.post(container + "/folder", self.create_folder),  # seen in third-party code
            web.post(container + "/file/upload", self.upload),  # seen in third-party code; chunkCount is ours
            web.get(container + "/file/list", self.list_files),  # seen in third-party code; paging assumed
            web.get(container + BY_PATH + r"{path:[\s\S]*}", self.show_file_by_path),  # seen in third-party code
            web.get(file, self.show_file),  # assumed
            web.get(file + "/metadata", self.show_file_metadata),  # shape known, path assumed
            web.put(file + "/metadata", self.set_file_metadata),  # assumed
            web.get(file + "/hash", self.show_hashes),  # assumed
            web.put(file + "/hash", self.set_hash),  # assumed
            web.post(file + "/tag/{tag_id}", self.tag_file),  # path known, method assumed
            web.put(file + "/tag/{tag_id}", self.tag_file),  # path known, method assumed
            web.post("/api/job", self.create_job),  # assumed
            web.get(job, self.show_job),  # assumed
            web.put(job, self.set_job_status),  # assumed
            web.post(job + "/message", self.create_message),  # assumed
            web.get(job + "/message", self.list_messages),  # assumed
            web.post("/api/function/{key}/run", self.run_function),  # existence known, path assumed
        ]

    # Containers

    async def create_container(self, request: web.Request) -> web.Response:
        fields = await read_fields(request)
        storage_id = id_of(fields, "storage_id", self._platform.config.storages[0].id)
        if storage_id not in self._platform.objects:
            raise Refused(422, f"there is no storage {storage_id}")
        on_upload = text_of(fields, "on_upload", "")
        if on_upload:
            self._platform.function(on_upload)
        container_id = self._platform.catalog.add_container(
            name=text_of(fields, "name"),
            description=text_of(fields, "description", ""),
            storage_id=storage_id,
            on_upload=on_upload,
            creator=request[USER].id,
        )
        return success(asdict(self._platform.container(request[USER], container_id)))

    async def show_container(self, request: web.Request) -> web.Response:
        return success(asdict(self._container(request)))

    async def set_container_metadata(self, request: web.Request) -> web.Response:
        container = self._container(request)
        return success(await self._write_metadata(request, container.id, None))

    async def show_container_metadata(self, request: web.Request) -> web.Response:
        return success(self._metadata(self._container(request).id, None))

    async def create_folder(self, request: web.Request) -> web.Response:
        container = self._container(request)
        fullpath = "/" + text_of(await read_fields(request), "path").removeprefix("/").rstrip("/")
        if fullpath == "/":
            raise Refused(422, "path names no folder")
        existing = self._platform.catalog.file_at(container.id, fullpath)
        if existing and existing.type == "FOLDER":
            raise Refused(409, "the folder exists already")
        folder = self._platform.catalog.file(self._platform.catalog.add_folder(container.id, fullpath))
        return success(folder and file_result(folder))

    async def upload(self, request: web.Request) -> web.Response:
        """Answer with the file once it is whole, before that with how far it came."""
        container = self._container(request)
        chunk = await self._platform.uploads.receive(request)
        file = await self._platform.store(request[USER], container, chunk)
        if file is None:
            return success({"chunkIndex": chunk.index, "chunkCount": chunk.count, "complete": False})
        return success(file_result(file))

    # Files

    async def list_files(self, request: web.Request) -> web.Response:
        container = self._container(request)
        return success([file_result(file) for file in self._platform.catalog.files(container.id, **window_of(request))])

    async def show_file_by_path(self, request: web.Request) -> web.Response:
        container = self._container(request)
        # From the path as it was sent: a router may fold "//", and a percent sign must be decoded exactly once.
        sent = request.rel_url.raw_path.partition(BY_PATH)[2]
        file = self._platform.catalog.file_at(container.id, "/" + unquote(sent))
        if file is None:
            raise Refused(404, "there is no file at this path")
        return success(file_result(file))

    async def show_file(self, request: web.Request) -> web.Response:
        return success(file_result(self._file(request)))

    async def show_file_metadata(self, request: web.Request) -> web.Response:
        file = self._file(request)
        return success(self._metadata(file.container_id, file.id))

    async def set_file_metadata(self, request: web.Request) -> web.Response:
        file = self._file(request)
        return success(await self._write_metadata(request, file.container_id, file.id))

    async def show_hashes(self, request: web.Request) -> web.Response:
        return success(self._platform.catalog.hashes(self._file(request).id))

    async def set_hash(self, request: web.Request) -> web.Response:
        file = self._file(request)
        fields = await read_fields(request)
        algorithm, digest = text_of(fields, "algorithm"), text_of(fields, "hash")
        self._platform.catalog.set_hash(file.id, algorithm, digest)
        return success({"file_id": file.id, "algorithm": algorithm, "hash": digest})

    async def tag_file(self, request: web.Request) -> web.Response:
        file = self._file(request)
        self._platform.catalog.tag(file.id, request.match_info["tag_id"])
        return success({"file_id": file.id, "tags": self._platform.catalog.tags(file.id)})

    # Jobs

    async def create_job(self, request: web.Request) -> web.Response:
        fields = await read_fields(request)
        container = self._platform.container(request[USER], id_of(fields, "container_id"))
        job_id = self._platform.jobs.add(container.id, text_of(fields, "name", ""), user_id=request[USER].id)
        return self._job_answer(job_id)

    async def show_job(self, request: web.Request) -> web.Response:
        return self._job_answer(self._job_id(request))

    async def set_job_status(self, request: web.Request) -> web.Response:
        job_id = self._job_id(request)
        status = text_of(await read_fields(request), "status")
        if status not in STATUSES:
            raise Refused(422, f"status is one of {', '.join(STATUSES)}")
        self._platform.jobs.set_status(job_id, status)
        return self._job_answer(job_id)

    async def create_message(self, request: web.Request) -> web.Response:
        job_id = self._job_id(request)
        fields = await read_fields(request)
        file_id = id_of(fields, "file_id") if fields.get("file_id") is not None else None
        if file_id is not None:
            self._platform.file(request[USER], file_id)
        message_id = self._platform.jobs.add_message(
            job_id, type=text_of(fields, "type", "INFO"), message=text_of(fields, "message"), file_id=file_id
        )
        return success({"id": message_id})

    async def list_messages(self, request: web.Request) -> web.Response:
        messages = self._platform.jobs.messages(self._job_id(request), **window_of(request))
        return success([asdict(message) for message in messages])

    # Functions

    async def run_function(self, request: web.Request) -> web.Response:
        """Run a function: `container_id`, and where wanted `files` {`ids`, `paths`} and `function_params`.

        200 when the intake took the event, else 502; `result` names the job and the intake's answer both times.
        """
        function = self._platform.function(request.match_info["key"])
        fields = await read_fields(request)
        container = self._platform.container(request[USER], id_of(fields, "container_id"))
        files, params = _object_of(fields, "files"), _object_of(fields, "function_params")
        triggered = await self._platform.triggers.run(
            function,
            user=request[USER],
            container_id=container.id,
            file_ids=[id_of({"files.ids": item}, "files.ids") for item in _list_of(files, "ids")],
            file_paths=[text_of({"files.paths": item}, "files.paths") for item in _list_of(files, "paths")],
            params=params,
        )
        result = {
            "job_id": triggered.job_id,
            "intake": {"accepted": triggered.accepted, "status": triggered.status, "answer": triggered.answer},
        }
        if not triggered.accepted:
            raise Refused(502, "the function did not take the event", result)
        return success(result)

    # What several handlers need

    def _container(self, request: web.Request) -> ContainerRecord:
        return self._platform.container(request[USER], request.match_info["container_id"])

    def _file(self, request: web.Request) -> FileRecord:
        return self._platform.file(request[USER], request.match_info["file_id"])

    def _job_id(self, request: web.Request) -> str:
        return self._platform.job_id(request[USER], request.match_info["job_id"])

    def _job_answer(self, job_id: str) -> web.Response:
        job = self._platform.jobs.job(job_id)
        return success(job and job_result(job))

    def _metadata(self, container_id: str, file_id: str | None) -> list[dict[str, Any]]:
        return [asdict(entry) | {"linked": None} for entry in self._platform.catalog.metadata(container_id, file_id)]

    async def _write_metadata(self, request: web.Request, container_id: str, file_id: str | None) -> list[Any]:
        for entry in _list_of(await read_fields(request), "metadata"):
            if not isinstance(entry, dict):
                raise Refused(422, "metadata is a list of objects")
            self._platform.catalog.set_metadata(
                container_id,
                file_id,
                iecode=text_of(entry, "iecode"),
                value=text_of(entry, "value", ""),
                replace=text_of(entry, "action", "replace") == "replace",
                creator=request[USER].id,
            )
        return self._metadata(container_id, file_id)


def _object_of(fields: Any, name: str) -> dict[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise Refused(422, f"{name} must be an object")
    return value


def _list_of(fields: Any, name: str) -> Sequence[Any]:
    value = fields.get(name) or []
    if not isinstance(value, list):
        raise Refused(422, f"{name} must be a list")
    return value
