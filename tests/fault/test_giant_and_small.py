"""A run of very many files, then 50 small runs of another tenant: the small ones are not made to wait."""

import socket
import threading
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.ledger.tables import files, runs
from tests.fault.content import Content, Item, Manifest, digests_of
from tests.fault.figures import Row
from tests.fault.load import SEED, Store, say, scaled
from tests.fault.proxy import FaultProxy
from tests.fault.s3_double import S3Double
from tests.fault.site import FaultSite, fault_site

GIANT_FILES = 200_000
SMALL_RUNS = 50
SMALL_FILES = 20
SMALL_P95_MAX_S = 5.0
REDIS_MAX_MIB = 50.0
SLOPE_MAX_MIB = 1.0
"""Of growth for 100,000 files, in each process."""
SLOPE_OVER_FILES_MIN = 20_000
"""Over fewer files a slope tells of the warming up, not of a leak: then it is kept, and not judged."""
ALGORITHM = "sha256"
"""One digest a file: the reports of three would keep LABDRIVE busier than the files keep the workers."""


@pytest.mark.timeout(1800)
def test_a_giant_run_keeps_no_small_one_waiting(fresh_ledger: str, table: list[Row], tmp_path: Path) -> None:
    small_runs = scaled(SMALL_RUNS, least=5)
    content = Content(seed=SEED, files={"1": scaled(GIANT_FILES, least=500), "2": SMALL_RUNS * SMALL_FILES})
    manifest = Manifest(items={container: one_digest(content, container) for container in content.files})
    with S3Double(tmp_path / "s3", content) as s3, FaultProxy() as giant_api, FaultProxy() as small_api:
        store = Store(s3=s3, bucket=s3.make_bucket(), content=content, manifest=manifest)
        giant, small = f"http://127.0.0.1:{giant_api.port}", f"http://127.0.0.1:{small_api.port}"
        environ = {
            "HASHMILL_LABDRIVE__ALLOWED_ORIGINS": f'["{giant}", "{small}"]',
            "HASHMILL_TENANTS": f'{{"giant": {{"api_origins": ["{giant}"]}}, "small": {{"api_origins": ["{small}"]}}}}',
        }
        with fault_site(store, ledger_url=fresh_ledger, workers=2, environ=environ, seed=4) as site:
            for proxy in (giant_api, small_api):
                proxy.lead_to(site.service.sandbox_url)
            with Watched(site) as seen:
                site.load.post_until_accepted("1", url=giant, params={"algorithms": ALGORITHM})
                site.wait_for_progress(len(manifest.items["1"]) // 10)
                paths = content.paths("2")
                for number in range(small_runs):
                    mine = paths[number * SMALL_FILES : (number + 1) * SMALL_FILES]
                    site.load.post_until_accepted("2", url=small, paths=mine, params={"algorithms": ALGORITHM})
                    site.faults += 1
                say(f"{small_runs} small runs posted, {site.ended_files()} files have ended")
                site.wait(lambda: None not in small_waits_s(site), timeout_s=300, what="the small runs are hashed")
                waits_s = sorted(each for each in small_waits_s(site) if each is not None)
                beside = len(manifest.items["1"]) - site.ended_files() + small_runs * SMALL_FILES
                say(f"small runs hashed, {beside} files of the giant one are still open")
                site.wait(site.has_ended, timeout_s=900, what="every run ended")
            p95_s = waits_s[int(0.95 * (len(waits_s) - 1))]
            slopes = {name: slope_mib(samples) for name, samples in seen.rss.items()}
            wrong = [f"small runs p95 {p95_s:.1f} s"] if p95_s > SMALL_P95_MAX_S else []
            if seen.redis_mib > REDIS_MAX_MIB:
                wrong.append(f"Redis took {seen.redis_mib:.0f} MiB")
            if len(manifest.items["1"]) >= 2 * SLOPE_OVER_FILES_MIN:
                wrong.extend(f"{name} grew by {mib:.1f} MiB" for name, mib in slopes.items() if mib > SLOPE_MAX_MIB)
            if not beside:
                wrong.append("the giant run was over before the small ones")
            row, verdict = site.finish(
                "giant-and-small",
                f"run of {SMALL_FILES} files of another tenant, behind one of {len(manifest.items['1'])}",
                f"small runs p95 <= {SMALL_P95_MAX_S:g} s; Redis <= {REDIS_MAX_MIB:g} MiB; "
                f"RSS slope <= {SLOPE_MAX_MIB:g} MiB per 100,000 files",
                broken=wrong,
                more={
                    "small_runs_s": [round(each, 2) for each in waits_s],
                    "small_runs_p95_s": round(p95_s, 2),
                    "redis_peak_mib": round(seen.redis_mib, 1),
                    "rss_mib_per_100000_files": {name: round(mib, 2) for name, mib in slopes.items()},
                },
            )
            table.append(row)

    assert not row.broken, verdict


def one_digest(content: Content, container: str) -> dict[str, Item]:
    found = {}
    for path in content.paths(container):
        body = content.body(container, path)
        found[path] = Item(size_bytes=len(body), digests=({ALGORITHM: digests_of(body)[ALGORITHM]},))
    return found


def small_waits_s(site: FaultSite) -> list[float | None]:
    """Return for each small run how long it took from accepted to the last file hashed; None where it is not yet."""
    query = (
        sa.select(runs.c.created_at_ms, sa.func.max(files.c.finished_at_ms), sa.func.count(files.c.finished_at_ms))
        .select_from(runs.outerjoin(files, files.c.run_id == runs.c.run_id))
        .where(runs.c.tenant_id == "small")
        .group_by(runs.c.run_id, runs.c.created_at_ms)
    )
    rows = site.ledger.read_now(lambda connection: connection.execute(query).all())
    return [(last - created) / 1000 if ended == SMALL_FILES else None for created, last, ended in rows]


class Watched:
    """Meanwhile sample RSS by process against files ended, and the memory of Redis; both in MiB."""

    def __init__(self, site: FaultSite) -> None:
        self.rss: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.redis_mib = 0.0
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watched", daemon=True)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(2.0):
            ended = self._site.ended_files()
            for pid, name in self._site.supervisor.pids().items():
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmRSS:"):
                        self.rss[name].append((ended, int(line.split()[1]) / 1024))
            self.redis_mib = max(self.redis_mib, redis_mib(self._site.redis.port))


def slope_mib(samples: list[tuple[int, float]]) -> float:
    """Return the growth for 100,000 files, by least squares over the second half of the files."""
    half = [sample for sample in samples if sample[0] * 2 >= samples[-1][0]]
    if not any(one[0] != other[0] for one, other in pairwise(half)):
        return 0.0
    mean_files = sum(count for count, _ in half) / len(half)
    mean_mib = sum(mib for _, mib in half) / len(half)
    covariance = sum((count - mean_files) * (mib - mean_mib) for count, mib in half)
    return 100_000 * covariance / sum((count - mean_files) ** 2 for count, _ in half)


def redis_mib(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"INFO memory\r\nQUIT\r\n")
        text, until_s = b"", time.monotonic() + 5
        while (piece := connection.recv(65_536)) and time.monotonic() < until_s:
            text += piece
    line = next(line for line in text.decode().splitlines() if line.startswith("used_memory:"))
    return int(line.partition(":")[2]) / 1_048_576
