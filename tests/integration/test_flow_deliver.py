"""What is owed reaches the API in order, at least once, whatever the API says; over a real ledger."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable
from hashmill.domain.job import RunState
from hashmill.flow import deliver, words
from hashmill.flow.deliver import Deliverer
from hashmill.flow.expand import expand
from hashmill.flow.finish import finish
from hashmill.flow.hash_files import hash_files
from hashmill.ledger import outbox, seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import (
    OTHER_ORIGIN,
    RULES,
    Call,
    Stage,
    accepted,
    delivered,
    dispatched,
    listed,
    run_now,
    staged,
)
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until_async


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


async def hashed(stage: Stage, count: int, **event: Any) -> Run:
    """Return a run whose files are all hashed; nothing of it is delivered."""
    run = await listed(stage, count, **event)
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)
    return await run_now(stage, run)


def refusing(error: Exception, name: str = "", **what: Any) -> Any:
    """Return an answer that raises `error` for calls of this name about this, and takes all others."""

    def answer(call: Call) -> None:
        if (not name or call.name == name) and what.items() <= dict(call.what).items():
            raise error

    return answer


async def test_running_goes_first_and_the_final_status_last(stage: Stage) -> None:
    run = await hashed(stage, 3)

    await delivered(stage)

    names = [call.name for call in stage.api.made("set_job_status", "create_message", "set_hash")]
    assert names[0] == names[-1] == "set_job_status"
    assert [call.what["status"] for call in stage.api.made("set_job_status")] == ["RUNNING", "COMPLETED"]
    assert sorted(names[1:-1]) == ["create_message"] * 4 + ["set_hash"] * 3
    assert stage.api.calls[-2].what["text"].startswith("3 of 3 files hashed")
    assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_the_reports_of_one_file_keep_their_order(stage: Stage) -> None:
    await hashed(stage, 4, algorithms=["md5", "sha1", "sha256"])

    await delivered(stage)

    for number in "1234":
        of_file = [call for call in stage.api.calls if call.what.get("file_id") == number and call.name != "get_file"]
        assert [call.name for call in of_file] == ["create_message"] * 3 + ["set_hash"] * 3
        keys = [int(call.what["key"].rpartition(":")[2]) for call in of_file]
        assert keys == sorted(keys)


async def test_no_more_calls_are_under_way_than_the_knob_says(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, report_concurrency=3)) as stage:
        await hashed(stage, 12)
        under_way, most = 0, 0

        async def slow() -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001)
            under_way -= 1

        stage.api.answer = lambda call: slow()

        await delivered(stage)

        assert most == 3


async def test_a_pause_the_api_asks_for_is_kept(stage: Stage) -> None:
    run = await hashed(stage, 1)
    refusals = [ApiUnavailable("429", retry_after_s=0.4)]
    refused_at: list[float] = []

    def answer(call: Call) -> None:
        if refusals:
            refused_at.append(call.at_s)
            raise refusals.pop()

    stage.api.answer = answer
    sender = Deliverer()
    await wait_until_async(lambda: _round(sender, stage, run, RunState.COMPLETED), timeout_s=4)

    assert stage.api.made("set_job_status")[0].at_s - refused_at[0] >= 0.4


async def _round(sender: Deliverer, stage: Stage, run: Run, state: RunState) -> bool:
    await sender.round(stage.tools)
    await finish(stage.tools)
    return (await run_now(stage, run)).state is state


async def test_a_refused_key_sets_aside_everything_and_the_job_has_failed(stage: Stage) -> None:
    run = await hashed(stage, 3)
    stage.api.answer = refusing(ApiAuth("401", status=401))

    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class) == (RunState.FAILED, "api.auth")
    assert after.outbox_owed == 0
    assert stage.tools.ledger.read_now(outbox.dead_by_class, run.run_id) == {"api.auth": after.outbox_dead}
    assert stage.tools.ledger.read_now(seal.kept, run.run_id)


async def test_a_key_refused_for_one_thing_costs_that_one_report(stage: Stage) -> None:
    run = await hashed(stage, 3)
    stage.api.answer = refusing(ApiAuth("403", status=403), "set_hash", file_id="2")

    await delivered(stage)

    after = await run_now(stage, run)
    assert (after.state, after.error_class, after.outbox_dead) == (RunState.FAILED, "api.auth", 1)
    assert len(stage.api.made("set_hash")) == 2
    assert [call.what["status"] for call in stage.api.made("set_job_status")] == ["RUNNING", "FAILED"]


async def test_a_report_the_api_rejects_makes_the_job_fail_and_says_so(stage: Stage) -> None:
    run = await hashed(stage, 2)
    stage.api.answer = refusing(ApiRejected("422", status=422), "set_hash", file_id="1")

    await delivered(stage)

    assert (await run_now(stage, run)).state is RunState.FAILED
    (closing,) = [call for call in stage.api.made("create_message") if call.what["file_id"] is None]
    assert "1 reports not accepted: api.rejected 1" in closing.what["text"]
    assert (closing.what["type"], stage.api.calls[-1].what["status"]) == ("ERROR", "FAILED")


async def test_a_report_nobody_took_for_so_long_is_given_up_and_the_job_ends(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, report_give_up_after_s=-1.0)) as stage:
        run = await hashed(stage, 1)
        stage.api.answer = refusing(ApiUnavailable("500"), "set_hash")

        await delivered(stage)

        assert (await run_now(stage, run)).error_class == "api.unavailable"


async def test_a_crash_between_the_answer_and_its_mark_sends_again_with_the_same_key(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    run = await hashed(stage, 1)
    taken = stage.tools.ledger.write_now(outbox.take, run.run_id)  # ...sent, and then the sender dies

    with caplog.at_level(logging.WARNING, "hashmill.flow.send"):
        await delivered(stage)

    assert [record.__dict__["seq"] for record in caplog.records if record.message == "report_uncertain"] == [
        report.seq for report in taken
    ]
    assert (await run_now(stage, run)).state is RunState.COMPLETED


async def test_a_sender_that_is_stopped_marks_what_was_sent_and_gives_the_rest_back(stage: Stage) -> None:
    run = await hashed(stage, 8)
    (running,) = stage.tools.ledger.write_now(outbox.take, run.run_id)
    stage.tools.ledger.write_now(outbox.mark, run.run_id, sent=[running.seq])
    hold = asyncio.Event()

    async def only_two() -> None:
        if len(stage.api.made("create_message")) >= 2:
            await hold.wait()

    stage.api.answer = lambda call: only_two()
    sender = Deliverer()
    await sender.round(stage.tools)
    await wait_until_async(lambda: len(stage.api.made("create_message")) >= 2)

    await sender.stop()
    again = stage.tools.ledger.write_now(outbox.take, run.run_id, limit=1000)

    # Those under way were perhaps carried out; the others surely not.
    assert 0 < len([report for report in again if report.uncertain]) <= stage.tools.rules.report_concurrency
    assert len(again) == 16 - len(stage.api.made("create_message", "set_hash"))


async def test_runs_of_an_api_that_is_away_pause_together_and_those_of_another_go_on(stage: Stage) -> None:
    away = [await hashed(stage, 1, start=number, job_id="away") for number in range(1, 6)]
    there = await hashed(stage, 1, start=9, api_url=OTHER_ORIGIN)
    tried: list[Call] = []

    def answer(call: Call) -> None:
        if call.url != OTHER_ORIGIN:
            tried.append(call)
            raise ApiUnavailable("503", retry_after_s=3600)

    stage.api.answer = answer
    sender = Deliverer()
    await wait_until_async(lambda: _round(sender, stage, there, RunState.COMPLETED), timeout_s=4)
    for _ in range(10):
        await sender.round(stage.tools)

    assert len(tried) <= len(away)
    assert {(await run_now(stage, run)).state for run in away} == {RunState.SETTLED}


async def test_an_outage_of_one_api_with_many_runs_does_not_hide_the_runs_of_another(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "LOOK", 4)
    for number in range(1, 10):
        await hashed(stage, 1, start=number)
    there = await hashed(stage, 1, start=20, api_url=OTHER_ORIGIN)

    def answer(call: Call) -> None:
        if call.url != OTHER_ORIGIN:
            raise ApiUnavailable("503", retry_after_s=3600)

    stage.api.answer = answer
    sender = Deliverer()

    await wait_until_async(lambda: _round(sender, stage, there, RunState.COMPLETED), timeout_s=4)


async def test_runs_whose_reports_are_not_due_do_not_keep_the_places_of_others(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(RULES, report_runs=2)) as stage:
        for number in range(1, 4):
            waiting = await hashed(stage, 1, start=number)
            (first,) = stage.tools.ledger.write_now(outbox.take, waiting.run_id)
            late = outbox.Postponed(seq=first.seq, after_s=3600, error_class="api.unavailable", detail="")  # type: ignore[arg-type]
            stage.tools.ledger.write_now(outbox.mark, waiting.run_id, postponed=[late])
        due = await hashed(stage, 1, start=9)
        sender = Deliverer()

        await wait_until_async(lambda: _round(sender, stage, due, RunState.COMPLETED), timeout_s=4)


async def test_a_run_with_endless_reports_leaves_the_place_to_others_in_turn(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "TURN_S", 0.05)
    with staged(ledger, rules=replace(RULES, report_runs=1)) as stage:
        endless = await hashed(stage, 1)
        small = await hashed(stage, 1, start=9)

        async def one_more(call: Call) -> None:
            if call.what.get("job_id") == "299" and call.name == "create_message":
                more = [words.message("more")]
                await stage.tools.ledger.write(outbox.owe, endless.run_id, more, shard=0)

        stage.api.answer = one_more
        sender = Deliverer()
        sent = lambda: [call for call in stage.api.made("set_hash") if call.what["file_id"] == "9"]  # noqa: E731

        async def round_() -> bool:
            await sender.round(stage.tools)
            return bool(sent())

        await wait_until_async(round_, timeout_s=4)
        await sender.stop()
        assert (await run_now(stage, small)).outbox_owed == 0


async def test_a_bug_over_one_report_stops_no_other_and_the_job_ends_all_the_same(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with staged(ledger, rules=replace(RULES, report_give_up_after_s=0.3)) as stage:
        broken = await hashed(stage, 3)
        stage.api.answer = refusing(ZeroDivisionError("a bug"), "set_hash", file_id="2")
        sender = Deliverer()

        with caplog.at_level(logging.ERROR, "hashmill.flow.send"):
            await wait_until_async(lambda: _round(sender, stage, broken, RunState.FAILED), timeout_s=4)

        assert "report_bug" in [record.message for record in caplog.records]
        assert len(stage.api.made("set_hash")) == 2
        assert (await run_now(stage, broken)).error_class == "internal"


async def test_a_bug_over_one_run_does_not_stop_the_reports_of_another(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    broken = await hashed(stage, 1, job_id="1")
    whole = await hashed(stage, 1, start=9, job_id="2")
    stage.tools.ledger.write_now(
        lambda connection: connection.execute(
            sa.text("UPDATE outbox SET body = '{' WHERE run_id = :run_id"), {"run_id": broken.run_id}
        )
    )
    sender = Deliverer()

    with caplog.at_level(logging.ERROR, "hashmill.flow.deliver"):
        await wait_until_async(lambda: _round(sender, stage, whole, RunState.COMPLETED), timeout_s=4)
        for _ in range(5):
            await sender.round(stage.tools)

    assert len([record for record in caplog.records if record.message == "delivery_bug"]) == 1
    assert (await run_now(stage, broken)).outbox_owed > 0


async def test_a_sender_whose_lease_may_be_over_sends_nothing_more(stage: Stage) -> None:
    """A process that slept past its lease must not set a job to RUNNING that its heir has ended."""
    await hashed(stage, 1)
    sender = Deliverer(held=lambda: False)

    await sender.round(stage.tools)
    await asyncio.gather(*sender.at_work.values())

    assert stage.api.made("set_job_status", "create_message", "set_hash") == []


async def test_wiped_keys_set_the_reports_aside_and_an_origin_no_longer_listed_lets_them_wait(ledger: Ledger) -> None:
    with staged(ledger) as stage:
        wiped, unlisted = await hashed(stage, 1), await hashed(stage, 1, start=2, api_url=OTHER_ORIGIN)
        stage.tools.ledger.write_now(seal.wipe, wiped.run_id)
        unlisting = replace(RULES, allowed_origins=RULES.allowed_origins - {OTHER_ORIGIN})
        rules = replace(unlisting, report_base_s=3600.0, report_cap_s=3600.0)
        with staged(ledger, rules=rules, sealer=stage.tools.sealer) as later:
            await delivered(later)

            assert (await run_now(later, wiped)).error_class == "secret_expired"
            waits = await run_now(later, unlisted)
            assert (waits.state, waits.outbox_dead) == (RunState.SETTLED, 0)
            assert later.api.calls == []
        impatient = replace(rules, report_give_up_after_s=-1.0)
        ledger.write_now(lambda connection: connection.execute(sa.text("UPDATE outbox SET next_at_ms = 0")))
        with staged(ledger, rules=impatient, sealer=stage.tools.sealer) as latest:
            await delivered(latest)
            ledger.write_now(lambda connection: connection.execute(sa.text("UPDATE outbox SET next_at_ms = 0")))
            await delivered(latest)
            assert (await run_now(latest, unlisted)).error_class == "config"


async def test_a_run_that_is_not_expanded_yet_has_told_running_already(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    hold = asyncio.Event()
    stage.api.answer = lambda call: hold.wait() if call.name == "get_file" else None
    expanding = asyncio.create_task(expand(stage.tools, run.run_id))
    sender = Deliverer()

    async def told() -> bool:
        await sender.round(stage.tools)
        return bool(stage.api.made("set_job_status"))

    await wait_until_async(told, timeout_s=4)
    expanding.cancel()
    with suppress(asyncio.CancelledError):
        await expanding


async def test_an_api_that_failed_and_now_hangs_keeps_one_place_only(ledger: Ledger) -> None:
    """One run asks whether it is back; the others wait without keeping the places of another API's runs."""
    with staged(ledger, rules=replace(RULES, report_runs=2, report_base_s=0.001)) as stage:
        for number in range(1, 6):
            await hashed(stage, 1, start=number)
        refused: list[Call] = []
        hanging = asyncio.Event()

        async def answer(call: Call) -> None:
            if call.url == OTHER_ORIGIN:
                return
            if len(refused) < 2:
                refused.append(call)
                raise ApiUnavailable("503")
            hanging.set()
            await asyncio.Event().wait()

        stage.api.answer = answer
        sender = Deliverer()

        async def hangs() -> bool:
            await sender.round(stage.tools)
            return hanging.is_set()

        await wait_until_async(hangs, timeout_s=4)
        there = await hashed(stage, 1, start=9, api_url=OTHER_ORIGIN)
        await wait_until_async(lambda: _round(sender, stage, there, RunState.COMPLETED), timeout_s=4)
        await sender.stop()
