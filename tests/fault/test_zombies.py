"""A worker stopped for three leases and continued, over 50 big files: what it writes then is refused and counted."""

import contextlib
import json
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.ledger import counters
from hashmill.ledger.tables import entries, files
from hashmill.parts.s3 import S3Server, start_s3
from tests.fault.content import Content, Manifest
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, say, scaled
from tests.fault.proxy import throttle
from tests.fault.site import FaultSite, fault_site

FILES = 50
SIZE_BYTES = 16 * 1024 * 1024
"""Not more: two cores also serve the objects. Big is what travels alone, and these are read slowly."""
READ_S = 12.0
"""As long as the sleep, so that who took a file from the sleeper still reads it when the sleeper wakes."""
LEASE_S = 4.0
LEASES_STOPPED = 3
STOPS = 2

Claim = tuple[str, int, int]
"""Run, file and fence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BigContent(Content):
    """Objects of one size, from a seed."""

    each_bytes: int

    def size_bytes(self, container: str, path: str) -> int:
        return self.each_bytes

    def body(self, container: str, path: str) -> bytes:
        return random.Random(f"{self.seed}/{container}/{path}").randbytes(self.each_bytes)


@pytest.mark.timeout(900)
def test_a_worker_that_slept_through_its_leases_writes_nothing(
    store: Store, fresh_ledger: str, table: list[Row]
) -> None:
    size_bytes = scaled(SIZE_BYTES, least=2 * 1024 * 1024)
    environ = {
        "HASHMILL_LEASES__FILE_S": f"{LEASE_S:g}",
        "HASHMILL_TICKETS__NORMAL_MAX_BYTES": "1048576",
        "HASHMILL_TICKETS__BIG_WINDOW": "8",
    }
    with (
        big_store(store, size_bytes) as big,
        fault_site(big, ledger_url=fresh_ledger, workers=2, via=["s3"], environ=environ, seed=3) as site,
    ):
        site.proxies["s3"].set(throttle(size_bytes / READ_S))
        held: set[Claim] = set()
        lost: set[Claim] = set()
        others_read = 0
        for number in range(1, STOPS + 1):
            site.post_all(1)  # of its own for each stop: what a sleeper held is read last, when nothing else is left
            victim = f"worker-{number % 2 + 1}"
            site.wait(lambda: claims_of(site, victim), timeout_s=60, what=f"{victim} reads")  # noqa: B023
            child = site.supervisor.child(victim)
            child.send(signal.SIGSTOP)
            held_now = claims_of(site, victim)
            site.faults += 1
            time.sleep(LEASES_STOPPED * LEASE_S)  # the sleep itself
            lost_now = held_now - claims_of(site, victim)

            def read_by_another() -> set[tuple[str, int]]:
                return files_of(lost_now) & files_of(claims_of(site, None))  # noqa: B023

            # They are handed out again when the others have been. Only the fence, and not the file's state, can tell
            # their results apart then.
            site.wait(read_by_another, timeout_s=300, what="another worker reads a file of the sleeper")
            others_read += len(read_by_another())
            told = refused(site)
            child.send(signal.SIGCONT)
            site.wait(lambda: refused(site) > told, timeout_s=60, what="the zombie is refused")  # noqa: B023
            held, lost = held | held_now, lost | lost_now
            say(f"{victim} held {len(held_now)} files when it was stopped, {len(lost_now)} were taken from it")
        site.proxies["s3"].heal()
        site.wait(site.has_ended, timeout_s=300, what="every run ended")
        written = lost & fences_entered(site)
        row, verdict = site.finish(
            "zombies",
            f"a worker stopped for {LEASES_STOPPED} leases, then continued",
            "every zombie write refused, counted; right digests once each",
            broken=[f"{len(written)} results of a sleeper were entered"] if written else [],
            more={
                "held_when_stopped": len(held),
                "taken": len(lost),
                "read_by_another_then": others_read,
                "results_refused": refused(site),
                "size_bytes": size_bytes,
            },
        )
        table.append(row)

    assert not row.broken, verdict


@contextlib.contextmanager
def big_store(store: Store, size_bytes: int) -> Iterator[Store]:
    """Give a bucket of its own with one container of big files, on the S3 of the other rows where that can write."""
    content = BigContent(seed=SEED, files={"1": FILES}, each_bytes=size_bytes)
    with contextlib.ExitStack() as stack:
        server = store.s3
        if not isinstance(server, S3Server):
            server = stack.enter_context(start_s3(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        bucket = server.make_bucket()
        client = server.client()
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda path: client.put_object(Bucket=bucket, Key=f"1/{path}", Body=content.body("1", path)),
                    content.paths("1"),
                )
            )
        client.close()
        yield Store(s3=server, bucket=bucket, content=content, manifest=Manifest(items={"1": content.items("1")}))


def claims_of(site: FaultSite, name: str | None) -> set[Claim]:
    """Return the claims (run, file, fence) that a supervised process, or any (None), holds now."""
    query = sa.select(files.c.run_id, files.c.file_no, files.c.fence, files.c.lease_owner).where(
        files.c.state == "running", files.c.lease_owner.is_not(None)
    )
    rows = site.ledger.read_now(lambda connection: connection.execute(query).all())
    return {(row.run_id, row.file_no, row.fence) for row in rows if name in (None, site.process_of(row.lease_owner))}


def files_of(claims: set[Claim]) -> set[tuple[str, int]]:
    return {(run_id, file_no) for run_id, file_no, _ in claims}


def fences_entered(site: FaultSite) -> set[Claim]:
    """Return under which claims the digests in the ledger were computed."""
    query = sa.select(entries.c.run_id, entries.c.body).where(entries.c.kind == "file_hashed")
    rows = site.ledger.read_now(lambda connection: connection.execute(query).all())
    bodies = [(row.run_id, json.loads(row.body)) for row in rows]
    return {(run_id, body["file_no"], body["fence"]) for run_id, body in bodies}


def refused(site: FaultSite) -> int:
    return site.ledger.read_now(counters.all)[Counted.RESULTS_REFUSED]
