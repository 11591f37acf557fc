"""A ticket: claim its files, hash them side by side, write each result with its entry and its reports."""

import asyncio
import itertools
import logging
from collections.abc import Iterable
from contextlib import nullcontext, suppress

from hashmill.domain.errors import LeaseLost, LedgerUnavailable
from hashmill.domain.job import FileState
from hashmill.domain.work import ClaimedFile, FileOutcome, Ticket
from hashmill.flow.hash_one import after_error, hash_one
from hashmill.flow.tools import WorkTools
from hashmill.ledger import files, runs
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)

SETTLE_EVERY_S = 1.0
"""A finished file waits at most so long for its neighbours before its result is written."""
SUSPECT_PAUSE_S = 0.2
"""A file that lost a lease before and finds another such file under way comes back after so long."""
CLAIMS = 16**6
"""So many names for claims, one after the other; far more than a process works on at once."""

_claims = itertools.count()


async def hash_files(tools: WorkTools, ticket: Ticket) -> None:
    """Work a ticket to its end. A ticket that is late, doubled or forged claims nothing and does nothing.

    Told to stop (`draining`), it claims nothing more; cancelled, it gives its open files back, no attempt counted.
    """
    if tools.draining.is_set():
        return
    # A name of its own for each claim: whatever breaks a ticket off, its leases run out and the sweep takes its files.
    owner = f"{tools.process}/{next(_claims) % CLAIMS:x}"
    tools.claims.add(owner)
    try:
        await _work(tools, ticket, owner)
    finally:
        tools.claims.discard(owner)


async def _work(tools: WorkTools, ticket: Ticket, owner: str) -> None:
    claimed = await _claimed(tools, ticket, owner)
    if not claimed:
        log.debug("ticket_void", extra={"run_id": ticket.run_id})
        return
    suspects = [file for file in claimed if file.lost_leases]
    if suspects:
        await _one_at_a_time(tools, ticket, [file for file in claimed if not file.lost_leases], suspects)
    else:
        await _hash(tools, ticket, claimed)


async def _one_at_a_time(
    tools: WorkTools, ticket: Ticket, others: list[ClaimedFile], suspects: list[ClaimedFile]
) -> None:
    """A file that lost its lease before may be what kills: a process works on one such file at a time and lets the
    others go, so that the next death tells the guilty one from those that were only beside it.
    """
    kept = [] if tools.suspect.locked() else suspects[:1]
    back = [
        FileOutcome(
            file_no=file.file_no, fence=file.fence, state=FileState.READY, counted=False, retry_in_s=SUSPECT_PAUSE_S
        )
        for file in suspects[len(kept) :]
    ]
    async with tools.suspect if kept else nullcontext():
        await tools.ledger.write(files.settle, ticket.run_id, back)
        await _hash(tools, ticket, [*kept, *others])


async def _hash(tools: WorkTools, ticket: Ticket, claimed: list[ClaimedFile]) -> None:
    run = await tools.ledger.read(runs.get, ticket.run_id)
    if run is None:
        raise LeaseLost(f"run {ticket.run_id} is not in the ledger")
    work = {asyncio.create_task(_in_turn(tools, run, file)): file for file in claimed}
    try:
        await _settle_as_they_end(tools, run, work)
    except asyncio.CancelledError:
        await _give_back(tools, run, work)
        raise
    finally:
        await _stopped(work)


async def _claimed(tools: WorkTools, ticket: Ticket, owner: str) -> list[ClaimedFile]:
    """Claim the ticket's files; cancelled meanwhile, let them go again."""
    claiming = asyncio.ensure_future(
        tools.ledger.write(files.claim, ticket, owner=owner, lease_s=tools.rules.file_lease_s)
    )
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        with suppress(LedgerUnavailable):
            await claiming
            await tools.ledger.write(files.release, owner=owner)
        raise


async def _in_turn(tools: WorkTools, run: Run, file: ClaimedFile) -> FileOutcome:
    async with tools.in_flight:
        return await hash_one(tools, run, file)


async def _settle_as_they_end(tools: WorkTools, run: Run, work: dict[asyncio.Task[FileOutcome], ClaimedFile]) -> None:
    while work:
        await asyncio.wait(work, timeout=SETTLE_EVERY_S)
        ended = [task for task in work if task.done()]
        if not ended:
            continue
        await _settle(tools, run, [_outcome(tools, run, task, work[task]) for task in ended])
        for task in ended:
            del work[task]


def _outcome(tools: WorkTools, run: Run, task: asyncio.Task[FileOutcome], file: ClaimedFile) -> FileOutcome:
    error = task.exception()
    if error is None:
        return task.result()
    log.error("file_bug", extra={"run_id": run.run_id, "file_no": file.file_no}, exc_info=error)
    return after_error(tools, run, file, error)


async def _settle(tools: WorkTools, run: Run, outcomes: list[FileOutcome]) -> None:
    """Write outcomes; while the ledger is away, try for as long as the leases may live."""
    deadline = asyncio.get_running_loop().time() + tools.rules.file_lease_s
    while True:
        try:
            refused = await tools.ledger.write(files.settle, run.run_id, outcomes)
            break
        except LedgerUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.5)
    if refused:
        # Somebody else owns these files now: what was computed here is not written (the fence), only counted.
        log.warning("results_refused", extra={"run_id": run.run_id, "files": refused})


async def _give_back(tools: WorkTools, run: Run, work: dict[asyncio.Task[FileOutcome], ClaimedFile]) -> None:
    """Stop what is under way; write what is finished, release the rest with no attempt counted."""
    await _stopped(work)
    outcomes = [
        _outcome(tools, run, task, file)
        if not task.cancelled()
        else FileOutcome(file_no=file.file_no, fence=file.fence, state=FileState.READY, counted=False)
        for task, file in work.items()
    ]
    with suppress(LedgerUnavailable):
        # Should the ledger be away as well, the leases run out and the sweep takes the files back.
        await asyncio.shield(tools.ledger.write(files.settle, run.run_id, outcomes))


async def _stopped(tasks: Iterable[asyncio.Task[FileOutcome]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
