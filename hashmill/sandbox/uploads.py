"""
Files that arrive through the API in chunks.

Seen in third-party code: a multipart form with part `file` and fields `fileName`, `chunkIndex` (0 for the only
chunk) and `path`. How LABDRIVE learns of the last chunk is not public, so this is our own: `chunkCount`, sent with
every chunk of a file that has more than one. Chunks may come in any order, side by side, and again.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Final

from aiohttp import BodyPartReader, web

from hashmill.sandbox.envelope import Refused, text_of, whole_of

CHUNKS_MAX: Final = 10_000  # as many as a multipart upload may have parts (known: AWS's limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One chunk as it came: where the file belongs, which piece it is, and the piece itself on disk."""

    fullpath: str
    index: int
    count: int
    body: Path


@dataclass(slots=True, kw_only=True)
class _Pending:
    count: int
    chunks: dict[int, Path] = field(default_factory=dict)


class Uploads:
    """Chunks that wait for the rest of their file, in a folder of their own that goes with this object."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="sandbox-uploads-")
        self._pending: dict[tuple[str, str], _Pending] = {}

    def close(self) -> None:
        self._folder.cleanup()

    async def receive(self, request: web.Request) -> Chunk:
        """Read one request of the upload to its end and return its chunk, or refuse it and leave nothing behind."""
        if not request.content_type.startswith("multipart/"):
            raise Refused(400, "a multipart form is needed")
        fields: dict[str, str] = {}
        body: Path | None = None
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or part.name is None:
                    raise Refused(422, "each part of the form needs a name")
                if part.name == "file":
                    discard(body)
                    body = await self._store(part)
                else:
                    fields[part.name] = bytes(await part.read()).decode("utf-8", "replace")
            return _chunk_of(fields, body)
        except ValueError as error:
            discard(body)
            raise Refused(400, f"the form cannot be read: {error}") from error
        except BaseException:
            discard(body)
            raise

    def collect(self, container_id: str, chunk: Chunk) -> list[Path] | None:
        """Return all chunks of the file in their order when this was the last one missing, else None."""
        key = (container_id, chunk.fullpath)
        pending = self._pending.get(key)
        if pending is None or pending.count != chunk.count:
            # Another count is another try at the same file; what the older one left is worth nothing.
            for stale in pending.chunks.values() if pending else ():
                discard(stale)
            pending = self._pending[key] = _Pending(count=chunk.count)
        discard(pending.chunks.get(chunk.index))
        pending.chunks[chunk.index] = chunk.body
        if len(pending.chunks) < pending.count:
            return None
        del self._pending[key]
        return [pending.chunks[index] for index in range(pending.count)]

    async def _store(self, part: BodyPartReader) -> Path:
        with NamedTemporaryFile(dir=self._folder.name, delete=False) as target:
            try:
                while block := await part.read_chunk(1024 * 1024):
                    await asyncio.to_thread(target.write, block)
            except BaseException:
                discard(Path(target.name))
                raise
        return Path(target.name)


def discard(chunk: Path | None) -> None:
    """Remove a chunk that nobody waits for."""
    if chunk is not None:
        with suppress(FileNotFoundError):
            chunk.unlink()


def _chunk_of(fields: dict[str, str], body: Path | None) -> Chunk:
    name = text_of(fields, "fileName")
    index = whole_of(fields, "chunkIndex")
    if body is None:
        raise Refused(422, "the part named file is missing")
    if index > 0 and "chunkCount" not in fields:
        raise Refused(422, "chunkCount is missing: a file of more than one chunk needs it with every chunk")
    count = whole_of(fields, "chunkCount", 1)
    if not 1 <= count <= CHUNKS_MAX or index >= count:
        raise Refused(422, f"chunkIndex {index} does not fit chunkCount {count}; at most {CHUNKS_MAX} chunks")
    return Chunk(fullpath=path_below(fields.get("path", ""), name), index=index, count=count, body=body)


def path_below(folder: str, name: str) -> str:
    """Return the full path of `name` in `folder`, both kept letter by letter; one leading slash stands before all."""
    inside = folder.removeprefix("/")
    between = "" if not inside or inside.endswith("/") else "/"
    return f"/{inside}{between}{name}"
