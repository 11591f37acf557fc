"""`hashmill doctor`: everything the service needs, tried once; each failed line says what to do."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hashmill.cli.console import AsJson, coloured, console, plain, print_json, table
from hashmill.cli.exits import ExitCode
from hashmill.domain.errors import ConfigFault

if TYPE_CHECKING:
    from hashmill.cli.checks import Check


def doctor(
    bucket: Annotated[str | None, typer.Option(help="Bucket to try; without this, s3.bucket.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Key of an object that is there; without this, one that is not is asked for.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Check settings, ledger, broker, workers, S3, LABDRIVE, clocks and disk; exit 1 when any check failed.

    Changes nothing and reads no object.
    """
    from hashmill.cli.checks import Check, Outcome, examine
    from hashmill.settings import read_settings

    try:
        settings = read_settings()
    except ConfigFault as error:
        found = [Check(name="settings", outcome=Outcome.FAILED, said=str(error), advice="correct that setting")]
    else:
        found = [Check(name="settings", outcome=Outcome.OK, said="read")]
        found += asyncio.run(examine(settings, bucket=bucket, key=key))
    failed = sum(check.outcome is Outcome.FAILED for check in found)
    if as_json:
        print_json({"healthy": not failed, "checks": [asdict(check) for check in found]})
    else:
        _print(found, failed)
    if failed:
        raise typer.Exit(ExitCode.BAD)


def _print(found: "list[Check]", failed: int) -> None:
    rows = table("check", "", "what was found, and what to do")
    for check in found:
        rows.add_row(plain(check.name), coloured(check.outcome), plain(check.sentence))
    console().print(rows)
    typer.echo(f"{failed} of {len(found)} checks failed" if failed else "nothing is wrong")
