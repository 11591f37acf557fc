"""Outages of the API, refused keys and lost answers, over both ledgers: all arrives, in order, with few calls."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hashmill.domain.counted import Counted
from hashmill.domain.errors import ApiAuth, ApiUnavailable
from hashmill.domain.job import RunState
from hashmill.domain.remote import RemoteMessage
from hashmill.flow import gates as gates_step
from hashmill.flow.deliver import Deliverer
from hashmill.flow.dispatch import Dispatcher
from hashmill.flow.finish import finish
from hashmill.flow.gates import keep
from hashmill.flow.hash_files import hash_files
from hashmill.ledger import counters, gates, outbox
from hashmill.ledger.engine import Ledger
from hashmill.ledger.gates import GateKind
from hashmill.ledger.runs import Run
from tests.helpers.fakes import ORIGIN, OTHER_ORIGIN, RULES, Call, Stage, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until_async


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@contextmanager
def stage_of(ledger: Ledger, **rules: Any) -> Iterator[Stage]:
    with staged(ledger, rules=replace(RULES, **rules)) as stage:
        yield stage


async def hashed(stage: Stage, count: int, **event: Any) -> Run:
    run = await listed(stage, count, **event)
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)
    return await run_now(stage, run)


async def until_ended(stage: Stage, sender: Deliverer, *all_runs: Run, timeout_s: float = 10) -> None:
    async def ended() -> bool:
        await sender.round(stage.tools)
        await finish(stage.tools)
        return all([(await run_now(stage, run)).state.ended for run in all_runs])

    await wait_until_async(ended, timeout_s=timeout_s)


def counted(stage: Stage) -> dict[Counted, int]:
    return stage.tools.ledger.read_now(counters.all)


def shut(stage: Stage) -> list[GateKind]:
    return [gate.kind for gate in stage.tools.ledger.read_now(gates.listed)]


async def test_an_outage_costs_one_call_at_a_time_and_no_attempts_and_then_all_arrives(ledger: Ledger) -> None:
    with stage_of(ledger, report_base_s=0.05, report_probe_cap_s=0.1) as stage:
        some = [await hashed(stage, 20, start=1 + 100 * number, job_id=str(number)) for number in range(3)]
        for run in some:  # a status is alone in its batch anyway; what follows it is not
            (running,) = ledger.write_now(outbox.take, run.run_id)
            ledger.write_now(outbox.mark, run.run_id, sent=[running.seq])
        tries: list[float] = []
        away = True

        def answer(call: Call) -> None:
            if away:
                tries.append(call.at_s)
                raise ApiUnavailable("refused")

        stage.api.answer = answer
        sender = Deliverer()

        async def long_away() -> bool:
            await sender.round(stage.tools)
            return len(tries) >= 25

        await wait_until_async(long_away, timeout_s=10)
        assert shut(stage) == [GateKind.API]
        gaps = [after - before for before, after in pairwise(tries[15:])]
        assert min(gaps) >= 0.075, "one call each time"

        away = False
        await until_ended(stage, sender, *some)

        assert shut(stage) == []
        assert counted(stage)[Counted.APIS_LOST] == 1
        assert {(await run_now(stage, run)).state for run in some} == {RunState.COMPLETED}
        assert len(stage.api.made("set_hash")) == 60
        for number in range(3):
            of_job = [
                call.what["status"] for call in stage.api.made("set_job_status") if call.what["job_id"] == str(number)
            ]
            assert of_job == ["COMPLETED"]


async def test_when_an_api_is_back_no_report_waits_for_a_pause_of_its_own(ledger: Ledger) -> None:
    with stage_of(ledger, report_base_s=0.01, report_cap_s=3600.0, report_probe_cap_s=0.05) as stage:
        run = await hashed(stage, 3)
        tries = 0

        def answer(call: Call) -> None:
            nonlocal tries
            tries += 1
            if tries < 30:
                raise ApiUnavailable("503")

        stage.api.answer = answer

        await until_ended(stage, Deliverer(), run)

        assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_a_new_leader_finds_an_api_that_is_away_and_does_not_ask_before_its_time(ledger: Ledger) -> None:
    with stage_of(ledger) as stage:
        await hashed(stage, 5)
        tries: list[Call] = []

        def answer(call: Call) -> None:
            tries.append(call)
            raise ApiUnavailable("429", retry_after_s=3600)

        stage.api.answer = answer
        first = Deliverer()
        await wait_until_async(lambda: _rounds(first, stage, until=lambda: bool(tries) and not first.at_work))
        before = len(tries)

        heir = Deliverer()
        for _ in range(5):
            await heir.round(stage.tools)

        assert len(tries) == before == 1


async def _rounds(sender: Deliverer, stage: Stage, *, until: Any) -> bool:
    await sender.round(stage.tools)
    return bool(until())


async def test_one_report_that_goes_wrong_holds_back_its_file_only(ledger: Ledger) -> None:
    with stage_of(ledger, report_base_s=0.01) as stage:
        run = await hashed(stage, 30)
        wrong = 2

        def answer(call: Call) -> None:
            nonlocal wrong
            if call.name == "create_message" and call.what["file_id"] == "7" and wrong:
                wrong -= 1
                raise ApiUnavailable("500")

        stage.api.answer = answer

        await until_ended(stage, Deliverer(), run)

        assert counted(stage)[Counted.APIS_LOST] == 0
        of_seven = [
            call.name for call in stage.api.calls if call.what.get("file_id") == "7" and call.name != "get_file"
        ]
        assert of_seven == ["create_message", "set_hash"]
        assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_an_api_away_for_too_long_lets_runs_end_without_trying_each_report(ledger: Ledger) -> None:
    with stage_of(ledger, report_base_s=0.01, report_probe_cap_s=0.05, report_give_up_after_s=0.5) as stage:
        run = await hashed(stage, 40)
        tries = 0

        def answer(call: Call) -> None:
            nonlocal tries
            tries += 1
            raise ApiUnavailable("503")

        stage.api.answer = answer

        await until_ended(stage, Deliverer(), run)

        after = await run_now(stage, run)
        assert (after.state, after.error_class) == (RunState.FAILED, "api.unavailable")
        assert tries < 60 < after.outbox_dead


async def test_a_refused_key_waits_with_all_that_is_owed_and_another_users_goes_on(ledger: Ledger) -> None:
    with stage_of(ledger, report_auth_give_up_after_s=3600.0) as stage:
        refused = await hashed(stage, 5, job_id="refused", user_id="1")
        good = await hashed(stage, 5, start=10, job_id="good", user_id="2")
        tries: list[Call] = []

        def answer(call: Call) -> None:
            if call.what.get("job_id") == "refused":
                tries.append(call)
                raise ApiAuth("401")

        stage.api.answer = answer
        sender = Deliverer()
        await until_ended(stage, sender, good)

        waits = await run_now(stage, refused)
        assert (waits.outbox_dead, len(tries)) == (0, 1)
        assert (await run_now(stage, good)).state is RunState.COMPLETED
        assert shut(stage) == [GateKind.KEY]
        assert counted(stage)[Counted.KEYS_REFUSED] == 1


async def test_a_key_that_is_good_again_delivers_everything(ledger: Ledger) -> None:
    with stage_of(ledger, report_auth_give_up_after_s=1.0) as stage:
        run = await hashed(stage, 5)
        refusals = 2

        def answer(call: Call) -> None:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise ApiAuth("401")

        stage.api.answer = answer

        await until_ended(stage, Deliverer(), run)

        assert (await run_now(stage, run)).state is RunState.COMPLETED
        assert shut(stage) == []


async def test_a_key_refused_for_too_long_lets_every_run_with_it_end(ledger: Ledger) -> None:
    with stage_of(ledger, report_auth_give_up_after_s=0.4) as stage:
        some = [await hashed(stage, 2, start=1 + 10 * number) for number in range(3)]

        def answer(call: Call) -> None:
            raise ApiAuth("401")

        stage.api.answer = answer

        await until_ended(stage, Deliverer(), *some)

        assert {((await run_now(stage, run)).error_class) for run in some} == {"api.auth"}


def lost_answers(stage: Stage, text: str, *, arrives: bool) -> list[RemoteMessage]:
    """Let the first call for a message with `text` lose its answer; return LABDRIVE's messages of the job, kept up."""
    there: list[RemoteMessage] = []
    lost = False

    def answer(call: Call) -> None:
        nonlocal lost
        if call.name != "create_message":
            return
        message = RemoteMessage(text=call.what["text"], type=call.what["type"], file_id=call.what["file_id"])
        if text in message.text and not lost:
            lost = True
            there.extend([message] * arrives)
            raise ApiUnavailable("no answer", uncertain=True)
        there.append(message)

    stage.api.answer = answer
    return there


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_message_whose_answer_was_lost_stands_there_once(arrives: bool, ledger: Ledger) -> None:
    with stage_of(ledger) as stage:
        run = await hashed(stage, 3)
        there = lost_answers(stage, "md5", arrives=arrives)
        stage.api.messages = lambda job_id: there

        await until_ended(stage, Deliverer(), run)

        assert set(Counter((one.text, one.file_id) for one in there).values()) == {1}
        assert len(there) == 4
        seen = counted(stage)
        assert seen[Counted.REPORTS_UNCERTAIN] == 1
        assert (seen[Counted.REPORTS_FOUND], seen[Counted.REPORTS_RESENT]) == (int(arrives), int(not arrives))


async def test_where_messages_cannot_be_listed_one_is_sent_again_and_counted(ledger: Ledger) -> None:
    with stage_of(ledger) as stage:
        run = await hashed(stage, 1)
        there = lost_answers(stage, "md5", arrives=True)

        await until_ended(stage, Deliverer(), run)

        assert len(there) == 3
        assert counted(stage)[Counted.REPORTS_RESENT] == 1


async def test_a_message_sent_before_a_crash_is_found_by_the_next_leader(ledger: Ledger) -> None:
    with stage_of(ledger) as stage:
        run = await hashed(stage, 1)
        (running,) = ledger.write_now(outbox.take, run.run_id)
        ledger.write_now(outbox.mark, run.run_id, sent=[running.seq])
        taken = ledger.write_now(outbox.take, run.run_id)  # ...all sent, and then the sender dies
        told = [
            RemoteMessage(text=report.body["text"], type=report.body["type"], file_id=report.body["file_id"])
            for report in taken
            if report.kind == "message"
        ]
        stage.api.messages = lambda job_id: told

        await delivered(stage)

        sent = [call.what["text"] for call in stage.api.made("create_message")]
        assert not any(one.text in sent for one in told)
        seen = counted(stage)
        assert seen[Counted.REPORTS_UNCERTAIN] == len(taken)
        assert seen[Counted.REPORTS_FOUND] == len(told)
        assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_too_many_reports_owed_hold_back_new_tickets_until_most_are_gone(ledger: Ledger) -> None:
    with stage_of(ledger, report_high_water=10, window=1, batch_max=8) as stage:
        run = await listed(stage, 40)
        dispatcher = Dispatcher()
        await dispatcher.round(stage.tools)
        for ticket in stage.queue.tickets:
            await hash_files(stage.tools, ticket)
        given = len(stage.queue.tickets)
        assert (await run_now(stage, run)).outbox_owed > 10

        dispatcher.water_at_s = 0.0  # a second later
        for _ in range(3):
            await dispatcher.round(stage.tools)
        assert (len(stage.queue.tickets), shut(stage)) == (given, [GateKind.DISPATCH])

        heir = Dispatcher()
        await heir.round(stage.tools)
        assert len(stage.queue.tickets) == given
        sender = Deliverer()

        async def all_sent() -> bool:
            await sender.round(stage.tools)
            return (await run_now(stage, run)).outbox_owed == 0

        await wait_until_async(all_sent)
        heir.water_at_s = 0.0
        await heir.round(stage.tools)
        assert (len(stage.queue.tickets), shut(stage)) == (given + 1, [])
        await asyncio.gather(*sender.at_work.values())


async def test_one_api_owed_too_many_reports_does_not_hold_back_the_runs_of_another(ledger: Ledger) -> None:
    with stage_of(ledger, report_high_water=10, window=1, batch_max=8) as stage:
        await listed(stage, 40)
        dispatcher = Dispatcher()
        await dispatcher.round(stage.tools)
        for ticket in list(stage.queue.tickets):
            await hash_files(stage.tools, ticket)
        other = await listed(stage, 8, start=1001, api_url=OTHER_ORIGIN)
        given = len(stage.queue.tickets)

        dispatcher.water_at_s = 0.0  # a second later
        for _ in range(3):
            await dispatcher.round(stage.tools)

        assert [ticket.run_id for ticket in stage.queue.tickets[given:]] == [other.run_id]
        assert [gate.reason for gate in ledger.read_now(gates.listed)] == [f"more than 10 reports are owed to {ORIGIN}"]
        await hash_files(stage.tools, stage.queue.tickets[-1])
        dispatcher.water_at_s = 0.0
        await dispatcher.round(stage.tools)
        assert shut(stage) == [GateKind.DISPATCH] * 2, "each by itself"


async def test_a_gate_that_nothing_wants_to_pass_any_more_is_not_told_of_for_ever(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage_of(ledger) as stage:
        sender = Deliverer()
        await sender.round(stage.tools)
        api = sender.gates.api(stage.tools, "http://gone")
        api.failed("gone", trial=False, asked_s=0.01)
        await keep(stage.tools, api)
        assert shut(stage) == [GateKind.API]
        monkeypatch.setattr(gates_step, "FORGOTTEN_AFTER_S", 0.0)
        monkeypatch.setattr(gates_step, "FORGET_EVERY_S", 0.0, raising=False)

        async def forgotten() -> bool:
            await sender.round(stage.tools)
            return not shut(stage) and not api.shut

        await wait_until_async(forgotten, timeout_s=5)
