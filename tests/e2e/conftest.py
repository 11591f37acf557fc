"""One running service per kind of ledger for all end-to-end tests; each test takes a container of its own."""

import itertools
from collections.abc import Iterator

import pytest

from hashmill.ledger.engine import Ledger
from hashmill.parts.postgres import Databases
from hashmill.parts.redis import Redis
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import LocalService, local_service
from tests.helpers.gated import GatedSite, gated_site
from tests.helpers.road import CONTAINERS, QUICK, set_faults
from tests.helpers.servers import work_folder

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shared_service(request: pytest.FixtureRequest, redis_server: Redis, s3: S3Server) -> Iterator[LocalService]:
    ledger_url = None
    if request.param == "postgresql":
        server: Databases = request.getfixturevalue("postgres")
        ledger_url = server.fresh_database()
    with (
        work_folder("road") as folder,
        local_service(
            folder, redis=redis_server, s3=s3, ledger_url=ledger_url, environ=QUICK, containers=CONTAINERS
        ) as running,
    ):
        yield running


@pytest.fixture
def service(shared_service: LocalService) -> Iterator[LocalService]:
    """The running service, whole again: every worker alive, LABDRIVE behaving."""
    yield shared_service
    set_faults(shared_service)
    for worker in [worker for worker in shared_service.workers if not worker.running]:
        shared_service.workers.remove(worker)
        shared_service.start_worker()


@pytest.fixture(scope="session")
def gated(redis_server: Redis, s3: S3Server, postgres: Databases) -> Iterator[GatedSite]:
    """A second service, whose S3 and LABDRIVE can be taken away, and whose workers a test starts itself."""
    with (
        work_folder("gated") as folder,
        gated_site(folder, redis=redis_server, s3=s3, ledger_url=postgres.fresh_database()) as site,
    ):
        yield site


@pytest.fixture
def container() -> str:
    """The id of a container no other test uses."""
    number = next(_numbers)
    assert number <= CONTAINERS, "give the sandbox more containers"
    return str(number)


@pytest.fixture
def ledger(service: LocalService) -> Iterator[Ledger]:
    opened = Ledger(service.ledger_url)
    yield opened
    opened.close()
