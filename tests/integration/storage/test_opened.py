"""Which object is opened, how long it is said to be, and what a later request is pinned to."""

import asyncio
import hashlib

import pytest

from hashmill.domain.errors import (
    ConfigFault,
    ObjectChanged,
    ObjectTruncated,
)
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import ObjectHead, StoragePace
from hashmill.storage.wire import READ_AHEAD_BYTES
from tests.helpers.faulty_s3 import Act, FaultyS3
from tests.helpers.storage_reads import BODY, QUICK, read, storage_of


async def test_a_good_server_is_asked_once(storage: Storage, server: FaultyS3) -> None:
    assert await read(storage, server) == BODY

    assert [(asked.method, asked.target) for asked in server.asked] == [("GET", "/bucket/key")]
    assert server.asked_for("if-match") == [None]
    assert server.asked_for("range") == [None]
    assert server.connections == 1


async def test_the_first_answer_says_which_object_it_is_as_head_does(storage: Storage) -> None:
    headers = {
        "x-amz-version-id": "v7",
    }
    async with FaultyS3(BODY, headers=headers) as server:
        async with storage.open(server.config, "bucket", "key") as opened:
            head = opened.head

        assert head == await storage.head(server.config, "bucket", "key")
    assert head == ObjectHead(
        size_bytes=700_000,
        etag='"one"',
        version_id="v7",
    )


async def test_a_small_object_comes_whole_and_leaves_its_connection_to_the_next(storage: Storage) -> None:
    async with FaultyS3(b"small") as server:
        for _ in range(5):
            assert await read(storage, server, expected_bytes=5) == b"small"

        assert server.connections == 1


@pytest.mark.parametrize("expected_bytes", [0, 700_000, None])
async def test_what_was_expected_changes_nothing_of_what_is_read(server: FaultyS3, expected_bytes: int | None) -> None:
    budget = ByteBudget(8 << 20)
    async with (
        storage_of(QUICK, budget) as storage,
        storage.open(server.config, "bucket", "key", expected_bytes=expected_bytes) as opened,
    ):
        held_bytes = budget.held_bytes
        assert b"".join([bytes(block) async for block in opened.blocks()]) == BODY

    assert held_bytes == 200_000 + READ_AHEAD_BYTES
    assert budget.held_bytes == 0


async def test_a_read_that_starts_later_asks_for_the_rest_of_the_object_it_had(
    storage: Storage, server: FaultyS3
) -> None:
    head = await storage.head(server.config, "bucket", "key")
    server.on_get.append(Act(cut_after=1000))

    assert await read(storage, server, head, start_byte=500_000) == BODY[500_000:]

    assert server.asked_for("range") == ["bytes=500000-", "bytes=501000-"]
    assert server.asked_for("if-match") == ['"one"'] * 2


@pytest.mark.parametrize("etag", [None, 'W/"one"', '"one"'])
async def test_a_later_start_without_a_pin_that_holds_is_a_mistake_of_the_caller(
    storage: Storage, server: FaultyS3, etag: str | None
) -> None:
    with pytest.raises(ValueError, match="resumable pin"):
        await read(storage, server, ObjectHead(size_bytes=7, etag=etag) if etag else None, start_byte=7)
    assert server.asked == []


async def test_an_object_with_a_weak_etag_is_read_and_not_resumed(storage: Storage) -> None:
    async with FaultyS3(BODY, etag='W/"one"') as server:
        assert await read(storage, server) == BODY
        assert await read(storage, server, await storage.head(server.config, "bucket", "key")) == BODY
        server.on_get.append(Act(cut_after=1000))
        with pytest.raises(ObjectTruncated):
            await read(storage, server)

        assert server.asked_for("if-match") == server.asked_for("range") == [None] * 3


async def test_a_versioned_object_is_resumed_without_the_right_to_name_versions(storage: Storage) -> None:
    async with FaultyS3(BODY, headers={"x-amz-version-id": "v7"}) as server:
        server.on_get.append(Act(cut_after=300_000))

        assert await read(storage, server) == BODY

    assert [asked.target for asked in server.asked] == ["/bucket/key", "/bucket/key"]
    assert server.asked_for("range") == [None, "bytes=300000-"]
    assert server.asked_for("if-match") == [None, '"one"']


@pytest.mark.parametrize(
    "newer",
    [
        Act(status=412, code="PreconditionFailed"),
        Act(status=404, code="NoSuchKey"),
        Act(headers={"x-amz-version-id": "v8"}),
    ],
)
async def test_a_version_that_was_replaced_or_deleted_in_mid_read_is_read_to_its_end(
    storage: Storage, newer: Act
) -> None:
    async with FaultyS3(BODY, headers={"x-amz-version-id": "v7"}) as server:
        server.on_get += [Act(cut_after=300_000), newer]

        assert await read(storage, server) == BODY

    assert [asked.target for asked in server.asked] == ["/bucket/key", "/bucket/key", "/bucket/key?versionId=v7"]
    assert server.asked_for("range") == [None, "bytes=300000-", "bytes=300000-"]


async def test_the_null_version_is_no_version(storage: Storage) -> None:
    async with FaultyS3(BODY, headers={"x-amz-version-id": "null"}) as server:
        server.on_get.append(Act(cut_after=300_000))

        assert await read(storage, server) == BODY

    assert server.asked_for("if-match") == [None, '"one"']


async def test_an_object_stored_compressed_is_read_as_it_is_stored(storage: Storage) -> None:
    async with FaultyS3(b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"}) as server:
        assert await read(storage, server) == b"\x1f\x8b not really"


async def test_an_empty_object_is_asked_for_and_has_no_blocks(storage: Storage) -> None:
    async with FaultyS3(b"") as server:
        assert await read(storage, server) == b""

    assert [asked.method for asked in server.asked] == ["GET"]


async def test_an_answer_without_a_length_is_not_believed_and_head_is_asked(storage: Storage, server: FaultyS3) -> None:
    server.on_get += [Act(chunked=True), Act(chunked=True)]

    assert await read(storage, server) == BODY

    assert [asked.method for asked in server.asked] == ["GET", "HEAD", "GET"]
    assert server.asked_for("if-match") == [None, '"one"']


@pytest.mark.parametrize(
    "acts",
    [
        [Act(etag='"two"', headers={"ETag": '"one"'})],  # 412
        [Act(headers={"ETag": '"two"'})],
        [Act(body=BODY[:-1])],
        [Act(body=BODY + b"x")],
        [Act(chunked=True, body=BODY + b"x")],
        [Act(cut_after=1000), Act(etag='"two"')],
        [Act(cut_after=1000), Act(headers={"ETag": '"two"'})],
        [Act(cut_after=1000), Act(ignore_range=True)],
        [Act(cut_after=1000), Act(headers={"Content-Range": "bytes 999-699999/700000"})],
        [Act(cut_after=1000), Act(headers={"Content-Range": ""})],
        [Act(cut_after=1000), Act(headers={"ETag": ""})],
        [Act(cut_after=1000), Act(body=BODY + b"x")],
        [Act(cut_after=1000), Act(status=416, code="InvalidRange")],
    ],
)
async def test_another_object_than_was_described_is_never_read(
    storage: Storage, server: FaultyS3, acts: list[Act]
) -> None:
    head = await storage.head(server.config, "bucket", "key")
    server.on_get += acts

    with pytest.raises(ObjectChanged):
        await read(storage, server, head)
    assert len(server.asked_for("range")) == len(acts)


async def test_another_version_than_asked_for_is_never_read(storage: Storage) -> None:
    async with FaultyS3(BODY, headers={"x-amz-version-id": "v7"}) as server:
        server.on_get += [Act(cut_after=1000), *[Act(headers={"x-amz-version-id": "v8"})] * 2]

        with pytest.raises(ObjectChanged, match="version is 'v8', not 'v7'"):
            await read(storage, server)


@pytest.mark.parametrize(
    "act",
    [
        Act(headers={"ETag": ""}),
        Act(headers={"ETag": '"caf\u00e9"'}),
        Act(status=206, headers={"Content-Range": "bytes 0-699999/700000"}),
        Act(status=203),
    ],
)
async def test_an_answer_that_is_not_s3s_is_a_fault_of_the_configuration(
    storage: Storage, server: FaultyS3, act: Act
) -> None:
    server.on_get.append(act)

    with pytest.raises(ConfigFault, match=r"is s3\.endpoint_url an S3 server"):
        await read(storage, server)


async def test_an_object_whose_length_nobody_tells_is_a_fault_of_the_configuration(
    storage: Storage, server: FaultyS3
) -> None:
    server.on_get.append(Act(chunked=True))
    server.on_head.append(Act(chunked=True))

    with pytest.raises(ConfigFault, match="without ETag or length"):
        await read(storage, server)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-storage-class": "GLACIER_IR"},
        {
            "x-amz-storage-class": "GLACIER",
            "x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2032 00:00:00 GMT"',
        },
    ],
)
async def test_an_archived_object_that_is_on_line_is_read(storage: Storage, headers: dict[str, str]) -> None:
    async with FaultyS3(b"body", headers=headers) as server:
        assert await read(storage, server) == b"body"
        assert (await storage.head(server.config, "bucket", "key")).size_bytes == 4


async def test_an_answer_shorter_than_the_object_should_be_is_held_against_head(
    storage: Storage, server: FaultyS3
) -> None:
    server.on_get.append(Act(body=BODY[:-7]))

    async with storage.open(server.config, "bucket", "key", expected_bytes=len(BODY)) as opened:
        found = b"".join([bytes(block) async for block in opened.blocks()])

    assert found == BODY
    assert [asked.method for asked in server.asked] == ["GET", "HEAD", "GET"]


async def test_an_object_that_grew_since_it_was_listed_is_read_as_it_is_now(storage: Storage, server: FaultyS3) -> None:
    async with storage.open(server.config, "bucket", "key", expected_bytes=len(BODY) - 7) as opened:
        found = b"".join([bytes(block) async for block in opened.blocks()])

    assert found == BODY


async def test_many_streams_share_a_small_budget_and_all_come_through(server: FaultyS3) -> None:
    budget = ByteBudget(4 << 20)
    most_held_bytes = 0

    async with storage_of(StoragePace(block_bytes=1 << 20, connections=64), budget) as storage:

        async def one() -> str:
            nonlocal most_held_bytes
            digest = hashlib.sha256()
            async with storage.open(server.config, "bucket", "key", expected_bytes=len(BODY)) as opened:
                async for block in opened.blocks():
                    most_held_bytes = max(most_held_bytes, budget.held_bytes)
                    digest.update(block)
            return digest.hexdigest()

        digests = await asyncio.gather(*(one() for _ in range(64)))

    assert set(digests) == {hashlib.sha256(BODY).hexdigest()}
    assert (4 << 20) // 2 < most_held_bytes <= 4 << 20
    assert budget.held_bytes == 0
