"""A service that reaches S3 and LABDRIVE through gates, and whose workers each test starts, stops and kills itself."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import sqlalchemy as sa

from hashmill.flow.lead import LEADER
from hashmill.ledger import leases, tables
from hashmill.ledger.engine import Ledger
from hashmill.parts.process import Child
from hashmill.parts.redis import Redis
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import LocalService, local_service
from tests.helpers.road import CONTAINERS, QUICK
from tests.helpers.tcp_gate import Snag, TcpGate

LOCKED_OUT = "locked-out"
"""The tenant whose S3 keys are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedSite:
    """The service, its ledger, and the gate to S3. Events that name `locked_out_url` are the tenant's of that name."""

    service: LocalService
    ledger: Ledger
    s3_gate: TcpGate
    locked_out_url: str
    s3_client: Any

    def asked(self, container: str, path: str = "") -> str:
        """Return what the first line of the request for an object's bytes has in it, or of any of a container."""
        return f"GET /{self.service.bucket}/{container}/" + (f"{path} " if path else "")

    def put(self, container: str, path: str, body: bytes) -> None:
        """Put an object, past the gate, and quickly: a reader may be waiting at it."""
        self.s3_client.put_object(Bucket=self.service.bucket, Key=f"{container}/{path}", Body=body)

    @contextmanager
    def held(self, container: str) -> Iterator[Callable[[], None]]:
        """Let reads of this container's objects hang half way, until what this yields is called or the block ends."""
        going_on = Event()
        snag = Snag(asked=self.asked(container), after_bytes=50_000, meanwhile=lambda: going_on.wait(timeout=120))
        self.s3_gate.snags.append(snag)

        def let_go() -> None:
            self.s3_gate.snags.clear()
            going_on.set()

        try:
            yield let_go
        finally:
            let_go()

    def worker(self, **environ: str) -> Child:
        """Start one more worker, and return it once it says in the ledger that it lives."""
        worker = self.service.start_worker(environ=environ)
        worker.wait_until(lambda: worker.pid in self._pids(leases.PROCESS), timeout_s=60)
        return worker

    def some_workers(self, count: int) -> list[Child]:
        """Return so many living workers; what earlier tests have left is taken first, since a start costs seconds."""
        workers = self.service.workers
        workers[:] = [worker for worker in workers if worker.running]
        while len(workers) < count:
            self.worker(HASHMILL_WORKER__DRAIN_GRACE_S="300")
        return workers[:count]

    def no_workers(self) -> None:
        """Kill every worker."""
        for worker in self.service.workers:
            worker.kill()
        self.service.workers.clear()

    def leader_pid(self) -> int | None:
        """Return the id of the process that leads, by the ledger."""
        return next(iter(self._pids(LEADER)), None)

    def working_pid(self, run_id: str) -> int | None:
        """Return the id of a process that holds files of the run, by the ledger."""
        return self.ledger.read_now(_working_pid, run_id)

    def _pids(self, prefix: str) -> list[int]:
        found = self.ledger.read_now(leases.listed, prefix)
        return [_pid_in(lease.holder) for lease in found if lease.remaining_s > 0]


@contextmanager
def gated_site(folder: Path, *, redis: Redis, s3: S3Server, ledger_url: str) -> Iterator[GatedSite]:
    """Start the service without a worker; S3 and LABDRIVE are given up after a second or two."""
    with TcpGate() as s3_gate, TcpGate() as api_gate:
        s3_gate.lead_to(s3.endpoint_url)
        other_url = f"http://localhost:{api_gate.port}"
        environ = {
            **QUICK,
            "HASHMILL_S3__ENDPOINT_URL": s3_gate.url,
            "HASHMILL_S3__RESUMES_MAX": "1",
            "HASHMILL_S3__THROTTLE_ATTEMPTS": "2",
            "HASHMILL_S3__TENANTS": json.dumps({LOCKED_OUT: {"secret_access_key": "wrong"}}),
            "HASHMILL_TENANTS": json.dumps({LOCKED_OUT: {"api_origins": [other_url]}}),
            "HASHMILL_LABDRIVE__ALLOWED_ORIGINS": json.dumps([api_gate.url, other_url]),
            "HASHMILL_LABDRIVE__TIMEOUT_S": "10",
            "HASHMILL_FILES__EXPAND_GIVE_UP_AFTER_S": "1",
            "HASHMILL_REPORT__GIVE_UP_AFTER_S": "2",
        }
        with local_service(
            folder,
            workers=0,
            slots=4,
            containers=CONTAINERS,
            redis=redis,
            s3=s3,
            ledger_url=ledger_url,
            labdrive_url=api_gate.url,
            environ=environ,
        ) as service:
            api_gate.lead_to(service.sandbox_url)
            ledger, client = Ledger(service.ledger_url), s3.client()
            yield GatedSite(service=service, ledger=ledger, s3_gate=s3_gate, locked_out_url=other_url, s3_client=client)
            client.close()
            ledger.close()


def _pid_in(process: str) -> int:
    return int(process.split(":")[-2])


def _working_pid(connection: sa.Connection, run_id: str) -> int | None:
    columns = tables.files.c
    owner = connection.execute(
        sa.select(columns.lease_owner)
        .where(columns.run_id == run_id, columns.lease_owner.is_not(None))
        .order_by(columns.file_no)
        .limit(1)
    ).scalar_one_or_none()
    return None if owner is None else _pid_in(owner.partition("/")[0])
