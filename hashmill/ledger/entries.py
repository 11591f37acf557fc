"""
Entries: what happened, as canonical JSON (RFC 8785), stored as the exact bytes.

Each carries its RFC 6962 leaf hash. One sequencer numbers them without gaps; the order is the log's.
"""

import hashlib
import itertools
import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import rfc8785
import sqlalchemy as sa
import uuid6

from hashmill.domain.job import FileState
from hashmill.ledger import canonical
from hashmill.ledger.engine import now_ms
from hashmill.ledger.rows import among_given, insert
from hashmill.ledger.tables import entries, files, positions, runs, unnumbered


def new_id() -> str:
    """Return a fresh UUIDv7 (RFC 9562): it sorts by the time it was made."""
    return str(uuid6.uuid7())


class _EntryIds:
    """Makes the ids of entries: UUIDv7 by the database's clock, so that a process whose clock is wrong keeps the order.

    Those of one process rise strictly: 4096 to the millisecond, and what is more runs ahead of the clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def make(self, at_ms: int, count: int) -> list[str]:
        with self._lock:
            first = max(at_ms << 12, self._last + 1)
            self._last = first + count - 1
        return [str(_uuid7(tick >> 12, tick & 0xFFF)) for tick in range(first, first + count)]


def _uuid7(at_ms: int, step: int) -> UUID:
    # RFC 9562, 5.7: 48 bits of milliseconds, the version, 12 bits to order by, the variant, 62 random bits.
    return UUID(int=at_ms << 80 | 0x7 << 76 | step << 64 | 0b10 << 62 | secrets.randbits(62))


_entry_ids = _EntryIds()


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
    at_ms: int | None = None,
) -> None:
    """Add one entry per (kind, body) in this transaction; they are numbered later, in the order of their ids.

    `at_ms` is the database's clock, for who has just asked it.
    """
    if not bodies:
        return
    if at_ms is None:
        at_ms = clock_ms(connection)
    recorded_at = moment(at_ms)
    made = []
    for entry_id, (kind, body) in zip(_entry_ids.make(at_ms, len(bodies)), bodies, strict=True):
        stored = canonical.dumps(
            {
                **body,
                "v": 1,
                "entry_id": entry_id,
                "kind": kind,
                "run_id": run_id,
                "tenant_id": tenant_id,
                "recorded_at": recorded_at,
            }
        )
        made.append(
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
    insert(connection, entries, made)
    insert(connection, unnumbered, [{"entry_id": row["entry_id"]} for row in made])


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
    numbered = [{"leaf_index": first + offset, "entry_id": entry_id} for offset, entry_id in enumerate(waiting)]
    insert(connection, positions, numbered)
    connection.execute(_numbered(connection.dialect.name), {"b_ids": waiting})
    return len(waiting)


@cache
def _numbered(dialect: str) -> sa.Delete:
    return sa.delete(unnumbered).where(among_given(unnumbered.c.entry_id, "b_ids", dialect=dialect))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One entry as stored; `leaf_index` is None until the sequencer has numbered it."""

    entry_id: str
    tenant_id: str
    run_id: str
    kind: str
    leaf_index: int | None
    body: bytes
    leaf_hash: bytes
    recorded_at_ms: int


def of_run(connection: sa.Connection, run_id: str, *, after: str = "", limit: int = 100) -> list[StoredEntry]:
    """Return the entries of a run in the order of their ids, from just behind `after`."""
    found = connection.execute(
        sa.select(entries, positions.c.leaf_index)
        .outerjoin(positions, positions.c.entry_id == entries.c.entry_id)
        .where(entries.c.run_id == run_id, entries.c.entry_id > after)
        .order_by(entries.c.entry_id)
        .limit(limit)
    )
    return [_stored(row) for row in found]


def in_order(connection: sa.Connection, *, page: int = 1000) -> Iterator[StoredEntry]:
    """Yield every numbered entry by its number, a page in memory at a time."""
    numbered = sa.select(entries, positions.c.leaf_index).join(positions, positions.c.entry_id == entries.c.entry_id)
    return _paged(connection, numbered, positions.c.leaf_index, -1, page=page)


def waiting(connection: sa.Connection, *, page: int = 1000) -> Iterator[StoredEntry]:
    """Yield every entry that waits for its number, by id, a page in memory at a time."""
    unplaced = sa.select(entries, sa.null().label("leaf_index")).join(
        unnumbered, unnumbered.c.entry_id == entries.c.entry_id
    )
    return _paged(connection, unplaced, entries.c.entry_id, "", page=page)


def _paged(
    connection: sa.Connection, statement: sa.Select[Any], key: sa.Column[Any], after: int | str, *, page: int
) -> Iterator[StoredEntry]:
    while True:
        found = connection.execute(statement.where(key > after).order_by(key).limit(page)).all()
        for row in found:
            yield _stored(row)
        if len(found) < page:
            return
        after = found[-1]._mapping[key.name]


def _stored(row: Any) -> StoredEntry:
    return StoredEntry(
        entry_id=row.entry_id,
        tenant_id=row.tenant_id,
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


RESULTS = ("file_hashed", "file_attested", "file_processed")
"""The kinds of entries that tell how a file ended that is `done`."""
FAULTS_MAX = 100
PAGE = 1000


def verify(connection: sa.Connection) -> Verification:
    """Walk the whole log and compare bytes with leaf hashes, bytes with canonical form, columns with bytes, numbers
    with no gap, and the results in the `files` table with the entry of each. The triggers that keep what is written
    must be there.

    Memory stays flat except for the faults, of which at most `FAULTS_MAX` are kept. Called in a transaction that sees
    one snapshot, so that what is written meanwhile is no fault.
    """
    walk = _Walk(connection, faults=_missing_triggers(connection))
    count = 0
    for entry in walk.along(in_order(connection, page=PAGE)):
        if entry.leaf_index != count:
            walk.faults.append(f"number {count} is missing: the next entry is {entry.leaf_index}")
            count = entry.leaf_index or 0
        count += 1
    waits = sum(1 for _ in walk.along(waiting(connection, page=PAGE)))
    if not walk.broken_off:
        stored = _count(connection, sa.select(sa.func.count()).select_from(entries))
        if stored != count + waits:
            walk.faults.append(f"{stored} entries are stored, but {count} are numbered and {waits} wait for a number")
        done = _count(connection, sa.select(sa.func.count()).where(files.c.state == FileState.DONE))
        if done > walk.results:
            walk.faults.append(f"{done - walk.results} files are done without an entry that says so")
        started = sa.exists().where(entries.c.run_id == runs.c.run_id, entries.c.kind == "run_accepted")
        if silent := _count(connection, sa.select(sa.func.count()).select_from(runs).where(~started)):
            walk.faults.append(f"{silent} runs have no run_accepted entry")
    return Verification(
        entries=count, waiting=waits, files_hashed=walk.files_hashed, faults=tuple(walk.faults[:FAULTS_MAX])
    )


INSERT_ONLY = ("entries", "positions")
TRIGGERS = {"sqlite": ("no_update", "no_delete", "no_replace"), "postgresql": ("insert_only", "no_truncate")}
"""What makes a table insert-only, by database: the ends of the names its triggers have in the migrations."""


def _missing_triggers(connection: sa.Connection) -> list[str]:
    """Return a fault for each trigger that is not there, or switched off."""
    dialect = connection.dialect.name
    there = set(
        connection.execute(
            sa.text(
                # 'O' and 'A' fire in an ordinary session; 'D' and 'R' do not.
                "SELECT tgname FROM pg_trigger WHERE tgenabled IN ('O', 'A') "
                "AND tgrelid IN ('entries'::regclass, 'positions'::regclass)"
                if dialect == "postgresql"
                else "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ('entries', 'positions')"
            )
        ).scalars()
    )
    expected = [(table, f"{table}_{end}") for table in INSERT_ONLY for end in TRIGGERS[dialect]]
    return [f"{table} is not insert-only: no trigger {name}" for table, name in expected if name not in there]


def _count(connection: sa.Connection, statement: sa.Select[Any]) -> int:
    return int(connection.execute(statement).scalar_one())


@dataclass(slots=True)
class _Walk:
    """What a walk over the log has seen; `results` counts the files whose present result an entry tells."""

    connection: sa.Connection
    faults: list[str] = field(default_factory=list)
    files_hashed: int = 0
    results: int = 0

    @property
    def broken_off(self) -> bool:
        return len(self.faults) >= FAULTS_MAX

    def along(self, log: Iterator[StoredEntry]) -> Iterator[StoredEntry]:
        """Yield what `log` yields, each entry looked at, until there are too many faults."""
        while not self.broken_off and (page := list(itertools.islice(log, PAGE))):
            hashed: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
            for entry in page:
                yield entry
                body = self._body(entry)
                # A dispute closes its file as failed; nothing is done that it could tell of.
                if body is not None and entry.kind in RESULTS and "error_class" not in body:
                    self.files_hashed += entry.kind == "file_hashed"
                    number = body.get("file_no", 0)
                    newest = hashed[entry.run_id].get(number, body)
                    hashed[entry.run_id][number] = max(newest, body, key=_generation)
            for run_id, told in hashed.items():
                self._compare(run_id, told)

    def _body(self, entry: StoredEntry) -> dict[str, Any] | None:
        """Return what the entry says, or None when that cannot be trusted."""
        name = f"entry {entry.entry_id if entry.leaf_index is None else entry.leaf_index}"
        if leaf_hash(entry.body) != entry.leaf_hash:
            self.faults.append(f"{name}: the stored bytes do not have the stored leaf hash")
            return None
        try:
            body = json.loads(entry.body)
            canonical = rfc8785.dumps(body) == entry.body
        except (ValueError, RecursionError):
            body, canonical = None, False
        if not isinstance(body, dict):
            self.faults.append(f"{name}: the stored bytes are no JSON object")
            return None
        if not canonical:
            self.faults.append(f"{name}: the stored bytes are not canonical JSON")
        columns = (entry.entry_id, entry.tenant_id, entry.run_id, entry.kind, moment(entry.recorded_at_ms))
        if columns != tuple(body.get(told) for told in ("entry_id", "tenant_id", "run_id", "kind", "recorded_at")):
            self.faults.append(f"{name}: its columns say something else than its bytes")
            return None
        return body

    def _compare(self, run_id: str, told: Mapping[int, Mapping[str, Any]]) -> None:
        """Compare what entries tell of files with the table, where no replay has opened the file since."""
        found = {
            row.file_no: row
            for row in self.connection.execute(
                sa.select(
                    files.c.file_no,
                    files.c.generation,
                    files.c.state,
                    files.c.digests,
                    files.c.path,
                    files.c.size_bytes,
                    files.c.verdict,
                    files.c.provider_checksums,
                ).where(files.c.run_id == run_id, files.c.file_no.in_(list(told)))
            )
        }
        for number, body in told.items():
            row = found.get(number)
            name = f"file {number} of run {run_id}"
            if row is None:
                # A replay forgets a file without a path, and lists it anew.
                if body.get("path") != "":
                    self.faults.append(f"{name}: an entry says it was hashed, but the files table does not have it")
                continue
            if row.generation > _generation(body):
                continue
            if row.state != FileState.DONE or row.generation < _generation(body):
                self.faults.append(f"{name}: an entry says it was hashed, but the files table has it as {row.state}")
                continue
            self.results += 1
            if json.loads(row.digests or "{}") != body.get("digests", {}):
                self.faults.append(f"{name}: the files table has other digests than its entry")
            if json.loads(row.provider_checksums or "[]") != body.get("provider", {}).get("checksums", []):
                self.faults.append(f"{name}: the files table has other checksums of its S3 server than its entry")
            for column in ("path", "size_bytes", "verdict"):
                if column in body and row._mapping[column] != body[column]:
                    self.faults.append(f"{name}: the files table has another {column} than its entry")


def _generation(body: Mapping[str, Any]) -> int:
    """Return which replay of its run an entry belongs to, 0 for none."""
    told = body.get("generation", 0)
    return told if isinstance(told, int) else 0
