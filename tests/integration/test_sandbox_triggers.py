"""A function of the sandbox posts the event a LABDRIVE trigger posts, and the job tells how it went."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hashmill.parts.s3 import S3Server
from hashmill.sandbox import IntakeConfig, StorageConfig
from tests.helpers.sandbox import ROOT_KEY, USER_KEY, Caller, calling, sandbox_config


class Intake:
    """Stands where a function's address stands: keeps what was posted, answers as told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 202
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.events.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        return web.json_response({"run_id": "r-1"}, status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def intake() -> AsyncIterator[Intake]:
    intake = Intake()
    app = web.Application()
    app.router.add_post("/v1/events", intake.take)
    async with TestServer(app) as server:
        intake.url = str(server.make_url("/v1/events"))
        yield intake


@asynccontextmanager
async def _with_intake(url: str, **more: Any) -> AsyncIterator[Caller]:
    config = IntakeConfig(url=url, bearer_token="token-of-intake", timeout_s=2.0)
    async with calling(sandbox_config(intake=config, **more)) as caller:
        yield caller


async def test_a_function_run_on_demand_posts_exactly_the_documented_event(intake: Intake) -> None:
    async with _with_intake(intake.url) as caller:
        body = {
            "container_id": 1,
            "files": {"ids": [5, "6"], "paths": ["a//b"]},
            "function_params": {"algorithms": "md5"},
        }
        result = (await caller.call("POST", "/api/function/hashmill/run", json=body)).result

        assert result["intake"]["status"] == 202
        assert json.loads(result["intake"]["answer"]) == {"run_id": "r-1"}
        assert intake.events == [
            {
                "api": {"url": caller.sandbox.url, "key_user": USER_KEY, "key_root": ROOT_KEY},
                "labdrive": {
                    "container": {"id": "1"},
                    "user": {"id": "2"},
                    "files": {"ids": ["5", "6"], "paths": ["a//b"]},
                    "job": {"id": result["job_id"]},
                    "trigger": {"id": "0", "type": "", "regex": ""},
                    "function": {"id": "7", "key": "hashmill"},
                },
                "function_params": {"depth": "full", "algorithms": "md5"},
            }
        ]
        assert intake.headers[0]["Authorization"] == "Bearer token-of-intake"
        assert intake.headers[0]["Content-Type"] == "application/json"
        assert caller.sandbox.job(result["job_id"]).statuses == ["PENDING"]
        assert caller.sandbox.job(result["job_id"]).name == "Fixity"


@pytest.mark.parametrize("status", [302, 422, 503])
async def test_a_refused_trigger_is_not_repeated_and_its_job_failed(status: int, intake: Intake) -> None:
    intake.status = status
    async with _with_intake(intake.url) as caller:
        answer = await caller.call("POST", "/api/function/hashmill/run", json={"container_id": "1"})
        job = caller.sandbox.job(answer.body["result"]["job_id"])

    assert answer.status == 502
    assert answer.body["result"]["intake"]["status"] == status
    assert len(intake.events) == 1
    assert job.statuses == ["PENDING", "FAILED"]
    assert str(status) in job.history[-1].reason
    assert "run_id" in job.history[-1].reason


async def test_an_intake_that_is_not_there_fails_the_job_with_the_reason() -> None:
    async with _with_intake("http://127.0.0.1:9/v1/events") as caller:
        answer = await caller.call("POST", "/api/function/hashmill/run", json={"container_id": "1"})
        job = caller.sandbox.job(answer.body["result"]["job_id"])

    assert answer.status == 502
    assert job.status == "FAILED"
    assert "ClientConnectorError" in job.history[-1].reason


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nobody", {"container_id": "1"}, 404),
        ("hashmill", {}, 422),
        ("hashmill", {"container_id": "9"}, 404),
        ("hashmill", {"container_id": "1", "files": []}, 200),
        ("hashmill", {"container_id": "1", "files": [1]}, 422),
        ("hashmill", {"container_id": "1", "files": {"ids": "5"}}, 422),
        ("hashmill", {"container_id": "1", "files": {"paths": [5]}}, 422),
    ],
)
async def test_a_run_that_cannot_be_meant_makes_no_job(
    path: str, body: dict[str, Any], status: int, intake: Intake
) -> None:
    async with _with_intake(intake.url) as caller:
        answer = await caller.call("POST", f"/api/function/{path}/run", json=body)

        assert answer.status == status
        assert len(caller.sandbox.jobs()) == len(intake.events) == (status == 200)


async def test_an_upload_runs_the_container_s_function_for_paths_its_regex_takes(intake: Intake, s3: S3Server) -> None:
    storage = StorageConfig(
        endpoint_url=s3.endpoint_url,
        bucket=s3.make_bucket(),
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key,
    )
    async with _with_intake(intake.url, storage=storage, on_upload="hashmill", regex=r"\.tif$") as caller:
        file = (await caller.upload("a.tif", b"x")).result
        await caller.upload("a.txt", b"x")

        (event,) = intake.events
        (job,) = caller.sandbox.jobs("1")
    assert event["labdrive"]["trigger"] == {"id": "7", "type": "CREATED", "regex": r"\.tif$"}
    assert event["labdrive"]["files"] == {"ids": [file["id"]], "paths": []}
    assert event["labdrive"]["job"] == {"id": job.id}


async def test_an_intake_that_starts_later_is_told_to_the_running_sandbox(intake: Intake) -> None:
    async with calling(sandbox_config()) as caller:
        before = await caller.call("POST", "/api/function/hashmill/run", json={"container_id": "1"})
        caller.sandbox.set_intake(IntakeConfig(url=intake.url))
        after = await caller.call("POST", "/api/function/hashmill/run", json={"container_id": "1"})

    assert (before.status, after.status, len(intake.events)) == (502, 200, 1)
    assert "Authorization" not in intake.headers[0]
