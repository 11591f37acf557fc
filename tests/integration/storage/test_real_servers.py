"""HEAD and the blocks of real objects on a real S3 server."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from hashmill.domain.digest import DEFAULT_ALGORITHMS, HashedObject
from hashmill.domain.errors import ObjectChanged, ObjectMissing, ObjectTruncated, SigningRefused
from hashmill.domain.secret import Secret
from hashmill.hashing.engine import HashEngine
from hashmill.parts.s3 import S3Server
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import ObjectHead, StorageConfig, StoragePace
from tests.helpers.cutting_proxy import CuttingProxy

ODD_KEYS = [
    "plain.txt",
    "with space and +plus & more.txt",
    "ünïcode/文件/🗄.tif",
    "a//b///c",
    ".leading/..dots/...",
    "up/../down/./here",
    "100%25/%2F?query=1#fragment",
    "trailing/",
    "quotes'\"`<>\\|^~[]{}();,=@:$!*",
    "tab\tkey",
    "-" * 900,
]


@pytest.fixture(scope="module")
def client(s3: S3Server) -> Any:
    return s3.client()


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture
def config(s3: S3Server) -> StorageConfig:
    return StorageConfig(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        access_key_id=s3.access_key_id,
        secret_access_key=Secret(s3.secret_access_key),
    )


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage(StoragePace(block_bytes=100_000, resumes_max=3), ByteBudget(16 << 20), random=lambda: 0.0)
    yield storage
    await storage.close()


async def hashed(
    storage: Storage,
    config: StorageConfig,
    bucket: str,
    key: str,
    pin: ObjectHead | None = None,
    *,
    expected_bytes: int | None = None,
) -> HashedObject:
    engine = HashEngine(threads=2, inline_max_bytes=32_768)
    try:
        async with storage.open(config, bucket, key, pin=pin, expected_bytes=expected_bytes) as opened:
            return await engine.digest(opened.blocks(), DEFAULT_ALGORITHMS)
    finally:
        engine.close()


def digests(body: bytes) -> dict[str, str]:
    return {name: hashlib.new(name, body).hexdigest() for name in DEFAULT_ALGORITHMS}


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_an_object_with_an_odd_key_is_read_under_that_key(
    storage: Storage, config: StorageConfig, client: Any, bucket: str, key: str
) -> None:
    body = key.encode() * 3
    client.put_object(Bucket=bucket, Key=key, Body=body)

    head = await storage.head(config, bucket, key)
    async with storage.open(config, bucket, key) as opened:
        assert opened.head == head
        assert b"".join([bytes(block) async for block in opened.blocks()]) == body

    assert head.size_bytes == len(body)
    assert (await hashed(storage, config, bucket, key, head)).digests == digests(body)


@pytest.mark.parametrize("expected_bytes", [None, 0, 1 << 40])
@pytest.mark.parametrize("size_bytes", [0, 1, 99_999, 100_000, 100_001, 200_000, 1_234_567])
async def test_an_object_of_any_size_is_read_whole_whatever_was_expected(
    storage: Storage,
    config: StorageConfig,
    client: Any,
    bucket: str,
    size_bytes: int,
    expected_bytes: int | None,
) -> None:
    body = Random(size_bytes).randbytes(size_bytes)
    client.put_object(Bucket=bucket, Key="sized", Body=body)

    found = await hashed(storage, config, bucket, "sized", expected_bytes=expected_bytes)

    assert (found.size_bytes, found.digests) == (size_bytes, digests(body))


async def test_a_multipart_object_has_an_etag_that_is_no_digest(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    parts = [Random(1).randbytes(5 << 20), b"the end"]
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    done = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=number, Body=part)[
                "ETag"
            ],
        }
        for number, part in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": done})

    head = await storage.head(config, bucket, "parts")
    found = await hashed(storage, config, bucket, "parts", head)

    assert found.digests == digests(b"".join(parts))
    assert found.digests["md5"] not in head.etag


async def test_a_stream_that_breaks_off_is_resumed_by_range(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    body = Random(5).randbytes(2_000_000)
    client.put_object(Bucket=bucket, Key="cut", Body=body)

    async with CuttingProxy(config.endpoint_url or "", [700_000, 5_000, 900_001]) as proxy:
        through_proxy = replace(config, endpoint_url=proxy.endpoint_url)
        found = await hashed(storage, through_proxy, bucket, "cut")

        assert not proxy.cuts
    assert (found.size_bytes, found.digests) == (2_000_000, digests(body))


async def test_a_stream_that_breaks_off_too_often_is_truncated(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="cut", Body=bytes(2_000_000))

    async with CuttingProxy(config.endpoint_url or "", [20_000] * 4) as proxy:
        through_proxy = replace(config, endpoint_url=proxy.endpoint_url)
        with pytest.raises(ObjectTruncated) as raised:
            await hashed(storage, through_proxy, bucket, "cut")

    assert 0 < raised.value.received_bytes < raised.value.expected_bytes == 2_000_000


async def test_an_object_replaced_before_the_read_is_changed(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="replaced", Body=b"first")
    head = await storage.head(config, bucket, "replaced")
    client.put_object(Bucket=bucket, Key="replaced", Body=b"other")

    with pytest.raises(ObjectChanged):
        await hashed(storage, config, bucket, "replaced", head)


async def test_an_object_replaced_during_the_read_is_changed(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="replaced", Body=bytes(2_000_000))

    async with CuttingProxy(config.endpoint_url or "", [500_000]) as proxy:
        through_proxy = replace(config, endpoint_url=proxy.endpoint_url)
        async with storage.open(through_proxy, bucket, "replaced") as opened:
            blocks = opened.blocks()
            await anext(blocks)
            client.put_object(Bucket=bucket, Key="replaced", Body=bytes(2_000_001))
            with pytest.raises(ObjectChanged):
                _ = [block async for block in blocks]


async def test_a_version_is_read_although_the_object_was_replaced(
    storage: Storage, config: StorageConfig, client: Any, s3: S3Server
) -> None:
    bucket = s3.make_bucket()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key="kept", Body=b"first")
    async with storage.open(config, bucket, "kept") as opened:
        head = opened.head
    client.put_object(Bucket=bucket, Key="kept", Body=b"other")

    assert head.version_id is not None
    assert (await hashed(storage, config, bucket, "kept", head)).digests == digests(b"first")
    async with storage.open(config, bucket, "kept", pin=head, start_byte=2) as opened:
        assert [bytes(block) async for block in opened.blocks()] == [b"rst"]


async def test_a_read_starts_again_at_any_byte_of_the_object_it_had(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    body = Random(7).randbytes(500_000)
    client.put_object(Bucket=bucket, Key="again", Body=body)
    async with storage.open(config, bucket, "again") as opened:
        head = opened.head

    for start_byte in (0, 1, 123_456, 499_999):
        async with storage.open(config, bucket, "again", pin=head, start_byte=start_byte) as opened:
            assert b"".join([bytes(block) async for block in opened.blocks()]) == body[start_byte:]

    client.put_object(Bucket=bucket, Key="again", Body=body[::-1])
    for start_byte in (0, 123_456):
        with pytest.raises(ObjectChanged):
            async with storage.open(config, bucket, "again", pin=head, start_byte=start_byte):
                pass


async def test_an_object_deleted_after_head_is_missing(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="deleted", Body=b"body")
    head = await storage.head(config, bucket, "deleted")
    client.delete_object(Bucket=bucket, Key="deleted")

    with pytest.raises(ObjectMissing, match=f"s3://{bucket}/deleted"):
        await hashed(storage, config, bucket, "deleted", head)


async def test_what_is_not_there_is_missing(storage: Storage, config: StorageConfig, bucket: str) -> None:
    for named_bucket, key in ((bucket, "nothing"), ("no-such-bucket-here", "key")):
        with pytest.raises(ObjectMissing, match=f"s3://{named_bucket}/{key}"):
            await storage.head(config, named_bucket, key)
        with pytest.raises(ObjectMissing, match=f"s3://{named_bucket}/{key}"):
            await hashed(storage, config, named_bucket, key)


async def test_wrong_keys_are_told_from_a_closed_object_and_not_shown(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="closed", Body=b"body")
    wrong_secret = replace(config, secret_access_key=Secret("not-the-secret-of-this-key"))
    unknown_id = replace(config, access_key_id="AKIDNOBODY")

    for wrong in (wrong_secret, unknown_id):
        assert not await storage.answers(wrong, bucket)
        with pytest.raises(SigningRefused, match=r"s3\.secret_access_key") as by_head:
            await storage.head(wrong, bucket, "closed")
        with pytest.raises(SigningRefused) as by_get:
            await hashed(storage, wrong, bucket, "closed")
        assert not any(key in f"{by_head.value} {by_get.value}" for key in ("not-the-secret", "AKIDNOBODY"))
    assert await storage.answers(config, bucket)


async def test_one_storage_reads_with_many_credentials_at_once(
    storage: Storage, config: StorageConfig, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="shared", Body=b"body")
    wrong = replace(config, secret_access_key=Secret("not-the-secret-of-this-key"))

    with pytest.raises(SigningRefused):
        await storage.head(wrong, bucket, "shared")
    assert (await storage.head(config, bucket, "shared")).size_bytes == 4
