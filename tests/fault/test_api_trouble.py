"""The API away for 5 min, then 429, then 5 % 500s, then answers after 30 s: 5,000 reports, all there and in order."""

import sqlite3
import time
from contextlib import closing

import pytest
import sqlalchemy as sa

from hashmill.ledger import gates
from hashmill.ledger.gates import GateKind
from hashmill.ledger.tables import outbox
from tests.fault.figures import Row
from tests.fault.load import Store, say, scale
from tests.fault.proxy import RESET
from tests.fault.site import FaultSite, fault_site

REPORTS = 5_000
RUNS = 5
AWAY_S = 300.0
AWAY_TRIAL_S = 120.0
"""With the loads scaled down."""
NOTICED_AFTER_S = 60.0
"""The pauses between probes grow until here; then there are as many a minute as there will ever be."""
PROBES_A_MINUTE_MAX = 4.0
CALLS_PER_REPORT_MAX = 1.05
TOO_MANY = 12
"""All calls under way meet it and a try or two more: a shut breaker tries one call at a time."""
RETRY_AFTER_S = 3
WRONG_EACH = 20
"""One call in so many is answered 500: 5 %."""
SLOW = 16
SLOW_S = 30.0
"""So many answers only: with eight calls at once for a run, 5,000 of them would take five hours."""


@pytest.mark.timeout(1800)
def test_trouble_with_the_api_costs_time_and_no_report(store: Store, fresh_ledger: str, table: list[Row]) -> None:
    # Three hashes a file; not below 1,000 reports, or a single call more would be more than the demand allows.
    files_each = max(1_000, round(REPORTS * scale())) // (3 * RUNS)
    away_s = AWAY_S if scale() >= 1 else AWAY_TRIAL_S
    # So slow that every kind of trouble meets reports: a quarter of the default.
    environ = {"HASHMILL_REPORT__CONCURRENCY": "2"}
    with fault_site(store, ledger_url=fresh_ledger, workers=2, via=["api"], environ=environ, seed=429) as site:
        for number in range(1, RUNS + 1):
            container = str(number)
            site.load.post_until_accepted(container, paths=store.content.paths(container)[:files_each])
        reports = RUNS * (files_each * 3 + 3)
        wait_for_sent(site, reports // 10)

        # Listings ask the API by themselves: they are not what is counted here.
        site.wait(lambda: not site.unlisted(), timeout_s=120, what="every run is listed")
        # Cut before LABDRIVE: none of these calls arrives. Each failed try is counted at the gate; there are more
        # connections, as the HTTP client connects a second time for a call that may be repeated.
        site.proxies["api"].set(RESET)
        site.faults += 1
        time.sleep(NOTICED_AFTER_S)
        first_probes = failed_tries(site)
        time.sleep(away_s - NOTICED_AFTER_S)  # the outage itself
        probes = failed_tries(site) - first_probes
        # One more may fall into any window than its length times the rate.
        probes_a_minute = (probes - 1) / (away_s - NOTICED_AFTER_S) * 60
        sent, back_s = sent_of(site), time.monotonic()
        site.proxies["api"].heal()
        site.wait(lambda: sent_of(site) > sent, timeout_s=120, what="a report is sent again")
        site.recoveries_s.append(time.monotonic() - back_s)
        say(f"{probes} probes in {away_s - NOTICED_AFTER_S:g} s; back after {site.recoveries_s[-1]:.1f} s")

        trouble(site, [rule("status", code=429, headers={"Retry-After": str(RETRY_AFTER_S)}, times=TOO_MANY)])
        wait_for_sent(site, reports * 4 // 10)
        trouble(site, [rule("status", code=500, after=WRONG_EACH * n, times=1) for n in range(reports // WRONG_EACH)])
        wait_for_sent(site, reports * 7 // 10)
        trouble(site, [rule("delay", delay_s=SLOW_S, times=SLOW)])
        site.wait(site.has_ended, timeout_s=600, what="every run ended")
        row, verdict = site.finish(
            "api-trouble",
            f"API away for {away_s:g} s, then {TOO_MANY} x 429 with Retry-After, 5 % 500s, {SLOW} answers after 30 s",
            f"all delivered, in order; <= {CALLS_PER_REPORT_MAX} calls per row outside the outage; "
            f"<= {PROBES_A_MINUTE_MAX:g} probes a minute in it",
            broken=[f"{probes_a_minute:.1f} probes a minute"] if probes_a_minute > PROBES_A_MINUTE_MAX else [],
            more={
                "probes_a_minute": round(probes_a_minute, 2),
                "probed_from_s": NOTICED_AFTER_S,
                "probes_before": first_probes,
                "answers": answers(site),
                "reports_asked": reports,
            },
        )
        table.append(row)

    assert not row.broken, verdict
    assert verdict.figures["calls_per_report"] <= CALLS_PER_REPORT_MAX, verdict
    assert {"429", "500"} <= set(answers_of(row)), answers_of(row)


def rule(action: str, **more: object) -> dict[str, object]:
    """Return a rule of the sandbox for the calls that tell LABDRIVE something."""
    return {"match": {"path_regex": "/(hash|message)$|/job/"}, "action": action, **more}


def trouble(site: FaultSite, rules: list[dict[str, object]]) -> None:
    """Put these rules in place of the ones before."""
    site.service.ask_sandbox("POST", "/sandbox/faults", rules)
    site.faults += 1


def failed_tries(site: FaultSite) -> int:
    """Return how often a call has tried whether the API is back, since it is away."""
    return sum(gate.failures for gate in site.ledger.read_now(gates.listed) if gate.kind is GateKind.API)


def sent_of(site: FaultSite) -> int:
    query = sa.select(sa.func.count()).select_from(outbox).where(outbox.c.state == "sent")
    return int(site.ledger.read_now(lambda connection: connection.execute(query).scalar_one()))


def wait_for_sent(site: FaultSite, count: int) -> None:
    site.wait(lambda: sent_of(site) >= count, timeout_s=300, what=f"{count} reports sent")
    say(f"{count} reports are sent")


def answers(site: FaultSite) -> dict[str, int]:
    """Return how often LABDRIVE gave each status to a call that told it something."""
    with closing(sqlite3.connect(f"file:{site.service.folder / 'sandbox.sqlite3'}?mode=ro", uri=True)) as notebook:
        rows = notebook.execute("SELECT status, count(*) FROM calls WHERE method <> 'GET' GROUP BY status")
        return {str(status): count for status, count in rows}


def answers_of(row: Row) -> dict[str, int]:
    found = row.more["answers"]
    assert isinstance(found, dict)
    return found
