from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.job import RunState
from hashmill.intake.eta import eta_s
from hashmill.ledger.runs import Run

COUNTS = st.integers(0, 10**6)


def run(**changes: Any) -> Run:
    values: dict[str, Any] = dict.fromkeys(Run.__slots__, 0)
    values.update(
        state=RunState.RUNNING, files_total=10, files_open=5, bytes_total=1000, bytes_done=500, created_at_ms=0
    )
    return Run(**{**values, **changes})


def test_half_of_the_work_takes_as_long_as_the_other_half() -> None:
    assert eta_s(run(), 60_000) == 60.0


def test_the_slower_of_files_and_bytes_decides() -> None:
    assert eta_s(run(files_open=1, bytes_done=100), 60_000) == 540.0
    assert eta_s(run(files_open=9, bytes_done=900), 60_000) == 540.0


def test_files_alone_decide_when_sizes_were_not_known() -> None:
    assert eta_s(run(bytes_total=0, bytes_done=700), 60_000) == 60.0


@pytest.mark.parametrize(
    "changes",
    [{"state": state} for state in RunState if state is not RunState.RUNNING]
    + [{"files_open": 10}, {"files_open": 0}, {"files_total": 0, "files_open": 0}, {"generation": 1}],
)
def test_nobody_can_say_before_a_file_ended_nor_after_the_last_nor_after_a_replay(changes: dict[str, Any]) -> None:
    assert eta_s(run(**changes), 60_000) is None


@given(total=COUNTS, ended=COUNTS, size=COUNTS, done=COUNTS, now=st.integers(-1000, 10**12))
def test_it_is_never_negative_whatever_the_counters_say(total: int, ended: int, size: int, done: int, now: int) -> None:
    left = eta_s(
        run(files_total=max(total, ended), files_open=max(total, ended) - ended, bytes_total=size, bytes_done=done), now
    )

    assert left is None or left >= 0
