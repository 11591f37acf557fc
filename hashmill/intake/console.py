"""The console page: three files that a browser runs as they are."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "page"
ASSETS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "mark.svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def file_handler(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that answers with one file of the page, read once."""
    body = (FOLDER / name).read_bytes()

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, headers=HEADERS, content_type=content_type, charset="utf-8")

    return handle
