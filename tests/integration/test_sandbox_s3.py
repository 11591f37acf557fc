"""The sandbox's files lie in a real bucket: uploads through the API, and objects that came by S3."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest

from hashmill.parts.s3 import S3Server
from hashmill.sandbox import FileRecord, StorageConfig
from tests.helpers.sandbox import READER_KEY, STRANGER_KEY, Caller, calling, sandbox_config

MIB = 1024 * 1024
ODD_NAMES = [
    "two  words.txt",
    "a//b",
    "/leading",
    ".hidden",
    "..dots",
    "100%",
    "a%2Fb",
    "q?x=1&y#z",
    "a+b",
    "ü/日本.tif",
    "e\u0301",
    "<b>'\"&",
]


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture
def storage(s3: S3Server, bucket: str) -> StorageConfig:
    return StorageConfig(
        endpoint_url=s3.endpoint_url,
        bucket=bucket,
        region=s3.region,
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key,
    )


@pytest.fixture
async def caller(storage: StorageConfig) -> AsyncIterator[Caller]:
    async with calling(sandbox_config(storage=storage)) as caller:
        yield caller


@pytest.fixture
def client(s3: S3Server) -> Any:
    return s3.client()


def _content(client: Any, bucket: str, key: str) -> bytes:
    content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_an_upload_of_an_odd_name_lies_at_the_container_s_id_and_exactly_that_name(
    name: str, caller: Caller, client: Any, bucket: str
) -> None:
    file = (await caller.upload(name, b"content")).result

    assert (file["fullpath"], file["size"], file["type"]) == ("/" + name, 7, "FILE")
    assert _content(client, bucket, "1/" + name) == b"content"


async def test_an_empty_file_and_one_in_a_folder_are_uploaded(caller: Caller, client: Any, bucket: str) -> None:
    empty = (await caller.upload("empty", b"")).result
    inside = (await caller.upload("a b", b"x", path="/deep//er/")).result

    assert (empty["size"], inside["fullpath"]) == (0, "/deep//er/a b")
    assert _content(client, bucket, "1/empty") == b""
    assert _content(client, bucket, "1/deep//er/a b") == b"x"


async def test_small_chunks_in_any_order_become_one_object(caller: Caller, client: Any, bucket: str) -> None:
    chunks = [os.urandom(1000 + at) for at in range(5)]

    answers = [
        await caller.upload("whole", chunks[at], index=at, chunkCount=str(len(chunks))) for at in (3, 0, 4, 4, 1, 2)
    ]

    assert [answer.body["result"].get("complete") for answer in answers] == [False] * 5 + [None]
    assert answers[-1].result["size"] == sum(map(len, chunks))
    assert _content(client, bucket, "1/whole") == b"".join(chunks)


async def test_large_chunks_sent_side_by_side_become_a_multipart_upload(
    caller: Caller, client: Any, bucket: str
) -> None:
    chunks = [os.urandom(5 * MIB), os.urandom(6 * MIB), os.urandom(100)]

    answers = await asyncio.gather(
        *(caller.upload("big", chunk, index=at, chunkCount="3") for at, chunk in enumerate(chunks))
    )

    (file,) = [answer.result for answer in answers if "id" in answer.result]
    assert file["size"] == 11 * MIB + 100
    assert hashlib.sha256(_content(client, bucket, "1/big")).digest() == hashlib.sha256(b"".join(chunks)).digest()
    # The mark S3 leaves on an object that was made of parts.
    assert client.head_object(Bucket=bucket, Key="1/big")["ETag"].strip('"').endswith("-3")


async def test_a_new_upload_of_a_path_keeps_the_file_s_id_and_forgets_its_hashes(caller: Caller) -> None:
    first = (await caller.upload("a", b"old")).result
    await caller.call("PUT", f"/api/file/{first['id']}/hash", json={"algorithm": "md5", "hash": "00"})

    second = (await caller.upload("a", b"newer")).result

    assert (second["id"], second["size"]) == (first["id"], 5)
    assert caller.sandbox.hashes_of(first["id"]) == {}


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ({"fileName": ""}, 0),
        ({}, 1),
        ({"chunkCount": "1"}, 1),
        ({"chunkCount": "0"}, 0),
        ({"chunkCount": "10001"}, 0),
        ({"chunkIndex": "x"}, 0),
    ],
)
async def test_a_chunk_that_cannot_be_placed_is_refused(fields: dict[str, str], index: int, caller: Caller) -> None:
    answer = await caller.upload("a", b"x", index=index, **fields)

    assert answer.status == 422
    assert caller.sandbox.files("1") == []


async def test_a_form_without_a_file_is_refused_and_so_is_no_form(caller: Caller) -> None:
    path, form = "/api/container/1/file/upload", aiohttp.FormData(default_to_multipart=True)
    form.add_field("fileName", "a")
    form.add_field("chunkIndex", "0")

    assert (await caller.call("POST", path, data=form)).status == 422
    assert (await caller.call("POST", path, json={"fileName": "a", "chunkIndex": "0"})).status == 400


async def test_a_reader_and_a_stranger_upload_nothing(caller: Caller, client: Any, bucket: str) -> None:
    for key in (READER_KEY, STRANGER_KEY):
        path = "/api/container/1/file/upload"
        assert (await caller.call("POST", path, key=key, data={"fileName": "a", "chunkIndex": "0"})).status == 403

    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


async def test_a_bucket_that_is_not_there_is_told_as_a_bad_gateway(s3: S3Server) -> None:
    nowhere = StorageConfig(
        endpoint_url=s3.endpoint_url,
        bucket="no-such-bucket",
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key,
    )
    async with calling(sandbox_config(storage=nowhere)) as caller:
        upload = await caller.upload("a", b"x")
        scan = await caller.call("POST", "/sandbox/containers/1/scan")

    assert (upload.status, scan.status) == (502, 502)
    assert "NoSuchBucket" in upload.body["msg"]


async def test_without_a_storage_s_endpoint_an_upload_says_so() -> None:
    async with calling(sandbox_config()) as caller:
        answer = await caller.upload("a", b"x")

    assert answer.status == 502
    assert "no endpoint_url" in answer.body["msg"]


async def test_a_scan_registers_what_came_by_s3_and_only_of_its_container(
    caller: Caller, client: Any, bucket: str
) -> None:
    for name in ODD_NAMES:
        client.put_object(Bucket=bucket, Key="1/" + name, Body=name.encode())
    client.put_object(Bucket=bucket, Key="11/other", Body=b"x")
    client.put_object(Bucket=bucket, Key="1/made/", Body=b"")
    uploaded = (await caller.upload("a//b", b"content")).result

    counts = [(await caller.call("POST", "/sandbox/containers/1/scan")).result["count"] for _ in range(2)]

    def files(type: str) -> list[FileRecord]:
        return [file for file in caller.sandbox.files("1") if file.type == type]

    assert counts == [len(ODD_NAMES)] * 2
    assert sorted(file.fullpath for file in files("FILE")) == sorted("/" + name for name in ODD_NAMES)
    assert [file.fullpath for file in files("FOLDER")] == ["/made"]
    assert uploaded["id"] in {file.id for file in files("FILE")}


async def test_a_scan_goes_over_many_pages_and_follows_a_changed_size(caller: Caller, client: Any, bucket: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: client.put_object(Bucket=bucket, Key=f"1/{at:04}", Body=b"x"), range(1100)))

    assert await caller.sandbox.scan("1") == 1100
    client.put_object(Bucket=bucket, Key="1/0007", Body=b"longer")
    assert await caller.sandbox.scan("1") == 1100

    sizes = {file.fullpath: file.size for file in caller.sandbox.files("1")}
    assert len(sizes) == 1100
    assert (sizes["/0007"], sizes["/0008"]) == (6, 1)
