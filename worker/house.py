"""The open house of a worker process: its tools, its loop, and what runs beside the tickets."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hashmill.assemble import open_work
from hashmill.domain.errors import LedgerUnavailable
from hashmill.flow.lead import lead
from hashmill.flow.present import keep_leases, leave
from hashmill.flow.tools import WorkTools
from hashmill.flow.trial import Trial
from hashmill.settings import Settings, reading_environment
from worker.loop import LoopThread

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 20.0
ONCE_MORE_S = 5.0
TRIAL = (sys.executable, "-P", str(Path(__file__).with_name("trial.py")))
"""Run as a file, so that it is found in a checkout and in an installed package alike; it reads the same settings."""


class WorkerHouse:
    """Opened once per process; `drain` and `close` end it in order."""

    def __init__(self, settings: Settings, *, slots: int, queues: list[str]) -> None:
        self._settings = settings
        self._loop = LoopThread()
        self._stack = AsyncExitStack()
        self._stop_leading: asyncio.Event
        self._beside: list[Future[Any]] = []
        self._tickets: set[Future[None]] = set()
        self._lock = threading.Lock()
        self.last_ticket_s = time.monotonic()
        self.slots = slots
        self._tools = self._loop.run(self._open(slots, queues))
        self._beside.append(self._loop.start(keep_leases(self._tools)))
        if settings.worker.lead:
            self._beside.append(self._loop.start(lead(self._tools, self._stop_leading)))
        for future in self._beside:
            future.add_done_callback(_stop_if_failed)

    async def _open(self, slots: int, queues: list[str]) -> WorkTools:
        self._stop_leading = asyncio.Event()
        trial = Trial(TRIAL, environ=reading_environment())
        return await self._stack.enter_async_context(open_work(self._settings, slots=slots, queues=queues, trial=trial))

    @property
    def tools(self) -> WorkTools:
        return self._tools

    @property
    def busy(self) -> int:
        """How many tickets are being worked."""
        return len(self._tickets)

    @property
    def loop(self) -> LoopThread:
        return self._loop

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step from a slot thread; raises `concurrent.futures.CancelledError` when drained away."""
        self.last_ticket_s = time.monotonic()
        future = self._loop.start(work)
        with self._lock:
            self._tickets.add(future)
        try:
            future.result()
        finally:
            with self._lock:
                self._tickets.discard(future)
            self.last_ticket_s = time.monotonic()

    def stop_claiming(self) -> None:
        """From now on tickets claim nothing, and somebody else may lead."""
        self._loop.start(self._stop()).result(timeout=CLOSE_TIMEOUT_S)

    async def _stop(self) -> None:
        self._tools.draining.set()
        if self._tools.trial is not None:
            self._tools.trial.drain()
        self._stop_leading.set()

    def drain(self, grace_s: float) -> None:
        """Wait up to `grace_s` for tickets under way, then cancel them: their files are given back uncounted."""
        self.stop_claiming()
        deadline_s = time.monotonic() + grace_s
        while self.busy and time.monotonic() < deadline_s:
            time.sleep(0.05)
        with self._lock:
            late = list(self._tickets)
        if late:
            log.warning("drain_gives_back", extra={"tickets": len(late)})
        for future in late:
            future.cancel()

    def close(self) -> None:
        """Stop what runs beside, say goodbye in the ledger, close the tools."""
        self.stop_claiming()
        for future in self._beside[1:]:
            _wait(future)
        self._beside[0].cancel()
        self._loop.run(self._leave(), timeout_s=CLOSE_TIMEOUT_S)
        self._loop.stop()

    async def _leave(self) -> None:
        try:
            await leave(self._tools)
        except LedgerUnavailable:
            log.warning("ledger_away", extra={"duty": "leave"})
        await self._stack.aclose()


def watch(house: WorkerHouse, *, after_s: float, exit_: Callable[[int], None]) -> None:
    """Exit when the loop hangs, or when tickets wait, slots are free and nothing has arrived for `after_s`.

    A supervisor starts the process again; that cures a broker connection that looks alive and is not, and a loop that
    something blocks: no lease is renewed there, and the slots would never be free again.
    """
    while True:
        time.sleep(max(1.0, after_s / 10))
        if house.tools.draining.is_set():
            continue
        # Asked twice: a process that was stopped for a while wakes with the first time-out over.
        if not (house.loop.answers(within_s=after_s) or house.loop.answers(within_s=ONCE_MORE_S)):
            log.critical("loop_hangs", extra={"after_s": after_s})
            exit_(70)
        quiet_s = time.monotonic() - house.last_ticket_s
        if house.busy >= house.slots or quiet_s < after_s:
            continue
        waiting = house.tools.queue.waiting()
        if waiting and any(waiting.values()):
            log.critical("deaf", extra={"waiting": waiting, "quiet_s": round(quiet_s)})
            exit_(70)


def _wait(future: "Future[Any]") -> None:
    try:
        future.result(timeout=CLOSE_TIMEOUT_S)
    except TimeoutError:
        future.cancel()


def _stop_if_failed(future: "Future[Any]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.critical("duty_ended", exc_info=error)
        # A worker that cannot renew or lead any more is worse than none: drain, and let the supervisor start another.
        os.kill(os.getpid(), signal.SIGTERM)
