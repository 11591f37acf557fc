"""
Runs a function for one event in a child process, within limits, and says what came of it.

The child gets its event and environment from here and nothing else of this process: no ledger, no broker, no settings.
What the function tells LABDRIVE is kept, not sent: the caller owes it together with the result, and decides itself when
the job has ended.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hashmill.domain.function import Function, Kind, Limits, Message, Ran
from hashmill.domain.text import one_line, unstorable

CHILD: Final = Path(__file__).parent / "child.py"
READ_MAX_BYTES: Final = 16 * 1024 * 1024
"""So much of what it told, and of a notebook's copy, is read into this process."""
SWEEP_S: Final = 5.0
"""So long the child may take to end what it started, when it is told to stop."""

REASON_MAX_CHARS: Final = 500
MESSAGES_MAX: Final = 1000
MESSAGE_MAX_CHARS: Final = 10_000
_HASH_NAME: Final = re.compile(r"[!-~]{1,64}")
_HASH_VALUE: Final = re.compile(r"[!-~]{1,1024}")
_FILE_ID: Final = re.compile(r"[!-~]{1,255}")
_NOTHING_TO_RUN: Final = 3


async def run(function: Function, event: Mapping[str, Any], *, environ: Mapping[str, str], limits: Limits) -> Ran:
    """Return what came of running `function` for `event`; `environ` is what the library needs to reach LABDRIVE and S3.

    Cancelled, it ends the child. Nothing is left behind.
    """
    with TemporaryDirectory(prefix="hm-function-") as name:
        folder = Path(name)
        order = _laid_out(folder, function, event, limits)
        began_s = time.monotonic()
        fault, output, complaints = await _run_child(folder, order, environ, limits)
        captured = _captured(folder / "captured")
        executed, too_large = _executed(folder / "executed.ipynb")
        return Ran(
            fault=one_line(fault or captured.fault or too_large, max_chars=REASON_MAX_CHARS),
            output=output,
            complaints=complaints,
            messages=captured.messages,
            hashes=captured.hashes,
            executed=executed,
            wall_s=time.monotonic() - began_s,
        )


def _laid_out(folder: Path, function: Function, event: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    source = folder / ("function.ipynb" if function.kind is Kind.NOTEBOOK else "function.py")
    source.write_bytes(function.source)
    (folder / "event.json").write_text(json.dumps(event), encoding="utf-8")
    (folder / "home").mkdir()
    return {
        "kind": function.kind,
        "source": str(source),
        "event": str(folder / "event.json"),
        "executed": str(folder / "executed.ipynb"),
        "raised": str(folder / "raised"),
        "parent_pid": os.getpid(),
        "time_s": limits.time_s,
        "memory_bytes": limits.memory_bytes,
        "file_max_bytes": limits.file_max_bytes,
    }


async def _run_child(
    folder: Path, order: Mapping[str, Any], environ: Mapping[str, str], limits: Limits
) -> tuple[str, str, str]:
    """Return what went wrong, what was printed, and what was written to standard error."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        str(CHILD),
        cwd=folder / "home",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "home"),
            "LIBNOVA_EVENT": str(folder / "event.json"),
            "LIBNOVA_CAPTURE": str(folder / "captured"),
            "LIBNOVA_PROGRESS": "0",
            **environ,
        },
    )
    assert child.stdin is not None  # noqa: S101
    assert child.stdout is not None  # noqa: S101
    assert child.stderr is not None  # noqa: S101
    printed, complained = bytearray(), bytearray()
    readers = [
        asyncio.create_task(_keep(stream, kept, limits.output_max_bytes))
        for stream, kept in ((child.stdout, printed), (child.stderr, complained))
    ]
    try:
        async with asyncio.timeout(limits.time_s):
            with contextlib.suppress(ConnectionError):
                child.stdin.write(json.dumps(order).encode())
                child.stdin.close()
            await asyncio.wait(readers, return_when=asyncio.FIRST_EXCEPTION)
            for reader in readers:
                if reader.done():
                    reader.result()
            fault = _fault_of(await child.wait(), folder / "raised", complained)
    except TimeoutError:
        fault = f"it took more than {limits.time_s:g} s"
    except _TooMuch:
        fault = f"it printed more than {limits.output_max_bytes:,} bytes"
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await _ended(child)
    return fault, printed.decode("utf-8", "replace"), complained.decode("utf-8", "replace")


class _TooMuch(Exception):
    """It printed more than it may."""


async def _keep(stream: asyncio.StreamReader, kept: bytearray, most_bytes: int) -> None:
    while piece := await stream.read(65_536):
        room_bytes = most_bytes - len(kept)
        kept += piece[:room_bytes]
        if len(piece) > room_bytes:
            raise _TooMuch


async def _ended(child: asyncio.subprocess.Process) -> None:
    """See a child to its end: it ends all that it started first, and is ended with its session when it does not."""
    try:
        if child.returncode is None:
            child.terminate()
            async with asyncio.timeout(SWEEP_S):
                await _drained(child)
    except (TimeoutError, ProcessLookupError):
        pass
    finally:
        if child.returncode is None:  # else its id may be another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(SWEEP_S):
                await _drained(child)
        except TimeoutError:  # what got away from the process that ends all holds the pipes open
            child._transport.close()  # type: ignore[attr-defined]  # asyncio documents no way to let go of them


async def _drained(child: asyncio.subprocess.Process) -> None:
    """Wait for a child's end; it counts as ended when its pipes are closed, which one that is full never is."""
    for stream in (child.stdout, child.stderr):
        while stream is not None and await stream.read(65_536):
            pass
    await child.wait()


def _fault_of(status: int, raised: Path, complained: bytearray) -> str:
    if status == 0:
        return ""
    if status < 0:
        return f"it was ended by signal {-status} ({signal.strsignal(-status)})"
    if raised.exists() and (said := raised.read_bytes()[: 4 * REASON_MAX_CHARS].decode("utf-8", "replace")):
        return f"it raised {said}"
    lines = complained.decode("utf-8", "replace").splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if status == _NOTHING_TO_RUN:
        return said or "there was nothing to run"
    return f"it raised {said}" if said else f"it ended with {status}"


def _executed(path: Path) -> tuple[bytes | None, str]:
    """Return a notebook's copy, and what is wrong with it."""
    if not path.exists():
        return None, ""
    if path.stat().st_size > READ_MAX_BYTES:
        return None, f"its copy with its outputs has more than {READ_MAX_BYTES:,} bytes"
    return path.read_bytes(), ""


@dataclass(slots=True, kw_only=True)
class _Captured:
    messages: tuple[Message, ...] = ()
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    fault: str = ""


def _captured(path: Path) -> _Captured:
    """Return what the function told. A line that is cut, as by the end of the process, is left out; what nobody could
    store or take is a fault of the function.
    """
    kept = _Captured()
    if not path.exists():
        return kept
    if path.stat().st_size > READ_MAX_BYTES:
        kept.fault = f"it told LABDRIVE more than {READ_MAX_BYTES:,} bytes"
    messages: list[Message] = []
    with path.open("rb") as told_to:
        lines = told_to.read(READ_MAX_BYTES).decode("utf-8", "replace").splitlines()
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        match told:
            case {"call": "create_message", "text": str(text), "level": str(level), **rest}:
                file_id = None if rest.get("file_id") is None else str(rest["file_id"])
                if file_id is not None and not _FILE_ID.fullmatch(file_id):
                    kept.fault = kept.fault or f"it wrote a message for a file that is none: {file_id!r}"
                else:
                    messages.append(Message(text=_storable(text), level=level, file_id=file_id))
            case {"call": "set_hash", "file_id": str(file_id), "algorithm": str(name), "hexdigest": str(digest)}:
                if _FILE_ID.fullmatch(file_id) and _HASH_NAME.fullmatch(name) and _HASH_VALUE.fullmatch(digest):
                    kept.hashes.setdefault(file_id, {})[name] = digest
                else:
                    kept.fault = kept.fault or f"it stored a hash that is none: {name!r} {digest!r}"
            case {"call": "set_job_status", "level": "FAILED"}:
                kept.fault = kept.fault or "it ended its job as failed"
    if len(messages) > MESSAGES_MAX:
        more = f"… and {len(messages) - MESSAGES_MAX} more messages"
        messages[MESSAGES_MAX:] = [Message(text=more, level="INFO", file_id=None)]
    kept.messages = tuple(messages)
    return kept


def _storable(text: str) -> str:
    """Return a message as every database and API takes it: no NUL, no half of a surrogate pair, not endless."""
    shown = "".join("\ufffd" if unstorable(char) else char for char in text) if unstorable(text) else text
    return shown if len(shown) <= MESSAGE_MAX_CHARS else shown[: MESSAGE_MAX_CHARS - 1] + "…"
