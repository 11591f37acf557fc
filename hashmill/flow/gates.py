"""
Whether deliveries may go on: a breaker for each API, and one for each key that LABDRIVE takes or refuses.

Shut, it lets one call try at a time, after a pause that grows; all else waits and burns no attempt. The ledger keeps
what is shut, so a new leader finds it. Whoever leads is alone, so nobody else has to be asked whether it may try.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.pause import jittered
from hashmill.domain.text import one_line
from hashmill.flow.tools import Rules, WorkTools
from hashmill.ledger import counters, gates
from hashmill.ledger.gates import GateKind

FAILURES_MAX = 5
"""So many failures in a row, with no success between, are the API's and not the reports'.

At 5 % of answers gone wrong by chance that comes once in three million calls.
"""
FORBIDDEN_MAX = 3
"""So many 403 in a row are the key's and not the reports'."""
AT_CAP = 0.75
"""Once the pause has reached its cap none is shorter than this share of it: four tries a minute at a cap of 20 s."""
KEY_BASE_S, KEY_CAP_S = 60.0, 900.0
RETRIES_PER_CALL = 0.1
RETRIES_PER_S = 2.0
RETRIES_SAVED_MAX = 20.0
FORGOTTEN_AFTER_S = 3600.0
"""A gate that nothing has wanted to pass for so long holds nothing back, and nobody is told of it any more."""
FORGET_EVERY_S = 60.0
KEPT_MAX = 10_000


@dataclass(slots=True)
class Breaker:
    """One API, or one key. It is shut while `shut_at_s` is set; from `until_s` on one call may try (`clock_s`)."""

    name: str
    kind: GateKind
    base_s: float
    cap_s: float
    clock_s: Callable[[], float]
    in_a_row: int = 0
    proven: bool = False
    """Whether it took something since this process leads."""
    failures: int = 0
    shut_at_s: float | None = None
    until_s: float = 0.0
    reason: str = ""
    changed: bool = False
    lost: int = 0
    """How often it was shut anew, not written down yet."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    retries: float = RETRIES_SAVED_MAX
    counted_at_s: float = 0.0

    @property
    def shut(self) -> bool:
        return self.shut_at_s is not None

    @property
    def due(self) -> bool:
        """Whether a call may try."""
        return self.until_s <= self.clock_s()

    @property
    def shut_for_s(self) -> float:
        return 0.0 if self.shut_at_s is None else self.clock_s() - self.shut_at_s

    def took(self, *, trial: bool) -> None:
        """A call went through. Only the trial's opens: others were under way before it was shut, and prove nothing."""
        self.in_a_row, self.proven = 0, True
        if self.shut and trial:
            self.shut_at_s, self.failures, self.changed = None, 0, True

    def failed(self, reason: str, *, trial: bool, asked_s: float = 0.0, failures_max: int = FAILURES_MAX) -> None:
        """A call did not go through; `asked_s` is the pause the other side asked for, which shuts at once."""
        self.in_a_row += 1
        if self.shut and not trial:
            self.until_s = max(self.until_s, self.clock_s() + asked_s)
            return
        if not trial and not asked_s and self.in_a_row < failures_max:
            return
        if not self.shut:
            self.shut_at_s = self.clock_s()
            self.lost += 1
        self.failures += 1
        self.until_s = self.clock_s() + max(asked_s, self._pause_s())
        self.reason = one_line(reason, max_chars=1000)
        self.changed = True

    def _pause_s(self) -> float:
        at_cap = self.base_s * 2.0 ** min(self.failures, 60) >= self.cap_s
        return max(AT_CAP * self.cap_s * at_cap, jittered(self.failures, base_s=self.base_s, cap_s=self.cap_s))

    def forget(self) -> None:
        """Trust again, as nothing is owed here any more."""
        self.shut_at_s, self.failures, self.in_a_row, self.changed = None, 0, 0, True

    def may_retry(self) -> bool:
        """Whether the retry budget has one more: a tenth of the other calls, and a few so that the last ones end."""
        now_s = self.clock_s()
        self._save(RETRIES_PER_S * (now_s - self.counted_at_s))
        self.counted_at_s = now_s
        if self.retries < 1.0:
            return False
        self.retries -= 1.0
        return True

    def first_try(self) -> None:
        """A call is made that is no retry."""
        self._save(RETRIES_PER_CALL)

    def _save(self, more: float) -> None:
        self.retries = min(RETRIES_SAVED_MAX, self.retries + more)


@dataclass(slots=True)
class Gates:
    """Every breaker this leader knows; `load` first."""

    breakers: dict[str, Breaker] = field(default_factory=dict)
    loaded: bool = False
    looked_at_s: float = 0.0

    async def load(self, tools: WorkTools) -> None:
        """Take over what the ledger says is shut, once."""
        if self.loaded:
            return
        for kind in (GateKind.API, GateKind.KEY):
            await tools.ledger.write(gates.forget, kind=kind, older_s=FORGOTTEN_AFTER_S)
        for gate in await tools.ledger.read(gates.listed):
            if gate.kind is not GateKind.DISPATCH:
                breaker = self._breaker(tools, gate.name, gate.kind)
                breaker.shut_at_s = tools.clock_s() - gate.shut_s
                breaker.until_s = tools.clock_s() + gate.remaining_s
                breaker.failures, breaker.reason = gate.failures, gate.reason
        self.loaded = True

    async def forget(self, tools: WorkTools, *, but: Collection[str]) -> None:
        """Open, once a minute, what nothing has wanted to pass for long, `but` those where a call tries just now."""
        now_s = tools.clock_s()
        if now_s < self.looked_at_s + FORGET_EVERY_S:
            return
        self.looked_at_s = now_s
        for breaker in list(self.breakers.values()):
            if breaker.shut and breaker.until_s < now_s - FORGOTTEN_AFTER_S and breaker.name not in but:
                breaker.forget()
                await keep(tools, breaker)

    def api(self, tools: WorkTools, origin: str) -> Breaker:
        """Return the breaker of the API at `origin`."""
        return self._breaker(tools, origin, GateKind.API)

    def key(self, tools: WorkTools, origin: str, user_id: str, fingerprint: str) -> Breaker:
        """Return the breaker of one key; a user who gets a new key is not held back by the old one."""
        return self._breaker(tools, f"{origin} user {user_id[:60]} key {fingerprint}"[-300:], GateKind.KEY)

    def _breaker(self, tools: WorkTools, name: str, kind: GateKind) -> Breaker:
        if len(self.breakers) > KEPT_MAX:
            self.breakers = {known: breaker for known, breaker in self.breakers.items() if breaker.shut}
        return self.breakers.setdefault(name, _new(tools.rules, name, kind, tools.clock_s))


def _new(rules: Rules, name: str, kind: GateKind, clock_s: Callable[[], float]) -> Breaker:
    if kind is GateKind.API:
        return Breaker(name, kind, rules.report_base_s, rules.report_probe_cap_s, clock_s, counted_at_s=clock_s())
    # A key that is given up soon is asked about sooner.
    cap_s = min(KEY_CAP_S, rules.report_auth_give_up_after_s / 4)
    return Breaker(name, kind, min(KEY_BASE_S, cap_s), cap_s, clock_s, counted_at_s=clock_s())


async def keep(tools: WorkTools, breaker: Breaker) -> None:
    """Write down what changed about a breaker, one write after the other, so that the last one stands."""
    async with breaker.writing:
        if not breaker.changed:
            return
        lost, breaker.changed, breaker.lost = breaker.lost, False, 0
        shut = None
        if breaker.shut:
            shut = {
                "kind": breaker.kind,
                "failures": breaker.failures,
                "for_s": breaker.until_s - breaker.clock_s(),
                "reason": breaker.reason,
            }
        try:
            await tools.ledger.write(_write, breaker.name, breaker.kind, shut, lost)
        except LedgerUnavailable:
            breaker.changed, breaker.lost = True, breaker.lost + lost
            raise


def _write(connection: sa.Connection, name: str, kind: GateKind, shut: dict[str, Any] | None, lost: int) -> None:
    if shut is None:
        gates.open_(connection, name)
    else:
        gates.shut(connection, name, **shut)
    counters.add(connection, Counted.APIS_LOST if kind is GateKind.API else Counted.KEYS_REFUSED, lost)
