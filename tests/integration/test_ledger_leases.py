"""A lease has one holder, ends by the database's clock, and its fence tells one holder from the next."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hashmill.ledger import leases
from hashmill.ledger.engine import Ledger
from hashmill.ledger.leases import PROCESS, Lease
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def take(ledger: Ledger, holder: str, *, name: str = "leader", lease_s: float = 30) -> int | None:
    return ledger.write_now(leases.take, name, holder, lease_s=lease_s)


def listed(ledger: Ledger, prefix: str = "") -> list[Lease]:
    return ledger.read_now(leases.listed, prefix)


def test_a_lease_is_taken_by_one_and_refused_to_the_others_while_it_lives(ledger: Ledger) -> None:
    assert [take(ledger, holder) for holder in ("a", "b", "a", "b")] == [1, None, 1, None]


def test_a_lease_that_ran_out_goes_to_the_next_with_a_higher_fence(ledger: Ledger) -> None:
    assert take(ledger, "a", lease_s=0.05) == 1

    wait_until(lambda: take(ledger, "b") == 2, timeout_s=2)
    assert take(ledger, "a") is None


def test_the_fence_rises_when_the_lease_changes_hands_and_only_then(ledger: Ledger) -> None:
    fences = []
    for holder in ("a", "a", "b", "b", "a"):
        fences.append(take(ledger, holder, lease_s=-1))

    assert fences == [1, 1, 2, 2, 3]


def test_renewing_lets_it_live_longer(ledger: Ledger) -> None:
    take(ledger, "a", lease_s=5)
    short = listed(ledger)[0].remaining_s

    take(ledger, "a", lease_s=60)

    assert 4 < short <= 5
    assert 59 < listed(ledger)[0].remaining_s <= 60


def test_a_lease_let_go_is_free_at_once(ledger: Ledger) -> None:
    take(ledger, "a")

    ledger.write_now(leases.release, "leader", "stranger")
    assert take(ledger, "b") is None
    ledger.write_now(leases.release, "leader", "a")

    assert take(ledger, "b") == 2


def test_a_process_that_left_in_order_leaves_no_trace(ledger: Ledger) -> None:
    take(ledger, "p", name=f"{PROCESS}p")

    ledger.write_now(leases.forget, f"{PROCESS}p", "stranger")
    assert len(listed(ledger)) == 1
    ledger.write_now(leases.forget, f"{PROCESS}p", "p")

    assert listed(ledger) == []


def test_a_duty_is_steady_through_a_change_of_who_has_it(ledger: Ledger) -> None:
    def steady_s(holder: str) -> float:
        return ledger.write_now(leases.steady_s, "sweeping", holder, gap_s=30)

    assert steady_s("a") == 0
    wait_until(lambda: steady_s("a") > 0.05, timeout_s=2)
    assert steady_s("b") > 0.05


def test_a_duty_that_nobody_had_for_a_while_begins_anew(ledger: Ledger) -> None:
    def steady_s(gap_s: float) -> float:
        return ledger.write_now(leases.steady_s, "sweeping", "a", gap_s=gap_s)

    steady_s(30)
    wait_until(lambda: steady_s(30) > 0.05, timeout_s=2)
    steady_s(0.02)
    wait_until(lambda: listed(ledger, "sweeping")[0].remaining_s < 0, timeout_s=2)
    assert steady_s(30) == 0


def test_of_eight_that_race_one_holds_it(ledger: Ledger) -> None:
    for race in range(5):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number, race=race: take(ledger, f"p{number}", name=f"r{race}"), range(8)))

        assert sorted(answers, key=str) == [1] + [None] * 7
        assert answers.index(1) == int(listed(ledger, f"r{race}")[0].holder[1:])


def test_of_eight_that_race_for_a_lapsed_one_one_holds_it(ledger: Ledger) -> None:
    take(ledger, "dead", lease_s=-1)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: take(ledger, f"p{number}"), range(8)))

    assert sorted(answers, key=str) == [2] + [None] * 7


def test_leases_are_listed_by_the_beginning_of_their_name_with_what_they_say(ledger: Ledger) -> None:
    ledger.write_now(leases.take, f"{PROCESS}a", "a", lease_s=30, detail={"slots": 4, "host": "ü"})
    ledger.write_now(leases.take, f"{PROCESS}b", "b", lease_s=-5)
    take(ledger, "a")

    alive, lapsed = listed(ledger, PROCESS)

    assert (alive.name, alive.detail, alive.fence) == (f"{PROCESS}a", {"slots": 4, "host": "ü"}, 1)
    assert lapsed.remaining_s < 0
    assert [lease.name for lease in listed(ledger, "%")] == []


def test_only_processes_long_gone_are_purged(ledger: Ledger) -> None:
    for name, lease_s in ((f"{PROCESS}old", -100), (f"{PROCESS}late", -1), (f"{PROCESS}alive", 30), ("leader", -100)):
        take(ledger, "x", name=name, lease_s=lease_s)

    ledger.write_now(leases.purge, older_than_s=50)

    assert [lease.name for lease in listed(ledger)] == ["leader", f"{PROCESS}alive", f"{PROCESS}late"]
