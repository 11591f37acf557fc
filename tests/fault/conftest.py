"""One filled bucket and one PostgreSQL for all rows; the table of all rows at the end."""

from collections.abc import Iterator

import pytest

from hashmill.parts.postgres import Postgres, start_postgres
from tests.fault.figures import Row
from tests.fault.load import Store, filled_store
from tests.helpers.servers import work_folder

ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """The bucket with ten containers of small files; rows only read it."""
    with work_folder("fault") as folder, filled_store(folder) as filled:
        yield filled


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL of our own, which a row may kill and restart."""
    with work_folder("pg") as folder, start_postgres(folder) as server:
        yield server


@pytest.fixture
def fresh_ledger(own_postgres: Postgres) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, gone after the row."""
    url = own_postgres.fresh_database()
    yield url
    own_postgres.drop_database(url)


@pytest.fixture
def table(request: pytest.FixtureRequest) -> list[Row]:
    """Append a row here: it is shown at the end."""
    return request.config.stash.setdefault(ROWS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("faults")
        for row in rows:
            terminalreporter.write_line(row.line)
