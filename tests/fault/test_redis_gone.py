"""Redis killed 15 times and back empty, and emptied 10 times, over 20,000 files: recovered within 20 s each."""

import socket

import pytest

from tests.fault.figures import Row
from tests.fault.load import Store, say, scaled
from tests.fault.site import FaultSite, fault_site

KILLS = 15
FLUSHES = 10
CONTAINERS = 10
RECOVERY_MAX_S = 20.0


@pytest.mark.timeout(1800)
def test_an_empty_redis_costs_seconds_and_no_file(store: Store, fresh_ledger: str, table: list[Row]) -> None:
    kills, flushes = scaled(KILLS, least=1), scaled(FLUSHES, least=1)
    with fault_site(store, ledger_url=fresh_ledger, workers=2) as site:
        total = site.post_all(CONTAINERS)
        faults = [site.redis.restart] * kills + [lambda: flush(site)] * flushes
        site.chance.shuffle(faults)
        for number, fault in enumerate(faults, 1):
            site.wait_for_progress(total * number // (len(faults) + 2))
            if fault == site.redis.restart:
                site.redis.kill()
            fault()
            site.faults += 1
            over_ms = site.database_ms()
            site.recoveries_s.append(
                site.wait(lambda: site.claimed_since(over_ms), timeout_s=120, what="a new ticket is claimed")  # noqa: B023
            )
            say(f"fault {number} of {len(faults)}: recovered after {site.recoveries_s[-1]:.1f} s")

        late = [f"recovery took {each:.1f} s" for each in site.recoveries_s if each > RECOVERY_MAX_S]
        row, verdict = site.finish(
            "redis-gone",
            "SIGKILL of Redis, back empty, or FLUSHALL",
            f"0 lost, 0 wrong, 0 doubled; recovery <= {RECOVERY_MAX_S:g} s each",
            broken=late,
            more={"kills": kills, "flushes": flushes},
        )
        table.append(row)

    assert not row.broken, verdict


def flush(site: FaultSite) -> None:
    with socket.create_connection(("127.0.0.1", site.redis.port), timeout=5) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(5) == b"+OK\r\n"
