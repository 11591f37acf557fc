"""Child processes under a guard: their lines passed on, started again when they end, drained at last."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hashmill.cli.exits import ExitCode
from hashmill.parts.process import GUARD

PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses before a child that ended is started again; the last one stays."""
HEALTHY_AFTER_S: Final = 60.0
"""A child that lived so long begins again with the first pause."""
READ_BYTES: Final = 65_536

Say = Callable[[str, str], None]
"""(name of the child, one line)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A child to be kept running. `grace_s` is how long it may drain when this process is killed."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    grace_s: float


class Crew:
    """The children of one process. `keep` runs them until `stop`, `kill` makes an end."""

    def __init__(
        self,
        orders: Sequence[Order],
        say: Say,
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        healthy_after_s: float = HEALTHY_AFTER_S,
    ) -> None:
        self._orders = orders
        self._say = say
        self._pauses_s = pauses_s
        self._healthy_after_s = healthy_after_s
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self.verdict = ExitCode.OK
        """CONFIG when a child ended because of a setting, BAD when one had to be killed."""

    async def keep(self) -> None:
        """Run every child, again and again, until `stop` was called and all of them have ended."""
        async with asyncio.TaskGroup() as group:
            for order in self._orders:
                group.create_task(self._keep(order))

    def stop(self) -> None:
        """Ask every child to end; `keep` returns when they have."""
        self._stopping.set()
        for guard in self._running.values():
            _send(guard, signal.SIGTERM)

    def kill(self) -> None:
        """End every child at once."""
        self.verdict = ExitCode.BAD
        for guard in self._running.values():
            _send(guard, signal.SIGKILL)

    async def _keep(self, order: Order) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            started_s = loop.time()
            code = await self._run(order)
            if self._stopping.is_set():
                self._say(order.name, f"ended with status {code}")
                return
            if code == ExitCode.CONFIG:
                # Starting it again would only say the same again.
                self._say(order.name, "ended because of its settings; stopping everything")
                self.verdict = ExitCode.CONFIG
                self.stop()
                return
            failures = 0 if loop.time() - started_s > self._healthy_after_s else failures
            pause_s = self._pauses_s[min(failures, len(self._pauses_s) - 1)]
            failures += 1
            self._say(order.name, f"ended with status {code}; starting it again in {pause_s:g} s")
            await _first(self._stopping, pause_s)

    async def _run(self, order: Order) -> int:
        guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(GUARD), _order_of_guard(order)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=order.environ,
            start_new_session=True,  # Ctrl-C is for us; we tell the children
        )
        self._running[order.name] = guard
        try:
            if self._stopping.is_set():
                _send(guard, signal.SIGTERM)
            pid = (await _stream(guard.stdout).readline()).decode().strip()
            self._say(order.name, f"started as process {pid or '(none)'}")
            async for line in _lines(_stream(guard.stderr)):
                self._say(order.name, line)
            return await guard.wait()
        finally:
            del self._running[order.name]
            if guard.stdin is not None:
                guard.stdin.close()


def _order_of_guard(order: Order) -> str:
    return json.dumps({"argv": list(order.argv), "user": None, "stop_signal": signal.SIGTERM, "grace_s": order.grace_s})


def _send(guard: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if guard.stdin is not None and not guard.stdin.is_closing():
        guard.stdin.write(bytes([number]))


def _stream(pipe: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if pipe is None:
        raise RuntimeError("the guard was started without pipes")
    return pipe


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield lines of any length, the last one also without its end."""
    rest = b""
    while block := await stream.read(READ_BYTES):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


async def _first(event: asyncio.Event, at_most_s: float) -> Any:
    """Wait for the event, `at_most_s` at most."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([waiting], timeout=at_most_s)
    waiting.cancel()
