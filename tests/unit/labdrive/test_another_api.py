"""The client against a platform that shares not one path, verb, field or name with the table that ships."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable
from hashmill.domain.job import JobStatus, MessageType
from hashmill.domain.remote import RemoteContainer, RemoteFile, RemoteKind
from hashmill.domain.secret import Secret
from hashmill.labdrive.client import ApiAccess, LabdriveClient
from hashmill.labdrive.pace import Pace
from hashmill.labdrive.wire import object_address, read_wire

SHEET = """
[base]
path = { value = "/rest/v9", source = "known" }

[auth]
header = { value = "X-Token", source = "known" }
prefix = { value = "", source = "known" }

[envelope]
success = { value = "meta.ok", source = "known" }
result = { value = "data", source = "known" }
message = { value = "meta.why", source = "known" }

[calls.set_job_status]
method = "PATCH"
path = "/tasks/{job_id};state={status}"
source = "known"

[calls.create_message]
method = "PUT"
path = "/log"
query = { once = "{idempotency_key}", item = "{file_id}" }
body = { task = "{job_id}", line = "[{type}] {text}" }
encoding = "form"
source = "known"

[calls.get_file]
method = "POST"
path = "/items/find"
body = { where = { op = "eq", uid = "{file_id}" } }
answer = "hits.first"
source = "known"

[calls.get_file_by_path]
method = "GET"
path = "/items"
query = { box = "{container_id}", where = "/{path}" }
answer = "item"
source = "known"

[calls.list_files]
method = "GET"
path = "/boxes/{container_id}/items"
query = { page = "{page}", per_page = "{limit}" }
answer = "items"
source = "known"

[calls.get_container]
method = "GET"
path = "/boxes/{container_id}"
source = "known"

[calls.get_metadata]
method = "GET"
path = "/items/{file_id}/facts"
source = "known"

[calls.set_hash]
method = "POST"
path = "/items/{file_id}/sums/{algorithm}"
headers = { X-Once = "{idempotency_key}" }
body = { sums = ["{algorithm}:{hexdigest}"] }
source = "known"

[calls.probe]
method = "GET"
path = "/ping"
source = "known"

[status]
RUNNING = { value = "at-work", source = "known" }
COMPLETED = { value = "good", source = "known" }
FAILED = { value = "bad", source = "known" }

[message_types]
INFO = { value = "note", source = "known" }
ERROR = { value = "alarm", source = "known" }

[item_types]
FILE = { value = "leaf", source = "known" }
FOLDER = { value = "branch", source = "known" }

[file]
id = { value = "uid", source = "known" }
container_id = { value = "box.uid", source = "known" }
path = { value = "where", source = "known" }
size = { value = "facts.bytes", source = "known" }
type = { value = "shape", source = "known" }
deleted = { value = "gone", source = "known" }
storage_class_id = { value = "", source = "known" }

[container]
id = { value = "uid", source = "known" }
storage_id = { value = "shelf.uid", source = "known" }

[objects]
bucket = { value = "shelf-{storage_id}", source = "known" }
key = { value = "{tenant_id}/{file_id}", source = "known" }
"""


def item(uid: int, where: str, shape: str = "leaf") -> dict[str, object]:
    return {"uid": uid, "where": where, "shape": shape, "gone": None, "box": {"uid": 5}, "facts": {"bytes": "10"}}


ITEMS = [item(1, "/a ü?.txt"), item(2, "/b", "branch"), item(3, "/b/c")]


class OtherPlatform:
    """A small platform with a state of its own."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}
        self.lines: list[tuple[str, str, str | None, str]] = []
        self.sums: dict[str, list[str]] = {}
        self.once: list[str] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.guard])
        root = "/rest/v9"
        app.router.add_patch(root + "/tasks/{task}", self.patch_task)
        app.router.add_put(root + "/log", self.put_log)
        app.router.add_post(root + "/items/find", self.find)
        app.router.add_get(root + "/items", self.by_path)
        app.router.add_get(root + "/boxes/{box}/items", self.items)
        app.router.add_get(root + "/boxes/{box}", self.box)
        app.router.add_get(root + "/items/{uid}/facts", self.facts)
        app.router.add_post(root + "/items/{uid}/sums/{name}", self.post_sum)
        app.router.add_get(root + "/ping", self.ping)
        return app

    @staticmethod
    def good(data: object) -> web.Response:
        return web.json_response({"meta": {"ok": 1}, "data": data})

    @web.middleware
    async def guard(self, request: web.Request, handler: object) -> web.StreamResponse:
        assert callable(handler)
        if request.headers.get("X-Token") != "t-1":
            return web.json_response({"meta": {"ok": 0, "why": "who are you"}}, status=401)
        answer = await handler(request)
        assert isinstance(answer, web.StreamResponse)
        return answer

    async def patch_task(self, request: web.Request) -> web.Response:
        task, state = request.match_info["task"].split(";state=")
        self.tasks[task] = state
        return self.good(None)

    async def put_log(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.lines.append((str(form["task"]), str(form["line"]), request.query.get("item"), request.query["once"]))
        return self.good(None)

    async def find(self, request: web.Request) -> web.Response:
        uid = (await request.json())["where"]["uid"]
        hits = [found for found in ITEMS if str(found["uid"]) == uid]
        if not hits:
            return web.json_response({"meta": {"ok": 0, "why": "nothing there"}})
        return self.good({"hits": {"first": hits[0]}})

    async def by_path(self, request: web.Request) -> web.Response:
        [hit] = [found for found in ITEMS if found["where"] == request.query["where"] and request.query["box"] == "5"]
        return self.good({"item": hit})

    async def items(self, request: web.Request) -> web.Response:
        per_page = min(int(request.query["per_page"]), 2)
        first = (int(request.query["page"]) - 1) * per_page
        return self.good({"items": ITEMS[first : first + per_page]})

    async def box(self, request: web.Request) -> web.Response:
        return self.good({"uid": int(request.match_info["box"]), "shelf": {"uid": 9}})

    async def facts(self, request: web.Request) -> web.Response:
        return self.good([{"about": request.match_info["uid"]}])

    async def post_sum(self, request: web.Request) -> web.Response:
        self.sums[request.match_info["uid"]] = (await request.json())["sums"]
        self.once.append(request.headers["X-Once"])
        return self.good(None)

    async def ping(self, _: web.Request) -> web.Response:
        return self.good("pong")


@pytest.fixture
def platform() -> OtherPlatform:
    return OtherPlatform()


@pytest.fixture
async def access(platform: OtherPlatform) -> AsyncIterator[ApiAccess]:
    runner = web.AppRunner(platform.app(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield ApiAccess(url=f"http://{host}:{port}", key=Secret("t-1"))
    finally:
        await runner.cleanup()


@pytest.fixture
async def client(access: ApiAccess, tmp_path: Path) -> AsyncIterator[LabdriveClient]:
    sheet = tmp_path / "other.toml"
    sheet.write_text(SHEET, encoding="utf-8")
    pace = Pace(
        connect_timeout_s=2.0,
        timeout_s=5.0,
        answer_max_bytes=100_000,
        attempts=1,
        backoff_base_s=0.001,
        backoff_cap_s=0.01,
    )
    async with LabdriveClient(read_wire(sheet), pace, allowed_origins=[access.url]) as opened:
        yield opened


async def test_reports_arrive(platform: OtherPlatform, client: LabdriveClient, access: ApiAccess) -> None:
    await client.set_job_status(access, "299", JobStatus.RUNNING, "s1")
    await client.set_job_status(access, "a/b", JobStatus.FAILED, "s2")
    await client.create_message(access, "299", "it & that = ü", MessageType.INFO, "1", "m 1")
    await client.create_message(access, "299", "{text}", MessageType.ERROR, None, "m2")
    await client.set_hash(access, "1", "md5", "d41d", "h1")

    assert platform.tasks == {"299": "at-work", "a/b": "bad"}
    assert platform.lines == [("299", "[note] it & that = ü", "1", "m 1"), ("299", "[alarm] {text}", None, "m2")]
    assert platform.sums == {"1": ["md5:d41d"]}
    assert platform.once == ["h1"]


async def test_files_are_found(client: LabdriveClient, access: ApiAccess) -> None:
    file = RemoteFile(file_id="1", container_id="5", path="a ü?.txt", size_bytes=10, kind=RemoteKind.FILE)

    assert await client.get_file(access, "1") == file
    assert await client.get_file_by_path(access, "5", "a ü?.txt") == file
    assert (await client.get_file(access, "2")).kind is RemoteKind.FOLDER
    assert await client.get_container(access, "5") == RemoteContainer(container_id="5", storage_id="9")
    assert await client.get_metadata(access, "1") == [{"about": "1"}]
    await client.probe(access)


async def test_a_listing_by_page_number_is_complete(client: LabdriveClient, access: ApiAccess) -> None:
    found: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        page = await client.list_files(access, "5", cursor, 100)
        found += [file.file_id for file in page.files]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert found == ["1", "2", "3"]


async def test_refusals_are_told_apart(client: LabdriveClient, access: ApiAccess) -> None:
    with pytest.raises(ApiRejected, match="nothing there"):
        await client.get_file(access, "8")
    with pytest.raises(ApiAuth, match="who are you"):
        await client.get_file(ApiAccess(url=access.url, key=Secret("t-2")), "1")


async def test_without_a_success_field_the_status_alone_decides(
    platform: OtherPlatform, access: ApiAccess, tmp_path: Path
) -> None:
    sheet = tmp_path / "bare.toml"
    sheet.write_text(SHEET.replace('"meta.ok"', '""'), encoding="utf-8")
    pace = Pace(
        connect_timeout_s=2.0,
        timeout_s=5.0,
        answer_max_bytes=1000,
        attempts=1,
        backoff_base_s=0.001,
        backoff_cap_s=0.01,
    )

    async with LabdriveClient(read_wire(sheet), pace, allowed_origins=[access.url]) as client:
        await client.set_job_status(access, "299", JobStatus.COMPLETED, "s3")
        with pytest.raises(ApiUnavailable):
            await client.get_file(access, "8")

    assert platform.tasks == {"299": "good"}


def test_the_layout_of_objects_is_its_own(tmp_path: Path) -> None:
    sheet = tmp_path / "other.toml"
    sheet.write_text(SHEET, encoding="utf-8")

    address = object_address(
        read_wire(sheet), container_id="5", path="x", bucket="b", storage_id="9", tenant_id="t", file_id="1"
    )

    assert address == ("shelf-9", "t/1")
