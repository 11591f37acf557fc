"""What is posted wrongly is told so, whole; what is accepted while ledger, broker or LABDRIVE are away is not lost."""

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from hashmill.domain.digest import KNOWN_ALGORITHMS
from hashmill.domain.job import RunState
from hashmill.ledger import files, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.parts.postgres import Postgres, start_postgres
from hashmill.parts.redis import Redis, start_redis
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import USER_KEY, LocalService, local_service
from tests.helpers.road import (
    CONTAINERS,
    QUICK,
    assert_whole,
    digests,
    ended_run,
    fill,
    job_status,
    new_job,
    stored_hashes,
)
from tests.helpers.servers import work_folder
from tests.helpers.tcp_gate import TcpGate
from tests.helpers.wait import wait_until

BODY_MAX_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A service none of whose parts is shared with another, so that each may be taken away."""

    service: LocalService
    ledger: Ledger
    postgres: Postgres
    redis: Redis
    api_gate: TcpGate

    def run(self, run_id: str) -> Run:
        run = self.ledger.read_now(runs.get, run_id)
        assert run is not None
        return run


@pytest.fixture(scope="module")
def site(s3: S3Server) -> Iterator[Site]:
    with (
        work_folder("outage") as folder,
        work_folder("outage-pg") as postgres_folder,
        start_postgres(postgres_folder) as postgres,
        start_redis(folder / "redis") as redis,
        TcpGate() as api_gate,
        local_service(
            folder,
            workers=1,
            containers=CONTAINERS,
            redis=redis,
            s3=s3,
            ledger_url=postgres.fresh_database(),
            labdrive_url=api_gate.url,
            environ={
                **QUICK,
                "HASHMILL_INTAKE__BODY_MAX_BYTES": str(BODY_MAX_BYTES),
                "HASHMILL_LEDGER__TIMEOUT_S": "3",
                "HASHMILL_BROKER__PUBLISH_TIMEOUT_S": "1",
            },
        ) as service,
    ):
        api_gate.lead_to(service.sandbox_url)
        ledger = Ledger(service.ledger_url)
        yield Site(service=service, ledger=ledger, postgres=postgres, redis=redis, api_gate=api_gate)
        ledger.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def faults(self) -> dict[str, str]:
        return {fault["path"]: fault["problem"] for fault in self.json["faults"]}


def post(
    service: LocalService, body: Any, *, content_type: str = "application/json", chunked: bool = False
) -> Answered:
    """Post to the intake; what is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    door = http.client.HTTPConnection(urlsplit(service.intake_url).netloc, timeout=60)
    try:
        headers = {"Content-Type": content_type, **({"Transfer-Encoding": "chunked"} if chunked else {})}
        parts = [data[at : at + 1000] for at in range(0, len(data), 1000)]
        door.request(
            "POST", "/v1/events", body=iter(parts) if chunked else data, headers=headers, encode_chunked=chunked
        )
        answer = door.getresponse()
        return Answered(status=answer.status, headers=dict(answer.getheaders()), json=json.loads(answer.read()))
    finally:
        door.close()


def assert_refused(site: Site, answered: Answered, status: int, kind: str) -> None:
    assert (answered.status, answered.json["type"]) == (status, f"urn:hashmill:problem:{kind}")
    assert answered.headers["Content-Type"] == "application/problem+json"
    assert USER_KEY not in json.dumps(answered.json)


@pytest.fixture
def no_run(site: Site) -> Iterator[None]:
    """Holds the test to it that no run is made."""
    before = site.ledger.read_now(runs.count_by_state)
    yield
    assert site.ledger.read_now(runs.count_by_state) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"api": 1, "api": 2}', b"[" * 10_000], ids=range(6))
@pytest.mark.usefixtures("no_run")
def test_what_is_no_json_object_is_told_so(site: Site, body: bytes) -> None:
    answered = post(site.service, body)

    assert_refused(site, answered, 422, "event-invalid")
    assert list(answered.faults) == ["$"]


@pytest.mark.usefixtures("no_run")
def test_every_fault_of_an_event_is_told_at_once(site: Site) -> None:
    wrong = site.service.event("1", params={"algorithms": ["md5", "md6", "crc31"], "priority": "high", "mode": "guess"})
    wrong["api"] = {"url": "ftp://labdrive", "key_user": ["k"], "key_root": 7}
    wrong["labdrive"]["job"]["id"] = {"id": 1}
    wrong["labdrive"]["container"] = "5"
    wrong["labdrive"]["files"] = {"ids": "12", "paths": [1]}

    answered = post(site.service, wrong)

    assert_refused(site, answered, 422, "event-invalid")
    assert {
        "$.api.url",
        "$.api.key_user",
        "$.labdrive.job.id",
        "$.labdrive.container",
        "$.labdrive.files.ids",
        "$.function_params.algorithms",
        "$.function_params.priority",
        "$.function_params.mode",
    } <= set(answered.faults)
    told = answered.faults["$.function_params.algorithms"]
    assert "md6" in told
    assert "crc31" in told
    assert all(name in told for name in KNOWN_ALGORITHMS)


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
@pytest.mark.usefixtures("no_run")
def test_a_body_over_the_limit_is_refused(site: Site, chunked: bool) -> None:
    event = site.service.event("1", params={"note": "x" * BODY_MAX_BYTES})

    answered = post(site.service, event, chunked=chunked)

    assert_refused(site, answered, 413, "too-large")
    assert str(BODY_MAX_BYTES) in answered.json["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.usefixtures("no_run")
def test_another_content_type_is_refused(site: Site, content_type: str) -> None:
    answered = post(site.service, site.service.event("1"), content_type=content_type)

    assert_refused(site, answered, 415, "unsupported-type")


@pytest.mark.parametrize("url", ["https://elsewhere.example.org", "http://127.0.0.1:1", "http://169.254.169.254/api"])
@pytest.mark.usefixtures("no_run")
def test_an_address_nobody_allowed_is_never_called(site: Site, url: str) -> None:
    event = site.service.event("1")
    event["api"]["url"] = url

    answered = post(site.service, event)

    assert_refused(site, answered, 422, "origin-refused")
    assert list(answered.faults) == ["$.api.url"]


def test_while_the_ledger_is_away_nothing_is_accepted_and_afterwards_everything(site: Site, container: str) -> None:
    service = site.service
    ids = fill(service, {"a": b"a"}, container_id=container)
    job_id = new_job(service, container_id=container)
    event = service.event(job_id, container_id=container)

    site.postgres.stop()
    try:
        answered = post(service, event)
        ready = service.get(f"{service.intake_url}/readyz")
        alive = service.get(f"{service.intake_url}/healthz")
    finally:
        site.postgres.restart()

    assert_refused(site, answered, 503, "ledger-unavailable")
    assert int(answered.headers["Retry-After"]) > 0
    assert ready is None
    assert alive is not None

    again = post(service, event)

    assert again.status == 202, "the refused post had made a run"
    run = ended_run(site.ledger, again.json["run_id"])
    assert run.state is RunState.COMPLETED
    assert stored_hashes(service, ids["a"]) == digests(b"a")
    assert_whole(site.ledger, run)


def test_a_ledger_killed_in_the_middle_of_a_run_costs_only_time(site: Site, container: str) -> None:
    service = site.service
    bodies = {f"f{number}": bytes([number]) * 100_000 for number in range(60)}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)
    run_id = post(service, service.event(job_id, container_id=container)).json["run_id"]
    wait_until(lambda: site.ledger.read_now(files.count_by_state, run_id).get("done", 0) > 0, timeout_s=30)

    site.postgres.kill()
    site.postgres.restart()

    run = ended_run(site.ledger, run_id)
    assert run.state is RunState.COMPLETED
    assert {path: stored_hashes(service, ids[path]) for path in bodies} == {p: digests(b) for p, b in bodies.items()}
    assert job_status(service, job_id) == "COMPLETED"
    assert_whole(site.ledger, run)


def test_what_is_posted_while_the_broker_is_away_is_done_once_it_is_back(site: Site, container: str) -> None:
    service = site.service
    ids = fill(service, {"a": b"a"}, container_id=container)
    job_id = new_job(service, container_id=container)

    site.redis.stop()
    try:
        answered = post(service, service.event(job_id, container_id=container))
    finally:
        site.redis.restart()

    assert answered.status == 202
    run = ended_run(site.ledger, answered.json["run_id"])
    assert run.state is RunState.COMPLETED
    assert stored_hashes(service, ids["a"]) == digests(b"a")
    assert job_status(service, job_id) == "COMPLETED"
    assert_whole(site.ledger, run)


def test_hashing_goes_on_while_labdrive_is_away_and_the_reports_follow(site: Site, container: str) -> None:
    service = site.service
    bodies = {f"f{number}": bytes([number]) * 1000 for number in range(100)}
    ids = fill(service, bodies, container_id=container)
    job_id = new_job(service, container_id=container)
    run_id = post(service, service.event(job_id, container_id=container)).json["run_id"]
    wait_until(lambda: site.run(run_id).expanded_at_ms, timeout_s=30)

    site.api_gate.shut()
    try:
        wait_until(lambda: site.run(run_id).files_open == 0, timeout_s=30)
        hashed = site.run(run_id)
    finally:
        site.api_gate.open()

    assert (hashed.state, hashed.files_failed) == (RunState.SETTLED, 0)
    assert hashed.outbox_owed > 0
    run = ended_run(site.ledger, run_id)
    assert run.state is RunState.COMPLETED
    assert {path: stored_hashes(service, ids[path]) for path in bodies} == {p: digests(b) for p, b in bodies.items()}
    assert job_status(service, job_id) == "COMPLETED"
    assert_whole(site.ledger, run)
