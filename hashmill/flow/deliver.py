"""
What we owe LABDRIVE goes out: in order per run, at least once, one sender for a run at a time.

RUNNING first; then hashes and messages, several at once but those of one file in order; the final status last
and alone. While an API is away its runs pause together, so an outage costs a few probes and no attempts pile up.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hashmill.domain.errors import (
    ApiAuth,
    ApiRejected,
    ApiUnavailable,
    ErrorClass,
    LedgerUnavailable,
    OriginRefused,
    SecretExpired,
)
from hashmill.domain.job import JobStatus, MessageType, ReportKind
from hashmill.domain.pause import jittered
from hashmill.domain.text import one_line
from hashmill.flow.access import access_of
from hashmill.flow.tools import WorkTools
from hashmill.labdrive.client import ApiAccess
from hashmill.labdrive.origins import check_origin
from hashmill.ledger import outbox, runs
from hashmill.ledger.outbox import OwedReport, OwingRun, Postponed, Refused
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)


BATCH = 64
"""Reports taken and marked together: what a crash may send a second time."""
LOOK = 1000
"""Runs looked at in one round; the next round looks at those behind them."""
TURN_S = 2.0
"""So long one run is served before it makes room for another that waits."""
REST_S = 10.0
"""So long a run is left alone whose sender met a bug: its reports stay owed, and the other runs go on."""


@dataclass(slots=True)
class Pause:
    """An API that was away a moment ago: nobody calls it before `until_s` (monotonic)."""

    failures: int = 0
    until_s: float = 0.0


@dataclass(slots=True)
class Deliverer:
    """What the sender remembers between two rounds; losing it costs one extra probe per API."""

    held: Callable[[], bool] = lambda: True
    """Whether this process surely leads still; asked before each call."""
    after: str = ""
    pauses: dict[str, Pause] = field(default_factory=dict)
    apis: dict[str, str] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)
    at_work: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def round(self, tools: WorkTools) -> int:
        """Start a sender for each run that owes something, up to `report_runs` at once; return how many are at work."""
        self._collect(tools)
        room = tools.rules.report_runs - len(self.at_work)
        if room > 0:
            owing = await tools.ledger.read(outbox.runs_that_owe, after=self.after, limit=LOOK)
            # Round and round, not from the oldest each time: runs that cannot go on must not keep the places.
            self.after = owing[-1].run_id if len(owing) == LOOK else ""
            last = self.after
            for run in owing:
                if run.run_id in self.at_work or not self._may_begin(tools, run):
                    continue
                if len(self.at_work) == tools.rules.report_runs:
                    self.after = last
                    break
                last = run.run_id
                self.apis[run.run_id] = run.api_url
                self.at_work[run.run_id] = asyncio.create_task(self._serve(tools, run.run_id))
        if self.at_work:
            await asyncio.wait(self.at_work.values(), timeout=tools.rules.tick_s, return_when=asyncio.FIRST_COMPLETED)
        return len(self.at_work)

    def _collect(self, tools: WorkTools) -> None:
        """Take note of the senders that have ended."""
        now_s = tools.clock_s()
        self.resting = {run_id: until_s for run_id, until_s in self.resting.items() if until_s > now_s}
        for run_id, task in list(self.at_work.items()):
            if not task.done():
                continue
            del self.at_work[run_id], self.apis[run_id]
            error = task.exception()
            if isinstance(error, LedgerUnavailable):
                raise error
            if error is not None:
                log.error("delivery_bug", extra={"run_id": run_id}, exc_info=error)
                self.resting[run_id] = now_s + REST_S

    async def stop(self) -> None:
        """Stop every sender; what was taken and not marked is found `sending` by the next leader."""
        for task in self.at_work.values():
            task.cancel()
        await asyncio.gather(*self.at_work.values(), return_exceptions=True)
        self.at_work.clear()
        self.apis.clear()

    def _may_begin(self, tools: WorkTools, run: OwingRun) -> bool:
        """Whether a sender may start: not while its run rests, its API pauses, or another asks whether that is back."""
        if run.run_id in self.resting:
            return False
        pause = self.pauses.get(run.api_url)
        return pause is None or (pause.until_s <= tools.clock_s() and run.api_url not in self.apis.values())

    async def _serve(self, tools: WorkTools, run_id: str) -> None:
        run = await tools.ledger.read(runs.get, run_id)
        if run is None:
            return
        try:
            access = await access_of(tools, run)
            check_origin(access.url, tools.rules.allowed_origins)
        except SecretExpired as fault:
            await self._refuse_all(tools, run, fault.error_class, str(fault))
            return
        except OriginRefused as fault:
            await self._put_off(tools, run, fault)
            return
        taken = 0
        ends_s = tools.clock_s() + TURN_S
        while self.held() and (batch := await tools.ledger.write(outbox.take, run_id, limit=BATCH)):
            taken += len(batch)
            if not await self._send(tools, run, access, batch) or tools.clock_s() > ends_s:
                break
        if not taken:
            await asyncio.sleep(tools.rules.tick_s)

    async def _put_off(self, tools: WorkTools, run: Run, fault: OriginRefused) -> None:
        """An origin that is not allowed any more may be a slip of the settings: what is owed waits, for its time."""
        result = _Result()
        for report in await tools.ledger.write(outbox.take, run.run_id, limit=BATCH):
            _later(tools, report, fault.error_class, str(fault), 0.0, result)
        await tools.ledger.write(outbox.mark, run.run_id, postponed=result.postponed, refused=result.refused)

    async def _send(self, tools: WorkTools, run: Run, access: ApiAccess, batch: Sequence[OwedReport]) -> bool:
        """Send a batch and write down how each report ended; False when the rest of the run must wait."""
        groups: dict[int | None, list[OwedReport]] = {}
        for report in batch:
            groups.setdefault(report.file_no, []).append(report)
        places = asyncio.Semaphore(tools.rules.report_concurrency)
        result = _Result()

        async def one_group(group: Sequence[OwedReport]) -> None:
            async with places:
                for report in group:
                    if result.stop or not self.held():
                        return
                    if not await self._send_one(tools, access, run, report, result):
                        return

        try:
            ends = await asyncio.gather(*(one_group(group) for group in groups.values()), return_exceptions=True)
            for group, end in zip(groups.values(), ends, strict=True):
                if isinstance(end, Exception):
                    (stumbled, *_) = [report for report in group if report.seq not in result.settled]
                    log.error("report_bug", extra={"run_id": run.run_id, "seq": stumbled.seq}, exc_info=end)
                    _later(tools, stumbled, ErrorClass.INTERNAL, f"{type(end).__name__}: {end}", 0.0, result)
        finally:
            await asyncio.shield(
                tools.ledger.write(
                    outbox.mark,
                    run.run_id,
                    sent=result.sent,
                    postponed=result.postponed,
                    refused=result.refused,
                    untouched=[report.seq for report in batch if report.seq not in result.settled],
                )
            )
        if result.locked_out:
            await self._refuse_all(tools, run, ErrorClass.API_AUTH, result.locked_out)
        if result.away:
            pause = self.pauses.setdefault(run.api_url, Pause())
            pause.failures += 1
            pause.until_s = tools.clock_s() + max(
                result.away_s,
                jittered(pause.failures, base_s=tools.rules.report_base_s, cap_s=tools.rules.report_cap_s),
            )
        elif result.sent or result.refused:
            self.pauses.pop(run.api_url, None)
        return not result.stop

    async def _send_one(
        self, tools: WorkTools, access: ApiAccess, run: Run, report: OwedReport, result: "_Result"
    ) -> bool:
        """Send one report; True when the next one of its file may follow."""
        if report.uncertain:
            log.warning("report_uncertain", extra={"run_id": run.run_id, "seq": report.seq})
        try:
            await _call(tools, access, run, report)
        except ApiUnavailable as trouble:
            asked_s = trouble.retry_after_s or 0.0
            if not _later(tools, report, trouble.error_class, str(trouble), asked_s, result):
                return True
            result.away = True
            result.away_s = max(result.away_s, asked_s)
            return False
        except ApiAuth as refusal:
            result.refused.append(Refused(seq=report.seq, error_class=refusal.error_class, detail=str(refusal)))
            if refusal.status == 401:
                result.locked_out = str(refusal)
            return True
        except ApiRejected as refusal:
            log.error("report_refused", extra={"run_id": run.run_id, "seq": report.seq, "reason": str(refusal)})
            result.refused.append(Refused(seq=report.seq, error_class=refusal.error_class, detail=str(refusal)))
            return True
        result.sent.append(report.seq)
        return True

    async def _refuse_all(self, tools: WorkTools, run: Run, error_class: ErrorClass, detail: str) -> None:
        dead = await tools.ledger.write(outbox.refuse_all, run.run_id, error_class=error_class, detail=detail)
        log.error(
            "reports_refused",
            extra={"run_id": run.run_id, "reports": dead, "error_class": error_class, "reason": detail},
        )


@dataclass(slots=True)
class _Result:
    """How the reports of one batch ended. `locked_out` is LABDRIVE's word when it refuses the key altogether."""

    sent: list[int] = field(default_factory=list)
    postponed: list[Postponed] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    away: bool = False
    away_s: float = 0.0
    locked_out: str = ""

    @property
    def stop(self) -> bool:
        return self.away or bool(self.locked_out)

    @property
    def settled(self) -> set[int]:
        return {*self.sent, *(late.seq for late in self.postponed), *(gone.seq for gone in self.refused)}


def _later(
    tools: WorkTools, report: OwedReport, error_class: ErrorClass, detail: str, asked_s: float, result: _Result
) -> bool:
    """Put `report` off, or give it up when it has been owed for too long; True when it was put off."""
    detail = one_line(detail, max_chars=1000)
    if report.age_s > tools.rules.report_give_up_after_s:
        result.refused.append(Refused(seq=report.seq, error_class=error_class, detail=detail))
        return False
    pause_s = jittered(report.attempts, base_s=tools.rules.report_base_s, cap_s=tools.rules.report_cap_s)
    after_s = max(pause_s, asked_s)
    result.postponed.append(Postponed(seq=report.seq, after_s=after_s, error_class=error_class, detail=detail))
    log.warning(
        "report_postponed",
        extra={"run_id": report.run_id, "seq": report.seq, "after_s": after_s, "reason": detail},
    )
    return True


async def _call(tools: WorkTools, access: ApiAccess, run: Run, report: OwedReport) -> None:
    body = report.body
    match report.kind:
        case ReportKind.STATUS:
            await tools.labdrive.set_job_status(access, run.job_id, JobStatus(body["status"]))
        case ReportKind.MESSAGE:
            await tools.labdrive.create_message(
                access,
                run.job_id,
                body["text"],
                MessageType(body["type"]),
                file_id=body["file_id"],
                idempotency_key=report.token,
            )
        case ReportKind.HASH:
            await tools.labdrive.set_hash(
                access, body["file_id"], body["algorithm"], body["digest"], idempotency_key=report.token
            )
