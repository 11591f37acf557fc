"""Every trouble an S3 server can make, each on request, and what comes of it."""

import asyncio
import gc
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import AioSession
from hypothesis import given, settings
from hypothesis import strategies as st

from hashmill.domain.errors import (
    ConfigFault,
    HashmillError,
    ObjectChanged,
    ObjectForbidden,
    ObjectMissing,
    ObjectOffline,
    ObjectTruncated,
    SigningRefused,
    StorageThrottled,
    StorageTimeout,
)
from hashmill.domain.secret import Secret
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import ObjectHead, StorageConfig, StoragePace
from hashmill.storage.link import open_link
from hashmill.storage.wire import READ_AHEAD_BYTES
from tests.helpers.faulty_s3 import SECRET_KEY, SESSION_TOKEN, Act, FaultyS3
from tests.helpers.wait import wait_until_async

BODY = Random(2).randbytes(700_000)
SESSION = AioSession()
QUICK = StoragePace(
    connect_timeout_s=2.0,
    idle_timeout_s=10.0,
    resumes_max=2,
    throttle_attempts=3,
    block_bytes=100_000,
)
IMPATIENT = replace(QUICK, idle_timeout_s=0.25)


@asynccontextmanager
async def storage_of(pace: StoragePace = QUICK, budget: ByteBudget | None = None) -> AsyncIterator[Storage]:
    storage = Storage(pace, budget or ByteBudget(64 << 20), session=SESSION, random=lambda: 0.0)
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with storage_of() as storage:
        yield storage


@pytest.fixture
async def impatient() -> AsyncIterator[Storage]:
    async with storage_of(IMPATIENT) as storage:
        yield storage


@pytest.fixture
async def server() -> AsyncIterator[FaultyS3]:
    async with FaultyS3(BODY) as server:
        yield server


async def read(storage: Storage, server: FaultyS3, pin: ObjectHead | None = None, **more: Any) -> bytes:
    body = bytearray()
    async with storage.open(server.config, "bucket", "key", pin=pin, **more) as opened:
        async for block in opened.blocks():
            body += block
    return bytes(body)


async def asked_by(storage: Storage, server: FaultyS3, method: str) -> None:
    """Ask for the object in one of the two ways."""
    if method == "HEAD":
        await storage.head(server.config, "bucket", "key")
    else:
        await read(storage, server)


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


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_cut_stream_is_resumed_from_the_last_byte(storage: Storage, server: FaultyS3, reset: bool) -> None:
    server.on_get += [Act(cut_after=250_000, reset=reset), Act(cut_after=200_000, reset=reset)]

    assert await read(storage, server) == BODY

    ranges = server.asked_for("range")
    assert len(ranges) == 3
    if not reset:  # a reset also destroys what the kernel had not handed over yet
        assert ranges == [None, "bytes=250000-", "bytes=450000-"]
    assert server.asked_for("if-match") == [None, '"one"', '"one"']


async def test_a_stream_cut_too_often_is_truncated(storage: Storage, server: FaultyS3) -> None:
    server.on_get += [Act(cut_after=1000)] * 3

    with pytest.raises(ObjectTruncated) as raised:
        await read(storage, server)

    assert (raised.value.expected_bytes, raised.value.received_bytes) == (700_000, 3000)


async def test_a_stream_that_falls_silent_is_cut_and_resumed(impatient: Storage, server: FaultyS3) -> None:
    server.on_get.append(Act(hang_after=300_000))

    assert await read(impatient, server) == BODY
    assert len(server.asked_for("range")) == 2


async def test_a_stream_that_keeps_falling_silent_is_a_timeout(impatient: Storage, server: FaultyS3) -> None:
    server.on_get += [Act(hang_after=10)] * 3

    with pytest.raises(StorageTimeout, match=r"nothing came for 0\.25 s"):
        await read(impatient, server)


async def test_a_dripping_stream_is_cut_and_resumed(server: FaultyS3) -> None:
    server.on_get.append(Act(drip=(50, 0.01)))

    async with storage_of(StoragePace(idle_timeout_s=5, throughput_window_s=0.2, min_bytes_per_s=100_000)) as storage:
        assert await read(storage, server) == BODY

    assert len(server.asked_for("range")) == 2


async def test_a_reader_that_is_slow_itself_is_not_cut(impatient: Storage, server: FaultyS3) -> None:
    body = bytearray()
    async with impatient.open(server.config, "bucket", "key") as opened:
        await asyncio.sleep(2 * IMPATIENT.idle_timeout_s)
        async for block in opened.blocks():
            if not body:
                await asyncio.sleep(2 * IMPATIENT.idle_timeout_s)
            body += block

    assert body == BODY
    assert len(server.asked_for("range")) == 1


async def test_an_answer_without_a_length_is_not_believed_and_head_is_asked(storage: Storage, server: FaultyS3) -> None:
    server.on_get += [Act(chunked=True), Act(chunked=True)]

    assert await read(storage, server) == BODY

    assert [asked.method for asked in server.asked] == ["GET", "HEAD", "GET"]
    assert server.asked_for("if-match") == [None, '"one"']


@pytest.mark.parametrize("body", [BODY[:5000], b""])
async def test_a_chunked_answer_that_ends_early_is_resumed(storage: Storage, server: FaultyS3, body: bytes) -> None:
    server.on_get += [Act(chunked=True, body=body)] * 2

    assert await read(storage, server) == BODY
    assert server.asked_for("range") == [None, None, f"bytes={len(body)}-" if body else None]


async def test_an_object_whose_length_nobody_tells_is_a_fault_of_the_configuration(
    storage: Storage, server: FaultyS3
) -> None:
    server.on_get.append(Act(chunked=True))
    server.on_head.append(Act(chunked=True))

    with pytest.raises(ConfigFault, match="without ETag or length"):
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


@pytest.mark.parametrize("act", [Act(status=503, code="SlowDown"), Act(status=429, code="TooManyRequests")])
async def test_a_busy_server_is_asked_again_in_place(storage: Storage, server: FaultyS3, act: Act) -> None:
    server.on_head += [act] * 2
    server.on_get += [act, Act(cut_after=1000), act, act]

    assert (await storage.head(server.config, "bucket", "key")).size_bytes == 700_000
    assert await read(storage, server) == BODY
    assert len(server.asked_for("range", "HEAD")) == 3
    assert server.asked_for("range") == [None, None, *["bytes=1000-"] * 3]


@pytest.mark.parametrize(
    ("act", "fault", "attempts"),
    [
        (Act(status=503, code="SlowDown"), StorageThrottled, 3),
        (Act(status=500, code="InternalError"), StorageTimeout, 3),
        (Act(status=502, body=b"<html>bad gateway</html>"), StorageTimeout, 3),
        (Act(status=404, code="NoSuchKey"), ObjectMissing, 1),
        (Act(status=404, body=b"<html>nothing here</html>"), ObjectMissing, 1),
        (Act(status=403, code="AccessDenied"), ObjectForbidden, 1),
        (Act(status=403, code="InvalidAccessKeyId"), SigningRefused, 1),
        (Act(status=403, code="SignatureDoesNotMatch"), SigningRefused, 2),  # the bucket is asked to be sure
        (Act(status=403, code="InvalidObjectState"), ObjectOffline, 1),
        (Act(status=403, code="RequestTimeTooSkewed"), SigningRefused, 1),
        (Act(status=403, body=b"{json}"), ObjectForbidden, 2),
        (Act(status=403, body=b"<Error><Code>&#0;</Code>"), ObjectForbidden, 2),
        (Act(status=403, body=b"x" * 1_000_000), ObjectForbidden, 2),
    ],
)
async def test_a_refused_get_is_tried_as_often_as_it_makes_sense(
    storage: Storage, server: FaultyS3, act: Act, fault: type[HashmillError], attempts: int
) -> None:
    server.on_get += [act] * 9

    with pytest.raises(fault):
        await read(storage, server)
    assert len(server.asked_for("range")) == attempts


@pytest.mark.parametrize(
    ("act", "fault", "attempts"),
    [
        (Act(status=404, code="-"), ObjectMissing, 1),
        (Act(status=403, code="-", headers={"Date": "Tue, 01 Jan 2019 00:00:00 GMT"}), ConfigFault, 1),
        (Act(status=503, code="-"), StorageThrottled, 3),
        (Act(status=500, code="-"), StorageTimeout, 3),
        (Act(headers={"x-amz-storage-class": "GLACIER"}), ObjectOffline, 1),
        (
            Act(headers={"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": 'ongoing-request="true"'}),
            ObjectOffline,
            1,
        ),
        (Act(headers={"x-amz-archive-status": "ARCHIVE_ACCESS"}), ObjectOffline, 1),
        (Act(headers={"ETag": ""}), ConfigFault, 1),
    ],
)
async def test_a_refused_head_is_tried_as_often_as_it_makes_sense(
    storage: Storage, server: FaultyS3, act: Act, fault: type[HashmillError], attempts: int
) -> None:
    server.on_head += [act] * attempts

    with pytest.raises(fault, match="s3://bucket/key"):
        await storage.head(server.config, "bucket", "key")
    assert len(server.asked) == attempts


@pytest.mark.parametrize(
    ("status", "reason", "fault"),
    [
        (403, Act(status=403, code="InvalidAccessKeyId"), SigningRefused),
        (403, Act(status=403, code="SignatureDoesNotMatch"), SigningRefused),
        (400, Act(status=400, code="ExpiredToken"), SigningRefused),
        (403, Act(status=403, code="AccessDenied"), ObjectForbidden),
        (401, Act(status=501, code="NotImplemented"), ObjectForbidden),
        (403, None, ObjectForbidden),
        (400, Act(status=400, code="-"), ConfigFault),
    ],
)
async def test_a_head_refused_without_words_is_the_objects_trouble_unless_the_bucket_refuses_our_keys(
    storage: Storage, server: FaultyS3, status: int, reason: Act | None, fault: type[HashmillError]
) -> None:
    server.on_head.append(Act(status=status, code="-"))
    server.on_get += [reason] if reason else []

    with pytest.raises(HashmillError, match="s3://bucket/key") as raised:
        await storage.head(server.config, "bucket", "key")

    assert type(raised.value) is fault
    assert [(asked.method, asked.target) for asked in server.asked] == [
        ("HEAD", "/bucket/key"),
        ("GET", "/bucket?versioning"),
    ]


@pytest.mark.parametrize("act", [Act(status=403, code="SignatureDoesNotMatch"), Act(status=403, body=b"no words")])
async def test_a_get_whose_path_is_rewritten_on_the_way_is_the_objects_trouble(
    storage: Storage, server: FaultyS3, act: Act
) -> None:
    server.on_get.append(act)

    with pytest.raises(ObjectForbidden, match="s3://bucket/key"):
        await read(storage, server)

    assert [asked.target for asked in server.asked] == ["/bucket/key", "/bucket?versioning"]


async def test_an_error_document_that_would_blow_up_a_parser_is_not_parsed(storage: Storage, server: FaultyS3) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE Error [<!ENTITY e0 "x">{entities}]><Error><Code>&e11;</Code></Error>'.encode()
    server.on_get.append(Act(status=404, body=bomb))

    with pytest.raises(ObjectMissing, match=r"answered 404$"):
        await read(storage, server)


async def test_a_refusal_whose_reason_is_lost_is_not_held_against_the_object(
    storage: Storage, server: FaultyS3
) -> None:
    server.on_head += [Act(status=403, code="-")] * 3
    server.on_get += [Act(status=503, code="SlowDown")] * 3

    with pytest.raises(StorageThrottled):
        await storage.head(server.config, "bucket", "key")


@pytest.mark.parametrize(
    ("act", "reason", "answers"),
    [
        (Act(), None, True),
        (Act(status=404, code="-"), None, True),
        (Act(status=501, code="-"), None, True),
        (Act(status=505, code="-"), None, True),
        (Act(status=403, code="-"), Act(status=403, code="AccessDenied"), True),
        (Act(status=403, code="-"), Act(status=403, code="InvalidAccessKeyId"), False),
        (Act(status=400, code="-"), Act(status=400, code="ExpiredToken"), False),
        (Act(status=500, code="-"), None, False),
        (Act(status=503, code="-"), None, False),
        (Act(raw=b""), None, False),
    ],
)
async def test_any_answer_tells_that_a_server_is_there_but_later_and_a_refusal_of_our_keys(
    storage: Storage, server: FaultyS3, act: Act, reason: Act | None, answers: bool
) -> None:
    server.on_head += [act] * 2
    server.on_get += [reason] * 2 if reason else []

    assert await storage.answers(server.config, "bucket") is answers


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_server_that_never_answers_is_a_timeout(impatient: Storage, server: FaultyS3, method: str) -> None:
    (server.on_head if method == "HEAD" else server.on_get).extend([Act(silent=True)] * 3)

    with pytest.raises(StorageTimeout, match="s3://bucket/key: no answer from the S3 server"):
        await asked_by(impatient, server, method)
    assert len(server.asked_for("host", method)) == 3


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


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(storage: Storage, server: FaultyS3, method: str, status: int) -> None:
    async with FaultyS3(BODY) as elsewhere:
        act = Act(
            status=status,
            code="PermanentRedirect",
            details="<Endpoint>elsewhere.example</Endpoint>",
            headers={"Location": f"{elsewhere.endpoint_url}/bucket/key", "x-amz-bucket-region": "eu-west-3"},
        )
        (server.on_head if method == "HEAD" else server.on_get).append(act)

        with pytest.raises(ConfigFault, match=r"set s3\.region = eu-west-3"):
            await asked_by(storage, server, method)

        assert elsewhere.asked == []
    assert [asked.method for asked in server.asked] == [method]


async def test_a_signature_for_another_region_is_reported_and_not_repaired(storage: Storage, server: FaultyS3) -> None:
    server.on_get.append(Act(status=400, code="AuthorizationHeaderMalformed", details="<Region>eu-west-3</Region>"))

    with pytest.raises(ConfigFault, match=r"set s3\.region = eu-west-3"):
        await read(storage, server)
    assert [asked.method for asked in server.asked] == ["GET"]


async def test_a_server_that_is_not_there_is_a_timeout(storage: Storage) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = StorageConfig(
            endpoint_url=f"http://127.0.0.1:{unused.getsockname()[1]}",
            access_key_id="AKIDEXAMPLE",
            secret_access_key=Secret(SECRET_KEY),
        )
        with pytest.raises(StorageTimeout, match="no answer from the S3 server: ClientConnectorError"):
            await storage.head(config, "bucket", "key")


async def test_a_host_that_does_not_exist_is_a_timeout(storage: Storage) -> None:
    config = StorageConfig(
        endpoint_url="http://nowhere.invalid", access_key_id="AKIDEXAMPLE", secret_access_key=Secret(SECRET_KEY)
    )

    with pytest.raises(StorageTimeout, match=r"nowhere\.invalid"):
        await storage.head(config, "bucket", "key")


@pytest.mark.parametrize("endpoint_url", ["nonsense", "ftp:/x", "http://ex ample"])
async def test_an_endpoint_that_is_no_address_is_a_fault_of_the_configuration(
    storage: Storage, endpoint_url: str
) -> None:
    with pytest.raises(ConfigFault):
        await storage.head(
            StorageConfig(endpoint_url=endpoint_url, access_key_id="a", secret_access_key=Secret("b")), "b", "k"
        )


async def test_missing_credentials_are_a_fault_of_the_configuration_until_there_are_some(
    storage: Storage, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    config = StorageConfig(endpoint_url=server.endpoint_url)
    with pytest.raises(ConfigFault, match=r"neither s3\.access_key_id nor the AWS chain"):
        await storage.head(config, "bucket", "key")
    assert server.asked == []

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    await storage.head(config, "bucket", "key")
    assert "AKIDLATER/" in (server.asked_for("authorization", "HEAD")[-1] or "")


async def test_half_a_credential_is_a_fault_of_the_configuration(storage: Storage, server: FaultyS3) -> None:
    with pytest.raises(ConfigFault, match="Partial credentials"):
        await storage.head(StorageConfig(endpoint_url=server.endpoint_url, access_key_id="a"), "bucket", "key")


async def test_the_environment_changes_neither_the_address_nor_the_road(
    server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyS3(b"elsewhere") as elsewhere, storage_of() as storage:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, elsewhere.endpoint_url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
        server.on_get += [Act(status=503, code="SlowDown")] * 3

        with pytest.raises(StorageThrottled):
            await read(storage, server)

        assert elsewhere.asked == []
    assert len(server.asked_for("range")) == QUICK.throttle_attempts


@pytest.mark.parametrize("key", ["", "\ud800", "k" * 1025])
async def test_a_key_no_object_can_have_is_missing(storage: Storage, server: FaultyS3, key: str) -> None:
    with pytest.raises(ObjectMissing):
        await storage.head(server.config, "bucket", key)
    assert server.asked == []


@pytest.mark.parametrize(
    "bucket",
    [
        "",
        "..",
        "a..b",
        "a/b",
        "a\nb",
        "ü",
        "\ud800",
        "b" * 256,
        "?x",
        "arn:aws:s3:eu-west-3:123456789012:accesspoint/x",
    ],
)
async def test_a_bucket_no_server_can_have_is_a_fault_of_the_configuration(
    storage: Storage, server: FaultyS3, bucket: str
) -> None:
    with pytest.raises(ConfigFault, match="no bucket can have this name"):
        await storage.head(server.config, bucket, "key")
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "knob"),
    [
        ({"region": ""}, "region"),
        ({"region": "eu-west-3\n"}, "region"),
        ({"access_key_id": "AKID\n"}, "access_key_id"),
        ({"secret_access_key": Secret("secret\n")}, "secret_access_key"),
        ({"session_token": Secret("token\r\nX-Evil: 1")}, "session_token"),
    ],
)
async def test_a_setting_that_cannot_stand_in_a_header_is_named(
    storage: Storage, server: FaultyS3, change: dict[str, Any], knob: str
) -> None:
    with pytest.raises(ConfigFault, match=rf"^s3\.{knob} ") as raised:
        await storage.head(replace(server.config, **change), "bucket", "key")
    assert "ecret\n" not in str(raised.value)
    assert server.asked == []


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"", b"\x00" * 70_000])
async def test_a_server_that_does_not_speak_http_is_a_timeout(storage: Storage, server: FaultyS3, raw: bytes) -> None:
    server.on_head += [Act(raw=raw)] * 9

    with pytest.raises(StorageTimeout, match="no answer from the S3 server"):
        await storage.head(server.config, "bucket", "key")


@pytest.mark.parametrize(
    "trouble",
    [
        lambda server: server.on_get.append(Act(status=403, code="InvalidAccessKeyId")),
        lambda server: server.on_get.append(Act(status=403, code="SignatureDoesNotMatch")),
        lambda server: server.on_get.extend([Act(cut_after=1)] * 3),
        lambda server: server.on_get.extend([Act(raw=b"HTTP/1.1 abc\r\n\r\n")] * 3),
    ],
)
async def test_no_message_and_no_cause_shows_a_key(
    storage: Storage, server: FaultyS3, trouble: Callable[[FaultyS3], None]
) -> None:
    trouble(server)

    with pytest.raises(HashmillError) as raised:
        await read(storage, server)

    error: BaseException | None = raised.value
    while error is not None:
        shown = f"{error!r} {error} {vars(error)}"
        assert SECRET_KEY not in shown
        assert SESSION_TOKEN not in shown
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 699_999), max_size=3), block_bytes=st.integers(70_000, 800_000))
def test_resumed_at_random_cuts_it_is_the_same_object(cuts: list[int], block_bytes: int) -> None:
    async def digest() -> str:
        async with (
            FaultyS3(BODY) as server,
            storage_of(StoragePace(resumes_max=3, block_bytes=block_bytes)) as storage,
        ):
            server.on_get += [Act(cut_after=cut) for cut in cuts]
            return hashlib.sha256(await read(storage, server)).hexdigest()

    assert asyncio.run(digest()) == hashlib.sha256(BODY).hexdigest()


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


async def test_a_cancelled_read_hangs_up_and_gives_its_bytes_back(server: FaultyS3) -> None:
    budget = ByteBudget(4 << 20)
    server.on_get.append(Act(hang_after=1000))
    async with storage_of(StoragePace(), budget) as storage:
        task = asyncio.create_task(read(storage, server))
        await wait_until_async(lambda: server.asked_for("range"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert budget.held_bytes == 0
        assert await read(storage, server) == BODY
    gc.collect()  # nothing unclosed is left for the collector to warn of


async def test_a_closed_storage_has_hung_up_everywhere(server: FaultyS3) -> None:
    async with FaultyS3(b"other") as other, storage_of() as storage:
        await asyncio.gather(*(read(storage, one) for one in (server, other, server)))
        assert server.open_connections
        assert other.open_connections

        await storage.close()

        await wait_until_async(lambda: server.open_connections + other.open_connections == 0)


class Chain:
    """Keys of a role that expire, as a session finds them; each refresh gives others."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.given = 0

    async def refreshed(self) -> dict[str, str]:
        self.given += 1
        expiry = self.now + timedelta(hours=1)
        return {
            "access_key": f"AKID{self.given}",
            "secret_key": "s",
            "token": f"token{self.given}",
            "expiry_time": expiry.isoformat(),
        }

    async def load_credentials(self) -> AioRefreshableCredentials:
        return AioRefreshableCredentials(
            "AKID0",
            "s",
            "token0",
            self.now + timedelta(hours=1),
            self.refreshed,
            "test",
            time_fetcher=lambda: self.now,
        )


async def test_keys_that_expire_in_mid_run_are_refreshed(server: FaultyS3) -> None:
    chain = Chain()
    session = AioSession()
    session.register_component("credential_provider", chain)
    storage = Storage(QUICK, ByteBudget(64 << 20), session=session, random=lambda: 0.0)
    config = StorageConfig(endpoint_url=server.endpoint_url)
    try:
        for _ in range(3):
            async with storage.open(config, "bucket", "key"):
                pass
            chain.now += timedelta(minutes=55)
    finally:
        await storage.close()

    assert server.asked_for("x-amz-security-token") == ["token0", "token1", "token2"]
    assert [f"AKID{n}/" in (said or "") for n, said in enumerate(server.asked_for("authorization"))] == [True] * 3


@pytest.mark.parametrize(
    ("style", "endpoint_url", "bucket", "root"),
    [
        ("path", "http://s3.example.org:9000", "a.b", "http://s3.example.org:9000/a.b/"),
        ("virtual", "http://s3.example.org:9000", "bucket", "http://bucket.s3.example.org:9000/"),
        ("auto", "https://s3.example.org/gate", "bucket", "https://s3.example.org/gate/bucket/"),
        ("virtual", None, "bucket", "https://bucket.s3.eu-west-3.amazonaws.com/"),
        ("path", None, "a.b", "https://s3.eu-west-3.amazonaws.com/a.b/"),
    ],
)
async def test_a_bucket_is_where_the_rules_of_botocore_say(
    style: Any, endpoint_url: str | None, bucket: str, root: str
) -> None:
    config = StorageConfig(
        endpoint_url=endpoint_url,
        region="eu-west-3",
        addressing_style=style,
        access_key_id="AKIDEXAMPLE",
        secret_access_key=Secret(SECRET_KEY),
    )
    async with open_link(SESSION, config, QUICK) as link:
        address = await link.address(bucket)

        assert (address.root, address.region, address.service) == (root, "eu-west-3", "s3")
        with pytest.raises(ConfigFault, match="directory buckets"):
            await link.address("bucket--euw3-az1--x-s3")


@pytest.mark.parametrize(
    "body",
    [
        b"<x><Error/></x>",
        b"<x><ResponseMetadata>a</ResponseMetadata></x>",
        b"<Error><Code>a</Code><Code>b</Code></Error>",
        b"<Error><Code><b/></Code></Error>",
        b"<not xml",
        b"",
    ],
)
async def test_whatever_stands_in_a_503_the_server_is_busy(storage: Storage, server: FaultyS3, body: bytes) -> None:
    server.on_get += [Act(status=503, body=body)] * 20

    with pytest.raises(StorageThrottled):
        await read(storage, server)


async def test_a_date_that_no_calendar_holds_costs_no_connection(storage: Storage, server: FaultyS3) -> None:
    far = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    server.on_get += [Act(headers={"Last-Modified": far, "Date": far})] * 3

    for _ in range(3):
        assert await read(storage, server) == BODY


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
