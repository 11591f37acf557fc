"""What an end-to-end test does to a running service: fill it, post, wait, and read back what LABDRIVE got."""

import hashlib
from collections.abc import Mapping
from typing import Any

from hashmill.ledger import runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.parts.service import LocalService
from tests.helpers.wait import wait_until


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
