"""`hashmill runs show`: one run on one page, and what to do about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
import typer
from rich.table import Table

from hashmill.cli.advice import advice_for
from hashmill.cli.console import coloured, console, duration, facts, local_time, plain, size, table
from hashmill.cli.documents import file_document, large_file_document, run_document
from hashmill.domain.job import FileState, Mode, RunState
from hashmill.flow.held import Hold, held_back
from hashmill.ledger import entries, files, outbox, seal, slices
from hashmill.ledger.files import FileRow
from hashmill.ledger.outbox import FinalStatus
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer
from hashmill.ledger.slices import LargeFile

FAILED = (FileState.FAILED, FileState.DEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One error class in a run: how many files it failed, and one of them."""

    error_class: str
    files: int
    sample: FileRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """All that is known of one run, at one moment of the ledger."""

    run: Run
    now_ms: int
    failures: tuple[Failure, ...]
    reports_set_aside: Mapping[str, int]
    told: FinalStatus | None
    keys_kept: bool
    held_back: tuple[Hold, ...] = ()
    large_files: tuple[LargeFile, ...] = ()

    @property
    def to_do(self) -> list[str]:
        """What a person can do, the commands ready to be copied."""
        run = self.run
        if not run.state.ended:
            return [f"hashmill runs watch {run.run_id}"]
        if run.state is RunState.COMPLETED:
            return []
        if not self.keys_kept:
            return ["its keys were wiped, so it cannot be replayed: post the event again with another Idempotency-Key"]
        return [
            f'hashmill replay --run {run.run_id} --dry-run --reason "…"',
            f'hashmill replay --run {run.run_id} --reason "…"',
        ]

    def document(self) -> dict[str, Any]:
        """Return the page as JSON."""
        return {
            **run_document(self.run),
            "job_status": self.told.status if self.told else None,
            "job_status_delivered": self.told.delivered if self.told else False,
            "held_back": [{**asdict(hold), "to_do": hold.to_do} for hold in self.held_back],
            "large_files": [large_file_document(file) for file in self.large_files],
            "failures": [
                {
                    "error_class": failure.error_class,
                    "files": failure.files,
                    "sample": file_document(failure.sample) if failure.sample else None,
                    "advice": advice_for(failure.error_class),
                }
                for failure in self.failures
            ],
            "reports_set_aside": dict(self.reports_set_aside),
            "keys_kept": self.keys_kept,
            "to_do": self.to_do,
        }


def read_page(connection: sa.Connection, run: Run, *, sealer: Sealer | None, storage: str) -> RunPage:
    """Read everything the page shows; `sealer` and `storage` as `held_back` takes them."""

    def sample(error_class: str) -> FileRow | None:
        found = files.of_run(connection, run.run_id, states=FAILED, error_class=error_class, limit=1)
        return found[0] if found else None

    return RunPage(
        run=run,
        now_ms=entries.clock_ms(connection),
        failures=tuple(
            Failure(error_class=error_class, files=count, sample=sample(error_class))
            for error_class, count in files.failed_by_class(connection, run.run_id).items()
        ),
        reports_set_aside=outbox.dead_by_class(connection, run.run_id),
        told=outbox.final_status(connection, run.run_id),
        keys_kept=seal.kept(connection, run.run_id),
        held_back=tuple(held_back(connection, run, sealer=sealer, storage=storage)),
        large_files=tuple(slices.under_way(connection, run.run_id)) if run.files_open else (),
    )


def print_page(page: RunPage) -> None:
    """Print the page for a person."""
    out = console()
    out.print(_facts(page.run, page.now_ms))
    for hold in page.held_back:
        out.print()
        out.print(plain(f"Held back: {_told(hold, page.now_ms)}", max_chars=600))
        out.print(plain(f"what to do: {hold.to_do}"))
    if page.told is not None:
        taken = "LABDRIVE has it" if page.told.delivered else "LABDRIVE has not taken it yet"
        out.print(f"\nnewest job status: {page.told.status} ({taken})")
    if page.large_files:
        rows = table("large file", "state", "hashed", "of", "", "slices", "saved", right=("hashed", "of", "", "slices"))
        for file in page.large_files:
            rows.add_row(
                plain(file.path, max_chars=300),
                coloured(file.state),
                size(file.offset_bytes),
                size(file.size_bytes),
                f"{100 * file.offset_bytes // max(1, file.size_bytes)} %",
                str(file.slices),
                f"{duration((page.now_ms - file.saved_at_ms) / 1000)} ago",
            )
        out.print()
        out.print(rows)
    if page.failures:
        rows = table("error class", "files", "for example", "what to do", right=("files",))
        for failure in page.failures:
            rows.add_row(
                failure.error_class,
                str(failure.files),
                plain(_example(failure.sample), max_chars=300),
                plain(advice_for(failure.error_class)),
            )
        out.print()
        out.print(rows)
    for error_class, count in page.reports_set_aside.items():
        out.print(plain(f"{count} reports set aside: {error_class}. {advice_for(error_class)}"))
    if page.run.error_class and page.run.error_class not in {failure.error_class for failure in page.failures}:
        out.print(plain(advice_for(page.run.error_class)))
    for line in page.to_do:
        typer.echo(f"next: {line}")


def _told(hold: Hold, now_ms: int) -> str:
    said = hold.what
    if hold.for_s is not None:
        said += f" since {local_time(int(now_ms - 1000 * hold.for_s))} ({duration(hold.for_s)})"
    if hold.next_try_in_s is not None:
        said += f", next try {f'in {duration(hold.next_try_in_s)}' if hold.next_try_in_s else 'now'}"
    return f"{said}: {hold.reason}" if hold.reason else said


def _example(sample: FileRow | None) -> str:
    return f"{sample.path or sample.file_id}: {sample.error_detail or ''}" if sample else ""


def _mode(run: Run) -> str:
    if run.mode is Mode.FUNCTION:
        return f"function {run.function_name}, version {(run.function_sha256 or '')[:12]}"
    return "attest: nothing is read, the S3 server is asked" if run.mode is Mode.ATTEST else run.mode


def _facts(run: Run, now_ms: int) -> Table:
    done = run.files_total - run.files_open - run.files_failed
    return facts(
        {
            "run": run.run_id,
            "state": coloured(run.state),
            "job": run.job_id,
            "container": run.container_id,
            "tenant": run.tenant_id,
            "platform": run.api_url,
            "mode": _mode(run),
            "algorithms": ", ".join(run.algorithms),
            "priority": run.priority,
            "files": f"{done} done, {run.files_failed} failed, {run.files_open} open, {run.files_total} in all",
            "bytes": f"{size(run.bytes_done)} of {size(run.bytes_total)}",
            "reports": f"{run.outbox_owed} owed, {run.outbox_dead} set aside",
            "replays": run.generation,
            "accepted": f"{local_time(run.created_at_ms)} ({duration((now_ms - run.created_at_ms) / 1000)} ago)",
            "listed": local_time(run.expanded_at_ms),
            "settled": local_time(run.settled_at_ms),
            "ended": local_time(run.finished_at_ms),
            "error": f"{run.error_class}: {run.error_detail}" if run.error_class else "-",
            "idempotency key": run.idempotency_key,
        }
    )
