"""When a breaker shuts, how long, and what it takes to open it."""

from hypothesis import given
from hypothesis import strategies as st

from hashmill.flow.gates import FAILURES_MAX, RETRIES_PER_S, RETRIES_SAVED_MAX, Breaker
from hashmill.ledger.gates import GateKind


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def breaker(clock: Clock, *, cap_s: float = 20.0) -> Breaker:
    return Breaker("http://there", GateKind.API, 0.5, cap_s, clock)


def test_failures_shut_it_only_in_a_row() -> None:
    api = breaker(Clock())
    for _ in range(10):
        for _ in range(FAILURES_MAX - 1):
            api.failed("500", trial=False)
        api.took(trial=False)
    assert not api.shut

    for _ in range(FAILURES_MAX):
        api.failed("500", trial=False)
    assert api.shut


def test_a_pause_that_is_asked_for_shuts_it_at_once_and_is_kept() -> None:
    clock = Clock()
    api = breaker(clock)

    api.failed("429", trial=False, asked_s=7.0)

    assert api.shut
    clock.now_s = 6.9
    assert not api.due
    clock.now_s = 7.1
    assert api.due


def test_only_the_call_that_tries_opens_it() -> None:
    api = breaker(Clock())
    api.failed("429", trial=False, asked_s=1.0)

    api.took(trial=False)
    assert api.shut

    api.took(trial=True)
    assert not api.shut


@given(st.integers(0, 2**32))
def test_long_shut_it_tries_four_times_a_minute_at_most_and_every_20_s_at_least(seed: int) -> None:
    import random

    random.seed(seed)
    clock = Clock()
    api = breaker(clock)
    api.failed("503", trial=False, asked_s=0.1)
    pauses = []
    for _ in range(60):
        clock.now_s = api.until_s
        api.failed("503", trial=True)
        pauses.append(api.until_s - clock.now_s)

    assert max(pauses) <= 20.0
    assert min(pauses[8:]) >= 14.99


def test_retries_are_a_tenth_of_the_other_calls_and_a_few_by_time() -> None:
    clock = Clock()
    api = breaker(clock)
    done = 0
    for _ in range(1000):
        api.first_try()
        while api.may_retry():
            done += 1

    assert done <= 100 + RETRIES_SAVED_MAX
    clock.now_s = 1.0
    assert [api.may_retry() for _ in range(int(RETRIES_PER_S) + 1)] == [True] * int(RETRIES_PER_S) + [False]
