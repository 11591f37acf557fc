"""An S3 that kills: a proxy which ends, with SIGKILL, the process that asks for one of the deadly keys."""

import asyncio
import contextlib
import os
import re
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

PIECE_BYTES: Final = 65_536
_GET: Final = re.compile(rb"^GET ([^ ?]+)[^ ]* HTTP/1\.1\r\n")


class KillingProxy:
    """Passes every byte; a GET of a deadly key never arrives, and who sent it is gone.

    Only processes of `ours` (and their children) are ever ended; `before_kill` hears the process id just before. A
    client sends each request in one piece and waits for the answer (known: aiohttp without pipelining), so a request
    begins where a piece does. `kills` has, for each key, the process ids it ended.
    """

    def __init__(
        self,
        url: str,
        deadly: Collection[str],
        *,
        ours: Callable[[], Collection[int]],
        before_kill: Callable[[int], None],
    ) -> None:
        parts = urlsplit(url)
        self._host, self._target_port = parts.hostname or "127.0.0.1", parts.port or 80
        self._deadly, self._ours, self._before_kill = set(deadly), ours, before_kill
        self.kills: dict[str, list[int]] = defaultdict(list)
        self.unknown = 0
        """Requests for a deadly key whose sender was not found: each of them is a fault of this proxy."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="killing-proxy", daemon=True)
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        opening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(opening, self._loop).result(timeout=30)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for writer in self._links.values():
            writer.transport.abort()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links[link] = writer
        try:
            theirs, ours = await asyncio.open_connection(self._host, self._target_port)
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._up(reader, ours, writer.get_extra_info("peername")[1]))
                    ways.create_task(_down(theirs, writer))
            finally:
                ours.close()
        except* (OSError, _Over):
            pass
        finally:
            writer.close()
            del self._links[link]

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer_port: int) -> None:
        while piece := await reader.read(PIECE_BYTES):
            asked = _GET.match(piece)
            if asked is not None:
                key = unquote(asked[1].decode()).lstrip("/").partition("/")[2]
                if key in self._deadly:
                    self._kill(key, peer_port)
                    raise _Over
            writer.write(piece)
            await writer.drain()
        raise _Over

    def _kill(self, key: str, peer_port: int) -> None:
        pid = holder_of(peer_port, self.port, with_children(self._ours()))
        if pid is None:
            self.unknown += 1
            return
        self.kills[key].append(pid)
        self._before_kill(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    raise _Over


class _Over(Exception):
    """One end of this connection is gone."""


def holder_of(local_port: int, remote_port: int, pids: Iterable[int]) -> int | None:
    """Return which of `pids` holds the loopback connection between these two ports (known: proc(5), /proc/net/tcp)."""
    ends = (f":{local_port:04X}", f":{remote_port:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            wanted = f"socket:[{fields[9]}]"
            return next((pid for pid in pids if wanted in _open_files(pid)), None)
    return None


def with_children(pids: Iterable[int]) -> list[int]:
    """Return `pids` and the processes they started, children first."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(folder.name))
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children[pid])
    return found[::-1]


def _open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return found
