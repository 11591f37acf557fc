import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hashmill.domain.errors import ConfigFault
from hashmill.domain.secret import Secret
from hashmill.intake.config import IntakeConfig
from hashmill.intake.routes import operations
from hashmill.intake.server import make_app
from hashmill.ledger import leases
from tests.helpers.intake import CANARY, TOKEN, OpenDoor, event, open_door

OPEN = {"/", "/healthz", "/readyz", "/page/page.css", "/page/page.js", "/page/mark.svg"}
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"


@pytest.fixture
async def door(url: str) -> AsyncIterator[OpenDoor]:
    async with open_door(url) as opened:
        yield opened


@pytest.fixture
async def locked_door(url: str) -> AsyncIterator[OpenDoor]:
    async with open_door(url, token=TOKEN) as opened:
        yield opened


async def test_every_route_but_the_open_ones_needs_the_token(locked_door: OpenDoor) -> None:
    answers = {
        (operation.method, operation.path): await locked_door.ask(operation.method, operation.path)
        for operation in operations()
    }

    unlocked = {(method, path) for (method, path), answered in answers.items() if answered.status != 401}
    assert unlocked == {("GET", path) for path in OPEN}
    for answered in answers.values():
        if answered.status == 401:
            assert answered.headers["WWW-Authenticate"] == 'Bearer realm="hashmill"'
            assert answered.json["type"] == "urn:hashmill:problem:unauthorized"


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer ä"]
)
async def test_a_wrong_token_opens_nothing(locked_door: OpenDoor, header: str) -> None:
    answered = await locked_door.ask("GET", "/v1/runs", headers={"Authorization": header})

    assert answered.status == 401


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN}"])
async def test_the_right_token_opens(locked_door: OpenDoor, header: str) -> None:
    answered = await locked_door.ask("POST", "/", json=event(), headers={"Authorization": header})

    assert answered.status == 202


async def test_without_the_token_nobody_learns_which_addresses_there_are(locked_door: OpenDoor) -> None:
    assert (await locked_door.get("/nothing")).status == 401
    assert (await locked_door.ask("GET", "/nothing", headers=RIGHT)).status == 404


def test_a_door_without_token_opens_on_loopback_only(door: OpenDoor) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", ""):  # noqa: S104 - it must be refused
        with pytest.raises(ConfigFault, match="HASHMILL_INTAKE__BEARER_TOKEN"):
            make_app(door.tools, IntakeConfig(host=host, bearer_token=Secret("")))


async def test_a_port_that_is_taken_is_a_fault_that_says_what_to_set(door: OpenDoor, url: str) -> None:
    with pytest.raises(ConfigFault, match="HASHMILL_INTAKE__PORT"):
        async with open_door(url, port=door.address[1]):
            pass


async def test_a_wrong_address_and_a_wrong_method_are_problems(door: OpenDoor) -> None:
    nothing, wrong = await door.get("/v2/events"), await door.ask("DELETE", "/v1/events")

    assert (nothing.status, wrong.status) == (404, 405)
    assert wrong.headers["Allow"] == "POST"
    assert {nothing.headers["Content-Type"], wrong.headers["Content-Type"]} == {"application/problem+json"}


async def test_a_fault_of_our_own_is_told_without_its_text(door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    def broken(connection: Any) -> None:
        leases.take(connection, "leader", "a", lease_s=5)
        connection.exec_driver_sql("UPDATE leases SET detail = ?", (f"no JSON {CANARY}",))

    await door.tools.ledger.write(broken)

    answered = await door.get("/v1/workers")

    assert answered.status == 500
    assert answered.json == {
        "type": "urn:hashmill:problem:internal",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "this is a fault of the service; it is in its log",
    }
    (record,) = [record for record in caplog.records if record.message == "request_failed"]
    told = vars(record)
    assert (told["route"], told["error"]) == ("/v1/workers", "JSONDecodeError")
    assert "leases.py" in " ".join(told["places"])
    assert record.exc_info is None
    assert CANARY not in str(told)


async def test_one_line_is_logged_for_each_request_without_its_query(
    door: OpenDoor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hashmill.intake")

    await door.get(f"/v1/runs?job_id={CANARY}")

    (told,) = [vars(record) for record in caplog.records if record.message == "request"]
    assert (told["method"], told["path"], told["status"]) == ("GET", "/v1/runs", 200)
    assert told["took_s"] > 0
    assert CANARY not in str(told)


async def test_a_key_is_in_no_answer_and_no_log(locked_door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run = await locked_door.ask("POST", "/v1/events", json=event(), headers=RIGHT)
    wrong = event()
    wrong["api"]["key_user"] = f"{CANARY} with blanks"
    wrong["api"]["key_root"] = [CANARY]
    asked = [
        await locked_door.ask("POST", "/v1/events", json=wrong, headers=RIGHT),
        await locked_door.ask("POST", "/v1/events", json=event(url="https://elsewhere.example"), headers=RIGHT),
        await locked_door.ask(
            "POST", "/v1/events", data=f'{{"{CANARY}', headers={**RIGHT, "Content-Type": "application/json"}
        ),
        run,
    ]
    for below in ("", "/files", "/entries"):
        asked.append(await locked_door.ask("GET", f"/v1/runs/{run.json['run_id']}{below}", headers=RIGHT))
    for path in ("/v1/runs", "/v1/overview", "/v1/workers", "/metrics", "/openapi.json"):
        asked.append(await locked_door.ask("GET", path, headers=RIGHT))

    seen = b"".join(answered.raw + str(answered.headers).encode() for answered in asked)
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert CANARY.encode() not in seen
    assert CANARY not in logged
    assert TOKEN.encode() not in seen
    assert TOKEN not in logged


async def test_what_is_no_http_is_logged_without_what_was_in_it(
    door: OpenDoor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reader, writer = await asyncio.open_connection(*door.address)
    writer.write(f"GET /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CANARY}\x00\r\n\r\n".encode())
    answered = await reader.read()
    writer.close()

    assert answered.split(b" ")[1] == b"400"
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert CANARY not in " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


async def test_the_page_and_its_parts_come_with_a_strict_policy(door: OpenDoor) -> None:
    for path, content_type in {
        "/": "text/html",
        "/page/page.css": "text/css",
        "/page/page.js": "text/javascript",
        "/page/mark.svg": "image/svg+xml",
    }.items():
        answered = await door.get(path)
        policy = answered.headers["Content-Security-Policy"]

        assert answered.status == 200
        assert answered.headers["Content-Type"] == f"{content_type}; charset=utf-8"
        assert answered.headers["X-Content-Type-Options"] == "nosniff"
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy


async def test_head_is_answered_where_get_is(door: OpenDoor) -> None:
    answered = await door.ask("HEAD", "/healthz")

    assert (answered.status, answered.raw) == (200, b"")


async def test_the_openapi_document_is_whole(locked_door: OpenDoor) -> None:
    document = (await locked_door.ask("GET", "/openapi.json", headers=RIGHT)).json

    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    schemas = document["components"]["schemas"]
    assert document["openapi"].startswith("3.1.")
    assert told == {(operation.method, operation.path) for operation in operations()}
    assert {"EventBody", "ReplayBody", "ProblemAnswer"} <= set(schemas)
    for ref in _refs(document):
        assert ref.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["responses"]
            assert all(response["description"] for response in operation["responses"].values())
            in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert in_path == {"run_id"} if "{run_id}" in path else not in_path
            assert ("401" in operation["responses"]) is (operation.get("security") != [])


async def test_answers_are_what_the_openapi_document_says(door: OpenDoor) -> None:
    document = (await door.get("/openapi.json")).json
    run_id = await door.accepted()

    async def checked(path: str, told: str) -> None:
        answered = await door.get(path)
        content = document["paths"][told]["get"]["responses"][str(answered.status)]["content"]
        schema = content[answered.headers["Content-Type"].split(";")[0]]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answered.json)

    for below in ("", "/files", "/entries"):
        await checked(f"/v1/runs/{run_id}{below}", "/v1/runs/{run_id}" + below)
        await checked(f"/v1/runs/nothing{below}", "/v1/runs/{run_id}" + below)
    for path in ("/v1/runs", "/v1/overview", "/v1/workers", "/healthz", "/readyz"):
        await checked(path, path)


async def test_the_event_of_the_seed_is_what_the_document_asks_for(door: OpenDoor) -> None:
    document = (await door.get("/openapi.json")).json
    schema = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": document["components"]})

    assert validator.is_valid(json.loads(json.dumps(event())))
    assert not validator.is_valid({"api": {}})


def _refs(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for inner in value.values() for ref in _refs(inner)]
    if isinstance(value, list):
        return [ref for inner in value for ref in _refs(inner)]
    return []
