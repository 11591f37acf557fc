"""
What we owe LABDRIVE goes out: in order per run, at least once, one sender for a run at a time.

RUNNING first; then hashes and messages, several at once but those of one file in order; the final status last
and alone. While an API is away, or refuses a key, one call at a time tries whether that has passed (`gates`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hashmill.domain.errors import ErrorClass, LedgerUnavailable, OriginRefused, SecretExpired
from hashmill.domain.origin import origin_of
from hashmill.flow.access import access_of
from hashmill.flow.gates import Breaker, Gates
from hashmill.flow.send import Result, Sender
from hashmill.flow.tools import WorkTools
from hashmill.labdrive.origins import check_origin
from hashmill.ledger import outbox, runs
from hashmill.ledger.outbox import OwingRun
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
class Deliverer:
    """What the sender remembers between two rounds. What losing it would cost is in the ledger: see `Gates`."""

    held: Callable[[], bool] = lambda: True
    """Whether this process surely leads still; asked before each call."""
    after: str = ""
    gates: Gates = field(default_factory=Gates)
    apis: dict[str, str] = field(default_factory=dict)
    """The APIs of the runs at work."""
    trials: dict[str, str] = field(default_factory=dict)
    """By gate, the run whose next report tries whether it opens."""
    tried: dict[str, str] = field(default_factory=dict)
    """By gate, the run that tried last: the next in turn is next, so that no single report decides for its API."""
    keys: dict[str, str] = field(default_factory=dict)
    """By run, the gate of its key, for those whose key was refused."""
    given_up: dict[str, int] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)
    at_work: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def round(self, tools: WorkTools) -> int:
        """Start a sender for each run that owes something, up to `report_runs` at once; return how many are at work."""
        self._collect(tools)
        await self.gates.load(tools)
        await self.gates.forget(tools, but=self.trials)
        room = tools.rules.report_runs - len(self.at_work)
        if room > 0:
            owing = await tools.ledger.read(outbox.runs_that_owe, after=self.after, limit=LOOK)
            # Round and round, not from the oldest each time: runs that cannot go on must not keep the places.
            self.after = owing[-1].run_id if len(owing) == LOOK else ""
            last = self.after
            passed_by: set[str] = set()
            for run in owing:
                if run.run_id in self.at_work or not self._may_begin(tools, run, passed_by):
                    continue
                if len(self.at_work) == tools.rules.report_runs:
                    self.after = last
                    break
                last = run.run_id
                self.apis[run.run_id] = run.api_url
                self.at_work[run.run_id] = asyncio.create_task(self._serve(tools, run.run_id))
            # Whose turn it was has gone by: the next round begins from the first.
            for name in passed_by - self.trials.keys():
                self.tried.pop(name, None)
            await self._give_up(tools, owing)
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
            self.trials = {name: trying for name, trying in self.trials.items() if trying != run_id}
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
        self.trials.clear()

    def _may_begin(self, tools: WorkTools, run: OwingRun, passed_by: set[str]) -> bool:
        """Whether a sender may start: not while its run rests, and through a shut gate only as the one that tries."""
        if run.run_id in self.resting:
            return False
        api, *_ = breakers = self._gates_of(tools, run)
        if api.in_a_row and run.api_url in self.apis.values():
            return False  # whose last call failed may hang next: it keeps one place
        shut = [breaker for breaker in breakers if breaker.shut]
        for breaker in shut:
            if not breaker.due or breaker.name in self.trials:
                return False
            if run.run_id <= self.tried.get(breaker.name, ""):
                passed_by.add(breaker.name)
                return False
        for breaker in shut:
            self.trials[breaker.name] = self.tried[breaker.name] = run.run_id
        return True

    def _gates_of(self, tools: WorkTools, run: OwingRun) -> list[Breaker]:
        found = [self.gates.api(tools, origin_of(run.api_url))]
        key = self.gates.breakers.get(self.keys.get(run.run_id, ""))
        return found if key is None else [*found, key]

    async def _give_up(self, tools: WorkTools, owing: Sequence[OwingRun]) -> None:
        """Set aside what an API has not taken for too long, also what was never tried; once after each failed try."""
        for run in owing:
            api = self.gates.api(tools, origin_of(run.api_url))
            older_s = tools.rules.report_give_up_after_s
            if not api.shut or api.shut_for_s <= older_s or self.given_up.get(run.run_id) == api.failures:
                continue
            self.given_up[run.run_id] = api.failures
            dead = await tools.ledger.write(
                outbox.give_up, run.run_id, older_s=older_s, error_class=ErrorClass.API_UNAVAILABLE, detail=api.reason
            )
            if dead:
                log.error("reports_given_up", extra={"run_id": run.run_id, "reports": dead, "reason": api.reason})
        if self.given_up and not any(breaker.shut for breaker in self.gates.breakers.values()):
            self.given_up.clear()

    async def _serve(self, tools: WorkTools, run_id: str) -> None:
        run = await tools.ledger.read(runs.get, run_id)
        if run is None:
            return
        try:
            access = await access_of(tools, run)
            check_origin(access.url, tools.rules.allowed_origins)
        except SecretExpired as fault:
            await self._refuse_all(tools, run.run_id, fault.error_class, str(fault))
            return
        except OriginRefused as fault:
            await self._put_off(tools, run, fault)
            return
        origin = origin_of(run.api_url)
        api = self.gates.api(tools, origin)
        key = self.gates.key(tools, origin, run.user_id, tools.sealer.fingerprint(access.key))
        if key.shut and not self._may_try(run_id, key):
            return
        sender = Sender(tools=tools, run=run, access=access, api=api, key=key, held=self.held)
        taken = 0
        ends_s = tools.clock_s() + TURN_S
        while self.held():
            # What tries is one call, however much is owed.
            sender.trial = api.shut or key.shut
            limit = 1 if sender.trial else BATCH
            if not (batch := await tools.ledger.write(outbox.take, run_id, limit=limit)):
                break
            taken += len(batch)
            if not await sender.send(batch) or tools.clock_s() > ends_s:
                break
        if key.shut:
            self.keys[run_id] = key.name
            await self._give_up_key(tools, key)
        else:
            self.keys.pop(run_id, None)
        if not taken:
            await asyncio.sleep(tools.rules.tick_s)

    def _may_try(self, run_id: str, key: Breaker) -> bool:
        self.keys[run_id] = key.name
        if not key.due or self.trials.setdefault(key.name, run_id) != run_id:
            return False
        self.tried[key.name] = run_id
        return True

    async def _give_up_key(self, tools: WorkTools, key: Breaker) -> None:
        if key.shut_for_s < tools.rules.report_auth_give_up_after_s:
            return
        for run_id in [run_id for run_id, name in self.keys.items() if name == key.name]:
            del self.keys[run_id]
            await self._refuse_all(tools, run_id, ErrorClass.API_AUTH, key.reason)

    async def _put_off(self, tools: WorkTools, run: Run, fault: OriginRefused) -> None:
        """An origin that is not allowed any more may be a slip of the settings: what is owed waits, for its time."""
        result = Result()
        for report in await tools.ledger.write(outbox.take, run.run_id, limit=BATCH):
            result.later(tools, report, fault.error_class, str(fault))
        await tools.ledger.write(outbox.mark, run.run_id, postponed=result.postponed, refused=result.refused)

    async def _refuse_all(self, tools: WorkTools, run_id: str, error_class: ErrorClass, detail: str) -> None:
        dead = await tools.ledger.write(outbox.refuse_all, run_id, error_class=error_class, detail=detail)
        log.error(
            "reports_refused",
            extra={"run_id": run_id, "reports": dead, "error_class": error_class, "reason": detail},
        )
