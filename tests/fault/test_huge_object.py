"""Whoever reads a huge object is killed again and again: it is hashed all the same, and a kill costs one slice."""

import time

import pytest
import sqlalchemy as sa

from hashmill.hashing import fused
from hashmill.ledger.tables import files, saved_hashes
from tests.fault.big_object import BIG_CONTAINER, BIG_PATH, BLOCK, big_digests, serving_big
from tests.fault.content import Content, Item, Manifest
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, say, scaled
from tests.fault.made_s3 import InProcessS3
from tests.fault.site import FaultSite, fault_site

HUGE_BYTES = 64 * 1024**3
SLICE_BYTES = 1024**3
KILLS = 20
LEASE_S = 4.0
KILLED_AFTER_S = (0.5, 8.0)
AHEAD_BYTES = 32 * 1024**2
"""What sockets and buffers on the way may hold of an answer that nobody reads to its end."""


@pytest.mark.skipif(not fused.accelerated(), reason=f"no state to be saved here: {fused.why_not()}")
@pytest.mark.timeout(2400)
def test_a_kill_costs_a_huge_object_one_slice(fresh_ledger: str, table: list[Row]) -> None:
    size_bytes = scaled(HUGE_BYTES // len(BLOCK), least=1024) * len(BLOCK)
    slice_bytes = scaled(SLICE_BYTES // len(BLOCK), least=128) * len(BLOCK)
    kills = scaled(KILLS, least=3)
    say(f"computing the digests of {size_bytes / 2**30:g} GiB")
    content = Content(seed=SEED, files={str(number): 0 for number in range(1, int(BIG_CONTAINER) + 1)})
    item = Item(size_bytes=size_bytes, digests=(big_digests(size_bytes),))
    environ = {
        "HASHMILL_SLICES__THRESHOLD_BYTES": str(slice_bytes),
        "HASHMILL_SLICES__MAX_BYTES": str(slice_bytes),
        "HASHMILL_LEASES__FILE_S": f"{LEASE_S:g}",
    }
    sent: list[int] = []
    with InProcessS3(content, serving_big(size_bytes, sent)) as s3:
        store = Store(
            s3=s3,  # type: ignore[arg-type]
            bucket="double",
            content=content,
            manifest=Manifest(items={BIG_CONTAINER: {BIG_PATH: item}}),
        )
        with fault_site(store, ledger_url=fresh_ledger, workers=2, environ=environ, seed=9) as site:
            site.load.post_until_accepted(BIG_CONTAINER)
            for number in range(kills):
                reader = reader_of(site)
                ends_s = time.monotonic() + site.chance.uniform(*KILLED_AFTER_S)
                site.wait(lambda: time.monotonic() > ends_s, timeout_s=60, what="the kill")  # noqa: B023
                site.supervisor.kill(reader)
                site.faults += 1
                say(f"kill {number + 1} of {kills}, {saved_bytes(site) / 2**30:.1f} GiB are saved")
            site.wait(site.has_ended, timeout_s=900, what="the run has ended")
            again_bytes = sum(sent) - size_bytes
            allowed_bytes = kills * slice_bytes + len(sent) * AHEAD_BYTES
            row, verdict = site.finish(
                "huge-object",
                f"SIGKILL of whoever reads an object of {size_bytes / 2**30:g} GiB",
                "right digests, one result; read again: one slice for each kill at most",
                broken=[f"{again_bytes} bytes were read again"] if again_bytes > allowed_bytes else [],
                more={
                    "size_bytes": size_bytes,
                    "slice_bytes": slice_bytes,
                    "sent_again_bytes": again_bytes,
                    "sent_again_slices": round(again_bytes / slice_bytes, 2),
                    "answers": len(sent),
                },
            )
            table.append(row)

    assert not row.broken, verdict


def saved_bytes(site: FaultSite) -> int:
    query = sa.select(sa.func.coalesce(sa.func.max(saved_hashes.c.offset_bytes), 0))
    return int(site.ledger.read_now(lambda connection: connection.execute(query).scalar_one()))


def reader_of(site: FaultSite) -> str:
    """Wait until a supervised process reads the object, and return its name."""
    query = sa.select(files.c.lease_owner).where(files.c.path.endswith(BIG_PATH), files.c.state == "running")

    def name() -> str | None:
        owner = site.ledger.read_now(lambda connection: connection.execute(query).scalar())
        return site.process_of(owner) if owner else None

    found: list[str] = []
    site.wait(lambda: (one := name()) and not found.append(one), timeout_s=120, what="somebody reads it")
    return found[-1]
