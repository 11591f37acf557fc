"""The benchmarks' code, at sizes that prove nothing but that it runs and would notice a wrong digest."""

import hashlib
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.contest import digests_by_hashlib
from benchmarks.measured import Contender, CpuMeter, Taken, Wrong, checked_against, summed_up, take_turns
from benchmarks.peers import MissingPeer
from benchmarks.profiled import summary
from benchmarks.source import RING_BYTES, Shelf, Source, make_certificate

SMALL = Shelf(container="1", count=5, size_bytes=4096)
ROUND = Shelf(container="2", count=3, size_bytes=RING_BYTES // 2)
"""Long enough that one of them goes round the ring's end."""


@pytest.fixture(scope="module", params=["http", "https"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    folder = tmp_path_factory.mktemp("source")
    certificate = make_certificate(folder / "source.pem") if request.param == "https" else None
    with Source(folder, [SMALL, ROUND], certificate=certificate) as source:
        yield source


def got(source: Source, path: str, **headers: str) -> tuple[int, bytes]:
    asked = urllib.request.Request(f"{source.endpoint_url}/{path}", headers=headers)  # noqa: S310 - our own
    trust = ssl.create_default_context(cafile=source.certificate) if source.certificate else None
    handlers = [urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=trust)] if trust else [])]
    try:
        with urllib.request.build_opener(*handlers).open(asked, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def test_the_source_gives_each_object_as_its_shelf_says_whole_and_in_ranges(source: Source) -> None:
    for shelf, number in ((SMALL, 4), (ROUND, 2)):
        body = b"".join(shelf.pieces(number))
        etag = shelf.etag(number)

        assert got(source, f"bench/{shelf.key(number)}") == (200, body)
        part = {"Range": "bytes=100-199", "If-Match": f'"{etag}"'}
        assert got(source, f"bench/{shelf.key(number)}", **part) == (206, body[100:200])
        assert got(source, f"bench/{shelf.key(number)}", Range="bytes=4000-") == (206, body[4000:])
        assert got(source, f"bench/{shelf.key(number)}", **{"If-Match": '"other"'})[0] == 412
        assert got(source, f"bench/{shelf.key(number)}", Range=f"bytes={shelf.size_bytes}-")[0] == 416
    assert got(source, "bench/1/f0000005.bin")[0] == 404


def test_the_source_lists_page_by_page(source: Source) -> None:
    _, first = got(source, "bench?list-type=2&prefix=1/&max-keys=3")
    _, rest = got(source, "bench?list-type=2&prefix=1/&max-keys=3&continuation-token=1/f0000002.bin")

    assert first.count(b"<Key>") == 3
    assert b"<IsTruncated>true</IsTruncated><NextContinuationToken>1/f0000002.bin<" in first
    assert rest.count(b"<Key>") == 2
    assert b"<IsTruncated>false<" in rest


def test_small_objects_differ(source: Source) -> None:
    shelf = Shelf(container="1", count=1000, size_bytes=64)

    assert len({b"".join(shelf.pieces(number)) for number in range(shelf.count)}) == shelf.count


def test_the_library_and_the_kernel_find_what_hashlib_finds(tmp_path: Path) -> None:
    shelf = Shelf(container="2", count=3, size_bytes=3_000_000)
    expected = digests_by_hashlib(shelf)
    assert expected[shelf.key(1)]["sha1"] == hashlib.sha1(b"".join(shelf.pieces(1))).hexdigest()  # noqa: S324
    with Source(tmp_path / "source", [shelf]) as source:
        contenders: list[Contender] = [
            peers.library(source, shelf),
            peers.kernel(source, shelf),
            peers.curl(source, shelf, tmp_path),
        ]
        found = take_turns(contenders, 1, checked_against(expected, shelf.count * shelf.size_bytes))
        for one in contenders:
            one.close()

    assert {name: len(taken) for name, taken in found.items()} == {one.name: 1 for one in contenders}
    for taken in found.values():
        assert json.loads(json.dumps(summed_up(taken)))["wall_s"]["median"] > 0


def test_a_wrong_or_missing_digest_or_byte_ends_a_benchmark() -> None:
    expected = {"a": {"md5": "1", "sha1": "2"}}
    check = checked_against(expected, 10)

    class Somebody:
        name = "somebody"

        def run(self) -> Taken:
            raise AssertionError

        def close(self) -> None: ...

    def taken(digests: dict[str, dict[str, str]] | None, read_bytes: int | None = None) -> Taken:
        return Taken(wall_s=1, cpu_s={}, digests=digests, read_bytes=read_bytes)

    check(Somebody(), taken({"a": {"md5": "1"}}))
    check(Somebody(), taken(None, 10))
    for wrong in (
        taken({"a": {"md5": "2"}}),
        taken({"a": {}}),
        taken({}),
        taken({"b": {}}),
        taken(None, 9),
        taken(None),
    ):
        with pytest.raises(Wrong):
            check(Somebody(), wrong)


def test_rounds_go_forwards_and_backwards_and_the_first_does_not_count() -> None:
    order: list[str] = []

    class One:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> Taken:
            order.append(self.name)
            return Taken(wall_s=len(order), cpu_s={"client": 0.0})

        def close(self) -> None: ...

    found = take_turns([One("a"), One("b")], 2, lambda one, taken: None)

    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [taken.wall_s for taken in found["a"]] == [3, 6]


def test_the_cpu_of_a_child_that_has_ended_counts_as_its_parent_s() -> None:
    meter = CpuMeter({"here": [os.getpid()]})
    child = os.fork()
    if child == 0:
        while os.times().user < 0.2:
            pass
        os._exit(0)
    os.waitpid(child, 0)

    assert meter.read()["here"] >= 0.15


def test_a_peer_that_is_not_installed_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", tmp_path)
    with Source(tmp_path, [SMALL]) as source, pytest.raises(MissingPeer, match="make bench-peers"):
        peers.rclone(source, SMALL, "md5")


def test_a_profile_is_summed_up_by_ours_and_by_package() -> None:
    stacks = (
        "a (worker/app.py:1);b (/x/site-packages/aiohttp/client.py:2) 3\n"
        "a (worker/app.py:1);c (hashmill/flow/send.py:9) 1\n"
    )

    told = summary("worker", stacks, 5)

    assert " 75.0 %  worker/app.py a" in told
    assert " 75.0 %  aiohttp" in told
    assert " 25.0 %  flow/send.py c" in told
