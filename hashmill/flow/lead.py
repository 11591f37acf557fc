"""
Leading: dispatch, delivery, sweep and numbering run in one process at a time, the holder of a lease.

Any process may take it. A leader that cannot renew in time stops by itself before anybody else can begin.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from hashmill.domain.errors import LedgerUnavailable
from hashmill.flow.deliver import Deliverer
from hashmill.flow.dispatch import Dispatcher
from hashmill.flow.finish import finish
from hashmill.flow.present import reached_for_s
from hashmill.flow.sweep import sweep
from hashmill.flow.tools import WorkTools
from hashmill.ledger import entries, leases

log = logging.getLogger(__name__)

LEADER = "leader"
SWEEP_EVERY_S = 1.0
POLL_MAX_S = 1.0
"""Who does not lead looks so often whether nobody does: a dead leader is followed within its lease and this."""
DUTY_REST_S = 1.0
"""A duty that met a bug begins again after so long; the others go on meanwhile."""


async def lead(tools: WorkTools, stop: asyncio.Event) -> None:
    """Try to lead, and lead, until `stop`; then let the lease go so that the next one begins at once."""
    try:
        while not stop.is_set():
            hold = _Hold.from_now(tools)
            if await _take(tools) is not None:
                log.info("leading", extra={"holder": tools.process})
                await _while_leading(tools, stop, hold)
                log.info("not_leading", extra={"holder": tools.process})
            await _pause(stop, min(POLL_MAX_S, tools.rules.leader_lease_s / 3))
    finally:
        with suppress(LedgerUnavailable):
            await tools.ledger.write_lease(leases.release, LEADER, tools.process)


@dataclass(slots=True)
class _Hold:
    """Until when nobody else can lead, on this machine's monotonic clock: counted from before the lease was asked for.

    That clock goes on while a process is stopped, so one that wakes too late knows at once.
    """

    until_s: float
    clock_s: Callable[[], float]

    @classmethod
    def from_now(cls, tools: WorkTools) -> "_Hold":
        return cls(tools.clock_s() + tools.rules.leader_lease_s, tools.clock_s)

    def sure(self) -> bool:
        return self.clock_s() < self.until_s


async def _while_leading(tools: WorkTools, stop: asyncio.Event, hold: _Hold) -> None:
    dispatcher, deliverer = Dispatcher(), Deliverer(held=hold.sure)
    unfinished: dict[str, float] = {}
    # These two wait for each other at a run's end: the last report sent lets it close, and closing owes another.
    due = {"deliver": asyncio.Event(), "finish": asyncio.Event()}

    async def delivered() -> int:
        before = len(deliverer.at_work)
        after = await deliverer.round(tools)
        if after < before:
            due["finish"].set()
        return after

    async def finished() -> int:
        moved = await finish(tools, unfinished)
        if moved:
            due["deliver"].set()
        return moved

    async def number() -> int:
        return await tools.ledger.write(entries.number)

    async def swept() -> int:
        # After a gap, as when the ledger was away, processes that live get so long to renew their leases.
        grace_s = tools.rules.file_lease_s / 3 + SWEEP_EVERY_S
        await sweep(tools, take_back=await tools.ledger.write(reached_for_s, tools) >= grace_s)
        return 0

    duties = [
        asyncio.create_task(_duty(tools, "dispatch", lambda: dispatcher.round(tools))),
        asyncio.create_task(_duty(tools, "deliver", delivered, due=due["deliver"])),
        asyncio.create_task(_duty(tools, "finish", finished, due=due["finish"])),
        asyncio.create_task(_duty(tools, "number", number)),
        asyncio.create_task(_duty(tools, "sweep", swept, idle_s=SWEEP_EVERY_S)),
    ]
    renewing = asyncio.create_task(_renew(tools, hold))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*duties, renewing, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*duties, renewing, stopping):
            task.cancel()
        ended = await asyncio.gather(*duties, renewing, stopping, return_exceptions=True)
        await deliverer.stop()
    for outcome in ended:
        if isinstance(outcome, Exception):
            log.error("leading_failed", exc_info=outcome)


async def _duty(
    tools: WorkTools,
    name: str,
    round_: Callable[[], Awaitable[int]],
    *,
    idle_s: float | None = None,
    due: asyncio.Event | None = None,
) -> None:
    """Run `round_` again and again, sooner while it has work or is `due`; a ledger that is away is waited for.

    A bug is said loudly, and the duty begins again: it must not stop the others.
    """
    due = due or asyncio.Event()
    while True:
        due.clear()
        # Gathered, so that whatever went wrong comes back as a value.
        [ended] = await asyncio.gather(round_(), return_exceptions=True)
        pause_s = idle_s or tools.rules.idle_tick_s
        if isinstance(ended, LedgerUnavailable):
            log.warning("ledger_away", extra={"duty": name, "reason": str(ended)})
        elif isinstance(ended, Exception):
            log.error("duty_failed", extra={"duty": name}, exc_info=ended)
            pause_s = DUTY_REST_S
        elif isinstance(ended, BaseException):
            raise ended
        elif ended:
            pause_s = tools.rules.tick_s
        await _pause(due, pause_s)


async def _renew(tools: WorkTools, hold: _Hold) -> None:
    """Renew the lease every third of it; return when it is somebody else's or may be so by now."""
    lease_s = tools.rules.leader_lease_s
    while True:
        await asyncio.sleep(lease_s / 3)
        renewed = _Hold.from_now(tools)
        try:
            async with asyncio.timeout(hold.until_s - lease_s / 6 - tools.clock_s()):
                fence = await _take(tools)
        except TimeoutError:
            return
        if fence is not None:
            hold.until_s = renewed.until_s
        elif tools.clock_s() > hold.until_s - lease_s / 3:
            return


async def _take(tools: WorkTools) -> int | None:
    try:
        return await tools.ledger.write_lease(
            leases.take, LEADER, tools.process, lease_s=tools.rules.leader_lease_s, detail={"process": tools.process}
        )
    except LedgerUnavailable as trouble:
        log.warning("ledger_away", extra={"duty": "lead", "reason": str(trouble)})
        return None


async def _pause(until: asyncio.Event, pause_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await until.wait()
