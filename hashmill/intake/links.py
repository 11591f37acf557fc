"""Addresses of the door's own pages, relative to the server: whoever asked knows how he reached it."""

from collections.abc import Mapping
from urllib.parse import urlencode

from aiohttp import web


def run_url(run_id: str) -> str:
    return f"/v1/runs/{run_id}"


def next_url(request: web.Request, changes: Mapping[str, str]) -> str:
    """Return the address of `request` with some parameters replaced."""
    kept = [(name, value) for name, value in request.query.items() if name not in changes]
    return f"{request.rel_url.raw_path}?{urlencode([*kept, *changes.items()])}"
