"""
The sandbox's own routes, below `/sandbox`: no LABDRIVE has them.

POST   /sandbox/containers/{container_id}/scan                          count what lies in the bucket and register it
GET    /sandbox/calls?method=&path=&status=&limit=&offset=              what was called; in path, * is any text
GET    /sandbox/jobs/{job_id}                                           one job with its history and message count
GET    /sandbox/faults          POST /sandbox/faults [rule, ...]        read the rules, or put others in their place
DELETE /sandbox/faults                                                  no more faults
"""

from dataclasses import asdict

from aiohttp import web

from hashmill.sandbox.envelope import Refused, read_json, success, whole_of, window_of
from hashmill.sandbox.faults import read_rules
from hashmill.sandbox.gate import USER
from hashmill.sandbox.platform import Platform


class Control:
    """Handlers for tests and the demo. They need a key as the API does, and are never met by faults."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/sandbox/containers/{container_id}/scan", self.scan),
            web.get("/sandbox/calls", self.calls),
            web.get("/sandbox/jobs/{job_id}", self.job),
            web.get("/sandbox/faults", self.show_faults),
            web.post("/sandbox/faults", self.set_faults),
            web.delete("/sandbox/faults", self.clear_faults),
        ]

    async def scan(self, request: web.Request) -> web.Response:
        container = self._platform.container(request[USER], request.match_info["container_id"])
        return success({"count": await self._platform.scan(container.id)})

    async def calls(self, request: web.Request) -> web.Response:
        status = whole_of(request.query, "status") if "status" in request.query else None
        method, path = request.query.get("method"), request.query.get("path")
        count = self._platform.calls.count(method=method, path=path, status=status)
        calls = self._platform.calls.calls(method=method, path=path, status=status, **window_of(request))
        return success({"count": count, "calls": [asdict(call) for call in calls]})

    async def job(self, request: web.Request) -> web.Response:
        job = self._platform.jobs.job(self._platform.job_id(request[USER], request.match_info["job_id"]))
        if job is None:
            raise Refused(404, "there is no such job")
        return success(asdict(job))

    async def show_faults(self, request: web.Request) -> web.Response:
        return success(self._platform.faults.report())

    async def set_faults(self, request: web.Request) -> web.Response:
        self._platform.faults.set(read_rules(await read_json(request)))
        return success(self._platform.faults.report())

    async def clear_faults(self, request: web.Request) -> web.Response:
        self._platform.faults.clear()
        return success([])
