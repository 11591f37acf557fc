"""What an end-to-end test does to a running service: fill it, post, wait, and read back what LABDRIVE got."""

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from hashmill.ledger import entries, files, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.ledger.tables import outbox
from hashmill.parts.service import LocalService
from tests.helpers.wait import wait_until

CONTAINERS = 120
"""As many containers as all end-to-end tests together take, in every service of theirs."""
QUICK = {
    "HASHMILL_LEASES__FILE_S": "3",
    "HASHMILL_LEASES__LEADER_S": "2",
    "HASHMILL_FILES__RETRY_BASE_S": "0.1",
    "HASHMILL_FILES__ATTEMPTS_MAX": "3",
    "HASHMILL_TICKETS__REISSUE_AFTER_S": "3",
    "HASHMILL_LABDRIVE__TIMEOUT_S": "2",
    "HASHMILL_LABDRIVE__BACKOFF_BASE_S": "0.05",
    "HASHMILL_FILES__RETRY_CAP_S": "1",
    "HASHMILL_REPORT__BACKOFF_BASE_S": "0.05",
    "HASHMILL_REPORT__BACKOFF_CAP_S": "1",
    "HASHMILL_REPORT__PROBE_CAP_S": "1",
    "HASHMILL_REPORT__AUTH_GIVE_UP_AFTER_S": "4",
    "HASHMILL_S3__BACKOFF_BASE_S": "0.05",
}
"""Settings under which what passes, passes in seconds."""


def fill(service: LocalService, objects: Mapping[str, bytes], *, container_id: str = "1") -> dict[str, str]:
    """Put objects where the container's files live, let LABDRIVE find them, and return file ids by path."""
    client = service.s3.client()
    for path, body in objects.items():
        client.put_object(Bucket=service.bucket, Key=f"{container_id}/{path}", Body=body)
    client.close()
    service.ask_sandbox("POST", f"/sandbox/containers/{container_id}/scan")
    return file_ids(service, container_id=container_id)


def file_ids(service: LocalService, *, container_id: str = "1") -> dict[str, str]:
    """Return the ids of a container's files by path."""
    listed = service.ask_sandbox("GET", f"/api/container/{container_id}/file/list?limit=10000&offset=0")
    return {file["fullpath"].removeprefix("/"): file["id"] for file in listed if file["type"] == "FILE"}


def new_job(service: LocalService, *, container_id: str = "1") -> str:
    """Return a fresh LABDRIVE job."""
    return str(service.ask_sandbox("POST", "/api/job", {"container_id": container_id, "name": "t"})["id"])


def ended_run(ledger: Ledger, run_id: str, *, timeout_s: float = 60.0) -> Run:
    """Wait until the run has ended and return it."""
    found: list[Run] = []

    def has_ended() -> bool:
        run = ledger.read_now(runs.get, run_id)
        assert run is not None
        found[:] = [run]
        return run.state.ended

    try:
        wait_until(has_ended, timeout_s=timeout_s)
    except TimeoutError:
        raise AssertionError(f"the run has not ended: {found}") from None
    return found[0]


def stored_hashes(service: LocalService, file_id: str) -> dict[str, str]:
    """Return the digests LABDRIVE has of a file."""
    hashes: dict[str, str] = service.ask_sandbox("GET", f"/api/file/{file_id}/hash")
    return hashes


def job_status(service: LocalService, job_id: str) -> str:
    """Return the job's status as LABDRIVE has it."""
    return str(service.ask_sandbox("GET", f"/api/job/{job_id}")["status"])


def job_messages(service: LocalService, job_id: str) -> list[dict[str, Any]]:
    """Return the job's messages, oldest first."""
    messages: list[dict[str, Any]] = service.ask_sandbox("GET", f"/api/job/{job_id}/message?limit=10000&offset=0")
    return messages


def digests(body: bytes) -> dict[str, str]:
    """Return md5, sha1 and sha256 of `body`."""
    return {name: hashlib.new(name, body, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256")}


def set_faults(service: LocalService, *rules: Mapping[str, Any]) -> None:
    """Let LABDRIVE misbehave by these rules; none: behave."""
    service.ask_sandbox("POST", "/sandbox/faults", list(rules))


def wait_for_workers(service: LocalService, ledger: Ledger, count: int, *, timeout_s: float = 30.0) -> None:
    """Wait until `count` worker processes say in the ledger that they live."""
    from hashmill.ledger import leases

    def present() -> bool:
        found = ledger.read_now(leases.listed, leases.PROCESS)
        return sum(lease.remaining_s > 0 for lease in found) >= count

    wait_until(present, timeout_s=timeout_s)


def calls(service: LocalService, path: str, *, method: str = "*") -> list[dict[str, Any]]:
    """Return the calls LABDRIVE got at `path` (`*` is any text), in the order they ended."""
    which = f"path={quote(path)}" + ("" if method == "*" else f"&method={method}")
    found: list[dict[str, Any]] = service.ask_sandbox("GET", f"/sandbox/calls?limit=10000&offset=0&{which}")["calls"]
    return found


def classes_by_path(ledger: Ledger, run_id: str) -> dict[str, str | None]:
    """Return each file's error class, None where it was hashed, by path."""
    return {row.path: row.error_class for row in ledger.read_now(files.of_run, run_id, limit=10_000)}


def assert_whole(ledger: Ledger, run: Run, *, dead: int = 0) -> None:
    """What holds whatever went wrong: the ledger proves itself, nothing is left owed, the counters are right."""
    assert ledger.read_now(entries.verify).faults == ()
    states = ledger.read_now(_reports_by_state, run.run_id)
    assert set(states) <= {"sent", "dead"}, states
    assert states.get("dead", 0) == dead == run.outbox_dead
    assert run.outbox_owed == 0
    assert run.files_open == 0
    assert run.files_failed == sum(ledger.read_now(files.failed_by_class, run.run_id).values())


def _reports_by_state(connection: sa.Connection, run_id: str) -> dict[str, int]:
    rows = connection.execute(
        sa.select(outbox.c.state, sa.func.count()).where(outbox.c.run_id == run_id).group_by(outbox.c.state)
    )
    return {state: count for state, count in rows}
