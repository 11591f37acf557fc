"""200 random SIGKILLs of worker processes over 20,000 small files: nothing lost, wrong or doubled."""

import pytest

from tests.fault.figures import Row
from tests.fault.load import Store, say, scaled
from tests.fault.site import fault_site

KILLS = 200
CONTAINERS = 10


@pytest.mark.timeout(1800)
def test_files_survive_random_kills_of_workers(store: Store, fresh_ledger: str, table: list[Row]) -> None:
    kills = scaled(KILLS, least=3)
    environ = {
        "HASHMILL_LEASES__FILE_S": "10",
        "HASHMILL_TICKETS__BATCH_MAX": "16",
    }
    with fault_site(store, ledger_url=fresh_ledger, workers=3, environ=environ, seed=20) as site:
        total = site.post_all(CONTAINERS)
        for number in range(1, kills + 1):
            site.wait_for_progress(total * number // (kills + 2), timeout_s=180)
            site.wait(site.present, timeout_s=60, what="a worker is there to be killed")
            victim = site.chance.choice(site.present() or site.supervisor.names("worker"))
            site.supervisor.kill(victim)
            site.faults += 1
            if number % 20 == 0:
                say(f"{number} kills of {kills}, {site.ended_files()} files of {total}")

        row, verdict = site.finish("worker-kills", "SIGKILL of a worker", "0 lost, 0 wrong, 0 doubled final status")
        table.append(row)

    assert not row.broken, verdict
    assert row.faults == kills
