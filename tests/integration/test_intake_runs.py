from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hashmill.domain.errors import ErrorClass
from hashmill.domain.origin import origin_of
from hashmill.ledger import entries, gates, leases
from hashmill.ledger.gates import GateKind
from tests.helpers.intake import OpenDoor, failed, hashed, new_file, open_door
from tests.helpers.ledger import save_slice

NOBODY = "01890000-0000-7000-8000-000000000000"
HOSTILE = '<img src=x onerror="alert(1)">/\u202egnp.exe\u0007/ё \'; DROP TABLE files; --'


@pytest.fixture
async def door(ledger_url: str) -> AsyncIterator[OpenDoor]:
    async with open_door(ledger_url, page_max=200) as opened:
        yield opened


@pytest.fixture
async def strict_door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    """For what is refused before any ledger is asked."""
    async with open_door(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", page_max=200) as opened:
        yield opened


async def half_done(door: OpenDoor) -> str:
    """A run of five files: one hashed, two failed in two ways, two still to do."""
    run_id = await door.accepted(job_id="7")
    await door.expand(run_id, [new_file(number) for number in range(4)] + [new_file(4, path=HOSTILE)])
    first, second, *_, last = await door.claim(run_id)
    await door.settle(run_id, [hashed(first), failed(second), failed(last, ErrorClass.S3_OFFLINE)])
    return run_id


async def walk(door: OpenDoor, path: str) -> list[dict[str, Any]]:
    """Follow `next` to the end, and hold the Link header to it."""
    items: list[dict[str, Any]] = []
    address: str | None = path
    while address:
        answered = await door.get(address)
        assert answered.status == 200, answered.raw
        items += answered.json["items"]
        address = answered.json["next"]
        assert answered.headers.get("Link") == (f'<{address}>; rel="next"' if address else None)
    return items


async def test_a_run_shows_progress_failures_and_what_is_owed(door: OpenDoor) -> None:
    run_id = await half_done(door)

    run = (await door.get(f"/v1/runs/{run_id}")).json

    assert run["state"] == "running"
    assert run["progress"] == {
        "files_total": 5,
        "files_open": 2,
        "files_done": 1,
        "files_failed": 2,
        "bytes_total": 5000,
        "bytes_done": 3000,
    }
    assert run["files"] == {"ready": 0, "queued": 0, "running": 2, "done": 1, "failed": 2}
    assert run["outbox"] == {"owed": 1, "dead": 0}
    assert run["eta_s"] >= 0
    assert run["algorithms"] == ["md5", "sha1", "sha256"]
    assert run["created_at"].endswith("Z")
    assert run["finished_at"] is None
    assert run["failures_complete"] is True
    assert [(group["error_class"], group["files"], group["sample_path"]) for group in run["failures"]] == [
        ("s3.not_found", 1, "folder/file 1"),
        ("s3.offline", 1, HOSTILE),
    ]


async def test_a_run_says_how_far_its_large_files_are_and_names_no_more_than_twenty(door: OpenDoor) -> None:
    run_id = await door.accepted(job_id="7")
    await door.expand(run_id, [new_file(number) for number in range(25)])
    first, *others = await door.claim(run_id)
    for file in (first, *others):
        save_slice(door.tools.ledger, run_id, file.file_no, offset_bytes=1 << 32, size_bytes=1 << 40, slices=1)
    await door.settle(run_id, [hashed(first)])

    seen = (await door.get(f"/v1/runs/{run_id}")).json["large_files"]

    assert len(seen) == 20
    assert first.file_no not in [file["file_no"] for file in seen]
    assert {(file["state"], file["offset_bytes"], file["size_bytes"], file["slices"]) for file in seen} == {
        ("running", 1 << 32, 1 << 40, 1)
    }
    assert seen[0]["saved_at"].endswith("Z")


async def test_a_run_says_what_holds_it_back(door: OpenDoor) -> None:
    run_id = await half_done(door)
    api = (await door.get(f"/v1/runs/{run_id}")).json["api_url"]
    await door.tools.ledger.write(leases.take, "leader", "w", lease_s=30)
    await door.tools.ledger.write(
        gates.shut, origin_of(api), kind=GateKind.API, failures=5, for_s=-1.0, reason="HTTP 503"
    )

    held_back = (await door.get(f"/v1/runs/{run_id}")).json["held_back"]

    assert [hold["by"] for hold in held_back] == ["worker", "api"]
    assert (held_back[1]["reason"], held_back[1]["next_try_in_s"]) == ("HTTP 503", 0)
    assert held_back[1]["for_s"] >= 0
    assert "hashmill worker" in held_back[0]["to_do"]


async def test_a_run_that_is_not_there_is_not_found(door: OpenDoor) -> None:
    for run_id in (NOBODY, "nonsense", "%00", quote("' OR 1=1"), "%ED%A0%80"):
        for below in ("", "/files", "/entries"):
            answered = await door.get(f"/v1/runs/{run_id}{below}")

            assert answered.status == 404
            assert answered.headers["Content-Type"] == "application/problem+json"


async def test_runs_are_listed_newest_first_a_page_at_a_time(door: OpenDoor) -> None:
    made = [await door.accepted(job_id=str(number)) for number in range(7)]

    items = await walk(door, "/v1/runs?limit=3")

    assert [run["run_id"] for run in items] == made[::-1]


async def test_a_last_page_that_is_full_names_no_next_one(door: OpenDoor) -> None:
    for number in range(2):
        await door.accepted(job_id=str(number))

    assert (await door.get("/v1/runs?limit=2")).json["next"] is None


async def test_runs_are_found_by_what_they_are(door: OpenDoor) -> None:
    half = await half_done(door)
    fresh = await door.accepted(job_id="8", container_id="ä & b")

    async def found(query: str) -> list[str]:
        return [run["run_id"] for run in await walk(door, f"/v1/runs?limit=1&{query}")]

    assert await found("state=running") == [half]
    assert await found("state=running&state=accepted") == [fresh, half]
    assert await found("job_id=7") == [half]
    assert await found(f"container_id={quote('ä & b')}") == [fresh]
    assert await found("tenant_id=default") == [fresh, half]
    assert await found("tenant_id=other") == []
    assert await found("error_class=s3.offline") == [half]
    assert await found("error_class=s3.timeout") == []
    assert await found(f"before={fresh}") == [half]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/runs?limit=0", "limit"),
        ("/v1/runs?limit=201", "limit"),
        ("/v1/runs?limit=x", "limit"),
        ("/v1/runs?state=gone", "state"),
        ("/v1/runs?before=1", "before"),
        ("/v1/runs?job_id=", "job_id"),
        ("/v1/runs?job_id=%00", "job_id"),
        ("/v1/runs?job_id=1&job_id=2", "job_id"),
        ("/v1/runs?error_class=s3.gone", "error_class"),
        ("/v1/runs?stat=running", "stat"),
        (f"/v1/runs/{NOBODY}/files?after=-1", "after"),
        (f"/v1/runs/{NOBODY}/files?after=99999999999", "after"),
        (f"/v1/runs/{NOBODY}/files?state=ended", "state"),
        (f"/v1/runs/{NOBODY}/entries?after=x", "after"),
    ],
)
async def test_a_wrong_parameter_is_named(strict_door: OpenDoor, path: str, name: str) -> None:
    answered = await strict_door.get(path)

    assert answered.status == 400
    assert list(answered.faults) == [name]


async def test_a_default_page_is_never_larger_than_the_largest(ledger_url: str) -> None:
    async with open_door(ledger_url, page_max=1) as door:
        for number in range(2):
            await door.accepted(job_id=str(number))

        assert len((await door.get("/v1/runs")).json["items"]) == 1


async def test_files_are_listed_by_number_with_digests_and_hostile_names_as_they_are(door: OpenDoor) -> None:
    run_id = await half_done(door)

    items = await walk(door, f"/v1/runs/{run_id}/files?limit=2")

    assert [file["file_no"] for file in items] == [1, 2, 3, 4, 5]
    assert [file["state"] for file in items] == ["done", "failed", "running", "running", "failed"]
    assert items[0]["digests"] == {"md5": "0" * 32}
    assert items[0]["verdict"] == "no_baseline"
    assert items[0]["finished_at"].endswith("Z")
    assert items[4]["path"] == HOSTILE


async def test_files_are_found_by_state_and_error_class(door: OpenDoor) -> None:
    run_id = await half_done(door)

    async def found(query: str) -> list[int]:
        return [file["file_no"] for file in await walk(door, f"/v1/runs/{run_id}/files?limit=1&{query}")]

    assert await found("state=failed") == [2, 5]
    assert await found("state=done&state=running") == [1, 3, 4]
    assert await found("error_class=s3.offline") == [5]
    assert await found("after=4") == [5]


async def test_entries_show_their_body_and_the_hash_of_their_bytes(door: OpenDoor) -> None:
    run_id = await half_done(door)
    await door.tools.ledger.write(entries.number, limit=2)

    items = await walk(door, f"/v1/runs/{run_id}/entries?limit=2")
    stored = await door.tools.ledger.read(entries.of_run, run_id)

    assert [entry["kind"] for entry in items] == [
        "run_accepted",
        "run_started",
        "run_expanded",
        "file_hashed",
        "file_failed",
        "file_failed",
    ]
    assert [entry["leaf_index"] for entry in items] == [0, 1, None, None, None, None]
    assert [entry["leaf_hash"] for entry in items] == [entry.leaf_hash.hex() for entry in stored]
    assert items[5]["body"]["path"] == HOSTILE
    assert items[0]["body"]["event"]["job_id"] == "7"


async def test_a_dry_run_counts_and_changes_nothing(door: OpenDoor) -> None:
    run_id = await half_done(door)

    answered = await door.post({"run_id": run_id, "reason": "why not", "dry_run": True}, "/v1/replays")

    assert answered.status == 200
    assert answered.json == {
        "dry_run": True,
        "files": 2,
        "size_bytes": 2000,
        "runs": [
            {
                "run_id": run_id,
                "mode": "hash",
                "files": 2,
                "size_bytes": 2000,
                "by_class": {"s3.not_found": 1, "s3.offline": 1},
                "reports_dead": 0,
                "status_url": f"/v1/runs/{run_id}",
            }
        ],
        "skipped": [
            {"run_id": run_id, "reason": f"run {run_id} is running: wait until it has ended, or use force"},
        ],
    }
    assert (await door.get(f"/v1/runs/{run_id}")).json["generation"] == 0


async def test_a_replay_opens_failed_files_again_and_says_who_and_why(door: OpenDoor) -> None:
    run_id = await half_done(door)
    asked = {"run_id": run_id, "error_class": "s3.offline", "reason": "on-line again", "who": "ann", "force": True}

    answered = await door.post(asked, "/v1/replays")

    run = (await door.get(f"/v1/runs/{run_id}")).json
    last = (await walk(door, f"/v1/runs/{run_id}/entries"))[-1]
    assert (answered.status, answered.json["files"]) == (202, 1)
    assert (run["generation"], run["progress"]["files_failed"], run["eta_s"]) == (1, 1, None)
    assert (last["kind"], last["body"]["who"], last["body"]["reason"]) == ("run_replayed", "ann", "on-line again")


async def test_who_replays_is_the_token_when_nobody_is_named(door: OpenDoor) -> None:
    run_id = await half_done(door)

    await door.post({"run_id": run_id, "reason": "again", "force": True}, "/v1/replays")

    assert (await walk(door, f"/v1/runs/{run_id}/entries"))[-1]["body"]["who"] == "token"


async def test_a_replay_that_cannot_be_is_refused_with_the_reason(door: OpenDoor) -> None:
    run_id = await half_done(door)

    active = await door.post({"run_id": run_id, "reason": "again"}, "/v1/replays")
    nowhere = await door.post({"reason": "again"}, "/v1/replays")

    assert (active.status, nowhere.status) == (409, 409)
    assert "running" in active.json["detail"]
    assert active.json["type"] == "urn:hashmill:problem:replay-refused"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"run_id": NOBODY}, "$.reason"),
        ({"run_id": NOBODY, "reason": "\u200b \n"}, "$.reason"),
        ({"run_id": "x", "reason": "r"}, "$.run_id"),
        ({"job_id": "\u0000", "reason": "r"}, "$.job_id"),
        ({"job_id": True, "reason": "r"}, "$.job_id"),
        ({"error_class": "s3.gone", "reason": "r"}, "$.error_class"),
        ({"file_ids": ["1", ""], "reason": "r"}, "$.file_ids[1]"),
        ({"file_ids": ["1"] * 1001, "reason": "r"}, "$.file_ids"),
        ({"run": NOBODY, "reason": "r"}, "$.run"),
        ([], "$"),
    ],
)
async def test_a_replay_that_makes_no_sense_is_told_what_is_wrong(
    strict_door: OpenDoor, body: object, path: str
) -> None:
    answered = await strict_door.post(body, "/v1/replays")

    assert answered.status == 422
    assert list(answered.faults) == [path]


async def test_ids_of_a_replay_may_be_numbers(door: OpenDoor) -> None:
    run_id = await half_done(door)

    answered = await door.post({"job_id": 7, "file_ids": [1], "reason": "r", "dry_run": True}, "/v1/replays")

    assert [run["run_id"] for run in answered.json["runs"]] == [run_id]
    assert answered.json["files"] == 1
