"""A black hole of 60 s between the workers and each of Redis, ledger, S3 and API: all goes on within 30 s after it."""

import sqlite3
import time
from contextlib import closing

import pytest

from tests.fault.figures import Row
from tests.fault.load import Store, say, scale
from tests.fault.proxy import BLACK_HOLE
from tests.fault.site import ROUTES, FaultSite, fault_site

HOLE_S = 60.0
FILES_EACH_POST = 625
"""Two events for each of four holes: 5,000 files."""
RECOVERY_MAX_S = 30.0


@pytest.mark.timeout(1800)
def test_all_goes_on_after_a_black_hole(store: Store, fresh_ledger: str, table: list[Row]) -> None:
    # Never so short that no time-out runs out: ledger 10 s, S3 20 s.
    hole_s = max(25.0, HOLE_S * scale())
    with fault_site(store, ledger_url=fresh_ledger, workers=2, via=list(ROUTES), seed=60) as site:
        recoveries_s: dict[str, float] = {}
        for route in ROUTES:
            before = site.ended_files()
            post(site)
            site.wait_for_progress(before + 1)
            site.proxies[route].set(BLACK_HOLE)
            site.faults += 1
            fresh = post(site)
            time.sleep(hole_s)  # the outage itself
            site.proxies[route].heal()
            healed_s = time.monotonic()
            site.wait(lambda: reported(site, fresh, healed_s), timeout_s=180, what=f"a hash after {route}")  # noqa: B023
            recoveries_s[route] = round(time.monotonic() - healed_s, 2)
            site.recoveries_s.append(recoveries_s[route])
            say(f"{route}: a file of the event posted in the hole was reported {recoveries_s[route]:.1f} s after it")

        late = [f"{route}: {took_s:.1f} s" for route, took_s in recoveries_s.items() if took_s > RECOVERY_MAX_S]
        row, verdict = site.finish(
            "black-holes",
            f"black hole of {hole_s:g} s between workers and {', '.join(ROUTES)}",
            f"recovered <= {RECOVERY_MAX_S:g} s after its return, each: from event to LABDRIVE",
            broken=late,
            more={"recoveries_s": recoveries_s},
        )
        table.append(row)

    assert not row.broken, verdict


def post(site: FaultSite) -> str:
    """Post one event and return its run."""
    container = str(site.chance.randint(1, len(site.store.content.files)))
    paths = site.store.content.paths(container)
    accepted = site.load.post_until_accepted(container, paths=paths[: round(FILES_EACH_POST * min(1.0, scale())) or 1])
    assert accepted.run_id is not None
    return accepted.run_id


def reported(site: FaultSite, run_id: str, after_s: float) -> bool:
    """Whether LABDRIVE carried out, after `after_s` (monotonic), a hash of this run: the whole road was gone."""
    at_s = time.time() - (time.monotonic() - after_s)
    with closing(sqlite3.connect(f"file:{site.service.folder / 'sandbox.sqlite3'}?mode=ro", uri=True)) as notebook:
        query = (
            "SELECT count(*) FROM calls WHERE at_s > ? AND idempotency_key LIKE ? AND path LIKE '%/hash' "
            "AND status BETWEEN 200 AND 299"
        )
        return bool(notebook.execute(query, (at_s, f"{run_id}:%")).fetchone()[0])
