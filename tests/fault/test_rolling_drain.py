"""Every 20 s another worker is told to stop, under 10,000 small files and a big one: no attempt, no lease lost."""

import hashlib
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from aiohttp import web

from hashmill.ledger.tables import files
from hashmill.parts.process import Child
from tests.fault.content import ALGORITHMS, Content, Item, Manifest
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, say, scaled
from tests.fault.made_s3 import Handler, InProcessS3, Middleware
from tests.fault.site import FaultSite, fault_site

WORKERS = 3
CONTAINERS = 5
FILES_EACH = 2_000
TERM_EVERY_S = 20.0
TERMS = 6
GRACE_S = 30.0
EXIT_SLACK_S = 5.0
SECOND_SIGNAL_MAX_S = 2.0
BIG_CONTAINER = "6"
BIG_PATH = "big.bin"
BIG_BYTES = 2 * 1024**3
"""2 GiB and not 8: what saves the big one here is the grace, 30 s from a signal that may come at its first byte, and
two cores that also serve the object and hash small files read 8 GiB in more than that."""
BLOCK = hashlib.shake_128(b"big").digest(1_048_576)


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


def big_digests(size_bytes: int) -> dict[str, str]:
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in ALGORITHMS}
    for _ in range(size_bytes // len(BLOCK)):
        for one in hashes.values():
            one.update(BLOCK)
    return {name: one.hexdigest() for name, one in hashes.items()}


def serving_big(size_bytes: int) -> Middleware:
    """Return what serves one big object, made as it is sent, and its listing; the rest is the double's."""
    etag = '"the-big-one-1"'

    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("prefix", "").startswith(f"{BIG_CONTAINER}/"):
            return web.Response(
                content_type="application/xml",
                text='<?xml version="1.0" encoding="UTF-8"?>'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
                f"<Contents><Key>{BIG_CONTAINER}/{BIG_PATH}</Key><Size>{size_bytes}</Size>"
                "<LastModified>2026-11-24T00:00:00.000Z</LastModified></Contents></ListBucketResult>",
            )
        if not request.path.endswith(f"/{BIG_PATH}"):
            return await handler(request)
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(size_bytes)})
        status, first = 200, 0
        if asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            status, first = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {first}-{size_bytes - 1}/{size_bytes}"
        headers["Content-Length"] = str(size_bytes - first)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        while first < size_bytes:
            piece = BLOCK[first % len(BLOCK) :]
            await response.write(piece)
            first += len(piece)
        return response

    return serve
