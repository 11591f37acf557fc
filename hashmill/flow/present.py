"""Presence: a process says that it lives, and renews the leases of the files it works on."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.text import one_line
from hashmill.flow.tools import WorkTools
from hashmill.ledger import files, leases
from hashmill.ledger.presence import storage_address

log = logging.getLogger(__name__)

REACHED = "reached"
"""The lease that says since when the ledger can be reached."""
STORAGES_MAX = 5
"""So many S3 servers that are away are named by one process, those away for longest."""
NEWS_S = 60.0
"""A server that was found away so long ago, and not asked since by this process, may be back: nothing is said of it."""


async def keep_leases(tools: WorkTools) -> None:
    """Renew every third of a lease, in one statement for all files this process is at work on, until cancelled."""
    pause_s = tools.rules.file_lease_s / 3
    while True:
        renewing = asyncio.create_task(_renew(tools))
        try:
            await asyncio.shield(renewing)
        except asyncio.CancelledError:
            # A transaction under way commits all the same: it must be over before `leave` says that we are gone.
            await asyncio.gather(renewing, return_exceptions=True)
            raise
        except LedgerUnavailable as trouble:
            log.warning("ledger_away", extra={"duty": "renew", "reason": str(trouble)})
            # Sooner than usual: a lease must not run out because the ledger was away for a moment.
            await asyncio.sleep(min(1.0, pause_s))
            continue
        await asyncio.sleep(pause_s)


async def _renew(tools: WorkTools) -> None:
    await tools.ledger.write_lease(_say_alive, tools, _said(tools))
    if tools.claims:
        await tools.ledger.write_lease(files.renew, owners=sorted(tools.claims), lease_s=tools.rules.file_lease_s)


def _said(tools: WorkTools) -> dict[str, Any]:
    """Return what this process says of itself, and of the S3 servers as far as it knows them; no credentials."""
    now_s = tools.clock_s()
    found = [
        (storage_address(name), endpoint)
        for name, endpoint in tools.endpoints.items()
        if endpoint.away and now_s - endpoint.away_s < NEWS_S
    ]
    # One server may be known several times, by the keys it is asked with: the longest outage is told.
    away = dict(sorted(found, key=lambda known: known[1].since_s, reverse=True))
    longest = sorted(away.items(), key=lambda known: known[1].since_s)[:STORAGES_MAX]
    return {
        **tools.presence,
        "on_trial": tools.suspect.locked(),
        "storages_away": [
            {"address": address, "for_s": round(now_s - endpoint.since_s, 1), "reason": one_line(endpoint.said)}
            for address, endpoint in longest
        ],
    }


def _say_alive(connection: sa.Connection, tools: WorkTools, said: Mapping[str, Any]) -> None:
    leases.take(
        connection,
        f"{leases.PROCESS}{tools.process}",
        tools.process,
        lease_s=tools.rules.file_lease_s,
        detail=said,
    )
    reached_for_s(connection, tools)


def reached_for_s(connection: sa.Connection, tools: WorkTools) -> float:
    """Say that the ledger can be reached, and return for how many seconds it could, by one process or another.

    In a gap of half a lease and a little no lease runs out that is renewed every third. So a change of the leader is no
    gap: were it one, leaders that die often would keep every file waiting that lost its worker.
    """
    return leases.steady_s(connection, REACHED, tools.process, gap_s=tools.rules.file_lease_s * 0.6)


async def leave(tools: WorkTools) -> None:
    """Say that this process is gone, so that the dispatcher stops counting its slots at once."""
    await tools.ledger.write_lease(leases.forget, f"{leases.PROCESS}{tools.process}", tools.process)
