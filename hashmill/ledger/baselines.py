"""What an object's digests were when we last read it: found by what makes it the same object for LABDRIVE."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from hashmill.domain.checksums import computed_in
from hashmill.domain.job import FileState
from hashmill.domain.work import Baseline
from hashmill.ledger.rows import Listed
from hashmill.ledger.tables import files

_TOLD = ("run_id", "file_no", "finished_at_ms", "size_bytes", "etag", "version_id", "digests", "provider_checksums")


def object_ref(api_url: str, container_id: str, file_id: str) -> str:
    """Return what the same file of LABDRIVE has in every run: 32 hex digits, as its ids may be long.

    `api_url` is a run's, with its path: two platforms may share one origin, and ids mean nothing to the other.
    """
    return hashlib.sha256(json.dumps([api_url, container_id, file_id]).encode()).hexdigest()[:32]


def newest(connection: sa.Connection, refs: Sequence[str]) -> dict[str, Baseline]:
    """Return the newest result of each of these objects that we have read to its end; one statement, however many."""
    rows = connection.execute(_newest(connection.dialect.name), {"b_refs": list(refs)})
    return {row.object_ref: _baseline(row) for row in sorted(rows, key=lambda row: (row.run_id, row.file_no))}


def _baseline(row: Any) -> Baseline:
    return Baseline(
        run_id=row.run_id,
        file_no=row.file_no,
        finished_at_ms=row.finished_at_ms,
        size_bytes=row.size_bytes,
        etag=row.etag,
        version_id=row.version_id,
        digests={**computed_in(json.loads(row.provider_checksums or "[]")), **json.loads(row.digests)},
    )


@cache
def _newest(dialect: str) -> sa.Select[Any]:
    refs = sa.bindparam("b_refs", type_=Listed)
    # For each its last row by the index, and no other: an object may have been read in a hundred runs.
    if dialect == "sqlite":
        given: Any = sa.func.json_each(refs).table_valued("value", name="given")
        at_ms = _last(given.c.value, "finished_at_ms").correlate(given).scalar_subquery()
        mine = sa.and_(files.c.object_ref == given.c.value, files.c.finished_at_ms == at_ms)
        found: Any = files
        joined = given.join(files, sa.and_(mine, files.c.state == FileState.DONE))
    else:
        given = sa.func.json_array_elements_text(sa.cast(refs, sa.JSON)).table_valued("value", name="given")
        found = _last(given.c.value, "object_ref", *_TOLD).lateral("found")
        joined = given.join(found, sa.true())
    return sa.select(found.c.object_ref, *(found.c[name] for name in _TOLD)).select_from(joined)


def _last(ref: Any, *names: str) -> sa.Select[Any]:
    results = files.alias("results")
    return (
        sa.select(*(results.c[name] for name in names))
        .where(results.c.object_ref == ref, results.c.state == FileState.DONE, results.c.finished_at_ms.is_not(None))
        .order_by(results.c.finished_at_ms.desc())
        .limit(1)
    )
