"""An S3 server that is away costs time; only what is wrong with the object costs an attempt."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hashmill.domain.errors import SigningRefused, StorageThrottled, StorageTimeout
from hashmill.flow import endpoints
from hashmill.flow.hash_files import hash_files
from hashmill.flow.tools import ObjectPlace
from hashmill.ledger import files
from hashmill.ledger.files import FileRow
from hashmill.ledger.runs import Run
from hashmill.storage.config import StorageConfig
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
        ("BUSY_PAUSE_S", (0.0, 0.0)),
    ):
        monkeypatch.setattr(endpoints, name, value)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as ledger, staged(ledger) as opened:
        yield opened


class Clock:
    """The machine's, which a test may put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(stage: Stage) -> Clock:
    clock = Clock()
    stage.tools = replace(stage.tools, clock_s=clock)
    return clock


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


async def test_refused_keys_cost_no_attempt_and_say_what_to_do_and_take_few_files(stage: Stage) -> None:
    run = await listed(stage, 300)
    stage.storage.away = SigningRefused("s3.secret_access_key is refused")  # so is a clock that is off
    await one_turn(stage)
    tried = stage.storage.tried
    assert tried <= 64  # those under way when the first of them heard of it

    for _ in range(RULES.attempts_max):
        await one_turn(stage)
    found = {(row.state, row.attempts, row.error_class, row.error_detail) for row in rows(stage, run)}
    assert found == {("ready", 0, "config", "s3.secret_access_key is refused")}
    assert stage.storage.tried == tried

    stage.storage.away = False
    await one_turn(stage)

    assert {(row.state, row.attempts) for row in rows(stage, run)} == {("done", 1)}


async def test_keys_that_are_refused_for_one_object_alone_are_its_own_trouble(stage: Stage) -> None:
    run = await listed(stage, 1)
    stage.storage.objects["dir/1.bin"] = SigningRefused("a proxy rewrites this path")

    for _ in range(RULES.attempts_max):
        await one_turn(stage)

    (row,) = rows(stage, run)
    assert (row.state, row.error_class) == ("failed", "config")


def test_keys_that_a_server_refuses_hold_nobody_up_who_comes_with_others(stage: Stage) -> None:
    mine, theirs = (
        ObjectPlace(config=StorageConfig(access_key_id=key), bucket="bucket", key="key") for key in ("MINE", "THEIRS")
    )
    endpoints.endpoint_of(stage.tools, mine).was_away(stage.tools.clock_s())

    assert not endpoints.endpoint_of(stage.tools, theirs).away


async def test_a_server_that_does_not_answer_the_question_but_reads_is_found_by_one_scout(
    stage: Stage, clock: Clock
) -> None:
    run = await listed(stage, 8)
    stage.storage.away = True
    await one_turn(stage)
    stage.storage.mute = True

    tried = stage.storage.tried
    await one_turn(stage)
    assert stage.storage.tried == tried  # it is too soon
    clock.ahead_s += endpoints.SCOUT_EVERY_S
    await one_turn(stage)
    assert stage.storage.tried == tried + 1
    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("ready", 0)] * 8

    stage.storage.away = False
    stage.storage.read_gate = asyncio.Event()
    clock.ahead_s += endpoints.SCOUT_EVERY_S
    working = asyncio.create_task(one_turn(stage))
    await wait_until_async(lambda: [row.state for row in rows(stage, run)].count("ready") == 7)
    assert stage.storage.tried == tried + 2
    stage.storage.read_gate.set()
    await working
    await one_turn(stage)

    assert [row.state for row in rows(stage, run)] == ["done"] * 8


async def test_a_prefix_that_is_busy_costs_no_attempt_for_minutes_and_an_object_that_stays_so_fails(
    stage: Stage, clock: Clock
) -> None:
    run = await listed(stage, 2)
    good = stage.storage.objects["dir/1.bin"]
    stage.storage.objects |= dict.fromkeys(("dir/1.bin", "dir/2.bin"), StorageThrottled("SlowDown"))
    for _ in range(RULES.attempts_max + 1):
        await one_turn(stage)
    stage.storage.objects["dir/1.bin"] = good
    for _ in range(RULES.attempts_max + 1):  # that another is served meanwhile makes no difference
        await one_turn(stage)
    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("done", 1), ("ready", 0)]

    for _ in range(2):
        clock.ahead_s += endpoints.BUSY_S / 2
        await one_turn(stage)
    for _ in range(RULES.attempts_max - 1):
        await one_turn(stage)

    row = rows(stage, run)[1]
    assert (row.state, row.attempts, row.error_class) == ("failed", RULES.attempts_max, "s3.throttled")


async def test_a_server_that_is_busy_for_the_question_too_is_waited_for(stage: Stage, clock: Clock) -> None:
    run = await listed(stage, 2)
    stage.storage.away = StorageThrottled("SlowDown")
    await one_turn(stage)
    clock.ahead_s += endpoints.BUSY_S
    for _ in range(RULES.attempts_max + 1):
        await one_turn(stage)

    assert [(row.state, row.attempts) for row in rows(stage, run)] == [("ready", 0)] * 2


async def test_an_outage_nobody_waits_for_any_longer_fails_the_files(stage: Stage) -> None:
    stage = replace(stage, tools=replace(stage.tools, rules=replace(RULES, outage_give_up_after_s=0.3)))
    run = await listed(stage, 2)
    stage.storage.away = True

    async def ended() -> bool:
        await one_turn(stage)
        return (await run_now(stage, run)).files_open == 0

    await wait_until_async(ended, timeout_s=20)

    assert [(row.state, row.error_class) for row in rows(stage, run)] == [("failed", "s3.timeout")] * 2
