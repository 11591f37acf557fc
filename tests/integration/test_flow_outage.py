"""An S3 server that is away costs time; only what is wrong with the object costs an attempt."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hashmill.domain.errors import SigningRefused, StorageThrottled, StorageTimeout
from hashmill.flow import endpoints
from hashmill.flow.hash_files import hash_files
from hashmill.ledger import files
from hashmill.ledger.files import FileRow
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until_async


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PAUSE_S", (0.0, 0.0)),
        ("BACK_PAUSE_S", (0.0, 0.0)),
        ("WAIT_S", 0.2),
        ("PROBE_EVERY_S", 0.05),
    ):
        monkeypatch.setattr(endpoints, name, value)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as ledger, staged(ledger) as opened:
        yield opened


def rows(stage: Stage, run: Run) -> list[FileRow]:
    return stage.tools.ledger.read_now(files.of_run, run.run_id)


async def one_turn(stage: Stage) -> None:
    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)


async def test_a_server_that_is_away_costs_no_attempt_however_often_it_is_tried(stage: Stage) -> None:
    run = await listed(stage, 4)
    stage.storage.away = True

    for _ in range(RULES.attempts_max + 1):
        await one_turn(stage)
    assert [(row.state, row.attempts, row.error_class) for row in rows(stage, run)] == [("ready", 0, "s3.timeout")] * 4

    stage.storage.away = False
    await one_turn(stage)

    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("done", 1)] * 4


async def test_a_ticket_waits_for_a_server_known_to_be_away_and_goes_on_when_it_is_back(stage: Stage) -> None:
    run = await listed(stage, 64)
    stage.storage.away = True
    await one_turn(stage)
    asked = stage.storage.asked
    assert asked <= 3  # those who failed together asked together

    working = asyncio.create_task(one_turn(stage))
    await wait_until_async(lambda: stage.storage.asked > asked)
    stage.storage.away = False
    await working

    assert {row.state for row in rows(stage, run)} == {"done"}
    assert stage.storage.asked <= asked + 5


async def test_an_object_that_does_not_come_from_a_server_that_answers_uses_up_its_attempts(stage: Stage) -> None:
    run = await listed(stage, 1)
    stage.storage.objects["dir/1.bin"] = StorageTimeout("nothing came")

    for _ in range(RULES.attempts_max):
        await one_turn(stage)

    (row,) = rows(stage, run)
    assert (row.state, row.attempts, row.error_class) == ("failed", RULES.attempts_max, "s3.timeout")


async def test_a_worker_whose_clock_is_wrong_costs_no_attempt_and_says_so_and_takes_few_files(stage: Stage) -> None:
    run = await listed(stage, 2)
    good = {key: stage.storage.objects[key] for key in ("dir/1.bin", "dir/2.bin")}
    stage.storage.objects |= dict.fromkeys(good, SigningRefused("this machine's clock is off; set it"))
    await one_turn(stage)
    stage.storage.away = True  # as it is for this machine
    for _ in range(RULES.attempts_max):
        await one_turn(stage)
    found = [(row.state, row.attempts, row.error_class, row.error_detail) for row in rows(stage, run)]
    assert found == [("ready", 0, "config", "this machine's clock is off; set it")] * 2

    stage.storage.objects |= good
    stage.storage.away = False
    await one_turn(stage)

    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("done", 1)] * 2


async def test_a_server_that_is_busy_for_everybody_costs_no_attempt_and_for_one_alone_it_does(stage: Stage) -> None:
    busy = StorageThrottled("SlowDown")
    run = await listed(stage, 2)
    good = stage.storage.objects["dir/1.bin"]
    stage.storage.objects |= {"dir/1.bin": busy, "dir/2.bin": busy}
    for _ in range(RULES.attempts_max + 1):
        await one_turn(stage)
    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("ready", 0)] * 2

    def busy_while_another_is_served() -> bytes:
        stage.tools.endpoints["us-east-1"].was_served(stage.tools.clock_s())
        raise busy

    stage.storage.objects |= {"dir/1.bin": good, "dir/2.bin": busy_while_another_is_served}
    await one_turn(stage)

    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("done", 1), ("ready", 1)]


async def test_an_outage_nobody_waits_for_any_longer_fails_the_files(stage: Stage) -> None:
    stage = replace(stage, tools=replace(stage.tools, rules=replace(RULES, outage_give_up_after_s=0.3)))
    run = await listed(stage, 2)
    stage.storage.away = True

    async def ended() -> bool:
        await one_turn(stage)
        return (await run_now(stage, run)).files_open == 0

    await wait_until_async(ended, timeout_s=20)

    assert [(row.state, row.error_class) for row in rows(stage, run)] == [("failed", "s3.timeout")] * 2
