"""
Everything at once, at random, for as long as asked: kills of workers, leader and Redis, and paths that fail.

    python -m tests.fault.soak --hours 0.02 [--seed 1]

Events are posted all the time, so that there is always work. When the time is over everything heals, every run must
end, and the checker has the last word. The seed is printed; it fixes which faults come, not how the machine takes them.
"""

import argparse
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from hashmill.domain.errors import LedgerUnavailable
from hashmill.parts.postgres import start_postgres
from tests.fault.load import filled_store, say
from tests.fault.proxy import BLACK_HOLE, REFUSE, RESET, STALL, Fault, cut_after, delay, throttle
from tests.fault.site import ROUTES, FaultSite, fault_site
from tests.helpers.servers import work_folder

PAUSE_S: Final = (2.0, 10.0)
PATH_FAULT_S: Final = (1.0, 20.0)
OPEN_CONTAINERS: Final = 2
"""So many containers of files wait or are worked at any time, at least."""
PATH_FAULTS: Final[tuple[Callable[[random.Random], Fault], ...]] = (
    lambda chance: BLACK_HOLE,
    lambda chance: STALL,
    lambda chance: REFUSE,
    lambda chance: RESET,
    lambda chance: delay(chance.uniform(0.05, 1.0)),
    lambda chance: throttle(chance.uniform(10_000, 200_000)),
    lambda chance: cut_after(chance.randint(100, 50_000)),
)


@dataclass(slots=True)
class Soak:
    """One soak. `done` counts the faults by name."""

    site: FaultSite
    ends_s: float
    done: Counter[str] = field(default_factory=Counter)
    posted: int = 0

    def run(self) -> None:
        """Post and break until the time is over, then heal."""
        chance = self.site.chance
        faults = (self.kill_worker, self.kill_worker, self.kill_leader, self.lose_redis, self.empty_redis, self.bend)
        while time.monotonic() < self.ends_s:
            self.post()
            with suppress(LedgerUnavailable):
                name = chance.choice(faults)()
                self.done[name] += 1
                self.site.faults += 1
            self.rest(chance.uniform(*PAUSE_S))
        for proxy in self.site.proxies.values():
            proxy.heal()

    def post(self) -> None:
        """Keep enough work waiting."""
        with suppress(LedgerUnavailable):
            each = self.site.store.files_each
            while self.posted * each - self.site.ended_files() < OPEN_CONTAINERS * each:
                containers = self.site.store.content.files
                self.site.load.post_until_accepted(str(self.posted % len(containers) + 1))
                self.posted += 1

    def rest(self, pause_s: float) -> None:
        """Let time go by, but not past the end."""
        time.sleep(max(0.0, min(pause_s, self.ends_s - time.monotonic())))

    def kill_worker(self) -> str:
        self.site.supervisor.kill(self.site.chance.choice(self.site.supervisor.names("worker")))
        return "worker"

    def kill_leader(self) -> str:
        leads = self.site.leader()
        name = self.site.process_of(leads.holder) if leads is not None else None
        if name is not None:
            self.site.supervisor.kill(name)
        return "leader"

    def lose_redis(self) -> str:
        self.site.redis.kill()
        self.rest(self.site.chance.uniform(0, 5))
        self.site.redis.restart()
        return "redis"

    def empty_redis(self) -> str:
        with socket.create_connection(("127.0.0.1", self.site.redis.port), timeout=5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(5) == b"+OK\r\n"
        return "flush"

    def bend(self) -> str:
        """Let one path fail for a while."""
        chance = self.site.chance
        route = chance.choice(sorted(self.site.proxies))
        fault = chance.choice(PATH_FAULTS)(chance)
        self.site.proxies[route].set(fault)
        self.rest(chance.uniform(*PATH_FAULT_S))
        self.site.proxies[route].heal()
        return f"{route} {fault.kind}"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--hours", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--workers", type=int, default=2)
    asked = options.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    say(f"soak of {asked.hours:g} hours, --seed {seed}")
    with (
        work_folder("soak") as folder,
        work_folder("pg") as database_folder,
        filled_store(folder) as store,
        start_postgres(database_folder) as postgres,
        fault_site(
            store, ledger_url=postgres.fresh_database(), workers=asked.workers, via=sorted(ROUTES), seed=seed
        ) as site,
    ):
        soak = Soak(site, ends_s=time.monotonic() + asked.hours * 3600)
        soak.run()
        say(f"{site.faults} faults: {dict(soak.done)}")
        row, _ = site.finish(
            "soak",
            "a fault of any kind, at random",
            "0 lost, 0 wrong, 0 doubled",
            more={"seed": seed, "hours": asked.hours, "faults": dict(soak.done), "posted": soak.posted},
        )
    return 1 if row.broken else 0


if __name__ == "__main__":
    sys.exit(main())
