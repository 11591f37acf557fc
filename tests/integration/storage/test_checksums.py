"""What S3 servers state of their objects in the GET that reads them: one stores it, two do not, and one lies."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from hashmill.domain.checksums import PartSizes, StoredChecksum, computed_in
from hashmill.domain.job import Mode, RunState
from hashmill.domain.secret import Secret
from hashmill.domain.work import Baseline, ClaimedFile, FileOutcome
from hashmill.flow.hash_one import read_one
from hashmill.flow.tools import MillTools, ObjectPlace, Rules
from hashmill.hashing.engine import HashEngine
from hashmill.hashing.registry import open_hasher
from hashmill.ledger.runs import Run
from hashmill.parts.s3 import S3Server, start_s3
from hashmill.storage import client as client_module
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import ObjectHead, StorageConfig, StoragePace
from tests.helpers.faulty_s3 import Act, FaultyS3
from tests.helpers.moto_server import BUCKET, MotoS3, running_moto
from tests.helpers.servers import work_folder

BODY = Random(5).randbytes(50_000)
PART_BYTES = 5 << 20
PARTS = (Random(6).randbytes(PART_BYTES), Random(7).randbytes(1000))
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
MULTIPART = '"8c6f96fe400c627d9394af6161f5921d-2"'


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoS3]:
    with running_moto() as server:
        yield server


@pytest.fixture(scope="module")
def moto_client(moto: MotoS3) -> Iterator[Any]:
    client = moto.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def swift() -> Iterator[S3Server]:
    with work_folder("swift") as folder, start_s3(folder, "swift") as server:
        yield server


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage(
        StoragePace(backoff_base_s=0.001, backoff_cap_s=0.001, idle_timeout_s=5.0, block_bytes=100_000, resumes_max=3),
        ByteBudget(16 << 20),
    )
    yield storage
    await storage.close()


@pytest.fixture
def engine() -> Iterator[HashEngine]:
    engine = HashEngine(threads=2, inline_max_bytes=32_768)
    yield engine
    engine.close()


def plain(algorithm: str, body: bytes) -> str:
    hasher = open_hasher(algorithm.lower())
    hasher.update(body)
    return hasher.hexdigest()


def composite(algorithm: str) -> str:
    return plain(algorithm, b"".join(bytes.fromhex(plain(algorithm, part)) for part in PARTS))


def b64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


def upload(client: Any, key: str, algorithm: str, kind: str | None = None) -> None:
    """Upload `PARTS` as one object."""
    named = {"Bucket": BUCKET, "Key": key}
    asked = {"ChecksumAlgorithm": algorithm} | ({"ChecksumType": kind} if kind else {})
    upload_id = client.create_multipart_upload(**named, **asked)["UploadId"]
    done = []
    for number, body in enumerate(PARTS, 1):
        told = client.upload_part(
            **named, UploadId=upload_id, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm
        )
        done.append({"PartNumber": number, "ETag": told["ETag"]})
    client.complete_multipart_upload(**named, UploadId=upload_id, MultipartUpload={"Parts": done})


async def opened_head(storage: Storage, config: StorageConfig, bucket: str, key: str) -> ObjectHead:
    async with storage.open(config, bucket, key) as opened:
        async for _ in opened.blocks():
            pass
        return opened.head


async def worked(
    storage: Storage,
    engine: HashEngine,
    config: StorageConfig,
    bucket: str,
    key: str,
    size_bytes: int,
    *,
    baseline: Baseline | None = None,
) -> FileOutcome:
    """Read one file as a worker does; with `baseline` only ask about it."""

    def place_of(tenant_id: str, container_id: str, storage_id: str | None, file_id: str, path: str) -> ObjectPlace:
        return ObjectPlace(config=config, bucket=bucket, key=path)

    mill = MillTools(process="here", rules=Rules(), storage=storage, engine=engine, place_of=place_of)
    run: dict[str, Any] = dict.fromkeys(Run.__slots__, 0)
    run |= {"algorithms": ("md5", "sha256"), "api_url": "http://127.0.0.1:1", "container_id": "1", "job_id": "1"}
    run |= {
        "state": RunState.RUNNING,
        "mode": Mode.ATTEST if baseline else Mode.HASH,
        "run_id": "run",
        "tenant_id": "default",
        "storage_id": None,
    }
    file = ClaimedFile(
        file_no=1, file_id="1", path=key, size_bytes=size_bytes, fence=1, attempts=0, generation=0, baseline=baseline
    )
    return await read_one(mill, Run(**run), file)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_answer_to_the_get_states_what_the_server_stores_and_the_bytes_have_it(
    storage: Storage, engine: HashEngine, moto: MotoS3, moto_client: Any, algorithm: str
) -> None:
    moto_client.put_object(Bucket=BUCKET, Key=f"one {algorithm}", Body=BODY, ChecksumAlgorithm=algorithm)

    head = await opened_head(storage, moto.config, BUCKET, f"one {algorithm}")
    assert head.checksums == (StoredChecksum(algorithm=algorithm.lower(), digest=plain(algorithm, BODY)),)
    assert head == await storage.head(moto.config, BUCKET, f"one {algorithm}")

    outcome = await worked(storage, engine, moto.config, BUCKET, f"one {algorithm}", len(BODY))
    (compared,) = outcome.provider_checksums
    assert (compared["of"], compared["comparison"]) == ("object", "equal")
    assert outcome.digests == {name: hashlib.new(name, BODY).hexdigest() for name in ("md5", "sha256")}


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
async def test_a_checksum_of_parts_whose_sizes_the_server_does_not_tell_is_not_comparable(
    storage: Storage, engine: HashEngine, moto: MotoS3, moto_client: Any, algorithm: str
) -> None:
    upload(moto_client, f"parts {algorithm}", algorithm)
    size_bytes = sum(map(len, PARTS))

    head = await opened_head(storage, moto.config, BUCKET, f"parts {algorithm}")
    assert head.checksums == (StoredChecksum(algorithm=algorithm.lower(), digest=composite(algorithm), parts=2),)

    outcome = await worked(storage, engine, moto.config, BUCKET, f"parts {algorithm}", size_bytes)
    (compared,) = outcome.provider_checksums
    assert (compared["parts"], compared["comparison"], compared["computed"]) == (2, "not_comparable", None)
    assert compared["reason"].startswith("the sizes of 0 parts are told")
    assert outcome.state == "done"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
async def test_what_moto_stores_of_parts_is_what_we_compute_when_the_sizes_are_told(
    storage: Storage,
    engine: HashEngine,
    moto: MotoS3,
    moto_client: Any,
    algorithm: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(moto_client, f"told {algorithm}", algorithm)

    async def told(*_: object) -> PartSizes:
        return PartSizes(sizes_bytes=tuple(map(len, PARTS)))

    monkeypatch.setattr(storage, "parts", told)
    outcome = await worked(storage, engine, moto.config, BUCKET, f"told {algorithm}", sum(map(len, PARTS)))

    (compared,) = outcome.provider_checksums
    assert (compared["of"], compared["comparison"]) == ("parts", "equal")


async def test_a_crc64nvme_of_an_object_of_parts_is_of_the_whole_object(
    storage: Storage, engine: HashEngine, moto: MotoS3, moto_client: Any
) -> None:
    upload(moto_client, "whole", "CRC64NVME", "FULL_OBJECT")

    outcome = await worked(storage, engine, moto.config, BUCKET, "whole", sum(map(len, PARTS)))

    (compared,) = outcome.provider_checksums
    assert (compared["of"], compared["comparison"]) == ("object", "equal")
    assert compared["computed"] == plain("CRC64NVME", b"".join(PARTS))


async def test_what_was_read_once_is_attested_by_one_head_until_it_is_replaced(
    storage: Storage, engine: HashEngine, moto: MotoS3, moto_client: Any
) -> None:
    named = {"Bucket": BUCKET, "Key": "attested"}
    moto_client.put_object(**named, Body=BODY, ChecksumAlgorithm="CRC64NVME")
    read = await worked(storage, engine, moto.config, BUCKET, "attested", len(BODY))
    baseline = Baseline(
        run_id="earlier",
        file_no=1,
        finished_at_ms=0,
        size_bytes=len(BODY),
        etag=read.etag,
        version_id=read.version_id,
        digests={**computed_in(read.provider_checksums), **read.digests},
    )

    async def ask() -> str | None:
        found = await worked(storage, engine, moto.config, BUCKET, "attested", len(BODY), baseline=baseline)
        assert (found.kind, found.digests, found.size_bytes) == ("file_attested", {}, None)
        return found.verdict

    assert await ask() == "attested"
    moto_client.put_object(**named, Body=BODY[::-1], ChecksumAlgorithm="CRC64NVME")
    assert await ask() == "changed"
    moto_client.put_object(**named, Body=BODY)
    assert await ask() == "unattested"
    moto_client.put_object(**named, Body=BODY[::-1])
    assert await ask() == "changed"


async def test_an_object_stored_without_a_checksum_states_none(
    storage: Storage, moto: MotoS3, moto_client: Any
) -> None:
    moto_client.put_object(Bucket=BUCKET, Key="plain", Body=BODY)

    assert (await opened_head(storage, moto.config, BUCKET, "plain")).checksums == ()


async def test_who_is_not_to_be_asked_is_not_asked(storage: Storage, moto: MotoS3, moto_client: Any) -> None:
    moto_client.put_object(Bucket=BUCKET, Key="unasked", Body=BODY, ChecksumAlgorithm="CRC32")
    config = replace(moto.config, provider_checksums=False)

    assert (await opened_head(storage, config, BUCKET, "unasked")).checksums == ()
    assert (await storage.head(config, BUCKET, "unasked")).checksums == ()


@pytest.mark.parametrize("backend", ["s3", "swift"])
async def test_servers_that_store_no_checksum_are_read_as_before(
    storage: Storage, engine: HashEngine, request: pytest.FixtureRequest, backend: str
) -> None:
    server: S3Server = request.getfixturevalue(backend)
    bucket, client = server.make_bucket(), server.client()
    client.put_object(Bucket=bucket, Key="dir/a + ü.bin", Body=BODY)
    config = StorageConfig(
        endpoint_url=server.endpoint_url,
        region=server.region,
        access_key_id=server.access_key_id,
        secret_access_key=Secret(server.secret_access_key),
    )

    asked = await worked(storage, engine, config, bucket, "dir/a + ü.bin", len(BODY))
    silent = replace(config, provider_checksums=False)
    unasked = await worked(storage, engine, silent, bucket, "dir/a + ü.bin", len(BODY))

    assert asked == unasked
    assert asked.entry is not None
    assert "provider" not in asked.entry
    assert (await storage.head(config, bucket, "dir/a + ü.bin")).checksums == ()
    client.close()


async def test_only_the_request_that_finds_the_object_asks_for_its_checksums(storage: Storage) -> None:
    headers = {"x-amz-checksum-crc32": b64(plain("crc32", BODY)), "x-amz-checksum-type": "FULL_OBJECT"}
    async with FaultyS3(BODY, headers=headers) as server:
        server.on_get.append(Act(cut_after=10_000))
        head = await opened_head(storage, server.config, "bucket", "key")

        assert head.checksums == (StoredChecksum(algorithm="crc32", digest=plain("crc32", BODY)),)
        assert server.asked_for("x-amz-checksum-mode") == ["ENABLED", None]
        signed = server.asked_for("authorization")
        assert "x-amz-checksum-mode" in str(signed[0])
        assert len(server.asked) == 2


async def test_a_wrong_checksum_is_found_by_two_reads_of_the_pinned_object(
    storage: Storage, engine: HashEngine
) -> None:
    async with FaultyS3(BODY, headers={"x-amz-checksum-crc64nvme": b64("00" * 8)}) as server:
        outcome = await worked(storage, engine, server.config, "bucket", "key", len(BODY))

        assert (outcome.state, outcome.verdict, outcome.error_class) == ("failed", "mismatch", "s3.checksum_differs")
        assert server.asked_for("if-match") == [None, '"one"']


async def test_bytes_damaged_on_their_way_are_read_again_and_hashed_right(storage: Storage, engine: HashEngine) -> None:
    damaged = BODY[:-1] + bytes([BODY[-1] ^ 1])
    async with FaultyS3(BODY, headers={"x-amz-checksum-crc64nvme": b64(plain("crc64nvme", BODY))}) as server:
        server.on_get.append(Act(body=damaged))
        outcome = await worked(storage, engine, server.config, "bucket", "key", len(BODY))

    assert outcome.state == "done"
    assert outcome.digests["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert outcome.entry is not None
    assert outcome.entry["reads"] == 2


async def test_what_cannot_be_a_checksum_is_entered_as_not_comparable(storage: Storage, engine: HashEngine) -> None:
    async with FaultyS3(BODY, headers={"x-amz-checksum-sha256": "<no base64>"}) as server:
        outcome = await worked(storage, engine, server.config, "bucket", "key", len(BODY))

    (compared,) = outcome.provider_checksums
    assert (outcome.state, compared["comparison"], compared["stored"]) == ("done", "not_comparable", None)
    assert compared["reason"] == "the S3 server states '<no base64>'"


def attributes(parts: list[tuple[int, int]], *, etag: str = MULTIPART, more: bool = False, count: int = 2) -> Act:
    told = "".join(f"<Part><PartNumber>{number}</PartNumber><Size>{size}</Size></Part>" for number, size in parts)
    return Act(
        body=(
            f"<GetObjectAttributesResponse><ETag>{etag.strip(chr(34))}</ETag><ObjectParts><PartsCount>{count}</PartsCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{told}</ObjectParts></GetObjectAttributesResponse>"
        ).encode()
    )


async def sizes(storage: Storage, *acts: Act, count: int = 2, size_bytes: int = 30) -> PartSizes:
    async with FaultyS3(b"", etag=MULTIPART) as server:
        server.on_get.extend(acts)
        head = ObjectHead(size_bytes=size_bytes, etag=MULTIPART)
        told = await storage.parts(server.config, "bucket", "key", head, count)
        assert all("attributes" in asked.target for asked in server.asked)
        assert len(server.asked) <= max(1, len(acts))
        return told


async def test_the_sizes_of_the_parts_are_read_page_by_page(storage: Storage) -> None:
    told = await sizes(storage, attributes([(1, 10), (3, 15)], more=True), attributes([(7, 5)]), count=3)

    assert told == PartSizes(sizes_bytes=(10, 15, 5))


async def test_ten_thousand_parts_fit_and_one_more_is_not_asked_for(storage: Storage) -> None:
    pages = [attributes([(at + n, 1) for n in range(1, 251)], more=True) for at in range(0, 10_250, 250)]
    last = [*pages[:39], attributes([(9750 + n, 1) for n in range(1, 251)])]

    assert (await sizes(storage, *last, count=10_000, size_bytes=10_000)).sizes_bytes == (1,) * 10_000
    assert "10250 parts" in (await sizes(storage, *pages, count=10_000, size_bytes=10_000)).reason


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (Act(status=403, code="AccessDenied"), "answered 403 AccessDenied"),
        (Act(status=501, code="NotImplemented"), "answered 501 NotImplemented"),
        (Act(status=503, code="SlowDown"), "answered 503 SlowDown"),
        (replace(attributes([(1, 10), (2, 20)]), cut_after=5), "no answer from the S3 server"),
        (Act(body=attributes([(1, 10)]).body.replace(b"10", b"x")), "the answer is not S3's"),
        (Act(body=b"<GetObjectAttributesResponse><ETag>"), "answered 500"),
        (Act(body=b"\x00 no XML"), "answered 500"),
        (Act(body=b"x" * 1_000_000), "answered 500"),
        (Act(body=b"<a/>"), "another object has its place"),
        (attributes([(1, 10), (2, 20)], etag='"other-2"'), "another object has its place"),
        (attributes([]), "the sizes of 0 parts are told"),
        (attributes([(1, 10)]), "the sizes of 1 parts are told, together 10 bytes"),
        (attributes([(1, 10), (2, 21)]), "together 31 bytes; the object has 2 parts and 30 bytes"),
        (attributes([(1, 10), (1, 20)]), "makes no sense"),
        (attributes([(2, 10), (1, 20)]), "makes no sense"),
        (attributes([(1, 40), (2, -10)]), "makes no sense"),
    ],
)
async def test_sizes_that_are_not_told_or_cannot_be_right_are_a_reason_and_no_error(
    storage: Storage, act: Act, reason: str
) -> None:
    told = await sizes(storage, act)

    assert told.sizes_bytes == ()
    assert reason in told.reason


async def test_a_server_that_tells_no_sizes_in_time_is_waited_for_no_longer(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PROBE_S", 0.2)

    async with asyncio.timeout(10):
        assert "within 0.2 s" in (await sizes(storage, Act(silent=True))).reason


async def test_an_archived_object_is_told_of_where_nothing_is_to_be_read(storage: Storage) -> None:
    headers = {"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-checksum-crc32": b64(plain("crc32", BODY))}
    async with FaultyS3(BODY, headers=headers) as server:
        head = await storage.head(server.config, "bucket", "key", even_offline=True)

    assert head.checksums == (StoredChecksum(algorithm="crc32", digest=plain("crc32", BODY)),)
