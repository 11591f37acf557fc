"""
The sandbox's own pages: containers, files with their stored hashes, jobs with their messages.

Rendered here, without scripts except one that keeps the page of a running job fresh.
"""

from collections.abc import Iterable
from html import escape
from typing import Final

from aiohttp import web

from hashmill.sandbox.markup import (
    FOLDER,
    HEADERS,
    ROWS_PER_PAGE,
    Frame,
    badge,
    code_cell,
    facts,
    file_path,
    hashes_cell,
    link_cell,
    number_cell,
    page_of,
    pager,
    section,
    status_cell,
    table,
    text_cell,
)
from hashmill.sandbox.platform import Platform
from hashmill.sandbox.records import JobRecord

JOBS_ON_FRONT: Final = 20

_ASSETS: Final = {"sandbox.css": "text/css", "job.js": "text/javascript", "mark.svg": "image/svg+xml"}


class Pages:
    """Handlers of the pages. They show no key, and ask for none: a sandbox holds made-up data."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._frame = Frame()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.front),
            web.get("/containers/{container_id}", self.container),
            web.get("/containers/{container_id}/file/{file_id}", self.file),
            web.get("/jobs", self.jobs),
            web.get("/jobs/{job_id}", self.job),
            web.get("/page/{asset}", self.asset),
        ]

    async def front(self, _: web.Request) -> web.Response:
        catalog, jobs = self._platform.catalog, self._platform.jobs
        rows = [
            [
                link_cell(f"/containers/{container.id}", container.id),
                link_cell(f"/containers/{container.id}", container.name),
                text_cell(container.description),
                number_cell(catalog.count_files(container.id)),
                number_cell(catalog.size_bytes(container.id)),
                number_cell(jobs.count(container.id)),
            ]
            for container in catalog.containers()
        ]
        heads = ["Id", "Container", "Description", "#Files", "#Bytes", "#Jobs"]
        newest = jobs.jobs(limit=JOBS_ON_FRONT)
        body = (
            section("Data containers", table(heads, rows))
            + section("Newest jobs", self._job_table(newest))
            + (f"<p>{link_cell('/jobs', 'All jobs')}</p>" if jobs.count() > JOBS_ON_FRONT else "")
        )
        return self._frame.page("Sandbox LABDRIVE", [], body)

    async def container(self, request: web.Request) -> web.Response:
        catalog = self._platform.catalog
        container = catalog.container(request.match_info["container_id"])
        if container is None:
            return self._frame.missing("There is no such container.")
        page = page_of(request)
        files = catalog.files(container.id, limit=ROWS_PER_PAGE, offset=(page - 1) * ROWS_PER_PAGE)
        rows = [
            [
                link_cell(file_path(file), file.id),
                link_cell(file_path(file), file.fullpath, name=True),
                number_cell(file.size) if file.type == "FILE" else '<td class="quiet">folder</td>',
                hashes_cell(catalog.hashes(file.id)),
            ]
            for file in files
        ]
        total = catalog.count_files(container.id)
        heads = ["Id", "Path", "#Bytes", "Stored hashes"]
        known = {"Storage": container.storage_id, "Runs on upload": container.on_upload or "nothing"}
        notebooks = f'<p><a href="/containers/{container.id}/notebooks">Notebooks of this container</a></p>'
        body = (
            (f"<p>{escape(container.description)}</p>" if container.description else "")
            + facts(known)
            + notebooks
            + section(f"Files ({total:,})", table(heads, rows) + pager(f"/containers/{container.id}", page, total))
            + section("Jobs", self._job_table(self._platform.jobs.jobs(container_id=container.id, limit=JOBS_ON_FRONT)))
        )
        return self._frame.page(container.name, [("/", "Containers")], body)

    async def file(self, request: web.Request) -> web.Response:
        catalog = self._platform.catalog
        file = catalog.file(request.match_info["file_id"])
        container = catalog.container(request.match_info["container_id"])
        if file is None or container is None or file.container_id != container.id:
            return self._frame.missing("There is no such file.")
        rows = [[text_cell(name), code_cell(digest)] for name, digest in catalog.hashes(file.id).items()]
        known = {
            "Id": file.id,
            "Type": file.type,
            "Bytes": f"{file.size:,}",
            "Media type": file.mime,
            "Deleted": "yes" if file.deleted == "1" else "no",
            "Created": file.date_create,
            "Updated": file.date_update,
            "Tags": ", ".join(catalog.tags(file.id)) or "none",
        }
        entries = [
            [text_cell(entry.iecode), text_cell(entry.value)] for entry in catalog.metadata(container.id, file.id)
        ]
        body = (
            facts(known)
            + section("Stored hashes", table(["Algorithm", "Hash"], rows))
            + section("Metadata", table(["Code", "Value"], entries))
        )
        return self._frame.page(
            file.fullpath, [("/", "Containers"), (f"/containers/{container.id}", container.name)], body
        )

    async def jobs(self, request: web.Request) -> web.Response:
        page = page_of(request)
        jobs = self._platform.jobs.jobs(limit=ROWS_PER_PAGE, offset=(page - 1) * ROWS_PER_PAGE)
        body = self._job_table(jobs) + pager("/jobs", page, self._platform.jobs.count())
        return self._frame.page("Jobs", [("/", "Containers")], body)

    async def job(self, request: web.Request) -> web.Response:
        job = self._platform.jobs.job(request.match_info["job_id"])
        if job is None:
            return self._frame.missing("There is no such job.")
        page = page_of(request)
        messages = self._platform.jobs.messages(job.id, limit=ROWS_PER_PAGE, offset=(page - 1) * ROWS_PER_PAGE)
        container = self._platform.catalog.container(job.container_id)
        rows = []
        for message in messages:
            file = self._platform.catalog.file(message.file_id) if message.file_id else None
            rows.append(
                [
                    text_cell(message.date_create, quiet=True),
                    text_cell(message.type),
                    code_cell(message.message),
                    link_cell(file_path(file), file.fullpath, name=True) if file else text_cell(""),
                ]
            )
        history = [[text_cell(c.date, quiet=True), status_cell(c.status), text_cell(c.reason)] for c in job.history]
        ended = job.status in ("COMPLETED", "FAILED")
        body = (
            f'<p class="state" data-live="{"no" if ended else "yes"}">{badge(job.status)}</p>'
            + section("What it went through", table(["When", "Status", "Reason"], history))
            + section(
                f"Messages ({job.message_count:,})",
                table(["When", "Type", "Message", "File"], rows) + pager(f"/jobs/{job.id}", page, job.message_count),
            )
        )
        above = [("/", "Containers")]
        if container is not None:
            above.append((f"/containers/{container.id}", container.name))
        return self._frame.page(f"Job {job.id} {job.name}".strip(), above, body)

    async def asset(self, request: web.Request) -> web.Response:
        name = request.match_info["asset"]
        if name not in _ASSETS:
            return self._frame.missing("There is no such page.")
        body = (FOLDER / name).read_bytes()
        return web.Response(body=body, content_type=_ASSETS[name], charset="utf-8", headers=HEADERS)

    def _job_table(self, jobs: Iterable[JobRecord]) -> str:
        rows = [
            [
                link_cell(f"/jobs/{job.id}", job.id),
                link_cell(f"/jobs/{job.id}", job.name or "without a name"),
                status_cell(job.status),
                number_cell(job.message_count),
                link_cell(f"/containers/{job.container_id}", job.container_id),
                text_cell(job.date_create, quiet=True),
                text_cell(job.date_update, quiet=True),
            ]
            for job in jobs
        ]
        return table(["Id", "Job", "Status", "#Messages", "Container", "Created", "Updated"], rows)
