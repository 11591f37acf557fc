"""`hashmill function`: researchers' functions, added, listed, tried, taken away."""

import asyncio
import json
import os
import shlex
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hashmill.cli.console import AsJson, console, local_time, plain, print_json, size, table
from hashmill.cli.exits import ExitCode
from hashmill.cli.opened import opened_ledger
from hashmill.domain.errors import ConfigFault
from hashmill.domain.function import Function, Kind, Ran

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator

    from hashmill.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Researchers' functions, run for each file of an event that names one.")

NAME_MAX_CHARS = 64
SOURCE_MAX_BYTES = 8 * 1024 * 1024
API_URL = "LIBNOVA_API_URL"
"""It always wins over an event's own address, here as in a notebook: an event at hand may name a host in earnest."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="What events name as function.key.")]
Who = Annotated[str | None, typer.Option(help="Who does it; without this, the user of this shell.")]


@app.command(epilog="Example: hashmill function add count-pages handler.py")
def add(
    name: Name,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .py with handler(context, event), or an .ipynb.")],
    instead_of_hashing: Annotated[
        bool, typer.Option("--instead-of-hashing", help="Also when files were hashed for events of that name.")
    ] = False,
    who: Who = None,
    as_json: AsJson = False,
) -> None:
    """Add a function, or a new version of it. Events that name it run it from now on; runs accepted before keep theirs.

    It is the operator's code: it runs on the workers, with limits of time, memory and output, and no other fence.
    A name by which files were hashed lately, as the fixity trigger's own, is refused.
    """
    from hashmill.ledger import functions
    from hashmill.settings import read_settings

    function = read_function(name, path)
    with opened_ledger(read_settings()) as ledger:
        if not instead_of_hashing and (run_id := ledger.read_now(functions.hashed_lately, name)):
            raise typer.BadParameter(
                f"files were hashed for events of the key {name}, as in run {run_id}; they would be hashed no more. "
                "Choose another name, or say --instead-of-hashing"
            )
        ledger.write_now(functions.add, function, by=_who(who))
    if as_json:
        print_json({"name": name, "sha256": function.sha256, "kind": function.kind})
    else:
        typer.echo(f"{name} is {function.kind} {function.sha256[:12]} from now on")
        typer.echo(f"try it: hashmill function test {shlex.quote(name)} event.json")


@app.command("list", epilog="Example: hashmill function list")
def list_(as_json: AsJson = False) -> None:
    """List every version of every function; the current ones are what new events run."""
    from hashmill.ledger import functions
    from hashmill.settings import read_settings

    with opened_ledger(read_settings()) as ledger:
        found = ledger.read_now(functions.listed)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = table("name", "kind", "sha256", "size", "added", "by", "")
    for one in found:
        rows.add_row(
            plain(one.name),
            one.kind,
            one.sha256[:12],
            size(one.size_bytes),
            local_time(one.added_at_ms),
            plain(one.added_by),
            "current" if one.current else "",
        )
    console().print(rows)


@app.command(epilog="Example: hashmill function show count-pages")
def show(name: Name, as_json: AsJson = False) -> None:
    """Print the source of the current version."""
    from hashmill.settings import read_settings

    function = _current(read_settings(), name)
    if as_json:
        source = function.source.decode(errors="replace")
        print_json({"name": name, "kind": function.kind, "sha256": function.sha256, "source": source})
    else:
        typer.echo(function.source.decode(errors="replace"))


@app.command(epilog="Example: hashmill function remove count-pages")
def remove(name: Name, who: Who = None, as_json: AsJson = False) -> None:
    """Refuse events that name a function from now on. Its versions stay in the ledger, as entries name them."""
    from hashmill.ledger import functions
    from hashmill.settings import read_settings

    with opened_ledger(read_settings()) as ledger:
        removed = ledger.write_now(functions.remove, name, by=_who(who))
    if not removed:
        raise typer.BadParameter(f"there is no function {name}; `hashmill function list` shows them")
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        typer.echo(f"events that name {name} are refused from now on")


@app.command("test", epilog="Example: hashmill function test count-pages event.json")
def try_(
    name: Name,
    event: Annotated[Path, typer.Argument(metavar="EVENT", help="An event as LABDRIVE posts it, in a file.")],
    as_json: AsJson = False,
) -> None:
    """Run the current version here, for an event, and show what it would tell LABDRIVE; nothing is told.

    It reads LABDRIVE with the event's key, at LIBNOVA_API_URL where that is set, and S3 as a worker does. Ends with 1
    when it fails.
    """
    from hashmill.settings import read_settings

    settings = read_settings()
    function = _current(settings, name)
    try:
        ran = asyncio.run(_tried(settings, function, read_event(event)))
    except asyncio.CancelledError:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if as_json:
        print_json(
            {
                "fault": ran.fault,
                "messages": [asdict(message) for message in ran.messages],
                "hashes": ran.hashes,
                "output": ran.output,
                "complaints": ran.complaints,
                "wall_s": round(ran.wall_s, 3),
            }
        )
    else:
        _show(ran)
    if ran.fault:
        raise typer.Exit(ExitCode.BAD)


def _show(ran: Ran) -> None:
    out = console()
    for message in ran.messages:
        out.print(plain(f"{message.level}: {message.text}" + (f" (file {message.file_id})" if message.file_id else "")))
    for file_id, digests in ran.hashes.items():
        for algorithm, digest in digests.items():
            out.print(plain(f"hash of file {file_id}: {algorithm} {digest}"))
    for line in (ran.output + ran.complaints).splitlines():
        out.print(plain(line, max_chars=100_000))
    out.print(plain(f"failed: {ran.fault}") if ran.fault else f"ended well after {ran.wall_s:.1f} s")


async def _tried(settings: "Settings", function: Function, event: dict[str, Any]) -> Ran:
    from hashmill import assemble
    from hashmill.flow.work import environ_of
    from hashmill.functions.runner import run

    config = assemble.storage_config(settings.s3, tenant_id="default", storage_id=None)
    rules = assemble.rules_of(settings, assemble.open_wire(settings))
    environ = {**rules.function_environ, **environ_of(config, config.bucket or "", wire=rules.wire_path)}
    if url := os.environ.get(API_URL, ""):
        environ[API_URL] = url
    # Cancelled, it ends its process and leaves no folder behind.
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(function, event, environ=environ, limits=rules.function_limits)


def read_function(name: str, path: Path) -> Function:
    """Return the function in a file; a usage error for what is none."""
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= NAME_MAX_CHARS or name[0] == "-":
        raise typer.BadParameter(
            f"a name has 1 to {NAME_MAX_CHARS} printable characters, no space around it and no '-' before it"
        )
    kinds = {".py": Kind.HANDLER, ".ipynb": Kind.NOTEBOOK}
    if path.suffix not in kinds:
        raise typer.BadParameter(f"{path} is neither .py nor .ipynb")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    if len(source) > SOURCE_MAX_BYTES:
        raise typer.BadParameter(f"{path} has more than {SOURCE_MAX_BYTES:,} bytes")
    function = Function(name=name, kind=kinds[path.suffix], source=source)
    if fault := _fault_of(function):
        raise typer.BadParameter(f"{path}: {fault}")
    return function


def _fault_of(function: Function) -> str:
    """Return why the source cannot be a function of its kind; empty when it may be one."""
    import ast

    try:
        if function.kind is Kind.NOTEBOOK:
            return _fault_of_notebook(json.loads(function.source))
        tree = ast.parse(function.source)
    except (ValueError, SyntaxError) as error:
        return str(error)
    for node in _at_its_top(tree):
        match node:
            case ast.AsyncFunctionDef(name="handler"):
                return "its handler is async, which is not supported; write def handler(context, event)"
            case ast.FunctionDef(name="handler") | ast.Name(id="handler", ctx=ast.Store()):
                return ""
            case ast.alias(name=imported, asname=asname) if (asname or imported) in ("handler", "*"):
                return ""
    return "it has no function handler(context, event)"


def _at_its_top(tree: "ast.AST") -> "Iterator[ast.AST]":
    """Give what runs when the file is imported, also beneath `if` and `try`, but not what is within functions."""
    import ast

    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _at_its_top(node)


def _fault_of_notebook(told: Any) -> str:
    if not isinstance(told, dict) or told.get("nbformat") != 4:
        return "no notebook of nbformat 4"
    if not isinstance(told.get("cells"), list):
        return "a notebook without cells"
    match told.get("metadata"):
        case {"language_info": {"name": str(language)}} | {"kernelspec": {"language": str(language)}}:
            return "" if language.lower() == "python" else f"a notebook in {language}; only Python is run"
    return ""


def read_event(path: Path) -> dict[str, Any]:
    """Return the event in a file; a usage error for what is no JSON object."""
    try:
        told = json.loads(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{path} is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise typer.BadParameter(f"{path} is no event: a JSON object was expected")
    return told


def _current(settings: "Settings", name: str) -> Function:
    from hashmill.ledger import functions

    with opened_ledger(settings) as ledger:
        sha256 = ledger.read_now(functions.current, name)
        if sha256 is None:
            raise typer.BadParameter(f"there is no function {name}; `hashmill function list` shows them")
        found = ledger.read_now(functions.get, name, sha256)
    if found is None:
        raise ConfigFault(f"function {name}: its version {sha256} is not in the ledger")
    return found


def _who(given: str | None) -> str:
    from hashmill.cli.replay import os_user
    from hashmill.domain.text import one_line

    return one_line(given or os_user())
