"""
The HTTP beneath aiobotocore: aiohttp, which follows no redirect and takes no proxy from the environment.

aiobotocore's own session follows redirects (known: aiohttp's default, which it does not change), reads error bodies of
any length, and cannot be told how much to read ahead. This one takes its place. Errors of aiohttp pass through
aiobotocore untouched and are translated in `faults`.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import aiohttp
from aiobotocore.awsrequest import AioAWSResponse
from yarl import URL

from hashmill.storage.tls import resuming_context

KEEP_ALIVE_S: Final = 12.0
"""Shorter than the idle time after which S3 servers hang up, so that we seldom send into a closed connection."""

ERROR_BODY_MAX_BYTES: Final = 65_536
"""More of an error answer is not read; S3's are under 1 KiB."""

_BUFFER_BYTES: Final = 65_536
_RECEIVE_BYTES: Final = 262_144
READ_AHEAD_BYTES: Final = 2 * _RECEIVE_BYTES + 2 * _BUFFER_BYTES
"""What one plain stream holds beside the blocks: the piece in hand and one receive (asyncio takes 256 KiB at once)
on top of the high-water mark (aiohttp's is twice its buffer). Known: read in the sources of CPython 3.11 and
aiohttp 3.14."""

TLS_BYTES: Final = 2 * _RECEIVE_BYTES
"""What TLS adds: asyncio's receive buffer and the bytes not yet decrypted."""


class WireSession:
    """What aiobotocore takes as `http_session_cls`: sends one signed request and returns the answer as it is."""

    def __init__(
        self, *, timeout: tuple[float, float], max_pool_connections: int, verify: bool | str, **_unused: Any
    ) -> None:
        connect_timeout_s, idle_timeout_s = timeout
        self.idle_timeout_s = idle_timeout_s
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout_s, sock_read=idle_timeout_s)
        self._connections = max_pool_connections
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "WireSession":
        # A path in `verify` comes from AWS_CA_BUNDLE or ca_bundle; without it the system's own trust store counts.
        ca_file = self._verify if isinstance(self._verify, str) else None
        # Reading the trust store takes tens of milliseconds, too long for the loop.
        tls = await asyncio.to_thread(resuming_context, ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEP_ALIVE_S, ssl=tls),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers={"Content-Type"},
            auto_decompress=False,  # the stored bytes, also of an object stored with Content-Encoding: gzip
            read_bufsize=_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Any) -> AioAWSResponse:
        """Send `request` once and return the answer; its body is read already unless it is an object's."""
        headers = {name: _text(value) for name, value in request.headers.items()}
        response = await self._ask(request.method, request.url, headers, request.body)
        raw: aiohttp.ClientResponse | Body = response
        if response.status >= 300 or not request.stream_output:
            raw = Body(await first_bytes(response))
        return AioAWSResponse(str(response.url), response.status, plain_headers(response), raw)

    async def get(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send one GET as it is written here and return the answer, whatever it says; the caller closes it."""
        return await self._ask("GET", url, headers)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: object = None
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the session was not entered, or is closed")
        try:
            return await self._session.request(
                method,
                URL(url, encoded=True),  # as it was signed
                headers={**headers, "Accept-Encoding": "identity"},
                data=body,
                allow_redirects=False,
            )
        except aiohttp.ClientResponseError as error:
            # Its repr shows the headers of the request, and a session token is one of them.
            raise aiohttp.ClientConnectionError(f"the answer is not HTTP: {error.message[:200]}") from None


class Body:
    """A body that was read already."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        return self._body


def _text(value: str | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def plain_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the headers as botocore knows them: names in lower case, and text whatever bytes came."""
    return {name.decode("latin-1").lower(): value.decode("utf-8", "replace") for name, value in response.raw_headers}


async def first_bytes(response: aiohttp.ClientResponse) -> bytes:
    """Read and return an answer that is no object, as far as it is worth it; the connection is free then, or closed.

    One with a document type is taken for empty: S3 sends none (known: its schema), and one can blow up a parser.
    """
    body = bytearray()
    try:
        while len(body) < ERROR_BODY_MAX_BYTES and (piece := await response.content.readany()):
            body += piece
    finally:
        response.close()  # hangs up only when there is more to come
    return b"" if b"<!DOCTYPE" in body else bytes(body[:ERROR_BODY_MAX_BYTES])
