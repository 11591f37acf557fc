"""
A fast S3 double for loads, where no radosgw is installed: reads and lists only, bodies made from a seed.

    python -m tests.fault.s3_double '{"seed": 1, "files": {"1": 2000}}' PORT

Signatures are not checked. Ranges and If-Match are, as S3 does (known: RFC 9110 and AWS's reference of GetObject).
"""

import asyncio
import json
import os
import re
import signal
import sys
from functools import lru_cache
from hashlib import md5
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from hashmill.parts.process import Child, Part, answers, free_ports
from tests.fault.content import Content

ROOT: Final = Path(__file__).resolve().parents[2]
DATE: Final = "Tue, 24 Nov 2026 00:00:00 GMT"
PAGE: Final = 1000


class S3Double(Part):
    """The double as a process of its own, with the face of `hashmill.parts.s3.S3Server` that a service needs."""

    backend = "double"
    region = "us-east-1"
    access_key_id = "double"
    secret_access_key = "double-secret"

    def __init__(self, folder: Path, content: Content) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        order = json.dumps({"seed": content.seed, "files": dict(content.files)})
        self._child = Child(
            [sys.executable, "-m", "tests.fault.s3_double", order, str(port)],
            name="s3-double",
            folder=folder,
            environ={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._child.wait_until(lambda: answers(port))

    @property
    def pids(self) -> list[int]:
        return [self._child.pid]

    def make_bucket(self, name: str | None = None) -> str:
        """Return a name; every bucket of the double has the same objects."""
        return name or "double"

    def stop(self) -> None:
        self._child.stop()


def make_app(content: Content) -> web.Application:
    keys = sorted(f"{container}/{path}" for container in content.files for path in content.paths(container))
    sizes_bytes = {key: content.size_bytes(*key.split("/", 1)) for key in keys}

    @lru_cache(maxsize=4096)
    def body_of(key: str) -> tuple[bytes, str]:
        body = content.body(*key.split("/", 1))
        return body, f'"{md5(body, usedforsecurity=False).hexdigest()}"'

    async def read(request: web.Request) -> web.Response:
        key = unquote(request.rel_url.raw_path.partition("/")[2].partition("/")[2])
        if not key:
            return listed(request)
        if key not in sizes_bytes:
            return _error(404, "NoSuchKey")
        body, etag = body_of(key)
        headers = {"ETag": etag, "Last-Modified": DATE, "Accept-Ranges": "bytes"}
        if request.headers.get("If-Match", etag).strip('"') != etag.strip('"'):
            return _error(412, "PreconditionFailed")
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(body))})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if asked is None:
            return web.Response(body=body, headers=headers)
        first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
        if first > last:
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return web.Response(status=206, body=body[first : last + 1], headers=headers)

    def listed(request: web.Request) -> web.Response:
        prefix = request.query.get("prefix", "")
        after = request.query.get("continuation-token") or request.query.get("start-after", "")
        most = min(PAGE, int(request.query.get("max-keys", PAGE)))
        found = [key for key in keys if key.startswith(prefix) and key > after]
        page, more = found[:most], len(found) > most
        inside = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{sizes_bytes[key]}</Size>"
            f"<LastModified>2026-11-24T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{inside}</ListBucketResult>"
        )
        return web.Response(text=text, content_type="application/xml")

    app = web.Application()
    app.router.add_route("GET", "/{key:.*}", read)
    app.router.add_route("HEAD", "/{key:.*}", read)
    return app


def _error(status: int, code: str) -> web.Response:
    return web.Response(
        status=status,
        text=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>",
        content_type="application/xml",
    )


async def _run(order: dict[str, Any], port: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    runner = web.AppRunner(make_app(Content(seed=order["seed"], files=order["files"])), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.argv[1]), int(sys.argv[2])))
