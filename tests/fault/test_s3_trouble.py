"""An S3 that cuts, lies about lengths, says SlowDown and replaces objects in mid-read, over 2,000 files."""

import re
import threading
from collections import Counter, defaultdict
from hashlib import md5

import pytest
from aiohttp import web

from tests.fault.content import Content, Item, Manifest, digests_of
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, scaled
from tests.fault.made_s3 import Handler, InProcessS3
from tests.fault.site import fault_site

FILES = 2_000
KINDS = ("cut", "reset", "length_long", "length_short", "slow_down", "replaced", "replaced_before", "sound")
HOPELESS_OF = 100
"""One file in so many is cut before its first byte, every time: it must fail as truncated."""


class Troubles:
    """What befalls each key, by its number; most of it once, at the first GET."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._gets: Counter[str] = Counter()
        self._replaced: set[str] = set()
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()

    def kind_of(self, path: str) -> str:
        number = int(path.removesuffix(".bin").rpartition("/")[2])
        return "hopeless" if number % HOPELESS_OF == HOPELESS_OF - 1 else KINDS[number % len(KINDS)]

    def bodies(self, path: str) -> list[bytes]:
        """Return every content the object ever has, in order."""
        body = self._content.body("1", path)
        return [body, body[::-1]] if self.kind_of(path).startswith("replaced") else [body]

    async def meet(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path.partition("/")[2].partition("/")[2].partition("/")[2]
        if not path:
            return await handler(request)
        kind = self.kind_of(path)
        first = request.method == "GET" and not self._gets[path]
        self._gets[path] += request.method == "GET"
        if request.method == "GET":
            self.seen["gets"] += 1
            if "Range" in request.headers:
                self.seen["resumed" if "If-Match" in request.headers else "resumed_without_if_match"] += 1
        if kind == "slow_down" and self._gets[path] in (1, 2) and request.method == "GET":
            self.seen[kind] += 1
            return web.Response(status=503, text="<Error><Code>SlowDown</Code><Message>m</Message></Error>")
        if kind == "replaced_before" and first:
            self.seen[kind] += 1
            self._replaced.add(path)
        return await self._answer(request, path, kind if first or kind == "hopeless" else "sound")

    async def _answer(self, request: web.Request, path: str, kind: str) -> web.StreamResponse:
        body = self.bodies(path)[-1 if path in self._replaced else 0]
        etag = f'"{md5(body, usedforsecurity=False).hexdigest()}"'
        if request.headers.get("If-Match", etag) != etag:
            self.seen["refused_by_if_match"] += 1
            return web.Response(status=412, text="<Error><Code>PreconditionFailed</Code></Error>")
        headers = {"ETag": etag}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(body))})
        status, piece = 200, body
        if asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            status, piece = 206, body[int(asked[1]) :]
            headers["Content-Range"] = f"bytes {asked[1]}-{len(body) - 1}/{len(body)}"
        if kind in ("cut", "reset", "replaced", "length_long", "length_short", "hopeless"):
            self.seen[kind] += 1
            return await self._broken(request, path, kind, status, piece, headers)
        return web.Response(status=status, body=piece, headers=headers)

    async def _broken(
        self, request: web.Request, path: str, kind: str, status: int, piece: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        sent = {"hopeless": 0, "length_long": len(piece), "length_short": len(piece) - 7}.get(kind, len(piece) // 2)
        told = {"length_long": len(piece) + 100, "length_short": len(piece) - 7}.get(kind, len(piece))
        response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(told)})
        await response.prepare(request)
        await response.write(piece[:sent])
        if kind == "replaced":
            self._replaced.add(path)
        if request.transport is not None and kind != "length_short":
            if kind == "reset":
                request.transport.abort()
            else:
                request.transport.close()
        return response


@pytest.mark.timeout(1800)
def test_a_bad_s3_never_makes_a_wrong_digest(fresh_ledger: str, table: list[Row]) -> None:
    content = Content(seed=SEED, files={"1": scaled(FILES, least=200)})
    troubles = Troubles(content)
    items = {
        path: Item(size_bytes=len(bodies[0]), digests=tuple(map(digests_of, bodies)))
        for path in content.paths("1")
        for bodies in [troubles.bodies(path)]
    }
    hopeless = {path: ["s3.truncated"] for path in items if troubles.kind_of(path) == "hopeless"}
    environ = {
        # Shorter than the defaults, so that what fails in the end does so within the row.
        "HASHMILL_S3__BACKOFF_BASE_S": "0.05",
        "HASHMILL_FILES__RETRY_BASE_S": "0.2",
    }
    with InProcessS3(content, troubles.meet) as s3:
        store = Store(s3=s3, bucket="double", content=content, manifest=Manifest(items={"1": items}))  # type: ignore[arg-type]
        with fault_site(store, ledger_url=fresh_ledger, workers=2, environ=environ, seed=2) as site:
            site.load.post_until_accepted("1", failing=hopeless)
            site.wait(site.has_ended, timeout_s=600, what="every run ended")
            seen = defaultdict(int, troubles.seen)
            site.faults = sum(seen[kind] for kind in (*KINDS, "hopeless"))
            bare = seen["resumed_without_if_match"]
            row, verdict = site.finish(
                "s3-trouble",
                "answer cut, reset, of wrong length, SlowDown, or of an object replaced in mid-read",
                "resumed by Range with If-Match, or a typed error; never a wrong digest",
                broken=[f"{bare} resumed without If-Match"] if bare else [],
                more={"seen": dict(seen), "hopeless": len(hopeless)},
            )
            table.append(row)

    assert not row.broken, verdict
    assert verdict.figures["failed"] == len(hopeless), verdict
    assert all(seen[kind] for kind in (*KINDS[:-1], "resumed", "refused_by_if_match")), dict(seen)
