"""The event's keys at rest: they open for their run, with their key, until they are wiped."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ConfigFault, SecretExpired
from hashmill.domain.secret import Secret
from hashmill.ledger import seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer
from tests.helpers.ledger import accept_run, fresh_ledger

CANARY = "canary-4711-that-must-not-be-found"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


def sealer() -> Sealer:
    return Sealer(Secret(seal.new_key()))


def sealed(ledger: Ledger, with_: Sealer, *, key: str = "k1") -> Run:
    run = accept_run(ledger, key=key)
    ledger.write_now(with_.put, run.run_id, {"user": Secret(CANARY), "root": Secret("ü ☃")})
    return run


def execute(ledger: Ledger, statement: str, **values: object) -> None:
    ledger.write_now(lambda connection: connection.execute(sa.text(statement), values))


def test_what_was_sealed_opens_again(ledger: Ledger) -> None:
    ours = sealer()
    run = sealed(ledger, ours)

    assert ledger.read_now(ours.open, run.run_id) == {"user": Secret(CANARY), "root": Secret("ü ☃")}


def test_another_process_with_the_same_key_opens_it(ledger: Ledger) -> None:
    key = Secret(seal.new_key())
    run = sealed(ledger, Sealer(key))

    assert ledger.read_now(Sealer(key).open, run.run_id)["user"].reveal() == CANARY


def test_a_sealed_row_moved_to_another_run_does_not_open(ledger: Ledger) -> None:
    ours = sealer()
    run, other = sealed(ledger, ours), accept_run(ledger, key="k2")

    execute(ledger, "UPDATE secrets SET run_id = :other WHERE run_id = :run", other=other.run_id, run=run.run_id)

    with pytest.raises(SecretExpired, match="were altered"):
        ledger.read_now(ours.open, other.run_id)


def test_an_altered_row_does_not_open(ledger: Ledger) -> None:
    ours = sealer()
    run = sealed(ledger, ours)

    execute(ledger, "UPDATE secrets SET nonce = :nonce", nonce=b"\x00" * 12)

    with pytest.raises(SecretExpired, match="were altered"):
        ledger.read_now(ours.open, run.run_id)


def test_another_sealing_key_says_which_one_is_needed_and_where_to_put_it(ledger: Ledger) -> None:
    ours, theirs = sealer(), sealer()
    run = sealed(ledger, ours)

    with pytest.raises(ConfigFault, match=r"set secrets\.seal_key to the key they were sealed with") as fault:
        ledger.read_now(theirs.open, run.run_id)
    with pytest.raises(ConfigFault, match=r"set secrets\.seal_key"):
        ledger.read_now(seal.require_own, theirs)
    ledger.read_now(seal.require_own, ours)
    assert not ledger.read_now(seal.kept, run.run_id, key_id=theirs.key_id)
    assert ledger.read_now(seal.kept, run.run_id, key_id=ours.key_id)

    assert ours.key_id in str(fault.value)
    assert theirs.key_id in str(fault.value)


def test_wiped_keys_are_gone_and_it_says_what_to_do(ledger: Ledger) -> None:
    ours = sealer()
    run = sealed(ledger, ours)
    assert ledger.read_now(seal.kept, run.run_id)

    ledger.write_now(seal.wipe, run.run_id)

    assert not ledger.read_now(seal.kept, run.run_id)
    with pytest.raises(SecretExpired, match="post the event again"):
        ledger.read_now(ours.open, run.run_id)


def test_keys_are_wiped_when_their_days_are_over_and_not_before(ledger: Ledger) -> None:
    ours = sealer()
    for key, days in (("forever", None), ("over", -1), ("later", 30)):
        run = sealed(ledger, ours, key=key)
        if days is not None:
            ledger.write_now(seal.keep_for, run.run_id, days=days)

    assert ledger.write_now(seal.wipe_expired) == 1


def test_keys_kept_again_are_not_wiped(ledger: Ledger) -> None:
    run = sealed(ledger, sealer())
    ledger.write_now(seal.keep_for, run.run_id, days=-1)

    ledger.write_now(seal.keep, run.run_id)

    assert ledger.write_now(seal.wipe_expired) == 0


def test_each_sealing_has_a_nonce_of_its_own(ledger: Ledger) -> None:
    ours = sealer()
    for number in range(10):
        sealed(ledger, ours, key=str(number))

    rows = ledger.read_now(lambda connection: connection.execute(sa.text("SELECT nonce, sealed FROM secrets")).all())
    assert len({bytes(row.nonce) for row in rows}) == 10
    assert len({bytes(row.sealed) for row in rows}) == 10


@pytest.mark.parametrize(
    "key", ["", "x", "not base64 at all!", base64.b64encode(b"x" * 31).decode(), base64.b64encode(b"x" * 33).decode()]
)
def test_a_sealing_key_that_is_none_says_how_to_make_one(key: str) -> None:
    with pytest.raises(ConfigFault, match="hashmill secrets new-key") as fault:
        Sealer(Secret(key))

    assert not key or key not in str(fault.value)


def test_the_bytes_of_a_key_are_nowhere_in_the_database(tmp_path: Path) -> None:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as ledger:
        sealed(ledger, sealer())

        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert len(stored) > 10_000
    assert CANARY.encode() not in stored
    assert base64.b64encode(CANARY.encode()).rstrip(b"=") not in stored


def test_the_text_of_a_failed_write_holds_no_key(ledger: Ledger) -> None:
    ours = sealer()
    run = sealed(ledger, ours)

    with pytest.raises(sa.exc.IntegrityError) as error:
        ledger.write_now(ours.put, run.run_id, {"user": Secret(CANARY)})

    assert CANARY not in str(error.value)
