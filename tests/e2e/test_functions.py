"""A researcher's function on the whole road: added, named by an event, run for each file, told to LABDRIVE."""

import hashlib
import json
from pathlib import Path
from urllib.error import HTTPError

import pytest

from hashmill.domain.job import RunState
from hashmill.ledger.engine import Ledger
from hashmill.parts.service import LocalService
from tests.helpers.road import assert_whole, ended_run, fill, job_messages, job_status, new_job, stored_hashes

SOURCE = """
import hashlib

from libnova.common.api import File
from libnova.common.api.JobMessage import JobMessageType
from libnova.common.nuclio.Request import Request
from libnova.Labdrive.Filesystem import S3


def handler(context, event):
    request = Request(context, event)
    request.job_init()
    for file in request.Files:
        stream = S3.File.get_stream(request.Storage, file)
        with stream:
            digest = hashlib.file_digest(stream, "sha512").hexdigest()
        File.set_hash(file.id, "sha512", digest)
        request.log(f"{file.name} has {file.size_bytes} bytes", JobMessageType.INFO, file.id)
        if file.name == "bad.bin":
            raise ValueError("this one is bad")
    request.job_end(True)
"""


def test_a_function_reads_each_file_through_the_library_and_its_job_ends(
    service: LocalService, ledger: Ledger, container: str, tmp_path: Path
) -> None:
    bodies = {f"dir/{number}.bin": bytes([number]) * 100_000 * number for number in range(1, 5)}
    ids = fill(service, bodies, container_id=container)
    (tmp_path / "handler.py").write_text(SOURCE)
    service.run_command("function", "add", f"sha512-{container}", str(tmp_path / "handler.py"))
    job_id = new_job(service, container_id=container)
    event = service.event(job_id, container_id=container)
    event["labdrive"]["function"]["key"] = f"sha512-{container}"

    posted = service.post(event)
    run = ended_run(ledger, posted["run_id"])

    assert (run.state, job_status(service, job_id)) == (RunState.COMPLETED, "COMPLETED")
    for path, body in bodies.items():
        assert stored_hashes(service, ids[path]) == {"sha512": hashlib.sha512(body).hexdigest()}
    texts = [message["message"] for message in job_messages(service, job_id)]
    assert sorted(texts[:-1]) == [f"{number}.bin has {100_000 * number} bytes" for number in range(1, 5)]
    assert texts[-1] == f"4 of 4 files processed by function sha512-{container}"
    version = {"name": f"sha512-{container}", "sha256": hashlib.sha256(SOURCE.encode()).hexdigest()}
    assert service.get(f"{service.intake_url}{posted['status_url']}")["function"] == version
    assert json.loads(service.run_command("runs", "show", run.run_id, "--json"))["function"] == version
    assert f"function {version['name']}, version {version['sha256'][:12]}" in service.run_command(
        "runs", "show", run.run_id
    )
    assert_whole(ledger, run)


def test_a_function_that_raises_fails_its_file_alone(
    service: LocalService, ledger: Ledger, container: str, tmp_path: Path
) -> None:
    ids = fill(service, {"bad.bin": b"bad", "good.bin": b"good"}, container_id=container)
    (tmp_path / "handler.py").write_text(SOURCE)
    service.run_command("function", "add", f"sha512-{container}", str(tmp_path / "handler.py"))
    job_id = new_job(service, container_id=container)
    event = service.event(job_id, container_id=container)
    event["labdrive"]["function"]["key"] = f"sha512-{container}"

    run = ended_run(ledger, service.post(event)["run_id"])

    assert (run.state, run.files_failed, job_status(service, job_id)) == (RunState.FAILED, 1, "FAILED")
    assert stored_hashes(service, ids["good.bin"]) == {"sha512": hashlib.sha512(b"good").hexdigest()}
    assert any("it raised ValueError: this one is bad" in one["message"] for one in job_messages(service, job_id))
    assert_whole(ledger, run)


def test_an_event_of_a_removed_function_is_refused_at_the_door(
    service: LocalService, container: str, tmp_path: Path
) -> None:
    (tmp_path / "handler.py").write_text(SOURCE)
    service.run_command("function", "add", f"gone-{container}", str(tmp_path / "handler.py"))
    service.run_command("function", "remove", f"gone-{container}")
    event = service.event(new_job(service, container_id=container), container_id=container)
    event["labdrive"]["function"]["key"] = f"gone-{container}"

    with pytest.raises(HTTPError) as refused:
        service.post(event)

    with refused.value as answer:
        (fault,) = json.load(answer)["faults"]
        assert (answer.code, fault["path"]) == (422, "$.labdrive.function.key")
    assert "was removed" in fault["problem"]
