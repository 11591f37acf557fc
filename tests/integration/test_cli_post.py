"""`hashmill post` against a real intake over a real ledger, and against strangers."""

import asyncio
import json
from pathlib import Path

from hashmill.domain.job import RunState
from hashmill.ledger import runs
from hashmill.ledger.engine import Ledger
from tests.helpers.cli import Said, run_cli
from tests.helpers.intake import CANARY, TOKEN, closed_port, event, failed, new_file, open_door
from tests.helpers.ledger import get_run
from tests.helpers.scripted_api import answer, scripted_api
from tests.helpers.stocked_ledger import end_run
from tests.helpers.wait import wait_until_async


async def post(url: str, *args: str, body: object = None, token: str = "") -> Said:
    text = body if isinstance(body, str) else json.dumps(body or event())
    env = {"HASHMILL_INTAKE__BEARER_TOKEN": token or None}
    return await asyncio.to_thread(run_cli, "post", "-", "--intake", url, *args, env=env, input=text)


def run_ids(ledger: Ledger) -> list[str]:
    return [run.run_id for run in ledger.read_now(runs.listed)]


async def test_a_posted_event_becomes_a_run_and_its_address(ledger_url: str) -> None:
    async with open_door(ledger_url) as door:
        said = await post(door.url)
        again = await post(door.url)

        run_id = said.out.split()[1]
        assert said.code == again.code == 0
        assert said.out == f"run     {run_id}\nstatus  {door.url}/v1/runs/{run_id}\n"
        assert f"run     {run_id} (this event had made it before)" in again.out
        assert get_run(door.tools.ledger, run_id).state is RunState.ACCEPTED


async def test_json_says_the_same_to_programs(ledger_url: str) -> None:
    async with open_door(ledger_url) as door:
        said = await post(door.url, "--json", "--idempotency-key", "mine")

        assert said.json == {
            "run_id": said.json["run_id"],
            "status_url": f"{door.url}/v1/runs/{said.json['run_id']}",
            "made": True,
        }
        assert get_run(door.tools.ledger, said.json["run_id"]).idempotency_key == "mine"


async def test_a_functions_whole_address_will_do(ledger_url: str) -> None:
    async with open_door(ledger_url) as door:
        assert (await post(f"{door.url}/v1/events")).code == 0


async def test_an_event_in_a_file_is_read_from_it(ledger_url: str, tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event()))
    async with open_door(ledger_url) as door:
        said = await asyncio.to_thread(run_cli, "post", str(file), "--intake", door.url)

        assert said.code == 0


async def test_every_fault_of_an_event_is_shown_and_the_key_is_not(ledger_url: str) -> None:
    wrong = event(params={"algorithms": ["md7"]})
    del wrong["labdrive"]["job"]
    async with open_door(ledger_url) as door:
        said = await post(door.url, body=wrong)
        as_json = await post(door.url, "--json", body=wrong)

        assert said.code == as_json.code == 5
        assert "refused: 422 " in said.err
        assert "  $.labdrive.job: is required" in said.err
        assert "  $.function_params.algorithms" in said.err
        assert {fault["path"] for fault in as_json.json["faults"]} >= {"$.labdrive.job"}
        assert CANARY not in said.out + said.err + as_json.out


async def test_the_token_comes_from_the_environment_and_is_needed(ledger_url: str) -> None:
    async with open_door(ledger_url, token=TOKEN) as door:
        without, with_it = await post(door.url), await post(door.url, token=TOKEN)

        assert (without.code, with_it.code) == (5, 0)
        assert "401" in without.err


async def test_a_ledger_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    async with open_door(f"sqlite:///{tmp_path}/no-such-folder/l.sqlite3", upgraded=False) as door:
        said = await post(door.url)

        assert said.code == 4
        assert "the intake at" in said.err


async def test_an_intake_that_does_not_answer_is_named() -> None:
    url = f"http://127.0.0.1:{closed_port()}"

    said = await post(url)

    assert said.code == 4
    assert url in said.err


async def test_watching_follows_the_run_to_its_end(ledger_url: str) -> None:
    async with open_door(ledger_url) as door:
        watching = asyncio.create_task(post(door.url, "--watch", "--json"))
        await wait_until_async(lambda: run_ids(door.tools.ledger), what="the run is there")
        (run_id,) = run_ids(door.tools.ledger)
        await door.expand(run_id, [])
        await asyncio.to_thread(end_run, door.tools.ledger, get_run(door.tools.ledger, run_id))
        said = await watching

        lines = [json.loads(line) for line in said.out.splitlines()]
        assert said.code == 0
        assert (lines[-1]["run_id"], lines[-1]["state"]) == (run_id, "completed")


async def test_a_watched_run_that_fails_ends_with_1(ledger_url: str) -> None:
    async with open_door(ledger_url) as door:
        run_id = json.loads((await post(door.url, "--json")).out)["run_id"]
        await door.expand(run_id, [new_file(1)])
        await door.settle(run_id, [failed(file) for file in await door.claim(run_id)])
        await asyncio.to_thread(end_run, door.tools.ledger, get_run(door.tools.ledger, run_id))
        said = await post(door.url, "--watch")

        assert said.code == 1
        assert f"see `hashmill runs show {run_id}`" in said.out


async def test_a_server_that_is_no_intake_is_not_believed() -> None:
    async with scripted_api() as stranger:
        stranger.say(answer(b"<html>welcome</html>", content_type="text/html"))
        said = await post(stranger.url)

        assert said.code == 3
        assert "no intake of this version" in said.err


async def test_a_status_address_elsewhere_is_never_asked() -> None:
    async with scripted_api() as stranger:
        stranger.say(answer({"run_id": "r", "status_url": "http://127.0.0.1:1/v1/runs/r"}, status=202))
        said = await post(stranger.url, "--watch", token=TOKEN)

        assert said.code == 3
        assert "not asked" in said.err


async def test_an_address_that_is_none_is_a_setting_to_correct() -> None:
    assert (await post("ftp://somewhere")).code == 3
