"""What a proxy of the rows stands on: it listens on loopback, and hands every byte of each connection on."""

import asyncio
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from worker.loop import LoopThread

PIECE_BYTES: Final = 65_536
OPEN_S: Final = 30.0


class Over(Exception):
    """One end of this connection is gone."""


class Relay:
    """Passes every byte both ways. A proxy overrides `up`, and `begin` and `end` where it does more beside."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._target_port = parts.hostname or "127.0.0.1", parts.port or 80
        self._scheme = parts.scheme
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __enter__(self) -> Self:
        self._loop = LoopThread()
        self._loop.run(self.begin(), timeout_s=OPEN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self.end(), timeout_s=OPEN_S)
        self._loop.stop()

    @property
    def url(self) -> str:
        """The address to reach the server at through here."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    async def begin(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        """Hang up on everybody."""
        self._server.close()
        for writer in self._links.values():
            writer.transport.abort()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to the server itself."""
        return await asyncio.open_connection(self._host, self._target_port)

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer_port: int) -> None:
        """Hand on what a client says, until it has gone; raise `Over` then."""
        await _pump(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links[link] = writer
        try:
            theirs, ours = await self.dial()
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self.up(reader, ours, writer.get_extra_info("peername")[1]))
                    ways.create_task(_pump(theirs, writer))
            finally:
                ours.close()
        except* (OSError, asyncio.IncompleteReadError, Over):
            pass
        finally:
            writer.close()
            del self._links[link]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    raise Over
