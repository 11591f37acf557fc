"""What is handed out: bounded, in batches by size, fairly over tenants and runs, and taken back when nobody heard."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hashmill.domain.job import FileState, SizeClass
from hashmill.domain.work import Ticket
from hashmill.flow.dispatch import Dispatcher
from hashmill.flow.expand import expand
from hashmill.flow.tools import Tenant
from hashmill.ledger import files, leases
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import (
    ORIGIN,
    OTHER_ORIGIN,
    RULES,
    Stage,
    accepted,
    dispatched,
    listed,
    remote,
    run_now,
    staged,
)
from tests.helpers.ledger import claim, done, fresh_ledger

TINY, NORMAL, BIG = 10, 2_000_000, 100_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


def finish(stage: Stage, tickets: list[Ticket]) -> None:
    """End the files of these tickets, as a worker would."""
    for ticket in tickets:
        claimed = claim(stage.tools.ledger, ticket)
        stage.tools.ledger.write_now(files.settle, ticket.run_id, [done(file) for file in claimed])


async def a_round(dispatcher: Dispatcher, stage: Stage) -> None:
    """One round that looks at the open runs, however long the last look took."""
    dispatcher.look_at_s = 0.0
    await dispatcher.round(stage.tools)


def states(stage: Stage, run: Run) -> Counter[str]:
    return Counter(stage.tools.ledger.read_now(files.count_by_state, run.run_id))


def per_run(tickets: list[Ticket]) -> Counter[str]:
    return Counter(ticket.run_id for ticket in tickets)


@pytest.mark.parametrize(("size_bytes", "per_ticket"), [(TINY, 64), (NORMAL, 8), (None, 8), (BIG, 1)])
async def test_files_travel_in_batches_by_their_size(stage: Stage, size_bytes: int | None, per_ticket: int) -> None:
    await listed(stage, 70, size_bytes=size_bytes)

    first = (await dispatched(stage))[0]

    assert len(first.files) == per_ticket


async def test_one_file_per_ticket_is_possible(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, batch_max=1)) as stage:
        await listed(stage, 5)
        await listed(stage, 5, start=11, size_bytes=NORMAL)

        assert [len(ticket.files) for ticket in await dispatched(stage)] == [1] * 10


async def test_the_window_is_never_exceeded_and_is_filled_again_as_work_ends(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=3, batch_max=2)) as stage:
        run = await listed(stage, 20)
        dispatcher = Dispatcher()

        for _ in range(3):
            await a_round(dispatcher, stage)
        full = list(stage.queue.tickets)
        finish(stage, full[:1])
        await a_round(dispatcher, stage)

        assert [len(ticket.files) for ticket in full] == [2, 2, 2]
        assert len(stage.queue.tickets) == 4
        assert states(stage, run) == {"queued": 6, "done": 2, "ready": 12}


async def test_big_files_have_a_window_of_their_own_and_keep_no_small_one_waiting(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=4, big_window=2)) as stage:
        await listed(stage, 10, size_bytes=BIG)
        await listed(stage, 10, start=11, size_bytes=TINY)

        tickets = await dispatched(stage)

        assert Counter(ticket.size_class for ticket in tickets) == {SizeClass.BIG: 2, SizeClass.TINY: 1}


async def test_the_window_follows_the_slots_of_the_living_workers(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=0, big_window=0, batch_max=1)) as stage:
        await listed(stage, 60)
        for name, slots, lease_s in (("a", 8, 30), ("b", 4, 30), ("dead", 50, -1), ("dispatcher", 0, 30)):
            ledger.write_now(leases.take, f"process:{name}", name, lease_s=lease_s, detail={"slots": slots})

        assert len(await dispatched(stage)) == 24


async def test_no_more_small_files_wait_than_the_living_workers_soon_read(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=0, batch_max=8)) as stage:
        await listed(stage, 200)
        for name, in_flight in (("a", 4), ("b", 8)):
            detail = {"slots": 16, "files_in_flight": in_flight}
            ledger.write_now(leases.take, f"process:{name}", name, lease_s=30, detail=detail)

        tickets = await dispatched(stage)

        assert sum(len(ticket.files) for ticket in tickets) == 3 * (4 + 8) + 4  # up to the end of a ticket


async def test_a_small_run_behind_a_large_one_is_handed_out_at_once(stage: Stage) -> None:
    await listed(stage, 3000)
    dispatcher = Dispatcher()
    await a_round(dispatcher, stage)
    finish(stage, stage.queue.tickets[:2])
    small = await listed(stage, 20, start=5001)

    await a_round(dispatcher, stage)

    assert states(stage, small) == {"queued": 20}


async def test_a_small_run_of_tiny_files_does_not_wait_behind_a_large_one_of_larger_files(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=4)) as stage:
        await listed(stage, 300, size_bytes=NORMAL)
        dispatcher = Dispatcher()
        await a_round(dispatcher, stage)
        small = await listed(stage, 20, start=5001, size_bytes=TINY)

        for _ in range(2):
            finish(stage, stage.queue.tickets[-4:])
            await a_round(dispatcher, stage)

        assert states(stage, small)["ready"] == 0


async def test_two_tenants_share_the_window_by_weight_however_many_runs_each_has(ledger: Ledger) -> None:
    tenants = (Tenant(name="one", api_origins=(ORIGIN,)), Tenant(name="two", api_origins=(OTHER_ORIGIN,), weight=3))
    with staged(ledger, rules=replace(RULES, tenants=tenants, window=16, batch_max=1)) as stage:
        for start in (1, 101, 201):
            await listed(stage, 30, start=start, api_url=ORIGIN)
        two = await listed(stage, 30, start=1001, api_url=OTHER_ORIGIN)

        shares = per_run(await dispatched(stage))

        assert shares[two.run_id] == 12
        assert sum(shares.values()) == 16


async def test_runs_of_one_tenant_share_by_priority(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=22, batch_max=1)) as stage:
        urgent = await listed(stage, 60, priority=0)
        patient = await listed(stage, 60, start=101, priority=9)

        shares = per_run(await dispatched(stage))

        assert abs(shares[urgent.run_id] - 20) <= 1
        assert shares[patient.run_id] >= 1


async def test_a_run_with_files_of_every_size_gets_no_more_than_its_share(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=20, batch_max=1)) as stage:
        one = await _mixed(stage)
        other = await listed(stage, 40, start=2001)

        shares = per_run(await dispatched(stage))

        assert abs(shares[one.run_id] - shares[other.run_id]) <= 1


async def _mixed(stage: Stage) -> Run:
    stage.api.add(*(remote(n, size_bytes=TINY if n % 2 else NORMAL) for n in range(1001, 1041)))
    run = await accepted(stage, file_ids=[str(n) for n in range(1001, 1041)])
    await expand(stage.tools, run.run_id)
    return await run_now(stage, run)


async def test_many_open_runs_of_one_tenant_do_not_hide_the_run_of_another(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RUNS_MAX", 3)
    tenants = (Tenant(name="one", api_origins=(ORIGIN,)), Tenant(name="two", api_origins=(OTHER_ORIGIN,)))
    with staged(ledger, rules=replace(RULES, tenants=tenants, window=4, batch_max=1)) as stage:
        for start in range(0, 60, 10):
            await listed(stage, 5, start=start + 1, api_url=ORIGIN)
        other = await listed(stage, 5, start=1001, api_url=OTHER_ORIGIN)

        assert per_run(await dispatched(stage))[other.run_id] == 2


async def test_an_urgent_run_is_not_hidden_by_many_older_ones(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RUNS_MAX", 3)
    with staged(ledger, rules=replace(RULES, window=4, batch_max=1)) as stage:
        for start in range(0, 60, 10):
            await listed(stage, 5, start=start + 1)
        urgent = await listed(stage, 5, start=1001, priority=0)

        assert per_run(await dispatched(stage))[urgent.run_id] >= 1


async def test_tickets_nobody_heard_of_are_taken_back_at_once_and_handed_out_later(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, reissue_after_s=0.05)) as stage:
        run = await listed(stage, 100)
        stage.queue.down = True
        dispatcher = Dispatcher()
        await a_round(dispatcher, stage)
        between = states(stage, run)
        stage.queue.down = False

        await a_round(dispatcher, stage)
        await a_round(dispatcher, stage)

        assert between == {"ready": 100}
        assert sorted(number for ticket in stage.queue.tickets for number, _ in ticket.files) == list(range(1, 101))
        assert {epoch for ticket in stage.queue.tickets for _, epoch in ticket.files} == {2}


async def test_files_that_came_back_are_found_behind_the_cursor(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=2, batch_max=2)) as stage:
        run = await listed(stage, 6)
        dispatcher = Dispatcher()
        await a_round(dispatcher, stage)
        stage.tools.ledger.write_now(files.unqueue, stage.queue.tickets[0])
        for _ in range(4):
            finish(stage, stage.queue.tickets[-2:])
            await a_round(dispatcher, stage)

        assert states(stage, run)["ready"] == 0


async def test_what_the_dispatcher_remembers_does_not_grow_with_the_runs_it_has_seen(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashmill.flow.dispatch.CURSORS_MAX", 3)
    with staged(ledger, rules=replace(RULES, batch_max=1)) as stage:
        await listed(stage, 2000)
        dispatcher = Dispatcher()
        for start in range(3001, 3011):
            small = await listed(stage, 1, start=start)
            await a_round(dispatcher, stage)
            finish(stage, [ticket for ticket in stage.queue.tickets if ticket.run_id == small.run_id])
            finish(stage, stage.queue.tickets[-10:])

        assert len(dispatcher.cursors) <= 5


async def test_a_fresh_dispatcher_goes_on_where_the_last_one_stopped(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, window=1, batch_max=2)) as stage:
        await listed(stage, 4)
        (first,) = await dispatched(stage)
        finish(stage, [first])

        (second,) = await dispatched(stage)

        assert [number for number, _ in second.files] == [3, 4]


async def test_files_that_are_not_due_yet_are_not_handed_out(stage: Stage) -> None:
    run = await listed(stage, 2)
    (ticket,) = await dispatched(stage)
    one, two = claim(stage.tools.ledger, ticket)
    later = replace(done(one), state=FileState.READY, retry_in_s=3600, entry=None, reports=())
    now = replace(done(two), state=FileState.READY, retry_in_s=0, entry=None, reports=())
    stage.tools.ledger.write_now(files.settle, run.run_id, [later, now])

    (again,) = await dispatched(stage)

    assert [number for number, _ in again.files] == [2]
