"""
The trial of suspects: a file that lost its lease is read in a process of its own, so that what it ends is not a worker.

If that process ends while the file is in its hands, the file is proven guilty, and nobody else is harmed. The worker
keeps lease and fence and writes the result.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from hashmill.domain import errors
from hashmill.domain.errors import HashmillError, Transient
from hashmill.domain.work import ClaimedFile, FileOutcome
from hashmill.ledger.runs import Run

log = logging.getLogger(__name__)

READY = b"ready\n"
LINE_MAX_BYTES = 4_194_304
"""More than any question or answer takes; a process that says more is not well."""
START_S = 60.0
END_S = 5.0
"""A process whose answer ended has so long to end itself."""
BEAT = b"\n"
BEAT_EVERY_S = 5.0
"""While it reads, the process says so often that its loop goes on, however large the file is."""
SILENCE_S = 60.0
"""A process that has said nothing for so long hangs. Its worker lives and keeps the lease: nobody else would end it."""
DRAIN = signal.SIGUSR1
"""Tells the process that its worker drains; it listens for it before it says that it is ready."""
NEWS_S = 0.05
"""The news that a process has ended takes less, if this one's loop has been busy elsewhere."""
REST_S = 5.0
"""After a process that could not begin the next one is not started sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the process is asked: to read one file for the worker `process`."""

    process: str
    run: Run
    file: ClaimedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One of our errors on its way between two processes."""

    name: str
    said: str
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> "Fault":
        said = str(error) if isinstance(error, HashmillError) else f"{type(error).__name__}: {error}"
        return cls(name=type(error).__name__, said=said, retry_after_s=getattr(error, "retry_after_s", None))

    def error(self) -> Exception:
        """Return the error of this name; what is none of ours was a bug."""
        kind = getattr(errors, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, HashmillError)):
            return RuntimeError(self.said)
        error = kind.__new__(kind, self.said)  # its __init__ may want what did not travel
        if isinstance(error, Transient):
            error.retry_after_s = self.retry_after_s
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How it ended, one of the two."""

    outcome: FileOutcome | None = None
    fault: Fault | None = None


QUESTION = TypeAdapter(Question)
ANSWER = TypeAdapter(Answer)


class TrialEnded(Exception):
    """The process ended with the file in its hands; says how."""


class TrialGone(Exception):
    """The process had ended before it was given the file; says how."""


class Trial:
    """The one process of a worker in which suspects are read: started when first needed, then kept."""

    def __init__(self, argv: Sequence[str], *, environ: Mapping[str, str] | None = None) -> None:
        self._argv = [*argv, str(os.getpid())]
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def warm_up(self) -> "asyncio.Task[None] | None":
        """Have the process started unless it is there; return what can be waited for."""
        if self.ready:
            return None
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
        return self._starting

    async def _start(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_MAX_BYTES,
                env=self._environ,
                start_new_session=True,  # Ctrl-C is for the worker
            )
        except OSError as error:  # no memory, or no process more: the file has no part in it
            log.error("trial_not_started", extra={"reason": str(error)})
            await asyncio.sleep(REST_S)
            return
        try:
            async with asyncio.timeout(START_S):
                line = await _line_from(process)
        except TimeoutError:
            line = b""
        except asyncio.CancelledError:
            await _ended(process, within_s=0)
            raise
        if line == READY:
            self._process = process
            return
        await _ended(process, within_s=0)
        log.error("trial_not_started", extra={"status": process.returncode})
        await asyncio.sleep(REST_S)

    async def read(self, question: Question) -> FileOutcome:
        """Return how the read of one file ended, or raise what it raised; `TrialEnded` when the process did not live.

        Only while `ready`; `TrialGone` when it was dead all the same. Cancelled, it ends the process.
        """
        process = self._process
        if process is None or process.stdin is None:
            raise RuntimeError("the trial was not started")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEWS_S):
                await process.wait()
        if process.returncode is not None:
            raise TrialGone(_how(process.returncode))
        try:
            process.stdin.write(QUESTION.dump_json(question) + b"\n")
            line = await _heard_from(process)
            if line is None:
                await _ended(process, within_s=0)
                raise TrialEnded(f"silence for {SILENCE_S:g} s")
            answer = _answer_in(line)
            if answer is None:
                await _ended(process, within_s=0 if line else END_S)
                raise TrialEnded("its answer made no sense" if line else _how(process.returncode))
        except asyncio.CancelledError:
            await self.stop()
            raise
        if answer.outcome is not None:
            return answer.outcome
        raise (answer.fault or Fault(name="", said="an empty answer")).error()

    def drain(self) -> None:
        """Let the process end the slice it reads now: its worker was told to stop."""
        if self._process is not None and self.ready:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(DRAIN)

    async def stop(self) -> None:
        """End the process, whatever it does."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._process is not None:
            await _ended(self._process, within_s=0)
        self._starting = self._process = None


async def _line_from(process: asyncio.subprocess.Process) -> bytes:
    """Return the next line, empty when the process is gone."""
    if process.stdout is None:
        return b""
    try:
        return await process.stdout.readline()
    except ConnectionError:
        return b""
    except ValueError:  # longer than LINE_MAX_BYTES
        return b"?"


async def _heard_from(process: asyncio.subprocess.Process) -> bytes | None:
    """Return the next line that says more than that the process goes on; None when it has not said even that."""
    silent = 0
    # Twice, as this process may have been stopped itself: then the first time proves nothing.
    while silent < 2:
        try:
            async with asyncio.timeout(SILENCE_S / 2):
                line = await _line_from(process)
        except TimeoutError:
            silent += 1
            continue
        if line != BEAT:
            return line
        silent = 0
    return None


def _answer_in(line: bytes) -> Answer | None:
    try:
        return ANSWER.validate_json(line)
    except ValidationError:
        return None


async def _ended(process: asyncio.subprocess.Process, *, within_s: float) -> None:
    """Wait for the end of a process that is at its end; end it when that does not come."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"signal {-status} ({signal.strsignal(-status)})"
    return f"exit status {status}"
