"""`hashmill replay`: failed files again, with who asked for it and why."""

import asyncio
import getpass
import os
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from hashmill.cli.console import AsJson, console, plain, print_json, size, table
from hashmill.domain.errors import ErrorClass
from hashmill.domain.text import one_line

if TYPE_CHECKING:
    from hashmill.flow.replay import ReplayReport, ReplayRequest
    from hashmill.settings import Settings


REASON_MAX_CHARS = 1000


class Mode(StrEnum):
    FAILED = "failed"
    ALL = "all"


def replay(
    reason: Annotated[str, typer.Option(help="Why; it is written into the ledger and told to the LABDRIVE job.")],
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Files of this run (the beginning of its id).")] = None,
    job: Annotated[str | None, typer.Option(help="Files of every run of this LABDRIVE job.")] = None,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Only files that failed with this class.")] = None,
    file: Annotated[
        list[str] | None, typer.Option(help="Only the file with this LABDRIVE id; may be repeated.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Failed files only, or all, the hashed ones too.")] = Mode.FAILED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be read again.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while the run is still active.")] = False,
    who: Annotated[str | None, typer.Option(help="Who asks for it; without this, the user of this shell.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    Read failed files again, as new attempts; earlier attempts stay readable in the ledger.

    Say where to look with one or more of --run, --job, --error-class and --file; together they narrow.
    The LABDRIVE job goes back to RUNNING and ends again.
    """
    from hashmill.cli.opened import find_run, opened_ledger
    from hashmill.flow.replay import ReplayRequest
    from hashmill.settings import read_settings

    settings = read_settings()
    with opened_ledger(settings) as ledger:
        run_id = ledger.read_now(find_run, run).run_id if run else None
    report = asyncio.run(
        _replay(
            settings,
            ReplayRequest(
                run_id=run_id,
                job_id=job,
                error_class=error_class,
                file_ids=tuple(file or ()),
                mode=mode.value,
                reason=one_line(reason, max_chars=REASON_MAX_CHARS),
                who=one_line(who or os_user()),
                dry_run=dry_run,
                force=force,
            ),
        )
    )
    if as_json:
        runs = [asdict(selection) for selection in report.runs]
        skipped = [{"run_id": run_id, "reason": reason} for run_id, reason in report.skipped]
        print_json(
            {
                "dry_run": dry_run,
                "files": report.files,
                "size_bytes": report.size_bytes,
                "runs": runs,
                "skipped": skipped,
            }
        )
        return
    _print(report)


async def _replay(settings: "Settings", request: "ReplayRequest") -> "ReplayReport":
    from hashmill.assemble import open_door
    from hashmill.flow.replay import replay as replay_

    async with open_door(settings) as tools:
        return await replay_(tools, request)


def _print(report: "ReplayReport") -> None:
    rows = table("run", "mode", "error class", "files", right=("files",))
    for selection in report.runs:
        for error_class, count in selection.by_class.items():
            rows.add_row(selection.run_id, selection.mode, plain(error_class), str(count))
        if selection.reports_dead:
            rows.add_row(selection.run_id, selection.mode, "reports set aside", str(selection.reports_dead))
    if rows.row_count:
        console().print(rows)
    verb = "would be read again" if report.dry_run else "will be read again"
    typer.echo(f"{report.files} files, {size(report.size_bytes)} as far as known, in {len(report.runs)} runs {verb}")
    for _, reason in report.skipped:
        typer.echo(f"{'would be refused' if report.dry_run else 'left out'}: {one_line(reason)}")
    if not report.dry_run:
        for selection in report.runs[:3]:
            typer.echo(f"next: hashmill runs watch {selection.run_id}")


def os_user() -> str:
    """Return the name of the user this process runs as, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
