"""A ticket: claim its files, hash them side by side, write each result with its entry and its reports."""

import asyncio
import itertools
import logging
import random
from collections.abc import Iterable
from contextlib import nullcontext, suppress

from hashmill.domain.errors import HashmillError, LeaseLost, LedgerUnavailable
from hashmill.domain.job import Mode
from hashmill.domain.work import ClaimedFile, FileOutcome, Ticket
from hashmill.flow.attest import with_baselines
from hashmill.flow.endpoints import endpoint_of, is_back
from hashmill.flow.hash_one import after_error, hash_one, held_back, later, place_of
from hashmill.flow.tools import WorkTools
from hashmill.ledger import files, runs
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)

SETTLE_EVERY_S = 1.0
"""A finished file waits at most so long for its neighbours before its result is written."""
SUSPECTS_MAX = 16
"""Most suspects kept of one ticket. They are read one after the other, and all of them lose their lease together when
somebody ends the worker: few, so that nobody innocent loses it too often."""
SUSPECT_PAUSE_S = (1.0, 4.0)
"""Suspects whose turn is not now come back after so long."""
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
    except asyncio.CancelledError:
        with suppress(LedgerUnavailable):
            # Should the ledger be away as well, the leases run out and the sweep takes the files back.
            await asyncio.shield(tools.ledger.write(files.release, owner=owner))
        raise
    finally:
        tools.claims.discard(owner)


async def _work(tools: WorkTools, ticket: Ticket, owner: str) -> None:
    claimed = await _claimed(tools, ticket, owner)
    if not claimed:
        log.debug("ticket_void", extra={"run_id": ticket.run_id})
        return
    run = await tools.ledger.read(runs.get, ticket.run_id)
    if run is None:
        raise LeaseLost(f"run {ticket.run_id} is not in the ledger")
    if (waiting := await _waiting_for_storage(tools, run, claimed)) is not None:
        await _settle(tools, run, waiting)
        return
    if run.mode is Mode.ATTEST:
        claimed = await with_baselines(tools, run, claimed)
    suspects = [file for file in claimed if file.lost_leases]
    if suspects:
        await _suspects_apart(tools, run, [file for file in claimed if not file.lost_leases], suspects)
    else:
        await _hash(tools, run, claimed)


async def _waiting_for_storage(tools: WorkTools, run: Run, claimed: list[ClaimedFile]) -> list[FileOutcome] | None:
    """Return the outcomes of files whose S3 server is away, none of them tried; None where it is not known to be."""
    if not tools.endpoints:
        return None
    try:
        place = place_of(tools, run, claimed[0])
    except HashmillError:
        return None  # said where the file is tried
    if await is_back(tools, place):
        return None
    endpoint = endpoint_of(tools, place)
    log.warning("storage_away", extra={"run_id": run.run_id, "files": len(claimed), "reason": endpoint.said})
    return [held_back(endpoint, file) for file in claimed]


async def _suspects_apart(tools: WorkTools, run: Run, others: list[ClaimedFile], suspects: list[ClaimedFile]) -> None:
    """A file that lost its lease before may be what kills: a process reads one such file at a time, apart from the
    others, and only once the place for it is there. So each of them stays claimed for a moment only.
    """
    trial_ready = tools.trial is None or tools.trial.warm_up() is None
    kept = suspects[:SUSPECTS_MAX] if trial_ready and not tools.suspect.locked() else []
    if tools.trial is None:
        kept = kept[:1]
    back = [
        later(file, retry_in_s=random.uniform(*SUSPECT_PAUSE_S))  # noqa: S311 - spreads load, keeps no secret
        for file in suspects[len(kept) :]
    ]
    async with tools.suspect if kept else nullcontext():
        await _settle(tools, run, back)
        await _hash(tools, run, [*kept, *others])


async def _hash(tools: WorkTools, run: Run, claimed: list[ClaimedFile]) -> None:
    one_suspect = asyncio.Lock()
    work = {asyncio.create_task(_in_turn(tools, run, file, one_suspect)): file for file in claimed}
    try:
        await _settle_as_they_end(tools, run, work)
    except asyncio.CancelledError:
        await _keep_what_is_done(tools, run, work)
        raise
    finally:
        await _stopped(work)


async def _claimed(tools: WorkTools, ticket: Ticket, owner: str) -> list[ClaimedFile]:
    """Claim the ticket's files; cancelled meanwhile, wait until it is known what was claimed."""
    claiming = asyncio.ensure_future(
        tools.ledger.write(files.claim, ticket, owner=owner, lease_s=tools.rules.file_lease_s)
    )
    try:
        return await asyncio.shield(claiming)
    except asyncio.CancelledError:
        with suppress(LedgerUnavailable):
            await claiming
        raise


async def _in_turn(tools: WorkTools, run: Run, file: ClaimedFile, one_suspect: asyncio.Lock) -> FileOutcome:
    async with one_suspect if file.lost_leases else nullcontext(), tools.in_flight:
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


async def _keep_what_is_done(tools: WorkTools, run: Run, work: dict[asyncio.Task[FileOutcome], ClaimedFile]) -> None:
    """Stop what is under way and write what is finished."""
    await _stopped(work)
    done = [_outcome(tools, run, task, file) for task, file in work.items() if not task.cancelled()]
    with suppress(LedgerUnavailable):
        await asyncio.shield(tools.ledger.write(files.settle, run.run_id, done))


async def _stopped(tasks: Iterable[asyncio.Task[FileOutcome]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
