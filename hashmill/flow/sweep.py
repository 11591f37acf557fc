"""The sweep: takes back what went quiet, retires what kills, wipes what nobody needs."""

import asyncio
import logging
from collections import Counter
from dataclasses import replace

import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState
from hashmill.domain.work import ClaimedFile, FileOutcome
from hashmill.flow.hash_one import failed_for_good
from hashmill.flow.tools import WorkTools
from hashmill.ledger import counters, files, leases, runs, seal
from hashmill.ledger.files import LapsedFile

log = logging.getLogger(__name__)

FORGET_PROCESSES_AFTER_S = 3600.0
BUSY_FACTOR = 10
"""While the broker holds messages, a ticket counts as lost only after so many times `reissue_after_s`."""


async def sweep(tools: WorkTools, *, take_back: bool = True) -> Counter[str]:
    """One round; returns what was done, by name. Without `take_back` leases that ran out are left for a later round."""
    done: Counter[str] = Counter()
    if take_back:
        done["leases_taken_back"], poison = await tools.ledger.write(_take_back_lapsed, tools)
        for file in poison:
            await tools.ledger.write(_set_aside, tools, file)
        done["poison"] = len(poison)
    done["tickets_reissued"] = await _reissue(tools)
    done["keys_wiped"] = await tools.ledger.write(seal.wipe_expired)
    await tools.ledger.write(leases.purge, older_than_s=FORGET_PROCESSES_AFTER_S)
    told = {name: count for name, count in done.items() if count}
    if told:
        log.info("swept", extra=told)
    return done


async def _reissue(tools: WorkTools) -> int:
    """Hand out again what nobody claimed. Tickets the broker still holds are not lost, they wait for a slot: written
    anew too soon, they would only pile up behind slow files.
    """
    after_s = tools.rules.reissue_after_s
    if not await tools.ledger.read(files.unclaimed, older_than_s=after_s):
        return 0
    waiting = await asyncio.get_running_loop().run_in_executor(tools.threads, tools.queue.waiting)
    if waiting and any(waiting.values()):
        after_s *= BUSY_FACTOR
    return await tools.ledger.write(files.reissue, older_than_s=after_s)


def _take_back_lapsed(connection: sa.Connection, tools: WorkTools) -> tuple[int, list[LapsedFile]]:
    """Make files whose lease ran out ready again; return how many, and those that lost it far too often to be.

    A loss counts against the file only when its process is gone: one that lives was kept from the ledger. Even then it
    is no proof, so the limit is high; the proof comes from the trial (`hash_one`).
    """
    alive = {lease.holder for lease in leases.listed(connection, leases.PROCESS) if lease.remaining_s > 0}
    found = [
        replace(file, lost_leases=file.lost_leases + ((file.lease_owner or "").partition("/")[0] not in alive))
        for file in files.lapsed(connection)
    ]
    poison = [file for file in found if file.lost_leases >= tools.rules.lost_unproven_max]
    files.take_back(connection, [file for file in found if file.lost_leases < tools.rules.lost_unproven_max])
    counters.add(connection, Counted.LEASES_LOST, len(found))
    return len(found) - len(poison), poison


def _set_aside(connection: sa.Connection, tools: WorkTools, file: LapsedFile) -> None:
    run = runs.get(connection, file.run_id)
    if run is not None:
        files.settle(connection, file.run_id, [_retired(tools, run, file)])


def _retired(tools: WorkTools, run: runs.Run, file: LapsedFile) -> FileOutcome:
    claimed = ClaimedFile(
        file_no=file.file_no,
        file_id=file.file_id,
        path=file.path,
        size_bytes=file.size_bytes,
        fence=file.fence,
        attempts=file.attempts,
        generation=file.generation,
    )
    detail = (
        f"lost its lease {file.lost_leases} times, the last one held by {file.lease_owner}: "
        "the process died or hung while it worked on this file"
    )
    return failed_for_good(tools, run, claimed, state=FileState.DEAD, error_class=ErrorClass.POISON, detail=detail)
