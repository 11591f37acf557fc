"""
Entries: what happened, as canonical JSON (RFC 8785), stored as the exact bytes.

Each carries its RFC 6962 leaf hash. One sequencer numbers them without gaps; the order is the log's.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785
import sqlalchemy as sa
import uuid6

from hashmill.ledger.engine import now_ms
from hashmill.ledger.tables import entries, positions, runs, unnumbered


def new_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562): it sorts by the time it was made."""
    return str(uuid6.uuid7())


def leaf_hash(body: bytes) -> bytes:
    """Return the RFC 6962 leaf hash of an entry: SHA-256 over 0x00 and the stored bytes."""
    return hashlib.sha256(b"\x00" + body).digest()


def moment(at_ms: int) -> str:
    """Return `at_ms` as RFC 3339 text in UTC with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_ms(connection: sa.Connection) -> int:
    """Return the database's clock."""
    return int(connection.execute(sa.select(now_ms())).scalar_one())


def append(
    connection: sa.Connection,
    run_id: str,
    bodies: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    tenant_id: str,
    shard: int,
) -> None:
    """Add one entry per (kind, body) in this transaction; they are numbered later, in the order of their ids."""
    if not bodies:
        return
    at_ms = clock_ms(connection)
    rows = []
    for kind, body in bodies:
        entry_id = new_id()
        stored = rfc8785.dumps(
            {
                **body,
                "v": 1,
                "entry_id": entry_id,
                "kind": kind,
                "run_id": run_id,
                "tenant_id": tenant_id,
                "recorded_at": moment(at_ms),
            }
        )
        rows.append(
            {
                "entry_id": entry_id,
                "tenant_id": tenant_id,
                "shard": shard,
                "run_id": run_id,
                "kind": kind,
                "body": stored,
                "leaf_hash": leaf_hash(stored),
                "recorded_at_ms": at_ms,
            }
        )
    connection.execute(sa.insert(entries), rows)
    connection.execute(sa.insert(unnumbered), [{"entry_id": row["entry_id"]} for row in rows])


def number(connection: sa.Connection, *, limit: int = 2000) -> int:
    """Give the next numbers to at most `limit` waiting entries and return how many got one.

    Only the holder of the sequencer's lease calls this. Should two ever do so, the primary key lets one
    of them through and the other's transaction fails as a whole: no gap, no double.
    """
    waiting = list(
        connection.execute(sa.select(unnumbered.c.entry_id).order_by(unnumbered.c.entry_id).limit(limit)).scalars()
    )
    if not waiting:
        return 0
    last = connection.execute(sa.select(sa.func.max(positions.c.leaf_index))).scalar_one_or_none()
    first = 0 if last is None else last + 1
    connection.execute(
        sa.insert(positions),
        [{"leaf_index": first + offset, "entry_id": entry_id} for offset, entry_id in enumerate(waiting)],
    )
    connection.execute(sa.delete(unnumbered).where(unnumbered.c.entry_id.in_(waiting)))
    return len(waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One entry as stored; `leaf_index` is None until the sequencer has numbered it."""

    entry_id: str
    run_id: str
    kind: str
    leaf_index: int | None
    body: bytes
    leaf_hash: bytes
    recorded_at_ms: int


def of_run(connection: sa.Connection, run_id: str, *, after: str = "", limit: int = 100) -> list[StoredEntry]:
    """Return the entries of a run in the order of their ids, from just behind `after`."""
    rows = connection.execute(
        sa.select(entries, positions.c.leaf_index)
        .outerjoin(positions, positions.c.entry_id == entries.c.entry_id)
        .where(entries.c.run_id == run_id, entries.c.entry_id > after)
        .order_by(entries.c.entry_id)
        .limit(limit)
    )
    return [_stored(row) for row in rows]


def in_order(connection: sa.Connection, *, page: int = 1000) -> Iterator[StoredEntry]:
    """Yield every numbered entry by its number, a page in memory at a time."""
    after = -1
    while True:
        rows = connection.execute(
            sa.select(entries, positions.c.leaf_index)
            .join(positions, positions.c.entry_id == entries.c.entry_id)
            .where(positions.c.leaf_index > after)
            .order_by(positions.c.leaf_index)
            .limit(page)
        ).all()
        for row in rows:
            yield _stored(row)
        if len(rows) < page:
            return
        after = rows[-1].leaf_index


def _stored(row: Any) -> StoredEntry:
    return StoredEntry(
        entry_id=row.entry_id,
        run_id=row.run_id,
        kind=row.kind,
        leaf_index=row.leaf_index,
        body=bytes(row.body),
        leaf_hash=bytes(row.leaf_hash),
        recorded_at_ms=row.recorded_at_ms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found: `faults` is empty when every entry is what it was."""

    entries: int
    waiting: int
    files_hashed: int
    faults: tuple[str, ...]


FAULTS_MAX = 100


def verify(connection: sa.Connection) -> Verification:
    """Walk the whole log and compare bytes with leaf hashes, bytes with canonical form, numbers with no gap,
    and the results of the `files` table with the newest entry of each file.

    Memory stays flat except for the faults, of which at most `FAULTS_MAX` are kept.
    """
    faults: list[str] = []
    count = files_hashed = 0
    for entry in in_order(connection):
        if entry.leaf_index != count:
            faults.append(f"number {count} is missing: the next entry is {entry.leaf_index}")
            count = entry.leaf_index or 0
        count += 1
        if leaf_hash(entry.body) != entry.leaf_hash:
            faults.append(f"entry {entry.leaf_index}: the stored bytes do not have the stored leaf hash")
            continue
        try:
            body = json.loads(entry.body)
            canonical = rfc8785.dumps(body) == entry.body
        except ValueError:
            faults.append(f"entry {entry.leaf_index}: the stored bytes are no JSON")
            continue
        if not canonical:
            faults.append(f"entry {entry.leaf_index}: the stored bytes are not canonical JSON")
        if (body.get("entry_id"), body.get("run_id"), body.get("kind")) != (entry.entry_id, entry.run_id, entry.kind):
            faults.append(f"entry {entry.leaf_index}: its columns say something else than its bytes")
        files_hashed += entry.kind == "file_hashed"
        if len(faults) >= FAULTS_MAX:
            break
    waiting = connection.execute(sa.select(sa.func.count()).select_from(unnumbered)).scalar_one()
    stored = connection.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one()
    if stored != count + waiting and len(faults) < FAULTS_MAX:
        faults.append(f"{stored} entries are stored, but {count} are numbered and {waiting} wait for a number")
    runs_without = connection.execute(
        sa.select(sa.func.count())
        .select_from(runs)
        .where(~sa.exists().where(entries.c.run_id == runs.c.run_id, entries.c.kind == "run_accepted"))
    ).scalar_one()
    if runs_without:
        faults.append(f"{runs_without} runs have no run_accepted entry")
    return Verification(entries=count, waiting=waiting, files_hashed=files_hashed, faults=tuple(faults))
