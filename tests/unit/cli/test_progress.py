"""Following a run: how fast, how long, what is shown, and when it is over."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.cli.progress import Speed, Standing, conclusion, follow, shown
from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.job import RunState

START = Standing(
    run_id="0198",
    state=RunState.RUNNING,
    files_total=10,
    files_done=0,
    files_failed=0,
    bytes_total=10_000,
    bytes_done=0,
    reports_owed=0,
)


def at(files: int, *, state: RunState = RunState.RUNNING) -> Standing:
    return replace(START, files_done=files, bytes_done=files * 1000, state=state)


def looks(*standings: Standing | Exception) -> Iterator[Standing | Exception]:
    return iter(standings)


async def followed(*standings: Standing | Exception, patience_s: float = 60.0) -> tuple[Standing, list[Standing]]:
    coming, seen = looks(*standings), []

    async def look() -> Standing:
        match next(coming):
            case Standing() as now:
                return now
            case Exception() as error:
                raise error

    last = await follow(look, lambda now, _: seen.append(now), every_s=0.0, patience_s=patience_s)
    return last, seen


async def test_a_run_is_followed_until_it_has_ended() -> None:
    last, seen = await followed(at(0), at(5), at(10, state=RunState.COMPLETED), at(10))

    assert last.state is RunState.COMPLETED
    assert [now.files_done for now in seen] == [0, 5, 10]


async def test_a_ledger_that_is_away_for_a_moment_is_waited_for() -> None:
    last, _ = await followed(at(1), LedgerUnavailable("away"), at(10, state=RunState.FAILED))

    assert last.state is RunState.FAILED


async def test_a_ledger_that_stays_away_ends_the_watch_with_its_own_error() -> None:
    with pytest.raises(LedgerUnavailable):
        await followed(at(1), LedgerUnavailable("away"), patience_s=-1.0)


def test_the_rate_is_that_of_the_last_seconds_only() -> None:
    speed = Speed(over_s=10.0)
    for second, files in ((0, 0), (100, 1), (105, 3), (110, 5)):
        speed.see(float(second), at(files))

    assert speed.bytes_per_s == pytest.approx(400.0)
    assert speed.left_s(at(5)) == pytest.approx(5000 / 400)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30))
def test_rate_and_rest_are_never_negative_whatever_a_replay_takes_back(counts: list[int]) -> None:
    speed = Speed()
    for second, files in enumerate(counts):
        speed.see(float(second), at(files))

    assert speed.bytes_per_s >= 0
    assert (speed.left_s(at(counts[-1])) or 0) >= 0


def test_json_lines_say_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    speed = Speed()
    with shown(as_json=True) as show:
        for now in (at(1), at(1), at(2, state=RunState.COMPLETED)):
            show(now, speed)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["files_done"], line["state"]) for line in lines] == [(1, "running"), (2, "completed")]


def test_without_a_terminal_each_change_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(as_json=False) as show:
        show(at(4), Speed())

    assert capsys.readouterr().out == "running: 4 of 10 files, 3.9 KiB of 9.8 KiB, 0 B/s\n"


def test_the_last_line_names_what_went_wrong_and_where_to_look() -> None:
    failed = replace(at(9, state=RunState.FAILED), error_class="s3.not_found", error_detail="1 files\ngone")

    assert conclusion(failed) == "run 0198 failed: s3.not_found: 1 files gone; see `hashmill runs show 0198`"
