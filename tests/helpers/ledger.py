"""A fresh ledger at head, and runs to put into it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from hashmill.domain.job import FileState, JobStatus, SizeClass
from hashmill.domain.work import FileOutcome, NewFile, Report, SavedHash, Ticket
from hashmill.flow import words
from hashmill.home import app_home
from hashmill.ledger import expansions, files, migrate, runs
from hashmill.ledger import slices as saved_slices
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run

MIGRATIONS = app_home() / "migrations"


@contextmanager
def fresh_ledger(url: str) -> Iterator[Ledger]:
    """Open the empty database at `url` and bring it to head."""
    ledger = Ledger(url, threads=4, timeout_s=10)
    try:
        migrate.upgrade(ledger.engine, MIGRATIONS)
        yield ledger
    finally:
        ledger.close()


def accept_run(
    ledger: Ledger, *, key: str = "k1", tenant_id: str = "default", job_id: str = "299", **event: Any
) -> Run:
    """Write an accepted run and return it."""
    public = {
        "api_url": "http://127.0.0.1:1",
        "file_ids": [],
        "file_paths": [],
        "algorithms": ["md5", "sha1", "sha256"],
        "user_id": "2",
        **event,
    }
    run, made = ledger.write_now(
        runs.accept,
        tenant_id=tenant_id,
        idempotency_key=key,
        event_digest="d",
        event=public,
        job_id=job_id,
        container_id="1",
        priority=5,
        entry={"event": public},
    )
    assert made
    return run


def new_files(
    count: int, *, start: int = 1, size_class: SizeClass = SizeClass.TINY, size_bytes: int = 10
) -> list[NewFile]:
    """Return `count` files with ids and paths of their number."""
    return [
        NewFile(
            file_ref=str(number),
            file_id=str(number),
            path=f"dir/{number}.bin",
            size_bytes=size_bytes,
            size_class=size_class,
        )
        for number in range(start, start + count)
    ]


def expanded_run(ledger: Ledger, count: int, *, size_class: SizeClass = SizeClass.TINY, **run: Any) -> Run:
    """Write a run whose `count` files are all listed and ready."""
    accepted = accept_run(ledger, **run)
    expansion = claim_expansion(ledger, accepted.run_id)
    assert ledger.write_now(
        expansions.add_files, expansion, new_files(count, size_class=size_class), cursor={"phase": "list"}, lease_s=30
    )
    assert ledger.write_now(expansions.end, expansion, {})
    return get_run(ledger, accepted.run_id)


def claim_expansion(ledger: Ledger, run_id: str, *, lease_s: float = 30) -> expansions.Expansion:
    """Claim the expansion of a run that waits for it."""
    expansion = ledger.write_now(
        expansions.claim, run_id, lease_s=lease_s, running=words.status(JobStatus.RUNNING), entry={}
    )
    assert expansion is not None
    return expansion


def get_run(ledger: Ledger, run_id: str) -> Run:
    """Return a run that is there."""
    run = ledger.read_now(runs.get, run_id)
    assert run is not None
    return run


def queue_ticket(ledger: Ledger, run: Run, *, limit: int = 64, size_class: SizeClass = SizeClass.TINY) -> Ticket:
    """Queue ready files of a run and return their ticket."""
    queued = ledger.write_now(files.queue, run.run_id, size_class, after_no=0, limit=limit)
    return Ticket(run_id=run.run_id, size_class=size_class, files=queued)


def claim(ledger: Ledger, ticket: Ticket, *, owner: str = "me", lease_s: float = 30) -> list[files.ClaimedFile]:
    """Claim a ticket."""
    return ledger.write_now(files.claim, ticket, owner=owner, lease_s=lease_s)


def done(file: files.ClaimedFile) -> FileOutcome:
    """Return the outcome of a file that was hashed."""
    digests = {"md5": f"{file.file_no:032x}"}
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.DONE,
        size_bytes=10,
        digests=digests,
        verdict="no_baseline",
        entry={"file_no": file.file_no, "file_id": file.file_id, "digests": digests},
        reports=words.hashed(file.file_no, file.file_id, digests, messages="per_digest"),
    )


def message(text: str, file_no: int | None = None) -> Report:
    """Return a message to owe."""
    report = words.message(text)
    return Report(kind=report.kind, body=report.body, file_no=file_no)


def lapse(ledger: Ledger, run: Run) -> None:
    """Let every lease of a run's files have run out a second ago, as if its owners had died long before."""

    def age(connection: sa.Connection) -> None:
        connection.execute(
            sa.text("UPDATE files SET lease_until_ms = 1 WHERE run_id = :run_id AND state = 'running'"),
            {"run_id": run.run_id},
        )

    ledger.write_now(age)


def save_slice(ledger: Ledger, run_id: str, file_no: int, *, offset_bytes: int, size_bytes: int, slices: int) -> None:
    """Keep a slice of a file, as the settling of it does."""
    saved = SavedHash(
        offset_bytes=offset_bytes, size_bytes=size_bytes, etag='"e"', version_id=None, state="{}", slices=slices
    )
    outcome = FileOutcome(file_no=file_no, fence=0, state=FileState.READY, saved=saved)
    ledger.write_now(saved_slices.keep, run_id, [outcome])
