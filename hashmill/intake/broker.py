"""How the broker is, without ever waiting long for it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hashmill.flow.tools import DoorTools

ASK_EVERY_S = 2.0
WAIT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    """`waiting` is how many messages wait in each queue."""

    state: Literal["ok", "unavailable", "unknown"]
    waiting: Mapping[str, int]


class BrokerWatch:
    """Asks the broker at most every two seconds, one question at a time, whoever wants to know.

    A broker that swallows packets takes seconds to be given up; meanwhile the answer is the last one known.
    """

    def __init__(self, tools: DoorTools) -> None:
        self._tools = tools
        self._known = BrokerState(state="unknown", waiting={})
        self._asked_at_s = float("-inf")
        self._asking: asyncio.Future[dict[str, int] | None] | None = None

    async def state(self) -> BrokerState:
        """Return how the broker was at most two seconds ago, or last time, when it does not answer within one."""
        loop = asyncio.get_running_loop()
        if self._asking is None and loop.time() - self._asked_at_s >= ASK_EVERY_S:
            self._asking = loop.run_in_executor(self._tools.threads, self._tools.queue.waiting)
            self._asking.add_done_callback(self._heard)
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=WAIT_S)
        return self._known

    def _heard(self, asking: asyncio.Future[dict[str, int] | None]) -> None:
        self._asking = None
        self._asked_at_s = asking.get_loop().time()
        waiting = None if asking.cancelled() else asking.result()
        self._known = BrokerState(state="unavailable" if waiting is None else "ok", waiting=waiting or {})
