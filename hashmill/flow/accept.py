"""A posted event becomes a run: one transaction, then a bell that may stay unheard."""

import asyncio
from typing import Any

import sqlalchemy as sa

from hashmill.domain.errors import EventFault, EventInvalid, IdempotencyConflict
from hashmill.domain.event import TriggerEvent, default_idempotency_key, event_digest, public_event
from hashmill.domain.job import RunState
from hashmill.domain.origin import origin_of
from hashmill.domain.secret import Secret
from hashmill.flow.tools import DoorTools
from hashmill.labdrive.origins import check_origin
from hashmill.ledger import functions, runs, seal
from hashmill.ledger.runs import Run

RINGING_MAX = 100
"""Bells that may be waiting for a broker that swallows them; past that the dispatcher finds the runs by itself."""

_ringing: set[asyncio.Future[bool]] = set()


async def accept(tools: DoorTools, event: TriggerEvent, *, idempotency_key: str | None = None) -> tuple[Run, bool]:
    """Return the run of this event and whether this call made it.

    Raises `EventInvalid` for a function that was removed, `OriginRefused`, `IdempotencyConflict`, `LedgerUnavailable`.
    The broker being away is no error.
    """
    check_origin(event.api_url, tools.rules.allowed_origins)
    tenant_id = tools.rules.tenant_of(origin_of(event.api_url))
    # Off the loop: an event may name a million files.
    digest = await asyncio.to_thread(event_digest, event)
    run, made = await tools.ledger.write(
        _accept, tools, event, tenant_id, idempotency_key or default_idempotency_key(event), digest
    )
    if not made and run.event_digest != digest:
        raise IdempotencyConflict(
            f"this idempotency key belongs to run {run.run_id}, made by another event; "
            "send a key of its own for a new event, or replay the run"
        )
    if made and len(_ringing) < RINGING_MAX:
        # Not awaited: an answer must not wait for a broker that is away. The dispatcher looks for itself.
        ringing = asyncio.get_running_loop().run_in_executor(tools.threads, tools.queue.ring, run.run_id)
        _ringing.add(ringing)
        ringing.add_done_callback(_ringing.discard)
    return run, made


def _accept(
    connection: sa.Connection, tools: DoorTools, event: TriggerEvent, tenant_id: str, key: str, digest: str
) -> tuple[Run, bool]:
    public = public_event(event)
    entry: dict[str, Any] = {"event": public, "event_digest": digest, "idempotency_key": key}
    name = event.function_key
    sha256 = functions.current(connection, name) if name else None
    if sha256 is not None:
        entry["function"] = {"name": name, "sha256": sha256}
    run, made = runs.accept(
        connection,
        tenant_id=tenant_id,
        idempotency_key=key,
        event_digest=digest,
        event=public,
        job_id=event.job_id,
        container_id=event.container_id,
        priority=event.priority,
        entry=entry,
        function=(name, sha256) if sha256 is not None else None,
    )
    if made and name and sha256 is None and functions.is_removed(connection, name):
        problem = f"function {name!r} was removed; add it again, or name another"
        raise EventInvalid([EventFault(path="$.labdrive.function.key", problem=problem)])
    keys = _needed_keys(event, use_root=tools.rules.use_root_key)
    if made:
        tools.sealer.put(connection, run.run_id, keys)
    elif run.state is RunState.FAILED and run.event_digest == digest:
        # Posted again with, perhaps, a key that works: the replay that follows is to use it.
        seal.replace(connection, run.run_id, tools.sealer, keys)
        seal.keep_for(connection, run.run_id, days=tools.rules.keep_keys_days)
    return run, made


def _needed_keys(event: TriggerEvent, *, use_root: bool) -> dict[str, Secret]:
    """Keep only the key that will be used: what is not stored cannot leak."""
    if use_root and event.key_root:
        return {"root": event.key_root}
    return {"user": event.key_user}
