"""
A TCP proxy that misbehaves on request: one port in front of one real server, its faults switched while bytes flow.

A fault holds for one direction or both; `UP` is from the client to the server. What is done to connections that exist
already and to new ones is told at each fault. Bytes are never altered, only late, missing or the last.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

PIECE_BYTES: Final = 65_536
FILLERS_MAX: Final = 8
LAST_WORDS_S: Final = 1.0
BACKLOG: Final = 512


class Way(StrEnum):
    """A direction."""

    UP = "up"
    DOWN = "down"


BOTH: Final = (Way.UP, Way.DOWN)


class Kind(StrEnum):
    """What may happen to bytes."""

    PASS = "pass"  # they go on
    DELAY = "delay"  # each piece goes on `value` seconds after it came, in order
    STALL = "stall"  # they wait, and go on when the fault ends; connecting works
    BLACK_HOLE = "black_hole"  # they vanish, and what connects hangs in connect(); see `FaultProxy.set`
    REFUSE = "refuse"  # nobody listens, and every connection is reset: a server that is down
    RESET = "reset"  # every connection is reset, old ones now, new ones as soon as they are accepted
    CUT_AFTER = "cut_after"  # `value` bytes pass on each connection, then both ends see an orderly end
    THROTTLE = "throttle"  # at most `value` bytes a second, on each connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. `value` is seconds, bytes or bytes a second; `times` bounds how many connections `CUT_AFTER` cuts."""

    kind: Kind
    value: float = 0.0
    times: int | None = None


PASS: Final = Fault(kind=Kind.PASS)


def delay(pause_s: float) -> Fault:
    return Fault(kind=Kind.DELAY, value=pause_s)


def throttle(bytes_per_s: float) -> Fault:
    return Fault(kind=Kind.THROTTLE, value=bytes_per_s)


def cut_after(count_bytes: int, *, times: int | None = None) -> Fault:
    return Fault(kind=Kind.CUT_AFTER, value=count_bytes, times=times)


STALL: Final = Fault(kind=Kind.STALL)
BLACK_HOLE: Final = Fault(kind=Kind.BLACK_HOLE)
REFUSE: Final = Fault(kind=Kind.REFUSE)
RESET: Final = Fault(kind=Kind.RESET)


@dataclass(slots=True)
class Seen:
    """What went through: connections accepted, connections cut, bytes passed and bytes swallowed, by direction."""

    connections: int = 0
    cut: int = 0
    passed_bytes: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    swallowed_bytes: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))


@dataclass(slots=True, eq=False)
class _Link:
    """One connection. `lost` once bytes of it vanished: from then on it is silent for ever, as after a lost route."""

    lost: bool = False
    budget_bytes: dict[Way, float] = field(default_factory=dict)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def reset(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(OSError):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class FaultProxy:
    """Passes bytes to and from the server that `lead_to` names, until `set` says otherwise.

    `with FaultProxy(url) as proxy:` starts its thread; `proxy.port` stays the same for as long as it lives.
    """

    def __init__(self, url: str | None = None) -> None:
        self.seen = Seen()
        self._host, self._target_port = "127.0.0.1", 0
        self._faults: dict[Way, Fault] = dict.fromkeys(Way, PASS)
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._fillers: list[socket.socket] = []
        self._accepting: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._changed = asyncio.Event()
        self._listener: socket.socket | None = _listening(0)
        self.port: int = self._listener.getsockname()[1]
        if url is not None:
            self.lead_to(url)

    def lead_to(self, url: str) -> None:
        """Name the server by any URL with a host and a port; connections that exist stay where they are."""
        parts = urlsplit(url)
        self._host, self._target_port = parts.hostname or "127.0.0.1", parts.port or 80

    def through(self, url: str) -> str:
        """Return `url` with this proxy in the place of its host and port."""
        parts = urlsplit(url)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return parts._replace(netloc=f"{user}127.0.0.1:{self.port}").geturl()

    def set(self, fault: Fault, *ways: Way) -> None:
        """Put `fault` in place of the one before, in the given directions or in both.

        A black hole swallows what comes on connections that exist, the news of their end included, and lets connect()
        hang. A connection of which bytes vanished stays silent after the fault, until one end gives it up: who speaks
        on it must notice by himself. Those of which none vanished go on.
        """
        if fault.kind in (Kind.REFUSE, Kind.RESET) and ways and len(set(ways)) < len(BOTH):
            raise ValueError(f"{fault.kind} knows no direction")
        self._run(self._set(fault, ways or BOTH))

    def heal(self) -> None:
        """Let everything pass."""
        self.set(PASS)

    @property
    def fault(self) -> tuple[Fault, Fault]:
        """The faults in force, up and down."""
        return self._faults[Way.UP], self._faults[Way.DOWN]

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    # The listener

    async def _open(self) -> None:
        """Listen and accept, whatever was before."""
        if self._listener is None:
            self._listener = _listening(self.port)
        if self._fillers:
            await self._let_in()
        if self._accepting is None:
            self._accepting = asyncio.create_task(self._accept(self._listener))

    async def _close(self) -> None:
        await self._stop_accepting()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for task, link in list(self._links.items()):
            link.reset()
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None

    async def _let_hang(self) -> None:
        """Stop accepting and fill the kernel's queue, so that it drops every further SYN.

        known: Linux drops SYNs when the accept queue is full, and the client repeats them after 1, 3, 7, ... s.
        """
        await self._stop_accepting()
        assert self._listener is not None
        self._listener.listen(0)
        for _ in range(FILLERS_MAX):
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            try:
                async with asyncio.timeout(0.1):
                    await self._loop.sock_connect(filler, ("127.0.0.1", self.port))
            except TimeoutError:
                return

    async def _let_in(self) -> None:
        """Empty the queue of what filled it, keep what others put there, and listen as before."""
        assert self._listener is not None
        ours = {filler.getsockname()[1] for filler in self._fillers}
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, address = self._listener.accept()
                if address[1] in ours:
                    connection.close()
                else:
                    self._begin(connection)
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._listener.listen(BACKLOG)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(listener)
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        self.seen.connections += 1
        link = _Link(budget_bytes={way: self._faults[way].value for way in Way})
        task = asyncio.create_task(self._serve(connection, link))
        self._links[task] = link
        task.add_done_callback(self._links.pop)

    async def _set(self, fault: Fault, ways: tuple[Way, ...]) -> None:
        for way in ways:
            self._faults[way] = fault
            for link in self._links.values():
                link.budget_bytes[way] = fault.value
        kinds = {self._faults[way].kind for way in Way}
        if Kind.REFUSE in kinds:
            await self._close()
        elif Kind.BLACK_HOLE in kinds:
            await self._open()
            if not self._fillers:
                await self._let_hang()
        else:
            await self._open()
        if Kind.RESET in kinds:
            for link in self._links.values():
                link.reset()
        self._changed.set()
        self._changed = asyncio.Event()

    # One connection

    async def _serve(self, connection: socket.socket, link: _Link) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            link.writers.append(writer)
            if self._faults[Way.UP].kind is Kind.RESET:
                link.reset()
                return
            theirs, to_them = await asyncio.open_connection(self._host, self._target_port)
            link.writers.append(to_them)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pump(Way.UP, link, reader, to_them))
                ways.create_task(self._pump(Way.DOWN, link, theirs, writer))
        except* _Cut:
            await _end_in_order(reader, writer)
        except* OSError:
            pass
        finally:
            for writer in link.writers:
                writer.close()

    async def _pump(self, way: Way, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due_s = 0.0
        while piece := await self._read(link, reader):
            while piece and not self._swallows(way, link, piece):
                fault = self._faults[way]
                part = piece
                match fault.kind:
                    case Kind.STALL:
                        await self._changed.wait()
                        continue
                    case Kind.CUT_AFTER if fault.times is None or fault.times > self.seen.cut:
                        part = piece[: int(link.budget_bytes[way])]
                        link.budget_bytes[way] -= len(part)
                        if link.budget_bytes[way] < 1:
                            self.seen.cut += 1
                            await self._pass(way, writer, part)
                            raise _Cut
                    case Kind.THROTTLE:
                        part = piece[: max(1, int(fault.value / 20))]
                        due_s = max(due_s, time.monotonic()) + len(part) / fault.value
                        if await self._changes_within(due_s - time.monotonic()):
                            continue
                    case Kind.DELAY:
                        if await self._changes_within(fault.value):
                            continue
                await self._pass(way, writer, part)
                piece = piece[len(part) :]
        # The news of an end travels no better than bytes do.
        while self._faults[way].kind in (Kind.STALL, Kind.BLACK_HOLE):
            await self._changed.wait()
        if link.lost:
            raise _Cut
        if writer.can_write_eof():
            writer.write_eof()

    async def _read(self, link: _Link, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(PIECE_BYTES)
        except ConnectionError:
            while self._in_hole():
                await self._changed.wait()
            link.reset()
            raise

    def _in_hole(self) -> bool:
        return any(fault.kind is Kind.BLACK_HOLE for fault in self._faults.values())

    def _swallows(self, way: Way, link: _Link, piece: bytes) -> bool:
        if self._faults[way].kind is Kind.BLACK_HOLE:
            link.lost = True
        if link.lost:
            self.seen.swallowed_bytes[way] += len(piece)
        return link.lost

    async def _pass(self, way: Way, writer: asyncio.StreamWriter, piece: bytes) -> None:
        self.seen.passed_bytes[way] += len(piece)
        writer.write(piece)
        await writer.drain()

    async def _changes_within(self, pause_s: float) -> bool:
        """Wait for so long; True when the faults change before."""
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause_s)):
                await changed.wait()
        return changed.is_set()


async def _end_in_order(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End our side, and hear the client out: closed with bytes unread, a socket is reset and loses what it sent."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(LAST_WORDS_S):
            while await reader.read(PIECE_BYTES):
                pass


class _Cut(Exception):
    """This connection ends here, both ways."""


def _listening(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    listener.setblocking(False)
    return listener
