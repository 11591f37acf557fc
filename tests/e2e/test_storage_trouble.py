"""S3 in trouble, and trouble that nobody waits for any longer: each on exactly the files it is about."""

import threading
from collections.abc import Iterator

import pytest

from hashmill.domain.job import FileState, RunState
from hashmill.ledger import files
from tests.helpers.gated import LOCKED_OUT, GatedSite
from tests.helpers.road import (
    assert_whole,
    classes_by_path,
    digests,
    ended_run,
    fill,
    job_messages,
    job_status,
    new_job,
    set_faults,
    stored_hashes,
)
from tests.helpers.tcp_gate import Snag
from tests.helpers.wait import wait_until

MIB = 1 << 20
ATTEMPTS_MAX = 6
"""Enough for a test to notice an outage and end it before a file is given up."""


@pytest.fixture(scope="module")
def impatient(gated: GatedSite) -> Iterator[GatedSite]:
    """The site with one worker, who cuts a stream that stalls for a few seconds."""
    gated.no_workers()
    gated.worker(
        HASHMILL_S3__IDLE_TIMEOUT_S="3",
        HASHMILL_FILES__ATTEMPTS_MAX=str(ATTEMPTS_MAX),
        HASHMILL_FILES__OUTAGE_GIVE_UP_AFTER_S="5",
    )
    yield gated
    gated.no_workers()


@pytest.fixture
def site(impatient: GatedSite) -> Iterator[GatedSite]:
    """The same, everything well again afterwards."""
    yield impatient
    set_faults(impatient.service)
    impatient.s3_gate.snags.clear()
    impatient.s3_gate.open()


def test_what_stays_wrong_with_an_object_is_on_that_file_alone(site: GatedSite, container: str) -> None:
    service, gate = site.service, site.s3_gate
    bodies = {"good": b"good", "also good": b"also good", "gone": b"gone"}
    bodies |= dict.fromkeys(("truncated", "changing", "silent"), bytes(MIB))
    ids = fill(service, bodies, container_id=container)
    site.s3_client.delete_object(Bucket=service.bucket, Key=f"{container}/gone")
    versions = iter(range(1000))
    gate.snags += [
        Snag(asked=site.asked(container, "truncated"), after_bytes=100_000),
        Snag(asked=site.asked(container, "silent")),
        Snag(
            asked=site.asked(container, "changing"),
            after_bytes=100_000,
            meanwhile=lambda: site.put(container, "changing", next(versions).to_bytes(2, "big") * (MIB // 2)),
        ),
    ]
    job_id = new_job(service, container_id=container)

    run = ended_run(site.ledger, service.post(service.event(job_id, container_id=container))["run_id"])

    assert classes_by_path(site.ledger, run.run_id) == {
        "good": None,
        "also good": None,
        "gone": "s3.not_found",
        "truncated": "s3.truncated",
        "silent": "s3.timeout",
        "changing": "s3.changed_during_read",
    }
    assert all(stored_hashes(service, ids[path]) == digests(bodies[path]) for path in ("good", "also good"))
    assert all(stored_hashes(service, ids[path]) == {} for path in ("gone", "truncated", "silent", "changing"))
    verdicts = {row.path: row.verdict for row in site.ledger.read_now(files.of_run, run.run_id)}
    assert (verdicts["truncated"], verdicts["changing"]) == ("unreadable", "changed")
    assert run.state is RunState.FAILED
    assert job_status(service, job_id) == "FAILED"
    closing = job_messages(service, job_id)[-1]["message"]
    assert closing.startswith("2 of 6 files hashed")
    assert "4 failed: s3.changed_during_read 1, s3.not_found 1, s3.timeout 1, s3.truncated 1" in closing
    assert_whole(site.ledger, run)


def test_what_passes_costs_only_time_and_the_digest_is_of_what_stands_there_in_the_end(
    site: GatedSite, container: str
) -> None:
    service = site.service
    bodies = {name: name.encode() * 100_000 for name in ("cut", "refused", "stalls", "changes", "good")}
    ids = fill(service, bodies, container_id=container)
    after = bodies | {"changes": b"another" * 100_000}
    stalled = threading.Event()
    site.s3_gate.snags += [
        Snag(asked=site.asked(container, "cut"), after_bytes=70_000, times=1),
        Snag(asked=site.asked(container, "refused"), times=1),
        Snag(
            asked=site.asked(container, "stalls"),
            after_bytes=70_000,
            times=1,
            meanwhile=lambda: stalled.wait(timeout=60),
        ),
        Snag(
            asked=site.asked(container, "changes"),
            after_bytes=70_000,
            times=1,
            meanwhile=lambda: site.put(container, "changes", after["changes"]),
        ),
    ]
    job_id = new_job(service, container_id=container)

    run = ended_run(site.ledger, service.post(service.event(job_id, container_id=container))["run_id"])
    stalled.set()

    assert [snag.met for snag in site.s3_gate.snags] == [1, 1, 1, 1]
    assert run.state is RunState.COMPLETED
    assert {path: stored_hashes(service, ids[path]) for path in after} == {p: digests(b) for p, b in after.items()}
    assert job_status(service, job_id) == "COMPLETED"
    assert_whole(site.ledger, run)


def test_s3_keys_that_stay_wrong_fail_the_files_of_their_tenant_and_nobody_elses(
    site: GatedSite, container: str
) -> None:
    service = site.service
    ids = fill(service, {"a": b"a", "b": b"b"}, container_id=container)
    theirs, ours = new_job(service, container_id=container), new_job(service, container_id=container)
    event = service.event(theirs, container_id=container)
    event["api"]["url"] = site.locked_out_url

    refused = ended_run(site.ledger, service.post(event)["run_id"])

    assert (refused.tenant_id, refused.state, refused.error_class) == (LOCKED_OUT, RunState.FAILED, "config")
    assert classes_by_path(site.ledger, refused.run_id) == {"a": "config", "b": "config"}
    assert stored_hashes(service, ids["a"]) == {}
    assert job_status(service, theirs) == "FAILED"
    assert "2 failed: config 2" in job_messages(service, theirs)[-1]["message"]
    assert_whole(site.ledger, refused)

    run = ended_run(site.ledger, service.post(service.event(ours, container_id=container))["run_id"])

    assert run.state is RunState.COMPLETED
    assert stored_hashes(service, ids["a"]) == digests(b"a")


def test_an_s3_that_is_away_is_waited_for(site: GatedSite, container: str) -> None:
    service = site.service
    bodies = {f"f{number}": bytes([number]) for number in range(5)}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)
    site.s3_gate.shut()

    run_id = service.post(service.event(job_id, container_id=container))["run_id"]
    wait_until(lambda: "s3.timeout" in classes_by_path(site.ledger, run_id).values(), timeout_s=30)
    site.s3_gate.open()

    run = ended_run(site.ledger, run_id)
    assert run.state is RunState.COMPLETED
    assert {path: stored_hashes(service, ids[path]) for path in bodies} == {p: digests(b) for p, b in bodies.items()}
    assert_whole(site.ledger, run)


def test_an_s3_that_stays_away_fails_the_files(site: GatedSite, container: str) -> None:
    service = site.service
    fill(service, {"a": b"a"}, container_id=container)
    job_id = new_job(service, container_id=container)
    site.s3_gate.shut()

    run = ended_run(site.ledger, service.post(service.event(job_id, container_id=container))["run_id"])

    assert (run.state, run.error_class) == (RunState.FAILED, "s3.timeout")
    [row] = site.ledger.read_now(files.of_run, run.run_id)
    assert (row.state, row.attempts) == (FileState.FAILED, ATTEMPTS_MAX)
    assert "1 failed: s3.timeout 1" in job_messages(service, job_id)[-1]["message"]
    assert_whole(site.ledger, run)


def test_a_listing_nobody_waits_for_any_longer_fails_the_run(site: GatedSite, container: str) -> None:
    service = site.service
    fill(service, {"a": b"a"}, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(
        service,
        {"match": {"path_regex": f"/container/{container}/file/list"}, "action": "html"},
    )

    run = ended_run(site.ledger, service.post(service.event(job_id, container_id=container))["run_id"])

    assert (run.state, run.error_class, run.files_total) == (RunState.FAILED, "api.unavailable", 0)
    assert job_status(service, job_id) == "FAILED"
    assert "not all files could be listed: api.unavailable" in job_messages(service, job_id)[-1]["message"]
    assert_whole(site.ledger, run)


def test_a_report_nobody_waits_for_any_longer_is_set_aside_and_counted(site: GatedSite, container: str) -> None:
    service = site.service
    ids = fill(service, {"a": b"a", "b": b"b"}, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(service, {"match": {"method": "PUT", "path_regex": f"/file/{ids['b']}/hash"}, "action": "status"})

    run = ended_run(site.ledger, service.post(service.event(job_id, container_id=container))["run_id"])

    assert (run.state, run.error_class, run.files_failed) == (RunState.FAILED, "api.unavailable", 0)
    assert stored_hashes(service, ids["a"]) == digests(b"a")
    assert job_status(service, job_id) == "FAILED"
    assert "3 reports not accepted: api.unavailable 3" in job_messages(service, job_id)[-1]["message"]
    assert_whole(site.ledger, run, dead=3)
