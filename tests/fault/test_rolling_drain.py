"""Every 20 s another worker is told to stop, under 10,000 small files and a big one: no attempt, no lease lost."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from hashmill.ledger.tables import files
from hashmill.parts.process import Child
from tests.fault.big_object import BIG_CONTAINER, BIG_PATH, BLOCK, big_digests, serving_big
from tests.fault.content import Content, Item, Manifest
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, say, scaled
from tests.fault.made_s3 import InProcessS3
from tests.fault.site import FaultSite, fault_site

WORKERS = 3
CONTAINERS = 5
FILES_EACH = 2_000
TERM_EVERY_S = 20.0
TERMS = 6
GRACE_S = 30.0
EXIT_SLACK_S = 5.0
SECOND_SIGNAL_MAX_S = 2.0
BIG_BYTES = 8 * 1024**3
SLICED_FROM_BYTES = 512 * 1024**2
"""So that the big one is read in slices at any scale: who is told to stop saves how far it came."""


@pytest.mark.timeout(1800)
def test_a_rolling_restart_costs_no_attempt(fresh_ledger: str, table: list[Row]) -> None:
    size_bytes = scaled(BIG_BYTES // len(BLOCK), least=512) * len(BLOCK)
    terms = scaled(TERMS, least=WORKERS)
    content = Content(
        seed=SEED, files={str(n): scaled(FILES_EACH, least=50) for n in range(1, CONTAINERS + 1)} | {BIG_CONTAINER: 0}
    )
    items = {container: content.items(container) for container in content.files}
    items[BIG_CONTAINER] = {BIG_PATH: Item(size_bytes=size_bytes, digests=(big_digests(size_bytes),))}
    environ = {"HASHMILL_WORKER__DRAIN_GRACE_S": str(GRACE_S), "HASHMILL_LEASES__FILE_S": "10"}
    environ["HASHMILL_SLICES__THRESHOLD_BYTES"] = str(SLICED_FROM_BYTES)
    with InProcessS3(content, serving_big(size_bytes)) as s3, ThreadPoolExecutor(terms) as clocks:
        store = Store(s3=s3, bucket="double", content=content, manifest=Manifest(items=items))  # type: ignore[arg-type]
        with fault_site(store, ledger_url=fresh_ledger, workers=WORKERS, environ=environ, seed=6) as site:
            site.load.post_until_accepted(BIG_CONTAINER)
            site.wait(lambda: reader_of_big(site), timeout_s=60, what="somebody reads the big one")
            exits, names = [], sorted(site.supervisor.names("worker"))
            first = site.process_of(reader_of_big(site) or "")
            assert first is not None
            names.sort(key=lambda name: name != first)  # the first signal meets the big one in mid-read
            for number in range(terms):
                if number < CONTAINERS:
                    site.load.post_until_accepted(str(number + 1))
                name = names[number % WORKERS]
                began_s = time.monotonic()
                child = site.supervisor.order(name)
                child.send(signal.SIGTERM)
                exits.append(clocks.submit(exit_after_s, child))
                site.faults += 1
                site.wait(
                    lambda: time.monotonic() - began_s > TERM_EVERY_S,  # noqa: B023
                    timeout_s=60,
                    what="the next one's turn",
                )
            for container in range(terms + 1, CONTAINERS + 1):
                site.load.post_until_accepted(str(container))
            exits_s = [each.result() for each in exits]
            say("exits after " + ", ".join(f"{each:.1f} s" for each in exits_s))
            site.wait(site.has_ended, timeout_s=300, what="every run ended")
            figures = site.verdict().figures
            second_s = leave_at_once(site)

            late = [f"an exit took {each:.1f} s" for each in exits_s if each > GRACE_S + EXIT_SLACK_S]
            if figures["attempts"] != figures["files"] or figures["leases_lost"]:
                late.append(
                    f"{figures['attempts']} attempts of {figures['files']} files, {figures['leases_lost']} lost"
                )
            if second_s > SECOND_SIGNAL_MAX_S:
                late.append(f"the second signal took {second_s:.1f} s")
            row, verdict = site.finish(
                "rolling-drain",
                f"SIGTERM of a worker, one each {TERM_EVERY_S:g} s",
                f"no attempt and no lease lost; exit <= {GRACE_S + EXIT_SLACK_S:g} s; the big one finishes",
                broken=late,
                more={
                    "exits_s": [round(each, 1) for each in exits_s],
                    "second_signal_s": round(second_s, 2),
                    "big_bytes": size_bytes,
                    "attempts_before_the_second_signal": figures["attempts"],
                },
            )
            table.append(row)

    assert not row.broken, verdict


def leave_at_once(site: FaultSite) -> float:
    """Tell the reader of the big one to stop, twice, and return how long it took from the second time."""
    site.load.post_until_accepted(BIG_CONTAINER)
    site.wait(lambda: reader_of_big(site), timeout_s=60, what="somebody reads the big one again")
    name = site.process_of(reader_of_big(site) or "")
    assert name is not None
    child = site.supervisor.order(name)
    child.send(signal.SIGTERM)
    site.wait(lambda: "draining" in child.log_path.read_text(), timeout_s=30, what="it drains")
    child.send(signal.SIGTERM)
    site.faults += 1
    return exit_after_s(child)


def exit_after_s(child: Child) -> float:
    began_s = time.monotonic()
    while child.running and time.monotonic() - began_s < 3 * GRACE_S:
        time.sleep(0.02)
    return time.monotonic() - began_s


def reader_of_big(site: FaultSite) -> str | None:
    query = sa.select(files.c.lease_owner).where(files.c.path.endswith(BIG_PATH), files.c.state == "running")
    return site.ledger.read_now(lambda connection: connection.execute(query).scalar())
