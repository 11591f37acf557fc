"""Processes come and go: drained, killed, restarted, led from apart; nothing is lost and nothing stays behind."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hashmill.domain.job import RunState
from hashmill.ledger import entries, files
from hashmill.ledger.runs import Run
from hashmill.parts.process import free_ports
from tests.helpers.cli import Command
from tests.helpers.gated import GatedSite
from tests.helpers.road import (
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
from tests.helpers.wait import wait_until

LEADER_LEASE_S = float(QUICK["HASHMILL_LEASES__LEADER_S"])
BODIES = {f"f{number}": bytes([number]) * 200_000 for number in range(4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A container filled with `BODIES`, and the run of it."""

    site: GatedSite
    ids: Mapping[str, str]
    job_id: str
    run_id: str

    def states(self) -> dict[str, int]:
        """Return how many files are in each state."""
        return self.site.ledger.read_now(files.count_by_state, self.run_id)

    def is_all_running(self) -> bool:
        return self.states() == {"running": len(BODIES)}

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


def start_work(gated: GatedSite, container: str) -> Work:
    ids = fill(gated.service, BODIES, container_id=container)
    job_id = new_job(gated.service, container_id=container)
    run_id = gated.service.post(gated.service.event(job_id, container_id=container))["run_id"]
    return Work(site=gated, ids=ids, job_id=job_id, run_id=run_id)


def test_a_drained_worker_gives_back_what_does_not_end_in_time_and_counts_no_attempt(
    gated: GatedSite, container: str
) -> None:
    gated.no_workers()
    worker = gated.worker(HASHMILL_WORKER__DRAIN_GRACE_S="1")
    with gated.held(container):
        work = start_work(gated, container)
        wait_until(work.is_all_running, timeout_s=30)

        began_s = time.monotonic()
        worker.send(signal.SIGTERM)
        wait_until(lambda: not worker.running, timeout_s=30)
        took_s = time.monotonic() - began_s

        rows = gated.ledger.read_now(files.of_run, work.run_id)
    assert worker.exit_code == 0
    assert took_s < 1 + 5
    assert {(row.state, row.attempts, row.error_class) for row in rows} == {("ready", 0, None)}

    gated.some_workers(1)

    work.assert_ends_right()
    bodies = [json.loads(entry.body) for entry in gated.ledger.read_now(entries.of_run, work.run_id)]
    assert [body["attempt"] for body in bodies if body["kind"] == "file_hashed"] == [1] * len(BODIES)


def test_a_killed_leader_is_followed_a_second_sigterm_ends_at_once_and_one_alone_ends_the_run(
    gated: GatedSite, container: str
) -> None:
    workers = {worker.pid: worker for worker in gated.some_workers(2)}
    wait_until(lambda: gated.leader_pid() in workers, timeout_s=30)
    first = gated.leader_pid()
    assert first is not None
    with gated.held(container):
        work = start_work(gated, container)
        wait_until(work.is_all_running, timeout_s=30)

        workers.pop(first).kill()
        wait_until(lambda: gated.leader_pid() in workers, timeout_s=LEADER_LEASE_S + 2)

        [second] = workers.values()
        wait_until(lambda: gated.s3_gate.snags[0].met > len(BODIES), timeout_s=90, what="a suspect is read again")
        second.send(signal.SIGTERM)
        wait_until(lambda: '"draining"' in second.log_path.read_text(), timeout_s=30)
        second.send(signal.SIGTERM)
        wait_until(lambda: not second.running, timeout_s=10)
        assert second.exit_code == 1
        assert gated.working_pid(work.run_id) == second.pid
    gated.some_workers(1)

    work.assert_ends_right()


def test_a_dispatcher_leads_workers_that_may_not_and_a_worker_told_to_stop_ends_what_it_has_begun(
    gated: GatedSite, container: str
) -> None:
    gated.no_workers()
    worker = gated.worker(HASHMILL_WORKER__LEAD="false", HASHMILL_WORKER__DRAIN_GRACE_S="300")
    wait_until(lambda: gated.leader_pid() is None, timeout_s=30)
    with (
        Command("dispatcher", folder=gated.service.folder, env=gated.service.environ) as dispatcher,
        gated.held(container) as let_go,
    ):
        work = start_work(gated, container)
        wait_until(work.is_all_running, timeout_s=30)
        assert gated.leader_pid() == dispatcher.process.pid
        worker.send(signal.SIGTERM)
        wait_until(lambda: '"draining"' in worker.log_path.read_text(), timeout_s=30)
        assert work.is_all_running()

        let_go()
        wait_until(lambda: not worker.running, timeout_s=30)

        assert worker.exit_code == 0
        work.assert_ends_right()
        assert dispatcher.end() == 0, dispatcher.said
    assert gated.leader_pid() is None


@pytest.mark.fault
def test_the_process_suspects_are_tried_in_ends_with_its_worker_however_that_ends(
    gated: GatedSite, container: str
) -> None:
    gated.no_workers()
    victim = gated.worker()
    with gated.held(container):
        work = start_work(gated, container)
        wait_until(work.is_all_running, timeout_s=30)
        victim.kill()
        for ends in ([signal.SIGKILL], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM]):
            met, mark = gated.s3_gate.snags[0].met, Mark()
            worker = gated.worker(HASHMILL_WORKER__DRAIN_GRACE_S="1" if len(ends) == 1 else "300", **mark.environ)
            wait_until(lambda met=met: gated.s3_gate.snags[0].met > met, timeout_s=30, what="a suspect is read again")
            assert mark.bears("trial.py")
            for number in ends:
                worker.send(number)
                wait_until(lambda worker=worker: not worker.running or '"draining"' in worker.log_path.read_text())
            wait_until(lambda worker=worker: not worker.running, timeout_s=10)
            wait_until(lambda mark=mark: mark.bearers() == [], timeout_s=10)
    gated.some_workers(1)

    work.assert_ends_right()


def test_up_brings_a_run_to_its_end_although_a_worker_is_killed_and_leaves_no_child(
    gated: GatedSite, container: str
) -> None:
    gated.no_workers()
    service = gated.service
    [port] = free_ports(1)
    mark = Mark()
    env = {**service.environ, **mark.environ, "HASHMILL_BROKER__CELL": mark.word}
    with Command("up", "--port", str(port), "--workers", "1", folder=service.folder, env=env) as up:
        up.wait_for('"listening"')
        up.wait_for('"worker_ready"')
        with gated.held(container):
            work = start_work(gated, container)
            wait_until(work.is_all_running, timeout_s=30)
            victim = gated.working_pid(work.run_id)
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            up.wait_for("starting it again")
        work.assert_ends_right()

        assert up.end() == 0, up.said
    assert mark.bearers() == []


class Mark:
    """A word in the environment of a process, by which it and all its descendants are known."""

    def __init__(self) -> None:
        self.word = f"mark-{secrets.token_hex(8)}"
        self.environ = {"HM_TEST_MARK": self.word}

    def bears(self, word: str) -> bool:
        return any(word in line for line in self.bearers())

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
