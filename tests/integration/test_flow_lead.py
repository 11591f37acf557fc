"""One leader of many, a new one when it vanishes, and none that goes on without its lease."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.domain.job import RunState
from hashmill.flow.dispatch import Dispatcher
from hashmill.flow.hash_files import hash_files
from hashmill.flow.lead import LEADER, lead
from hashmill.ledger import entries, leases, runs
from hashmill.ledger.engine import Ledger
from tests.helpers.fakes import RULES, Call, Stage, accepted, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until_async

QUICK = replace(RULES, leader_lease_s=0.6)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def stages(ledger: Ledger) -> Iterator[list[Stage]]:
    with ExitStack() as stack:
        first = stack.enter_context(staged(ledger, rules=QUICK, process="p0"))
        others = [
            stack.enter_context(staged(ledger, rules=QUICK, process=f"p{n}", sealer=first.tools.sealer)) for n in (1, 2)
        ]
        yield [first, *others]


@asynccontextmanager
async def leading(stage: Stage) -> AsyncIterator[tuple["asyncio.Task[None]", asyncio.Event]]:
    """Run `lead` in this block; yield its task and what stops it."""
    stop = asyncio.Event()
    task = asyncio.create_task(lead(stage.tools, stop))
    try:
        yield task, stop
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def holder(ledger: Ledger) -> str | None:
    found = [lease for lease in ledger.read_now(leases.listed, LEADER) if lease.remaining_s > 0]
    return found[0].holder if found else None


async def test_of_three_one_leads_and_does_all_that_is_due(ledger: Ledger, stages: list[Stage]) -> None:
    run = await listed(stages[0], 3)
    await accepted(stages[0], job_id="waits")

    async with AsyncExitStack() as stack:
        for stage in stages:
            await stack.enter_async_context(leading(stage))
        await wait_until_async(lambda: sum(len(stage.queue.tickets) for stage in stages) == 1, timeout_s=4)
        await wait_until_async(lambda: any(stage.api.made("set_job_status") for stage in stages), timeout_s=4)
        await wait_until_async(lambda: ledger.read_now(entries.verify).waiting == 0, timeout_s=4)

        assert len([stage for stage in stages if stage.queue.tickets]) == 1
        assert holder(ledger) in {"p0", "p1", "p2"}
    assert (await run_now(stages[0], run)).state is RunState.RUNNING


async def test_a_run_that_is_worked_ends_without_waiting_for_the_next_look(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(QUICK, idle_tick_s=30.0)) as stage:
        run = await listed(stage, 3)
        for ticket in await dispatched(stage):
            await hash_files(stage.tools, ticket)

        async with leading(stage):
            await wait_until_async(lambda: _state_of_now(ledger, run.run_id) is RunState.COMPLETED, timeout_s=10)


async def test_when_the_leader_goes_in_order_the_next_begins_at_once(ledger: Ledger, stages: list[Stage]) -> None:
    async with leading(stages[0]) as (task, stop):
        await wait_until_async(lambda: holder(ledger) == "p0", timeout_s=4)
        async with leading(stages[1]):
            stop.set()
            await task

            await wait_until_async(lambda: holder(ledger) == "p1", timeout_s=QUICK.leader_lease_s)


async def test_when_the_leader_vanishes_another_leads_after_its_lease(ledger: Ledger, stages: list[Stage]) -> None:
    ledger.write_now(leases.take, LEADER, "vanished", lease_s=0.5)

    async with leading(stages[0]):
        await wait_until_async(lambda: holder(ledger) == "p0", timeout_s=3)


async def test_a_leader_that_cannot_renew_stops_its_duties_before_another_can_begin(
    ledger: Ledger, stages: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = stages[0]
    released = asyncio.Event()
    async with leading(frozen):
        await wait_until_async(lambda: holder(ledger) == "p0", timeout_s=4)
        # From here on this process cannot reach the ledger: everything it asks waits.
        for lane in ("write", "write_lease"):
            monkeypatch.setattr(
                frozen.tools.ledger.__class__, lane, _held(released, getattr(frozen.tools.ledger, lane))
            )
        await wait_until_async(lambda: holder(ledger) is None, timeout_s=3)
        before = len(asyncio.all_tasks())
        duties = [task for task in asyncio.all_tasks() if "_duty" in repr(task.get_coro())]

        assert duties == [], before
        released.set()


def _held(released: asyncio.Event, write: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    async def waits(self: Ledger, *args: object, **kwargs: object) -> object:
        await released.wait()
        return await write(*args, **kwargs)

    return waits


async def test_a_leader_that_lost_its_lease_to_another_makes_way(ledger: Ledger, stages: list[Stage]) -> None:
    async with leading(stages[0]):
        await wait_until_async(lambda: holder(ledger) == "p0", timeout_s=4)
        ledger.write_now(leases.release, LEADER, "p0")
        ledger.write_now(leases.take, LEADER, "thief", lease_s=30)

        await wait_until_async(
            lambda: not [task for task in asyncio.all_tasks() if "_duty" in repr(task.get_coro())], timeout_s=3
        )


async def test_a_duty_that_breaks_again_and_again_does_not_stop_the_others(
    ledger: Ledger, stages: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Dispatcher, tools: object) -> int:
        raise ZeroDivisionError("a bug")

    run = await listed(stages[0], 1)
    for ticket in await dispatched(stages[0]):
        await hash_files(stages[0].tools, ticket)
    monkeypatch.setattr(Dispatcher, "round", broken)

    async with leading(stages[0]):
        await wait_until_async(lambda: ledger.read_now(_state_of, run.run_id) == RunState.COMPLETED, timeout_s=4)

        assert holder(ledger) == "p0"


def _state_of_now(ledger: Ledger, run_id: str) -> RunState | None:
    return ledger.read_now(_state_of, run_id)


def _state_of(connection: sa.Connection, run_id: str) -> RunState | None:
    run = runs.get(connection, run_id)
    return run and run.state


async def test_a_duty_that_breaks_is_begun_again(
    ledger: Ledger, stages: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stages[0]
    broken = [ZeroDivisionError("a bug")]
    send = stage.queue.send

    def once(tickets: object) -> bool:
        if broken:
            raise broken.pop()
        return send(tickets)  # type: ignore[arg-type]

    monkeypatch.setattr(type(stage.queue), "send", lambda self, tickets: once(tickets))
    quick = replace(stage.tools, rules=replace(QUICK, reissue_after_s=0.1))
    await listed(stage, 1)

    stop = asyncio.Event()
    task = asyncio.create_task(lead(quick, stop))
    await wait_until_async(lambda: stage.queue.tickets, timeout_s=4)
    stop.set()
    await task


async def test_a_leader_that_slept_past_its_lease_makes_no_further_call(ledger: Ledger, stages: list[Stage]) -> None:
    """Its heir may have ended the job by now: a RUNNING that comes late would stay."""
    stage = stages[0]
    await listed(stage, 30)
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)
    woken_at = 0

    def answer(call: Call) -> None:
        nonlocal woken_at
        if call.name == "create_message" and not woken_at:
            time.sleep(1.5 * QUICK.leader_lease_s)  # a process that is stopped stops as a whole
            woken_at = len(stage.api.calls)

    stage.api.answer = answer
    async with leading(stage):
        await wait_until_async(lambda: woken_at, timeout_s=4)
        await wait_until_async(
            lambda: not [task for task in asyncio.all_tasks() if "_serve" in repr(task.get_coro())], timeout_s=3
        )

        # The one that was under way when it fell asleep.
        assert len(stage.api.calls[woken_at:]) <= 1
