"""Every trouble an S3 server can make, each on request, and what comes of it."""

import asyncio
import gc
import hashlib
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashmill.domain.errors import (
    ConfigFault,
    HashmillError,
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
from hashmill.storage.config import StorageConfig, StoragePace
from tests.helpers.faulty_s3 import SECRET_KEY, Act, FaultyS3
from tests.helpers.storage_reads import BODY, IMPATIENT, asked_by, read, storage_of
from tests.helpers.wait import wait_until_async


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


@pytest.mark.parametrize("body", [BODY[:5000], b""])
async def test_a_chunked_answer_that_ends_early_is_resumed(storage: Storage, server: FaultyS3, body: bytes) -> None:
    server.on_get += [Act(chunked=True, body=body)] * 2

    assert await read(storage, server) == BODY
    assert server.asked_for("range") == [None, None, f"bytes={len(body)}-" if body else None]


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


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"", b"\x00" * 70_000])
async def test_a_server_that_does_not_speak_http_is_a_timeout(storage: Storage, server: FaultyS3, raw: bytes) -> None:
    server.on_head += [Act(raw=raw)] * 9

    with pytest.raises(StorageTimeout, match="no answer from the S3 server"):
        await storage.head(server.config, "bucket", "key")


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
