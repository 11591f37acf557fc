"""An HTTP server on loopback that says what a test tells it to, and writes down what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came over the wire; `target` is its path and query, still encoded."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Turn = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class ScriptedApi:
    """Answers with `turns` in order, the last one again and again."""

    url: str = ""
    turns: list[Turn] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, *turns: Turn) -> None:
        """Replace what comes next."""
        self.turns = list(turns)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(
            Asked(
                method=request.method,
                target=request.raw_path,
                headers=request.headers.copy(),
                body=await request.read(),
            )
        )
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return await turn(request)

    async def silence(self, _: web.BaseRequest) -> web.StreamResponse:
        """Never answer."""
        await self.closing.wait()
        return web.Response()


@asynccontextmanager
async def scripted_api() -> AsyncIterator[ScriptedApi]:
    """Start the server on a free port and stop it at the end."""
    api = ScriptedApi()
    runner = web.ServerRunner(web.Server(api.handle), shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        yield api
    finally:
        api.closing.set()
        await runner.cleanup()


def answer(
    body: object = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> Turn:
    """A turn that answers with `body`: bytes as they are, anything else as JSON."""

    async def turn(_: web.BaseRequest) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=raw, status=status, headers=headers, content_type=content_type)

    return turn


def result(value: object) -> Turn:
    """A turn that succeeds in LABDRIVE's envelope."""
    return answer({"success": True, "result": value})


def refusal(status: int, message: str = "no", *, headers: Mapping[str, str] | None = None) -> Turn:
    """A turn that fails in LABDRIVE's envelope."""
    return answer({"success": False, "msg": message}, status=status, headers=headers)


def cut(body: bytes, *, promised_bytes: int) -> Turn:
    """A turn that promises more than it sends, and hangs up."""

    async def turn(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(promised_bytes)})
        await response.prepare(request)
        await response.write(body)
        assert request.transport is not None
        request.transport.close()
        return response

    return turn


async def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    """A turn that closes the connection without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()
