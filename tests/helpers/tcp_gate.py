"""A gate in front of a real server, for whole processes: it shuts, and it cuts chosen answers where a test says."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from hashmill.parts.process import free_ports


@dataclass(slots=True, kw_only=True)
class Snag:
    """What becomes of requests with `asked` in their first line, `times` of them or all.

    After `after_bytes` of the answer, its head included, `meanwhile` runs, and then the connection is cut. With 0 the
    server never hears of the request. `met` counts.
    """

    asked: str
    after_bytes: int = 0
    times: int | None = None
    meanwhile: Callable[[], object] = lambda: None
    met: int = 0

    def meets(self, line: bytes) -> bool:
        if self.asked.encode() not in line or (self.times is not None and self.met >= self.times):
            return False
        self.met += 1
        return True


@dataclass(slots=True)
class _Link:
    """One connection: the snag its present answer will meet, and how many bytes before."""

    snag: Snag | None = None
    left: int = 0


class TcpGate:
    """Passes bytes to and from the server that `lead_to` names, on one port for as long as it lives."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.snags: list[Snag] = []
        self._host, self._target_port = "", 0
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lead_to(self, url: str) -> None:
        """Let everybody in, to the server at `url`."""
        parts = urlsplit(url)
        self._host, self._target_port = parts.hostname or "", parts.port or 80
        self.open()

    def open(self) -> None:
        """Listen, where nobody did."""
        self._run(self._open())

    def shut(self) -> None:
        """Hang up on everybody and refuse who comes."""
        self._run(self._shut())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._links.add(this)
        link = _Link()
        ways: list[asyncio.Task[None]] = []
        try:
            theirs, to_them = await asyncio.open_connection(self._host, self._target_port)
            try:
                ways = [
                    asyncio.create_task(self._ask(link, reader, to_them)),
                    asyncio.create_task(self._answer(link, theirs, writer)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                to_them.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._links.discard(this)

    async def _ask(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            # A request's head comes in one piece, and who asks for objects sends nothing behind it.
            line = piece.partition(b"\r\n")[0]
            link.snag = next((snag for snag in self.snags if snag.meets(line)), None)
            if link.snag is not None:
                link.left = link.snag.after_bytes
                if not link.left:
                    await asyncio.to_thread(link.snag.meanwhile)
                    return
            writer.write(piece)
            await writer.drain()

    async def _answer(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                snag = link.snag
                passed = piece if snag is None else piece[: link.left]
                writer.write(passed)
                await writer.drain()
                if snag is None:
                    continue
                link.left -= len(passed)
                if not link.left:
                    await asyncio.to_thread(snag.meanwhile)
                    return
