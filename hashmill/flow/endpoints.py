"""
Whether the S3 servers answer, as this process knows it. An outage is the server's: it costs no file an attempt.

Nothing here is shared or kept. Another process finds out for itself, and a new one begins with trust.
"""

import asyncio
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
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
SCOUT_EVERY_S = 30.0
"""A server that does not answer the question may read all the same: one file finds out, so long after the last one."""
BUSY_S = 900.0
"""So long 'busy' costs no attempt, and after so long without it the count begins anew. known: S3 throttles
by prefix, while it splits that up. assumed: for minutes, and an object that can never be had may say the same."""
BUSY_PAUSE_S = (15.0, 45.0)
"""After so long a file is handed out again for which the server was busy; asked more often, it stays so."""
AWAY = "the S3 server is away"
STREAK_GAP_S = 120.0
"""Not seen away for so long, the next time is another outage."""


@dataclass(slots=True)
class Endpoint:
    """One S3 server as one set of keys meets it; times are on `tools.clock_s`.

    `served_s` is when a read last went through, `answered_s` when it last answered anything, `away_s` when it last was
    away, `since_s` when that outage was first noticed, `asked_s` when the last finished probe was sent, `scouted_s`
    when a scout last came back; `busy_since_s` and `busy_s` are the first and the last 'busy' of a row. What a file
    hears that is given back untried: `error_class` and `said`.
    """

    served_s: float = -math.inf
    answered_s: float = -math.inf
    away_s: float = -math.inf
    since_s: float = -math.inf
    asked_s: float = -math.inf
    scouted_s: float = -math.inf
    busy_since_s: float = -math.inf
    busy_s: float = -math.inf
    error_class: ErrorClass = ErrorClass.S3_TIMEOUT
    said: str = AWAY
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    scouting: bool = False

    @property
    def away(self) -> bool:
        return self.away_s > self.answered_s

    def given_up(self, tools: WorkTools) -> bool:
        """Return whether the outage lasts too long to be waited for: only a try can fail a file."""
        return self.away_s - self.since_s >= tools.rules.outage_give_up_after_s

    def scout_due(self, now_s: float) -> bool:
        return not self.scouting and now_s - max(self.since_s, self.scouted_s) >= SCOUT_EVERY_S

    def was_served(self, now_s: float) -> None:
        """A read went through."""
        self.served_s = self.answered_s = now_s

    def was_away(self, now_s: float) -> None:
        """A question found no answer, or only 'later'."""
        if now_s - self.away_s > STREAK_GAP_S or self.served_s > self.away_s:
            self.since_s = now_s
        self.away_s = now_s

    def was_busy(self, now_s: float) -> float:
        """A file was told 'later'; return since how long that has been so."""
        if now_s - self.busy_s > BUSY_S:
            self.busy_since_s = now_s
        self.busy_s = now_s
        return now_s - self.busy_since_s

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
    """Return what is known of the server of `place`. Keys that it refuses hold nobody up who comes with others."""
    config = place.config
    address = config.endpoint_url or config.region
    name = f"{address} {config.access_key_id}" if config.access_key_id else address
    if (known := tools.endpoints.get(name)) is None:
        known = tools.endpoints[name] = Endpoint()
    return known


async def rest_s(tools: WorkTools, place: ObjectPlace, error: HashmillError, *, began_s: float) -> float | None:
    """Return how long a file rests whose try, begun at `began_s`, met `error` by no fault of its own; None if it is.

    The server is asked a small question, and was at fault if it was away at any time since the try began; one that
    refuses what is signed here is away for this process. After `outage_give_up_after_s` that is nobody's fault any
    more, and attempts count.

    A server that answers well and is busy for this file may be so for a prefix, or for one object for ever. The first
    must fail no file within minutes, and the second must not hold a run for a day: so no attempt counts until files
    have been told 'busy' for `BUSY_S`, whoever else was served.
    """
    endpoint = endpoint_of(tools, place)
    now_s = tools.clock_s()
    endpoint.error_class, endpoint.said = (
        (error.error_class, str(error)) if isinstance(error, SigningRefused) else (ErrorClass.S3_TIMEOUT, AWAY)
    )
    await endpoint.ask(tools, place, no_older_s=now_s)
    if endpoint.away_s >= began_s:
        return None if endpoint.given_up(tools) else pause_s(endpoint)
    if isinstance(error, StorageThrottled) and endpoint.was_busy(now_s) < BUSY_S:
        pause = random.uniform(*BUSY_PAUSE_S)  # noqa: S311 - spreads load, keeps no secret
        return max(pause, error.retry_after_s or 0.0)
    return None


async def is_back(tools: WorkTools, place: ObjectPlace) -> bool:
    """Return at once where nothing is known against the server; else wait for it a little: whether files may try it."""
    endpoint = endpoint_of(tools, place)
    ends_s = tools.clock_s() + WAIT_S
    while endpoint.away and not tools.draining.is_set():
        await endpoint.ask(tools, place, no_older_s=tools.clock_s() - PROBE_EVERY_S)
        if not endpoint.away:
            break
        if tools.clock_s() > ends_s:
            return endpoint.given_up(tools) or endpoint.scout_due(tools.clock_s())
        await asyncio.sleep(PROBE_EVERY_S)
    return not endpoint.away


@contextmanager
def passage(tools: WorkTools, endpoint: Endpoint) -> Iterator[bool]:
    """Give whether a file may be tried now; to a server that is away goes one alone, a scout, from time to time."""
    if not endpoint.away or endpoint.given_up(tools):
        yield True
    elif not endpoint.scout_due(tools.clock_s()):
        yield False
    else:
        endpoint.scouting = True
        try:
            yield True
        finally:
            endpoint.scouting = False
            endpoint.scouted_s = tools.clock_s()


def pause_s(endpoint: Endpoint) -> float:
    """Return how long a file rests that an outage sent back."""
    return random.uniform(*(PAUSE_S if endpoint.away else BACK_PAUSE_S))  # noqa: S311 - spreads load, keeps no secret
