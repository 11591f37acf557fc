"""
An S3 double that misbehaves on request: one object, a script of troubles, a record of what was asked.

Not for what a real server can show; only for what none does when told to: cuts, hangs, drips, wrong lengths, SlowDown.
"""

import asyncio
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType

from hashmill.domain.secret import Secret
from hashmill.storage.config import StorageConfig

SECRET_KEY = "the-secret-key-nobody-may-see"
SESSION_TOKEN = "the-session-token-nobody-may-see"


@dataclass(frozen=True, kw_only=True)
class Act:
    """How one request is answered; every default is what a good server does.

    `code` makes an S3 error document; `cut_after` and `hang_after` count body bytes that are still sent;
    `drip` is bytes at once and the pause between, in seconds; `raw` is sent as it is, and that is all.
    """

    status: int | None = None
    code: str | None = None
    details: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    etag: str | None = None
    length: int | None = None
    chunked: bool = False
    ignore_range: bool = False
    silent: bool = False
    cut_after: int | None = None
    reset: bool = False
    hang_after: int | None = None
    drip: tuple[int, float] | None = None
    raw: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class FaultyS3:
    """Serves `body` under every key. `on_get` and `on_head` hold the troubles to come, the first first."""

    def __init__(
        self,
        body: bytes,
        *,
        etag: str = '"one"',
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.body = body
        self.etag = etag
        self.headers = dict(headers or {})
        self._tls = tls
        self.on_get: deque[Act] = deque()
        self.on_head: deque[Act] = deque()
        self.usual_get = Act()
        self.asked: list[Asked] = []
        self.connections = 0
        self.sessions_resumed = 0

    @property
    def endpoint_url(self) -> str:
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{'https' if self._tls else 'http'}://{host}:{port}"

    @property
    def config(self) -> StorageConfig:
        return StorageConfig(
            endpoint_url=self.endpoint_url,
            access_key_id="AKIDEXAMPLE",
            secret_access_key=Secret(SECRET_KEY),
            session_token=Secret(SESSION_TOKEN),
        )

    @property
    def open_connections(self) -> int:
        return len(self._handlers)

    def asked_for(self, header: str, method: str = "GET") -> list[str | None]:
        """Return one header of every request with `method`, in order."""
        return [asked.headers.get(header) for asked in self.asked if asked.method == method]

    async def __aenter__(self) -> "FaultyS3":
        self._handlers: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections += 1
        link = writer.get_extra_info("ssl_object")
        self.sessions_resumed += link is not None and link.session_reused
        try:
            while await self._answer_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._handlers.discard(handler)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer the next request; return whether the connection may be used again."""
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = start.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        self.asked.append(Asked(method=method, target=target, headers=headers))
        script = self.on_head if method == "HEAD" else self.on_get
        usual = Act(body=b"<VersioningConfiguration/>") if target.endswith("?versioning") else self.usual_get
        act = script.popleft() if script else usual
        if act.silent:
            await asyncio.Event().wait()
        if act.raw is not None:
            writer.write(act.raw)
            await writer.drain()
            return False

        head, body = self._answer(act, method, headers)
        writer.write(head)
        if method == "HEAD":
            await writer.drain()
            return True
        stop_after = act.cut_after if act.cut_after is not None else act.hang_after
        at_once, pause_s = act.drip or (65_536, 0.0)
        sendable = body[:stop_after]
        for start_byte in range(0, len(sendable), at_once):
            piece = sendable[start_byte : start_byte + at_once]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if act.chunked else piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if act.hang_after is not None:
            await asyncio.Event().wait()
        if act.cut_after is not None:
            if act.reset:
                link = writer.get_extra_info("socket")
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            return False
        if act.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return act.length is None

    def _answer(self, act: Act, method: str, asked: Mapping[str, str]) -> tuple[bytes, bytes]:
        etag = act.etag or self.etag
        whole = self.body if act.body is None else act.body
        body, status, headers = whole, act.status or 200, {"ETag": etag, **self.headers}
        if act.code is not None:
            body = f"<Error><Code>{act.code}</Code><Message>m</Message>{act.details}</Error>".encode()
            headers = {"Content-Type": "application/xml"}
        elif "if-match" in asked and asked["if-match"] != etag:
            body, status, headers = b"<Error><Code>PreconditionFailed</Code></Error>", 412, {}
        elif "range" in asked and not act.ignore_range:
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", asked["range"])
            assert part is not None, asked["range"]
            first, last = int(part[1]), int(part[2] or len(whole) - 1)
            body, status = whole[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
        headers["Date"] = formatdate(usegmt=True)
        if act.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) if act.length is None else act.length)
        if method == "HEAD" and act.code is not None:
            headers["Content-Length"] = "0"
        headers.update(act.headers)
        lines = [f"HTTP/1.1 {status} S", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode("utf-8"), body
