import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from hashmill.ledger import runs
from hashmill.ledger.tables import entries, secrets
from hashmill.parts.redis import Redis
from tests.helpers.intake import API, CANARY, OpenDoor, closed_port, event, open_door
from tests.helpers.wait import wait_until_async

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def door(ledger_url: str) -> AsyncIterator[OpenDoor]:
    async with open_door(ledger_url, body_max_bytes=4096) as opened:
        yield opened


@pytest.fixture
async def strict_door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    """For what is refused before any ledger is asked."""
    async with open_door(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", body_max_bytes=4096) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/v1/events", "/"])
async def test_an_event_becomes_a_run_although_the_broker_is_away(door: OpenDoor, path: str) -> None:
    answered = await door.post(event(), path)

    run_id = answered.json["run_id"]
    assert answered.status == 202
    assert answered.json == {"run_id": run_id, "status_url": f"/v1/runs/{run_id}"}
    assert answered.headers["Location"] == f"/v1/runs/{run_id}"
    assert (await door.get(answered.headers["Location"])).json["state"] == "accepted"


async def test_fifty_posts_of_one_event_at_once_make_one_run(door: OpenDoor) -> None:
    answers = await asyncio.gather(*(door.post(event()) for _ in range(50)))

    def counted(connection: sa.Connection) -> tuple[int, int, int]:
        kept = connection.execute(sa.select(sa.func.count()).select_from(secrets)).scalar_one()
        told = connection.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one()
        return len(runs.listed(connection)), kept, told

    assert sorted(answered.status for answered in answers) == [200] * 49 + [202]
    assert len({answered.raw for answered in answers}) == 1
    assert await door.tools.ledger.read(counted) == (1, 1, 1)


async def test_the_same_key_with_the_same_body_is_the_same_run(door: OpenDoor) -> None:
    first, second = await door.post(event(), key="k 1"), await door.post(event(), key="k 1")

    assert (first.status, second.status) == (202, 200)
    assert first.json == second.json


async def test_the_same_key_with_another_body_is_a_conflict(door: OpenDoor) -> None:
    await door.post(event(job_id="1"), key="k")

    answered = await door.post(event(job_id="2"), key="k")

    assert answered.status == 409
    assert answered.json["type"] == "urn:hashmill:problem:idempotency-conflict"
    assert answered.headers["Content-Type"] == "application/problem+json"


async def test_another_key_makes_another_run_of_the_same_event(door: OpenDoor) -> None:
    first = await door.post(event(), key="k1")
    second = await door.ask("POST", "/v1/events", json=event(), headers={"webhook-id": "k2"})

    assert (first.status, second.status) == (202, 202)
    assert first.json["run_id"] != second.json["run_id"]


@pytest.mark.parametrize("key", ["", "ä", "a\tb", "x" * 256])
async def test_a_key_that_is_not_short_printable_ascii_is_refused(strict_door: OpenDoor, key: str) -> None:
    answered = await strict_door.post(event(), key=key)

    assert answered.status == 400
    assert list(answered.faults) == ["Idempotency-Key"]


async def test_two_different_keys_are_refused(strict_door: OpenDoor) -> None:
    headers = {"Idempotency-Key": "a", "webhook-id": "b"}

    answered = await strict_door.ask("POST", "/v1/events", json=event(), headers=headers)

    assert answered.status == 400


async def test_every_fault_is_told_at_once_with_its_path(strict_door: OpenDoor) -> None:
    wrong = event(params={"algorithms": ["md5", "md6"], "priority": 11})
    del wrong["api"]["key_user"]
    wrong["labdrive"]["job"]["id"] = ["1"]

    answered = await strict_door.post(wrong)

    assert answered.status == 422
    assert answered.json["title"] == "Unprocessable Entity"
    assert set(answered.faults) == {
        "$.api.key_user",
        "$.labdrive.job.id",
        "$.function_params.algorithms",
        "$.function_params.priority",
    }
    assert "sha3-256" in answered.faults["$.function_params.algorithms"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 4000])
async def test_what_is_no_json_object_is_told_so(strict_door: OpenDoor, body: bytes) -> None:
    answered = await strict_door.ask("POST", "/v1/events", data=body, headers={"Content-Type": "application/json"})

    assert answered.status == 422
    assert list(answered.faults) == ["$"]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "application/jsonx", ";"],
)
async def test_another_content_type_is_refused(strict_door: OpenDoor, content_type: str) -> None:
    answered = await strict_door.ask(
        "POST", "/v1/events", data=json.dumps(event()).encode(), headers={"Content-Type": content_type}
    )

    assert answered.status == 415


@pytest.mark.parametrize("content_type", ["application/json;charset=UTF-8", 'Application/JSON; charset="utf-8"'])
async def test_a_charset_may_stand_in_the_content_type(strict_door: OpenDoor, content_type: str) -> None:
    answered = await strict_door.ask(
        "POST", "/v1/events", data=json.dumps(event()).encode(), headers={"Content-Type": content_type}
    )

    assert answered.status == 202


async def test_a_body_over_the_limit_is_refused(strict_door: OpenDoor) -> None:
    answered = await strict_door.post(event(params={"x": "y" * 5000}))

    assert answered.status == 413
    assert "4096" in answered.json["detail"]


async def test_a_body_over_the_limit_is_refused_also_when_its_length_is_not_told(strict_door: OpenDoor) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    answered = await strict_door.ask("POST", "/v1/events", data=chunks(), headers={"Content-Type": "application/json"})

    assert answered.status == 413
    assert answered.json["type"] == "urn:hashmill:problem:too-large"


async def test_a_body_of_exactly_the_limit_is_taken(strict_door: OpenDoor) -> None:
    body = json.dumps(event()).encode().ljust(4096)

    answered = await strict_door.ask("POST", "/v1/events", data=body, headers={"Content-Type": "application/json"})

    assert answered.status == 202


async def test_a_body_whose_chunks_are_broken_is_told_so(strict_door: OpenDoor) -> None:
    reader, writer = await asyncio.open_connection(*strict_door.address)
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    answered = await reader.read()
    writer.close()

    assert answered.split(b" ")[1] == b"400"


async def test_a_caller_who_hangs_up_in_the_middle_of_a_body_is_no_fault_of_the_service(
    strict_door: OpenDoor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hashmill.intake")
    _, writer = await asyncio.open_connection(*strict_door.address)
    writer.write(HEAD + b"Content-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    await wait_until_async(lambda: [r for r in caplog.records if r.message == "request"], what="the request is over")

    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_an_address_that_is_not_allowed_is_a_fault_of_the_event(door: OpenDoor) -> None:
    answered = await door.post(event(url="https://elsewhere.example.org"))

    assert answered.status == 422
    assert answered.json["type"] == "urn:hashmill:problem:origin-refused"
    assert list(answered.faults) == ["$.api.url"]


@pytest.mark.parametrize("url", ["sqlite:////no/such/ledger", "postgresql+psycopg://no:such@127.0.0.1:{port}/ledger"])
async def test_a_ledger_that_is_away_asks_the_caller_to_come_again(url: str) -> None:
    async with open_door(url.format(port=closed_port()), upgraded=False) as door:
        answered = await door.post(event())

    assert answered.status == 503
    assert int(answered.headers["Retry-After"]) > 0
    assert not re.search("no/such|127.0.0.1", answered.raw.decode())


async def test_the_bell_is_rung_when_there_is_a_broker(ledger_url: str, redis_server: Redis) -> None:
    async with open_door(ledger_url, broker_url=redis_server.url) as door:
        before = door.tools.queue.waiting() or {"runs": 0}
        await door.accepted()

        await wait_until_async(lambda: (door.tools.queue.waiting() or {}).get("runs") == before["runs"] + 1)


def bytes_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_the_keys_are_in_no_file_of_the_ledger(tmp_path: Path) -> None:
    async with open_door(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as door:
        await door.accepted()

        stored = bytes_under(tmp_path)

    assert API.encode() in stored
    assert CANARY.encode() not in stored
