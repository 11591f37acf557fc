"""A package of a third party is pip-installed, and its algorithm can be asked for like any other."""

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashmill.domain.job import RunState
from hashmill.ledger import files
from hashmill.ledger.engine import Ledger
from hashmill.parts.redis import Redis
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import LocalService, local_service
from tests.helpers.plugin_package import write_project
from tests.helpers.road import (
    QUICK,
    assert_whole,
    digests,
    ended_run,
    fill,
    job_messages,
    job_status,
    new_job,
    stored_hashes,
)
from tests.helpers.servers import work_folder

BODIES = {"small": b"abc", "empty": b"", "large": os.urandom(3_000_000)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package."""
    project, target = write_project(tmp_path_factory.mktemp("project")), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "-t", target, project],
        check=True,
        timeout=120,
    )
    # Every Python that has this folder on its path is impatient with plug-ins.
    (target / "sitecustomize.py").write_text("from hashmill.hashing import plugins\n\nplugins.CALL_MAX_S = 1.0\n")
    return target


@pytest.fixture(scope="module")
def extended(site: Path, redis_server: Redis, s3: S3Server) -> Iterator[LocalService]:
    environ = {**QUICK, "PYTHONPATH": str(site)}
    with (
        work_folder("plugin") as folder,
        local_service(folder, redis=redis_server, s3=s3, environ=environ, containers=3) as running,
    ):
        yield running


@pytest.fixture
def its_ledger(extended: LocalService) -> Iterator[Ledger]:
    opened = Ledger(extended.ledger_url)
    yield opened
    opened.close()


def test_a_third_party_s_algorithm_is_accepted_computed_and_reported(
    extended: LocalService, its_ledger: Ledger
) -> None:
    ids = fill(extended, BODIES, container_id="1")
    job_id = new_job(extended, container_id="1")
    event = extended.event(job_id, container_id="1", params={"algorithms": ["md5", "adler32"]})

    run = ended_run(its_ledger, extended.post(event)["run_id"])

    assert (run.state, job_status(extended, job_id)) == (RunState.COMPLETED, "COMPLETED")
    for path, body in BODIES.items():
        assert stored_hashes(extended, ids[path]) == {
            "md5": digests(body)["md5"],
            "adler32": f"{zlib.adler32(body):08x}",
        }
    assert_whole(its_ledger, run)


@pytest.mark.parametrize(
    ("container_id", "name", "what"),
    [("2", "adler-raises", "raised ZeroDivisionError: by design"), ("3", "adler-hangs", "took more than 1 s")],
)
def test_one_that_goes_wrong_fails_its_digest_by_name_and_the_others_are_reported(
    extended: LocalService, its_ledger: Ledger, container_id: str, name: str, what: str
) -> None:
    ids = fill(extended, {"a": b"a"}, container_id=container_id)
    job_id = new_job(extended, container_id=container_id)
    event = extended.event(job_id, container_id=container_id, params={"algorithms": ["md5", name, "sha256"]})

    run = ended_run(its_ledger, extended.post(event)["run_id"])

    assert job_status(extended, job_id) == "FAILED"
    assert stored_hashes(extended, ids["a"]) == {name: digests(b"a")[name] for name in ("md5", "sha256")}
    said = f"{name} (adler-for-hashmill/1.0) {what}"
    assert any(said in message["message"] for message in job_messages(extended, job_id))
    (row,) = its_ledger.read_now(files.of_run, run.run_id, limit=10)
    assert (row.error_class, row.error_detail) == ("internal", said)
    assert row.digests == {name: digests(b"a")[name] for name in ("md5", "sha256")}
    assert_whole(its_ledger, run)
