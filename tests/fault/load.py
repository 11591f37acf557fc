"""The load: a bucket filled once for all rows, events posted and every answer written down."""

import os
import shutil
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from hashmill.parts import ceph
from hashmill.parts.s3 import S3Server, start_s3
from hashmill.parts.service import LocalService
from tests.fault.content import Content, Manifest
from tests.fault.records import MANIFEST, POSTS, Post, Records
from tests.fault.s3_double import S3Double

SEED: Final = 20_261_124
CONTAINERS: Final = 10
FILES_EACH: Final = 2_000
PUT_THREADS: Final = 16


def scale() -> float:
    """Return HASHMILL_FAULT_SCALE: by what the loads and the kills of every row are multiplied; 1.0 is the demand."""
    return float(os.environ.get("HASHMILL_FAULT_SCALE", "1.0"))


def scaled(count: int, *, least: int = 1) -> int:
    return max(least, round(count * scale()))


def say(text: str) -> None:
    """Print progress, with the time; seen with `-s`."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A filled bucket: containers "1" to "10" with `FILES_EACH` small files each, scaled. Nobody writes to these."""

    s3: S3Server | S3Double
    bucket: str
    content: Content
    manifest: Manifest

    @property
    def files_each(self) -> int:
        return self.content.files["1"]


@contextmanager
def filled_store(folder: Path) -> Iterator[Store]:
    """Start radosgw, or the double where there is none or S3_BACKEND=double, fill it, and stop it at the end."""
    content = Content(
        seed=SEED, files={str(number): scaled(FILES_EACH, least=10) for number in range(1, CONTAINERS + 1)}
    )
    say(f"computing the digests of {sum(content.files.values())} files")
    manifest = Manifest(items={container: content.items(container) for container in content.files})
    if os.environ.get("S3_BACKEND") != "double" and all(map(shutil.which, ceph.PROGRAMS)):
        with start_s3(folder / "s3", "radosgw") as server:
            bucket = server.make_bucket()
            _upload(server, bucket, content)
            yield Store(s3=server, bucket=bucket, content=content, manifest=manifest)
        return
    say("no radosgw on PATH (or S3_BACKEND=double): the S3 double of the tests serves this load")
    with S3Double(folder / "s3", content) as double:
        yield Store(s3=double, bucket=double.make_bucket(), content=content, manifest=manifest)


def _upload(server: S3Server, bucket: str, content: Content) -> None:
    began_s = time.monotonic()
    client = server.client()

    def put(container: str) -> None:
        for path in content.paths(container):
            client.put_object(Bucket=bucket, Key=f"{container}/{path}", Body=content.body(container, path))
        say(f"container {container} filled after {time.monotonic() - began_s:.0f} s")

    with ThreadPoolExecutor(PUT_THREADS) as pool:
        list(pool.map(put, content.files))
    client.close()


class Load:
    """Posts events to a service, and writes down what the checker must know, in `folder`."""

    def __init__(self, service: LocalService, folder: Path, manifest: Manifest) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.manifest = manifest
        self._service = service
        self._posts = Records(folder / POSTS)
        self.statuses: list[int | None] = []
        """Every answer's status, None where none came."""
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest again, after `manifest` was changed."""
        self.manifest.write(self.folder / MANIFEST)

    def new_job(self, container: str) -> str:
        answer = self._service.ask_sandbox("POST", "/api/job", {"container_id": container, "name": "fault"})
        return str(answer["id"])

    def post(
        self,
        container: str,
        *,
        job_id: str | None = None,
        paths: Sequence[str] | None = None,
        failing: Mapping[str, Sequence[str]] | None = None,
        url: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Post:
        """Post one event once and return its answer; `paths` None is the whole container."""
        job_id = job_id or self.new_job(container)
        event = self._service.event(job_id, container_id=container, paths=list(paths or []), params=dict(params or {}))
        if url is not None:
            event["api"]["url"] = url
        status, run_id = self._answer(event)
        record = Post(
            job_id=job_id,
            container=container,
            status=status,
            run_id=run_id,
            paths=paths,
            failing=failing or {},
            at_s=time.time(),
        )
        self._posts.add(record)
        self.statuses.append(status)
        return record

    def post_until_accepted(self, container: str, *, within_s: float = 120.0, **more: Any) -> Post:
        """Post the same event, as a trigger would, until it is accepted; every answer is on record."""
        job_id = more.pop("job_id", None) or self.new_job(container)
        ends_s = time.monotonic() + within_s
        while not (post := self.post(container, job_id=job_id, **more)).accepted:
            if time.monotonic() > ends_s:
                raise AssertionError(f"not accepted within {within_s:g} s, the last answer was {post.status}")
            time.sleep(0.2)  # as a trigger that was told to come again
        return post

    def _answer(self, event: Mapping[str, Any]) -> tuple[int | None, str | None]:
        try:
            return 202, str(self._service.post(event)["run_id"])
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, None
        except (urllib.error.URLError, HTTPException, OSError):
            return None, None
