"""Known answers, from the documents that define each algorithm, and a second witness for each checksum."""

import hashlib
import ssl

import pytest
from awscrt.checksums import XXHash
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.digest import KNOWN_ALGORITHMS
from hashmill.domain.errors import AlgorithmFailed
from hashmill.hashing.registry import algorithm_names, open_hasher

KNOWN_ANSWERS = [
    # RFC 1321, A.5
    ("md5", b"", "d41d8cd98f00b204e9800998ecf8427e"),
    ("md5", b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
    # FIPS 180 examples
    ("sha1", b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    ("sha224", b"abc", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
    ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        "sha384",
        b"abc",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
    ),
    (
        "sha512",
        b"abc",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ),
    # FIPS 202 examples
    ("sha3-224", b"abc", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
    ("sha3-256", b"abc", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
    (
        "sha3-384",
        b"abc",
        "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
    ),
    (
        "sha3-512",
        b"abc",
        "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e"
        "10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
    ),
    # RFC 7693, appendix A
    (
        "blake2b",
        b"abc",
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
    ),
    # BLAKE3 test_vectors.json, input_len 0 and 1
    ("blake3", b"", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    ("blake3", b"\x00", "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
    # xxHash specification: the empty input, seed 0
    ("xxh3-128", b"", "99aa06d3014798d86001c324468d497f"),
    # the check value of the CRC catalogues
    ("crc32", b"123456789", "cbf43926"),
    ("crc32", b"", "00000000"),
    ("crc32c", b"123456789", "e3069283"),
    ("crc32c", b"", "00000000"),
    ("crc64nvme", b"123456789", "ae8b14860a799888"),
    ("crc64nvme", b"", "0000000000000000"),
]


@pytest.mark.parametrize(("name", "body", "hexdigest"), KNOWN_ANSWERS)
def test_a_digest_equals_the_published_one(name: str, body: bytes, hexdigest: str) -> None:
    hasher = open_hasher(name)
    hasher.update(body)

    assert hasher.hexdigest() == hexdigest


def test_every_known_algorithm_has_a_known_answer_and_a_hasher() -> None:
    assert set(algorithm_names()) == set(KNOWN_ALGORITHMS) == {name for name, _, _ in KNOWN_ANSWERS}


@pytest.mark.parametrize("name", KNOWN_ALGORITHMS)
def test_the_kind_of_buffer_does_not_matter(name: str) -> None:
    body = bytes(range(256)) * 40

    digests = set()
    for buffer in (body, bytearray(body), memoryview(body), memoryview(bytearray(b"x" + body))[1:]):
        hasher = open_hasher(name)
        hasher.update(buffer)
        digests.add(hasher.hexdigest())

    assert len(digests) == 1


def _crc(body: bytes, *, bits: int, reflected_polynomial: int) -> str:
    """Compute a reflected CRC bit by bit, as the catalogues define it."""
    ones = (1 << bits) - 1
    value = ones
    for byte in body:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (reflected_polynomial if value & 1 else 0)
    return f"{value ^ ones:0{bits // 4}x}"


@given(cuts=st.lists(st.binary(max_size=300), max_size=6))
def test_a_second_witness_finds_the_same_checksums(cuts: list[bytes]) -> None:
    body = b"".join(cuts)
    second_xxh3 = XXHash.new_xxhash3_128()
    hashers = {name: open_hasher(name) for name in ("crc32", "crc32c", "crc64nvme", "xxh3-128")}
    for cut in cuts:
        second_xxh3.update(cut)
        for hasher in hashers.values():
            hasher.update(cut)

    assert {name: hasher.hexdigest() for name, hasher in hashers.items()} == {
        "crc32": _crc(body, bits=32, reflected_polynomial=0xEDB88320),
        "crc32c": _crc(body, bits=32, reflected_polynomial=0x82F63B78),
        "crc64nvme": _crc(body, bits=64, reflected_polynomial=0x9A6C9329AC4BC9B5),
        "xxh3-128": second_xxh3.finalize().hex(),
    }


def test_a_backend_names_the_library_and_its_version() -> None:
    backends = {name: open_hasher(name).backend for name in KNOWN_ALGORITHMS}

    assert backends["sha256"] == f"hashlib/OpenSSL {ssl.OPENSSL_VERSION.split()[1]}"
    assert {backend.partition("/")[0] for backend in backends.values()} == {"hashlib", "blake3", "xxhash", "awscrt"}
    assert all(backend.partition("/")[2][-1].isalnum() for backend in backends.values())


def test_hashlibs_own_blake2b_is_not_called_openssl() -> None:
    in_openssl = type(hashlib.new("blake2b", usedforsecurity=False)).__module__ == "_hashlib"

    assert ("OpenSSL" in open_hasher("blake2b").backend) == in_openssl


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AlgorithmFailed, match=r"^md4: no such algorithm; known are md5, sha1, .*crc64nvme"):
        open_hasher("md4")
