"""`hashmill post`: one event to the intake, over HTTP as a LABDRIVE trigger would."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashmill.cli.console import AsJson, print_json
from hashmill.cli.exits import ExitCode
from hashmill.domain.job import RunState
from hashmill.domain.text import one_line

if TYPE_CHECKING:
    from hashmill.cli.intake_client import Accepted, IntakeClient
    from hashmill.cli.progress import Standing

STDIN = Path("-")


def post(
    event: Annotated[Path, typer.Argument(metavar="EVENT", help="File with the event's JSON; - is standard input.")],
    intake: Annotated[
        str | None, typer.Option(metavar="URL", help="The intake; without this, by the settings.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="HASHMILL_INTAKE__BEARER_TOKEN", help="The intake's token; better in the environment."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Posts with one key make one run; without this, one LABDRIVE job makes one.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run to its end; exit 1 unless it completed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Post an event to the intake, as a LABDRIVE trigger does, and print the run it became."""
    from hashmill.cli.intake_client import IntakeClient, IntakeRefused

    if idempotency_key is not None and not (idempotency_key.isascii() and idempotency_key.isprintable()):
        raise typer.BadParameter("an idempotency key is printable ASCII", param_hint="--idempotency-key")
    body = _read(event)
    url, bearer = _address(intake, token)
    try:
        last = asyncio.run(_post(IntakeClient(url, bearer), body, idempotency_key, watch=watch, as_json=as_json))
    except IntakeRefused as refused:
        if as_json:
            print_json(refused.document)
        typer.secho("refused: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.echo(one_line(str(refused), max_chars=1000), err=True)
        for path, problem in refused.faults:
            typer.echo("  " + one_line(f"{path}: {problem}", max_chars=1000), err=True)
        raise typer.Exit(ExitCode.REFUSED) from None
    if last is not None and last.state is not RunState.COMPLETED:
        raise typer.Exit(ExitCode.BAD)


async def _post(
    client: "IntakeClient", body: bytes, idempotency_key: str | None, *, watch: bool, as_json: bool
) -> "Standing | None":
    from hashmill.cli.progress import conclusion, follow, shown

    async with client:
        accepted = await client.post_event(body, idempotency_key=idempotency_key)
        if not as_json:
            _say(accepted)
        elif not watch:
            print_json({"run_id": accepted.run_id, "status_url": accepted.status_url, "made": accepted.made})
        if not watch:
            return None
        with shown(as_json=as_json) as show:
            last = await follow(lambda: client.standing(accepted.status_url), show)
    if not as_json:
        typer.echo(conclusion(last))
    return last


def _say(accepted: "Accepted") -> None:
    typer.echo(f"run     {accepted.run_id}{'' if accepted.made else ' (this event had made it before)'}")
    typer.echo(f"status  {accepted.status_url}")


def _address(intake: str | None, token: str | None) -> tuple[str, str]:
    """Return where the intake is and its token; the settings are asked only for what was not given."""
    if intake is not None:
        # A token of this machine's settings is not for whoever was named on the command line.
        return intake, token or ""
    from hashmill.settings import read_settings

    door = read_settings().intake
    anywhere = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    host = anywhere.get(door.host, door.host)
    url = f"http://[{host}]:{door.port}" if ":" in host else f"http://{host}:{door.port}"
    return url, token if token is not None else door.bearer_token.get_secret_value()


def _read(event: Path) -> bytes:
    if event == STDIN:
        return sys.stdin.buffer.read()
    try:
        return event.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{event}: {error.strerror}", param_hint="EVENT") from error
