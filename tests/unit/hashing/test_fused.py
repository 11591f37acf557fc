"""The native kernel's face: what it computes, what it saves, what it refuses. The fuzz (tests/fuzz) goes wider."""

import hashlib
import time
import zlib
from collections.abc import Callable
from threading import Thread
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.hashing import fused
from hashmill.hashing.fused import ALGORITHMS, Fused, update_many
from hashmill.hashing.fused_check import BITS, NativeKernel

pytestmark = pytest.mark.skipif(
    fused._trust.native is None, reason="no C compiler was there when the package was built"
)

SUBSETS = st.lists(st.sampled_from(ALGORITHMS), min_size=1, unique=True)
KERNELS = st.sampled_from(fused.kernels() or ("none",))
BLOCKS = st.lists(st.binary(max_size=300), max_size=6)
LENGTH_AT, WORDS_AT = 6, 14


def expected(name: str, data: bytes) -> str:
    return hashlib.new(name, data).hexdigest()


@given(algorithms=SUBSETS, kernel=KERNELS, blocks=BLOCKS)
def test_a_stream_in_any_cuts_has_the_digests_of_hashlib(
    algorithms: list[str], kernel: str, blocks: list[bytes]
) -> None:
    hasher = Fused(algorithms, kernel=kernel)
    for block in blocks:
        hasher.update(block)

    assert hasher.size_bytes == sum(map(len, blocks))
    assert {name: hasher.hexdigest(name) for name in hasher.algorithms} == {
        name: expected(name, b"".join(blocks)) for name in ALGORITHMS if name in algorithms
    }


@given(
    algorithms=SUBSETS,
    kernel=KERNELS,
    rounds=st.lists(st.lists(st.binary(max_size=700), min_size=5, max_size=5), max_size=3),
    streams=st.integers(1, 5),
)
def test_streams_of_unequal_length_side_by_side_have_the_digests_of_hashlib(
    algorithms: list[str], kernel: str, rounds: list[list[bytes]], streams: int
) -> None:
    hashers = [Fused(algorithms, kernel=kernel) for _ in range(streams)]
    for blocks in rounds:
        update_many(list(zip(hashers, blocks, strict=False)))

    for number, hasher in enumerate(hashers):
        fed = b"".join(blocks[number] for blocks in rounds)
        assert all(hasher.hexdigest(name) == expected(name, fed) for name in algorithms)


def test_more_streams_than_one_call_takes_are_fed_all_the_same() -> None:
    blocks = [bytes([number]) * (100 + number) for number in range(40)]
    hashers = [Fused(("sha256",)) for _ in blocks]

    update_many(list(zip(hashers, blocks, strict=True)))

    assert [hasher.hexdigest("sha256") for hasher in hashers] == [expected("sha256", block) for block in blocks]


@given(algorithms=SUBSETS, before=KERNELS, after=KERNELS, first=st.binary(max_size=200), second=st.binary(max_size=200))
def test_a_saved_state_goes_on_in_any_kernel(
    algorithms: list[str], before: str, after: str, first: bytes, second: bytes
) -> None:
    hasher = Fused(algorithms, kernel=before)
    hasher.update(first)
    restored = Fused.restore(hasher.export(), kernel=after)
    restored.update(second)

    assert restored.algorithms == hasher.algorithms
    assert all(restored.hexdigest(name) == expected(name, first + second) for name in algorithms)


@given(state=st.binary(max_size=200), sealed=st.booleans())
def test_what_is_no_saved_state_is_refused(state: bytes, sealed: bool) -> None:
    if sealed:
        state = b"HMK\x01" + state
        state += zlib.crc32(state).to_bytes(4, "little")
    try:
        restored = Fused.restore(state)
    except ValueError:
        return
    assert restored.export() == state


@given(data=st.binary(max_size=130), bit=st.integers(0, 10_000))
def test_a_saved_state_with_any_bit_turned_is_refused(data: bytes, bit: int) -> None:
    hasher = Fused(ALGORITHMS)
    hasher.update(data)
    state = bytearray(hasher.export())
    state[bit // 8 % len(state)] ^= 1 << bit % 8

    with pytest.raises(ValueError, match="saved state"):
        Fused.restore(state)


@pytest.mark.parametrize(
    ("at", "value", "complaint"),
    [
        (0, 0, "not a saved state"),
        (3, 2, "version"),
        (4, 8, "algorithms"),
        (LENGTH_AT, 9, "length"),
        (13, 32, "length"),
    ],
)
def test_each_wrong_field_of_a_saved_state_is_named(at: int, value: int, complaint: str) -> None:
    assert_refused(with_field(Fused(ALGORITHMS).export(), at, bytes([value])), complaint)


def assert_refused(state: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Fused.restore(state)


def with_field(state: bytes, at: int, value: bytes) -> bytes:
    changed = state[:at] + value + state[at + len(value) : -4]
    return changed + zlib.crc32(changed).to_bytes(4, "little")


@pytest.mark.parametrize("size_bytes", [1 << 29, 1 << 32, 5 << 40, (1 << 61) - 64])
@pytest.mark.parametrize(("name", "order"), [("md5", "little"), ("sha1", "big"), ("sha256", "big")])
def test_lengths_that_no_test_can_feed_are_counted_right(name: str, order: str, size_bytes: int) -> None:
    """A digest is the chaining values after one last block that holds the length in bits: built here by hand."""
    at_size = Fused.restore(with_field(Fused((name,)).export(), LENGTH_AT, size_bytes.to_bytes(8, "little")))
    by_hand = Fused((name,))
    by_hand.update(b"\x80" + bytes(55) + (size_bytes * 8).to_bytes(8, "little" if order == "little" else "big"))
    words = by_hand.export()[WORDS_AT:-4]
    if order == "big":
        words = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))

    assert at_size.digest(name) == words


def test_a_stream_longer_than_the_digests_can_count_is_refused() -> None:
    full = Fused.restore(with_field(Fused(("md5",)).export(), LENGTH_AT, ((1 << 61) - 64).to_bytes(8, "little")))

    full.update(bytes(63))
    with pytest.raises(OverflowError):
        full.update(b"1")
    with pytest.raises(OverflowError):
        update_many([(full, b"1")])


def test_two_threads_on_one_hasher_are_refused_and_nothing_breaks() -> None:
    hasher = Fused(ALGORITHMS)
    block = bytes(2 << 20)
    refused: list[RuntimeError] = []
    fed: list[int] = []

    def feed() -> None:
        for _ in range(30):
            acts: tuple[Callable[[], None], ...] = (
                lambda: hasher.update(block),
                lambda: update_many([(hasher, block)]),
            )
            for act in acts:
                try:
                    act()
                    fed.append(len(block))
                except RuntimeError as error:
                    refused.append(error)
            asks: tuple[Callable[[], object], ...] = (
                hasher.export,
                lambda: hasher.digest("md5"),
                lambda: hasher.size_bytes,
            )
            for ask in asks:
                try:
                    ask()
                except RuntimeError as error:
                    refused.append(error)

    threads = [Thread(target=feed) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert refused
    assert hasher.size_bytes == sum(fed)
    assert hasher.hexdigest("sha1") == expected("sha1", bytes(sum(fed)))


def test_a_buffer_cannot_go_while_it_is_hashed() -> None:
    block = bytearray(32 << 20)
    hasher = Fused(("sha256",))
    thread = Thread(target=hasher.update, args=(block,))
    thread.start()
    try:
        while thread.is_alive():
            try:
                block.append(0)
                block.pop()
            except BufferError:
                break
    finally:
        thread.join()

    assert hasher.hexdigest("sha256") == expected("sha256", bytes(32 << 20)) or hasher.size_bytes == (32 << 20) + 1


def test_misuse_is_an_error() -> None:
    one, other = Fused(("md5",)), Fused(("sha1",))
    with pytest.raises(ValueError, match="same algorithms"):
        update_many([(one, b"x"), (other, b"x")])
    with pytest.raises(RuntimeError, match="another thread"):
        update_many([(one, b"x"), (one, b"x")])
    with pytest.raises(ValueError, match="not one of"):
        one.digest("sha1")
    with pytest.raises(ValueError, match="crc32c"):
        Fused(("crc32c",))
    with pytest.raises(ValueError, match="mask"):
        Fused(())
    with pytest.raises(ValueError, match="no kernel"):
        Fused(("md5",), kernel="gpu")
    with pytest.raises(TypeError):
        one.update("text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        one.update(memoryview(b"abcdef")[::2])

    update_many([])
    assert one.hexdigest("md5") == expected("md5", b"")


def test_the_backend_says_which_kernel_computed() -> None:
    assert [Fused(("md5",), kernel=name).backend for name in fused.kernels()] == [
        f"fused/{fused.KERNEL_VERSION} {name}" for name in fused.kernels()
    ]
    assert fused.kernels()[-1] == "portable"
    assert fused.accelerated() == (len(fused.kernels()) > 1) == (not fused.why_not())


@pytest.mark.parametrize("kernel", [name for name in fused.kernels() if name != "portable"])
def test_no_number_of_streams_makes_a_kernel_far_slower_than_hashlib(kernel: str) -> None:
    """Seen: 500 times slower on CPUs of Intel, after wide vectors a compiler had put before the SHA instructions."""
    data = bytes(65_536)

    def seconds(work: Callable[[], object]) -> float:
        began_s = time.thread_time()
        work()
        return time.thread_time() - began_s

    by_hashlib_s = min(seconds(lambda: [expected(name, data) for name in ALGORITHMS]) for _ in range(5))
    for streams in (1, 2, 3, 4, 5, 16):
        hashers = [Fused(ALGORITHMS, kernel=kernel) for _ in range(streams)]
        taken_s = min(seconds(lambda: update_many([(one, data) for one in hashers])) for _ in range(5))  # noqa: B023
        assert taken_s < 3 * streams * by_hashlib_s, f"{streams} streams"


def test_a_group_is_as_wide_as_the_kernel_is_or_holds_all_there_are() -> None:
    for mask in range(1, 8):
        algorithms = [name for name, bit in BITS.items() if mask & bit]
        for streams in range(1, 20):
            assert fused.group(algorithms, streams) in {1, 2, 4, 16, streams}
            assert 1 <= fused.group(algorithms, streams) <= streams


def test_who_asks_first_how_many_go_together_is_told_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fused._trust.native
    assert real is not None
    native = cast(
        NativeKernel,
        SimpleNamespace(
            Fused=real.Fused,
            update_many=real.update_many,
            calibrate=lambda: dict.fromkeys(range(1, 8), tuple(range(1, 17))),
        ),
    )
    monkeypatch.setattr(fused, "_trust", fused.Trust(native, ""))

    assert fused.group(("md5",), 9) == 9


def test_without_a_kernel_nothing_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_trust", fused.Trust(None, "it was not built"))

    assert fused.group(("md5",), 16) == 1
