"""The whole service as a contender: from the event's post until LABDRIVE holds the job's last status."""

import json
import sqlite3
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import sqlalchemy as sa

from benchmarks.measured import CpuMeter, Taken, Wrong, peak_rss_mib
from benchmarks.peers import environ_of
from benchmarks.source import Shelf, Source
from hashmill.ledger import entries
from hashmill.ledger.engine import Ledger
from hashmill.parts.postgres import start_postgres
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import ROOT_KEY, LocalService

POLL_S: Final = 0.1
COMMITTED_S: Final = 0.7
"""After so long what the sandbox was told is in its file."""
LOOKS: Final = 20
PATIENCE_S: Final = 3600.0
"""For one statement over all files of a run, and for LABDRIVE's look at a million objects."""


class WholeService:
    """Redis, ledger, intake, workers, a dispatcher and the sandbox LABDRIVE, each in its own process.

    The dispatcher leads and the workers only work, so that the CPU of reading and hashing and that of handing out and
    reporting are told apart: `workers`, `leader`, `intake` make up `client`; `ledger`, `redis`, `labdrive` and `server`
    (the source) are beside it. Every entry of the ledger and every hash in LABDRIVE of a round is held against hashlib.
    """

    name = "Hashmill, the whole service"

    def __init__(self, service: LocalService, shelf: Shelf, groups: Mapping[str, Sequence[int]]) -> None:
        self.shelf = shelf
        self._service, self._groups = service, groups

    def of(self, shelf: Shelf) -> "WholeService":
        """Return the same service at work on another container."""
        return WholeService(self._service, shelf, self._groups)

    def pids(self, group: str) -> Sequence[int]:
        """Return the processes of a group."""
        return self._groups[group]

    def scan(self) -> None:
        """Let LABDRIVE find the container's objects."""
        # Not by `ask_sandbox`, which has not the patience for a million.
        asked = urllib.request.Request(  # noqa: S310 - loopback
            f"{self._service.sandbox_url}/sandbox/containers/{self.shelf.container}/scan",
            method="POST",
            headers={"Authorization": f"Bearer {ROOT_KEY}"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=PATIENCE_S) as answer:
            count = json.loads(answer.read())["result"]["count"]
        if count != self.shelf.count:
            raise Wrong(f"LABDRIVE found {count} objects of {self.shelf.count}")

    def run(self) -> Taken:
        service, shelf = self._service, self.shelf
        order = {"container_id": shelf.container, "name": "bench"}
        job_id = str(service.ask_sandbox("POST", "/api/job", order)["id"])
        meter = CpuMeter(self._groups)
        began = datetime.now(UTC)
        run_id = service.post(service.event(job_id, container_id=shelf.container))["run_id"]
        wait_s = POLL_S / 4
        while (job := service.ask_sandbox("GET", f"/sandbox/jobs/{job_id}"))["status"] not in {"COMPLETED", "FAILED"}:
            time.sleep(wait_s)
            wait_s = min(POLL_S, wait_s * 1.2)
        cpu_s = meter.read()
        if job["status"] != "COMPLETED":
            raise Wrong(f"the job ended as {job['status']}")
        ours = ("workers", "leader", "intake")
        return Taken(
            wall_s=(_moment(job["history"][-1]["date"]) - began).total_seconds(),
            cpu_s={"client": round(sum(cpu_s[name] for name in ours), 4), **cpu_s},
            rss_mib={
                name: max(map(peak_rss_mib, self._groups[name])) for name in ("workers", "leader", "intake", "labdrive")
            },
            digests=self._found(run_id, began),
        )

    def verify_ledger(self) -> None:
        """Raise `Wrong` unless the ledger's log holds together."""
        with closing(Ledger(self._service.ledger_url, timeout_s=PATIENCE_S)) as ledger:
            if faults := ledger.read_now(entries.verify).faults:
                raise Wrong(f"the ledger: {faults[:3]}")

    def close(self) -> None:
        """Leave the service running: whoever started it stops it."""

    def _found(self, run_id: str, began: datetime) -> dict[str, dict[str, str]]:
        """Return what the ledger holds of the run, once LABDRIVE is seen to hold the same since `began`."""
        with closing(Ledger(self._service.ledger_url, timeout_s=PATIENCE_S)) as ledger:
            found = ledger.read_now(lambda connection: _digests_of(connection, run_id))
        container, since = self.shelf.container, began.strftime("%Y-%m-%d %H:%M:%S.%f")
        for _ in range(LOOKS):
            time.sleep(COMMITTED_S)
            told: dict[str, dict[str, str]] = {}
            for path, algorithm, digest in self._sandbox_rows(_HASHES, (int(container), since)):
                told.setdefault(f"{container}{path}", {})[algorithm] = digest
            if told == found:
                return found
        raise Wrong(f"LABDRIVE holds hashes of {len(told)} files, the ledger of {len(found)}, or they differ")

    def _sandbox_rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._service.folder / "sandbox.sqlite3", timeout=30)) as connection:
            return connection.execute(sql, values).fetchall()


_HASHES: Final = """
SELECT fullpath, algorithm, hash FROM hashes JOIN files ON files.id = hashes.file_id
WHERE container_id = ? AND hashes.date_update >= ?"""


@contextmanager
def whole_service(
    folder: Path,
    source: Source,
    shelves: Sequence[Shelf],
    *,
    ledger: str = "postgresql",
    messages: str = "summary",
    workers: int = 2,
) -> Iterator[list[WholeService]]:
    """Start a service that reads from `source`, and give it as one contender for each shelf, scanned already."""
    environ = {
        "HASHMILL_REPORT__MESSAGES": messages,
        "HASHMILL_WORKER__LEAD": "false",
        **{name: value for name, value in environ_of(source).items() if name == "AWS_CA_BUNDLE"},
    }
    with ExitStack() as stack:
        postgres = stack.enter_context(start_postgres(folder / "postgres")) if ledger == "postgresql" else None
        service = LocalService(
            folder / "service",
            workers=0,
            slots=32,
            containers=max(int(shelf.container) for shelf in shelves),
            s3=cast(S3Server, source),
            bucket=source.bucket,
            ledger_url=postgres.fresh_database() if postgres else None,
            environ=environ,
        )
        stack.callback(service.stop)
        leader = service.start_dispatcher(environ={"HASHMILL_WORKER__LEAD": "true"})
        at_work = [service.start_worker() for _ in range(workers)]
        groups = {
            "workers": [child.pid for child in at_work],
            "leader": [leader.pid],
            "intake": [service.intake.pid],
            "ledger": [postgres.pid] if postgres else [],
            "redis": [service.redis.pid],
            "labdrive": [service.sandbox.pid],
            "server": source.pids,
        }
        contenders = [WholeService(service, shelf, groups) for shelf in shelves]
        for one in contenders:
            one.scan()
        yield contenders


def _digests_of(connection: sa.Connection, run_id: str) -> dict[str, dict[str, str]]:
    run = connection.execute(sa.text("SELECT container_id FROM runs WHERE run_id = :run"), {"run": run_id}).one()
    rows = connection.execute(sa.text("SELECT path, digests FROM files WHERE run_id = :run"), {"run": run_id})
    found = {}
    for row in rows:
        digests = row.digests if isinstance(row.digests, dict) else json.loads(row.digests)
        found[f"{run.container_id}/{row.path.lstrip('/')}"] = digests
    return found


def _moment(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
