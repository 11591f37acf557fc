"""How far large files were hashed: kept with each slice, so that whoever claims the file next goes on from there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from hashmill.domain.job import FileState
from hashmill.domain.work import ClaimedFile, FileOutcome, SavedHash
from hashmill.ledger.engine import now_ms
from hashmill.ledger.leases import insert_for
from hashmill.ledger.tables import files, saved_hashes

OPEN = (FileState.READY, FileState.QUEUED, FileState.RUNNING)
_TOLD = tuple(SavedHash.__slots__)


def with_saved(connection: sa.Connection, run_id: str, claimed: Sequence[ClaimedFile]) -> list[ClaimedFile]:
    """Return the claimed files, each with how far it was hashed, if it was."""
    numbers = [file.file_no for file in claimed]
    found = connection.execute(
        sa.select(saved_hashes).where(saved_hashes.c.run_id == run_id, saved_hashes.c.file_no.in_(numbers))
    )
    saved = {row.file_no: SavedHash(**{name: getattr(row, name) for name in _TOLD}) for row in found}
    return [replace(file, saved=saved.get(file.file_no)) for file in claimed]


def keep(connection: sa.Connection, run_id: str, outcomes: Sequence[FileOutcome]) -> None:
    """Keep what `outcomes` saved. Such a file got on: the tries and lost leases before this slice are forgotten.

    What was saved of a file that failed is not gone on with, whatever it failed of.
    """
    failed = [outcome.file_no for outcome in outcomes if outcome.state in (FileState.FAILED, FileState.DEAD)]
    if failed:
        connection.execute(
            sa.delete(saved_hashes).where(saved_hashes.c.run_id == run_id, saved_hashes.c.file_no.in_(failed))
        )
    for outcome in outcomes:
        if outcome.saved is None:
            continue
        values = {name: getattr(outcome.saved, name) for name in _TOLD} | {"saved_at_ms": now_ms()}
        statement = insert_for(connection)(saved_hashes).values(run_id=run_id, file_no=outcome.file_no, **values)
        key = [saved_hashes.c.run_id, saved_hashes.c.file_no]
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=values))
        connection.execute(
            sa.update(files)
            .where(files.c.run_id == run_id, files.c.file_no == outcome.file_no)
            .values(attempts=0, lost_leases=0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFile:
    """A large file that is not through, and how far it was hashed when a slice was last saved."""

    file_no: int
    path: str
    state: FileState
    offset_bytes: int
    size_bytes: int
    slices: int
    saved_at_ms: int


def under_way(connection: sa.Connection, run_id: str, *, limit: int = 20) -> list[LargeFile]:
    """Return the large files of a run of which a slice was saved, the newest first; at most `limit`."""
    told = [saved_hashes.c[name] for name in ("file_no", "offset_bytes", "size_bytes", "slices", "saved_at_ms")]
    same = (files.c.run_id == saved_hashes.c.run_id) & (files.c.file_no == saved_hashes.c.file_no)
    rows = connection.execute(
        sa.select(*told, files.c.path, files.c.state)
        .join(files, same)
        .where(saved_hashes.c.run_id == run_id, files.c.state.in_(OPEN))
        .order_by(saved_hashes.c.saved_at_ms.desc(), saved_hashes.c.file_no)
        .limit(limit)
    )
    return [LargeFile(**{**row._mapping, "state": FileState(row.state)}) for row in rows]


def forget(connection: sa.Connection, run_id: str) -> None:
    """Forget them: the run has ended, and a replay reads anew."""
    connection.execute(sa.delete(saved_hashes).where(saved_hashes.c.run_id == run_id))
