"""A small collection with known digests: odd names, odd sizes, one large object, one uploaded in parts."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 1 << 20
PART_BYTES: Final = 5 * MIB
"""known: the smallest part S3 takes in a multipart upload, but for the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One object to make. `path` is relative to the container; its bytes follow from `seed` alone."""

    path: str
    size_bytes: int
    seed: int
    in_parts: bool = False

    def blocks(self, block_bytes: int = PART_BYTES) -> Iterator[bytes]:
        """Yield the object's bytes in blocks, the same ones each time."""
        source = random.Random(self.seed)  # noqa: S311 - content that can be made again, no secret
        left = self.size_bytes
        while left:
            block = source.randbytes(min(left, block_bytes))
            left -= len(block)
            yield block

    def digests(self) -> dict[str, str]:
        """Return md5, sha1 and sha256 of the bytes, computed here with hashlib, apart from everything under test."""
        hashers = {name: hashlib.new(name, usedforsecurity=False) for name in ("md5", "sha1", "sha256")}
        for block in self.blocks():
            for hasher in hashers.values():
                hasher.update(block)
        return {name: hasher.hexdigest() for name, hasher in hashers.items()}


ODD_NAMES: Final = (
    "with space.txt",
    "two  spaces and tab\there.txt",
    "ünïcödé/日本語 ファイル.bin",
    "e\u0301 composed and \u00e9 precomposed.txt",
    "emoji 🦀 name.dat",
    "double//slash.txt",
    "double//slash//again.txt",
    ".hidden",
    ".hidden folder/.also hidden",
    "...three dots",
    "percent %41 %2F %.txt",
    "plus+and&equals=.txt",
    "question?mark#hash.txt",
    "quote'\"<angle>.txt",
    "back\\slash.txt",
    "colon:star*pipe|.txt",
    "trailing space ",
    "long/" + "deep/" * 30 + "end.txt",
    "{container_id}/{path} braces.txt",
    "name that is " + "long " * 38 + "end.txt",
)


def collection(*, large_bytes: int = 96 * MIB) -> list[Sample]:
    """Return 72 samples: empty, one byte, odd names, a spread of sizes, one in parts, one of `large_bytes`."""
    samples = [
        Sample(path="empty.bin", size_bytes=0, seed=1),
        Sample(path="one byte.bin", size_bytes=1, seed=2),
        Sample(path="block minus one.bin", size_bytes=MIB - 1, seed=3),
        Sample(path="block.bin", size_bytes=MIB, seed=4),
        Sample(path="block plus one.bin", size_bytes=MIB + 1, seed=5),
        Sample(path="uploaded in parts.bin", size_bytes=12 * MIB + 345, seed=6, in_parts=True),
        Sample(path="large/image.tif", size_bytes=large_bytes, seed=7),
        Sample(path="large/film.mov", size_bytes=17 * MIB, seed=8),
    ]
    samples += [Sample(path=name, size_bytes=100 + 37 * n, seed=100 + n) for n, name in enumerate(ODD_NAMES)]
    samples += [
        Sample(path=f"pages/{n // 10}/page {n:03}.xml", size_bytes=1 + (n * 7919) % 60_000, seed=200 + n)
        for n in range(44)
    ]
    return samples


def upload(
    client: Any,
    bucket: str,
    samples: list[Sample],
    *,
    prefix: str,
    threads: int = 8,
    on_done: Callable[[Sample], None] = lambda _: None,
) -> Mapping[str, Mapping[str, str]]:
    """Put every sample to `prefix` + path through a botocore S3 client, and return the digests by path."""

    def one(sample: Sample) -> tuple[str, dict[str, str]]:
        key = prefix + sample.path
        if sample.in_parts or sample.size_bytes > 4 * PART_BYTES:
            _in_parts(client, bucket, key, sample)
        else:
            client.put_object(Bucket=bucket, Key=key, Body=b"".join(sample.blocks()))
        on_done(sample)
        return sample.path, sample.digests()

    with ThreadPoolExecutor(threads) as pool:
        return dict(pool.map(one, samples))


def _in_parts(client: Any, bucket: str, key: str, sample: Sample) -> None:
    upload_id = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = []
    for number, block in enumerate(sample.blocks(), start=1):
        answer = client.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=block)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts})
