"""Suspects are read apart: what ends that process is guilty, and bad luck condemns nobody."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hashmill.domain.errors import ApiUnavailable, HashmillError, ObjectForbidden, ObjectTruncated, StorageTimeout
from hashmill.domain.job import RunState
from hashmill.flow import hash_files as hash_files_step
from hashmill.flow import hash_one as hash_one_step
from hashmill.flow import trial as trial_step
from hashmill.flow.hash_files import hash_files
from hashmill.flow.hash_one import hash_one
from hashmill.flow.sweep import sweep
from hashmill.flow.trial import Fault, Trial
from hashmill.ledger import files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.files import FileRow
from hashmill.ledger.runs import Run
from hashmill.settings import reading_environment
from tests.helpers.fakes import RULES, Stage, dispatched, listed, run_now, staged
from tests.helpers.ledger import claim, fresh_ledger, lapse
from tests.helpers.wait import wait_until_async

APART = """
import json, os, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", flush=True)
for line in sys.stdin:
    question = json.loads(line)
    file = question["file"]
    answer = {"outcome": {"file_no": file["file_no"], "fence": file["fence"], "state": "done", "size_bytes": 10,
        "digests": {"md5": "00"}, "verdict": "no_baseline", "entry": {"read_for": question["process"]}}}
    match file["path"]:
        case "dir/2.bin" if "guilty" in sys.argv:
            os.kill(os.getpid(), 9)
        case "dir/2.bin" if "gibbers" in sys.argv:
            answer = {"outcome": "fine"}
        case "dir/2.bin" if "refused" in sys.argv:
            answer = {"fault": {"name": "ObjectForbidden", "said": "no"}}
        case "dir/2.bin" if "bug" in sys.argv:
            answer = {"fault": {"name": "ZeroDivisionError", "said": "ZeroDivisionError: a bug"}}
        case "dir/2.bin" if "drains" in sys.argv:
            signal.sigwait([signal.SIGUSR1])
        case "dir/2.bin" if "slow" in sys.argv:
            time.sleep(600)
        case "dir/2.bin" if "beats" in sys.argv:
            for _ in range(20):
                print(flush=True)
                time.sleep(0.1)
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_files_step, "SUSPECT_PAUSE_S", (0.0, 0.2))
    monkeypatch.setattr(hash_one_step, "AGAIN_S", (0.0, 0.1))
    monkeypatch.setattr(trial_step, "REST_S", 0.1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
async def stage(ledger: Ledger, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """A process whose trial does with file 2 what the parameter says."""
    trial = Trial([sys.executable, "-c", APART, getattr(request, "param", "innocent")])
    with staged(ledger) as opened:
        yield replace(opened, tools=replace(opened.tools, trial=trial))
    await trial.stop()


async def lost_together(stage: Stage, count: int, *, times: int = 1) -> Run:
    """Return a run whose files have all lost their leases so often, each time with a process that was killed."""
    run = await listed(stage, count)
    for time in range(times):
        for ticket in await dispatched(stage):
            claim(stage.tools.ledger, ticket, owner=f"killed{time}/1")
        lapse(stage.tools.ledger, run)
        assert (await sweep(stage.tools))["poison"] == 0
    return run


async def worked_off(stage: Stage, run: Run) -> list[FileRow]:
    async def ended() -> bool:
        for ticket in await dispatched(stage):
            await hash_files(stage.tools, ticket)
        return (await run_now(stage, run)).files_open == 0

    await wait_until_async(ended, timeout_s=20)
    return stage.tools.ledger.read_now(files.of_run, run.run_id)


async def test_a_file_that_was_only_beside_it_whenever_a_worker_was_killed_is_hashed_all_the_same(
    stage: Stage,
) -> None:
    run = await lost_together(stage, 3, times=RULES.lost_leases_max + 2)

    rows = await worked_off(stage, run)

    assert [(row.state, row.attempts) for row in rows] == [("done", 1)] * 3
    assert (await run_now(stage, run)).state is RunState.SETTLED


@pytest.mark.parametrize("stage", ["guilty", "gibbers"], indirect=True)
async def test_a_file_that_ends_the_process_it_is_tried_in_is_poison_and_the_others_are_hashed(stage: Stage) -> None:
    run = await lost_together(stage, 3)

    rows = await worked_off(stage, run)

    assert [(row.state, row.error_class) for row in rows] == [("done", None), ("dead", "poison"), ("done", None)]
    said = rows[1].error_detail or ""
    assert "lost its lease 1 times, and ended the process it was tried in 2 times" in said
    assert "signal 9 (Killed)" in said or "its answer made no sense" in said


@pytest.mark.parametrize("stage", ["guilty"], indirect=True)
async def test_between_two_ends_there_is_time_for_a_neighbour_to_give_memory_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep, slept = asyncio.sleep, []

    async def noted(delay_s: float) -> None:
        slept.append(delay_s)
        await sleep(0 if delay_s == 7.25 else delay_s)

    monkeypatch.setattr(hash_one_step, "AGAIN_S", (7.25, 7.25))
    monkeypatch.setattr(asyncio, "sleep", noted)
    run = await lost_together(stage, 3)

    rows = await worked_off(stage, run)

    assert "ended the process it was tried in 2 times" in (rows[1].error_detail or "")
    assert slept.count(7.25) == 1


async def test_a_process_that_died_before_it_was_given_a_file_is_not_that_files_fault(stage: Stage) -> None:
    run = await lost_together(stage, 1, times=RULES.lost_leases_max)
    (ticket,) = await dispatched(stage)
    (file,) = claim(stage.tools.ledger, ticket, owner="w/1")
    trial = stage.tools.trial
    assert trial is not None
    await (trial.warm_up() or asyncio.sleep(0))
    assert trial._process is not None

    os.kill(trial._process.pid, signal.SIGKILL)  # nothing is awaited before the trial: its end is no news yet
    outcome = await hash_one(stage.tools, run, file)

    assert (outcome.state, outcome.counted) == ("ready", False)
    assert (await hash_one(stage.tools, run, file)).state == "done"


@pytest.mark.parametrize("stage", ["slow"], indirect=True)
async def test_a_file_that_makes_its_process_hang_is_poison_too_as_nobody_else_would_end_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_step, "SILENCE_S", 1.0, raising=False)
    run = await lost_together(stage, 3)

    async with asyncio.timeout(30):
        rows = await worked_off(stage, run)

    assert [(row.state, row.error_class) for row in rows] == [("done", None), ("dead", "poison"), ("done", None)]
    assert "silence for 1 s" in (rows[1].error_detail or "")


@pytest.mark.parametrize("stage", ["beats"], indirect=True)
async def test_a_trial_that_takes_long_and_says_that_it_goes_on_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_step, "SILENCE_S", 1.0, raising=False)
    run = await lost_together(stage, 3)

    rows = await worked_off(stage, run)

    assert [(row.state, row.attempts) for row in rows] == [("done", 1)] * 3


@pytest.mark.parametrize("stage", ["drains"], indirect=True)
async def test_a_worker_that_is_told_to_stop_tells_its_trial(stage: Stage) -> None:
    """The process waits for the signal before it answers; without it the file would be silent, and poison."""
    run = await lost_together(stage, 3)
    trial = stage.tools.trial
    assert trial is not None
    trial.drain()  # nobody is there yet
    await (trial.warm_up() or asyncio.sleep(0))

    working = asyncio.create_task(worked_off(stage, run))
    trial.drain()

    assert [row.state for row in await working] == ["done"] * 3


@pytest.mark.parametrize(
    ("stage", "state", "error_class"),
    [("refused", "failed", "s3.forbidden"), ("bug", "failed", "internal")],
    indirect=["stage"],
)
async def test_what_the_trial_says_of_a_file_counts_as_if_it_had_been_read_here(
    stage: Stage, state: str, error_class: str
) -> None:
    run = await lost_together(stage, 3)

    rows = await worked_off(stage, run)

    assert [(row.state, row.error_class) for row in rows][1] == (state, error_class)
    assert [row.state for row in rows] == ["done", state, "done"]


@pytest.mark.parametrize("stage", ["slow"], indirect=True)
async def test_a_drained_worker_ends_the_trial_and_gives_its_file_back_uncounted(stage: Stage) -> None:
    run = await lost_together(stage, 3)
    trial = stage.tools.trial
    assert trial is not None
    await (trial.warm_up() or asyncio.sleep(0))
    process = trial._process
    assert process is not None
    (ticket,) = await dispatched(stage)
    work = asyncio.create_task(hash_files(stage.tools, ticket))
    await wait_until_async(lambda: stage.tools.ledger.read_now(files.count_by_state, run.run_id).get("done") == 1)

    work.cancel()
    with suppress(asyncio.CancelledError):
        await work

    rows = stage.tools.ledger.read_now(files.of_run, run.run_id)
    assert sorted((row.state, row.attempts) for row in rows) == [("done", 1), ("ready", 0), ("ready", 0)]
    assert process.returncode == -9
    assert not trial.ready


@pytest.mark.parametrize("argv", [[sys.executable, "-c", "raise SystemExit(1)"], ["/nowhere/python"]])
async def test_no_file_is_blamed_for_a_trial_that_cannot_begin(ledger: Ledger, argv: list[str]) -> None:
    trial = Trial(argv)
    with staged(ledger) as opened:
        stage = replace(opened, tools=replace(opened.tools, trial=trial))
        run = await lost_together(stage, 2)
        (ticket,) = await dispatched(stage)

        await hash_files(stage.tools, ticket)

        rows = ledger.read_now(files.of_run, run.run_id)
        assert [(row.state, row.attempts) for row in rows] == [("ready", 0)] * 2
        assert trial._starting is not None
        await asyncio.wait([trial._starting])
        assert trial._starting.exception() is None
        await trial.stop()


@pytest.mark.parametrize(
    "error",
    [
        StorageTimeout("slow", retry_after_s=3),
        ObjectForbidden("no"),
        ObjectTruncated("key", expected_bytes=2, received_bytes=1),
        ApiUnavailable("away"),
    ],
)
def test_an_error_comes_out_of_the_trial_as_it_went_in(error: HashmillError) -> None:
    back = Fault.of(error).error()

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "retry_after_s", None) == getattr(error, "retry_after_s", None)


async def test_the_trial_is_not_told_the_keys_of_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HASHMILL_SECRETS__SEAL_KEY", "HASHMILL_LEDGER__URL", "hashmill_broker__url"):
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("HASHMILL_S3__SECRET_ACCESS_KEY", "needed")
    told = tmp_path / "environment"
    telling = (
        "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ))); print('ready'); input()"
    )
    trial = Trial([sys.executable, "-uc", telling, str(told)], environ=reading_environment())
    try:
        starting = trial.warm_up()
        assert starting is not None
        await starting
        environment = json.loads(told.read_text())
    finally:
        await trial.stop()

    assert environment["HASHMILL_S3__SECRET_ACCESS_KEY"] == "needed"
    assert "a secret" not in environment.values()
