"""`hashmill`: every command, by name."""

import logging
import sys

import typer

from hashmill.cli import about, functions, ledger, runs, serve
from hashmill.cli.demo import demo
from hashmill.cli.doctor import doctor
from hashmill.cli.exits import Doors, ExitCode
from hashmill.cli.post import post
from hashmill.cli.replay import replay
from hashmill.cli.settings import settings
from hashmill.cli.up import up

app = typer.Typer(
    cls=Doors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its own view of a bug would show values, and values may be keys
    help="Fixity for LABDRIVE: one read of every file, every digest of it, and a ledger that proves it.",
    epilog="Settings: config/hashmill.toml, a file named by HASHMILL_CONFIG, or HASHMILL_SECTION__KNOB. "
    "Exit statuses: docs/cli.md.",
)


@app.callback()
def _quiet() -> None:
    # A command that serves says what it does in its log; the others answer, and keep libraries from talking between.
    logging.getLogger().addHandler(logging.NullHandler())


WORK = "Work"
SERVICE = "The service's processes"
CARE = "Care"

app.command(rich_help_panel=WORK, epilog="Example: hashmill demo --keep")(demo)
app.command(rich_help_panel=WORK, epilog="Example: hashmill post event.json --watch")(post)
app.add_typer(runs.app, name="runs", rich_help_panel=WORK)
app.command(
    rich_help_panel=WORK,
    epilog='Example: hashmill replay --job 4711 --error-class s3.throttled --reason "storage is back" --dry-run',
)(replay)
app.command(rich_help_panel=SERVICE, epilog="Example: hashmill intake --port 8600")(serve.intake)
app.command(rich_help_panel=SERVICE, epilog="Example: hashmill worker --slots 32 --queues files,big,runs")(serve.worker)
app.command(rich_help_panel=SERVICE, epilog="Example: hashmill dispatcher")(serve.dispatcher)
app.command(rich_help_panel=SERVICE, epilog="Example: hashmill up --workers 4 --broker embedded")(up)
app.command(rich_help_panel=SERVICE, epilog="Example: hashmill sandbox --port 8700")(serve.sandbox)
app.command(rich_help_panel=CARE, epilog="Example: hashmill doctor --bucket labdrive --key 7/report.pdf")(doctor)
app.add_typer(functions.app, name="function", rich_help_panel=WORK)
app.add_typer(ledger.app, name="ledger", rich_help_panel=CARE)
app.command(rich_help_panel=CARE, epilog="Example: hashmill settings --json")(settings)
app.add_typer(about.secrets, name="secrets", rich_help_panel=CARE)
app.command(rich_help_panel=CARE, epilog="Example: hashmill algorithms")(about.algorithms)
app.command(rich_help_panel=CARE, epilog="Example: hashmill version")(about.version)


def main() -> None:
    """Run one command and end the process with its exit status."""
    try:
        app(prog_name="hashmill")
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
