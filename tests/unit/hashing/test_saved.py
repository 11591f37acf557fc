"""Running digests as text: whoever takes them up comes to the same end, or is told that he cannot."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.digest import DEFAULT_ALGORITHMS
from hashmill.hashing import fused, libcrypto, saved
from hashmill.hashing.engine import HashEngine, hashed
from hashmill.hashing.registry import open_hashers

pytestmark = pytest.mark.skipif(
    not saved.can_be_saved(["md5", "sha1", "sha256", "sha512"]), reason="no state can be saved here"
)
needs_kernel = pytest.mark.skipif(not fused.accelerated(), reason=f"no fast kernel here: {fused.why_not()}")

ALGORITHMS = st.lists(
    st.sampled_from(["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "crc32", "crc32c", "crc64nvme"]),
    min_size=1,
    unique=True,
)


@given(algorithms=ALGORITHMS, parts=st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_saved_and_taken_up_at_any_place_the_digests_are_the_same(algorithms: list[str], parts: list[bytes]) -> None:
    hashers = saved.begin(algorithms)
    for part in parts:
        hashers = saved.go_on(algorithms, saved.save(hashers))
        for hasher in hashers:
            hasher.update(part)
    whole = open_hashers(algorithms)
    for other in whole:
        other.update(b"".join(parts))

    size_bytes = sum(map(len, parts))
    found = hashed(hashers, algorithms, size_bytes=size_bytes)
    assert found.digests == hashed(whole, algorithms, size_bytes=size_bytes).digests


@given(text=st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=3).map(json.dumps))
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a JSON error is one as well
        saved.go_on(DEFAULT_ALGORITHMS, text)


def _changed(**differs: object) -> str:
    told = json.loads(saved.save(saved.begin(DEFAULT_ALGORITHMS)))
    return json.dumps({**told, **differs})


@pytest.mark.parametrize(
    "text",
    [
        _changed(v=2),
        _changed(kernel=-1),
        _changed(parts={}),
        _changed(parts={"md5+sha1+sha256": "AAAA"}),
        _changed(parts={"md5+sha1+sha256": "no base64"}),
        _changed(parts=[1]),
    ]
    if fused.accelerated()
    else [],
)
def test_a_state_of_another_version_or_damaged_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        saved.go_on(DEFAULT_ALGORITHMS, text)


def test_a_state_is_refused_for_other_algorithms() -> None:
    text = saved.save(saved.begin(("md5", "sha1")))

    for algorithms in (("md5",), ("md5", "sha256"), ("md5", "sha1", "crc32c")):
        with pytest.raises(ValueError, match="other algorithms"):
            saved.go_on(algorithms, text)


@pytest.mark.parametrize("name", ["blake3", "blake2b", "xxh3-128", "sha3-256"])
def test_what_has_no_state_to_be_told_cannot_be_saved(name: str) -> None:
    assert saved.can_be_saved(DEFAULT_ALGORITHMS)
    assert not saved.can_be_saved((*DEFAULT_ALGORITHMS, name))
    assert saved.without_state((*DEFAULT_ALGORITHMS, name)) == [name]


@needs_kernel
@given(
    algorithms=ALGORITHMS,
    parts=st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), min_size=1, max_size=6),
)
def test_workers_with_and_without_the_kernel_take_turns(algorithms: list[str], parts: list[tuple[bool, bytes]]) -> None:
    text = saved.save(saved.begin(algorithms))
    for is_off, part in parts:
        with pytest.MonkeyPatch.context() as patch:
            if is_off:
                patch.setattr(fused, "available", lambda: False)
                patch.setattr(fused, "accelerated", lambda: False)
                patch.setattr(fused, "KERNEL_VERSION", 0)
            hashers = saved.go_on(algorithms, text)
            kernels = [hasher for hasher in hashers if isinstance(hasher, fused.Fused)]
            assert bool(kernels) == (not is_off and bool(set(algorithms) & set(fused.ALGORITHMS)))
            for hasher in hashers:
                hasher.update(part)
            text = saved.save(hashers)
    whole = open_hashers(algorithms)
    for other in whole:
        other.update(b"".join(part for _, part in parts))

    size_bytes = sum(len(part) for _, part in parts)
    found = hashed(hashers, algorithms, size_bytes=size_bytes)
    assert found.digests == hashed(whole, algorithms, size_bytes=size_bytes).digests


@needs_kernel
def test_states_of_two_places_are_not_joined() -> None:
    told = json.loads(saved.save(saved.begin(["md5", "sha1"])))
    md5 = libcrypto.Classic("md5")
    md5.update(b"further")
    told["parts"] = {
        "md5": base64.b64encode(md5.export()).decode(),
        "sha1": base64.b64encode(libcrypto.Classic("sha1").export()).decode(),
    }

    with pytest.raises(ValueError, match="different places"):
        saved.go_on(["md5", "sha1"], json.dumps(told))


async def test_feeding_ends_between_two_blocks_when_it_is_enough() -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0)
            yield b"x" * 100

    engine = HashEngine(1, 16)
    try:
        fed_bytes = await engine.feed(open_hashers(["md5"]), blocks(), enough=lambda fed: fed >= 250)
    finally:
        engine.close()

    assert fed_bytes == 300
