"""What a server states of an object's checksum is taken if it can be right, and for what it is."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.checksums import PARTS_MAX, Compared, Comparison, StoredChecksum, computed_in
from hashmill.storage.checksums import stored_in

WHOLE, MULTIPART = '"5d41402abc4b2a76b9719d911017c592"', '"8c6f96fe400c627d9394af6161f5921d-2"'
NAMES = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256", "sha512", "md5", "xxhash64", "type", "mode"]
LENGTHS = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32, "sha512": 64, "md5": 16}
VALUES = st.text(max_size=60) | st.binary(max_size=64).map(lambda raw: base64.b64encode(raw).decode())
SUFFIXES = st.sampled_from(["", "", "-", "-0", "-1", "-3", "-10000", "-10001", "-99999999", "-x", "-1-2"])


def b64(size_bytes: int) -> str:
    return base64.b64encode(bytes(range(size_bytes))).decode()


def one(name: str, value: str, *, kind: str = "", etag: str = WHOLE) -> StoredChecksum:
    headers = {f"x-amz-checksum-{name}": value} | ({"x-amz-checksum-type": kind} if kind else {})
    (stored,) = stored_in(headers, etag)
    return stored


@pytest.mark.parametrize(("name", "size_bytes"), LENGTHS.items())
@pytest.mark.parametrize("kind", ["", "FULL_OBJECT"])
def test_a_checksum_of_the_whole_object_is_read(name: str, size_bytes: int, kind: str) -> None:
    assert one(name, b64(size_bytes), kind=kind) == StoredChecksum(
        algorithm=name, digest=bytes(range(size_bytes)).hex()
    )


@pytest.mark.parametrize(("value", "kind"), [("-2", ""), ("-2", "COMPOSITE"), ("", "COMPOSITE")])
def test_a_checksum_of_parts_is_told_from_one_of_the_object(value: str, kind: str) -> None:
    stored = one("sha256", b64(32) + value, kind=kind, etag=MULTIPART)

    assert stored == StoredChecksum(algorithm="sha256", digest=bytes(range(32)).hex(), parts=2)
    assert stored.name == "sha256 of 2 parts"


def test_what_may_be_of_the_parts_is_not_taken_for_one_of_the_object() -> None:
    assert one("sha256", b64(32), etag=MULTIPART).fault == "the S3 server does not say whether it is of object or parts"
    # known: the S3 user guide; no CRC64NVME is ever over parts.
    assert one("crc64nvme", b64(8), etag=MULTIPART).parts is None
    assert one("sha256", b64(32), etag=MULTIPART, kind="FULL_OBJECT").fault == ""


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("no base64", ""),
        ("é" * 44, ""),
        (b64(31), ""),
        (b64(33), ""),
        ("=" * 44, ""),
        (b64(32) + "-0", ""),
        (b64(32) + f"-{PARTS_MAX + 1}", ""),
        (b64(32) + "-99999999999999999999999", ""),
        (b64(32) + "-2", "FULL_OBJECT"),
        (b64(32), "COMPOSITE"),
        (b64(32), "SOMETHING"),
        ("A" * 100_000, ""),
    ],
)
def test_what_cannot_be_right_is_a_fault_and_short(value: str, kind: str) -> None:
    stored = one("sha256", value, kind=kind)

    assert stored.fault
    assert stored.digest == ""
    assert len(stored.fault) < 400


def test_a_server_that_says_nothing_states_nothing() -> None:
    assert stored_in({"etag": WHOLE, "x-amz-checksum-type": "FULL_OBJECT"}, WHOLE) == ()
    assert stored_in({"x-amz-checksum-xxhash64": b64(8)}, WHOLE) == ()


@given(
    headers=st.dictionaries(
        st.sampled_from([f"x-amz-checksum-{name}" for name in NAMES]),
        st.builds(str.__add__, VALUES, SUFFIXES) | st.sampled_from(["FULL_OBJECT", "COMPOSITE", ""]),
    ),
    etag=st.sampled_from([WHOLE, MULTIPART, '"-"', '"x-0"', "", 'W/"x-3"', '"x-99999"']),
)
def test_whatever_is_written_there_nothing_breaks_and_nothing_absurd_gets_through(
    headers: dict[str, str], etag: str
) -> None:
    for stored in stored_in(headers, etag):
        assert bool(stored.fault) != bool(stored.digest)
        assert len(stored.fault) < 700
        if stored.digest:
            assert re.fullmatch(r"[0-9a-f]+", stored.digest)
            assert len(stored.digest) == 2 * LENGTHS[stored.algorithm]
            assert stored.parts is None or 1 <= stored.parts <= PARTS_MAX


def test_a_comparison_is_never_made_of_what_is_not_there() -> None:
    stored = StoredChecksum(algorithm="crc32", digest="00000000")

    assert Compared(stored=stored).comparison is Comparison.NOT_COMPARABLE
    assert Compared(stored=stored, computed="00000000", reason="why").comparison is Comparison.NOT_COMPARABLE
    assert Compared(stored=stored, computed="00000000").comparison is Comparison.EQUAL
    assert Compared(stored=stored, computed="00000001").comparison is Comparison.DIFFERENT


def test_a_digest_over_parts_is_found_again_only_under_as_many_parts() -> None:
    of_three = StoredChecksum(algorithm="sha256", digest="aa", parts=3)
    of_object = StoredChecksum(algorithm="sha256", digest="bb")
    documents = [Compared(stored=one, computed=one.digest).document() for one in (of_three, of_object)]
    documents.append(Compared(stored=StoredChecksum(algorithm="crc32", digest="cc"), reason="why").document())

    assert computed_in(documents) == {of_three.name: "aa", of_object.name: "bb"}
    assert StoredChecksum(algorithm="sha256", parts=4).name not in computed_in(documents)
