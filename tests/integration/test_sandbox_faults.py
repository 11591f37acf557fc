"""Trouble on request, as a client meets it over HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from hashmill.sandbox import FaultAction, FaultRule
from tests.helpers.sandbox import Caller, calling, sandbox_config
from tests.helpers.wait import wait_until_async


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling(sandbox_config()) as caller:
        yield caller


async def _say(caller: Caller, job_id: str) -> int:
    return (await caller.call("POST", f"/api/job/{job_id}/message", json={"message": "x"})).status


async def test_a_status_fault_answers_in_place_of_the_platform_as_often_as_asked(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")
    rule = {
        "match": {"method": "POST", "path_regex": "/message$"},
        "after": 1,
        "times": 2,
        "action": "status",
        "code": 429,
        "headers": {"Retry-After": "7"},
    }
    assert (await caller.call("POST", "/sandbox/faults", json=[rule])).status == 200

    answers = [await caller.call("POST", f"/api/job/{job_id}/message", json={"message": str(at)}) for at in range(4)]

    assert [answer.status for answer in answers] == [200, 429, 429, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert answers[1].body["success"] is False
    assert [message.message for message in caller.sandbox.messages(job_id)] == ["0", "3"]
    assert [(call.status, call.fault) for call in caller.sandbox.calls()] == [
        (200, ""),
        (429, "status"),
        (429, "status"),
        (200, ""),
    ]
    (told,) = (await caller.call("GET", "/sandbox/faults")).result
    assert (told["seen"], told["met"]) == (3, 2)


async def test_cleared_faults_leave_the_platform_as_it_was(caller: Caller) -> None:
    caller.sandbox.set_faults(FaultRule(action=FaultAction.STATUS, code=500))
    assert (await caller.call("GET", "/api/container/1")).status == 500

    assert (await caller.call("DELETE", "/sandbox/faults")).status == 200

    assert (await caller.call("GET", "/api/container/1")).status == 200


async def test_a_fault_that_takes_effect_answers_wrong_after_the_work_was_done(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")
    caller.sandbox.set_faults(FaultRule(action=FaultAction.STATUS, code=502, takes_effect=True, times=1))

    assert await _say(caller, job_id) == 502
    assert len(caller.sandbox.messages(job_id)) == 1


async def test_a_body_of_choice_is_sent_as_it_is(caller: Caller) -> None:
    refused = {"success": False, "msg": "no"}
    caller.sandbox.set_faults(
        FaultRule(action=FaultAction.STATUS, code=200, body=refused, times=1),
        FaultRule(action=FaultAction.STATUS, code=503, body="plain words", times=1),
    )

    assert (await caller.call("GET", "/api/container/1")).body == refused
    assert (await caller.call("GET", "/api/container/1")).body == "plain words"


async def test_a_page_comes_where_json_was_asked_for(caller: Caller) -> None:
    caller.sandbox.set_faults(FaultRule(action=FaultAction.HTML, code=200))

    answer = await caller.call("GET", "/api/container/1")

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "<html>" in answer.body


async def test_what_says_it_is_json_is_none(caller: Caller) -> None:
    caller.sandbox.set_faults(FaultRule(action=FaultAction.NOT_JSON))

    with pytest.raises(ValueError, match="Expecting"):
        await caller.call("GET", "/api/container/1")


async def test_an_answer_that_is_cut_was_work_done_and_cannot_be_read(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")
    caller.sandbox.set_faults(FaultRule(action=FaultAction.CUT, times=1))

    with pytest.raises(aiohttp.ClientPayloadError):
        await _say(caller, job_id)

    assert len(caller.sandbox.messages(job_id)) == 1
    assert await _say(caller, job_id) == 200


async def test_a_late_answer_comes_late_and_right(caller: Caller) -> None:
    caller.sandbox.set_faults(FaultRule(action=FaultAction.DELAY, delay_s=0.3))

    began_s = time.monotonic()
    answer = await caller.call("GET", "/api/container/1")

    assert time.monotonic() - began_s >= 0.3
    assert answer.result["id"] == "1"


async def test_a_call_that_hangs_is_written_down_changes_nothing_and_ends_with_the_sandbox(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")
    caller.sandbox.set_faults(FaultRule(action=FaultAction.HANG, times=1))

    hanging = asyncio.create_task(_say(caller, job_id))
    await wait_until_async(lambda: caller.sandbox.count_calls() == 1)
    assert await _say(caller, job_id) == 200
    assert not hanging.done()
    assert [call.status for call in caller.sandbox.calls()] == [None, 200]

    began_s = time.monotonic()
    await caller.sandbox.stop()
    assert time.monotonic() - began_s < 2
    assert await asyncio.wait_for(hanging, 5) == 503


async def test_faults_do_not_meet_the_sandbox_s_own_routes_and_pages(caller: Caller) -> None:
    caller.sandbox.set_faults(FaultRule(action=FaultAction.STATUS, code=500))

    assert (await caller.call("GET", "/sandbox/calls")).status == 200
    assert (await caller.call("GET", "/", key=None)).status == 200


async def test_a_rule_that_cannot_be_meant_is_refused_and_the_older_ones_stay(caller: Caller) -> None:
    caller.sandbox.set_faults(FaultRule(action=FaultAction.STATUS, code=500))

    assert (await caller.call("POST", "/sandbox/faults", json=[{"action": "explode"}])).status == 422

    assert (await caller.call("GET", "/api/container/1")).status == 500
