"""What a contender took: seconds, CPU by whose it was, memory; and how rounds are run, summed up and kept."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, Protocol

from benchmarks.machine import HOME, circumstances

RESULTS: Final = HOME / "benchmarks" / "results"
TRIALS: Final = HOME / ".run" / "bench"
"""Where runs of less than full size leave their figures: those among the results are kept in git."""
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
WATCH_EVERY_S: Final = 0.1
Digests = Mapping[str, Mapping[str, str]]
"""Key -> algorithm -> hex digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one round took a contender.

    `cpu_s` is CPU seconds, user and system, by whose they were: `client` is always there and is what the contender
    itself used, `server` the source's. `rss_mib` is the largest resident set by process. `digests` is what it found,
    `read_bytes` instead for one that only reads.
    """

    wall_s: float
    cpu_s: Mapping[str, float]
    rss_mib: Mapping[str, float] = field(default_factory=dict)
    digests: Digests | None = None
    read_bytes: int | None = None


class Contender(Protocol):
    """Somebody who does the work once each time `run` is called."""

    @property
    def name(self) -> str: ...

    def run(self) -> Taken: ...

    def close(self) -> None: ...


class Wrong(Exception):
    """A contender found other digests than hashlib does, or did not read all of it."""


def take_turns(
    contenders: Sequence[Contender], rounds: int, check: Callable[[Contender, Taken], None]
) -> dict[str, list[Taken]]:
    """Let all run in each round, forwards and backwards in turn, and check what each found.

    A round before the first, which does not count, opens connections and fills caches.
    """
    found: dict[str, list[Taken]] = {one.name: [] for one in contenders}
    for number in range(rounds + 1):
        for one in contenders[:: 1 if number % 2 else -1]:
            taken = one.run()
            check(one, taken)
            if number:
                found[one.name].append(taken)
            cpu = ", ".join(f"{whose} {seconds:.2f}" for whose, seconds in taken.cpu_s.items())
            say(f"round {number or 'of warming up'}: {one.name}: {taken.wall_s:.2f} s; CPU s: {cpu}")
    return found


def checked_against(expected: Digests, size_bytes: int) -> Callable[[Contender, Taken], None]:
    """Return what raises `Wrong` unless every digest is as expected, and none is missing."""

    def check(one: Contender, taken: Taken) -> None:
        if taken.digests is None:
            if taken.read_bytes != size_bytes:
                raise Wrong(f"{one.name} read {taken.read_bytes} bytes of {size_bytes}")
            return
        if taken.digests.keys() != expected.keys():
            raise Wrong(f"{one.name} has digests of {len(taken.digests)} objects, not of {len(expected)}")
        for key, digests in taken.digests.items():
            if not digests:
                raise Wrong(f"{one.name} has no digest of {key}")
            for algorithm, digest in digests.items():
                if digest != expected[key][algorithm]:
                    raise Wrong(f"{one.name}: {algorithm} of {key} is {expected[key][algorithm]}, not {digest}")

    return check


def summed_up(rounds: Sequence[Taken]) -> dict[str, Any]:
    """Return median, least and most of everything, ready for JSON."""
    return {
        "wall_s": spread(taken.wall_s for taken in rounds),
        "cpu_s": {whose: spread(taken.cpu_s[whose] for taken in rounds) for whose in rounds[0].cpu_s},
        "peak_rss_mib": {name: round(max(t.rss_mib[name] for t in rounds), 1) for name in rounds[0].rss_mib},
    }


def spread(values: Iterable[float], digits: int = 4) -> dict[str, float | int]:
    """Return median, least and most, and of how many."""
    kept = list(values)
    return {
        "median": round(statistics.median(kept), digits),
        "least": round(min(kept), digits),
        "most": round(max(kept), digits),
        "n": len(kept),
    }


def keep(name: str, result: Mapping[str, Any], *, full: bool) -> Path:
    """Write a result with its circumstances and return the file; only one of full size goes among those kept."""
    folder = RESULTS if full else TRIALS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**result, **circumstances()}, indent=1) + "\n")
    say(f"written: {path.relative_to(HOME)}")
    return path


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


class CpuMeter:
    """CPU seconds of processes and all their children, from one moment on."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = groups
        self._before = self._now()

    def read(self) -> dict[str, float]:
        """Return the seconds since it was made, by group."""
        now = self._now()
        return {name: round(now[name] - self._before[name], 4) for name in self._groups}

    def _now(self) -> dict[str, float]:
        children, used = _processes()
        return {
            name: sum(used.get(each, 0.0) for pid in pids for each in _tree(pid, children))
            for name, pids in self._groups.items()
        }


class RssWatch:
    """The largest resident set that any process of a tree ever had, looked at until it is stopped.

    Not the kernel's own sum for a child: that begins with what its parent had when it forked.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most_mib = 0.0
        self._ended = Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the largest in MiB."""
        self._ended.set()
        self._thread.join()
        return self._most_mib

    def _look(self) -> None:
        while not self._ended.wait(WATCH_EVERY_S if self._most_mib else 0.01):
            for pid in _tree(self._pid, _processes()[0]):
                with suppress(OSError, ValueError):  # it has ended since
                    self._most_mib = max(self._most_mib, peak_rss_mib(pid))


def _processes() -> tuple[dict[int, list[int]], dict[int, float]]:
    """Return the children of each process, and the CPU seconds of each with those of children that it waited for."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # it has ended since
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        used[int(entry.name)] = sum(int(field) for field in fields[11:15]) / TICKS_PER_S
    return children, used


def _tree(pid: int, children: Mapping[int, Sequence[int]]) -> Iterator[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _tree(child, children)


def peak_rss_mib(pid: int) -> float:
    """Return the largest resident set a living process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise ValueError(pid)
