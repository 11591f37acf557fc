"""`hashmill demo`: the whole road on real parts, from one posted event to digests that were computed twice."""

import shlex
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hashmill.cli.console import AsJson, console, plain
from hashmill.cli.exits import ExitCode


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C, and say where.")] = False,
    then: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            help="Run this while all is up, with LABDRIVE and S3 in its environment as a notebook has them; then stop.",
        ),
    ] = "",
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Start everything on free loopback ports, check a small collection, show what LABDRIVE got, stop everything.

    Real Redis, real S3, the sandbox LABDRIVE. Ends with 1 when anything was wrong.
    """
    from hashmill.cli.demo_road import road
    from hashmill.parts.process import PartFailed

    # Run by a script it is ended with SIGTERM, and in the background SIGINT comes ignored: both must stop all of it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    out = Console(stderr=True, highlight=False) if as_json else console()
    folder = Path(tempfile.mkdtemp(prefix="hm-"))
    try:
        good = road(folder, out, keep=keep, then=shlex.split(then), workers=workers, as_json=as_json)
    except PartFailed as failure:
        out.print(plain(failure, max_chars=4000))
        good = False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(ExitCode.OK if good else ExitCode.BAD)
