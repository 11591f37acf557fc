"""Every knob, its default, its unit and the sentence an operator reads; `hashmill.settings` says where they come from."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode


def _words(value: Any) -> Any:
    """Return a list written as text, in JSON or between commas, as a list."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [word for part in value.split(",") if (word := part.strip())]
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('write a JSON list such as ["one", "two"], or one,two') from None


Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]
"""A list of texts. The environment holds it as JSON or between commas."""


class Section(BaseModel):
    """A frozen group of knobs; an unknown name is an error, not a shrug."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Broker(Section):
    """The bell: Redis or Valkey, or any transport Celery knows."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Where the tickets travel. Nothing in it is needed to recover.",
    )
    cell: str = Field(
        "hashmill", description="Prefix of every key in the broker, so that two installations can share one server."
    )
    publish_timeout_s: float = Field(
        3.0, gt=0, description="How long one publish may take before it is given up; the ledger re-issues."
    )


class Ledger(Section):
    """The truth: PostgreSQL, or SQLite in one file."""

    url: SecretStr = Field(
        SecretStr("sqlite:///hashmill.sqlite3"),
        description="postgresql+psycopg://user:password@host/name, or sqlite:///path for one machine.",
    )
    threads: int = Field(
        4,
        ge=1,
        le=64,
        description="Threads (and connections) to PostgreSQL in one process; one more is kept for leases. SQLite always has two.",
    )
    timeout_s: float = Field(
        10.0, gt=0, description="How long a connect, a lock or a statement may wait before the ledger counts as down."
    )


class Intake(Section):
    """The HTTP door."""

    host: str = Field("127.0.0.1", description="Address to bind. Anything but loopback needs a bearer_token.")
    port: int = Field(8600, ge=0, le=65535, description="Port to bind; 0 takes a free one.")
    bearer_token: SecretStr = Field(
        SecretStr(""), description="Token every caller must send; empty means none, allowed on loopback only."
    )
    body_max_bytes: int = Field(8_388_608, ge=1024, description="Largest event accepted; above it the answer is 413.")
    page_max: int = Field(500, ge=1, le=5000, description="Most rows in one answer of a list.")


class S3Override(Section):
    """What differs from `s3` for one tenant or one storage; absent means the same."""

    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: Literal["path", "virtual", "auto"] | None = None
    provider_checksums: bool | None = None
    bucket: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None


class S3(Section):
    """Where the objects are. Endpoints come from here only, so this is their allow-list."""

    endpoint_url: str = Field("", description="Address of the S3 server; empty means AWS in the region below.")
    region: str = Field("us-east-1", description="Region used in the signature.")
    addressing_style: Literal["path", "virtual", "auto"] = Field(
        "path", description="How the bucket stands in the address."
    )
    provider_checksums: bool = Field(True, description="Compare what is read with the checksum the server stores.")
    bucket: str = Field("labdrive", description="Bucket, offered to labdrive.toml's template as {bucket}.")
    access_key_id: SecretStr = Field(
        SecretStr(""), description="Empty: the usual AWS chain (environment, profile, instance role)."
    )
    secret_access_key: SecretStr = Field(SecretStr(""), description="Belongs to access_key_id.")
    session_token: SecretStr = Field(SecretStr(""), description="For temporary credentials.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Time to reach the server.")
    idle_timeout_s: float = Field(
        20.0,
        gt=0,
        description="A stream that sends nothing for so long is cut and resumed; short, so that a path that comes back is used within 30 s.",
    )
    min_bytes_per_s: int = Field(
        1024, ge=0, description="A stream slower than this over throughput_window_s is cut; 0 switches it off."
    )
    throughput_window_s: float = Field(60.0, gt=0, description="Over what time min_bytes_per_s is measured.")
    resumes_max: int = Field(
        4, ge=0, description="How often one read of one object is resumed by Range before it counts as failed."
    )
    throttle_attempts: int = Field(
        6, ge=1, description="Requests tried in all when the server says SlowDown, with full jitter between."
    )
    backoff_base_s: float = Field(
        0.2, gt=0, description="First ceiling of the jittered pause between S3 tries; doubles."
    )
    backoff_cap_s: float = Field(20.0, gt=0, description="Largest ceiling of that pause.")
    connections: int = Field(96, ge=1, description="Most connections of one process to one endpoint.")
    ranges_max: int = Field(
        1,
        ge=1,
        le=32,
        description="Most ranges of large objects read at once, where one stream is slower than hashing.",
    )
    tenants: dict[str, S3Override] = Field(
        default_factory=dict, description="Differences per tenant: [s3.tenants.NAME]."
    )
    storages: dict[str, S3Override] = Field(
        default_factory=dict, description="Differences per LABDRIVE storage id: [s3.storages.ID]."
    )


class Hashing(Section):
    """The mill."""

    threads: int = Field(0, ge=0, description="Hash threads in one worker process; 0 means one per core.")
    block_bytes: int = Field(1_048_576, ge=4096, description="Bytes read and hashed at once.")
    inline_max_bytes: int = Field(
        32_768, ge=0, description="Blocks up to this size are hashed in the loop: a thread hop costs more."
    )
    buffer_bytes: int = Field(
        201_326_592, ge=4_194_304, description="Most bytes a worker process holds in read buffers, whatever the slots."
    )


class Labdrive(Section):
    """The platform's API."""

    wire: str = Field(
        "labdrive.toml", description="File of paths and names; relative to config/. Correct a path there, not in code."
    )
    allowed_origins: Words = Field(
        default_factory=list,
        description='Origins an event may name as api.url, e.g. ["https://labdrive.example.org"]; nothing else is ever called.',
    )
    key: Literal["user", "root"] = Field(
        "user", description="Which key of the event is used; root only where the user's key may not write job state."
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Time to reach the API.")
    timeout_s: float = Field(
        35.0,
        gt=0,
        le=600,
        description="Time for one whole call, 600 at most. So long a call hangs when the way to the API is lost: more keeps reports waiting after it is back.",
    )
    answer_max_bytes: int = Field(33_554_432, ge=1024, description="Largest answer read.")
    attempts: int = Field(
        4, ge=1, description="Tries of one reading call (list, get) before it counts as api.unavailable."
    )
    backoff_base_s: float = Field(
        0.25, gt=0, description="First ceiling of the jittered pause between tries; doubles each time."
    )
    backoff_cap_s: float = Field(30.0, gt=0, description="Largest ceiling of that pause.")
    lookups: int = Field(16, ge=1, description="File look-ups under way at once while a run is expanded.")
    page_size: int = Field(1000, ge=1, description="Files asked for in one page of a listing.")


class Report(Section):
    """What we owe LABDRIVE and how it is delivered."""

    messages: Literal["per_digest", "per_file", "summary"] = Field(
        "per_digest",
        description="Job messages: one per digest as the seed does, one per file, or only the closing one.",
    )
    concurrency: int = Field(
        8, ge=1, description="Calls under way at once for one run; a file's own reports stay in order."
    )
    runs_at_once: int = Field(8, ge=1, description="Runs served side by side.")
    give_up_after_s: float = Field(
        86_400.0, gt=0, description="A report LABDRIVE would not take for so long is set aside as dead."
    )
    backoff_base_s: float = Field(
        0.5, gt=0, description="First ceiling of the jittered pause between tries of one report."
    )
    backoff_cap_s: float = Field(300.0, gt=0, description="Largest ceiling of that pause.")
    probe_cap_s: float = Field(
        20.0, gt=0, description="Longest pause between two calls that ask whether an API that was away is back."
    )
    auth_give_up_after_s: float = Field(
        3600.0, ge=0, description="A key LABDRIVE refused for so long is given up, and what is owed with it set aside."
    )
    high_water: int = Field(
        200_000,
        ge=1,
        description="With more reports owed to one API its runs get no new tickets, until four fifths of it are owed.",
    )


class Tickets(Section):
    """How work is cut and handed out."""

    window: int = Field(
        0,
        ge=0,
        description="Tickets outstanding at once, in all workers together; 0 means by the living workers: twice their slots, and three small files for each they read at once.",
    )
    batch_max: int = Field(
        64, ge=1, le=512, description="Files in one ticket of tiny files; 1 means strictly one Celery task per file."
    )
    batch_normal_max: int = Field(8, ge=1, le=64, description="Files in one ticket of normal files.")
    tiny_max_bytes: int = Field(1_048_576, ge=0, description="Largest tiny file.")
    normal_max_bytes: int = Field(
        67_108_864, ge=0, description="Largest normal file; anything above travels alone on the queue for big files."
    )
    big_window: int = Field(
        0,
        ge=0,
        description="Big files outstanding at once; 0 means one per eight slots of the living workers, two at least.",
    )
    reissue_after_s: float = Field(
        10.0, gt=0, description="A ticket nobody claimed for so long counts as lost and is written anew."
    )
    tick_s: float = Field(0.05, gt=0, description="Pause between two rounds of the dispatcher while there is work.")
    idle_tick_s: float = Field(0.5, gt=0, description="The same while there is none.")
    page_files: int = Field(1000, ge=1, description="Files written in one transaction while a run is expanded.")


class Slices(Section):
    """How a large file is cut, so that a kill costs one slice."""

    threshold_bytes: int = Field(4_294_967_296, ge=1, description="A file from this size on is read in slices.")
    max_bytes: int = Field(4_294_967_296, ge=1, description="A slice ends after so many bytes.")
    max_s: float = Field(60.0, gt=0, description="A slice ends after so long, if that comes first.")


class Functions(Section):
    """Researchers' functions, each run for one file in a process of its own."""

    at_once: int = Field(2, ge=1, description="Most of them side by side in one worker process.")
    time_s: float = Field(600.0, gt=0, description="One that takes longer is ended, and its file fails.")
    memory_bytes: int = Field(
        4_294_967_296, ge=67_108_864, description="Address space of its process; a library of numbers takes much."
    )
    output_max_bytes: int = Field(1_048_576, ge=1024, description="One that prints more is ended, and its file fails.")


class Leases(Section):
    """Who may write."""

    file_s: float = Field(
        30.0, gt=0, description="Lease on a file; renewed every third of it, on the database's clock."
    )
    leader_s: float = Field(
        3.0,
        gt=0,
        description="Lease on the duties of the leader: dispatch, delivery, sweep, numbering; a dead one is followed within two seconds more.",
    )
    lost_max: int = Field(
        3,
        ge=1,
        description="A file that lost its lease and then ended the process it was tried in, so often in all, is poison and set aside.",
    )
    lost_unproven_max: int = Field(
        10,
        ge=1,
        description="The same without proof: the file lost its lease so often with the whole worker, which others may have ended.",
    )


class Files(Section):
    """Tries of one file."""

    attempts_max: int = Field(5, ge=1, description="Tries of one file before a transient error becomes final.")
    retry_base_s: float = Field(
        1.0, gt=0, description="First ceiling of the jittered pause between tries of one file; doubles each time."
    )
    retry_cap_s: float = Field(300.0, gt=0, description="Largest ceiling of that pause.")
    outage_give_up_after_s: float = Field(
        86_400.0,
        gt=0,
        description="So long an S3 server may be away, or refuse our keys, before its files fail; until then no attempt of theirs is counted.",
    )
    expand_give_up_after_s: float = Field(
        3600.0, gt=0, description="A run whose files could not be listed for so long fails."
    )


class Worker(Section):
    """One worker process."""

    slots: int = Field(32, ge=1, le=1024, description="Tickets worked at once.")
    files_in_flight: int = Field(
        64, ge=1, le=4096, description="Files read at once, over all slots; fewer than s3.connections."
    )
    queues: Words = Field(
        default_factory=lambda: ["files", "big", "runs"], description="Queues this process takes from."
    )
    lead: bool = Field(
        True,
        description="Whether this process may lead (dispatch, deliver, sweep); false where `hashmill dispatcher` runs.",
    )
    drain_grace_s: float = Field(
        30.0, ge=0, description="On SIGTERM, time for work under way to end before it is given back."
    )
    watchdog_after_s: float = Field(
        120.0,
        ge=0,
        description="Exit when tickets wait, slots are free and nothing arrived for so long; 0 switches it off.",
    )


class Secrets(Section):
    """The event's keys at rest."""

    seal_key: SecretStr = Field(
        SecretStr(""),
        description="32 bytes in base64 (`hashmill secrets new-key`); the keys of events are sealed with it.",
    )
    keep_days: int = Field(30, ge=0, description="How long the keys of a failed run stay, so that it can be replayed.")


class Logging(Section):
    """What a process says."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level shown.")
    format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")


class Tenant(Section):
    """One customer of this installation."""

    api_origins: Words = Field(
        default_factory=list, description="Events that name one of these origins belong to this tenant."
    )
    weight: int = Field(1, ge=1, le=100, description="Share of the window against other tenants.")
