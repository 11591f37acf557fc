"""`mode = "attest"` asks what the S3 server states and reads nothing; what it says is labelled so, and is no check."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.checksums import StoredChecksum
from hashmill.flow.hash_files import hash_files
from hashmill.flow.replay import ReplayRequest, replay
from hashmill.flow.tools import ObjectPlace
from hashmill.hashing.registry import open_hasher
from hashmill.ledger import baselines, entries, files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.storage.config import StorageConfig
from tests.helpers.fakes import ORIGIN, OTHER_ORIGIN, RULES, Stage, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger

KEY = "dir/1.bin"
BODY = b"0123456789"
OTHER = b"9876543210"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


def of(body: bytes, algorithm: str = "crc64nvme") -> StoredChecksum:
    hasher = open_hasher(algorithm)
    hasher.update(body)
    return StoredChecksum(algorithm=algorithm, digest=hasher.hexdigest())


async def worked(stage: Stage, count: int = 1, *, states: StoredChecksum | None = None, **event: Any) -> Run:
    """Let a run of `count` files be worked and ended; the S3 server states `states` of the first."""
    run = await listed(stage, count, **event)
    if states is not None:
        stage.storage.checksums[KEY] = (states,)
    for _ in range(20):
        if not (tickets := await dispatched(stage)):
            break
        for ticket in tickets:
            await hash_files(stage.tools, ticket)
    await delivered(stage)
    return await run_now(stage, run)


async def attested(stage: Stage, count: int = 1, **event: Any) -> Run:
    stage.storage.read_bytes = 0
    stage.api.calls.clear()
    return await worked(stage, count, mode="attest", **event)


def row_of(stage: Stage, run: Run) -> files.FileRow:
    return stage.tools.ledger.read_now(files.of_run, run.run_id)[0]


def entry_of(stage: Stage, run: Run) -> dict[str, Any]:
    found = stage.tools.ledger.read_now(entries.of_run, run.run_id)
    (entry,) = (entry for entry in found if entry.kind == "file_attested")
    body: dict[str, Any] = json.loads(entry.body)
    return body


def faults(stage: Stage) -> tuple[str, ...]:
    def numbered(connection: sa.Connection) -> tuple[str, ...]:
        entries.number(connection)
        return entries.verify(connection).faults

    return stage.tools.ledger.write_now(numbered)


def told(stage: Stage) -> list[tuple[str, str]]:
    return [(call.what["type"], call.what["text"]) for call in stage.api.made("create_message")]


async def test_what_the_server_still_states_is_attested_and_nothing_is_read_or_reported_as_a_hash(stage: Stage) -> None:
    before = await worked(stage, states=of(BODY))
    run = await attested(stage, states=of(BODY))

    assert (run.state, row_of(stage, run).verdict) == ("completed", "attested")
    assert stage.storage.read_bytes == 0
    assert stage.api.made("set_hash") == []
    assert (run.bytes_done, row_of(stage, run).digests) == (0, {})
    entry = entry_of(stage, run)
    assert "digests" not in entry
    assert entry["provider"]["evidence"] == "provider_stored"
    digest = of(BODY).digest
    assert entry["provider"]["checksums"] == [
        {"algorithm": "crc64nvme", "of": "object", "stored": digest, "baseline": digest, "comparison": "equal"}
    ]
    baseline = entry["baseline"]
    assert (baseline["run_id"], baseline["file_no"], baseline["same_version"]) == (before.run_id, 1, True)
    message, closing = told(stage)
    assert message[0] == "INFO"
    assert message[1].startswith("File not read: dir/1.bin: attested: the storage states what was computed when it was")
    assert closing == ("INFO", "no file was read; the storage was asked about 1 (attested 1)")
    assert faults(stage) == ()


async def test_a_digest_that_was_asked_for_serves_as_baseline_as_well(stage: Stage) -> None:
    await worked(stage, algorithms=["md5", "sha256"])
    run = await attested(stage, states=of(BODY, "sha256"))

    assert row_of(stage, run).verdict == "attested"
    assert entry_of(stage, run)["provider"]["checksums"][0]["baseline"] == hashlib.sha256(BODY).hexdigest()


async def test_another_checksum_of_the_very_version_we_read_is_a_dispute_that_fails_the_file(stage: Stage) -> None:
    await worked(stage, states=of(BODY))
    run = await attested(stage, states=of(OTHER))

    row = row_of(stage, run)
    assert (run.state, row.state, row.verdict) == ("failed", "failed", "disputed")
    assert row.error_class == "s3.checksum_differs"
    message, closing = told(stage)
    assert message[0] == closing[0] == "ERROR"
    assert message[1].startswith("File in doubt: dir/1.bin: disputed: crc64nvme: the S3 server states")
    assert "disputed 1" in closing[1]
    assert entry_of(stage, run)["provider"]["checksums"][0]["comparison"] == "different"
    assert faults(stage) == ()


async def test_one_weak_etag_is_not_one_version(stage: Stage) -> None:
    stage.storage.etags[KEY] = 'W/"one"'
    await worked(stage, states=of(BODY))
    run = await attested(stage, states=of(OTHER))

    assert row_of(stage, run).verdict != "disputed"


async def test_another_checksum_of_another_version_says_that_the_object_was_replaced(stage: Stage) -> None:
    await worked(stage, states=of(BODY))
    stage.storage.etags[KEY] = '"another"'
    run = await attested(stage, states=of(OTHER))

    assert (run.state, row_of(stage, run).verdict) == ("completed", "changed")
    assert entry_of(stage, run)["baseline"]["same_version"] is False


async def test_the_same_checksum_of_another_version_is_attested_and_the_entry_tells_of_both(stage: Stage) -> None:
    await worked(stage, states=of(BODY))
    stage.storage.etags[KEY] = '"another"'
    run = await attested(stage, states=of(BODY))

    assert row_of(stage, run).verdict == "attested"
    assert entry_of(stage, run)["baseline"]["same_version"] is False


async def test_without_an_earlier_digest_of_a_common_kind_there_is_no_baseline(stage: Stage) -> None:
    run = await attested(stage, states=of(BODY))
    assert (row_of(stage, run).verdict, entry_of(stage, run)["baseline"]) == ("no_baseline", None)

    await worked(stage, states=of(BODY, "crc32"), algorithms=["md5"])
    run = await attested(stage, states=of(BODY, "sha256"))
    assert row_of(stage, run).verdict == "no_baseline"
    assert entry_of(stage, run)["provider"]["checksums"][0]["reason"] == "our ledger has no sha256 of this object"


async def test_a_server_that_states_nothing_attests_nothing(stage: Stage) -> None:
    await worked(stage)
    stage.storage.checksums.clear()
    run = await attested(stage)

    assert (run.state, row_of(stage, run).verdict) == ("completed", "unattested")
    assert faults(stage) == ()


async def test_a_statement_that_cannot_be_read_attests_nothing(stage: Stage) -> None:
    await worked(stage, states=of(BODY))
    run = await attested(stage, states=StoredChecksum(algorithm="crc64nvme", fault="the S3 server states 'x'"))

    assert row_of(stage, run).verdict == "unattested"


@pytest.mark.parametrize("platform", [OTHER_ORIGIN, f"{ORIGIN}/second"], ids=["origin", "path"])
async def test_a_file_of_another_container_or_platform_is_no_baseline(stage: Stage, platform: str) -> None:
    await worked(stage, states=of(BODY), api_url=platform)
    run = await attested(stage, states=of(BODY))

    assert row_of(stage, run).verdict == "no_baseline"
    refs = {baselines.object_ref(*names) for names in (("o", "1", "23"), ("o", "12", "3"), ("o1", "2", "3"))}
    assert len(refs) == 3


async def test_a_result_in_doubt_is_no_baseline_and_an_older_one_stays_it(stage: Stage) -> None:
    first = await worked(stage, states=of(BODY))
    doubtful = await worked(stage, states=of(OTHER))
    assert row_of(stage, doubtful).verdict == "mismatch"
    run = await attested(stage, states=of(BODY))

    assert entry_of(stage, run)["baseline"]["run_id"] == first.run_id


async def test_a_file_that_is_read_again_just_now_has_its_older_result_as_baseline(stage: Stage) -> None:
    first = await worked(stage, states=of(BODY))
    second = await worked(stage, states=of(BODY))
    opened = sa.text("UPDATE files SET state = 'ready' WHERE run_id = :run_id")
    stage.tools.ledger.write_now(lambda connection: connection.execute(opened, {"run_id": second.run_id}))
    ref = baselines.object_ref(first.api_url, first.container_id, "1")

    found = stage.tools.ledger.read_now(baselines.newest, [ref])

    assert found[ref].run_id == first.run_id


async def test_the_newest_of_many_results_is_the_baseline_and_an_attested_one_is_none(stage: Stage) -> None:
    for _ in range(3):
        newest = await worked(stage, states=of(BODY))
        stage.tools.ledger.write_now(
            lambda connection: connection.execute(sa.text("UPDATE files SET finished_at_ms = finished_at_ms - 5"))
        )
    await attested(stage, states=of(BODY))
    run = await attested(stage, states=of(BODY))

    assert entry_of(stage, run)["baseline"]["run_id"] == newest.run_id


async def test_one_statement_finds_the_baselines_of_a_whole_ticket(stage: Stage) -> None:
    run = await worked(stage, 64)
    refs = [baselines.object_ref(run.api_url, run.container_id, str(number)) for number in range(1, 66)]

    found = stage.tools.ledger.read_now(baselines.newest, refs)

    assert [found[ref].file_no for ref in refs[:-1]] == list(range(1, 65))
    assert refs[-1] not in found


async def test_large_files_travel_together_where_nothing_is_read(stage: Stage) -> None:
    run = await listed(stage, 30, size_bytes=1 << 40, mode="attest")

    (ticket,) = await dispatched(stage)
    assert (len(ticket.files), run.bytes_total) == (30, 30 << 40)


async def test_where_nobody_may_ask_for_checksums_the_files_fail_as_config(stage: Stage) -> None:
    def place_of(tenant_id: str, container_id: str, storage_id: str | None, file_id: str, path: str) -> ObjectPlace:
        return ObjectPlace(config=StorageConfig(provider_checksums=False), bucket="bucket", key=path)

    run = await listed(stage, 1, mode="attest")
    (ticket,) = await dispatched(stage)
    await hash_files(replace(stage.tools, place_of=place_of, rules=replace(RULES, attempts_max=1)), ticket)

    row = row_of(stage, run)
    assert (row.state, row.verdict, row.error_class) == ("failed", "unreadable", "config")
    assert "s3.provider_checksums" in (row.error_detail or "")


async def test_a_replay_asks_again_and_no_bytes_are_counted(stage: Stage) -> None:
    await worked(stage, states=of(BODY))
    run = await attested(stage, states=of(OTHER))
    stage.storage.checksums[KEY] = (of(BODY),)
    report = await replay(stage.tools, ReplayRequest(run_id=run.run_id, mode="all", reason="books mended", who="me"))
    assert [(selection.mode, selection.files) for selection in report.runs] == [("attest", 1)]
    for _ in range(2):
        for ticket in await dispatched(stage):
            await hash_files(stage.tools, ticket)
        again = await replay(
            stage.tools, ReplayRequest(run_id=run.run_id, mode="all", reason="once more", who="me", force=True)
        )
        assert again.files == 1

    for ticket in await dispatched(stage):
        await hash_files(stage.tools, ticket)
    assert row_of(stage, run).verdict == "attested"
    assert (await run_now(stage, run)).bytes_done == 0
    assert faults(stage) == ()


async def test_an_object_that_is_gone_fails_as_in_any_other_mode(stage: Stage) -> None:
    run = await listed(stage, 1, mode="attest")
    del stage.storage.objects[KEY]
    (ticket,) = await dispatched(stage)
    await hash_files(stage.tools, ticket)

    assert (row_of(stage, run).state, row_of(stage, run).error_class) == ("failed", "s3.not_found")


async def test_verify_finds_a_statement_that_was_altered_in_the_table(stage: Stage) -> None:
    await worked(stage, states=of(BODY))
    run = await attested(stage, states=of(BODY))
    altered = sa.text("UPDATE files SET provider_checksums = '[]' WHERE run_id = :run_id")
    stage.tools.ledger.write_now(lambda connection: connection.execute(altered, {"run_id": run.run_id}))

    (fault,) = faults(stage)
    assert "other checksums of its S3 server" in fault
