"""Following a run to its end, from the ledger or over HTTP, shown as a live bar, as lines, or as JSON lines."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import typer

from hashmill.cli.console import console, duration, print_json_line, size
from hashmill.domain.errors import Transient
from hashmill.domain.job import RunState
from hashmill.domain.text import one_line

LOOK_EVERY_S = 0.5
RATE_OVER_S = 10.0
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a run is. `files_done` counts what was hashed, `reports_owed` what LABDRIVE has not been told yet."""

    run_id: str
    state: RunState
    files_total: int
    files_done: int
    files_failed: int
    bytes_total: int
    bytes_done: int
    reports_owed: int
    error_class: str | None = None
    error_detail: str | None = None


class Speed:
    """How fast a run has been going over the last seconds."""

    def __init__(self, *, over_s: float = RATE_OVER_S) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def see(self, at_s: float, now: Standing) -> None:
        """Take one more look into account."""
        self._seen.append((at_s, now.bytes_done, now.files_done + now.files_failed))
        while len(self._seen) > 2 and self._seen[1][0] <= at_s - self._over_s:
            self._seen.popleft()

    @property
    def bytes_per_s(self) -> float:
        return self._rate(1)

    def left_s(self, now: Standing) -> float | None:
        """Return how long the rest will take at this speed, by whichever of bytes and files takes longer."""
        rest = (now.bytes_total - now.bytes_done, now.files_total - now.files_done - now.files_failed)
        rates = (self._rate(1), self._rate(2))
        times = [left / rate for left, rate in zip(rest, rates, strict=True) if left > 0 and rate > 0]
        return max(times, default=None)

    def _rate(self, which: int) -> float:
        if len(self._seen) < 2:
            return 0.0
        first, last = self._seen[0], self._seen[-1]
        return max(0.0, (last[which] - first[which]) / max(1e-9, last[0] - first[0]))


Show = Callable[[Standing, Speed], None]


async def follow(
    look: Callable[[], Awaitable[Standing]],
    show: Show,
    *,
    every_s: float = LOOK_EVERY_S,
    patience_s: float = PATIENCE_S,
) -> Standing:
    """Look at the run again and again, show each look, and return the last one: the run has ended.

    What cannot be reached for a while is waited for, `patience_s` at most; then its `Transient` is raised.
    """
    speed = Speed()
    seen_s = time.monotonic()
    while True:
        try:
            now = await look()
        except Transient:
            if time.monotonic() - seen_s > patience_s:
                raise
        else:
            seen_s = time.monotonic()
            speed.see(seen_s, now)
            show(now, speed)
            if now.state.ended:
                return now
        await asyncio.sleep(every_s)


@contextmanager
def shown(*, as_json: bool) -> Iterator[Show]:
    """Give the way to show a run that suits where standard output goes."""
    if as_json:
        yield _once_each(lambda now, speed: print_json_line(_document(now, speed)))
    elif sys.stdout.isatty():
        with _bar() as show:
            yield show
    else:
        yield _once_each(lambda now, speed: typer.echo(f"{now.state.value}: {', '.join(_parts(now, speed))}"))


def _document(now: Standing, speed: Speed) -> dict[str, Any]:
    left_s = speed.left_s(now)
    return {
        **asdict(now),
        "bytes_per_s": round(speed.bytes_per_s),
        "eta_s": None if left_s is None or now.state.ended else round(left_s),
    }


def _parts(now: Standing, speed: Speed) -> list[str]:
    return [part for part in (_files(now), _bytes(now), _rate(now, speed), _left(now, speed)) if part]


def _files(now: Standing) -> str:
    failed = f" ({now.files_failed} failed)" if now.files_failed else ""
    return f"{now.files_done + now.files_failed} of {now.files_total} files{failed}"


def _bytes(now: Standing) -> str:
    return f"{size(now.bytes_done)} of {size(now.bytes_total)}"


def _rate(now: Standing, speed: Speed) -> str:
    return "" if now.state.ended else f"{size(speed.bytes_per_s)}/s"


def _left(now: Standing, speed: Speed) -> str:
    left_s = speed.left_s(now)
    if left_s is not None and not now.state.ended:
        return f"{duration(left_s)} left"
    return f"{now.reports_owed} reports owed" if now.reports_owed else ""


def _once_each(print_: Show) -> Show:
    """Show only what differs from the look before."""
    before: list[Standing] = []

    def show(now: Standing, speed: Speed) -> None:
        if before != [now]:
            before[:] = [now]
            print_(now, speed)

    return show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (TextColumn(f"{{task.fields[{name}]}}") for name in ("files", "bytes", "rate", "left"))
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), *columns, console=console()) as bar:
        task = bar.add_task("", total=None, files="", bytes="", rate="", left="")

        def show(now: Standing, speed: Speed) -> None:
            known = now.state not in (RunState.ACCEPTED, RunState.EXPANDING)
            # One step a file and one a KiB: neither many small files nor one big one stands still.
            total = now.files_total + now.bytes_total // 1024
            done = now.files_done + now.files_failed + now.bytes_done // 1024
            if now.state.ended:
                total, done = 1, 1
            bar.update(
                task,
                description=now.state.value,
                total=max(1, total) if known else None,
                completed=done,
                files=_files(now),
                bytes=_bytes(now),
                rate=_rate(now, speed),
                left=_left(now, speed),
                refresh=True,
            )

        yield show


def conclusion(now: Standing) -> str:
    """Return the last line about a run that has ended."""
    if now.state is RunState.COMPLETED:
        return f"run {now.run_id} completed"
    reason = one_line(f": {now.error_class}: {now.error_detail or ''}", max_chars=500) if now.error_class else ""
    return f"run {now.run_id} {now.state.value}{reason}; see `hashmill runs show {now.run_id}`"
