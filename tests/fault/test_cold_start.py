"""Every process started while ledger and Redis are away: each waits, and works once they are there."""

import time

import pytest

from hashmill.parts.postgres import Postgres
from tests.fault.figures import Row
from tests.fault.load import Store, scaled
from tests.fault.site import fault_site
from tests.fault.test_ledger_gone import back_at_the_end

CONTAINERS = 1
AWAY_S = 20.0
RECOVERY_MAX_S = 30.0
WORKERS = 2


@pytest.mark.timeout(900)
def test_what_starts_into_an_outage_waits_for_its_end(
    store: Store, own_postgres: Postgres, fresh_ledger: str, table: list[Row]
) -> None:
    with (
        back_at_the_end(own_postgres),
        fault_site(store, ledger_url=fresh_ledger, workers=WORKERS, dispatchers=1) as site,
    ):
        total = site.post_all(CONTAINERS)
        site.wait_for_progress(scaled(total // 4))
        own_postgres.stop()
        site.redis.kill()
        for name in site.supervisor.names():
            site.supervisor.kill(name)
            site.faults += 1
        time.sleep(AWAY_S)  # the outage itself
        site.redis.restart()
        own_postgres.restart()
        took_s = site.wait(
            lambda: len(site.present()) == WORKERS and site.present("dispatcher"), timeout_s=120, what="all are back"
        )
        site.recoveries_s.append(took_s)
        site.post_all(CONTAINERS)
        late = [f"all were back after {took_s:.1f} s"] if took_s > RECOVERY_MAX_S else []
        row, verdict = site.finish(
            "cold-start",
            f"a process started while ledger and Redis are away for {AWAY_S:g} s",
            f"none exits; at work <= {RECOVERY_MAX_S:g} s after their return",
            broken=late,
        )
        table.append(row)

    assert not row.broken, verdict
