from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hashmill.assemble import said_of_itself
from hashmill.hashing import fused
from hashmill.ledger import leases
from hashmill.parts.redis import Redis
from hashmill.settings import Settings
from tests.helpers.intake import OpenDoor, failed, hashed, new_file, open_door
from tests.helpers.wait import wait_until_async

AWAY = "sqlite:////no/such/folder/ledger.sqlite3"


@pytest.fixture
async def door(ledger_url: str) -> AsyncIterator[OpenDoor]:
    async with open_door(ledger_url) as opened:
        yield opened


async def alive(door: OpenDoor, name: str, *, slots: int, lease_s: float = 30.0, **more: object) -> None:
    await door.tools.ledger.write(
        leases.take,
        f"{leases.PROCESS}{name}",
        name,
        lease_s=lease_s,
        detail={"host": "one", "pid": 7, **more, "slots": slots},
    )


async def leads(door: OpenDoor, name: str) -> None:
    await door.tools.ledger.write(leases.take, "leader", name, lease_s=5.0)


def samples(text: bytes) -> dict[str, float]:
    """Every sample by its name and label values; a name twice, or text that is no exposition, is an error."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            name = " ".join([sample.name, *sample.labels.values()])
            assert name not in found
            found[name] = sample.value
    return found


async def test_a_process_lives_whatever_the_ledger_does() -> None:
    async with open_door(AWAY, upgraded=False) as door:
        answered = await door.get("/healthz")

    assert (answered.status, answered.json["status"]) == (200, "ok")


async def test_a_door_is_ready_while_the_broker_is_away(door: OpenDoor) -> None:
    answered = await door.get("/readyz")

    assert answered.status == 200
    assert answered.json == {"status": "ready", "ledger": "ok", "broker": "unavailable"}


async def test_a_door_is_not_ready_without_its_ledger() -> None:
    async with open_door(AWAY, upgraded=False) as door:
        answered = await door.get("/readyz")

    assert answered.status == 503
    assert answered.json["ledger"] == "unavailable"


@pytest.mark.parametrize(
    "path", ["/v1/runs", "/v1/overview", "/v1/workers", "/v1/runs/01890000-0000-7000-8000-000000000000"]
)
async def test_what_needs_the_ledger_says_so_when_it_is_away(path: str) -> None:
    async with open_door(AWAY, upgraded=False) as door:
        answered = await door.get(path)

    assert answered.status == 503
    assert "Retry-After" in answered.headers


async def test_a_broker_that_is_there_is_told(ledger_url: str, redis_server: Redis) -> None:
    async with open_door(ledger_url, broker_url=redis_server.url) as door:
        assert (await door.get("/readyz")).json["broker"] == "ok"
        assert set((await door.get("/v1/overview")).json["broker"]["waiting"]) == {"files", "big", "runs"}


async def test_the_overview_says_who_works_and_what_waits(door: OpenDoor) -> None:
    run_id = await door.accepted()
    await door.expand(run_id, [new_file(number) for number in range(3)])
    await alive(door, "a", slots=4)
    await alive(door, "b", slots=8)
    await alive(door, "gone", slots=16, lease_s=-1.0)
    await leads(door, "a")

    seen = (await door.get("/v1/overview")).json

    assert (seen["processes"], seen["slots"], seen["leader"]["process"]) == (2, 12, "a")
    assert seen["files"] == {"ready": 3, "queued": 0, "running": 0, "done": 0, "failed": 0}
    assert seen["runs"]["running"] == 1
    assert (seen["reports_owed"], seen["bytes_total"]) == (1, 3000)
    assert seen["oldest_ready_s"] >= 0
    assert seen["worries"] == ["The broker does not answer: accepted events wait in the ledger until it is back."]


async def test_the_overview_says_why_nothing_moves(door: OpenDoor) -> None:
    await door.accepted()

    worries = (await door.get("/v1/overview")).json["worries"]

    assert [worry.split(":")[0] for worry in worries] == [
        "The broker does not answer",
        "No process leads",
        "No worker lives",
    ]


async def test_workers_are_listed_with_what_they_say_of_themselves(door: OpenDoor) -> None:
    await alive(door, "a", slots=4)
    await alive(door, "gone", slots=16, lease_s=-1.0)

    seen = (await door.get("/v1/workers")).json

    assert (seen["leader"], seen["slots"]) == (None, 4)
    assert [(process["name"], process["alive"]) for process in seen["processes"]] == [("a", True), ("gone", False)]
    assert seen["processes"][0]["detail"] == {"host": "one", "pid": 7, "slots": 4}


async def test_metrics_tell_the_ledger_and_the_door(door: OpenDoor) -> None:
    run_id = await door.accepted()
    await door.post({"api": {}})
    await door.get(f"/v1/runs/{run_id}")
    await door.expand(run_id, [new_file(number) for number in range(3)])
    first, second, _ = await door.claim(run_id)
    await door.settle(run_id, [hashed(first), failed(second)])
    await alive(door, "a", slots=4)
    await leads(door, "a")

    told = samples((await door.get("/metrics")).raw)

    assert told["hashmill_runs running"] == 1
    assert told["hashmill_runs completed"] == 0
    assert (told["hashmill_files done"], told["hashmill_files failed"], told["hashmill_files running"]) == (1, 1, 1)
    assert (told["hashmill_outbox_rows owed"], told["hashmill_outbox_rows dead"]) == (1, 0)
    assert (told["hashmill_live_processes"], told["hashmill_live_slots"]) == (1, 4)
    assert 0 < told["hashmill_leader_lease_remaining_seconds"] <= 5
    assert (told["hashmill_ledger_up"], told["hashmill_broker_up"]) == (1, 0)
    assert told["hashmill_intake_events_total accepted"] == 1
    assert told["hashmill_intake_events_total event-invalid"] == 1
    assert told["hashmill_http_request_seconds_count GET /v1/runs/{run_id} 200"] == 1
    assert [name for name in told if run_id in name] == []


async def test_what_processes_find_away_and_have_on_trial_is_told_and_counted(door: OpenDoor) -> None:
    await alive(door, "old", slots=4)
    before = samples((await door.get("/metrics")).raw)
    away = [{"address": "http://s3", "for_s": 5.0, "reason": "no answer"}]
    await alive(door, "a", slots=4, on_trial=True, storages_away=away)
    await alive(door, "b", slots=4, on_trial=False, storages_away=away)

    seen = (await door.get("/v1/overview")).json
    after = samples((await door.get("/metrics")).raw)

    assert (seen["storages_away"], seen["on_trial"]) == (["http://s3"], 1)
    assert any("http://s3 is away for 5 seconds, as 2 of 3" in worry for worry in seen["worries"])
    names = ("hashmill_storages_away", "hashmill_suspects_on_trial")
    assert [(before[name], after[name]) for name in names] == [(0, 1), (0, 1)]


async def test_a_worker_whose_kernel_failed_its_self_test_is_seen(
    door: OpenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(kernel: str) -> dict[str, float]:
        return {f"hashmill_workers {name}": name == kernel for name in ("on", "slow", "absent", "off", "unknown")}

    async def seen() -> dict[str, float]:
        found = samples((await door.get("/metrics")).raw)
        return {name: value for name, value in found.items() if name.startswith("hashmill_workers ")}

    await alive(door, "a dispatcher", slots=0)
    await alive(door, "w", slots=4)
    assert await seen() == told("unknown")
    wrong = SimpleNamespace(Fused=lambda *_: SimpleNamespace(update=len, digest=lambda bit: b""), VERSION=1)
    monkeypatch.setattr(fused, "_trust", fused.Trust(cast(Any, wrong), ""))

    await alive(door, "w", **said_of_itself(Settings(), slots=4, queues=["files"]))

    assert await seen() == told("off")
    assert any("without their kernel" in worry for worry in (await door.get("/v1/overview")).json["worries"])


async def test_metrics_are_there_when_the_ledger_is_not() -> None:
    async with open_door(AWAY, upgraded=False) as door:
        await door.post({})
        told = samples((await door.get("/metrics")).raw)

    assert told["hashmill_ledger_up"] == 0
    assert told["hashmill_intake_events_total event-invalid"] == 1
    assert [name for name in told if name.startswith("hashmill_runs")] == []


async def test_a_broker_that_comes_back_is_seen(tmp_path: Path, redis_server: Redis) -> None:
    async with open_door(f"sqlite:///{tmp_path / 'l'}", broker_url=redis_server.url) as door:
        assert (await door.get("/readyz")).json["broker"] == "ok"

        async def answers() -> bool:
            return bool((await door.get("/v1/overview")).json["broker"]["state"] == "ok")

        await wait_until_async(answers)
