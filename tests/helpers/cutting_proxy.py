"""A TCP proxy that hangs up in the middle of answers, for real servers that would not."""

import asyncio
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes to and from `endpoint_url`; the n-th connection is cut after the n-th of `cuts` answer bytes.

    When `cuts` are used up, connections live on.
    """

    def __init__(self, endpoint_url: str, cuts: Iterable[int]) -> None:
        parts = urlsplit(endpoint_url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self.cuts = deque(cuts)

    @property
    def endpoint_url(self) -> str:
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def __aenter__(self) -> "CuttingProxy":
        self._links: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await self._server.wait_closed()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._links.add(this)
        their_reader, their_writer = await asyncio.open_connection(self._host, self._port)
        left = self.cuts.popleft() if self.cuts else None
        asking = asyncio.create_task(_pass_on(reader, their_writer))
        try:
            await _pass_on(their_reader, writer, left)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            writer.close()
            their_writer.close()
            self._links.discard(this)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None = None) -> None:
    while (left is None or left > 0) and (piece := await reader.read(65_536)):
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        writer.write(piece)
        await writer.drain()
