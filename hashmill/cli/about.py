"""Small commands that need nothing open: the version, the algorithms, a new sealing key."""

import platform
from typing import Any

import typer

from hashmill import __version__
from hashmill.cli.console import AsJson, console, print_json, table

PLUGIN_PATIENCE_S = 5.0
"""For a person who waits; a worker waits longer."""

secrets = typer.Typer(no_args_is_help=True, help="Make the key that the keys of events are sealed with.")


def version(as_json: AsJson = False) -> None:
    """Say which version this is."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        typer.echo(f"hashmill {__version__}")


def algorithms(as_json: AsJson = False) -> None:
    """List the digest algorithms an event may ask for, what computes each here, and how fast. Takes a second."""
    from hashmill.hashing import plugins
    from hashmill.hashing.registry import algorithm_names

    found = [_algorithm(name) for name in algorithm_names()] + [
        {"name": one.name, "library": one.package, "default": False, "mb_per_s": None, "problem": one.refused}
        for one in plugins.found().values()
        if one.refused
    ]
    if as_json:
        print_json(found)
        return
    rows = table("algorithm", "library", "MB/s", "")
    for one in found:
        speed = "" if one["mb_per_s"] is None else f"{one['mb_per_s']:,}"
        rows.add_row(one["name"], one["library"], speed, one["problem"] or ("by default" if one["default"] else ""))
    console().print(rows)


def _algorithm(name: str) -> dict[str, Any]:
    from hashmill.domain.digest import DEFAULT_ALGORITHMS
    from hashmill.domain.errors import AlgorithmFailed
    from hashmill.hashing.plugins import PluginHasher
    from hashmill.hashing.registry import open_hashers
    from hashmill.hashing.speed import mb_per_s

    told = {"name": name, "library": None, "default": name in DEFAULT_ALGORITHMS, "mb_per_s": None, "problem": ""}
    try:
        (hasher,) = open_hashers([name])
    except AlgorithmFailed as error:  # OpenSSL in a mode that forbids it
        return told | {"problem": f"not allowed on this machine: {error}"}
    if isinstance(hasher, PluginHasher):
        hasher.patience_s = PLUGIN_PATIENCE_S
        hasher.update(b"")
        hasher.close()
        if hasher.failure:
            return told | {"library": hasher.backend, "problem": hasher.failure}
    return told | {"library": hasher.backend, "mb_per_s": round(mb_per_s(name))}


@secrets.command("new-key", epilog="Example: export HASHMILL_SECRETS__SEAL_KEY=$(hashmill secrets new-key)")
def new_key(as_json: AsJson = False) -> None:
    """Print a fresh value for secrets.seal_key: 32 random bytes in base64. It is kept nowhere."""
    from hashmill.ledger.seal import new_key as fresh

    key = fresh()
    if as_json:
        print_json({"seal_key": key})
    else:
        typer.echo(key)
