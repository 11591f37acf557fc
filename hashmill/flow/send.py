"""One batch of one run's reports on its way, and how each of them ended."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable, ErrorClass
from hashmill.domain.job import JobStatus, MessageType, ReportKind
from hashmill.domain.pause import jittered
from hashmill.domain.text import one_line
from hashmill.flow.gates import FORBIDDEN_MAX, Breaker, keep
from hashmill.flow.lookup import Lookup
from hashmill.flow.tools import WorkTools
from hashmill.labdrive.client import ApiAccess
from hashmill.ledger import counters, outbox
from hashmill.ledger.outbox import OwedReport, Postponed, Refused
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Result:
    """How the reports of one batch ended. `unclear` are those of which a call began and did not end."""

    sent: list[int] = field(default_factory=list)
    postponed: list[Postponed] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unclear: set[int] = field(default_factory=set)
    found: int = 0
    resent: int = 0

    @property
    def settled(self) -> set[int]:
        return {*self.sent, *(late.seq for late in self.postponed), *(gone.seq for gone in self.refused)}

    def later(
        self,
        tools: WorkTools,
        report: OwedReport,
        error_class: ErrorClass,
        detail: str,
        *,
        after_s: float | None = None,
        uncertain: bool = False,
        burns: bool = True,
    ) -> bool:
        """Put `report` off, or give it up when it has been owed for too long; True when it was put off."""
        detail = one_line(detail, max_chars=1000)
        if report.age_s > tools.rules.report_give_up_after_s:
            self.refused.append(Refused(seq=report.seq, error_class=error_class, detail=detail))
            return False
        if after_s is None:
            after_s = jittered(report.attempts, base_s=tools.rules.report_base_s, cap_s=tools.rules.report_cap_s)
        self.postponed.append(
            Postponed(
                seq=report.seq,
                after_s=after_s,
                error_class=error_class,
                detail=detail,
                uncertain=uncertain,
                burns=burns,
            )
        )
        log.warning(
            "report_postponed",
            extra={"run_id": report.run_id, "seq": report.seq, "after_s": after_s, "reason": detail},
        )
        return True


@dataclass(slots=True, kw_only=True)
class Sender:
    """Sends what one run owes through the gates of its API and its key; `trial` when it tries whether they open."""

    tools: WorkTools
    run: Run
    access: ApiAccess
    api: Breaker
    key: Breaker
    held: Callable[[], bool]
    trial: bool = False

    @property
    def stopped(self) -> bool:
        return (self.api.shut or self.key.shut) and not self.trial

    async def send(self, batch: Sequence[OwedReport]) -> bool:
        """Send a batch and write down how each report ended; False when the rest of the run must wait."""
        groups: dict[int | None, list[OwedReport]] = {}
        for report in batch:
            groups.setdefault(report.file_no, []).append(report)
        places = asyncio.Semaphore(self.tools.rules.report_concurrency)
        result = Result()
        lookup = Lookup(tools=self.tools, run=self.run, access=self.access)

        async def one_group(group: Sequence[OwedReport]) -> None:
            async with places:
                for report in group:
                    if self.stopped or not self.held() or not await self._send_one(report, lookup, result):
                        return

        try:
            ends = await asyncio.gather(*(one_group(group) for group in groups.values()), return_exceptions=True)
            for group, end in zip(groups.values(), ends, strict=True):
                if isinstance(end, Exception):
                    (stumbled, *_) = [report for report in group if report.seq not in result.settled]
                    log.error("report_bug", extra={"run_id": self.run.run_id, "seq": stumbled.seq}, exc_info=end)
                    said = f"{type(end).__name__}: {end}"
                    result.later(self.tools, stumbled, ErrorClass.INTERNAL, said, uncertain=True)
                    if self.trial:
                        self.api.failed(said, trial=True)
        finally:
            await asyncio.shield(self.tools.ledger.write(self._write_down, batch, result))
        for breaker in (self.api, self.key):
            await keep(self.tools, breaker)
        return not (self.api.in_a_row or self.api.shut or self.key.shut)

    def _write_down(self, connection: sa.Connection, batch: Sequence[OwedReport], result: Result) -> None:
        known = {report.seq for report in batch if report.uncertain}
        outbox.mark(
            connection,
            self.run.run_id,
            sent=result.sent,
            postponed=result.postponed,
            refused=result.refused,
            untouched=[report.seq for report in batch if report.seq not in result.settled | result.unclear],
        )
        lost = sum(late.uncertain and late.seq not in known for late in result.postponed)
        counters.add(connection, Counted.REPORTS_UNCERTAIN, lost)
        counters.add(connection, Counted.REPORTS_FOUND, result.found)
        counters.add(connection, Counted.REPORTS_RESENT, result.resent)

    async def _send_one(self, report: OwedReport, lookup: Lookup, result: Result) -> bool:
        """Send one report; True when the next one of its file may follow."""
        retry = report.attempts > 0
        if retry and not self.trial and not self.api.may_retry():
            pause_s = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
            result.later(
                self.tools, report, ErrorClass.API_UNAVAILABLE, "too many retries", after_s=pause_s, burns=False
            )
            return False
        if not retry:
            self.api.first_try()
        began = False
        try:
            if report.uncertain:
                log.warning("report_uncertain", extra={"run_id": self.run.run_id, "seq": report.seq})
                if await lookup.has(report):
                    result.found += 1
                    return self._taken(report, result)
                result.resent += 1
            began = True
            result.unclear.add(report.seq)
            await self._call(report)
        except ApiUnavailable as trouble:
            self.api.failed(str(trouble), trial=self.trial, asked_s=trouble.retry_after_s or 0.0)
            away = self.api.shut
            return not result.later(
                self.tools,
                report,
                trouble.error_class,
                str(trouble),
                after_s=0.0 if away else None,
                uncertain=began and trouble.uncertain,
                burns=not away,
            )
        except ApiAuth as refusal:
            self.api.took(trial=self.trial)
            return self._refused_key(report, refusal, result)
        except ApiRejected as refusal:
            self.api.took(trial=self.trial)
            self.key.took(trial=self.trial)
            log.error("report_refused", extra={"run_id": self.run.run_id, "seq": report.seq, "reason": str(refusal)})
            result.refused.append(Refused(seq=report.seq, error_class=refusal.error_class, detail=str(refusal)))
            return True
        return self._taken(report, result)

    def _taken(self, report: OwedReport, result: Result) -> bool:
        self.api.took(trial=self.trial)
        self.key.took(trial=self.trial)
        result.sent.append(report.seq)
        return True

    def _refused_key(self, report: OwedReport, refusal: ApiAuth, result: Result) -> bool:
        """401 is about the key. 403 is about this one thing, unless the key was never good for any, or is no more."""
        if refusal.status == 401 or not self.key.proven or self.key.shut:
            self.key.failed(str(refusal), trial=self.trial, failures_max=1)
        else:
            self.key.failed(str(refusal), trial=self.trial, failures_max=FORBIDDEN_MAX)
        if not self.key.shut:
            result.refused.append(Refused(seq=report.seq, error_class=refusal.error_class, detail=str(refusal)))
            return True
        # A 403 may be about this report all the same: another one tries next.
        after_s = 0.0 if refusal.status == 401 else None
        return not result.later(
            self.tools, report, refusal.error_class, str(refusal), after_s=after_s, burns=refusal.status != 401
        )

    async def _call(self, report: OwedReport) -> None:
        body, labdrive = report.body, self.tools.labdrive
        match report.kind:
            case ReportKind.STATUS:
                await labdrive.set_job_status(
                    self.access, self.run.job_id, JobStatus(body["status"]), idempotency_key=report.token
                )
            case ReportKind.MESSAGE:
                await labdrive.create_message(
                    self.access,
                    self.run.job_id,
                    body["text"],
                    MessageType(body["type"]),
                    file_id=body["file_id"],
                    idempotency_key=report.token,
                )
            case ReportKind.HASH:
                await labdrive.set_hash(
                    self.access, body["file_id"], body["algorithm"], body["digest"], idempotency_key=report.token
                )
