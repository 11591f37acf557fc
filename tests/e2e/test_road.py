"""The whole road: one event in; hashes, messages and status out, read back from LABDRIVE."""

import json
import signal
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hashmill.domain.job import RunState
from hashmill.ledger import entries, files
from hashmill.ledger.engine import Ledger
from hashmill.parts.collection import ODD_NAMES
from hashmill.parts.service import ROOT_KEY, USER_KEY, LocalService
from tests.helpers.road import (
    digests,
    ended_run,
    file_ids,
    fill,
    job_messages,
    job_status,
    new_job,
    stored_hashes,
    wait_for_workers,
)
from tests.helpers.wait import wait_until


def test_a_posted_event_ends_with_every_digest_in_labdrive(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    bodies = {name: f"content of {name}".encode() * 7 for name in ODD_NAMES}
    bodies |= {"empty": b"", "one": b"1", "two mebibytes": bytes(range(256)) * 8192}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)

    answer = service.post(service.event(job_id, container_id=container))

    run = ended_run(ledger, answer["run_id"])
    assert run.state is RunState.COMPLETED
    assert {path: stored_hashes(service, ids[path]) for path in bodies} == {p: digests(b) for p, b in bodies.items()}
    assert job_status(service, job_id) == "COMPLETED"
    messages = job_messages(service, job_id)
    assert len(messages) == 3 * len(bodies) + 1
    first = [m["message"] for m in messages if m["file_id"] == ids["one"]]
    expected = digests(b"1")
    assert first == [
        f"File hash calculated: MD5    - {expected['md5']}",
        f"File hash calculated: SHA1   - {expected['sha1']}",
        f"File hash calculated: SHA256 - {expected['sha256']}",
    ]
    assert ledger.read_now(entries.verify).faults == ()
    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, run.run_id, limit=1000)]
    assert kinds.count("file_hashed") == len(bodies)


def test_mode_attest_asks_about_every_file_and_changes_no_hash(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    bodies = {f"f{number}": bytes([number]) * 1000 for number in range(100)}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)

    answer = service.post(service.event(job_id, container_id=container, params={"mode": "attest"}))

    run = ended_run(ledger, answer["run_id"])
    assert (run.state, run.bytes_done) == (RunState.COMPLETED, 0)
    # The S3 servers of the tests store no checksum; or else nothing was computed before that one could compare with.
    verdicts = ledger.read_now(files.count_by_verdict, run.run_id)
    assert verdicts in ({"no_baseline": len(bodies)}, {"unattested": len(bodies)})
    assert all(stored_hashes(service, file_id) == {} for file_id in ids.values())
    told = [message["message"] for message in job_messages(service, job_id)]
    assert len(told) == len(bodies) + 1
    assert told[-1].startswith(f"no file was read; the storage was asked about {len(bodies)} (")
    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, run.run_id, limit=1000)]
    assert (kinds.count("file_attested"), kinds.count("file_hashed")) == (len(bodies), 0)
    assert ledger.read_now(entries.verify).faults == ()


def test_the_same_event_posted_fifty_times_at_once_is_one_run(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    fill(service, {"a": b"a"}, container_id=container)
    event = service.event(new_job(service, container_id=container), container_id=container)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: service.post(event), range(50)))

    assert len({answer["run_id"] for answer in answers}) == 1
    assert ended_run(ledger, answers[0]["run_id"]).files_total == 1


def test_a_worker_killed_in_the_middle_leaves_a_run_that_ends_right(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    bodies = {f"f{number}": bytes([number]) * 400_000 for number in range(120)}
    ids = fill(service, bodies, container_id=container)
    wait_for_workers(service, ledger, 2)
    answer = service.post(service.event(new_job(service, container_id=container), container_id=container))
    wait_until(lambda: ledger.read_now(files.count_by_state, answer["run_id"]).get("running", 0) > 0, timeout_s=20)

    service.workers[0].send(signal.SIGKILL)

    assert ended_run(ledger, answer["run_id"]).state is RunState.COMPLETED
    assert all(stored_hashes(service, ids[path]) == digests(body) for path, body in bodies.items())
    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, answer["run_id"], limit=1000)]
    assert kinds.count("file_hashed") == len(bodies)


def test_the_broker_emptied_and_restarted_in_the_middle_costs_only_time(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    bodies = {f"f{number}": bytes([number]) * 1000 for number in range(200)}
    ids = fill(service, bodies, container_id=container)
    wait_for_workers(service, ledger, 2)
    answer = service.post(service.event(new_job(service, container_id=container), container_id=container))
    wait_until(lambda: ledger.read_now(files.count_by_state, answer["run_id"]).get("done", 0) > 0, timeout_s=20)

    service.redis.restart()

    assert ended_run(ledger, answer["run_id"]).state is RunState.COMPLETED
    assert all(stored_hashes(service, ids[path]) == digests(body) for path, body in bodies.items())


def test_ids_and_paths_name_each_file_once_and_the_rest_of_the_container_is_left_alone(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, {"a": b"a", "dir/b": b"b", "c": b"c"}, container_id=container)
    event = service.event(
        new_job(service, container_id=container),
        container_id=container,
        ids=[ids["a"], int(ids["dir/b"])],
        paths=["/dir/b", "dir/b", "nowhere"],
    )

    run = ended_run(ledger, service.post(event)["run_id"])

    assert (run.files_total, run.files_failed, run.state) == (3, 1, RunState.FAILED)
    assert stored_hashes(service, ids["dir/b"]) == digests(b"b")
    assert stored_hashes(service, ids["c"]) == {}
    assert ledger.read_now(files.failed_by_class, run.run_id) == {"api.rejected": 1}


def test_every_known_algorithm_can_be_asked_for_at_once(service: LocalService, ledger: Ledger, container: str) -> None:
    from hashmill.domain.digest import KNOWN_ALGORITHMS

    ids = fill(service, {"a": b"abc"}, container_id=container)
    event = service.event(
        new_job(service, container_id=container), container_id=container, params={"algorithms": list(KNOWN_ALGORITHMS)}
    )

    assert ended_run(ledger, service.post(event)["run_id"]).state is RunState.COMPLETED
    assert stored_hashes(service, ids["a"]).keys() == set(KNOWN_ALGORITHMS)


def test_a_missing_object_fails_alone_and_is_replayed_once_it_is_back(
    service: LocalService, ledger: Ledger, container: str
) -> None:
    ids = fill(service, {"here": b"here", "gone": b"gone"}, container_id=container)
    client = service.s3.client()
    client.delete_object(Bucket=service.bucket, Key=f"{container}/gone")
    job_id = new_job(service, container_id=container)
    run = ended_run(ledger, service.post(service.event(job_id, container_id=container))["run_id"])
    assert run.state is RunState.FAILED
    assert job_status(service, job_id) == "FAILED"
    assert "1 failed: s3.not_found 1" in job_messages(service, job_id)[-1]["message"]

    client.put_object(Bucket=service.bucket, Key=f"{container}/gone", Body=b"gone")
    client.close()
    service.run_command("replay", "--job", job_id, "--reason", "it is back")

    wait_until(lambda: job_status(service, job_id) == "COMPLETED", timeout_s=30)
    assert ended_run(ledger, run.run_id).state is RunState.COMPLETED
    assert stored_hashes(service, ids["gone"]) == digests(b"gone")
    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, run.run_id)]
    assert kinds.count("file_failed") == 1
    assert kinds.count("file_hashed") == 2
    assert any("it is back" in message["message"] for message in job_messages(service, job_id))


def test_a_trigger_of_labdrive_itself_starts_a_run(service: LocalService, ledger: Ledger, container: str) -> None:
    ids = fill(service, {"a": b"a"}, container_id=container)

    answer = service.ask_sandbox(
        "POST", "/api/function/hashmill/run", {"container_id": container, "files": {"ids": [ids["a"]]}}
    )

    wait_until(lambda: stored_hashes(service, ids["a"]) == digests(b"a"), timeout_s=30)
    wait_until(lambda: job_status(service, answer["job_id"]) == "COMPLETED", timeout_s=30)


def test_the_keys_of_an_event_are_nowhere_but_sealed(
    service: LocalService, ledger: Ledger, container: str, tmp_path: Path
) -> None:
    fill(service, {"a": b"a"}, container_id=container)
    event = service.event(new_job(service, container_id=container), container_id=container)
    run_id = service.post(event)["run_id"]
    with pytest.raises(urllib.error.HTTPError):
        service.post({**event, "labdrive": {"job": {"id": True}}})

    seen_live = _everything_written(service)
    ended_run(ledger, run_id)
    seen_after = _everything_written(service)

    for place, content in [*seen_live, *seen_after]:
        for key in (USER_KEY, ROOT_KEY, service.seal_key):
            assert key.encode() not in content, f"a key stands in {place}"


def _everything_written(service: LocalService) -> list[tuple[str, bytes]]:
    """Return what a thief of the broker, the database files, the logs or the pages would have."""
    found = [
        (path.name, path.read_bytes())
        for path in service.folder.rglob("*")
        if path.is_file() and not path.name.startswith("sandbox")
    ]
    if service.ledger_url.startswith("sqlite"):
        file = Path(service.ledger_url.removeprefix("sqlite:///"))
        found += [(path.name, path.read_bytes()) for path in file.parent.glob(f"{file.name}*")]
    import redis

    with redis.Redis.from_url(service.redis.url) as broker:
        for key in broker.scan_iter():
            found.append((f"redis {key!r}", broker.dump(key) or b""))
    for path in ("/v1/runs", "/metrics"):
        found.append((path, json.dumps(service.get(f"{service.intake_url}{path}")).encode()))
    return found


def test_ids_of_files_are_found_by_path(service: LocalService, container: str) -> None:
    ids = fill(service, {"x/y": b"1"}, container_id=container)

    assert file_ids(service, container_id=container) == ids
