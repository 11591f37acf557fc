"""
Runs, files and entries as JSON: plain values, times as RFC 3339 text.

The names are those of the HTTP API's answers; a test holds the two together.
"""

import json
from typing import Any

from hashmill.ledger.entries import StoredEntry, moment
from hashmill.ledger.files import FileRow
from hashmill.ledger.runs import Run
from hashmill.ledger.slices import LargeFile


def run_document(run: Run) -> dict[str, Any]:
    """Return one run, without the event: that may name a million files."""
    return {
        "run_id": run.run_id,
        "state": run.state.value,
        "tenant_id": run.tenant_id,
        "job_id": run.job_id,
        "container_id": run.container_id,
        "storage_id": run.storage_id,
        "mode": run.mode.value,
        "function": {"name": run.function_name, "sha256": run.function_sha256} if run.function_name else None,
        "priority": run.priority,
        "generation": run.generation,
        "progress": {
            "files_total": run.files_total,
            "files_open": run.files_open,
            "files_done": run.files_total - run.files_open - run.files_failed,
            "files_failed": run.files_failed,
            "bytes_total": run.bytes_total,
            "bytes_done": run.bytes_done,
        },
        "outbox": {"owed": run.outbox_owed, "dead": run.outbox_dead},
        "error_class": run.error_class,
        "error_detail": run.error_detail,
        "created_at": _moment(run.created_at_ms),
        "expanded_at": _moment(run.expanded_at_ms),
        "settled_at": _moment(run.settled_at_ms),
        "finished_at": _moment(run.finished_at_ms),
        "idempotency_key": run.idempotency_key,
        "event_digest": run.event_digest,
        "api_url": run.api_url,
        "user_id": run.user_id,
        "algorithms": list(run.algorithms),
    }


def file_document(file: FileRow) -> dict[str, Any]:
    """Return one file of a run."""
    return {
        "file_no": file.file_no,
        "file_id": file.file_id,
        "path": file.path,
        "size_bytes": file.size_bytes,
        "state": file.state.value,
        "verdict": file.verdict,
        "digests": dict(file.digests),
        "provider_checksums": [dict(one) for one in file.provider_checksums],
        "error_class": file.error_class,
        "error_detail": file.error_detail,
        "attempts": file.attempts,
        "generation": file.generation,
        "etag": file.etag,
        "version_id": file.version_id,
        "finished_at": _moment(file.finished_at_ms),
    }


def large_file_document(file: LargeFile) -> dict[str, Any]:
    """Return how far a large file has come."""
    return {
        "file_no": file.file_no,
        "path": file.path,
        "state": file.state.value,
        "offset_bytes": file.offset_bytes,
        "size_bytes": file.size_bytes,
        "slices": file.slices,
        "saved_at": _moment(file.saved_at_ms),
    }


def entry_document(entry: StoredEntry) -> dict[str, Any]:
    """Return one entry; `body` is what its bytes say, and RFC 8785 makes the same bytes of it again."""
    return {
        "entry_id": entry.entry_id,
        "leaf_index": entry.leaf_index,
        "kind": entry.kind,
        "leaf_hash": entry.leaf_hash.hex(),
        "recorded_at": _moment(entry.recorded_at_ms),
        "body": json.loads(entry.body),
    }


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else moment(at_ms)
