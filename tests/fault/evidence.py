"""
Everything a check needs, read once: what was posted, the ledger, LABDRIVE's notebook.

The ledger's tables are read in plain SQL of our own, so that no function under test stands between them and the check.
LABDRIVE is the sandbox's own database (its calls, statuses, messages and hashes as it wrote them down), read directly:
asked over HTTP, it would write down the questions too.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hashmill.ledger.engine import Ledger, open_engine
from hashmill.ledger.entries import verify
from tests.fault import records
from tests.fault.content import Manifest
from tests.fault.records import Lapsed, Post

# A call met by one of these faults takes effect all the same.
_CALLS = """
SELECT id, method, path, idempotency_key FROM calls WHERE method <> 'GET' AND status BETWEEN 200 AND 299
AND fault IN ('', 'cut', 'delay') ORDER BY id"""
_RUNS = """
SELECT run_id, job_id, container_id, state, generation, files_total, files_open, files_failed, bytes_total, bytes_done,
       outbox_seq, outbox_owed, outbox_dead, error_class FROM runs ORDER BY run_id"""
_FILES = """
SELECT run_id, file_no, file_id, path, state, epoch, fence, attempts, lost_leases, generation, size_bytes, error_class,
       digests FROM files ORDER BY run_id, file_no"""
_OUTBOX = "SELECT run_id, seq, file_no, kind, state, body, attempts, error_class FROM outbox ORDER BY run_id, seq"
_ENTRIES = """
SELECT run_id, kind, body FROM entries WHERE kind IN
('run_accepted', 'run_expanded', 'file_hashed', 'file_failed', 'run_settled', 'run_ended') ORDER BY entry_id"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call LABDRIVE carried out, in the order they ended; `token` is its Idempotency-Key."""

    id: int
    method: str
    path: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Rows are mappings of column names. `entries` counts (run, kind, file number); runs' own entries have None."""

    posts: list[Post]
    lapsed: list[Lapsed]
    manifest: Manifest
    runs: list[Mapping[str, Any]]
    files: dict[str, list[Mapping[str, Any]]]
    outbox: dict[str, list[Mapping[str, Any]]]
    entries: dict[tuple[str, str, int | None], int]
    ledger_faults: tuple[str, ...]
    statuses: dict[str, list[str]]
    messages: dict[str, list[str]]
    hashes: dict[str, dict[str, str]]
    calls: list[Call]
    calls_in_all: int
    by_job: dict[str, list[Post]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for post in self.posts:
            self.by_job[post.job_id].append(post)


def gather(folder: Path, *, ledger_url: str, sandbox: Path) -> Evidence:
    """Return what `folder` (the load's records), the ledger and the sandbox's database tell now."""
    engine = open_engine(ledger_url)
    with engine.connect() as connection:
        runs: list[Mapping[str, Any]] = [dict(row._mapping) for row in connection.execute(sa.text(_RUNS))]
        files = _by_run(connection, _FILES)
        outbox = _by_run(connection, _OUTBOX)
        entries: dict[tuple[str, str, int | None], int] = defaultdict(int)
        for run_id, kind, body in connection.execute(sa.text(_ENTRIES)):
            file_no = json.loads(bytes(body)).get("file_no") if kind.startswith("file_") else None
            entries[run_id, kind, file_no] += 1
    engine.dispose()
    ledger = Ledger(ledger_url, timeout_s=300.0)
    try:
        faults = ledger.read_now(verify).faults
    finally:
        ledger.close()
    notebook = sqlite3.connect(f"file:{sandbox}?mode=ro", uri=True)
    try:
        statuses, messages = defaultdict(list), defaultdict(list)
        for job_id, status in notebook.execute("SELECT job_id, status FROM job_statuses ORDER BY id"):
            statuses[str(job_id)].append(status)
        for job_id, message in notebook.execute("SELECT job_id, message FROM messages ORDER BY id"):
            messages[str(job_id)].append(message)
        hashes: dict[str, dict[str, str]] = defaultdict(dict)
        for file_id, algorithm, digest in notebook.execute("SELECT file_id, algorithm, hash FROM hashes"):
            hashes[str(file_id)][algorithm] = digest
        (calls_in_all,) = notebook.execute("SELECT count(*) FROM calls WHERE method <> 'GET'").fetchone()
        calls = [
            Call(id=id_, method=method, path=path, token=token) for id_, method, path, token in notebook.execute(_CALLS)
        ]
    finally:
        notebook.close()
    return Evidence(
        posts=records.posts(folder),
        lapsed=records.lapsed(folder),
        manifest=Manifest.read(folder / records.MANIFEST),
        runs=runs,
        files=files,
        outbox=outbox,
        entries=dict(entries),
        ledger_faults=faults,
        statuses=dict(statuses),
        messages=dict(messages),
        hashes=dict(hashes),
        calls=calls,
        calls_in_all=calls_in_all,
    )


def _by_run(connection: sa.Connection, sql: str) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in connection.execute(sa.text(sql)):
        found[row.run_id].append(dict(row._mapping))
    return dict(found)
