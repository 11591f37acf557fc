"""What a caller tells this room, and what an S3 server tells about one object."""

from dataclasses import dataclass, field
from typing import Literal

from hashmill.domain.checksums import StoredChecksum
from hashmill.domain.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """Where the objects of one tenant or one LABDRIVE storage are, and with whose keys they are read.

    `endpoint_url` None means AWS in `region`; `access_key_id` None means the usual AWS chain (environment, profile,
    instance role). `provider_checksums` is whether the server is asked for the checksums that it stores. `bucket` is
    only carried for whoever names the objects: two configurations that differ in nothing else share one client.
    """

    endpoint_url: str | None = None
    region: str = "us-east-1"
    addressing_style: Literal["path", "virtual", "auto"] = "path"
    bucket: str | None = field(default=None, compare=False)
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    provider_checksums: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePace:
    """How long to wait, how often to try, how much to hold; the knobs of the same names say what each means."""

    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 20.0
    min_bytes_per_s: int = 1024
    throughput_window_s: float = 60.0
    resumes_max: int = 4
    throttle_attempts: int = 6
    backoff_base_s: float = 0.2
    backoff_cap_s: float = 20.0
    connections: int = 96
    ranges_max: int = 1
    block_bytes: int = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHead:
    """What the server said of an object; a read is pinned to it.

    `etag` keeps its quotes and is no digest. `version_id` is None where the bucket keeps no versions. `checksums` are
    those that the server stores, none where it stores none or was not asked.
    """

    size_bytes: int
    etag: str
    version_id: str | None = None
    checksums: tuple[StoredChecksum, ...] = ()

    @property
    def resumable(self) -> bool:
        """Whether a later request can be sure to get the rest of the same bytes; a weak ETag promises too little.

        known: RFC 9110, 8.8.1 and 13.1.1 (If-Match compares strongly, so a weak ETag never matches).
        """
        return self.version_id is not None or not self.etag.startswith("W/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPlace:
    """One object's address; its `str` is safe to log, whatever the key holds."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{printable(self.bucket)}/{printable(self.key)}"


def printable(text: object, length_max: int = 1024) -> str:
    """Return `text` fit for a log line or a page: no control characters, no lone surrogates, not endless."""
    shown = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in str(text)[:length_max])
    return shown if len(str(text)) <= length_max else f"{shown}…"
