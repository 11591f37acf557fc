"""An event becomes a run once; posted again it finds the run, and may bring a key that works."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from hashmill.domain.event import TriggerEvent, from_public
from hashmill.domain.job import RunState
from hashmill.domain.secret import Secret
from hashmill.flow.accept import accept
from hashmill.ledger import runs
from hashmill.ledger.engine import Ledger
from tests.helpers.fakes import CANARY, Stage, accepted, staged
from tests.helpers.ledger import fresh_ledger


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


def event_again(stage: Stage, run_id: str, *, key: str) -> TriggerEvent:
    """Return the event of a run as it would be posted again, with another key."""
    return from_public(stage.tools.ledger.read_now(runs.event_of, run_id), key_user=Secret(key))


def _set_state(stage: Stage, run_id: str, state: RunState) -> None:
    statement = sa.text("UPDATE runs SET state = :state WHERE run_id = :run_id")
    stage.tools.ledger.write_now(lambda c: c.execute(statement, {"state": state.value, "run_id": run_id}))


async def test_a_failed_run_posted_again_is_sealed_with_the_key_that_came(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    _set_state(stage, run.run_id, RunState.FAILED)
    event = event_again(stage, run.run_id, key="a-key-that-works")

    again, made = await accept(stage.tools, event, idempotency_key=run.idempotency_key)

    assert (again.run_id, made) == (run.run_id, False)
    keys = stage.tools.ledger.read_now(stage.tools.sealer.open, run.run_id)
    assert keys == {"user": Secret("a-key-that-works")}


async def test_a_run_that_is_at_work_keeps_its_key_whatever_is_posted(stage: Stage) -> None:
    run = await accepted(stage, file_ids=["1"])
    event = event_again(stage, run.run_id, key="another-key")

    await accept(stage.tools, event, idempotency_key=run.idempotency_key)

    keys = stage.tools.ledger.read_now(stage.tools.sealer.open, run.run_id)
    assert keys == {"user": Secret(CANARY)}
