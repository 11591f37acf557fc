"""Tickets dropped (10 %), doubled, late and in any order, over 20,000 files: nothing lost, wrong, or claimed twice."""

import pytest
import sqlalchemy as sa

from hashmill.ledger.tables import files
from tests.fault.figures import Row
from tests.fault.load import Store
from tests.fault.proxy import RESET
from tests.fault.site import FaultSite, fault_site
from tests.fault.ticket_proxy import Mischief, TicketProxy

CONTAINERS = 10


@pytest.mark.timeout(1800)
def test_tickets_may_be_lost_doubled_and_late(store: Store, fresh_ledger: str, table: list[Row]) -> None:
    environ = {
        "HASHMILL_TICKETS__BATCH_MAX": "16",
        # A dropped ticket holds its place in the window for so long; the default is 20 s.
        "HASHMILL_TICKETS__REISSUE_AFTER_S": "5",
    }
    with fault_site(store, ledger_url=fresh_ledger, workers=2, slots=8, via=["redis"], environ=environ, seed=7) as site:
        with TicketProxy(site.redis.url, Mischief(), chance=site.chance, queues=["files", "big", "runs"]) as tickets:
            site.proxies["redis"].lead_to(tickets.url)
            site.proxies["redis"].set(RESET)
            site.proxies["redis"].heal()
            total = site.post_all(CONTAINERS)
            site.wait_for_progress(total)
            site.wait(site.has_ended, timeout_s=120, what="every run ended")
            seen = dict(tickets.seen)
        site.faults = sum(count for name, count in seen.items() if name not in ("messages", "passed"))
        claims = claims_of(site)
        twice = [f"{claims} claims of {total} files: a doubled or late ticket was taken"] if claims > total else []
        row, verdict = site.finish(
            "tickets",
            "ticket dropped, doubled, overtaking or held",
            "0 lost, 0 wrong; doubled ones claim nothing",
            broken=twice,
            more={"tickets": seen, "claims": claims},
        )
        table.append(row)

    assert not row.broken, verdict
    assert all(seen[name] for name in ("dropped", "doubled", "overtaking", "held")), seen


def claims_of(site: FaultSite) -> int:
    """Return how often a file was claimed: each claim raises its fence by one, and so does each lease that is lost."""
    query = sa.select(sa.func.sum(files.c.fence))
    return int(site.ledger.read_now(lambda connection: connection.execute(query).scalar_one()))
