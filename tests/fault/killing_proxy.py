"""An S3 that kills: a proxy which ends, with SIGKILL, the process that asks for one of the deadly keys."""

import asyncio
import contextlib
import os
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from tests.fault.relay import PIECE_BYTES, Over, Relay

_GET: Final = re.compile(rb"^GET ([^ ?]+)[^ ]* HTTP/1\.1\r\n")


class KillingProxy(Relay):
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
        super().__init__(url)
        self._deadly, self._ours, self._before_kill = set(deadly), ours, before_kill
        self.kills: dict[str, list[int]] = defaultdict(list)
        self.unknown = 0
        """Requests for a deadly key whose sender was not found: each of them is a fault of this proxy."""

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer_port: int) -> None:
        while piece := await reader.read(PIECE_BYTES):
            asked = _GET.match(piece)
            if asked is not None:
                key = unquote(asked[1].decode()).lstrip("/").partition("/")[2]
                if key in self._deadly:
                    self._kill(key, peer_port)
                    raise Over
            writer.write(piece)
            await writer.drain()
        raise Over

    def _kill(self, key: str, peer_port: int) -> None:
        pid = holder_of(peer_port, self.port, with_children(self._ours()))
        if pid is None:
            self.unknown += 1
            return
        self.kills[key].append(pid)
        self._before_kill(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
