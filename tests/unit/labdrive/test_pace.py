import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.labdrive.pace import RETRY_AFTER_MAX_S, Pace, retry_after_s

PACE = Pace(
    connect_timeout_s=1.0, timeout_s=1.0, answer_max_bytes=1024, attempts=3, backoff_base_s=1.0, backoff_cap_s=5.0
)


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("0.5", 0.5),
        (" 7 ", 7.0),
        ("999999999", RETRY_AFTER_MAX_S),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, pause_s: float | None) -> None:
    assert retry_after_s(header, now=1445412480.0) == pause_s


@given(st.text())
def test_any_retry_after_is_a_pause_within_bounds_or_nothing(header: str) -> None:
    pause_s = retry_after_s(header)

    assert pause_s is None or 0 <= pause_s <= RETRY_AFTER_MAX_S


@given(st.integers(1, 2), st.none() | st.floats(0, 5))
def test_a_pause_is_never_shorter_than_asked_nor_longer_than_the_cap(failed: int, asked_s: float | None) -> None:
    pause_s = PACE.pause_s(failed, retry_after_s=asked_s)

    assert pause_s is not None
    assert (asked_s or 0) <= pause_s <= 5.0


def test_after_the_last_try_there_is_no_pause() -> None:
    assert PACE.pause_s(3, retry_after_s=None) is None


def test_a_pause_longer_than_the_cap_is_left_to_the_caller() -> None:
    assert PACE.pause_s(1, retry_after_s=5.1) is None
