"""The stream reads as a file does, whatever the order, and whatever the network does meanwhile."""

import asyncio
import io
import random
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libnova.errors import ObjectChanged, StorageUnavailable
from libnova.Labdrive.Filesystem import S3
from libnova.Labdrive.Filesystem.S3 import stream as streams
from libnova.Labdrive.Filesystem.S3.Storage import Storage
from libnova.Labdrive.Filesystem.S3.stream import Stream
from libnova.Labdrive.Nuclio.Request import Request
from PIL import Image

from tests.helpers.cutting_proxy import CuttingProxy
from tests.helpers.researcher import Desk, event, sit_down

SIZE = 3_000_017
CONTENT = random.Random(7).randbytes(SIZE)
PLACES = st.one_of(st.integers(0, SIZE + 10), st.sampled_from([0, SIZE - 1, SIZE, 262_143, 262_144, 262_145, 786_432]))
LENGTHS = st.one_of(st.integers(0, 5000), st.integers(0, SIZE))


def opened(place: Desk, path: str, content: bytes) -> Stream:
    request = Request(None, event(ids=[place.put(path, content)]))
    found = S3.File.get_stream(request.Storage, request.Files[0])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def large(shared_desk: Desk) -> Iterator[Stream]:
    with pytest.MonkeyPatch.context() as patch:
        sit_down(patch, shared_desk)
        with opened(shared_desk, "large.bin", CONTENT) as stream:
            yield stream


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["read", "into", "line", "set", "cur", "end"]), PLACES, LENGTHS), max_size=12
    )
)
def test_it_reads_what_a_file_of_the_same_bytes_does(large: Stream, steps: list[tuple[str, int, int]]) -> None:
    model = io.BytesIO(CONTENT)
    large.seek(0)
    for step, place, length in steps:
        match step:
            case "read":
                assert large.read(length) == model.read(length)
            case "line":
                assert large.readline(length) == model.readline(length)
                assert large.readline() == model.readline()
            case "into":
                ours, theirs = bytearray(length), bytearray(length)
                assert large.readinto(ours) == model.readinto(theirs)
                assert ours == theirs
            case "set":
                assert large.seek(place) == model.seek(place)
            case "cur":
                back = min(place, model.tell())
                assert large.seek(-back, io.SEEK_CUR) == model.seek(-back, io.SEEK_CUR)
            case _:
                back = min(place, SIZE)
                assert large.seek(-back, io.SEEK_END) == model.seek(-back, io.SEEK_END)
        assert large.tell() == model.tell()


def test_read_in_order_it_asks_for_growing_ranges_and_ahead(place: Desk) -> None:
    asked: list[str] = []
    with opened(place, "ahead.bin", CONTENT) as stream:
        stream._client.meta.events.register(
            "before-call.s3.GetObject", lambda params, **_: asked.append(params["headers"]["Range"])
        )
        pieces = [stream.read(100_000)]
        while pieces[-1]:
            pieces.append(stream.read(100_000))
    assert b"".join(pieces) == CONTENT
    bounds = [tuple(map(int, one.removeprefix("bytes=").split("-"))) for one in asked]
    assert [first for first, _ in bounds[1:]] == [last + 1 for _, last in bounds[:-1]]
    lengths = [last - first + 1 for first, last in bounds]
    assert lengths[:3] == [262_144, 524_288, 1_048_576]
    assert len(lengths) == 4


def test_it_is_what_zipfile_and_text_readers_take(place: Desk) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "line one\nline two\n")
        archive.writestr("noise.bin", CONTENT)
    with opened(place, "packed.zip", packed.getvalue()) as stream, zipfile.ZipFile(stream) as archive:
        assert archive.testzip() is None
        assert archive.read("noise.bin") == CONTENT
        with archive.open("readme.txt") as inner:
            assert io.TextIOWrapper(inner, "utf-8").readlines() == ["line one\n", "line two\n"]
    with opened(place, "table.csv", b"a,b\n1,2\n") as stream, io.TextIOWrapper(io.BufferedReader(stream)) as text:
        assert [line.strip().split(",") for line in text] == [["a", "b"], ["1", "2"]]


def test_it_is_what_pandas_and_readers_of_images_take(place: Desk) -> None:
    table = pandas.DataFrame({"a": range(50_000), "b": ["x", "y"] * 25_000})
    with opened(place, "pandas.csv", table.to_csv(index=False).encode()) as stream:
        pandas.testing.assert_frame_equal(pandas.read_csv(stream), table)
    drawn = io.BytesIO()
    Image.frombytes("RGB", (700, 500), CONTENT[: 700 * 500 * 3]).save(drawn, "TIFF")
    with opened(place, "image.tif", drawn.getvalue()) as stream, Image.open(stream) as image:
        assert image.tobytes() == CONTENT[: 700 * 500 * 3]


def test_lines_are_found_in_what_was_read_ahead(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{n},{n * n}\n" for n in range(100_000)).encode() + b"x" * 700_000 + b"\n\nlast"
    with opened(place, "rows.csv", rows) as stream:
        # One call for each byte is what a raw file does without a readline of its own.
        monkeypatch.setattr(stream, "read", lambda *_: pytest.fail("a line was read byte by byte"))
        assert list(stream) == io.BytesIO(rows).readlines()
        assert stream.tell() == len(rows)
        stream.seek(2)
        assert (stream.readline(1), stream.readline(0), stream.readline(None)) == (b"0", b"", b"\n")
    with pytest.raises(ValueError, match="closed"):
        stream.readline()


def test_an_empty_file_is_at_its_end(place: Desk) -> None:
    with opened(place, "empty.bin", b"") as stream:
        assert (stream.read(), stream.read(10), stream.seek(5), stream.read()) == (b"", b"", 5, b"")


def test_places_and_streams_that_are_none_are_refused(place: Desk) -> None:
    stream = opened(place, "small.bin", b"abc")
    with pytest.raises(ValueError, match="before the begin"):
        stream.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        stream.seek(0, 7)
    with pytest.raises(TypeError):
        stream.seek(1.5)  # type: ignore[arg-type]
    assert not stream.writable()
    with pytest.raises(io.UnsupportedOperation):
        stream.write(b"x")
    stream.close()
    stream.close()
    for use in (stream.read, stream.tell, lambda: stream.seek(0), lambda: stream.readinto(bytearray(1))):
        with pytest.raises(ValueError, match="closed"):
            use()


@contextmanager
def cutting(endpoint_url: str, cuts: list[int]) -> Iterator[str]:
    """Yield the address of a proxy that hangs up after so many bytes of an answer."""
    ready: Future[str] = Future()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with CuttingProxy(endpoint_url, cuts) as proxy:
            ready.set_result(proxy.endpoint_url)
            await ended.wait()

    thread = Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield ready.result(60)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(60)
        loop.close()


def through(place: Desk, endpoint_url: str, path: str) -> Stream:
    storage = Storage(bucket=place.bucket, endpoint_url=endpoint_url)
    storage.endpoint_url = endpoint_url
    found = S3.File.get_stream(
        storage, SimpleNamespace(is_folder=False, container_id="1", path=path, id="0", name=path)
    )  # type: ignore[arg-type]
    assert found is not None
    found._sleep = lambda _: None
    return found


def test_a_network_that_cuts_in_mid_stream_costs_no_byte(place: Desk) -> None:
    opened(place, "cut.bin", CONTENT).close()
    with (
        cutting(place.s3.endpoint_url, [300_000, 100_000, 700_000, 5000, 900_000]) as endpoint_url,
        through(place, endpoint_url, "cut.bin") as stream,
    ):
        assert stream.read() == CONTENT


def test_a_network_that_only_cuts_ends_in_an_error_that_says_where(place: Desk) -> None:
    opened(place, "cut.bin", CONTENT).close()
    with (
        cutting(place.s3.endpoint_url, [5000] + [400] * 200) as endpoint_url,
        through(place, endpoint_url, "cut.bin") as stream,
        pytest.raises(StorageUnavailable, match=r"broke off at byte \d+ of 3000017"),
    ):
        stream.read()


def test_a_read_that_broke_off_leaves_the_place_where_it_was(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(place, "broken.bin", CONTENT) as stream:
        assert stream.read(1000) == CONTENT[:1000]
        fetch, cut = stream._fetch, [True]

        def cuts_once_at_786432(at: int, length: int) -> bytes:
            if at == 786_432 and cut.pop():
                raise StorageUnavailable("cut")
            return fetch(at, length)

        monkeypatch.setattr(stream, "_fetch", cuts_once_at_786432)
        with pytest.raises(StorageUnavailable):
            stream.read()
        assert stream.tell() == 1000
        cut.append(False)
        assert stream.read() == CONTENT[1000:]


@pytest.mark.parametrize("gone", [False, True])
def test_an_object_that_was_written_anew_or_deleted_is_not_mixed(place: Desk, gone: bool) -> None:
    with opened(place, "changing.bin", CONTENT) as stream:
        assert stream.read(1000) == CONTENT[:1000]
        if gone:
            client = place.s3.client()
            client.delete_object(Bucket=place.bucket, Key="1/changing.bin")
            client.close()
        else:
            place.put("changing.bin", CONTENT[::-1])
        with pytest.raises(ObjectChanged, match="deleted" if gone else "anew"):
            stream.read()


def test_however_long_an_object_is_a_range_has_its_most_bytes(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_BYTES", 600_000)
    asked: list[int] = []
    with opened(place, "ranges.bin", CONTENT) as stream:
        real = stream._fetch
        monkeypatch.setattr(stream, "_fetch", lambda at, length: asked.append(length) or real(at, length))
        assert stream.read() == CONTENT
    assert max(asked) == 600_000
    assert asked[:3] == [262_144, 524_288, 600_000]


@pytest.mark.parametrize(("asked", "shown"), [("1", True), ("0", False)])
def test_progress_is_shown_where_it_is_asked_for(
    place: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str, shown: bool
) -> None:
    monkeypatch.setenv("LIBNOVA_PROGRESS", asked)
    monkeypatch.setattr(streams, "BAR_BYTES", 1000)
    request = Request(None, event(ids=[place.put("shown.bin", CONTENT)]))
    for file in request.Files:
        found = S3.File.get_stream(request.Storage, file)
        assert found is not None
        with found:
            found.read()

    said = capsys.readouterr().err
    assert ("files: 100%" in said, "shown.bin: 100%" in said) == (shown, shown)
