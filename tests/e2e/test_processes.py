"""Processes come and go: drained, killed, restarted, led from apart; nothing is lost and nothing stays behind."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest
import sqlalchemy as sa

from hashmill.domain.job import RunState
from hashmill.flow.lead import LEADER
from hashmill.ledger import entries, files, leases, tables
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.parts.postgres import Databases
from hashmill.parts.process import Child, free_ports
from hashmill.parts.redis import Redis
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import LocalService, local_service
from tests.helpers.cli import Command
from tests.helpers.road import (
    CONTAINERS,
    QUICK,
    assert_whole,
    digests,
    ended_run,
    fill,
    job_status,
    new_job,
    stored_hashes,
)
from tests.helpers.servers import work_folder
from tests.helpers.tcp_gate import Snag, TcpGate
from tests.helpers.wait import wait_until

_OWNERS = (
    sa.select(tables.files.c.lease_owner)
    .where(tables.files.c.run_id == sa.bindparam("run_id"), tables.files.c.lease_owner.is_not(None))
    .order_by(tables.files.c.file_no)
)
LEADER_LEASE_S = float(QUICK["HASHMILL_LEASES__LEADER_S"])
BODIES = {f"f{number}": bytes([number]) * 200_000 for number in range(4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A service without workers of its own; each test starts those it wants."""

    service: LocalService
    ledger: Ledger
    s3_gate: TcpGate

    @contextmanager
    def held(self, container: str) -> Iterator[Callable[[], None]]:
        """Let reads of this container's objects hang half way, until what this yields is called or the block ends."""
        going_on = Event()
        asked = f"GET /{self.service.bucket}/{container}/"
        snag = Snag(asked=asked, after_bytes=50_000, meanwhile=lambda: going_on.wait(timeout=120))
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
        for worker in self.service.workers:
            worker.kill()
        self.service.workers.clear()

    def working_pid(self, run_id: str) -> int:
        """Return the id of a process that holds files of the run."""
        owners = self.ledger.read_now(
            lambda connection: connection.execute(_OWNERS, {"run_id": run_id}).scalars().all()
        )
        return int(owners[0].partition("/")[0].split(":")[-2])

    def leader_pid(self) -> int | None:
        """Return the id of the process that leads, by the ledger."""
        return next(iter(self._pids(LEADER)), None)

    def _pids(self, prefix: str) -> list[int]:
        found = self.ledger.read_now(leases.listed, prefix)
        return [int(lease.holder.split(":")[-2]) for lease in found if lease.remaining_s > 0]

    def states(self, run_id: str) -> dict[str, int]:
        return self.ledger.read_now(files.count_by_state, run_id)

    def is_all_running(self, run_id: str) -> bool:
        return self.states(run_id) == {"running": len(BODIES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A container filled with `BODIES`, and the run of it."""

    site: Site
    ids: Mapping[str, str]
    job_id: str
    run_id: str

    def assert_ends_right(self) -> Run:
        """Wait for the end; hold LABDRIVE to every digest, and the ledger to one result a file."""
        site = self.site
        run = ended_run(site.ledger, self.run_id)
        assert run.state is RunState.COMPLETED
        assert {path: stored_hashes(site.service, self.ids[path]) for path in BODIES} == {
            path: digests(body) for path, body in BODIES.items()
        }
        assert job_status(site.service, self.job_id) == "COMPLETED"
        kinds = [entry.kind for entry in site.ledger.read_now(entries.of_run, self.run_id, limit=1000)]
        assert kinds.count("file_hashed") == len(BODIES)
        assert_whole(site.ledger, run)
        return run


@pytest.fixture(scope="module")
def site(redis_server: Redis, s3: S3Server, postgres: Databases) -> Iterator[Site]:
    with work_folder("processes") as folder, TcpGate() as gate:
        gate.lead_to(s3.endpoint_url)
        with local_service(
            folder,
            workers=0,
            slots=4,
            containers=CONTAINERS,
            redis=redis_server,
            s3=s3,
            ledger_url=postgres.fresh_database(),
            environ={**QUICK, "HASHMILL_S3__ENDPOINT_URL": gate.url},
        ) as service:
            ledger = Ledger(service.ledger_url)
            yield Site(service=service, ledger=ledger, s3_gate=gate)
            ledger.close()


def start_work(site: Site, container: str) -> Work:
    ids = fill(site.service, BODIES, container_id=container)
    job_id = new_job(site.service, container_id=container)
    run_id = site.service.post(site.service.event(job_id, container_id=container))["run_id"]
    return Work(site=site, ids=ids, job_id=job_id, run_id=run_id)


def test_a_drained_worker_gives_back_what_does_not_end_in_time_and_counts_no_attempt(
    site: Site, container: str
) -> None:
    site.no_workers()
    worker = site.worker(HASHMILL_WORKER__DRAIN_GRACE_S="1")
    with site.held(container):
        work = start_work(site, container)
        wait_until(lambda: site.is_all_running(work.run_id), timeout_s=30)

        began_s = time.monotonic()
        worker.send(signal.SIGTERM)
        wait_until(lambda: not worker.running, timeout_s=30)
        took_s = time.monotonic() - began_s

        rows = site.ledger.read_now(files.of_run, work.run_id)
    assert worker.exit_code == 0
    assert took_s < 1 + 5
    assert {(row.state, row.attempts, row.error_class) for row in rows} == {("ready", 0, None)}

    site.some_workers(1)

    work.assert_ends_right()
    bodies = [json.loads(entry.body) for entry in site.ledger.read_now(entries.of_run, work.run_id)]
    assert [body["attempt"] for body in bodies if body["kind"] == "file_hashed"] == [1] * len(BODIES)


def test_a_second_sigterm_ends_a_worker_at_once_and_its_files_come_back(site: Site, container: str) -> None:
    [worker] = site.some_workers(1)
    with site.held(container):
        work = start_work(site, container)
        wait_until(lambda: site.is_all_running(work.run_id), timeout_s=30)
        worker.send(signal.SIGTERM)
        wait_until(lambda: '"draining"' in worker.log_path.read_text(), timeout_s=30)

        worker.send(signal.SIGTERM)
        wait_until(lambda: not worker.running, timeout_s=10)

        assert worker.exit_code == 1
        assert site.is_all_running(work.run_id)
    site.some_workers(1)

    work.assert_ends_right()


def test_when_the_leader_is_killed_another_leads_and_when_all_are_killed_one_alone_ends_the_run(
    site: Site, container: str
) -> None:
    workers = {worker.pid: worker for worker in site.some_workers(2)}
    wait_until(lambda: site.leader_pid() in workers, timeout_s=30)
    first = site.leader_pid()
    assert first is not None
    with site.held(container):
        work = start_work(site, container)
        wait_until(lambda: site.is_all_running(work.run_id), timeout_s=30)

        workers.pop(first).kill()
        wait_until(lambda: site.leader_pid() in workers, timeout_s=LEADER_LEASE_S + 2)

        [second] = workers.values()
        second.kill()
        assert not site.states(work.run_id).get("done")
    site.some_workers(1)

    work.assert_ends_right()


def test_a_dispatcher_leads_workers_that_may_not_and_a_worker_told_to_stop_ends_what_it_has_begun(
    site: Site, container: str
) -> None:
    site.no_workers()
    worker = site.worker(HASHMILL_WORKER__LEAD="false", HASHMILL_WORKER__DRAIN_GRACE_S="300")
    wait_until(lambda: site.leader_pid() is None, timeout_s=30)
    with (
        Command("dispatcher", folder=site.service.folder, env=site.service.environ) as dispatcher,
        site.held(container) as let_go,
    ):
        work = start_work(site, container)
        wait_until(lambda: site.is_all_running(work.run_id), timeout_s=30)
        assert site.leader_pid() == dispatcher.process.pid
        worker.send(signal.SIGTERM)
        wait_until(lambda: '"draining"' in worker.log_path.read_text(), timeout_s=30)
        assert site.is_all_running(work.run_id)

        let_go()
        wait_until(lambda: not worker.running, timeout_s=30)

        assert worker.exit_code == 0
        work.assert_ends_right()
        assert dispatcher.end() == 0, dispatcher.said
    assert site.leader_pid() is None


def test_up_brings_a_run_to_its_end_although_a_worker_is_killed_and_leaves_no_child(site: Site, container: str) -> None:
    site.no_workers()
    service = site.service
    [port] = free_ports(1)
    mark = Mark()
    env = {**service.environ, **mark.environ, "HASHMILL_BROKER__CELL": mark.word}
    with Command("up", "--port", str(port), "--workers", "1", folder=service.folder, env=env) as up:
        up.wait_for('"listening"')
        up.wait_for('"worker_ready"')
        with site.held(container):
            work = start_work(site, container)
            wait_until(lambda: site.is_all_running(work.run_id), timeout_s=30)
            os.kill(site.working_pid(work.run_id), signal.SIGKILL)
            up.wait_for("starting it again")
        work.assert_ends_right()

        assert up.end() == 0, up.said
    assert mark.bearers() == []


class Mark:
    """A word in the environment of a process, by which it and all its descendants are known."""

    def __init__(self) -> None:
        self.word = f"mark-{secrets.token_hex(8)}"
        self.environ = {"HM_TEST_MARK": self.word}

    def bearers(self) -> list[str]:
        """Return the command lines of living processes that bear the mark."""
        return [
            folder.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and self.word.encode() in _environ_of(folder)
        ]


def _environ_of(process: Path) -> bytes:
    try:
        return process.joinpath("environ").read_bytes()
    except OSError:
        return b""  # gone meanwhile, or somebody else's


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """`hashmill demo --json` under way; `folder` is all the room it has for temporary files."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    mark: Mark
    out: Path
    err: Path

    def assert_nothing_is_left(self) -> None:
        assert self.mark.bearers() == []
        assert list(self.folder.iterdir()) == []


@contextmanager
def demo() -> Iterator[Demo]:
    mark = Mark()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HASHMILL_")}
    with work_folder("demo") as temporary, work_folder("said") as said:
        out, err = said / "out", said / "err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "hashmill", "demo", "--json"],
                cwd=said,
                env={**inherited, **mark.environ, "TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,
            )
        try:
            yield Demo(process=process, folder=temporary, mark=mark, out=out, err=err)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def test_the_demo_finds_everything_right_and_leaves_nothing_behind() -> None:
    with demo() as shown:
        code = shown.process.wait(timeout=180)
        assert code == 0, shown.err.read_text()
        verdict = json.loads(shown.out.read_text())
        assert verdict["good"] is True
        assert verdict["job_status"] == "COMPLETED"
        assert verdict["files_right"] == verdict["files_expected"] == len(verdict["files"]) >= 60
        assert all(file["as_computed_apart"] for file in verdict["files"])
        shown.assert_nothing_is_left()


def test_a_demo_that_is_interrupted_leaves_nothing_behind() -> None:
    with demo() as shown:

        def everything_runs() -> bool:
            assert shown.process.poll() is None, shown.err.read_text()
            return "Workers: process" in shown.err.read_text()

        wait_until(everything_runs, timeout_s=120)
        shown.process.send_signal(signal.SIGINT)

        code = shown.process.wait(timeout=60)
        assert code not in (0, None)
        shown.assert_nothing_is_left()
