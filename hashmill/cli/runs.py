"""`hashmill runs`: what the ledger says of runs, their files and their entries."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashmill.cli.console import (
    AsJson,
    coloured,
    console,
    duration,
    local_time,
    plain,
    print_json,
    size,
    table,
)
from hashmill.cli.exits import ExitCode
from hashmill.cli.opened import find_run, opened_ledger
from hashmill.domain.errors import ConfigFault, ErrorClass
from hashmill.domain.job import FileState, RunState

if TYPE_CHECKING:
    import sqlalchemy as sa

    from hashmill.cli.progress import Standing
    from hashmill.cli.run_page import RunPage
    from hashmill.ledger.runs import Run
    from hashmill.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Look at runs: list them, show one, watch it, its files, its entries.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its beginning when no other begins so.")]
Limit = Annotated[int, typer.Option(min=1, max=5000, help="Most rows shown.")]
OfClass = Annotated[ErrorClass | None, typer.Option("--error-class", help="Only what failed with this class.")]


@app.command("list", epilog="Example: hashmill runs list --state failed --limit 20")
def list_(
    state: Annotated[list[RunState] | None, typer.Option(help="Only runs in this state; may be repeated.")] = None,
    job: Annotated[str | None, typer.Option(help="Only runs of this LABDRIVE job.")] = None,
    container: Annotated[str | None, typer.Option(help="Only runs of this container.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only runs of this tenant.")] = None,
    error_class: OfClass = None,
    before: Annotated[str | None, typer.Option(metavar="RUN", help="Only runs older than this one.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    from hashmill.cli.documents import run_document
    from hashmill.ledger import entries, runs
    from hashmill.settings import read_settings

    def read(connection: "sa.Connection") -> "tuple[list[Run], int]":
        found = runs.listed(
            connection,
            states=state or (),
            tenant_id=tenant,
            job_id=job,
            container_id=container,
            error_class=error_class,
            before=find_run(connection, before).run_id if before else None,
            limit=limit,
        )
        return found, entries.clock_ms(connection)

    with opened_ledger(read_settings()) as ledger:
        found, now_ms = ledger.read_now(read)
    if as_json:
        print_json([run_document(run) for run in found])
        return
    if not found:
        typer.echo("no runs")
        return
    rows = table(
        "run", "state", "job", "container", "done", "failed", "files", "bytes", "age", right=("done", "failed", "files")
    )
    for run in found:
        rows.add_row(
            run.run_id,
            coloured(run.state),
            plain(run.job_id),
            plain(run.container_id),
            str(run.files_total - run.files_open - run.files_failed),
            str(run.files_failed),
            str(run.files_total),
            size(run.bytes_total),
            duration((now_ms - run.created_at_ms) / 1000),
        )
    console().print(rows)
    if len(found) == limit:
        typer.echo(f"older ones: hashmill runs list --before {found[-1].run_id}")


@app.command(epilog="Example: hashmill runs show 0198c2a1")
def show(run_id: RunId, as_json: AsJson = False) -> None:
    """Show all that is known of one run, what holds it back, what failed in it and why, and what to do."""
    from hashmill.cli.run_page import print_page
    from hashmill.settings import read_settings

    settings = read_settings()
    with opened_ledger(settings) as ledger:
        page = ledger.read_now(lambda connection: _page(connection, find_run(connection, run_id), settings))
    if as_json:
        print_json(page.document())
    else:
        print_page(page)


def _page(connection: "sa.Connection", run: "Run", settings: "Settings") -> "RunPage":
    from hashmill import assemble
    from hashmill.cli.run_page import read_page
    from hashmill.domain.secret import Secret
    from hashmill.ledger.presence import storage_address
    from hashmill.ledger.seal import Sealer

    try:
        sealer = Sealer(Secret(settings.secrets.seal_key.get_secret_value()))
    except ConfigFault:
        sealer = None  # whoever only looks need not have it
    place = assemble.storage_config(settings.s3, tenant_id=run.tenant_id, storage_id=run.storage_id)
    return read_page(connection, run, sealer=sealer, storage=storage_address(place.endpoint_url or place.region))


@app.command(epilog="Example: hashmill runs watch 0198c2a1")
def watch(run_id: RunId, as_json: AsJson = False) -> None:
    """Follow a run until it ends; exit 0 when it completed, 1 when it did not. With --json, one line per change."""
    from hashmill.cli.progress import conclusion, follow, shown
    from hashmill.settings import read_settings

    with opened_ledger(read_settings()) as ledger:
        run = ledger.read_now(find_run, run_id)

        async def look() -> "Standing":
            return await ledger.read(_standing, run.run_id)

        with shown(as_json=as_json) as show_:
            last = asyncio.run(follow(look, show_))
    if not as_json:
        typer.echo(conclusion(last))
    if last.state is not RunState.COMPLETED:
        raise typer.Exit(ExitCode.BAD)


def _standing(connection: "sa.Connection", run_id: str) -> "Standing":
    from hashmill.cli.progress import Standing
    from hashmill.ledger import runs

    run = runs.get(connection, run_id)
    if run is None:
        raise typer.BadParameter(f"there is no run {run_id} any more")
    return Standing(
        run_id=run.run_id,
        state=run.state,
        files_total=run.files_total,
        files_done=run.files_total - run.files_open - run.files_failed,
        files_failed=run.files_failed,
        bytes_total=run.bytes_total,
        bytes_done=run.bytes_done,
        reports_owed=run.outbox_owed,
        error_class=run.error_class,
        error_detail=run.error_detail,
    )


@app.command("files", epilog="Example: hashmill runs files 0198c2a1 --state failed")
def files_(
    run_id: RunId,
    state: Annotated[list[FileState] | None, typer.Option(help="Only files in this state; may be repeated.")] = None,
    error_class: OfClass = None,
    after: Annotated[int, typer.Option(min=0, help="Only files behind this number.")] = 0,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List the files of a run, with their digests or what went wrong."""
    from hashmill.cli.documents import file_document
    from hashmill.ledger import files
    from hashmill.settings import read_settings

    def read(connection: "sa.Connection") -> "tuple[str, list[files.FileRow]]":
        run = find_run(connection, run_id)
        rows = files.of_run(
            connection, run.run_id, states=state or (), error_class=error_class, after_no=after, limit=limit
        )
        return run.run_id, rows

    with opened_ledger(read_settings()) as ledger:
        found_id, found = ledger.read_now(read)
    if as_json:
        print_json([file_document(file) for file in found])
        return
    if not found:
        typer.echo("no files")
        return
    rows = table("no", "path", "size", "state", "verdict", "digests, or what went wrong", right=("no", "size"))
    for file in found:
        outcome = [f"{name} {digest}" for name, digest in file.digests.items()]
        outcome += [f"S3's {one['algorithm']} {one['comparison']}" for one in file.provider_checksums]
        if file.error_class:
            outcome = [f"{file.error_class}: {file.error_detail or ''}"]
        rows.add_row(
            str(file.file_no),
            plain(file.path or file.file_id),
            "?" if file.size_bytes is None else size(file.size_bytes),
            coloured(file.state),
            file.verdict or "",
            plain(", ".join(outcome)),
        )
    console().print(rows)
    if len(found) == limit:
        typer.echo(f"more: hashmill runs files {found_id} --after {found[-1].file_no}")


@app.command("entries", epilog="Example: hashmill runs entries 0198c2a1 --json")
def entries_(
    run_id: RunId,
    after: Annotated[str, typer.Option(metavar="ENTRY", help="Only entries behind the one with this id.")] = "",
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List the ledger entries of a run: what happened, in the order it was written down."""
    from hashmill.cli.documents import entry_document
    from hashmill.ledger import entries
    from hashmill.settings import read_settings

    def read(connection: "sa.Connection") -> "tuple[str, list[entries.StoredEntry]]":
        run = find_run(connection, run_id)
        return run.run_id, entries.of_run(connection, run.run_id, after=after, limit=limit)

    with opened_ledger(read_settings()) as ledger:
        found_id, found = ledger.read_now(read)
    documents = [entry_document(entry) for entry in found]
    if as_json:
        print_json(documents)
        return
    if not found:
        typer.echo("no entries")
        return
    rows = table("number", "when", "kind", "what", right=("number",))
    for entry, document in zip(found, documents, strict=True):
        rows.add_row(
            "waits" if entry.leaf_index is None else str(entry.leaf_index),
            local_time(entry.recorded_at_ms),
            entry.kind,
            plain(_told(document["body"]), max_chars=300),
        )
    console().print(rows)
    if len(found) == limit:
        typer.echo(f"more: hashmill runs entries {found_id} --after {found[-1].entry_id}")


def _told(body: dict[str, Any]) -> str:
    """Return what an entry says besides what stands in the other columns."""
    known = {"v", "entry_id", "kind", "run_id", "tenant_id", "recorded_at", "event"}
    return ", ".join(f"{name} {value}" for name, value in body.items() if name not in known and value is not None)
