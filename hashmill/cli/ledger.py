"""`hashmill ledger`: its shape, and whether every entry is what it was."""

from dataclasses import asdict

import typer

from hashmill.cli.console import AsJson, print_json
from hashmill.cli.exits import ExitCode
from hashmill.cli.opened import opened_ledger, sqlite_file
from hashmill.domain.text import one_line

app = typer.Typer(no_args_is_help=True, help="Take care of the ledger: bring it to this version, verify it.")


@app.command(epilog="Example: hashmill ledger upgrade")
def upgrade(as_json: AsJson = False) -> None:
    """Make the ledger, or bring it to the shape this version needs; harmless when it is there already."""
    from hashmill import assemble
    from hashmill.ledger import migrate
    from hashmill.settings import read_settings

    settings = read_settings()
    sqlite_file(settings)  # a wrong ledger.url is said in words
    ledger = assemble.open_ledger(settings)
    try:
        before, after = migrate.upgrade(ledger.engine, assemble.migrations_home())
    finally:
        ledger.close()
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        typer.echo(f"the ledger is at {after} already")
    else:
        typer.echo(f"the ledger is at {after} now; before: {before or 'empty'}")


@app.command(epilog="Example: hashmill ledger current")
def current(as_json: AsJson = False) -> None:
    """Say which shape the ledger has and which this version needs; exit 1 when they differ."""
    from hashmill import assemble
    from hashmill.ledger import migrate
    from hashmill.settings import read_settings

    with opened_ledger(read_settings(), at_head=False) as ledger:
        at, head = ledger.read_now(migrate.at), migrate.head(assemble.migrations_home())
    if as_json:
        print_json({"at": at, "head": head, "current": at == head})
    else:
        advice = "" if at == head else ": run `hashmill ledger upgrade`"
        typer.echo(f"the ledger is at {at or 'nothing'}, this version needs {head}{advice}")
    if at != head:
        raise typer.Exit(ExitCode.BAD)


@app.command(epilog="Example: hashmill ledger verify --json")
def verify(as_json: AsJson = False) -> None:
    """Walk the whole log and compare every entry with its hash, its form and its number; exit 1 on any fault."""
    from hashmill.ledger import entries
    from hashmill.settings import read_settings

    with opened_ledger(read_settings()) as ledger:
        found = ledger.read_now(entries.verify)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(f"{found.entries} entries, {found.files_hashed} hashed files, {found.waiting} wait for a number")
        for fault in found.faults:
            typer.echo(f"fault: {one_line(fault, max_chars=1000)}")
        typer.echo(f"{len(found.faults)} faults: the ledger was altered" if found.faults else "no faults")
    if found.faults:
        raise typer.Exit(ExitCode.BAD)
