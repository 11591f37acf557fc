"""One worker's clock an hour ahead, another's an hour behind, over 2,000 files: no effect."""

import importlib.util
import json
import signal
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.ledger.leases import Lease
from hashmill.ledger.tables import entries
from tests.fault.content import Content, Manifest
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, scaled
from tests.fault.s3_double import S3Double
from tests.fault.site import FaultSite, fault_site

FILES = 2_000
HANDED_OUT_MAX = 1.2
SKEWS = {"worker-ahead": "+1h", "worker-behind": "-1h"}


@pytest.mark.timeout(1800)
def test_a_wrong_clock_has_no_effect(fresh_ledger: str, table: list[Row], tmp_path: Path) -> None:
    # The double, because it looks at no signature: a real S3 refuses every request whose clock is off by more than a
    # quarter of an hour (known: SigV4), and a worker of such a clock could take no part in the work at all.
    content = Content(seed=SEED, files={"1": scaled(FILES, least=200)})
    with S3Double(tmp_path / "s3", content) as s3:
        manifest = Manifest(items={"1": content.items("1")})
        store = Store(s3=s3, bucket=s3.make_bucket(), content=content, manifest=manifest)
        with fault_site(
            store, ledger_url=fresh_ledger, workers=0, environ={"HASHMILL_TICKETS__BATCH_MAX": "8"}, seed=1
        ) as site:
            for name, skew in SKEWS.items():
                add_skewed(site, name, skew)
            site.load.post_until_accepted("1")
            site.wait_for_progress(len(manifest.items["1"]) // 3)
            # Whoever leads lets go in order, so that the other one leads too; no lease is lost by that.
            site.wait(site.leader, timeout_s=30, what="somebody leads")
            leads = site.leader()
            assert leads is not None
            led_by = [site.process_of(leads.holder)]
            stop(site, str(led_by[0]))
            site.wait(lambda: another_leads(site, leads), timeout_s=30, what="the other one leads")
            followed = site.leader()
            assert followed is not None
            led_by.append(site.process_of(followed.holder))
            site.wait(site.has_ended, timeout_s=300, what="every run ended")
            worked = processes_that_hashed(site)
            figures = site.verdict().figures
            wrong = [f"{figures['leases_lost']} leases were lost"] if figures["leases_lost"] else []
            if figures["handed_out_per_file"] > HANDED_OUT_MAX:
                wrong.append(f"{figures['handed_out_per_file']} tickets for each file")
            row, verdict = site.finish(
                "clock",
                "a worker whose clock is an hour off",
                f"no effect: no lease lost, tickets <= {HANDED_OUT_MAX} x needed",
                broken=wrong,
                more={"skews": SKEWS, "led_by": led_by, "processes_that_hashed": worked},
            )
            table.append(row)

    assert not row.broken, verdict
    assert set(led_by) == set(SKEWS), led_by
    assert worked >= len(SKEWS)


def add_skewed(site: FaultSite, name: str, skew: str) -> None:
    """Start a worker whose wall clock is off; the monotonic one is true, as it is where a clock was set wrong."""
    environ = {"LD_PRELOAD": str(faketime()), "FAKETIME": skew, "DONT_FAKE_MONOTONIC": "1"}
    site.supervisor.add(name, lambda: site.service.start_worker(environ=environ))
    site.wait(lambda: name in site.present(), timeout_s=60, what=f"{name} is there")
    site.faults += 1


def stop(site: FaultSite, name: str) -> None:
    site.supervisor.order(name).send(signal.SIGTERM)


def another_leads(site: FaultSite, before: Lease) -> bool:
    leads = site.leader()
    return leads is not None and leads.holder != before.holder


def processes_that_hashed(site: FaultSite) -> int:
    """Return how many processes wrote results, as the entries name them."""
    query = sa.select(entries.c.body).where(entries.c.kind == "file_hashed")
    bodies = site.ledger.read_now(lambda connection: connection.execute(query).scalars().all())

    return len({json.loads(bytes(body))["process"] for body in bodies})


def faketime() -> Path:
    """Return the library that the wheel of libfaketime ships."""
    found = importlib.util.find_spec("libfaketime")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
