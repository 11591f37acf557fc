"""
The process in which suspects are read: `python -P trial.py PID`, started by the worker of that id.

One question a line on standard input, one answer a line on standard output; see `hashmill.flow.trial`. It has no
ledger, no broker and no key of LABDRIVE. It ends with its worker, whatever either of them is doing.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from hashmill import logs
from hashmill.assemble import open_mill
from hashmill.domain.errors import HashmillError
from hashmill.domain.work import FileOutcome
from hashmill.flow.hash_one import read_one
from hashmill.flow.tools import MillTools
from hashmill.flow.trial import ANSWER, BEAT, BEAT_EVERY_S, DRAIN, LINE_MAX_BYTES, QUESTION, READY, Answer, Fault
from hashmill.settings import Settings, read_settings

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
FIRST_VICTIM = "500"
"""Where memory runs out, this process goes before its worker does (known: proc(5), oom_score_adj)."""


def main() -> None:
    """Answer questions until there are no more."""
    _die_with(int(sys.argv[1]))
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed goes to the log
    settings = read_settings()
    logs.configure(level=settings.logging.level, format=settings.logging.format)
    asyncio.run(_serve(settings, answers))


def _die_with(worker_pid: int) -> None:
    # A supervisor may tell the whole group to stop; the worker decides what that means for us.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # Fires when the thread that forked ends: the worker's loop, which lives as long as the worker.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(FIRST_VICTIM)
    if os.getppid() != worker_pid:
        raise SystemExit(1)


async def _serve(settings: Settings, answers: int) -> None:
    questions = asyncio.StreamReader(limit=LINE_MAX_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    async with open_mill(settings, process="") as mill:
        loop.add_signal_handler(DRAIN, mill.draining.set)
        os.write(answers, READY)
        line = await questions.readline()
        while line:
            following = asyncio.create_task(questions.readline())
            work = asyncio.create_task(_answer(mill, line))
            while not work.done():
                await asyncio.wait([work, following], timeout=BEAT_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                if following.done() and not work.done():
                    os._exit(0)  # nobody is there to hear the answer
                _write(answers, BEAT)
            _write(answers, ANSWER.dump_json(work.result()) + b"\n")
            line = await following


async def _answer(mill: MillTools, line: bytes) -> Answer:
    question = QUESTION.validate_json(line)
    mine = MillTools(
        process=question.process,
        rules=mill.rules,
        storage=mill.storage,
        engine=mill.engine,
        place_of=mill.place_of,
        draining=mill.draining,
        clock_s=mill.clock_s,
    )
    # Gathered, so that a bug is an answer like any other: only what ends the process is proof against the file.
    [ended] = await asyncio.gather(read_one(mine, question.run, question.file), return_exceptions=True)
    if isinstance(ended, FileOutcome):
        return Answer(outcome=ended)
    if not isinstance(ended, HashmillError):
        log.error("file_bug", extra={"run_id": question.run.run_id}, exc_info=ended)
    return Answer(fault=Fault.of(ended))


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


if __name__ == "__main__":
    main()
