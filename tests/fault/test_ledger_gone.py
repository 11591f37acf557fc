"""PostgreSQL restarted 10 times and away for 30 s, over 10,000 files: nothing lost, and only 202 or 503 at the door."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from hashmill.parts.postgres import Postgres
from tests.fault.figures import Row
from tests.fault.load import Store, say, scaled
from tests.fault.poster import Poster, posting
from tests.fault.site import FaultSite, fault_site

RESTARTS = 10
CONTAINERS = 5
AWAY_S = 30.0
RECOVERY_MAX_S = 30.0
WORKERS = 2


@pytest.mark.timeout(1800)
def test_a_ledger_that_was_away_has_lost_nothing(
    store: Store, own_postgres: Postgres, fresh_ledger: str, table: list[Row]
) -> None:
    restarts = scaled(RESTARTS, least=2)
    with back_at_the_end(own_postgres), fault_site(store, ledger_url=fresh_ledger, workers=WORKERS) as site:
        total = site.post_all(CONTAINERS)
        with posting(site.load, store) as poster:
            for number in range(1, restarts + 1):
                site.wait_for_progress(total * number // (restarts + 2))
                if number % 2:
                    own_postgres.kill()
                own_postgres.restart()  # what was not killed is stopped first: connections are cut
                recovered(site, poster)

            site.wait_for_progress(total * (restarts + 1) // (restarts + 2))
            gone_s = time.monotonic()
            own_postgres.stop()
            site.supervisor.kill("worker-1")  # its successor starts into the outage
            time.sleep(AWAY_S)  # the outage itself
            refused = poster.refused_since(gone_s)
            own_postgres.restart()
            recovered(site, poster)
            site.wait(lambda: len(site.present()) == WORKERS, timeout_s=60, what="every worker is back")
        late = [f"recovery took {each:.1f} s" for each in site.recoveries_s if each > RECOVERY_MAX_S]
        row, verdict = site.finish(
            "ledger-gone",
            f"PostgreSQL killed or stopped and started again, the last time after {AWAY_S:g} s",
            f"0 lost; intake answered only 202 or 503; recovery <= {RECOVERY_MAX_S:g} s",
            broken=[*late, *poster.odd()],
            more={"intake_answers": poster.told(), "refused_while_away": refused},
        )
        table.append(row)

    assert not row.broken, verdict
    assert refused, "nobody was refused while the ledger was away: was it?"


def recovered(site: FaultSite, poster: Poster) -> None:
    """Wait until a ticket was handed out and claimed, and an event accepted, since now; keep how long it took."""
    site.faults += 1
    over_s = time.monotonic()
    clock: list[int] = []

    def ledger_tells_the_time() -> bool:
        clock.append(site.database_ms())
        return True

    def all_goes_on() -> bool:
        return poster.accepted_since(over_s) and site.claimed_since(clock[0])

    site.wait(ledger_tells_the_time, timeout_s=60, what="the ledger answers")
    site.wait(all_goes_on, timeout_s=120, what="an event is accepted and a new ticket claimed")
    site.recoveries_s.append(time.monotonic() - over_s)
    say(f"fault {site.faults}: recovered after {site.recoveries_s[-1]:.1f} s, intake {poster.told()}")


@contextlib.contextmanager
def back_at_the_end(server: Postgres) -> Iterator[None]:
    """Let the server run afterwards, whatever happened: other rows need it."""
    try:
        yield
    except BaseException:
        server.restart()
        raise
