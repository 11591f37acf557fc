"""Counters and gates: they outlive the process, and nothing is lost when several write at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from hashmill.domain.counted import Counted
from hashmill.ledger import counters, gates, tables
from hashmill.ledger.engine import Ledger
from hashmill.ledger.gates import GateKind
from tests.helpers.ledger import fresh_ledger


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def test_what_never_happened_is_nought(ledger: Ledger) -> None:
    assert ledger.read_now(counters.all) == dict.fromkeys(Counted, 0)


def test_counts_add_up_from_several_hands_at_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda by: ledger.write_now(counters.add, Counted.LEASES_LOST, by), [1, 2, 0, 3] * 5))

    assert ledger.read_now(counters.all)[Counted.LEASES_LOST] == 30


def test_a_gate_remembers_since_when_it_is_shut_and_until_when(ledger: Ledger) -> None:
    ledger.write_now(gates.shut, "here", kind=GateKind.API, failures=1, for_s=-5, reason="503")
    ledger.write_now(gates.shut, "here", kind=GateKind.API, failures=2, for_s=20, reason="no answer")

    (gate,) = ledger.read_now(gates.listed)
    assert (gate.name, gate.kind, gate.failures, gate.reason) == ("here", GateKind.API, 2, "no answer")
    assert 0 <= gate.shut_s < 5
    assert 15 < gate.remaining_s <= 20

    ledger.write_now(gates.open_, "here")
    assert ledger.read_now(gates.listed) == []


def test_gates_nobody_wants_to_pass_are_forgotten(ledger: Ledger) -> None:
    ledger.write_now(gates.shut, "old", kind=GateKind.KEY, failures=1, for_s=-100, reason="401")
    ledger.write_now(gates.shut, "new", kind=GateKind.KEY, failures=1, for_s=-5, reason="401")
    ledger.write_now(gates.shut, "other", kind=GateKind.API, failures=1, for_s=-100, reason="503")

    ledger.write_now(gates.forget, kind=GateKind.KEY, older_s=60)

    assert [gate.name for gate in ledger.read_now(gates.listed)] == ["new", "other"]


def test_a_gate_of_a_kind_a_newer_version_shut_is_passed_over(ledger: Ledger) -> None:
    for name in ("known", "newer"):
        ledger.write_now(gates.shut, name, kind=GateKind.API, failures=1, for_s=5, reason="503")
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(tables.gates).where(tables.gates.c.name == "newer").values(kind="other"))

    assert [gate.name for gate in ledger.read_now(gates.listed)] == ["known"]
