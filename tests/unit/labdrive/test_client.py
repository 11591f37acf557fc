import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable, OriginRefused
from hashmill.domain.job import JobStatus, MessageType
from hashmill.domain.remote import FilePage, RemoteContainer, RemoteFile, RemoteKind
from hashmill.domain.secret import Secret
from hashmill.home import app_home
from hashmill.labdrive.client import ApiAccess, LabdriveClient
from hashmill.labdrive.exchange import render
from hashmill.labdrive.pace import Pace
from hashmill.labdrive.wire import read_wire
from tests.helpers.scripted_api import ScriptedApi, Turn, answer, cut, hang_up, refusal, result, scripted_api

WIRE = read_wire(app_home() / "config" / "labdrive.toml")
PACE = Pace(
    connect_timeout_s=2.0,
    timeout_s=5.0,
    answer_max_bytes=100_000,
    attempts=3,
    backoff_base_s=0.001,
    backoff_cap_s=0.5,
)
KEY = "k-1234567890"
ITEM: dict[str, Any] = {
    "id": "7",
    "container_id": "168",
    "parent": "1",
    "filename": "a.txt",
    "fullpath": "/data/a.txt",
    "deleted": "0",
    "size": 12,
    "type": "FILE",
    "storage_class_id": "2",
}
FILE = RemoteFile(
    file_id="7",
    container_id="168",
    path="data/a.txt",
    size_bytes=12,
    kind=RemoteKind.FILE,
    deleted=False,
    storage_class_id="2",
)


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    async with scripted_api() as server:
        yield server


@pytest.fixture
async def client(api: ScriptedApi) -> AsyncIterator[LabdriveClient]:
    async with LabdriveClient(WIRE, PACE, allowed_origins=[api.url]) as opened:
        yield opened


@pytest.fixture
def access(api: ScriptedApi) -> ApiAccess:
    return ApiAccess(url=api.url, key=Secret(KEY))


Write = Callable[[LabdriveClient, ApiAccess], Awaitable[None]]
WRITES: dict[str, Write] = {
    "status": lambda client, access: client.set_job_status(access, "299", JobStatus.RUNNING, "s-1"),
    "message": lambda client, access: client.create_message(access, "299", "hi", MessageType.INFO, None, "m-1"),
    "hash": lambda client, access: client.set_hash(access, "7", "md5", "ab", "h-1"),
}
writes = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())


# What is sent


async def test_the_key_goes_in_the_bearer_header_and_nowhere_else(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result(ITEM))

    await client.get_file(access, "7")

    [asked] = api.asked
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in asked.target
    assert "Cookie" not in asked.headers
    assert KEY not in f"{access}"


async def test_a_status_is_put_on_the_job(api: ScriptedApi, client: LabdriveClient, access: ApiAccess) -> None:
    api.say(result({}))

    for status in JobStatus:
        await client.set_job_status(access, "299", status, "s-1")

    assert [(asked.method, asked.target, asked.json) for asked in api.asked] == [
        ("PUT", "/api/job/299", {"status": "RUNNING"}),
        ("PUT", "/api/job/299", {"status": "COMPLETED"}),
        ("PUT", "/api/job/299", {"status": "FAILED"}),
    ]


async def test_a_message_is_bound_to_a_file_or_to_none(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result({"id": "1"}))

    await client.create_message(access, "299", "MD5 ü {text}", MessageType.INFO, "7", "m-1")
    await client.create_message(access, "299", "2 failed", MessageType.ERROR, None, "m-2")

    assert [(asked.method, asked.target, asked.json) for asked in api.asked] == [
        ("POST", "/api/job/299/message", {"message": "MD5 ü {text}", "type": "INFO", "file_id": "7"}),
        ("POST", "/api/job/299/message", {"message": "2 failed", "type": "INFO"}),
    ]
    assert [asked.headers["Idempotency-Key"] for asked in api.asked] == ["m-1", "m-2"]


async def test_a_hash_is_put_on_the_file(api: ScriptedApi, client: LabdriveClient, access: ApiAccess) -> None:
    api.say(result({}))

    await client.set_hash(access, "7", "sha256", "e3b0", "h-1")

    [asked] = api.asked
    assert (asked.method, asked.target) == ("PUT", "/api/file/7/hash")
    assert asked.json == {"algorithm": "sha256", "hash": "e3b0"}
    assert asked.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("suffix", ["", "/", "/api", "/api/"])
async def test_a_platform_may_be_named_with_or_without_api(
    suffix: str, api: ScriptedApi, client: LabdriveClient
) -> None:
    api.say(result(ITEM))

    await client.get_file(ApiAccess(url=api.url + suffix, key=Secret(KEY)), "7")

    assert api.asked[0].target == "/api/file/7"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a b/ü//x", "a%20b/%C3%BC//x"),
        ("/leading", "/leading"),
        (".hidden/..two", ".hidden/..two"),
        ("%41", "%2541"),
        ("a+b", "a%2Bb"),
        ("?#", "%3F%23"),
        ("{container_id}", "%7Bcontainer_id%7D"),
        ("tab\tline\n", "tab%09line%0A"),
        ("back\\slash", "back%5Cslash"),
        ("semi;colon&amp=1", "semi%3Bcolon%26amp%3D1"),
        ("trailing/", "trailing/"),
        ("u\u0308", "u%CC%88"),
    ],
)
async def test_an_odd_path_reaches_the_server_as_it_is(
    path: str, target: str, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result({**ITEM, "fullpath": f"/{path}"}))

    file = await client.get_file_by_path(access, "168", path)

    assert api.asked[0].target == f"/api/container/168/file/path/{target}"
    assert file.path == path


async def test_an_odd_id_stays_one_segment(api: ScriptedApi, client: LabdriveClient, access: ApiAccess) -> None:
    api.say(result({**ITEM, "id": "a/b ?"}))

    await client.get_file(access, "a/b ?")

    assert api.asked[0].target == "/api/file/a%2Fb%20%3F"


@pytest.mark.parametrize("path", ["..", "../../user", "a/./b", "a/.."])
async def test_a_path_that_would_make_it_another_call_is_never_sent(
    path: str, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    with pytest.raises(ApiRejected, match="segment"):
        await client.get_file_by_path(access, "168", path)
    with pytest.raises(ApiRejected, match="segment"):
        await client.get_file(access, "..")

    assert api.asked == []


async def test_an_origin_that_is_not_listed_is_never_called(api: ScriptedApi) -> None:
    access = ApiAccess(url=api.url, key=Secret(KEY))
    async with LabdriveClient(WIRE, PACE, allowed_origins=["https://labdrive.example.org"]) as client:
        for write in WRITES.values():
            with pytest.raises(OriginRefused, match=r"labdrive\.allowed_origins"):
                await write(client, access)
        with pytest.raises(OriginRefused):
            await client.get_file(access, "7")
        with pytest.raises(OriginRefused):
            await client.probe(access)

    assert api.asked == []


async def test_a_proxy_in_the_environment_is_not_used(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    api.say(result(ITEM))

    assert await client.get_file(access, "7") == FILE


async def test_a_cookie_is_not_kept(api: ScriptedApi, client: LabdriveClient, access: ApiAccess) -> None:
    api.say(answer({"success": True, "result": ITEM}, headers={"Set-Cookie": "session=1; Path=/"}))

    await client.get_file(access, "7")
    await client.get_file(access, "7")

    assert "Cookie" not in api.asked[1].headers


# What is read


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({}, {}),
        ({"id": 7, "container_id": 168, "storage_class_id": 2}, {}),
        ({"size": "12"}, {}),
        ({"size": None}, {"size_bytes": None}),
        ({"size": ""}, {"size_bytes": None}),
        ({"size": 0}, {"size_bytes": 0}),
        ({"size": 2**45}, {"size_bytes": 2**45}),
        ({"size": 2**53 - 1}, {"size_bytes": 2**53 - 1}),
        ({"size": 2**53}, {"size_bytes": None}),
        ({"size": 2**70}, {"size_bytes": None}),
        ({"size": "99999999999999999999"}, {"size_bytes": None}),
        ({"deleted": 1}, {"deleted": True}),
        ({"deleted": "1"}, {"deleted": True}),
        ({"deleted": True}, {"deleted": True}),
        ({"deleted": "2021-06-08 11:01:00"}, {"deleted": True}),
        ({"deleted": None}, {}),
        ({"deleted": False}, {}),
        ({"type": "FOLDER"}, {"kind": RemoteKind.FOLDER}),
        ({"type": None}, {}),
        ({"storage_class_id": None}, {"storage_class_id": None}),
        ({"fullpath": "//x"}, {"path": "/x"}),
        ({"fullpath": "x/y"}, {"path": "x/y"}),
        ({"unknown": {"a": 1}}, {}),
    ],
)
async def test_a_file_is_read_leniently(
    change: dict[str, Any], read: dict[str, Any], api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result({**ITEM, **change}))

    assert await client.get_file(access, "7") == replace(FILE, **read)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "x",
        3,
        {},
        {**ITEM, "id": None},
        {**ITEM, "id": ""},
        {**ITEM, "id": True},
        {**ITEM, "id": 1.5},
        {**ITEM, "id": "8"},
        {**ITEM, "container_id": None},
        {**ITEM, "fullpath": None},
        {**ITEM, "fullpath": 3},
        {**ITEM, "fullpath": "/a\x00"},
        {**ITEM, "fullpath": "/\ud800"},
        {**ITEM, "size": -1},
        {**ITEM, "size": 1.5},
        {**ITEM, "size": True},
        {**ITEM, "size": "12 KB"},
        {**ITEM, "type": "SYMLINK"},
        {**ITEM, "type": 3},
    ],
)
async def test_a_file_of_another_shape_is_no_answer(
    wrong: object, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result(wrong))

    with pytest.raises(ApiUnavailable, match=r"get_file: the answer is not as labdrive\.toml says"):
        await client.get_file(access, "7")


async def test_a_container_is_read_with_its_storage(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result({"id": 168, "storage_id": 3}), result({"id": "168"}), result({"id": "9"}))

    assert await client.get_container(access, "168") == RemoteContainer(container_id="168", storage_id="3")
    assert await client.get_container(access, "168") == RemoteContainer(container_id="168", storage_id=None)
    with pytest.raises(ApiUnavailable, match="another container"):
        await client.get_container(access, "168")


@pytest.mark.parametrize(
    ("sent", "read"), [([{"iecode": "x"}], [{"iecode": "x"}]), ([], None), (None, None), ({}, None)]
)
async def test_metadata_are_a_list_or_none(
    sent: object, read: object, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result(sent))

    assert await client.get_metadata(access, "7") == read
    assert api.asked[0].target == "/api/file/7/metadata"


async def test_metadata_of_another_shape_are_no_answer(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result("none"))

    with pytest.raises(ApiUnavailable):
        await client.get_metadata(access, "7")


# Listings


async def listed(client: LabdriveClient, access: ApiAccess, limit: int) -> list[str]:
    """Every file id, page by page, as a step would ask."""
    found: list[str] = []
    cursor = None
    for _ in range(100):
        page = await client.list_files(access, "168", cursor, limit)
        found += [file.file_id for file in page.files]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor
    raise AssertionError("the listing never ended")


def pages_of(ids: list[int], *, server_max: int | None, paged: bool = True) -> Turn:
    """A server's listing; it may allow fewer than asked, or know no paging."""

    async def turn(request: web.BaseRequest) -> web.StreamResponse:
        limit, offset = int(request.query["limit"]), int(request.query["offset"])
        part = ids[offset : offset + min(limit, server_max or limit)] if paged else ids
        return web.json_response({"success": True, "result": [{**ITEM, "id": i} for i in part]})

    return turn


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("server_max", [None, 1, 2])
async def test_a_listing_is_complete_also_when_the_server_allows_fewer_than_asked(
    count: int, server_max: int | None, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(pages_of(list(range(count)), server_max=server_max))

    assert await listed(client, access, 3) == [str(i) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 50])
async def test_a_listing_ends_when_the_server_knows_no_paging(
    count: int, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(pages_of(list(range(count)), server_max=None, paged=False))

    assert await listed(client, access, 10) == [str(i) for i in range(count)]
    assert len(api.asked) <= 2


async def test_a_listing_asks_by_limit_and_offset_and_fills_in_the_container(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    bare = {"id": "7", "fullpath": "/data/a.txt", "size": 12, "storage_class_id": "2"}
    api.say(result([bare]), result([]))

    page = await client.list_files(access, "168", None, 50)
    rest = await client.list_files(access, "168", page.next_cursor, 50)

    assert page.files == (FILE,)
    assert rest == FilePage(files=(), next_cursor=None)
    assert [asked.target for asked in api.asked] == [
        "/api/container/168/file/list?limit=50&offset=0",
        "/api/container/168/file/list?limit=50&offset=1",
    ]


@pytest.mark.parametrize("no_list", [None, {}, {"files": []}, "x"])
async def test_what_is_no_list_is_not_taken_for_an_empty_container(
    no_list: object, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(result(no_list))

    with pytest.raises(ApiUnavailable, match="no list"):
        await client.list_files(access, "168", None, 50)


# What goes wrong


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_no_file_s_fault(
    status: int, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(status, f"key {KEY} is unknown"))

    with pytest.raises(ApiAuth, match=rf"get_file: LABDRIVE answered {status}.*key \*\*\* is unknown") as caught:
        await client.get_file(access, "7")

    assert len(api.asked) == 1
    assert KEY not in f"{caught.value!r}"


@pytest.mark.parametrize("status", [400, 402, 404, 405, 409, 410, 413, 422, 451])
async def test_a_refusal_is_final_and_says_why(
    status: int, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(status, "no\r\n\x1b[31msuch thing" + "!" * 1000))

    with pytest.raises(ApiRejected, match=r"no \[31msuch thing!+…$") as caught:
        await client.get_file(access, "7")

    assert caught.value.status == status
    assert len(str(caught.value)) < 300
    assert len(api.asked) == 1


@writes
async def test_a_success_status_with_success_false_is_a_refusal(
    write: Write, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    for flag in (False, 0, "0", "false"):
        api.say(answer({"success": flag, "msg": "job is closed"}))

        with pytest.raises(ApiRejected, match="job is closed") as caught:
            await write(client, access)

        assert caught.value.status == 200


@pytest.mark.parametrize("flag", [True, 1, "1", "true", "TRUE"])
async def test_success_may_be_written_as_php_does(
    flag: object, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(answer({"success": flag, "result": ITEM}, status=201))

    assert await client.get_file(access, "7") == FILE


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
async def test_a_reading_call_is_tried_again_when_it_may_pass(
    status: int, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(status), refusal(status), result(ITEM))

    assert await client.get_file(access, "7") == FILE
    assert len(api.asked) == 3


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_reading_call_ends_after_its_tries(
    status: int, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(status, "busy"))

    with pytest.raises(ApiUnavailable, match=f"{status}.*busy"):
        await client.get_file(access, "7")

    assert len(api.asked) == PACE.attempts


@writes
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_writing_call_is_tried_once(
    write: Write, status: int, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(status, headers={"Retry-After": "17"}), result({}))

    with pytest.raises(ApiUnavailable) as caught:
        await write(client, access)

    assert len(api.asked) == 1
    assert caught.value.retry_after_s == 17.0


async def test_a_reading_call_waits_as_long_as_it_is_asked_to(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(429, headers={"Retry-After": "0.2"}), result(ITEM))
    began = time.monotonic()

    await client.get_file(access, "7")

    assert time.monotonic() - began >= 0.2


async def test_a_reading_call_does_not_sit_out_a_long_pause(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(refusal(429, headers={"Retry-After": "60"}), result(ITEM))

    with pytest.raises(ApiUnavailable) as caught:
        await client.get_file(access, "7")

    assert caught.value.retry_after_s == 60.0
    assert len(api.asked) == 1


HTML = b"<!doctype html><title>Sign in</title>"


@pytest.mark.parametrize(
    "turn",
    [
        answer(HTML, content_type="text/html"),
        answer(b""),
        answer(b'{"success": true, "result": '),
        answer(b"\xff\xfe"),
        answer(b"[" * 50_000),
        answer([]),
        answer("ok"),
        answer(None),
        answer({}),
        answer({"success": None, "result": ITEM}),
        answer({"success": "perhaps", "result": ITEM}),
        answer({"result": ITEM}),
        answer(b"x" * (PACE.answer_max_bytes + 1)),
        cut(b'{"success": true, "result": {}}', promised_bytes=5000),
        hang_up,
    ],
    ids=[
        "html", "nothing", "half", "not-utf8", "deep", "list", "text", "null", "empty", "success-null",
        "success-unclear", "no-success", "too-large", "cut", "hang-up",
    ],
)  # fmt: skip
async def test_what_is_not_the_platforms_json_may_pass(
    turn: Turn, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    for write in WRITES.values():
        api.say(turn)
        with pytest.raises(ApiUnavailable):
            await write(client, access)

    api.say(turn, result(ITEM))
    assert await client.get_file(access, "7") == FILE


async def test_an_html_page_with_a_refusing_status_is_a_refusal(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(answer(HTML, status=404, content_type="text/html"))

    with pytest.raises(ApiRejected) as caught:
        await client.get_file(access, "7")

    assert caught.value.status == 404


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://evil.example/x?token=1", "https://evil.example"),
        ("/login", "the same origin"),
        ("//evil.example", "an unclear place"),
        ("https://user:word@evil.example", "an unclear place"),
        ("", "an unclear place"),
    ],
)
async def test_a_redirect_is_never_followed(
    status: int, location: str, shown: str, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(answer(HTML, status=status, headers={"Location": location}))

    with pytest.raises(ApiRejected, match=f"redirects to {shown}, which is never followed") as caught:
        await client.get_file(access, "7")

    assert caught.value.status == status
    assert len(api.asked) == 1


async def test_a_redirect_to_itself_does_not_carry_the_key_on(
    api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    async with scripted_api() as elsewhere:
        api.say(answer(b"", status=307, headers={"Location": f"{elsewhere.url}/api/file/7"}))

        with pytest.raises(ApiRejected):
            await client.get_file(access, "7")

        assert elsewhere.asked == []


async def test_a_server_that_never_answers_is_given_up(api: ScriptedApi) -> None:
    access = ApiAccess(url=api.url, key=Secret(KEY))
    pace = replace(PACE, timeout_s=0.2, attempts=2)
    api.say(api.silence)
    async with LabdriveClient(WIRE, pace, allowed_origins=[api.url]) as client:
        with pytest.raises(ApiUnavailable, match=r"get_file: no answer within 0\.2 s"):
            await client.get_file(access, "7")
        with pytest.raises(ApiUnavailable, match=r"set_hash: no answer within 0\.2 s"):
            await client.set_hash(access, "7", "md5", "ab", "h-1")

    assert len(api.asked) == 3


async def test_a_server_that_stops_in_the_middle_is_given_up(api: ScriptedApi) -> None:
    async def half(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"success": ')
        await api.closing.wait()
        return response

    api.say(half)
    async with LabdriveClient(WIRE, replace(PACE, timeout_s=0.2), allowed_origins=[api.url]) as client:
        with pytest.raises(ApiUnavailable, match="no answer within"):
            await client.set_hash(ApiAccess(url=api.url, key=Secret(KEY)), "7", "md5", "ab", "h-1")


async def test_a_server_that_is_not_there_may_come_back() -> None:
    async with scripted_api() as gone:
        url = gone.url
    async with LabdriveClient(WIRE, PACE, allowed_origins=[url]) as client:
        with pytest.raises(ApiUnavailable, match="get_file: ClientConnectorError"):
            await client.get_file(ApiAccess(url=url, key=Secret(KEY)), "7")


async def test_a_name_that_does_not_resolve_may_come_back() -> None:
    access = ApiAccess(url="http://labdrive.invalid", key=Secret(KEY))
    async with LabdriveClient(WIRE, replace(PACE, attempts=1), allowed_origins=[access.url]) as client:
        with pytest.raises(ApiUnavailable):
            await client.get_file(access, "7")


async def test_calls_side_by_side_do_not_mix(api: ScriptedApi, client: LabdriveClient, access: ApiAccess) -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        file_id = request.path.rsplit("/", 1)[1]
        return web.json_response({"success": True, "result": {**ITEM, "id": file_id}})

    api.say(echo)

    files = await asyncio.gather(*(client.get_file(access, str(i)) for i in range(200)))

    assert [file.file_id for file in files] == [str(i) for i in range(200)]


async def test_a_client_that_is_not_open_says_so() -> None:
    client = LabdriveClient(WIRE, PACE, allowed_origins=["http://h"])

    with pytest.raises(RuntimeError, match="async with"):
        await client.get_file(ApiAccess(url="http://h", key=Secret(KEY)), "7")


# The probe


@pytest.mark.parametrize("turn", [result({"id": "0"}), refusal(404, "no such container")], ids=["found", "unknown"])
async def test_a_platform_that_answers_in_its_own_words_is_there(
    turn: Turn, api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(turn)

    await client.probe(access)

    assert (api.asked[0].method, api.asked[0].target) == ("GET", "/api/container/0")


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        (refusal(401), ApiAuth),
        (refusal(503), ApiUnavailable),
        (answer(HTML, content_type="text/html"), ApiUnavailable),
        (answer(HTML, status=404, content_type="text/html"), ApiRejected),
        (answer({"message": "not found"}, status=404), ApiRejected),
        (answer(b"", status=302, headers={"Location": "/login"}), ApiRejected),
        (hang_up, ApiUnavailable),
    ],
)
async def test_what_any_web_server_could_say_is_no_platform(
    turn: Turn, error: type[Exception], api: ScriptedApi, client: LabdriveClient, access: ApiAccess
) -> None:
    api.say(turn)

    with pytest.raises(error):
        await client.probe(access)


# A law


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ITEM, "x"]), inner, max_size=9),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from([200, 201, 302, 400, 401, 404, 429, 500]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_answer_is_a_file_or_one_of_three_errors(body: object, status: int, wrapped: bool) -> None:
    async def ask() -> object:
        async with scripted_api() as api:
            api.say(answer({"success": True, "result": body} if wrapped else body, status=status))
            async with LabdriveClient(WIRE, replace(PACE, attempts=1), allowed_origins=[api.url]) as client:
                try:
                    return await client.get_file(ApiAccess(url=api.url, key=Secret(KEY)), "7")
                except (ApiAuth, ApiRejected, ApiUnavailable) as error:
                    return error

    assert isinstance(asyncio.run(ask()), RemoteFile | ApiAuth | ApiRejected | ApiUnavailable)


async def test_a_server_that_takes_no_connection_is_given_up() -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        host, port = full.getsockname()
        # Nobody accepts: once the queue is full, Linux lets further connections hang.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        access = ApiAccess(url=f"http://{host}:{port}", key=Secret(KEY))
        async with LabdriveClient(WIRE, replace(PACE, connect_timeout_s=0.2), allowed_origins=[access.url]) as client:
            with pytest.raises(ApiUnavailable, match=r"set_hash: no connection within 0\.2 s"):
                await client.set_hash(access, "7", "md5", "ab", "h-1")


def test_a_request_never_shows_its_key() -> None:
    sent = render(WIRE, "get_file", base="http://h", key=Secret(KEY), values={"file_id": "7"})

    assert f"{sent!r}" == "Sent(GET http://h/api/file/7)"
