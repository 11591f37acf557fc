"""
The pieces that the sandbox's pages are made of.

Every text that came from outside passes `escape`, once, in the function that writes it. A function named `…_cell`
returns a whole `<td>`.
"""

from html import escape
from pathlib import Path
from typing import Final

from aiohttp import web

from hashmill.sandbox.records import FileRecord

ROWS_PER_PAGE: Final = 100
FOLDER: Final = Path(__file__).parent / "page"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Frame:
    """What stands around every page, and the headers it goes out with."""

    def __init__(self) -> None:
        self._html = (FOLDER / "frame.html").read_text(encoding="utf-8")

    def page(self, title: str, above: list[tuple[str, str]], body: str, *, status: int = 200) -> web.Response:
        """Return a page; `above` are the addresses and names of what it belongs to."""
        trail = "".join(f'<a href="{escape(path)}"><bdi>{escape(name)}</bdi></a> <i>/</i> ' for path, name in above)
        html = self._html.format(title=escape(title), trail=trail, body=body)
        return web.Response(text=html, status=status, content_type="text/html", headers=HEADERS)

    def missing(self, message: str) -> web.Response:
        """Return the page of what is not there."""
        return self.page("Not found", [("/", "Containers")], f"<p>{escape(message)}</p>", status=404)


def page_of(request: web.Request) -> int:
    """Return the page asked for, from 1 on; what is no number asks for the first."""
    asked = request.query.get("page", "")
    return max(1, int(asked)) if asked.isascii() and asked.isdigit() and len(asked) <= 9 else 1


def file_path(file: FileRecord) -> str:
    return f"/containers/{file.container_id}/file/{file.id}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table; a head that begins with `#` stands over numbers, and a cell is a whole `<td>`."""
    if not rows:
        return '<p class="quiet">Nothing here yet.</p>'
    head = "".join(f'<th class="number">{h[1:]}</th>' if h.startswith("#") else f"<th>{h}</th>" for h in heads)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def facts(facts: dict[str, str]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f"<dl>{pairs}</dl>"


def text_cell(text: str, *, quiet: bool = False) -> str:
    return f'<td class="quiet">{escape(text)}</td>' if quiet else f"<td>{escape(text)}</td>"


def code_cell(text: str) -> str:
    return f"<td><code>{escape(text)}</code></td>"


def number_cell(number: int) -> str:
    return f'<td class="number">{number:,}</td>'


def link_cell(path: str, text: str, *, name: bool = False) -> str:
    inner = f'<bdi class="name">{escape(text)}</bdi>' if name else escape(text)
    return f'<td><a href="{escape(path)}">{inner}</a></td>'


def badge(status: str) -> str:
    return f'<span class="badge" data-status="{escape(status)}">{escape(status)}</span>'


def status_cell(status: str) -> str:
    return f"<td>{badge(status)}</td>"


def hashes_cell(hashes: dict[str, str]) -> str:
    lines = "".join(f"<li><b>{escape(name)}</b> <code>{escape(digest)}</code></li>" for name, digest in hashes.items())
    return f"<td><ul>{lines}</ul></td>" if lines else '<td class="quiet">none</td>'


def pager(path: str, page: int, total: int) -> str:
    last = max(1, -(-total // ROWS_PER_PAGE))
    if last == 1:
        return ""
    before = f'<a rel="prev" href="{path}?page={page - 1}">Earlier</a>' if page > 1 else ""
    after = f'<a rel="next" href="{path}?page={page + 1}">Later</a>' if page < last else ""
    return f'<nav class="pager">{before}<span>Page {page:,} of {last:,}</span>{after}</nav>'
