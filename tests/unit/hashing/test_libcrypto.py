"""OpenSSL's classic calls: the digests are hashlib's, a state goes on anywhere, and nothing else is taken for one."""

import hashlib
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.hashing import libcrypto
from hashmill.hashing.libcrypto import ALGORITHMS, Classic
from tests.helpers.wait import wait_until

pytestmark = pytest.mark.skipif(
    not all(map(libcrypto.available, ALGORITHMS)),
    reason=f"not here: {[libcrypto.why_not(name) for name in ALGORITHMS]}",
)


def hashlib_of(name: str, body: bytes) -> str:
    return hashlib.new(name, body, usedforsecurity=False).hexdigest()


@given(name=st.sampled_from(ALGORITHMS), parts=st.lists(st.binary(max_size=400), max_size=6))
def test_saved_at_any_place_the_digest_is_the_one_of_hashlib(name: str, parts: list[bytes]) -> None:
    hasher = Classic(name)
    for part in parts:
        hasher.update(part)
        state = hasher.export()
        hasher = Classic.restore(state)
        assert hasher.export() == state

    assert hasher.hexdigest() == hashlib_of(name, b"".join(parts))
    assert hasher.size_bytes == sum(map(len, parts))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_length_is_counted_beyond_32_bits(name: str) -> None:
    at_byte = (1 << 40) + 77
    _, _, words, _ = libcrypto.opened(Classic(name).export())
    tail = bytes(at_byte % (128 if name in ("sha384", "sha512") else 64))
    state = libcrypto.sealed(name, at_byte, words, tail)

    hasher = Classic.restore(state)

    assert hasher.export() == state
    assert hasher.hexdigest() != Classic.restore(libcrypto.sealed(name, at_byte - 64 * 128, words, tail)).hexdigest()


def test_any_run_of_bytes_is_taken_without_a_copy_and_nothing_else() -> None:
    body = bytearray(b"some bytes")
    for block in (bytes(body), body, memoryview(body), memoryview(body).toreadonly(), memoryview(body)[2:7]):
        hasher = Classic("sha256")
        hasher.update(block)
        assert hasher.hexdigest() == hashlib_of("sha256", bytes(block))

    with pytest.raises(BufferError):
        Classic("md5").update(memoryview(body)[::2])
    with pytest.raises(TypeError):
        Classic("md5").update("text")  # type: ignore[arg-type]
    lent = bytearray(b"lent")
    hasher.update(lent)
    lent.append(0)  # no view is left behind


def test_a_buffer_cannot_go_while_it_is_read_and_no_two_threads_feed_one_hasher() -> None:
    body = bytearray(1 << 26)
    hasher = Classic("sha512")
    feeding = threading.Thread(target=hasher.update, args=(body,))
    feeding.start()
    wait_until(hasher._busy.locked)

    with pytest.raises(BufferError):
        body.clear()
    with pytest.raises(RuntimeError, match="two threads"):
        hasher.update(b"more")
    feeding.join()
    assert hasher.size_bytes == len(body)


@given(name=st.sampled_from(ALGORITHMS), at=st.integers(0, 10_000), cut=st.booleans(), seal=st.booleans())
def test_a_damaged_state_is_refused_or_taken_as_it_stands(name: str, at: int, cut: bool, seal: bool) -> None:
    hasher = Classic(name)
    hasher.update(b"x" * 100)
    state = bytearray(hasher.export())
    state[at % len(state)] ^= 1 << at % 8
    if cut:
        del state[at % len(state) :]
    if seal and len(state) > 4:
        state[-4:] = zlib.crc32(state[:-4]).to_bytes(4, "little")
    try:
        restored = Classic.restore(bytes(state))
    except ValueError:
        return

    assert seal
    assert restored.export() == bytes(state)


def test_a_library_that_lacks_a_call_or_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = libcrypto._Library()
    kinds = {**libcrypto._KINDS, "md5": libcrypto._Kind(prefix="MD9", calls="MD9", digest_bytes=16, words=4)}
    monkeypatch.setattr(libcrypto, "_KINDS", kinds)
    assert "MD9" in lacking.why_not("md5")
    assert lacking.why_not("sha256") == ""

    monkeypatch.setattr(libcrypto.ssl, "OPENSSL_VERSION", "OpenSSL 9")
    assert "OpenSSL 9" in libcrypto._Library().why_not("sha256")


def test_a_struct_of_another_shape_is_found_by_the_test_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = libcrypto._Kind(prefix="SHA1", calls="SHA1", digest_bytes=20, words=4)
    monkeypatch.setitem(libcrypto._KINDS, "sha1", swapped)

    assert "struct" in libcrypto._Library().why_not("sha1")


def test_what_hashlib_does_not_agree_with_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcrypto.hashlib, "new", lambda *_, **__: hashlib.md5(b"else", usedforsecurity=False))

    assert "differs from hashlib" in libcrypto._Library().why_not("sha1")


def test_other_algorithms_are_none_of_its_and_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert "blake3" not in ALGORITHMS
    assert not libcrypto.available("blake3")
    assert not caplog.records
    with pytest.raises(RuntimeError):
        Classic("sha3-256")
