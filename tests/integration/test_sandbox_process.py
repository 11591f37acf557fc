"""The sandbox as a process of its own: it says when it answers, and ends cleanly when told to."""

import asyncio
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from hashmill.sandbox import start
from tests.helpers.sandbox import USER_KEY, calling, sandbox_config
from tests.helpers.wait import wait_until_async

PROGRAM = """
import sys
from pathlib import Path
from hashmill.sandbox import load_config, run_sandbox
run_sandbox(
    load_config(port=0, database=sys.argv[1]), on_ready=lambda sandbox: print(sandbox.url, flush=True)
)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_answers_stops_on_a_signal_and_has_written_everything(
    number: signal.Signals, tmp_path: Path
) -> None:
    database = tmp_path / "sandbox.sqlite3"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(database), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        headers = {"Authorization": "Bearer sandbox-user-key"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.post(f"{url}/api/job", json={"container_id": "1", "name": "kept"}) as answer:
                assert answer.status == 200
            process.send_signal(number)
            assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    connection = sqlite3.connect(database)
    assert connection.execute("SELECT name FROM jobs").fetchall() == [("kept",)]
    connection.close()
    assert b"sandbox-user-key" not in database.read_bytes()


async def test_a_port_that_is_taken_is_told_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await start(replace(sandbox_config(), port=taken.getsockname()[1]))


async def test_writes_reach_the_disk_without_anybody_stopping(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.sqlite3"
    async with calling(sandbox_config(database=str(path))) as caller:
        await caller.call("GET", "/api/container/1")
        with closing(sqlite3.connect(path)) as reader:
            await wait_until_async(lambda: reader.execute("SELECT count(*) FROM calls").fetchone()[0])


async def test_a_stopped_sandbox_answers_no_more_and_may_be_stopped_again() -> None:
    sandbox = await start(sandbox_config())
    await sandbox.stop()
    await sandbox.stop()

    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(f"{sandbox.url}/api/container/1", headers={"Authorization": f"Bearer {USER_KEY}"})
