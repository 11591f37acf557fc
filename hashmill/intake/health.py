"""How the service is: for a supervisor, for Prometheus, for the console."""

import logging

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

import hashmill
from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.job import RunState
from hashmill.flow.tools import DoorTools
from hashmill.intake.answers import (
    BrokerAnswer,
    HealthAnswer,
    LeaderAnswer,
    OverviewAnswer,
    ProcessAnswer,
    ReadyAnswer,
    WorkersAnswer,
    answer,
)
from hashmill.intake.door import DOOR
from hashmill.intake.standing import Standing, look, worries
from hashmill.ledger import entries, leases
from hashmill.ledger.presence import slots_of

log = logging.getLogger(__name__)


async def healthz(request: web.Request) -> web.Response:
    """The process lives: nothing else is asked, so that a ledger that is away never gets it killed."""
    return answer(HealthAnswer(status="ok", version=hashmill.__version__))


async def readyz(request: web.Request) -> web.Response:
    """Ready means that an event would be accepted: the ledger answers."""
    door = request.app[DOOR]
    try:
        # A write transaction, though it writes nothing: one that only reads would not see a ledger that is locked.
        await door.tools.ledger.write(entries.clock_ms)
        reached = True
    except LedgerUnavailable as trouble:
        log.warning("not_ready", extra={"reason": str(trouble)})
        reached = False
    broker = await door.broker.state()
    return answer(
        ReadyAnswer(
            status="ready" if reached else "not ready",
            ledger="ok" if reached else "unavailable",
            broker=broker.state,
        ),
        status=200 if reached else 503,
    )


async def metrics(request: web.Request) -> web.Response:
    """Also without the ledger: `hashmill_ledger_up 0` is what an alarm is made of."""
    door = request.app[DOOR]
    text = door.metrics.text(await _look_if_there(door.tools), await door.broker.state())
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


async def _look_if_there(tools: DoorTools) -> Standing | None:
    try:
        return await look(tools)
    except LedgerUnavailable as trouble:
        log.warning("ledger_away", extra={"duty": "metrics", "reason": str(trouble)})
        return None


async def workers(request: web.Request) -> web.Response:
    standing = await look(request.app[DOOR].tools)
    return answer(
        WorkersAnswer(
            leader=_leader(standing),
            processes=[
                ProcessAnswer(
                    name=lease.name.removeprefix(leases.PROCESS),
                    alive=lease.remaining_s > 0,
                    lease_remaining_s=lease.remaining_s,
                    slots=slots_of(lease),
                    detail=dict(lease.detail),
                )
                for lease in standing.overview.processes
            ],
            slots=standing.presence.slots,
        )
    )


async def overview(request: web.Request) -> web.Response:
    door = request.app[DOOR]
    standing, broker = await look(door.tools), await door.broker.state()
    seen = standing.overview
    return answer(
        OverviewAnswer(
            worries=worries(standing, broker),
            ledger="ok",
            broker=BrokerAnswer(state=broker.state, waiting=broker.waiting),
            leader=_leader(standing),
            processes=len(standing.presence.living),
            slots=standing.presence.slots,
            on_trial=standing.presence.on_trial,
            storages_away=[away.address for away in standing.presence.storages_away],
            runs={state: seen.totals.runs.get(state, 0) for state in RunState},
            files=standing.files_by_state,
            bytes_total=seen.totals.bytes_total,
            bytes_done=seen.totals.bytes_done,
            reports_owed=seen.totals.reports_owed,
            reports_dead=seen.totals.reports_dead,
            oldest_ready_s=seen.oldest_ready_s,
            oldest_queued_s=seen.oldest_queued_s,
            oldest_owed_s=seen.oldest_owed_s,
            oldest_unlisted_s=seen.oldest_unlisted_s,
        )
    )


def _leader(standing: Standing) -> LeaderAnswer | None:
    lease = standing.presence.leading
    if lease is None:
        return None
    return LeaderAnswer(process=lease.holder, lease_remaining_s=lease.remaining_s, fence=lease.fence)
