"""Laws of taking turns."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.fair import DeficitRing, run_weight

WEIGHTS = st.dictionaries(st.integers(0, 20), st.integers(1, 10).map(float), min_size=1, max_size=8)


def always(key: int) -> int:
    return 1


@given(weights=WEIGHTS, room=st.integers(0, 200))
def test_as_many_tickets_are_given_as_there_is_room_for_while_somebody_has_work(
    weights: dict[int, float], room: int
) -> None:
    assert DeficitRing[int]().serve(weights, room, always) == room


@given(weights=WEIGHTS, rooms=st.lists(st.integers(1, 40), min_size=1, max_size=10))
def test_over_a_long_run_each_key_gets_its_share_to_within_one_turn_however_the_room_comes(
    weights: dict[int, float], rooms: list[int]
) -> None:
    ring = DeficitRing[int]()
    served: Counter[int] = Counter()

    def take(key: int) -> int:
        served[key] += 1
        return 1

    for room in rooms * 5:
        ring.serve(weights, room, take)

    turns = {key: served[key] / (weight / max(weights.values())) for key, weight in weights.items()}
    least, most = min(turns.values()), max(turns.values())
    # Credit is never more than one ticket ahead of or behind a key's turns; a light key's ticket is worth many turns.
    assert most - least <= 1 + max(max(weights.values()) / weight for weight in weights.values())


@given(weights=WEIGHTS)
def test_nobody_with_work_waits_longer_than_the_weights_say(weights: dict[int, float]) -> None:
    ring = DeficitRing[int]()
    order: list[int] = []

    def take(key: int) -> int:
        order.append(key)
        return 1

    top = max(weights.values())
    rounds = max(top / weight for weight in weights.values())
    ring.serve(weights, int((rounds + 1) * len(weights)) + 1, take)

    assert set(order) == set(weights)


@given(weights=WEIGHTS, work=st.dictionaries(st.integers(0, 20), st.integers(0, 30)), room=st.integers(0, 500))
def test_it_ends_when_nobody_has_work_and_gives_all_there_is(
    weights: dict[int, float], work: dict[int, int], room: int
) -> None:
    left = {key: work.get(key, 0) for key in weights}

    def take(key: int) -> int:
        if left[key]:
            left[key] -= 1
            return 1
        return 0

    before = sum(left.values())
    given_ = DeficitRing[int]().serve(weights, room, take)

    assert given_ == min(room, before)
    assert sum(left.values()) == before - given_


def test_a_key_that_comes_back_has_saved_nothing_up() -> None:
    ring = DeficitRing[str]()
    served: Counter[str] = Counter()

    def take(key: str) -> int:
        served[key] += 1
        return 1

    ring.serve({"a": 1.0, "b": 1.0}, 4, take)
    ring.serve({"a": 1.0}, 100, take)
    served.clear()
    ring.serve({"a": 1.0, "b": 1.0}, 10, take)

    assert abs(served["a"] - served["b"]) <= 1


def test_a_new_key_among_many_is_served_within_one_round() -> None:
    ring = DeficitRing[int]()
    many = dict.fromkeys(range(100), 1.0)
    ring.serve(many, 50, always)
    order: list[int] = []

    def take(key: int) -> int:
        order.append(key)
        return 1

    ring.serve({**many, 100: 1.0}, 101, take)

    assert order.count(100) == 1


def test_a_key_without_work_costs_one_question_and_keeps_nobody_waiting() -> None:
    asked: Counter[str] = Counter()

    def take(key: str) -> int:
        asked[key] += 1
        return int(key == "busy")

    assert DeficitRing[str]().serve({"idle": 10.0, "busy": 1.0}, 20, take) == 20
    assert asked == {"idle": 1, "busy": 20}


def test_places_are_kept_between_calls() -> None:
    ring = DeficitRing[str]()
    order: list[str] = []

    def take(key: str) -> int:
        order.append(key)
        return 1

    for _ in range(6):
        ring.serve(dict.fromkeys("abc", 1.0), 1, take)

    assert order == list("abcabc")


def test_nobody_is_no_work() -> None:
    assert DeficitRing[str]().serve({}, 10, lambda _: 1) == 0


@pytest.mark.parametrize(("priority", "weight"), [(0, 10.0), (5, 5.0), (9, 1.0)])
def test_the_most_urgent_run_weighs_ten_times_the_most_patient(priority: int, weight: float) -> None:
    assert run_weight(priority) == weight


def test_who_has_only_small_tickets_gets_as_much_as_who_has_full_ones() -> None:
    got = {"giant": 0.0, "small": 0.0}
    cost = {"giant": 1.0, "small": 20 / 64}

    def take(key: str) -> float:
        got[key] += cost[key]
        return cost[key]

    ring = DeficitRing[str]()
    for _ in range(200):
        ring.serve({"giant": 1.0, "small": 1.0}, 3, take)

    assert abs(got["giant"] - got["small"]) <= 2
