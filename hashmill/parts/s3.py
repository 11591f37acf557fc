"""A real S3 server: Ceph's radosgw where it is on PATH, else OpenStack Swift with s3api from the environment."""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Final, Protocol

import botocore.session
from botocore.config import Config

from hashmill.parts import ceph, swift
from hashmill.parts.process import Child, Part, PartFailed

BACKENDS: Final = ("auto", "radosgw", "swift")


class Cluster(Protocol):
    """The daemons of one kind of server, and the way in."""

    children: list[Child]
    endpoint_url: str
    access_key_id: str
    secret_access_key: str

    def start(self) -> None: ...

    def stop(self) -> None: ...


class S3Server(Part):
    """A running S3 server, path-style addresses, one account.

    `backend` says which server it is, `pids` its processes (to stop, continue, or measure them).
    """

    def __init__(self, backend: str, cluster: Cluster) -> None:
        self.backend = backend
        self.endpoint_url = cluster.endpoint_url
        self.access_key_id = cluster.access_key_id
        self.secret_access_key = cluster.secret_access_key
        self.region = "us-east-1"
        self._cluster = cluster

    @property
    def pids(self) -> list[int]:
        """The process ids of the server's daemons."""
        return [child.pid for child in self._cluster.children]

    def client(self, *, secret_access_key: str | None = None) -> Any:
        """Return a blocking botocore client that does not retry, so that one sees what the server said."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=secret_access_key or self.secret_access_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=5,
                read_timeout=60,
            ),
        )

    def make_bucket(self, name: str | None = None) -> str:
        """Create a bucket, named `name` or by chance, and return its name."""
        bucket = name or f"b-{secrets.token_hex(6)}"
        client = self.client()
        try:
            client.create_bucket(Bucket=bucket)
        finally:
            client.close()
        return bucket

    def stop(self) -> None:
        """Stop every daemon, the last started first."""
        self._cluster.stop()


def start_s3(folder: Path, backend: str | None = None) -> S3Server:
    """Start an S3 server that keeps its data in `folder`, and return it once it has answered a signed request.

    `backend` is auto, radosgw or swift; None means what S3_BACKEND says, or auto.
    Raises `PartFailed` when there is none to start, or it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = choose(backend or os.environ.get("S3_BACKEND", "auto"))
    cluster: Cluster = ceph.Cluster(folder) if chosen == "radosgw" else swift.Cluster(folder)
    server = S3Server(chosen, cluster)
    try:
        cluster.start()
        server.make_bucket("first-light")
    except BaseException:
        server.stop()
        raise
    return server


def choose(backend: str) -> str:
    """Return radosgw or swift; raise `PartFailed` for a name that is neither."""
    if backend not in BACKENDS:
        raise PartFailed(f"S3_BACKEND is {backend!r}; it may be {', '.join(BACKENDS)}.")
    if backend == "auto":
        return "radosgw" if all(map(shutil.which, ceph.PROGRAMS)) else "swift"
    return backend
