"""The crew that `hashmill up` keeps: children are started again, drained, killed, and never outlive their parent."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hashmill.cli.children import Crew, Order
from hashmill.cli.exits import ExitCode
from tests.helpers.wait import wait_until, wait_until_async

DRAINS = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("up", flush=True)
    while True: time.sleep(0.05)
"""
IS_DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up", flush=True)
    while True: time.sleep(0.05)
"""


class Heard:
    """What the children of a crew said, line by line."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def count(self, text: str) -> int:
        return sum(text in line for _, line in self.lines)

    def pid(self, name: str = "child") -> int:
        """Return the process id of the child's newest start."""
        return int([line for who, line in self.lines if who == name and "started as" in line][-1].split()[-1])


def order(program: str, name: str = "child", *, grace_s: float = 5.0) -> Order:
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    return Order(name=name, argv=argv, environ=os.environ.copy(), grace_s=grace_s)


@asynccontextmanager
async def kept(
    *orders: Order, pauses_s: tuple[float, ...] = (0.01,), healthy_after_s: float = 60.0
) -> AsyncIterator[tuple[Crew, Heard, "asyncio.Task[None]"]]:
    heard = Heard()
    crew = Crew(orders, heard, pauses_s=pauses_s, healthy_after_s=healthy_after_s)
    keeping = asyncio.create_task(crew.keep())
    try:
        yield crew, heard, keeping
    finally:
        crew.stop()
        crew.kill()
        await keeping


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_ends_is_started_again() -> None:
    async with kept(order("print('here')")) as (_, heard, _keeping):
        await wait_until_async(lambda: heard.count("started as process") >= 3)

        assert heard.count("here") >= 2
        assert heard.count("ended with status 0; starting it again") >= 2


async def test_a_killed_child_is_started_again() -> None:
    async with kept(order(DRAINS)) as (_, heard, _keeping):
        await wait_until_async(lambda: heard.count("up") == 1)
        os.kill(heard.pid(), signal.SIGKILL)
        await wait_until_async(lambda: heard.count("up") == 2)

        assert heard.count("ended with status 137") == 1


async def test_pauses_grow_until_the_last_one_and_begin_anew_after_a_healthy_life() -> None:
    def pauses(heard: Heard) -> list[str]:
        return [line.split(" in ")[1] for _, line in heard.lines if " in " in line]

    async with kept(order("pass"), pauses_s=(0.01, 0.02, 0.03)) as (_, heard, _keeping):
        await wait_until_async(lambda: len(pauses(heard)) >= 5)
        assert pauses(heard)[:5] == ["0.01 s", "0.02 s", "0.03 s", "0.03 s", "0.03 s"]
    async with kept(order("pass"), pauses_s=(0.01, 0.02), healthy_after_s=0.0) as (_, heard, _keeping):
        await wait_until_async(lambda: len(pauses(heard)) >= 3)
        assert set(pauses(heard)) == {"0.01 s"}


async def test_stop_lets_every_child_end_in_order_and_starts_none_again() -> None:
    async with kept(order(DRAINS, "one"), order(DRAINS, "two")) as (crew, heard, keeping):
        await wait_until_async(lambda: heard.count("up") == 2)
        crew.stop()
        await asyncio.wait_for(keeping, 10)

        assert heard.count("started as process") == 2
        assert heard.count("ended with status 0") == 2
        assert crew.verdict is ExitCode.OK


async def test_kill_ends_a_child_that_does_not_listen() -> None:
    async with kept(order(IS_DEAF)) as (crew, heard, keeping):
        await wait_until_async(lambda: heard.count("up") == 1)
        crew.stop()
        crew.kill()
        await asyncio.wait_for(keeping, 10)

        assert not lives(heard.pid())
        assert crew.verdict is ExitCode.BAD


async def test_a_child_whose_settings_are_wrong_stops_the_crew() -> None:
    async with kept(order(DRAINS, "good"), order("import sys; sys.exit(3)", "bad")) as (crew, heard, keeping):
        await asyncio.wait_for(keeping, 10)

        assert crew.verdict is ExitCode.CONFIG
        assert ("bad", "ended because of its settings; stopping everything") in heard.lines
        assert not lives(heard.pid("good"))


async def test_lines_of_any_length_and_any_bytes_are_passed_on_whole() -> None:
    program = """
        import sys
        sys.stdout.buffer.write(b"x" * 300_000 + b"\\n" + b"\\xff\\n" + b"no end")
        sys.stdout.flush()
    """
    async with kept(order(program), pauses_s=(60.0,)) as (_, heard, _keeping):
        await wait_until_async(lambda: heard.count("ended with") == 1)

        said = [line for _, line in heard.lines[1:-1]]
        assert said == ["x" * 300_000, "\ufffd", "no end"]


def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
        import asyncio, os, sys
        from hashmill.cli.children import Crew, Order
        argv = [sys.executable, "-c", {textwrap.dedent(DRAINS)!r}]
        order = Order(name="child", argv=argv, environ=dict(os.environ), grace_s=5.0)
        asyncio.run(Crew([order], lambda name, line: print(line, flush=True)).keep())
    """
    log = tmp_path / "parent.log"
    with log.open("wb") as out:
        parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=out, stderr=out)
    said: Callable[[], str] = log.read_text
    try:
        wait_until(lambda: "up" in said(), 20)
        child_pid = int(said().split("process ")[1].split()[0])
        parent.kill()

        wait_until(lambda: not lives(child_pid), 10)
    finally:
        parent.kill()
        parent.wait()
