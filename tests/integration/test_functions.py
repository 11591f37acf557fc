"""A researcher's function in a process of its own: what it tells is kept, and whatever it does is its own end only."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hashmill.domain.function import Function, Kind, Limits, Message, Ran
from hashmill.functions.runner import SWEEP_S, run
from tests.helpers.wait import wait_until, wait_until_async

EVENT: dict[str, Any] = {
    "api": {"url": "http://labdrive.invalid", "key_user": "KEY", "key_root": ""},
    "labdrive": {"container": {"id": "1"}, "files": {"ids": ["7"], "paths": []}, "job": {"id": "299"}},
    "function_params": {"depth": "full"},
}
SHORT = Limits(time_s=20.0, memory_bytes=1 << 30, output_max_bytes=10_000)


def handler(body: str) -> Function:
    source = "def handler(context, event):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return Function(name="mine", kind=Kind.HANDLER, source=source.encode())


async def ran(function: Function, limits: Limits = SHORT, **environ: str) -> Ran:
    return await run(function, EVENT, environ=environ, limits=limits)


async def test_what_a_function_tells_labdrive_is_kept_and_not_sent() -> None:
    found = await ran(
        handler(
            """
            from libnova.common.nuclio.Request import Request
            from libnova.common.api import File, JobMessage
            request = Request(context, event)
            request.job_init()
            for file in request.Files:
                request.log("seen " + request.function_params["depth"], JobMessage.JobMessageType.ERROR, file.id)
                File.set_hash(file.id, "mine", "00ff")
            context.logger.info("to the log")
            print("printed")
            request.job_end(True)
            """
        )
    )

    assert found.fault == ""
    assert found.messages == (Message(text="seen full", level="ERROR", file_id="7"),)
    assert found.hashes == {"7": {"mine": "00ff"}}
    assert found.output == "to the log\nprinted\n"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("raise LookupError('not here')", "it raised LookupError: not here"),
        ("raise ValueError('first\\nsecond')", "it raised ValueError: first"),
        ("raise ValueError('\\nsecond')", "it raised ValueError:"),
        ("exec('x = (')", "it raised SyntaxError: '(' was never closed"),
        ("import sys; sys.exit(4)", "it ended with 4"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by signal 9 (Killed)"),
        ("bytearray(4 << 30)", "it raised MemoryError"),
        ("print('x' * 20_000)", "it printed more than 10,000 bytes"),
        ("import time; time.sleep(600)", "it took more than 2 s"),
        ("while True: pass", "it took more than 2 s"),
    ],
)
async def test_a_function_that_goes_wrong_says_how(body: str, fault: str) -> None:
    limits = Limits(time_s=2.0, memory_bytes=SHORT.memory_bytes, output_max_bytes=SHORT.output_max_bytes)

    assert (await ran(handler(body), limits)).fault == fault


@pytest.mark.parametrize(
    "body", ["while True: print('x' * 1000)", "import sys\nwhile True: print('x' * 1000, file=sys.stderr)"]
)
async def test_one_that_never_stops_printing_is_ended_at_once(body: str) -> None:
    began_s = time.monotonic()

    found = await ran(handler(body))

    assert found.fault == "it printed more than 10,000 bytes"
    assert len(found.output) + len(found.complaints) == 10_000
    assert time.monotonic() - began_s < SWEEP_S


async def test_nothing_of_its_pipes_is_left_to_a_loop_that_has_ended() -> None:
    script = (
        "import asyncio, sys; from hashmill.domain.function import *; from hashmill.functions.runner import run;"
        "function = Function(name='mine', kind=Kind.HANDLER, source=sys.stdin.buffer.read());"
        "limits = Limits(time_s=20.0, memory_bytes=1 << 30, output_max_bytes=1000);"
        "print(asyncio.run(run(function, {}, environ={}, limits=limits)).fault)"
    )

    said = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        input=handler("while True: print('x' * 1000)").source,
        capture_output=True,
        check=True,
    )

    assert (said.stdout, said.stderr) == (b"it printed more than 1,000 bytes\n", b"")


@pytest.mark.parametrize("then", ["time.sleep(600)", "os.kill(os.getpid(), 9)"])
async def test_what_it_printed_before_it_was_ended_is_kept(then: str) -> None:
    found = await ran(handler(f"import os, time\nprint('I got this far')\n{then}"), replace(SHORT, time_s=3.0))

    assert found.fault
    assert found.output == "I got this far\n"


async def test_the_traceback_of_what_it_raised_is_kept() -> None:
    found = await ran(handler("raise ValueError('first\\nsecond')"))

    assert "Traceback" in found.complaints
    assert "second" in found.complaints


async def test_one_that_is_async_is_told_so_and_not_passed_over() -> None:
    found = await ran(Function(name="mine", kind=Kind.HANDLER, source=b"async def handler(context, event): pass"))

    assert found.fault == "handler(context, event) is async, which is not supported: nothing of it was run"


def is_there(path: str) -> bool:
    return Path(path).exists()


async def test_a_file_it_writes_may_be_large_up_to_a_limit_and_is_gone_with_it() -> None:
    body = """
        import tempfile
        with tempfile.NamedTemporaryFile(delete=False) as made:
            print(made.name)
            made.truncate(40 << 20)
            made.truncate(80 << 20)
    """
    found = await ran(handler(body), replace(SHORT, file_max_bytes=50 << 20))

    assert found.fault == "it raised OSError: [Errno 27] File too large"
    assert "made.truncate(80 << 20)" in found.complaints
    assert not is_there(found.output.strip())


async def test_what_it_tells_is_read_up_to_a_limit() -> None:
    body = """
        import os
        with open(os.environ["LIBNOVA_CAPTURE"], "w") as kept:
            kept.write('{"call": "create_message", "text": "seen", "level": "INFO"}\\n')
            kept.truncate(20 << 20)
    """
    found = await ran(handler(body))

    assert found.fault == "it told LABDRIVE more than 16,777,216 bytes"
    assert [message.text for message in found.messages] == ["seen"]


async def test_one_that_ends_its_job_as_failed_has_failed_and_what_it_told_before_counts() -> None:
    found = await ran(
        handler(
            """
            from libnova.Labdrive.Nuclio.Request import Request
            request = Request(context, event)
            request.log("before")
            request.job_end(False)
            """
        )
    )

    assert found.fault == "it ended its job as failed"
    assert [message.text for message in found.messages] == ["before"]


async def test_without_a_handler_there_is_nothing_to_run() -> None:
    for source in (b"x = 1", b"handler = 3"):
        found = await ran(Function(name="mine", kind=Kind.HANDLER, source=source))
        assert found.fault == "the file has no function handler(context, event)"


async def test_it_has_no_more_of_our_environment_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHMILL_SECRETS__SEAL_KEY", "canary-77")

    found = await ran(handler("import os; print(sorted(os.environ))"), LIBNOVA_API_KEY="KEY")

    assert "HASHMILL" not in found.output
    assert "LIBNOVA_API_KEY" in found.output


async def test_cancelled_it_ends_the_child_and_leaves_nothing(tmp_path: Path) -> None:
    body = f"""
        import os, time
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """
    task = asyncio.create_task(ran(handler(body)))
    pid = tmp_path / "pid"
    await wait_until_async(lambda: pid.exists() and pid.read_text() != "", timeout_s=20)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    wait_until(lambda: not Path(f"/proc/{pid.read_text()}").exists(), timeout_s=10)


LEAVES_A_DAEMON = """
    import os, subprocess, sys
    daemon = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    open(PLACE + ".part", "w").write(str(daemon.pid))
    os.rename(PLACE + ".part", PLACE)
"""


def leaves_a_daemon(place: Path, then: str) -> Function:
    return handler(LEAVES_A_DAEMON.replace("PLACE", repr(str(place))) + f"    {then}\n")


def is_running(place: Path) -> bool:
    return Path(f"/proc/{place.read_text()}").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of the orphans beneath it")
@pytest.mark.parametrize("then", ["return", "raise ValueError", "import time; time.sleep(600)", "os._exit(0)"])
async def test_what_it_left_running_in_a_session_of_its_own_is_ended_with_it(tmp_path: Path, then: str) -> None:
    await ran(leaves_a_daemon(tmp_path / "pid", then), Limits(time_s=3.0, memory_bytes=1 << 30))

    assert not is_running(tmp_path / "pid")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
async def test_what_gets_away_by_ending_its_keeper_holds_no_worker_up(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    holds_the_pipes = LEAVES_A_DAEMON.replace(", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL", "")
    body = holds_the_pipes.replace("PLACE", repr(str(place))) + "    os.kill(os.getppid(), 9)\n"
    try:
        found = await ran(handler(body), Limits(time_s=3.0, memory_bytes=1 << 30))

        assert found.fault != ""
        assert is_running(place)
    finally:
        os.kill(int(place.read_text()), signal.SIGKILL)


async def test_one_that_holds_its_output_open_in_the_background_does_not_hold_the_file_up() -> None:
    found = await ran(handler("import os, time\nprint('here', flush=True)\nif os.fork() == 0:\n    time.sleep(600)"))

    assert (found.fault, found.output) == ("", "here\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_worker_that_is_killed_takes_its_function_and_all_beneath_it_along(tmp_path: Path) -> None:
    function = leaves_a_daemon(tmp_path / "pid", "import time; time.sleep(600)")
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import asyncio, sys; from hashmill.domain.function import *; from hashmill.functions.runner import run;"
            "function = Function(name='mine', kind=Kind.HANDLER, source=sys.stdin.buffer.read());"
            "asyncio.run(run(function, {}, environ={}, limits=Limits(time_s=600.0, memory_bytes=1 << 30)))",
        ],
        stdin=subprocess.PIPE,
    )
    assert worker.stdin is not None
    with worker.stdin as source:
        source.write(function.source)
    try:
        wait_until((tmp_path / "pid").exists, timeout_s=20)
    finally:
        worker.kill()
        worker.wait()

    wait_until(lambda: not is_running(tmp_path / "pid"), timeout_s=10)


def notebook(*cells: str) -> Function:
    made: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{at}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
        for at, text in enumerate(cells)
    ]
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}
    return Function(name="mine", kind=Kind.NOTEBOOK, source=json.dumps(document).encode())


async def test_a_notebook_is_run_cell_by_cell_for_the_event_it_is_given_and_its_copy_is_kept() -> None:
    limits = Limits(time_s=60.0, memory_bytes=8 << 30)
    found = await ran(
        notebook(
            "from types import SimpleNamespace\nfrom libnova.Labdrive.Nuclio.Request import Request",
            "request = Request(None, SimpleNamespace(body='{\"labdrive\": {}}'))\nprint([f.id for f in request.Files])",
            "request.log('from a cell')",
        ),
        limits,
    )

    assert found.fault == ""
    assert found.output == "['7']\n"
    assert [message.text for message in found.messages] == ["from a cell"]
    assert found.executed is not None
    outputs = [cell["outputs"] for cell in json.loads(found.executed)["cells"]]
    assert outputs[1][0]["text"] == ["['7']\n"]


async def test_a_cell_that_raises_ends_a_notebook_and_its_copy_shows_where() -> None:
    found = await ran(notebook("print('one')", "1 / 0", "print('three')"), Limits(time_s=60.0, memory_bytes=8 << 30))

    assert found.fault == "it raised ZeroDivisionError: division by zero"
    assert found.output == "one\n"
    assert found.executed is not None
    assert "ZeroDivisionError" in found.executed.decode()


async def test_a_cell_s_exception_of_many_lines_keeps_its_type() -> None:
    found = await ran(notebook("raise ValueError('first\\nsecond')"), Limits(time_s=60.0, memory_bytes=8 << 30))

    assert found.fault == "it raised ValueError: first"
    assert "second" in found.complaints


async def test_a_notebook_whose_kernel_dies_leaves_its_copy() -> None:
    found = await ran(notebook("print('one')", "import os; os._exit(1)"), Limits(time_s=60.0, memory_bytes=8 << 30))

    assert "DeadKernelError: Kernel died" in found.fault
    assert found.output == "one\n"
    assert found.executed is not None
    assert "one" in found.executed.decode()


def test_the_same_source_has_the_same_name() -> None:
    assert handler("pass").sha256 == handler("pass").sha256 != handler("return").sha256


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("File.set_hash('7', 'x' * 65, '00')", "it stored a hash that is none"),
        ("File.set_hash('7', 'mine', '\\ud800')", "it stored a hash that is none"),
        ("File.set_hash('7', '', '00')", "it stored a hash that is none"),
        ("JobMessage.create('299', 'x', file_id='7 or 8')", "it wrote a message for a file that is none"),
    ],
)
async def test_what_nobody_could_store_is_a_fault_of_the_function(call: str, fault: str) -> None:
    found = await ran(handler(f"from libnova.Labdrive.Api import File, JobMessage, Driver\n"
                              f"Driver.use(Driver.Driver('http://labdrive.invalid', 'KEY'))\n{call}"))  # fmt: skip

    assert found.fault.startswith(fault)
    assert found.hashes == {}


@pytest.mark.parametrize(
    "call",
    [
        "set_metadata('7', {'metadata': [{'iecode': 'title', 'value': 'x'}]})",
        "set_metadata_values('7', [{'iecode': 'title', 'value': ['x']}])",
    ],
)
async def test_one_that_writes_metadata_fails_and_writes_nothing(call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        found = await ran(
            handler(
                f"from libnova.Labdrive.Api import File, Driver\n"
                f"Driver.use(Driver.Driver({address!r}, 'KEY'))\nFile.{call}"
            )
        )

        assert "NotDelivered: A function under Hashmill cannot write metadata" in found.fault
        with pytest.raises(BlockingIOError):
            nobody.accept()


async def test_messages_are_bounded_and_hold_what_every_database_takes() -> None:
    found = await ran(
        handler(
            """
            from libnova.Labdrive.Nuclio.Request import Request
            request = Request(context, event)
            request.log("a\\0b" + "x" * 20_000)
            for number in range(1500):
                request.log(str(number))
            """
        )
    )

    assert found.fault == ""
    assert found.messages[0].text[:3] == "a\ufffdb"
    assert len(found.messages[0].text) == 10_000
    assert len(found.messages) == 1001
    assert found.messages[-1].text == "… and 501 more messages"
