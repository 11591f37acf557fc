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
CAPTURE_MAX_BYTES: Final = 16 * 1024 * 1024
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
        fault, output = await _run_child(folder, order, environ, limits)
        captured = _captured(folder / "captured")
        fault = fault or captured.fault
        executed = folder / "executed.ipynb"
        return Ran(
            fault=one_line(fault, max_chars=REASON_MAX_CHARS),
            output=output,
            messages=captured.messages,
            hashes=captured.hashes,
            executed=executed.read_bytes() if executed.exists() else None,
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
        "parent_pid": os.getpid(),
        "time_s": limits.time_s,
        "memory_bytes": limits.memory_bytes,
        "file_max_bytes": CAPTURE_MAX_BYTES,
    }


async def _run_child(
    folder: Path, order: Mapping[str, Any], environ: Mapping[str, str], limits: Limits
) -> tuple[str, str]:
    """Return what went wrong, and what was printed."""
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
            "LIBNOVA_EVENT": str(folder / "event.json"),
            "LIBNOVA_CAPTURE": str(folder / "captured"),
            "LIBNOVA_PROGRESS": "0",
            **environ,
        },
    )
    assert child.stdin is not None  # noqa: S101
    assert child.stdout is not None  # noqa: S101
    assert child.stderr is not None  # noqa: S101
    try:
        with contextlib.suppress(ConnectionError):
            child.stdin.write(json.dumps(order).encode())
            child.stdin.close()
        try:
            async with asyncio.timeout(limits.time_s):
                printed, complained = await asyncio.gather(
                    _printed(child.stdout, limits.output_max_bytes), _printed(child.stderr, limits.output_max_bytes)
                )
                status = await child.wait()
        except TimeoutError:
            return f"it took more than {limits.time_s:g} s", ""
        except _TooMuch as much:
            return f"it printed more than {limits.output_max_bytes:,} bytes", much.text
    finally:
        await _ended(child)
    return _fault_of(status, complained), printed


class _TooMuch(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


async def _printed(stream: asyncio.StreamReader, most_bytes: int) -> str:
    found = bytearray()
    while piece := await stream.read(65_536):
        found += piece
        if len(found) > most_bytes:
            raise _TooMuch(found[:most_bytes].decode("utf-8", "replace"))
    return found.decode("utf-8", "replace")


async def _ended(child: asyncio.subprocess.Process) -> None:
    """See a child to its end: it ends all that it started first, and is ended with its session when it does not."""
    try:
        if child.returncode is None:
            child.terminate()
            async with asyncio.timeout(SWEEP_S):
                await child.wait()
    except (TimeoutError, ProcessLookupError):
        pass
    finally:
        if child.returncode is None:  # else its id may be another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _fault_of(status: int, complained: str) -> str:
    if status == 0:
        return ""
    if status < 0:
        return f"it was ended by signal {-status} ({signal.strsignal(-status)})"
    said = next((line.strip() for line in reversed(complained.splitlines()) if line.strip()), "")
    if status == _NOTHING_TO_RUN:
        return said or "there was nothing to run"
    return f"it raised {said}" if said else f"it ended with {status}"


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
    messages: list[Message] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
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
