"""What a seed decides beforehand: how large the world is, and which faults live in it."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

FAULTS = (
    "crash",  # a process is killed, and another starts in its place
    "freeze",  # a process is stopped for some leases, then goes on
    "drain",  # a process is told to stop
    "skew",  # the clocks of the processes differ
    "ledger_refuses",  # a transaction fails before it begins
    "ledger_forgets",  # a transaction is committed, and the answer is lost
    "ledger_away",
    "ledger_slow",
    "bell_loses",
    "bell_doubles",
    "bell_delays",
    "bell_refuses",
    "bell_empties",  # FLUSHALL
    "bell_away",
    "storage_fails",
    "storage_slow",
    "storage_away",
    "storage_lies",  # fewer bytes than promised, and no error
    "replaced",  # an object is overwritten
    "missing",
    "offline",
    "forbidden",
    "killer",  # a file that ends the process that reads it
    "api_refuses",  # an error, and nothing was done
    "api_forgets",  # done, and the answer is lost
    "api_slow",
    "api_throttles",  # 429 with Retry-After
    "api_locks_out",  # 401 for a while
    "api_away",
    "api_rejects",  # one file's reports are never taken
    "unknown",  # the event names files LABDRIVE does not know
    "posted_often",
    "replay",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`rates` are chances per call; what befalls a process or a server does so once to four times, when not 0."""

    seed: int
    horizon_s: float
    processes: int
    slots: int
    runs: int
    files_max: int
    rates: Mapping[str, float]

    def has(self, *faults: str) -> bool:
        return any(self.rates[fault] > 0 for fault in faults)


def plan_of(seed: int, *, surely: Mapping[str, float] | None = None) -> Plan:
    """Return the plan of `seed`, with the rates `surely` in a world that stays hostile for longer.

    Few faults at a time find more than all at once: one hides what another shows.
    """
    chance = random.Random(f"plan {seed}")
    share = chance.choice((0.0, 0.1, 0.2, 0.2, 0.35, 0.5))
    rates = {fault: chance.uniform(0.02, 0.3) if chance.random() < share else 0.0 for fault in FAULTS}
    rates |= surely or {}
    return Plan(
        seed=seed,
        horizon_s=chance.uniform(3.0, 14.0) + (30.0 if surely else 0.0),
        processes=chance.choice((2, 2, 3)),
        slots=chance.choice((1, 2, 3)),
        runs=chance.choice((1, 1, 1, 2, 3)),
        files_max=chance.choice((2, 4, 8)),
        rates=rates,
    )
