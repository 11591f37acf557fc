"""Laws of waiting."""

from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.pause import jittered


@given(attempt=st.integers(0, 10_000), base_s=st.floats(0, 1e3), cap_s=st.floats(0, 1e4))
def test_a_pause_is_between_nothing_and_what_the_attempt_and_the_cap_allow(
    attempt: int, base_s: float, cap_s: float
) -> None:
    assert 0 <= jittered(attempt, base_s=base_s, cap_s=cap_s) <= min(cap_s, base_s * 2.0 ** min(attempt, 60))


def test_many_who_wait_alike_do_not_come_back_together() -> None:
    pauses = sorted(jittered(3, base_s=1.0, cap_s=300.0) for _ in range(2000))

    assert len(set(pauses)) > 1990
    assert pauses[0] < 0.5
    assert 7.5 < pauses[-1] <= 8.0
    assert 3.5 < sum(pauses) / 2000 < 4.5
