"""An S3 double in this process: the kit's, with troubles by key and with objects too big to keep."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.fault.content import Content
from tests.fault.s3_double import make_app
from worker.loop import LoopThread

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class InProcessS3:
    """Serves `content` through `middleware`, on a thread of its own; the face of `S3Server` that a service needs."""

    backend = "double"
    region = "us-east-1"
    access_key_id = "double"
    secret_access_key = "double-secret"

    def __init__(self, content: Content, middleware: Middleware) -> None:
        self._app_of = lambda: make_app(content)
        self._meet = middleware

    def __enter__(self) -> Self:
        self._loop = LoopThread()
        self._loop.run(self._open(), timeout_s=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._runner.cleanup(), timeout_s=60)
        self._loop.stop()

    async def _open(self) -> None:
        app = self._app_of()

        @web.middleware
        async def meet(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._meet(request, handler)

        app.middlewares.append(meet)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        self.endpoint_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
