"""Other people's algorithms: in the same read, and whatever they do wrong is the end of one digest of one object."""

import asyncio
import gc
import hashlib
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import AlgorithmFailed
from hashmill.hashing import plugins, saved
from hashmill.hashing.engine import HashEngine
from hashmill.hashing.registry import algorithm_names, open_hashers
from tests.helpers.plugin_package import lay_down
from tests.helpers.wait import wait_until

MODULE = """
import threading, zlib
gate = threading.Event()
class Adler:
    def __init__(self): self.value = 1
    def update(self, block): self.value = zlib.adler32(block, self.value)
    def hexdigest(self): return f"{self.value:08x}"
class Keeps(Adler):
    kept = []
    def update(self, block): Keeps.kept.append(block)
class NoStart:
    def __init__(self): raise LookupError("no start")
class RaisesLate(Adler):
    def update(self, block):
        if self.value != 1: raise ZeroDivisionError("late")
        super().update(block)
class RaisesAtEnd(Adler):
    def hexdigest(self): raise SystemExit("at the end")
class NoHex(Adler):
    def hexdigest(self): return "ABC"
class NoText(Adler):
    def hexdigest(self): return 7
class Mute(Exception):
    def __str__(self): raise RuntimeError("str of error")
class Loud(type):
    __name__ = property(lambda kind: 1 / 0)
class Nameless(Exception, metaclass=Loud): pass
class RaisesMute(Adler):
    def update(self, block): raise Mute
class RaisesNameless(Adler):
    def update(self, block): raise Nameless("here")
class Unshown:
    def __repr__(self): raise RuntimeError("repr of digest")
class TellsUnshown(Adler):
    def hexdigest(self): return Unshown()
class Hangs(Adler):
    def update(self, block): gate.wait()
class HangsAtEnd(Adler):
    def hexdigest(self): gate.wait()
"""
POINTS = {
    "adler32": "Adler",
    "keeps": "Keeps",
    "no-start": "NoStart",
    "not-there": "Nobody",
    "raises-late": "RaisesLate",
    "raises-at-end": "RaisesAtEnd",
    "no-hex": "NoHex",
    "no-text": "NoText",
    "raises-mute": "RaisesMute",
    "raises-nameless": "RaisesNameless",
    "tells-unshown": "TellsUnshown",
    "hangs": "Hangs",
    "hangs-at-end": "HangsAtEnd",
    "md5": "Adler",
    "Bad Name": "Adler",
}
BODY = bytes(range(256)) * 999
MD5 = hashlib.new("md5", BODY, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lay_down(tmp_path, POINTS, module=MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.found.cache_clear()
    plugins._stuck.clear()
    yield
    if "third_party" in sys.modules:
        sys.modules.pop("third_party").gate.set()
    plugins.found.cache_clear()
    plugins._stuck.clear()


@pytest.fixture
def engine() -> Iterator[HashEngine]:
    opened = HashEngine(threads=2, inline_max_bytes=1000)
    yield opened
    opened.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "CALL_MAX_S", 0.2)


async def reused(body: bytes, block_bytes: int = 10_000) -> AsyncIterator[memoryview]:
    """Give the body through two buffers in turn, as a stream may whose blocks are lent."""
    buffers = (bytearray(block_bytes), bytearray(block_bytes))
    for number, start in enumerate(range(0, len(body), block_bytes)):
        block = body[start : start + block_bytes]
        buffer = buffers[number % 2]
        buffer[:] = bytes(block_bytes)
        buffer[: len(block)] = block
        yield memoryview(buffer)[: len(block)]


async def hashed(engine: HashEngine, *names: str, body: bytes = BODY) -> HashedObject:
    return await engine.digest(reused(body), names)


async def test_a_plugin_is_computed_in_the_same_read_as_all_others(engine: HashEngine) -> None:
    found = await hashed(engine, "adler32", "md5", "sha256")

    assert found.digests == {
        "adler32": f"{zlib.adler32(BODY):08x}",
        "md5": MD5,
        "sha256": hashlib.sha256(BODY).hexdigest(),
    }
    assert found.backends["adler32"] == "third-party/2.0"
    assert found.failures == {}


@pytest.mark.parametrize("body", [b"", b"x"])
async def test_a_plugin_sees_small_objects_and_empty_ones(engine: HashEngine, body: bytes) -> None:
    assert (await hashed(engine, "adler32", body=body)).digests == {"adler32": f"{zlib.adler32(body):08x}"}


async def test_a_plugin_may_keep_what_it_was_given(engine: HashEngine) -> None:
    await hashed(engine, "keeps")

    assert b"".join(sys.modules["third_party"].Keeps.kept) == BODY


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no-start", "raised LookupError: no start"),
        ("not-there", "raised AttributeError: module 'third_party' has no attribute 'Nobody'"),
        ("raises-late", "raised ZeroDivisionError: late"),
        ("raises-at-end", "raised SystemExit: at the end"),
        ("no-hex", "told 'ABC' as its digest, which is no lower-case hex of whole bytes"),
        ("no-text", "told 7 as its digest, which is no lower-case hex of whole bytes"),
        ("raises-mute", "raised Mute: what cannot be shown"),
        ("raises-nameless", "raised Nameless: here"),
        ("tells-unshown", "raised RuntimeError: repr of digest"),
    ],
)
async def test_a_plugin_that_fails_is_named_and_spoils_no_other_digest(engine: HashEngine, name: str, why: str) -> None:
    found = await hashed(engine, "md5", name, "adler32")

    assert found.failures == {name: f"{name} (third-party/2.0) {why}"}
    assert found.digests == {"md5": MD5, "adler32": f"{zlib.adler32(BODY):08x}"}
    assert found.backends.keys() == found.digests.keys()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["hangs", "hangs-at-end"])
async def test_a_plugin_that_hangs_is_given_up_and_the_others_go_on(engine: HashEngine, name: str) -> None:
    slow, quick = await asyncio.gather(hashed(engine, "md5", name), hashed(engine, "md5", "adler32"))

    assert slow.failures == {name: f"{name} (third-party/2.0) took more than 0.2 s"}
    assert slow.digests == {"md5": MD5} == {"md5": quick.digests["md5"]}
    assert quick.failures == {}


@pytest.mark.usefixtures("impatient")
async def test_a_plugin_that_hung_often_is_not_begun_again(engine: HashEngine) -> None:
    for _ in range(plugins.STUCK_MAX):
        await hashed(engine, "hangs")
    before = threading.active_count()

    found = await hashed(engine, "hangs", "md5")

    assert "hung 3 times in this process" in found.failures["hangs"]
    assert found.digests.keys() == {"md5"}
    assert threading.active_count() <= before + 2  # the engine's own


async def test_a_thread_ends_with_its_object_however_that_ends(engine: HashEngine) -> None:
    def threads() -> int:
        gc.collect()
        return sum(thread.name == "plugin-adler32" for thread in threading.enumerate())

    async def breaks() -> AsyncIterator[bytes]:
        yield b"one block"
        raise ConnectionError("the stream broke")

    await hashed(engine, "adler32")
    with pytest.raises(ConnectionError):
        await engine.digest(breaks(), ["adler32"])

    wait_until(lambda: threads() == 0, timeout_s=10)


def test_names_that_are_taken_or_bad_are_refused_with_a_reason() -> None:
    assert set(algorithm_names()) >= {"adler32", "hangs"}
    assert "Bad Name" not in algorithm_names()
    assert algorithm_names().count("md5") == 1
    assert {one.name: one.refused for one in plugins.found().values() if one.refused} == {
        "md5": "Hashmill has an algorithm of that name",
        "Bad Name": "a name is at most 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit",
    }


def test_two_packages_of_one_name_are_both_told_of(tmp_path: Path) -> None:
    lay_down(tmp_path / "more", {"adler32": "Adler"}, module=MODULE, name="second-party")
    sys.path.insert(0, str(tmp_path / "more"))
    try:
        plugins.found.cache_clear()
        assert "brings one of that name as well" in plugins.found()["adler32"].refused
    finally:
        sys.path.remove(str(tmp_path / "more"))


def test_a_state_of_a_plugin_cannot_be_saved_and_an_unknown_name_says_where_to_install() -> None:
    assert saved.without_state(["adler32", "crc32"]) == ["adler32"]
    with pytest.raises(AlgorithmFailed, match="wherever an intake or a worker runs"):
        open_hashers(["nobody-s"])


def test_whoever_has_no_loop_waits() -> None:
    (hasher,) = open_hashers(["adler32"])
    assert isinstance(hasher, plugins.PluginHasher)
    hasher.update(b"abc")
    hasher.close()

    assert hasher.hexdigest() == f"{zlib.adler32(b'abc'):08x}"
