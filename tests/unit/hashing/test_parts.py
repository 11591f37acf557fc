"""A checksum of checksums, as S3 stores it for an object of parts, whatever way the blocks are cut."""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.hashing import fused
from hashmill.hashing.parts import PartsHasher, can_be_saved
from hashmill.hashing.registry import open_hasher

ALGORITHMS = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"]
PARTS = st.lists(st.binary(max_size=40), min_size=1, max_size=8)
BLOCK_BYTES = st.integers(1, 60)


def plain(algorithm: str, body: bytes) -> bytes:
    hasher = open_hasher(algorithm)
    hasher.update(body)
    return bytes.fromhex(hasher.hexdigest())


def composite(algorithm: str, parts: list[bytes]) -> str:
    return plain(algorithm, b"".join(plain(algorithm, part) for part in parts)).hex()


def hasher_of(algorithm: str, parts: list[bytes]) -> PartsHasher:
    return PartsHasher("name", algorithm, tuple(len(part) for part in parts))


def blocks(body: bytes, block_bytes: int) -> list[bytes]:
    return [body[start : start + block_bytes] for start in range(0, len(body), block_bytes)]


@given(st.sampled_from(ALGORITHMS), PARTS, BLOCK_BYTES)
def test_it_is_the_checksum_of_the_parts_checksums_wherever_the_blocks_are_cut(
    algorithm: str, parts: list[bytes], block_bytes: int
) -> None:
    hasher = hasher_of(algorithm, parts)

    for block in blocks(b"".join(parts), block_bytes):
        hasher.update(block)

    assert hasher.hexdigest("name") == composite(algorithm, parts)


def test_it_is_what_s3_documents_for_sha256_and_crc32() -> None:
    parts = [b"a" * 100, b"b" * 7]
    by_hand = {
        "sha256": hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest(),
        "crc32": f"{zlib.crc32(b''.join(zlib.crc32(part).to_bytes(4) for part in parts)):08x}",
    }

    for algorithm, expected in by_hand.items():
        hasher = hasher_of(algorithm, parts)
        hasher.update(b"".join(parts))
        assert hasher.hexdigest("name") == expected


@contextmanager
def kernel(on: bool) -> Iterator[None]:
    """Here, as everywhere where there is one, or as on a machine without."""
    with pytest.MonkeyPatch.context() as patch:
        if not on:
            patch.setattr(fused, "available", lambda: False)
            patch.setattr(fused, "accelerated", lambda: False)
        yield


@given(st.sampled_from(ALGORITHMS), PARTS, BLOCK_BYTES, st.tuples(st.booleans(), st.booleans()), st.data())
def test_it_goes_on_where_it_was_saved_with_or_without_the_kernel(
    algorithm: str, parts: list[bytes], block_bytes: int, kernels: tuple[bool, bool], data: st.DataObject
) -> None:
    pieces = blocks(b"".join(parts), block_bytes)
    cut = data.draw(st.integers(0, len(pieces)))
    with kernel(kernels[0]):
        if not can_be_saved(algorithm):
            pytest.skip(f"no state of {algorithm} here")
        first = hasher_of(algorithm, parts)
        for piece in pieces[:cut]:
            first.update(piece)
        state = first.export()
    with kernel(kernels[1]):
        second = PartsHasher.restore("name", algorithm, tuple(len(part) for part in parts), state)
        for piece in pieces[cut:]:
            second.update(piece)

    assert len(state) < 1024
    assert second.hexdigest("name") == composite(algorithm, parts)


def test_a_state_of_other_parts_or_other_bytes_is_refused() -> None:
    hasher = hasher_of("crc32c", [b"a" * 10, b"b" * 10])
    hasher.update(b"a" * 3)
    state = hasher.export()

    for sizes in ((5,), ()):
        with pytest.raises(ValueError, match="other parts"):
            PartsHasher.restore("name", "crc32c", sizes, state)
    for damaged in (b"", state[:5], b"xxxx" + state[4:], state + b"x"):
        with pytest.raises(ValueError, match=r"name|crc32c"):
            PartsHasher.restore("name", "crc32c", (10, 10), damaged)


def test_more_bytes_than_the_parts_have_are_refused() -> None:
    hasher = hasher_of("crc32c", [b"abc"])

    with pytest.raises(ValueError, match="more bytes"):
        hasher.update(b"abcd")
