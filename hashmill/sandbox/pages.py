"""
The sandbox's own pages: containers, files with their stored hashes, jobs with their messages.

Rendered here, without scripts except one that keeps the page of a running job fresh. Every text that came from
outside passes `escape`, once, in the function that writes it.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

from aiohttp import web

from hashmill.sandbox.platform import Platform
from hashmill.sandbox.records import FileRecord, JobRecord

ROWS_PER_PAGE: Final = 100
JOBS_ON_FRONT: Final = 20

_FOLDER: Final = Path(__file__).parent / "page"
_ASSETS: Final = {"sandbox.css": "text/css", "job.js": "text/javascript", "mark.svg": "image/svg+xml"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Pages:
    """Handlers of the pages. They show no key, and ask for none: a sandbox holds made-up data."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._frame = (_FOLDER / "frame.html").read_text(encoding="utf-8")

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
                _link(f"/containers/{container.id}", container.id),
                _link(f"/containers/{container.id}", container.name),
                _text(container.description),
                _number(catalog.count_files(container.id)),
                _number(catalog.size_bytes(container.id)),
                _number(jobs.count(container.id)),
            ]
            for container in catalog.containers()
        ]
        heads = ["Id", "Container", "Description", "#Files", "#Bytes", "#Jobs"]
        newest = jobs.jobs(limit=JOBS_ON_FRONT)
        body = (
            _section("Data containers", _table(heads, rows))
            + _section("Newest jobs", self._job_table(newest))
            + (f"<p>{_link('/jobs', 'All jobs')}</p>" if jobs.count() > JOBS_ON_FRONT else "")
        )
        return self._page("Sandbox LABDRIVE", [], body)

    async def container(self, request: web.Request) -> web.Response:
        catalog = self._platform.catalog
        container = catalog.container(request.match_info["container_id"])
        if container is None:
            return self._missing("There is no such container.")
        page = _page_of(request)
        files = catalog.files(container.id, limit=ROWS_PER_PAGE, offset=(page - 1) * ROWS_PER_PAGE)
        rows = [
            [
                _link(_file_path(file), file.id),
                _link(_file_path(file), file.fullpath, name=True),
                _number(file.size) if file.type == "FILE" else '<td class="quiet">folder</td>',
                _hash_list(catalog.hashes(file.id)),
            ]
            for file in files
        ]
        total = catalog.count_files(container.id)
        heads = ["Id", "Path", "#Bytes", "Stored hashes"]
        facts = {"Storage": container.storage_id, "Runs on upload": container.on_upload or "nothing"}
        body = (
            (f"<p>{escape(container.description)}</p>" if container.description else "")
            + _facts(facts)
            + _section(f"Files ({total:,})", _table(heads, rows) + _pager(f"/containers/{container.id}", page, total))
            + _section(
                "Jobs", self._job_table(self._platform.jobs.jobs(container_id=container.id, limit=JOBS_ON_FRONT))
            )
        )
        return self._page(container.name, [("/", "Containers")], body)

    async def file(self, request: web.Request) -> web.Response:
        catalog = self._platform.catalog
        file = catalog.file(request.match_info["file_id"])
        container = catalog.container(request.match_info["container_id"])
        if file is None or container is None or file.container_id != container.id:
            return self._missing("There is no such file.")
        rows = [[_text(name), _code(digest)] for name, digest in catalog.hashes(file.id).items()]
        facts = {
            "Id": file.id,
            "Type": file.type,
            "Bytes": f"{file.size:,}",
            "Media type": file.mime,
            "Deleted": "yes" if file.deleted == "1" else "no",
            "Created": file.date_create,
            "Updated": file.date_update,
            "Tags": ", ".join(catalog.tags(file.id)) or "none",
        }
        entries = [[_text(entry.iecode), _text(entry.value)] for entry in catalog.metadata(container.id, file.id)]
        body = (
            _facts(facts)
            + _section("Stored hashes", _table(["Algorithm", "Hash"], rows))
            + _section("Metadata", _table(["Code", "Value"], entries))
        )
        return self._page(file.fullpath, [("/", "Containers"), (f"/containers/{container.id}", container.name)], body)

    async def jobs(self, request: web.Request) -> web.Response:
        page = _page_of(request)
        jobs = self._platform.jobs.jobs(limit=ROWS_PER_PAGE, offset=(page - 1) * ROWS_PER_PAGE)
        body = self._job_table(jobs) + _pager("/jobs", page, self._platform.jobs.count())
        return self._page("Jobs", [("/", "Containers")], body)

    async def job(self, request: web.Request) -> web.Response:
        job = self._platform.jobs.job(request.match_info["job_id"])
        if job is None:
            return self._missing("There is no such job.")
        page = _page_of(request)
        messages = self._platform.jobs.messages(job.id, limit=ROWS_PER_PAGE, offset=(page - 1) * ROWS_PER_PAGE)
        container = self._platform.catalog.container(job.container_id)
        rows = []
        for message in messages:
            file = self._platform.catalog.file(message.file_id) if message.file_id else None
            rows.append(
                [
                    _text(message.date_create, quiet=True),
                    _text(message.type),
                    _code(message.message),
                    _link(_file_path(file), file.fullpath, name=True) if file else _text(""),
                ]
            )
        history = [[_text(c.date, quiet=True), _status(c.status), _text(c.reason)] for c in job.history]
        ended = job.status in ("COMPLETED", "FAILED")
        body = (
            f'<p class="state" data-live="{"no" if ended else "yes"}">{_badge(job.status)}</p>'
            + _section("What it went through", _table(["When", "Status", "Reason"], history))
            + _section(
                f"Messages ({job.message_count:,})",
                _table(["When", "Type", "Message", "File"], rows) + _pager(f"/jobs/{job.id}", page, job.message_count),
            )
        )
        above = [("/", "Containers")]
        if container is not None:
            above.append((f"/containers/{container.id}", container.name))
        return self._page(f"Job {job.id} {job.name}".strip(), above, body)

    async def asset(self, request: web.Request) -> web.Response:
        name = request.match_info["asset"]
        if name not in _ASSETS:
            return self._missing("There is no such page.")
        body = (_FOLDER / name).read_bytes()
        return web.Response(body=body, content_type=_ASSETS[name], charset="utf-8", headers=_HEADERS)

    def _job_table(self, jobs: Iterable[JobRecord]) -> str:
        rows = [
            [
                _link(f"/jobs/{job.id}", job.id),
                _link(f"/jobs/{job.id}", job.name or "without a name"),
                _status(job.status),
                _number(job.message_count),
                _link(f"/containers/{job.container_id}", job.container_id),
                _text(job.date_create, quiet=True),
                _text(job.date_update, quiet=True),
            ]
            for job in jobs
        ]
        return _table(["Id", "Job", "Status", "#Messages", "Container", "Created", "Updated"], rows)

    def _page(self, title: str, above: list[tuple[str, str]], body: str, *, status: int = 200) -> web.Response:
        trail = "".join(f'<a href="{escape(path)}"><bdi>{escape(name)}</bdi></a> <i>/</i> ' for path, name in above)
        text = self._frame.format(title=escape(title), trail=trail, body=body)
        return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)

    def _missing(self, message: str) -> web.Response:
        return self._page("Not found", [("/", "Containers")], f"<p>{escape(message)}</p>", status=404)


def _page_of(request: web.Request) -> int:
    """Return the page asked for, from 1 on; what is no number asks for the first."""
    asked = request.query.get("page", "")
    return max(1, int(asked)) if asked.isascii() and asked.isdigit() and len(asked) <= 9 else 1


def _file_path(file: FileRecord) -> str:
    return f"/containers/{file.container_id}/file/{file.id}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table; a head that begins with `#` stands over numbers, and a cell is a whole `<td>`."""
    if not rows:
        return '<p class="quiet">Nothing here yet.</p>'
    head = "".join(f'<th class="number">{h[1:]}</th>' if h.startswith("#") else f"<th>{h}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _facts(facts: dict[str, str]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f"<dl>{pairs}</dl>"


def _text(text: str, *, quiet: bool = False) -> str:
    return f'<td class="quiet">{escape(text)}</td>' if quiet else f"<td>{escape(text)}</td>"


def _code(text: str) -> str:
    return f"<td><code>{escape(text)}</code></td>"


def _number(number: int) -> str:
    return f'<td class="number">{number:,}</td>'


def _link(path: str, text: str, *, name: bool = False) -> str:
    inner = f'<bdi class="name">{escape(text)}</bdi>' if name else escape(text)
    return f'<td><a href="{escape(path)}">{inner}</a></td>'


def _badge(status: str) -> str:
    return f'<span class="badge" data-status="{escape(status)}">{escape(status)}</span>'


def _status(status: str) -> str:
    return f"<td>{_badge(status)}</td>"


def _hash_list(hashes: dict[str, str]) -> str:
    lines = "".join(f"<li><b>{escape(name)}</b> <code>{escape(digest)}</code></li>" for name, digest in hashes.items())
    return f"<td><ul>{lines}</ul></td>" if lines else '<td class="quiet">none</td>'


def _pager(path: str, page: int, total: int) -> str:
    last = max(1, -(-total // ROWS_PER_PAGE))
    if last == 1:
        return ""
    before = f'<a rel="prev" href="{path}?page={page - 1}">Earlier</a>' if page > 1 else ""
    after = f'<a rel="next" href="{path}?page={page + 1}">Later</a>' if page < last else ""
    return f'<nav class="pager">{before}<span>Page {page:,} of {last:,}</span>{after}</nav>'
