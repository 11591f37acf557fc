"""What the door answers, as pydantic models: for the JSON, and for the OpenAPI document."""

from collections.abc import Mapping
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from hashmill.domain.job import FileState, Mode, RunState
from hashmill.domain.verdict import Verdict
from hashmill.flow.held import HeldBy


class Answer(BaseModel):
    """Times are RFC 3339 in UTC, by the ledger's clock; addresses are relative to this server."""

    model_config = ConfigDict(frozen=True)


class EventAnswer(Answer):
    """The run an event became, or had become before."""

    run_id: str
    status_url: str = Field(description="Where the run can be followed.")


class Progress(Answer):
    """Files and bytes, from the run's own counters. Bytes of files whose size is not known yet count as 0."""

    files_total: int
    files_open: int = Field(description="Files that have not ended.")
    files_done: int
    files_failed: int = Field(description="Failed, dead and cancelled files.")
    bytes_total: int
    bytes_done: int


class OutboxAnswer(Answer):
    """Reports to LABDRIVE of this run."""

    owed: int
    dead: int = Field(description="Set aside: LABDRIVE refused them, or did not take them for too long.")


class FunctionAnswer(Answer):
    """One version of a researcher's function."""

    name: str
    sha256: str = Field(description="Of its source.")


class RunAnswer(Answer):
    """One run."""

    run_id: str
    state: RunState
    tenant_id: str
    job_id: str
    container_id: str
    mode: Mode = Field(description="attest reads no file: it asks what the S3 server states.")
    function: FunctionAnswer | None = Field(description="In mode function: which version of which function runs.")
    priority: int = Field(description="0 is the most urgent, 9 may wait longest.")
    generation: int = Field(description="How often it was replayed.")
    progress: Progress
    outbox: OutboxAnswer
    error_class: str | None
    error_detail: str | None
    created_at: str
    expanded_at: str | None = Field(description="When all its files were listed.")
    settled_at: str | None = Field(description="When its last file ended.")
    finished_at: str | None = Field(description="When its last report was delivered.")
    eta_s: float | None = Field(description="Seconds until its last file ends, at the average rate so far.")
    status_url: str


class Failure(Answer):
    """Files of a run that failed alike, with the first of them as a sample."""

    error_class: str
    files: int
    sample_file_no: int
    sample_file_id: str | None
    sample_path: str
    sample_error_detail: str | None


class HoldAnswer(Answer):
    """One thing that holds a run back, and what to do about it."""

    by: HeldBy
    what: str
    reason: str = Field(description="What was seen or said; empty when nothing was.")
    for_s: float | None = Field(description="Since so many seconds; null when that is not known.")
    next_try_in_s: float | None = Field(description="0 when it is due; null when it is not a try that opens.")
    to_do: str


class LargeFileAnswer(Answer):
    """A large file that is read in slices, and how far it was hashed when one was last saved."""

    file_no: int
    path: str
    state: FileState = Field(description="`ready` and `queued` between two slices, `running` in one.")
    offset_bytes: int = Field(description="So many of its bytes need not be read again, whatever befalls.")
    size_bytes: int
    slices: int
    saved_at: str


class RunDetailAnswer(RunAnswer):
    """One run, with what holds it back, what failed and why."""

    storage_id: str | None
    api_url: str
    user_id: str
    algorithms: list[str]
    files: dict[str, int] = Field(
        description="Files by state: ready, queued, running, done, failed. `failed` includes dead and cancelled ones."
    )
    held_back: list[HoldAnswer] = Field(
        description="The cause first; empty when nothing does. S3 servers that are away stand in the overview."
    )
    large_files: list[LargeFileAnswer] = Field(
        description="Large files under way of which a slice was saved, the newest first; at most 20."
    )
    failures: list[Failure]
    failures_complete: bool = Field(description="False when so many files failed that not all were counted by class.")
    files_url: str
    entries_url: str


class FileAnswer(Answer):
    """One file of a run."""

    file_no: int
    file_id: str | None
    path: str
    size_bytes: int | None
    state: FileState
    attempts: int
    generation: int
    verdict: Verdict | None
    digests: Mapping[str, str] = Field(description="Algorithm -> lower-case hex.")
    provider_checksums: list[dict[str, Any]] = Field(
        description="What its S3 server stores, each beside our digest of that kind: see docs/ledger.md."
    )
    etag: str | None
    version_id: str | None
    error_class: str | None
    error_detail: str | None
    finished_at: str | None


class EntryAnswer(Answer):
    """One ledger entry. The bytes under `leaf_hash` are `body` in RFC 8785 form."""

    entry_id: str
    kind: str
    leaf_index: int | None = Field(description="Its number in the log; null until it got one.")
    leaf_hash: str = Field(description="RFC 6962 leaf hash, in hex.")
    recorded_at: str
    body: dict[str, Any]


class Page(Answer):
    """One page of a list."""

    next: str | None = Field(description="Address of the next page; null on the last. Also in the Link header.")


class RunPage(Page):
    """Runs, newest first."""

    items: list[RunAnswer]


class FilePage(Page):
    """Files of a run, by number."""

    items: list[FileAnswer]


class EntryPage(Page):
    """Ledger entries of a run, oldest first."""

    items: list[EntryAnswer]


class ReplayedRun(Answer):
    """What a replay takes in one run. Unknown sizes count as 0."""

    run_id: str
    mode: Mode
    files: int
    size_bytes: int
    by_class: Mapping[str, int]
    reports_dead: int
    status_url: str


class SkippedRun(Answer):
    """A run that fits but cannot be replayed now, and why."""

    run_id: str
    reason: str


class ReplayAnswer(Answer):
    """What is read again, or would be when `dry_run`."""

    dry_run: bool
    files: int
    size_bytes: int
    runs: list[ReplayedRun]
    skipped: list[SkippedRun] = Field(
        description="Runs that fit but cannot be replayed now; a dry run counts them too."
    )


class ProcessAnswer(Answer):
    """A worker process, by the lease that says it lives."""

    name: str
    alive: bool
    lease_remaining_s: float = Field(description="Negative when it has run out.")
    slots: int
    detail: dict[str, Any] = Field(description="What the process says of itself: host, pid, queues, version.")


class LeaderAnswer(Answer):
    """The process that dispatches, delivers, sweeps and numbers."""

    process: str
    lease_remaining_s: float
    fence: int


class WorkersAnswer(Answer):
    """Who works and who leads."""

    leader: LeaderAnswer | None
    processes: list[ProcessAnswer]
    slots: int = Field(description="Slots of all living processes.")


class BrokerAnswer(Answer):
    """The broker; nothing accepted is lost while it is away."""

    state: Literal["ok", "unavailable", "unknown"]
    waiting: Mapping[str, int] = Field(description="Messages waiting, by queue.")


class OverviewAnswer(Answer):
    """Is work flowing, is anything stuck, why?"""

    worries: list[str] = Field(description="What keeps work from flowing, in sentences; empty when nothing does.")
    ledger: Literal["ok"]
    broker: BrokerAnswer
    leader: LeaderAnswer | None
    processes: int = Field(description="Living worker processes.")
    slots: int
    on_trial: int = Field(description="Processes that read a file apart because it lost its worker before.")
    storages_away: list[str] = Field(description="S3 servers that a living process finds away, by origin or region.")
    runs: Mapping[str, int] = Field(description="Runs by state.")
    files: Mapping[str, int] = Field(description="Files of all runs by state.")
    bytes_total: int
    bytes_done: int
    reports_owed: int
    reports_dead: int
    oldest_ready_s: float | None
    oldest_queued_s: float | None
    oldest_owed_s: float | None
    oldest_unlisted_s: float | None


class HealthAnswer(Answer):
    """The process lives."""

    status: Literal["ok"]
    version: str


class ReadyAnswer(Answer):
    """Events can be accepted. A broker that is away delays work, so it is told but not fatal."""

    status: Literal["ready", "not ready"]
    ledger: Literal["ok", "unavailable"]
    broker: Literal["ok", "unavailable", "unknown"]


def answer(body: Answer, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `body` as JSON that no cache keeps."""
    return web.Response(
        body=body.model_dump_json().encode(),
        status=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        content_type="application/json",
    )


def page(body: Page) -> web.Response:
    """Return one page of a list, its next page also in the Link header (RFC 8288)."""
    return answer(body, headers={"Link": f'<{body.next}>; rel="next"'} if body.next else None)
