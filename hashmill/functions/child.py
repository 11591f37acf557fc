"""
Runs one function for one event and ends: `python -P child.py`, with its order as JSON on standard input.

Run as a file, in a folder of its own. What the function prints goes to standard output and error; what it tells
LABDRIVE is kept in the file that LIBNOVA_CAPTURE names. The exit status is 0 when it returned, 1 when it raised (the
order's file `raised` says what, or else the last line of standard error), 3 when there was nothing to run.

Two processes: one runs the function, the other waits for it and then ends whatever that left running, also what has
made itself a daemon or a session of its own. It does the same when it is told to stop, and when the worker dies.
"""

import contextlib
import ctypes
import importlib.util
import inspect
import json
import logging
import os
import re
import resource
import signal
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
RAISED, NOTHING_TO_RUN = 1, 3
COLOURS = re.compile("\x1b\\[[0-9;]*m")


class Context:
    """What Nuclio gives a handler, as far as functions use it: a logger (seen in third-party code), and user data."""

    def __init__(self) -> None:
        self.logger = logging.getLogger("function")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False  # what libraries say is not for the job
        self.logger.addHandler(logging.StreamHandler(sys.stdout))
        self.user_data = type("UserData", (), {})()


class Event:
    """The event as Nuclio gives it: `body` is bytes (known)."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.content_type = "application/json"
        self.headers: dict[str, str] = {}
        self.method = "POST"
        self.path = "/"


def main() -> None:
    """Take the order, bind the process, run."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    order = json.loads(sys.stdin.buffer.read())
    if os.getppid() != order["parent_pid"]:
        raise SystemExit(NOTHING_TO_RUN)
    _limit(order)
    watcher_pid = os.getpid()
    if (runner_pid := os.fork()) != 0:
        _watch(runner_pid)
    elif sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher_pid:
            raise SystemExit(NOTHING_TO_RUN)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what it printed is not lost when it is stopped
    _say_what_is_raised(Path(order["raised"]))
    if order["kind"] == "notebook":
        _run_notebook(Path(order["source"]), Path(order["executed"]), Path(order["raised"]), time_s=order["time_s"])
    else:
        _run_handler(Path(order["source"]), Path(order["event"]))


def _watch(runner_pid: int) -> NoReturn:
    """Wait for the process that runs the function, end what it left, and end as it did."""

    def stop(*_: object) -> None:
        raise SystemExit(NOTHING_TO_RUN)

    try:
        signal.signal(signal.SIGTERM, stop)
        status = os.waitstatus_to_exitcode(os.waitpid(runner_pid, 0)[1])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all()
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    raise SystemExit(status)


def _end_all() -> None:
    """End every process beneath this one; those whose parent has ended are its own children (known: prctl(2))."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name stands in brackets and may hold any character; the state and the parent follow (known: proc(5)).
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == own:
                found.append(int(stat.parent.name))
    return found


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _limit(order: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (order["memory_bytes"], order["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_max_bytes"], order["file_max_bytes"]))


def _say_what_is_raised(place: Path) -> None:
    """Have an exception's type and the first line of its text written to `place`, besides its traceback."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        lines = traceback.format_exception_only(kind, error)
        # A syntax error shows its place before its name.
        _write_first_line(place, lines[-1] if issubclass(kind, SyntaxError) else lines[0])

    sys.excepthook = hook


def _write_first_line(place: Path, text: str) -> None:
    place.write_text(text.splitlines()[0], encoding="utf-8", errors="replace")


def _run_handler(source: Path, event: Path) -> None:
    spec = importlib.util.spec_from_file_location("function", source)
    if spec is None or spec.loader is None:
        raise SystemExit(NOTHING_TO_RUN)
    module = importlib.util.module_from_spec(spec)
    sys.modules["function"] = module
    spec.loader.exec_module(module)
    handler = getattr(module, "handler", None)
    if not callable(handler):
        sys.stderr.write("the file has no function handler(context, event)\n")
        raise SystemExit(NOTHING_TO_RUN)
    returned = handler(Context(), Event(event.read_bytes()))
    if inspect.iscoroutine(returned):
        returned.close()
        sys.stderr.write("handler(context, event) is async, which is not supported: nothing of it was run\n")
        raise SystemExit(NOTHING_TO_RUN)


def _run_notebook(source: Path, executed: Path, raised: Path, *, time_s: float) -> None:
    try:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
        from nbformat import read, writes
    except ModuleNotFoundError as error:
        sys.stderr.write(f"a notebook needs {error.name}: install nbclient and ipykernel where workers run\n")
        raise SystemExit(NOTHING_TO_RUN) from error
    notebook = read(source, as_version=4)
    try:
        NotebookClient(notebook, timeout=int(time_s) + 1, kernel_name="python3").execute()
    except CellExecutionError as error:
        sys.stderr.write(COLOURS.sub("", error.traceback) + "\n")
        _write_first_line(raised, f"{error.ename}: {error.evalue}")
        raise SystemExit(RAISED) from error
    finally:  # whatever it was, as the death of the kernel: the copy shows how far it came
        executed.write_text(writes(notebook), encoding="utf-8")
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if output.get("output_type") == "stream" and output.get("name") == "stdout":
                    sys.stdout.write(output["text"])


if __name__ == "__main__":
    main()
