"""What the S3 server stores of an object is computed in the same read, compared, and entered with its label."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from hashmill.domain.checksums import PartSizes, StoredChecksum
from hashmill.domain.errors import AlgorithmFailed
from hashmill.domain.job import FileState
from hashmill.flow import stored as stored_module
from hashmill.flow.hash_files import hash_files
from hashmill.flow.replay import ReplayRequest, replay
from hashmill.hashing import fused
from hashmill.hashing.registry import open_hasher
from hashmill.ledger import entries, files
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger

KEY = "dir/1.bin"
SIZE_BYTES, BLOCK_BYTES, SLICE_BYTES = 1000, 50, 200
BODY = Random(11).randbytes(SIZE_BYTES)
SIZES = (300, 300, 300, 100)
SLICED = replace(
    RULES, tiny_max_bytes=10, normal_max_bytes=100, slice_from_bytes=500, slice_max_bytes=SLICE_BYTES, slice_max_s=60.0
)
needs_kernel = pytest.mark.skipif(not fused.accelerated(), reason=f"no fast kernel here: {fused.why_not()}")


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger) as opened:
        yield opened


@pytest.fixture
def slicing(ledger: Ledger) -> Iterator[Stage]:
    with staged(ledger, rules=SLICED) as opened:
        yield opened


def plain(algorithm: str, body: bytes) -> str:
    hasher = open_hasher(algorithm)
    hasher.update(body)
    return hasher.hexdigest()


def of_object(algorithm: str, body: bytes = BODY) -> StoredChecksum:
    return StoredChecksum(algorithm=algorithm, digest=plain(algorithm, body))


def of_parts(algorithm: str, body: bytes = BODY) -> StoredChecksum:
    ends = [sum(SIZES[: number + 1]) for number in range(len(SIZES))]
    digests = [plain(algorithm, body[end - size : end]) for end, size in zip(ends, SIZES, strict=True)]
    over_all = plain(algorithm, b"".join(bytes.fromhex(digest) for digest in digests))
    return StoredChecksum(algorithm=algorithm, digest=over_all, parts=len(SIZES))


WRONG = StoredChecksum(algorithm="crc64nvme", digest="00" * 8)


async def hashed(stage: Stage, *stored: StoredChecksum, body: Any = BODY, **event: Any) -> Run:
    """Let one file whose object is `body` be worked until it has ended."""
    run = await listed(stage, 1, size_bytes=SIZE_BYTES, **event)
    stage.storage.objects[KEY] = body
    stage.storage.checksums[KEY] = stored
    stage.storage.block_bytes = BLOCK_BYTES
    return await worked(stage, run)


async def worked(stage: Stage, run: Run) -> Run:
    for _ in range(50):
        if not (tickets := await dispatched(stage)):
            break
        for ticket in tickets:
            await hash_files(stage.tools, ticket)
    return await run_now(stage, run)


def row_of(stage: Stage, run: Run) -> files.FileRow:
    (row,) = stage.tools.ledger.read_now(files.of_run, run.run_id)
    return row


def entry_of(stage: Stage, run: Run) -> tuple[str, dict[str, Any]]:
    found = stage.tools.ledger.read_now(entries.of_run, run.run_id)
    (entry,) = (entry for entry in found if entry.kind.startswith("file_"))
    return entry.kind, json.loads(entry.body)


def compared(stage: Stage, run: Run) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = entry_of(stage, run)[1]["provider"]["checksums"]
    return told


async def test_a_checksum_of_the_whole_object_is_computed_in_the_same_read_and_entered(stage: Stage) -> None:
    run = await hashed(stage, of_object("crc64nvme"))

    kind, entry = entry_of(stage, run)
    digest = plain("crc64nvme", BODY)
    assert kind == "file_hashed"
    assert entry["provider"]["evidence"] == "provider_stored"
    assert entry["provider"]["address"] == "us-east-1"
    (one,) = compared(stage, run)
    backend = one.pop("backend")
    assert backend.startswith("awscrt/")
    assert one == {
        "algorithm": "crc64nvme",
        "of": "object",
        "stored": digest,
        "computed": digest,
        "comparison": "equal",
    }
    assert entry["verdict"] == "no_baseline"
    assert entry["digests"] == {"md5": hashlib.md5(BODY, usedforsecurity=False).hexdigest()}
    assert stage.storage.read_bytes == SIZE_BYTES


async def test_nothing_but_what_was_asked_for_is_reported(stage: Stage) -> None:
    run = await hashed(stage, of_object("sha256"))
    await delivered(stage)

    assert [call.what["algorithm"] for call in stage.api.made("set_hash")] == ["md5"]
    assert row_of(stage, run).digests.keys() == {"md5"}


async def test_a_server_that_states_nothing_leaves_the_entry_as_it_was(stage: Stage) -> None:
    run = await hashed(stage)

    assert "provider" not in entry_of(stage, run)[1]
    assert stage.storage.asked_parts == 0


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "sha1", "sha256"])
async def test_a_checksum_of_parts_is_recomputed_where_the_parts_are_told(stage: Stage, algorithm: str) -> None:
    stage.storage.part_sizes[KEY] = PartSizes(sizes_bytes=SIZES)
    run = await hashed(stage, of_parts(algorithm))

    (one,) = compared(stage, run)
    assert (one["of"], one["parts"], one["comparison"]) == ("parts", len(SIZES), "equal")
    assert stage.storage.read_bytes == SIZE_BYTES
    assert stage.storage.asked_parts == 1


async def test_what_cannot_be_compared_is_entered_with_its_reason(stage: Stage) -> None:
    unread = StoredChecksum(algorithm="crc32", fault="the S3 server states 'x'")
    run = await hashed(stage, of_parts("sha256"), unread)

    assert [(one["algorithm"], one["comparison"], one["computed"], one["reason"]) for one in compared(stage, run)] == [
        ("sha256", "not_comparable", None, "the sizes of the parts are not told: 403"),
        ("crc32", "not_comparable", None, "the S3 server states 'x'"),
    ]
    assert row_of(stage, run).state == "done"


async def test_an_algorithm_that_cannot_be_had_here_costs_the_file_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(name: str) -> None:
        raise AlgorithmFailed(f"{name}: disabled in FIPS mode")

    monkeypatch.setattr(stored_module, "open_hasher", forbidden)
    stored_module._uncomputable.cache_clear()
    run = await hashed(stage, of_object("sha512"))
    stored_module._uncomputable.cache_clear()

    (one,) = compared(stage, run)
    assert one["reason"] == "cannot be computed here: sha512: disabled in FIPS mode"
    assert row_of(stage, run).state == "done"


async def test_what_has_no_pin_is_not_compared(stage: Stage) -> None:
    stage.storage.etags[KEY] = 'W/"weak"'
    run = await hashed(stage, WRONG)

    (one,) = compared(stage, run)
    assert one["comparison"] == "not_comparable"
    assert "weak" in one["reason"]
    assert row_of(stage, run).state == "done"


async def test_a_difference_that_a_second_read_confirms_is_a_mismatch_and_no_hash_is_reported(stage: Stage) -> None:
    run = await hashed(stage, WRONG)
    await delivered(stage)

    kind, entry = entry_of(stage, run)
    assert (kind, entry["verdict"], entry["error_class"]) == ("file_failed", "mismatch", "s3.checksum_differs")
    assert (entry["reads"], stage.storage.read_bytes) == (2, 2 * SIZE_BYTES)
    (one,) = entry["provider"]["checksums"]
    assert (one["stored"], one["computed"], one["comparison"]) == ("00" * 8, plain("crc64nvme", BODY), "different")
    assert entry["digests"]["md5"] == hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    assert stage.api.made("set_hash") == []
    (said,) = [call for call in stage.api.made("create_message") if call.what["file_id"] == "1"]
    assert said.what["text"].startswith(
        "File in doubt: dir/1.bin: s3.checksum_differs: crc64nvme: the S3 server stores"
    )
    assert said.what["type"] == "ERROR"
    assert (await run_now(stage, run)).state == "failed"
    assert row_of(stage, run).digests == {}


async def test_a_read_that_was_damaged_on_its_way_is_read_again_and_is_no_mismatch(stage: Stage) -> None:
    bodies = iter([BODY, BODY[:-1] + b"\0", BODY, BODY, BODY])
    run = await hashed(stage, of_object("crc64nvme"), body=lambda: next(bodies))

    kind, entry = entry_of(stage, run)
    assert (kind, entry["reads"]) == ("file_hashed", 2)
    assert compared(stage, run)[0]["comparison"] == "equal"
    assert row_of(stage, run).digests["md5"] == hashlib.md5(BODY, usedforsecurity=False).hexdigest()


async def test_two_reads_that_differ_are_no_mismatch_but_a_change(stage: Stage) -> None:
    counted = iter(range(1000))
    run = await hashed(stage, WRONG, body=lambda: next(counted).to_bytes(4) * (SIZE_BYTES // 4))

    kind, entry = entry_of(stage, run)
    assert (kind, entry["verdict"], entry["error_class"]) == ("file_failed", "changed", "s3.changed_during_read")
    assert "two reads of one version" in entry["error_detail"]


@needs_kernel
@pytest.mark.parametrize(
    "stored",
    [of_object("crc64nvme"), of_object("sha256"), of_object("sha512"), of_parts("sha256"), of_parts("crc32c")],
)
async def test_slices_go_on_with_what_the_server_stores(slicing: Stage, stored: StoredChecksum) -> None:
    slicing.storage.part_sizes[KEY] = PartSizes(sizes_bytes=SIZES)
    run = await hashed(slicing, stored)

    (one,) = compared(slicing, run)
    assert one["comparison"] == "equal"
    assert entry_of(slicing, run)[1]["slices"] == SIZE_BYTES // SLICE_BYTES
    assert slicing.storage.read_bytes == SIZE_BYTES
    assert slicing.storage.asked_parts == (stored.parts is not None)


@needs_kernel
async def test_what_no_slice_can_go_on_with_is_said_and_the_file_is_sliced_all_the_same(slicing: Stage) -> None:
    run = await hashed(slicing, of_object("xxh3-128"))

    (one,) = compared(slicing, run)
    assert (one["comparison"], one["reason"]) == (
        "not_comparable",
        "the state of xxh3-128 cannot be kept between slices here",
    )
    assert entry_of(slicing, run)[1]["slices"] == SIZE_BYTES // SLICE_BYTES


@needs_kernel
async def test_a_difference_found_in_slices_is_confirmed_in_slices(slicing: Stage) -> None:
    run = await hashed(slicing, WRONG)

    kind, entry = entry_of(slicing, run)
    assert (kind, entry["verdict"], entry["reads"]) == ("file_failed", "mismatch", 2)
    assert entry["slices"] == 2 * SIZE_BYTES // SLICE_BYTES
    assert slicing.storage.read_bytes == 2 * SIZE_BYTES


@needs_kernel
async def test_a_large_file_of_which_two_reads_differ_fails_and_a_replay_begins_it_anew(slicing: Stage) -> None:
    reads = iter(range(100))
    sick = True

    def body() -> bytes:
        return bytes([next(reads)]) + BODY[1:] if sick else BODY

    run = await hashed(slicing, of_object("crc64nvme"), body=body)

    # The double looks at its object twice an opening, and two whole reads are ten slices.
    assert next(reads) == 4 * SIZE_BYTES // SLICE_BYTES
    assert entry_of(slicing, run)[1]["error_class"] == "s3.changed_during_read"
    assert row_of(slicing, run).state is FileState.FAILED
    sick = False
    await delivered(slicing)
    await replay(slicing.tools, ReplayRequest(run_id=run.run_id, who="ada", reason="the disk was changed"))
    await worked(slicing, run)
    assert row_of(slicing, run).state is FileState.DONE
    assert row_of(slicing, run).digests == {name: plain(name, BODY) for name in run.algorithms}


async def test_slices_that_another_version_began_are_ended_without_a_comparison(slicing: Stage) -> None:
    run = await listed(slicing, 1, size_bytes=SIZE_BYTES)
    slicing.storage.objects[KEY] = BODY
    slicing.storage.block_bytes = BLOCK_BYTES
    (ticket,) = await dispatched(slicing)
    await hash_files(slicing.tools, ticket)
    slicing.storage.checksums[KEY] = (WRONG,)
    await worked(slicing, run)

    kind, entry = entry_of(slicing, run)
    assert kind == "file_hashed"
    assert "provider" not in entry
