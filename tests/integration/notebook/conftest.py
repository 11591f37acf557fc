"""One LABDRIVE and one S3 server for all tests of the notebook's library."""

from collections.abc import Iterator

import pytest

from hashmill.parts.s3 import S3Server
from tests.helpers.researcher import Desk, desk, sit_down


@pytest.fixture(scope="session")
def shared_desk(s3: S3Server) -> Iterator[Desk]:
    with desk(s3) as running:
        yield running


@pytest.fixture
def place(shared_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The running LABDRIVE, behaving, and the environment that leads to it."""
    sit_down(monkeypatch, shared_desk)
    yield shared_desk
    shared_desk.set_faults()
