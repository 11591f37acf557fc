"""The closed sets of states."""

from enum import StrEnum

import pytest

from hashmill.domain.job import FileState, JobStatus, MessageType, OutboxState, ReportKind, RunState, SizeClass
from hashmill.ledger.tables import files, outbox, runs


@pytest.mark.parametrize("state", RunState)
def test_exactly_three_states_of_a_run_are_its_end(state: RunState) -> None:
    assert state.ended is (state in {"completed", "failed", "cancelled"})


@pytest.mark.parametrize(
    ("states", "max_chars"),
    [
        (RunState, runs.c.state.type.length),
        (FileState, files.c.state.type.length),
        (SizeClass, files.c.size_class.type.length),
        (OutboxState, outbox.c.state.type.length),
        (ReportKind, outbox.c.kind.type.length),
    ],
)
def test_every_state_fits_its_column_and_is_plain_in_a_statement(states: type[StrEnum], max_chars: int) -> None:
    for state in states:
        assert len(state) <= max_chars
        assert state.isascii()
        assert state.isalpha()


def test_the_names_labdrive_sees_are_the_seeds() -> None:
    assert [str(status) for status in JobStatus] == ["RUNNING", "COMPLETED", "FAILED"]
    assert str(MessageType.INFO) == "INFO"
