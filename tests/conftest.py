"""
What every test may ask for: real servers, fresh databases; and which tests run when.

A folder is a price: the mark of a test (unit, integration, e2e, sim, fault, house, migration) is its folder's name.
Servers start when the first test asks for them and stop at the end. A server that does not start is an error of each
test that asked, never a skip.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from hashmill.parts.postgres import Databases
from hashmill.parts.redis import Redis, start_redis
from hashmill.parts.s3 import S3Server, start_s3
from tests.helpers.servers import running_postgres, work_folder

MARKS = {
    "unit": "no server, no process",
    "integration": "one room against real servers",
    "e2e": "the whole service",
    "sim": "simulated worlds, one per seed; no server",
    "fault": "kills, cuts and refusals; slow, so only when asked for: -m fault",
    "house": "the rules of the house",
    "migration": "the ledger's shape over time",
    "fuzz": "the native kernel against hashlib; no server",
}
HERE = Path(__file__).parent

# A deadline fails on a busy machine, not on a slow program.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() in {"1", "true"} else "here")


def pytest_configure(config: pytest.Config) -> None:
    for mark, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning} (set from the folder)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if (mark := _folder_of(item.path)) in MARKS:
            item.add_marker(mark)
    asked = "fault" in config.getoption("markexpr") or any(
        _folder_of((config.invocation_params.dir / arg.partition("::")[0]).resolve()) == "fault" for arg in config.args
    )
    if not asked:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("fault")])
        items[:] = [item for item in items if not item.get_closest_marker("fault")]


def _folder_of(path: Path) -> str:
    return next(iter(path.relative_to(HERE).parts), "") if path.is_relative_to(HERE) else ""


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis or Valkey of this test run: `url`, `restart()` (empty again), `stop()`, `kill()`."""
    with work_folder("redis") as folder, start_redis(folder) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server of this test run, by S3_BACKEND; take a bucket of your own with `s3.make_bucket()`."""
    with work_folder("s3") as folder, start_s3(folder) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """A PostgreSQL of this test run, or the one that HASHMILL_TEST_POSTGRES_URL names: `fresh_database()`."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once SQLite in a file and once PostgreSQL; gone after the test."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        return
    server: Databases = request.getfixturevalue("postgres")
    url = server.fresh_database()
    yield url
    server.drop_database(url)
