"""`hashmill settings`: what is in force here, secrets masked; or the page that lists every knob."""

from typing import Annotated

import typer

from hashmill.cli.console import AsJson, print_json


def settings(
    docs: Annotated[
        bool, typer.Option("--docs", "--markdown", help="Print docs/settings.md instead: every knob and its default.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the settings in force as TOML, from all their sources together; secrets are masked."""
    from hashmill.cli.settings_sheet import effective, markdown, toml
    from hashmill.settings import Settings, read_settings

    if docs:
        typer.echo(markdown(Settings), nl=False)
        return
    values = effective(read_settings())
    if as_json:
        print_json(values)
    else:
        typer.echo(toml(values), nl=False)
