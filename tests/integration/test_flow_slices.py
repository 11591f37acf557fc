"""A large file is read slice by slice: a kill, a stop or a replaced object costs one slice, never a wrong digest."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.flow.hash_files import hash_files
from hashmill.flow.sweep import sweep
from hashmill.hashing import fused, libcrypto, saved
from hashmill.ledger import entries, files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import claim, fresh_ledger, lapse
from tests.helpers.wait import wait_until_async

pytestmark = pytest.mark.skipif(not saved.can_be_saved(["md5", "sha256"]), reason="no state can be saved here")

SIZE_BYTES, BLOCK_BYTES, SLICE_BYTES = 1000, 50, 200
SLICES = SIZE_BYTES // SLICE_BYTES
BODY = Random(7).randbytes(SIZE_BYTES)
OTHER = Random(8).randbytes(SIZE_BYTES)
KEY = "dir/1.bin"
SLICED = replace(
    RULES, tiny_max_bytes=10, normal_max_bytes=100, slice_from_bytes=500, slice_max_bytes=SLICE_BYTES, slice_max_s=60.0
)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger, rules=SLICED) as opened:
        yield opened


async def large(stage: Stage, **event: Any) -> Run:
    run = await listed(stage, 1, size_bytes=SIZE_BYTES, **{"algorithms": ["md5", "sha256", "crc32c"], **event})
    stage.storage.objects[KEY] = BODY
    stage.storage.block_bytes = BLOCK_BYTES
    return run


async def one_slice(stage: Stage) -> None:
    (ticket,) = await dispatched(stage)
    await hash_files(stage.tools, ticket)


async def under_way(stage: Stage) -> asyncio.Task[None]:
    """Let a process begin a slice, and hold it before the first block until `read_gate` is set."""
    stage.storage.read_gate = asyncio.Event()
    (ticket,) = await dispatched(stage)
    work = asyncio.create_task(hash_files(stage.tools, ticket))
    await wait_until_async(lambda: stage.storage.reading)
    return work


def row_of(stage: Stage, run: Run) -> files.FileRow:
    (row,) = stage.tools.ledger.read_now(files.of_run, run.run_id)
    return row


def lost_leases(stage: Stage) -> int:
    query = sa.text("SELECT lost_leases FROM files")
    return int(stage.tools.ledger.read_now(lambda connection: connection.execute(query).scalar_one()))


def told(stage: Stage, run: Run) -> dict[str, Any]:
    found = stage.tools.ledger.read_now(entries.of_run, run.run_id)
    (entry,) = (entry for entry in found if entry.kind == "file_hashed")
    body: dict[str, Any] = json.loads(entry.body)
    return body


def saved_rows(stage: Stage) -> int:
    return stage.tools.ledger.read_now(
        lambda connection: connection.execute(sa.text("SELECT count(*) FROM saved_hashes")).scalar_one()
    )


def is_right(row: files.FileRow, body: bytes = BODY) -> bool:
    return row.digests["md5"] == hashlib.md5(body, usedforsecurity=False).hexdigest() and (
        row.digests["sha256"] == hashlib.sha256(body).hexdigest()
    )


async def test_each_slice_is_one_claim_and_every_byte_is_read_once(stage: Stage) -> None:
    run = await large(stage)
    for _ in range(SLICES):
        assert row_of(stage, run).state == "ready"
        await one_slice(stage)

    row = row_of(stage, run)
    assert (row.state, row.attempts) == ("done", 1)
    assert is_right(row)
    assert stage.storage.read_bytes == SIZE_BYTES
    entry = told(stage, run)
    assert (entry["slices"], entry["resumed_from"], entry["size_bytes"]) == (SLICES, 800, SIZE_BYTES)


async def test_a_kill_costs_one_slice_and_what_came_before_is_not_held_against_the_file(stage: Stage) -> None:
    run = await large(stage)
    await one_slice(stage)
    for _ in range(SLICES - 1):
        for killed in range(2):
            (ticket,) = await dispatched(stage)
            claim(stage.tools.ledger, ticket, owner=f"killed{killed}/1")
            lapse(stage.tools.ledger, run)
            await sweep(stage.tools)
        assert lost_leases(stage) == 2
        await one_slice(stage)

    row = row_of(stage, run)
    assert (row.state, lost_leases(stage)) == ("done", 2)
    assert is_right(row)
    assert stage.storage.read_bytes == SIZE_BYTES


async def test_an_object_that_was_replaced_between_two_slices_is_hashed_from_its_beginning(stage: Stage) -> None:
    run = await large(stage)
    await one_slice(stage)
    await one_slice(stage)
    stage.storage.objects[KEY] = OTHER
    stage.storage.etags[KEY] = '"another"'
    while row_of(stage, run).state == "ready":
        await one_slice(stage)

    row = row_of(stage, run)
    assert row.state == "done"
    assert is_right(row, OTHER)
    assert told(stage, run)["etag"] == '"another"'


async def test_a_state_that_cannot_be_taken_up_costs_the_way_back_to_the_beginning(stage: Stage) -> None:
    run = await large(stage)
    await one_slice(stage)
    damage = sa.text("""UPDATE saved_hashes SET state = '{"v": 0}'""")
    stage.tools.ledger.write_now(lambda connection: connection.execute(damage))
    while row_of(stage, run).state == "ready":
        await one_slice(stage)

    assert is_right(row_of(stage, run))
    assert stage.storage.read_bytes == SIZE_BYTES + SLICE_BYTES


async def test_a_process_that_is_told_to_stop_saves_at_the_next_block(stage: Stage) -> None:
    run = await large(stage)
    work = await under_way(stage)
    stage.tools.draining.set()
    assert stage.storage.read_gate is not None
    stage.storage.read_gate.set()
    await work

    assert stage.storage.read_bytes == BLOCK_BYTES
    assert (row_of(stage, run).state, row_of(stage, run).attempts, saved_rows(stage)) == ("ready", 0, 1)
    stage.tools.draining.clear()
    while row_of(stage, run).state == "ready":
        await one_slice(stage)
    assert is_right(row_of(stage, run))
    assert stage.storage.read_bytes == SIZE_BYTES


async def test_a_slice_ends_when_its_time_is_over(ledger: Ledger) -> None:
    with staged(ledger, rules=replace(SLICED, slice_max_bytes=1 << 40, slice_max_s=1e-9)) as stage:
        run = await large(stage)
        await one_slice(stage)
        assert stage.storage.read_bytes == BLOCK_BYTES
        assert row_of(stage, run).state == "ready"


async def test_a_late_owner_saves_nothing(stage: Stage) -> None:
    run = await large(stage)
    work = await under_way(stage)
    lapse(stage.tools.ledger, run)
    await sweep(stage.tools)
    assert stage.storage.read_gate is not None
    stage.storage.read_gate.set()
    await work

    assert saved_rows(stage) == 0
    assert (row_of(stage, run).state, lost_leases(stage)) == ("ready", 1)


async def test_where_an_algorithm_has_no_state_to_be_told_the_file_is_read_in_one_go_and_its_entry_says_so(
    stage: Stage,
) -> None:
    run = await large(stage, algorithms=["md5", "sha256", "blake3"])
    await one_slice(stage)

    assert is_right(row_of(stage, run))
    entry = told(stage, run)
    assert "slices" not in entry
    assert (entry["sliced"], entry["without_state"]) == (False, ["blake3"])


async def test_where_neither_kernel_nor_libcrypto_serves_hashlib_does_in_one_go(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("accelerated", "available"):
        monkeypatch.setattr(fused, name, lambda: False)
    monkeypatch.setattr(libcrypto, "available", lambda name: False)
    run = await large(stage)
    await one_slice(stage)

    assert is_right(row_of(stage, run))
    assert told(stage, run)["without_state"] == ["md5", "sha256"]
    assert told(stage, run)["backends"]["md5"].startswith("hashlib/")


async def test_the_entry_of_a_small_file_says_nothing_of_slices(stage: Stage) -> None:
    run = await listed(stage, 1, size_bytes=20, algorithms=["blake3"])
    stage.storage.objects[KEY] = BODY[:20]
    await one_slice(stage)

    assert not {"sliced", "without_state", "slices"} & told(stage, run).keys()


async def test_without_the_kernel_the_states_are_libcryptos_and_workers_of_both_kinds_take_turns(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await large(stage, algorithms=["md5", "sha256", "sha512"])
    while row_of(stage, run).state == "ready":
        await one_slice(stage)
        monkeypatch.setattr(fused, "accelerated", lambda: False)
        monkeypatch.setattr(fused, "available", lambda: False)
        monkeypatch.setattr(fused, "KERNEL_VERSION", 0)

    row = row_of(stage, run)
    assert is_right(row)
    assert row.digests["sha512"] == hashlib.sha512(BODY).hexdigest()
    assert stage.storage.read_bytes == SIZE_BYTES
    assert all(backend.startswith("libcrypto/") for backend in told(stage, run)["backends"].values())


async def test_what_was_saved_is_gone_with_the_end_of_the_run(stage: Stage) -> None:
    run = await large(stage)
    await one_slice(stage)
    assert saved_rows(stage) == 1
    while row_of(stage, run).state == "ready":
        await one_slice(stage)
    await delivered(stage)

    assert (await run_now(stage, run)).state.ended
    assert saved_rows(stage) == 0
