"""The double itself: what it remembers, and what it can do with it. Routes, pages and tests all come here."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from hashmill.sandbox.calls import Calls
from hashmill.sandbox.catalog import Catalog
from hashmill.sandbox.config import FunctionConfig, SandboxConfig, UserConfig
from hashmill.sandbox.database import Database
from hashmill.sandbox.envelope import Refused
from hashmill.sandbox.faults import Faults
from hashmill.sandbox.jobs import Jobs
from hashmill.sandbox.objects import Objects, object_key
from hashmill.sandbox.records import ContainerRecord, FileRecord
from hashmill.sandbox.triggers import Triggers
from hashmill.sandbox.uploads import Chunk, Uploads, discard


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One running LABDRIVE double. `stopping` is set when it is about to end, so that nobody hangs longer."""

    config: SandboxConfig
    database: Database
    catalog: Catalog
    jobs: Jobs
    calls: Calls
    faults: Faults
    uploads: Uploads
    triggers: Triggers
    objects: Mapping[str, Objects]
    users: Mapping[str, UserConfig]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def user_of(self, authorization: str) -> UserConfig | None:
        """Return whose key an `Authorization` header holds (known: `Bearer` and the key)."""
        scheme, _, key = authorization.partition(" ")
        return self.users.get(key.strip()) if scheme.lower() == "bearer" else None

    def container(self, user: UserConfig, container_id: str) -> ContainerRecord:
        """Return a container; 404 when there is none, 403 when the user's key does not open it."""
        container = self.catalog.container(container_id)
        if container is None:
            raise Refused(404, f"there is no container {container_id}")
        if not {"*", container_id} & set(user.containers) and container.creator != user.id:
            raise Refused(403, f"this key does not open container {container_id}")
        return container

    def file(self, user: UserConfig, file_id: str) -> FileRecord:
        """Return a file; 404 when there is none, 403 when the user's key does not open its container."""
        file = self.catalog.file(file_id)
        if file is None:
            raise Refused(404, f"there is no file {file_id}")
        if "*" not in user.containers:
            self.container(user, file.container_id)
        return file

    def job_id(self, user: UserConfig, job_id: str) -> str:
        """Return the id of a job that is there and that the user's key opens."""
        container_id = self.jobs.container_of(job_id)
        if container_id is None:
            raise Refused(404, f"there is no job {job_id}")
        if "*" not in user.containers:
            self.container(user, container_id)
        return job_id

    def function(self, key: str) -> FunctionConfig:
        found = next((function for function in self.config.functions if function.key == key), None)
        if found is None:
            raise Refused(404, f"there is no function {key}")
        return found

    async def scan(self, container_id: str) -> int:
        """Register every object of the container's prefix as a file, and return how many there are.

        That is what LABDRIVE does when users upload by the S3 protocol. An empty object whose key ends in a slash
        becomes a folder and is not counted.
        """
        container = self.catalog.container(container_id)
        if container is None:
            raise Refused(404, f"there is no container {container_id}")
        count = 0
        async for page in self.objects[container.storage_id].listing(container_id):
            for marker in page:
                if marker.is_folder:
                    self.catalog.add_folder(container_id, marker.fullpath[:-1])
            files = [found for found in page if not found.is_folder]
            self.catalog.put_objects(container_id, files)
            count += len(files)
        self.database.commit()
        return count

    async def store(self, user: UserConfig, container: ContainerRecord, chunk: Chunk) -> FileRecord | None:
        """Keep one chunk; once its file is whole, store it, run the container's function, and return the file."""
        chunks = self.uploads.collect(container.id, chunk)
        if chunks is None:
            return None
        try:
            size_bytes = sum(part.stat().st_size for part in chunks)
            await self.objects[container.storage_id].put(object_key(container.id, chunk.fullpath), chunks)
        finally:
            for part in chunks:
                discard(part)
        file = self.catalog.file(self.catalog.put_file(container.id, chunk.fullpath, size_bytes))
        if file is not None and container.on_upload:
            await self.triggers.run_on_upload(self.function(container.on_upload), user=user, file=file)
        return file
