"""A LABDRIVE whose every path, verb, field and name differs from the table that ships, and who speaks nothing else."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

ROOT = "/svc/v3"
PAGE_MAX = 3
VAULT = "5"
SHELF = "cold-7"

SHEET = """\
[base]
path = { value = "/svc/v3", source = "known" }

[auth]
header = { value = "X-Session", source = "known" }
prefix = { value = "Key ", source = "known" }

[envelope]
success = { value = "state.fine", source = "known" }
result = { value = "payload", source = "known" }
message = { value = "state.reason", source = "known" }

[calls.set_job_status]
method = "POST"
path = "/executions/{job_id}/transitions"
body = { to = "{status}" }
source = "known"

[calls.create_message]
method = "PUT"
path = "/executions/{job_id}/notes/{idempotency_key}"
body = { note = { level = "{type}", words = "{text}", about = "{file_id}" } }
source = "known"

[calls.get_file]
method = "GET"
path = "/objects"
query = { uid = "{file_id}" }
answer = "object"
source = "known"

[calls.get_file_by_path]
method = "POST"
path = "/objects/find"
body = { vault = "{container_id}", name = "/{path}" }
answer = "object"
source = "known"

[calls.list_files]
method = "POST"
path = "/vaults/{container_id}"
body = { page = "{page}", at_most = "{limit}" }
answer = "objects"
source = "known"

[calls.get_container]
method = "GET"
path = "/vaults/{container_id}/card"
source = "known"

[calls.get_metadata]
method = "GET"
path = "/objects/{file_id}/facts"
source = "known"

[calls.set_hash]
method = "PATCH"
path = "/objects/{file_id}"
headers = { X-Once = "{idempotency_key}" }
body = { kind = "{algorithm}", value = "{hexdigest}" }
encoding = "form"
source = "known"

[calls.probe]
method = "GET"
path = "/whoami"
source = "known"

[status]
RUNNING = { value = "at work", source = "known" }
COMPLETED = { value = "good", source = "known" }
FAILED = { value = "broken", source = "known" }

[message_types]
INFO = { value = "note", source = "known" }
ERROR = { value = "alarm", source = "known" }

[item_types]
FILE = { value = "blob", source = "known" }
FOLDER = { value = "prefix", source = "known" }

[file]
id = { value = "uid", source = "known" }
container_id = { value = "vault.uid", source = "known" }
path = { value = "name", source = "known" }
size = { value = "stat.bytes", source = "known" }
type = { value = "sort", source = "known" }
deleted = { value = "binned", source = "known" }
storage_class_id = { value = "", source = "known" }

[container]
id = { value = "uid", source = "known" }
storage_id = { value = "shelf.uid", source = "known" }

[objects]
bucket = { value = "{bucket}", source = "known" }
key = { value = "shelves/{storage_id}/{file_id}.blob", source = "known" }
"""


class OtherLabdrive:
    """One vault, served by a thread; `url` is where. `strange` holds every call it could make nothing of."""

    def __init__(self, key: str, objects: dict[str, bytes]) -> None:
        self.uids = {name: str(7000 + number) for number, name in enumerate(objects)}
        self.transitions: dict[str, list[str]] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, dict[str, str]] = {}
        self.strange: list[str] = []
        self._key = key
        self._objects = [self._object(name, len(body)) for name, body in objects.items()]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="other-labdrive", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def object_key(self, name: str) -> str:
        """Return where an object's bytes are."""
        return f"shelves/{SHELF}/{self.uids[name]}.blob"

    async def _start(self) -> str:
        app = web.Application(middlewares=[self._gate])
        app.router.add_post(f"{ROOT}/executions/{{job}}/transitions", self._move)
        app.router.add_put(f"{ROOT}/executions/{{job}}/notes/{{name}}", self._note)
        app.router.add_get(f"{ROOT}/objects", self._show)
        app.router.add_post(f"{ROOT}/objects/find", self._find)
        app.router.add_patch(f"{ROOT}/objects/{{uid}}", self._keep_digest)
        app.router.add_post(f"{ROOT}/vaults/{VAULT}", self._list)
        app.router.add_get(f"{ROOT}/vaults/{VAULT}/card", self._card)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.headers.get("X-Session") != f"Key {self._key}" or "Authorization" in request.headers:
            self.strange.append(f"{request.method} {request.path}: who is it?")
            return _bad(401, "who is it?")
        try:
            return await handler(request)
        except (web.HTTPException, KeyError) as error:
            self.strange.append(f"{request.method} {request.path}: {error!r}")
            return _bad(404, "nothing of that kind here")

    async def _move(self, request: web.Request) -> web.Response:
        to = (await request.json())["to"]
        self.transitions.setdefault(request.match_info["job"], []).append(to)
        return _fine(None)

    async def _note(self, request: web.Request) -> web.Response:
        note = (await request.json())["note"]
        self.notes[request.match_info["name"]] = {"job": request.match_info["job"], "about": None, **note}
        return _fine(None)

    async def _show(self, request: web.Request) -> web.Response:
        return self._one("uid", request.query["uid"])

    async def _find(self, request: web.Request) -> web.Response:
        asked = await request.json()
        return self._one("name", asked["name"] if asked["vault"] == VAULT else "")

    def _one(self, field: str, value: str) -> web.Response:
        found = [item for item in self._objects if item[field] == value]
        return _fine({"object": found[0]}) if found else _bad(200, "no such object")

    async def _list(self, request: web.Request) -> web.Response:
        asked = await request.json()
        size = min(PAGE_MAX, asked["at_most"])
        first = (asked["page"] - 1) * size
        return _fine({"objects": [{"uid": "1", "name": "/", "sort": "prefix"}, *self._objects][first : first + size]})

    async def _card(self, _: web.Request) -> web.Response:
        return _fine({"uid": VAULT, "shelf": {"uid": SHELF}})

    async def _keep_digest(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert request.headers["X-Once"]
        self.digests.setdefault(request.match_info["uid"], {})[str(form["kind"])] = str(form["value"])
        return _fine(None)

    def _object(self, name: str, size_bytes: int) -> dict[str, Any]:
        return {
            "uid": self.uids[name],
            "vault": {"uid": int(VAULT)},
            "name": f"/{name}",
            "stat": {"bytes": str(size_bytes)},
            "sort": "blob",
            "binned": 0,
        }


def _fine(payload: object) -> web.Response:
    return web.json_response({"state": {"fine": "1"}, "payload": payload})


def _bad(status: int, reason: str) -> web.Response:
    return web.json_response({"state": {"fine": "0", "reason": reason}}, status=status)
