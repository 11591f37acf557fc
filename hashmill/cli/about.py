"""Small commands that need nothing open: the version, the algorithms, a new sealing key."""

import platform

import typer

from hashmill import __version__
from hashmill.cli.console import AsJson, console, print_json, table

secrets = typer.Typer(no_args_is_help=True, help="Make the key that the keys of events are sealed with.")


def version(as_json: AsJson = False) -> None:
    """Say which version this is."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        typer.echo(f"hashmill {__version__}")


def algorithms(as_json: AsJson = False) -> None:
    """List the digest algorithms an event may ask for, and the library that computes each here."""
    from hashmill.domain.digest import DEFAULT_ALGORITHMS
    from hashmill.domain.errors import AlgorithmFailed
    from hashmill.hashing.registry import algorithm_names, open_hashers

    def library(name: str) -> str | None:
        try:
            return open_hashers([name])[0].backend
        except AlgorithmFailed:  # OpenSSL in a mode that forbids it
            return None

    found = [
        {"name": name, "library": library(name), "default": name in DEFAULT_ALGORITHMS} for name in algorithm_names()
    ]
    if as_json:
        print_json(found)
        return
    rows = table("algorithm", "library", "")
    for one in found:
        rows.add_row(
            str(one["name"]),
            str(one["library"] or "not allowed on this machine"),
            "by default" if one["default"] else "",
        )
    console().print(rows)


@secrets.command("new-key", epilog="Example: export HASHMILL_SECRETS__SEAL_KEY=$(hashmill secrets new-key)")
def new_key(as_json: AsJson = False) -> None:
    """Print a fresh value for secrets.seal_key: 32 random bytes in base64. It is kept nowhere."""
    from hashmill.ledger.seal import new_key as fresh

    key = fresh()
    if as_json:
        print_json({"seal_key": key})
    else:
        typer.echo(key)
