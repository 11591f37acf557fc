"""
Whether the S3 servers answer, as this process knows it. An outage is the server's: it costs no file an attempt.

Nothing here is shared or kept. Another process finds out for itself, and a new one begins with trust.
"""

import asyncio
import math
import random
from dataclasses import dataclass, field

from hashmill.domain.errors import ErrorClass, HashmillError, SigningRefused, StorageThrottled
from hashmill.flow.tools import ObjectPlace, WorkTools

PROBE_EVERY_S = 1.0
"""A server known to be away is asked so often, by one question at a time, however many files wait for it."""
WAIT_S = 5.0
"""So long a ticket's files wait in their slot for a server that is away, before they are given back: longer would keep
slots from the tenants of other servers, shorter would turn the whole run over in the ledger again and again."""
PAUSE_S = (5.0, 15.0)
"""After so long a file given back for an outage is handed out again; half of what a recovery may take."""
BACK_PAUSE_S = (0.0, 2.0)
"""The same when the server is back already."""
JUST_NOW_S = 10.0
"""A read that went through so long ago says nothing of the server's state now."""
AWAY = "the S3 server is away"
STREAK_GAP_S = 120.0
"""Not seen away for so long, the next time is another outage."""


@dataclass(slots=True)
class Endpoint:
    """One S3 server; times are on `tools.clock_s`.

    `served_s` is when a read last went through, `answered_s` when it last answered anything, `away_s` when it last was
    away, `since_s` when that outage was first noticed, `asked_s` when the last finished probe was sent. What a file
    hears that is given back untried: `error_class` and `said`.
    """

    served_s: float = -math.inf
    answered_s: float = -math.inf
    away_s: float = -math.inf
    since_s: float = -math.inf
    asked_s: float = -math.inf
    error_class: ErrorClass = ErrorClass.S3_TIMEOUT
    said: str = AWAY
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def away(self) -> bool:
        return self.away_s > self.answered_s

    def was_served(self, now_s: float) -> None:
        """A read went through."""
        self.served_s = self.answered_s = now_s

    def was_away(self, now_s: float) -> None:
        """A question found no answer, or only 'later'."""
        if now_s - self.away_s > STREAK_GAP_S or self.served_s > self.away_s:
            self.since_s = now_s
        self.away_s = now_s

    async def ask(self, tools: WorkTools, place: ObjectPlace, *, no_older_s: float) -> None:
        """Probe, unless a probe sent at `no_older_s` or later has told already; those who come together share one."""
        async with self.asking:
            if self.asked_s >= no_older_s:
                return
            sent_s = tools.clock_s()
            if await tools.storage.answers(place.config, place.bucket):
                self.answered_s = tools.clock_s()
            else:
                self.was_away(tools.clock_s())
            self.asked_s = sent_s


def endpoint_of(tools: WorkTools, place: ObjectPlace) -> Endpoint:
    """Return what is known of the server of `place`."""
    return tools.endpoints.setdefault(place.config.endpoint_url or place.config.region, Endpoint())


async def is_outage(tools: WorkTools, place: ObjectPlace, error: HashmillError, *, began_s: float) -> bool:
    """Return whether `error`, met by a try that began at `began_s`, is the server's fault rather than the object's.

    A server that is busy is at fault unless it served somebody meanwhile. One that did not answer is asked a small
    question: it is at fault if it was away at any time since the try began. One that refuses what this machine signs
    is away for this machine. After `outage_give_up_after_s` it is
    nobody's fault any more, and attempts count.
    """
    endpoint = endpoint_of(tools, place)
    now_s = tools.clock_s()
    clock_wrong = isinstance(error, SigningRefused)
    endpoint.error_class, endpoint.said = (
        (error.error_class, str(error)) if clock_wrong else (ErrorClass.S3_TIMEOUT, AWAY)
    )
    if clock_wrong:
        endpoint.was_away(now_s)
    elif not isinstance(error, StorageThrottled):
        await endpoint.ask(tools, place, no_older_s=now_s)
    elif endpoint.served_s < max(began_s, now_s - JUST_NOW_S):
        endpoint.was_away(now_s)
    return endpoint.away_s >= began_s and endpoint.away_s - endpoint.since_s < tools.rules.outage_give_up_after_s


async def is_back(tools: WorkTools, place: ObjectPlace) -> bool:
    """Return at once where nothing is known against the server; else wait for it a little: whether it answers."""
    endpoint = endpoint_of(tools, place)
    ends_s = tools.clock_s() + WAIT_S
    while endpoint.away and not tools.draining.is_set():
        await endpoint.ask(tools, place, no_older_s=tools.clock_s() - PROBE_EVERY_S)
        if not endpoint.away:
            break
        if tools.clock_s() > ends_s:
            # Tried all the same once the patience is over: only a try can fail the file.
            return endpoint.away_s - endpoint.since_s >= tools.rules.outage_give_up_after_s
        await asyncio.sleep(PROBE_EVERY_S)
    return not endpoint.away


def pause_s(endpoint: Endpoint) -> float:
    """Return how long a file rests that an outage sent back."""
    return random.uniform(*(PAUSE_S if endpoint.away else BACK_PAUSE_S))  # noqa: S311 - spreads load, keeps no secret
