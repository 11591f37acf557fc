"""One object too big to keep, made as it is sent."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from tests.fault.content import ALGORITHMS
from tests.fault.made_s3 import Handler, Middleware

BIG_CONTAINER = "6"
BIG_PATH = "big.bin"
BLOCK = hashlib.shake_128(b"big").digest(1_048_576)


def big_digests(size_bytes: int) -> dict[str, str]:
    def digest(name: str) -> str:
        one = hashlib.new(name, usedforsecurity=False)
        for _ in range(size_bytes // len(BLOCK)):
            one.update(BLOCK)
        return one.hexdigest()

    with ThreadPoolExecutor(len(ALGORITHMS)) as pool:
        return dict(zip(ALGORITHMS, pool.map(digest, ALGORITHMS), strict=True))


def serving_big(size_bytes: int, sent: list[int] | None = None) -> Middleware:
    """Return what serves one big object and its listing; the rest is the double's.

    To `sent` is added, for each answer, how many bytes of it were sent.
    """
    etag = '"the-big-one-1"'

    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("prefix", "").startswith(f"{BIG_CONTAINER}/"):
            return web.Response(
                content_type="application/xml",
                text='<?xml version="1.0" encoding="UTF-8"?>'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
                f"<Contents><Key>{BIG_CONTAINER}/{BIG_PATH}</Key><Size>{size_bytes}</Size>"
                "<LastModified>2026-11-24T00:00:00.000Z</LastModified></Contents></ListBucketResult>",
            )
        if not request.path.endswith(f"/{BIG_PATH}"):
            return await handler(request)
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(size_bytes)})
        status, first = 200, 0
        if asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            status, first = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {first}-{size_bytes - 1}/{size_bytes}"
        headers["Content-Length"] = str(size_bytes - first)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        begin = first
        try:
            while first < size_bytes:
                piece = BLOCK[first % len(BLOCK) :]
                await response.write(piece)
                first += len(piece)
        finally:
            if sent is not None:
                sent.append(first - begin)
        return response

    return serve
