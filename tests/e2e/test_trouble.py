"""LABDRIVE in trouble: what passes costs only time, what stays is on exactly that file or run, with its class."""

from collections.abc import Mapping
from typing import Any

import pytest

from hashmill.domain.job import RunState
from hashmill.ledger import files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.parts.service import LocalService
from tests.helpers.road import (
    assert_whole,
    calls,
    digests,
    ended_run,
    fill,
    job_messages,
    job_status,
    new_job,
    set_faults,
    stored_hashes,
)

# The steps themselves are held to both databases in tests/integration; here one of them is enough.
pytestmark = pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)

BODIES = {"a": b"content of a", "b": b"content of b" * 1000, "c": b""}

PASSES: Mapping[str, Mapping[str, Any]] = {
    "429 with Retry-After": {"action": "status", "code": 429, "headers": {"Retry-After": "1"}, "times": 1},
    "500 a few times": {"action": "status", "code": 500, "times": 3},
    "HTML instead of JSON": {"action": "html", "times": 2},
    "JSON that is none": {"action": "not_json", "times": 2},
    "half an answer": {"action": "cut", "times": 2},
    "no answer": {"action": "hang", "times": 1},
}
STAYS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "401": ({"action": "status", "code": 401}, "api.auth"),
    "403": ({"action": "status", "code": 403}, "api.auth"),
    "404": ({"action": "status", "code": 404}, "api.rejected"),
    "409": ({"action": "status", "code": 409}, "api.rejected"),
    "success_false": (
        {"action": "status", "code": 200, "body": {"success": False, "msg": "not today", "result": None}},
        "api.rejected",
    ),
}


def at(method: str, path: str, trouble: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the rule that calls of `method` whose path matches the regular expression `path` meet `trouble`."""
    return {"match": {"method": method, "path_regex": f"^/api{path}$"}, **trouble, **more}


def the_run(service: LocalService, ledger: Ledger, container: str, job_id: str, **more: Any) -> Run:
    return ended_run(
        ledger, service.post(service.event(job_id, container_id=container, **more))["run_id"], timeout_s=90.0
    )


def met(service: LocalService) -> list[int]:
    """Return how many calls each rule met."""
    return [rule["met"] for rule in service.ask_sandbox("GET", "/sandbox/faults")]


def closing_message(service: LocalService, job_id: str) -> str:
    return str(job_messages(service, job_id)[-1]["message"])


def assert_hashed(service: LocalService, ids: Mapping[str, str], *paths: str) -> None:
    assert {path: stored_hashes(service, ids[path]) for path in paths} == {
        path: digests(BODIES[path]) for path in paths
    }


def test_trouble_with_the_listing_that_passes_costs_only_time(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, BODIES, container_id=container)
    job_id = new_job(service, container_id=container)
    listing = f"/container/{container}/file/list"
    before = len(calls(service, f"/api{listing}"))
    set_faults(service, *(at("GET", listing, trouble) for trouble in PASSES.values()))

    run = the_run(service, ledger, container, job_id)

    assert met(service) == [trouble["times"] for trouble in PASSES.values()]
    assert run.state is RunState.COMPLETED
    assert_hashed(service, ids, *BODIES)
    assert job_status(service, job_id) == "COMPLETED"
    assert_whole(ledger, run)
    throttled, following, *_ = calls(service, f"/api{listing}")[before:]
    assert throttled["status"] == 429
    assert following["at_s"] - throttled["at_s"] >= 0.99, "the pause LABDRIVE asked for"


@pytest.mark.parametrize(("trouble", "error_class"), STAYS.values(), ids=STAYS)
def test_trouble_with_the_listing_that_stays_fails_the_run_and_says_why(
    trouble: Mapping[str, Any], error_class: str, service: LocalService, ledger: Ledger, container: str
) -> None:
    fill(service, BODIES, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(service, at("GET", f"/container/{container}/file/list", trouble))

    run = the_run(service, ledger, container, job_id)

    assert (run.state, run.error_class, run.files_total) == (RunState.FAILED, error_class, 0)
    assert job_status(service, job_id) == "FAILED"
    assert f"not all files could be listed: {error_class}: " in closing_message(service, job_id)
    assert_whole(ledger, run)


@pytest.mark.parametrize("code", [401, 500])
def test_files_that_were_found_before_the_listing_failed_are_hashed(
    code: int, service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, BODIES, container_id=container)
    job_id = new_job(service, container_id=container)
    by_path = f"/container/{container}/file/path/b"
    # 500 a few times more than one reading call is tried: the listing is put off and goes on where it stopped.
    trouble = {"action": "status", "code": code, "times": 5 if code == 500 else None}
    set_faults(service, at("GET", by_path, trouble))

    run = the_run(service, ledger, container, job_id, ids=[ids["a"]], paths=["b"])

    assert_hashed(service, ids, "a")
    if code == 401:
        assert (run.state, run.error_class, run.files_total) == (RunState.FAILED, "api.auth", 1)
        assert closing_message(service, job_id).startswith("1 of 1 files hashed")
        assert "not all files could be listed: api.auth" in closing_message(service, job_id)
    else:
        assert (run.state, run.files_total) == (RunState.COMPLETED, 2)
        assert_hashed(service, ids, "b")
    assert_whole(ledger, run)


@pytest.mark.parametrize("named_by", ["ids", "paths"])
def test_a_file_labdrive_will_not_tell_about_fails_alone(
    named_by: str, service: LocalService, ledger: Ledger, container: str
) -> None:
    refused = {name: stays for name, stays in STAYS.items() if name != "401"}
    ids = fill(service, BODIES | dict.fromkeys(refused, b"x"), container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(
        service,
        *(
            at(
                "GET",
                f"/file/{ids[name]}" if named_by == "ids" else f"/container/{container}/file/path/{name}",
                trouble,
            )
            for name, (trouble, _) in refused.items()
        ),
    )
    named = {"ids": list(ids.values())} if named_by == "ids" else {"paths": list(ids)}

    run = the_run(service, ledger, container, job_id, **named)

    rows = ledger.read_now(files.of_run, run.run_id)
    assert {row.file_id if named_by == "ids" else row.path: row.error_class for row in rows if row.error_class} == {
        ids[name] if named_by == "ids" else name: error_class for name, (_, error_class) in refused.items()
    }
    assert (run.state, run.files_total, run.error_class) == (RunState.FAILED, len(ids), "api.rejected")
    assert_hashed(service, ids, *BODIES)
    assert all(stored_hashes(service, ids[name]) == {} for name in refused)
    assert job_status(service, job_id) == "FAILED"
    assert closing_message(service, job_id).startswith("3 of 7 files hashed")
    assert "4 failed: api.auth 1, api.rejected 3" in closing_message(service, job_id)
    assert_whole(ledger, run)


def test_trouble_with_hashes_that_passes_costs_only_time(service: LocalService, ledger: Ledger, container: str) -> None:
    bodies = {name: name.encode() for name in PASSES}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(service, *(at("PUT", f"/file/{ids[name]}/hash", trouble) for name, trouble in PASSES.items()))

    run = the_run(service, ledger, container, job_id)

    assert met(service) == [trouble["times"] for trouble in PASSES.values()]
    assert run.state is RunState.COMPLETED
    assert {name: stored_hashes(service, ids[name]) for name in bodies} == {n: digests(b) for n, b in bodies.items()}
    assert "6 of 6 files hashed" in closing_message(service, job_id)
    assert_whole(ledger, run)
    throttled, *again = calls(service, f"/api/file/{ids['429 with Retry-After']}/hash", method="PUT")
    assert throttled["status"] == 429
    assert min(call["at_s"] for call in again) - throttled["at_s"] >= 0.99, "the pause LABDRIVE asked for"


def test_trouble_with_the_job_that_passes_costs_only_time(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, BODIES, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(
        service,
        *(at("PUT", f"/job/{job_id}", trouble, times=1) for trouble in PASSES.values()),
        at("PUT", f"/job/{job_id}", PASSES["HTML instead of JSON"], times=1, after=1),  # the final status
        *(
            at("POST", f"/job/{job_id}/message", PASSES[name], times=1)
            for name in ("500 a few times", "half an answer")
        ),
    )

    run = the_run(service, ledger, container, job_id)

    assert met(service) == [1] * (len(PASSES) + 3)
    assert run.state is RunState.COMPLETED
    assert_hashed(service, ids, *BODIES)
    history = service.ask_sandbox("GET", f"/sandbox/jobs/{job_id}")["history"]
    assert list(dict.fromkeys(change["status"] for change in history)) == ["PENDING", "RUNNING", "COMPLETED"]
    told = [(message["file_id"], message["message"]) for message in job_messages(service, job_id)]
    assert len(set(told)) == 3 * len(BODIES) + 1
    # Half an answer: LABDRIVE had taken that message; it was found there and not sent again.
    assert len(told) == len(set(told))
    assert "3 of 3 files hashed" in told[-1][1]
    assert_whole(ledger, run)


def test_hashes_that_labdrive_refuses_are_counted_and_cost_no_other_file(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    refused = {name: stays for name, stays in STAYS.items() if name != "401"}
    bodies = BODIES | {name: name.encode() for name in refused}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(service, *(at("PUT", f"/file/{ids[name]}/hash", trouble) for name, (trouble, _) in refused.items()))

    run = the_run(service, ledger, container, job_id)

    assert (run.state, run.error_class, run.files_failed) == (RunState.FAILED, "api.rejected", 0)
    assert_hashed(service, ids, *BODIES)
    assert all(stored_hashes(service, ids[name]) == {} for name in refused)
    assert job_status(service, job_id) == "FAILED"
    assert closing_message(service, job_id).startswith("7 of 7 files hashed")
    assert "12 reports not accepted: api.auth 3, api.rejected 9" in closing_message(service, job_id)
    kept = {row.path: row.digests for row in ledger.read_now(files.of_run, run.run_id)}
    assert kept == {path: digests(body) for path, body in bodies.items()}
    assert_whole(ledger, run, dead=12)


def test_one_message_that_labdrive_refuses_is_counted(service: LocalService, ledger: Ledger, container: str) -> None:
    ids = fill(service, BODIES, container_id=container)
    job_id = new_job(service, container_id=container)
    set_faults(service, at("POST", f"/job/{job_id}/message", {"action": "status", "code": 409, "times": 1}))

    run = the_run(service, ledger, container, job_id)

    assert (run.state, run.error_class) == (RunState.FAILED, "api.rejected")
    assert_hashed(service, ids, *BODIES)
    assert len(job_messages(service, job_id)) == 3 * len(BODIES)
    assert "1 reports not accepted: api.rejected 1" in closing_message(service, job_id)
    assert job_status(service, job_id) == "FAILED"
    assert_whole(ledger, run, dead=1)


def test_a_job_labdrive_does_not_know_keeps_no_hash_from_its_file(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, BODIES, container_id=container)

    run = the_run(service, ledger, container, "987654")

    assert (run.state, run.error_class) == (RunState.FAILED, "api.rejected")
    assert "reports api.rejected" in str(run.error_detail)
    assert_hashed(service, ids, *BODIES)
    # RUNNING, three messages a file, the closing one, the final status.
    assert_whole(ledger, run, dead=1 + 3 * len(BODIES) + 2)


def test_a_key_refused_for_everything_fails_the_run_and_a_replay_brings_all_of_it(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, BODIES, container_id=container)
    job_id = new_job(service, container_id=container)
    refused = {"action": "status", "code": 401}
    set_faults(
        service,
        at("PUT", f"/job/{job_id}", refused),
        at("POST", f"/job/{job_id}/message", refused),
        at("PUT", f"/file/({'|'.join(ids.values())})/hash", refused),
    )

    run = the_run(service, ledger, container, job_id)

    assert (run.state, run.error_class, run.files_failed) == (RunState.FAILED, "api.auth", 0)
    assert job_status(service, job_id) == "PENDING"
    assert_whole(ledger, run, dead=run.outbox_dead)
    assert run.outbox_dead == 1 + 6 * len(BODIES) + 2
    assert (
        len(calls(service, f"/api/job/{job_id}*", method="P*"))
        + sum(len(calls(service, f"/api/file/{file_id}/hash", method="PUT")) for file_id in ids.values())
        < run.outbox_dead
    ), "the key was tried for every report"

    set_faults(service)
    service.run_command("replay", "--run", run.run_id, "--reason", "the key is good again")

    again = ended_run(ledger, run.run_id)
    assert again.state is RunState.COMPLETED
    assert_hashed(service, ids, *BODIES)
    assert job_status(service, job_id) == "COMPLETED"
    assert_whole(ledger, again)
