"""One sandbox, started and stopped: inside a test, or as a process of its own."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import aiohttp
from aiohttp import web

from hashmill.sandbox.api import Api
from hashmill.sandbox.calls import Calls
from hashmill.sandbox.catalog import Catalog
from hashmill.sandbox.config import IntakeConfig, SandboxConfig
from hashmill.sandbox.control import Control
from hashmill.sandbox.database import Database
from hashmill.sandbox.faults import FaultRule, Faults
from hashmill.sandbox.gate import make_gate
from hashmill.sandbox.jobs import Jobs
from hashmill.sandbox.notebooks import NotebookPages
from hashmill.sandbox.objects import Objects
from hashmill.sandbox.pages import Pages
from hashmill.sandbox.platform import Platform
from hashmill.sandbox.records import CallRecord, ContainerRecord, FileRecord, JobRecord, MessageRecord
from hashmill.sandbox.triggers import Triggers
from hashmill.sandbox.uploads import Uploads

COMMIT_EVERY_S: Final = 0.05
BODY_MAX_BYTES: Final = 64 * 1024 * 1024  # known: one query may carry 20,000 to 30,000 metadata operations
GRACE_S: Final = 2.0


class RunningSandbox:
    """A sandbox that answers. The methods below are for tests and the demo; they belong to the loop it runs in."""

    def __init__(self, platform: Platform, *, url: str, closing: AsyncExitStack) -> None:
        self.url = url
        self._platform = platform
        self._closing = closing

    async def stop(self) -> None:
        """Let go of calls that hang, stop answering, and write the rest to the disk. Calling it twice is no harm."""
        self._platform.stopping.set()
        await self._closing.aclose()

    def add_container(self, name: str, *, id: str | None = None, storage_id: str = "1", on_upload: str = "") -> str:
        """Return the new container's id."""
        return self._platform.catalog.add_container(name=name, id=id, storage_id=storage_id, on_upload=on_upload)

    def add_file(self, container_id: str, fullpath: str, *, size_bytes: int = 0) -> str:
        """Register a file without touching the bucket, and return its id; `fullpath` has one slash before all."""
        return self._platform.catalog.put_file(container_id, fullpath, size_bytes)

    def add_job(self, container_id: str, name: str = "") -> str:
        """Return the id of a new job whose status is PENDING."""
        return self._platform.jobs.add(container_id, name)

    async def scan(self, container_id: str) -> int:
        """Register every object of the container's prefix as a file, and return how many there are."""
        return await self._platform.scan(container_id)

    def containers(self) -> list[ContainerRecord]:
        return self._platform.catalog.containers()

    def files(self, container_id: str) -> list[FileRecord]:
        """Return the container's files and folders in the order of their ids."""
        return self._platform.catalog.files(container_id)

    def hashes_of(self, file_id: str) -> dict[str, str]:
        """Return algorithm -> stored hash."""
        return self._platform.catalog.hashes(file_id)

    def job(self, job_id: str) -> JobRecord:
        """Return a job with every status it took; `KeyError` when there is none."""
        job = self._platform.jobs.job(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def jobs(self, container_id: str | None = None) -> list[JobRecord]:
        """Return the jobs of one container or of all, newest first."""
        return self._platform.jobs.jobs(container_id=container_id)

    def set_metadata(self, file_id: str, iecode: str, value: str) -> None:
        """Give a file one metadata value, in place of those it had for the code."""
        file = self._platform.catalog.file(file_id)
        if file is None:
            raise KeyError(file_id)
        self._platform.catalog.set_metadata(
            file.container_id, file.id, iecode=iecode, value=value, replace=True, creator=""
        )

    def messages(self, job_id: str) -> list[MessageRecord]:
        """Return a job's messages, oldest first."""
        return self._platform.jobs.messages(job_id)

    def calls(
        self, *, method: str | None = None, path: str | None = None, status: int | None = None
    ) -> list[CallRecord]:
        """Return the calls of the API in the order they ended; in `path` (`/api/job/*`), `*` is any text."""
        return self._platform.calls.calls(method=method, path=path, status=status)

    def count_calls(self, *, method: str | None = None, path: str | None = None, status: int | None = None) -> int:
        """Return how many calls `calls` would return."""
        return self._platform.calls.count(method=method, path=path, status=status)

    def set_intake(self, intake: IntakeConfig) -> None:
        """Post events there from now on: an intake may have to know the sandbox's address before it starts."""
        self._platform.triggers.point_to(intake)

    def set_faults(self, *rules: FaultRule) -> None:
        """Put these rules in place of all others; none means no more faults."""
        self._platform.faults.set(rules)


async def start(config: SandboxConfig) -> RunningSandbox:
    """Return a sandbox that answers at its `url`; the caller stops it. `OSError` when the port is taken."""
    async with AsyncExitStack() as opening:
        database = Database(config.database)
        opening.callback(database.close)
        catalog, jobs = Catalog(database), Jobs(database)
        for container in config.containers:
            catalog.add_container(
                name=container.name,
                id=container.id,
                description=container.description,
                storage_id=container.storage_id,
                on_upload=container.on_upload,
            )
        uploads = Uploads()
        opening.callback(uploads.close)
        objects = {storage.id: await opening.enter_async_context(Objects(storage)) for storage in config.storages}
        http = await opening.enter_async_context(aiohttp.ClientSession())
        listener = socket.create_server((config.host, config.port), family=_family_of(config.host), backlog=1024)
        opening.callback(listener.close)
        url = _url_of(listener)
        triggers = Triggers(
            jobs=jobs,
            intake=config.intake,
            http=http,
            api_url=config.public_url or url,
            key_root=next((user.key for user in config.users if user.root), ""),
        )
        platform = Platform(
            config=config,
            database=database,
            catalog=catalog,
            jobs=jobs,
            calls=Calls(database),
            faults=Faults(),
            uploads=uploads,
            triggers=triggers,
            objects=objects,
            users={user.key: user for user in config.users if user.key},
        )
        await _serve(platform, listener, opening)
        commits = asyncio.create_task(_commit_often(platform))
        opening.push_async_callback(_end, commits)
        return RunningSandbox(platform, url=url, closing=opening.pop_all())


def run_sandbox(config: SandboxConfig, *, on_ready: Callable[[RunningSandbox], None] | None = None) -> None:
    """Run a sandbox until SIGTERM or SIGINT, then stop it cleanly; `on_ready` is called once it answers."""
    asyncio.run(_run(config, on_ready))


async def _run(config: SandboxConfig, on_ready: Callable[[RunningSandbox], None] | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    sandbox = await start(config)
    try:
        if on_ready is not None:
            on_ready(sandbox)
        await ended.wait()
    finally:
        await sandbox.stop()


async def _serve(platform: Platform, listener: socket.socket, opening: AsyncExitStack) -> None:
    app = web.Application(middlewares=[make_gate(platform)], client_max_size=BODY_MAX_BYTES)
    app.add_routes(Api(platform).routes())
    app.add_routes(Control(platform).routes())
    app.add_routes(Pages(platform).routes())
    app.add_routes(NotebookPages(platform).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_S)
    await runner.setup()
    opening.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener, backlog=1024).start()


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _commit_often(platform: Platform) -> None:
    while not platform.stopping.is_set():
        platform.database.commit()
        await asyncio.sleep(COMMIT_EVERY_S)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
