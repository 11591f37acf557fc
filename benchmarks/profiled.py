"""
Where does the CPU of the whole service go?

    .venv/bin/python -m benchmarks.profiled [--files 5000] [--file-bytes 4096] [--ledger postgresql|sqlite] [--lines 25]

One run that does not count, then one during which py-spy (of the peers' environment) takes samples of a worker and of
the leader. Written for each: the CPU of its threads, which the kernel counts and nobody guesses; then the share of each
part of the project and each library (the innermost frame that is ours, and the package of the innermost frame), and the
functions with the most time of their own. Samples of threads that wait are left out by the names of what they wait in.
Stacks stay in .run/bench/, one a line, for a flame graph.
"""

import argparse
import json
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from benchmarks.measured import TICKS_PER_S, TRIALS, say
from benchmarks.peers import PEERS
from benchmarks.source import Shelf, Source
from benchmarks.whole_service import whole_service

RATE_HZ: Final = 100
WAITING: Final = re.compile(
    r"(futures/thread.py _worker|threading.py \w*.?(wait|acquire|join)|eventio.py \S*poll|selectors.py \S*select"
    r"|psycopg/connection.py \S*wait|_read_response|_read_from_socket|worker/house.py watch|queue.py \S*get)$"
)
"""Innermost frames in which a thread uses no CPU: py-spy cannot always tell."""
_FRAME: Final = re.compile(r"^(.*) \((.*?)(?::\d+)?\)$")


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=5000)
    options.add_argument("--file-bytes", type=int, default=4096)
    options.add_argument("--ledger", default="postgresql", choices=["postgresql", "sqlite"])
    options.add_argument("--messages", default="summary", choices=["per_digest", "per_file", "summary"])
    options.add_argument("--lines", type=int, default=25)
    asked = options.parse_args(words)
    TRIALS.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(container="1", count=asked.files, size_bytes=asked.file_bytes)
    with tempfile.TemporaryDirectory(prefix="hm-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        source = stack.enter_context(Source(folder / "source", [shelf]))
        (service,) = stack.enter_context(
            whole_service(folder, source, [shelf], ledger=asked.ledger, messages=asked.messages)
        )
        service.run()
        pids: dict[str, int] = {"worker": service.pids("workers")[0], "leader": service.pids("leader")[0]}
        spies = {role: spy(role, pid) for role, pid in pids.items()}
        before = {role: threads_s(pid) for role, pid in pids.items()}
        taken = service.run()
        threads = {role: by_thread(threads_s(pid), before[role]) for role, pid in pids.items()}
        for spying in spies.values():
            spying.send_signal(signal.SIGINT)
            spying.wait()
    say(", ".join(f"{whose} {1000 * cpu / asked.files:.3f} ms" for whose, cpu in taken.cpu_s.items()))
    for role in spies:
        named = ", ".join(f"{name} {1000 * cpu / asked.files:.3f}" for name, cpu in threads[role].most_common())
        print(f"{role}, CPU ms a file by thread: {named}")
        print(summary(role, (TRIALS / f"stacks-{role}.txt").read_text(), asked.lines))


def threads_s(pid: int) -> dict[tuple[int, str], float]:
    """Return the CPU seconds of each thread so far, by its id and Python's name for it."""
    told = subprocess.run(
        [PEERS / "py-spy", "dump", "--pid", str(pid), "--json", "--nonblocking"], stdout=subprocess.PIPE, check=False
    )
    names = {each["os_thread_id"]: each["thread_name"] for each in json.loads(told.stdout or b"[]")}
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended since
            fields = (task / "stat").read_text().rpartition(") ")[2].split()
            used_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
            found[int(task.name), str(names.get(int(task.name)) or "not Python's")] = used_s
    return found


def by_thread(after: dict[tuple[int, str], float], before: dict[tuple[int, str], float]) -> Counter[str]:
    """Return the CPU seconds between two looks by kind of thread: its name without its number."""
    earlier = {thread: used_s for (thread, _), used_s in before.items()}
    found: Counter[str] = Counter()
    for (thread, name), used_s in after.items():
        found[re.sub(r"[-_]?\d+(_\d+)?( \(.*\))?$", "", name)] += used_s - earlier.get(thread, 0.0)  # type: ignore[assignment]
    return found


def spy(role: str, pid: int) -> subprocess.Popen[bytes]:
    """Start sampling a process until it is interrupted."""
    out = TRIALS / f"stacks-{role}.txt"
    out.unlink(missing_ok=True)
    words = ["record", "--pid", str(pid), "--rate", str(RATE_HZ), "--format", "raw", "--output", str(out)]
    return subprocess.Popen(
        [PEERS / "py-spy", *words, "--duration", "3600", "--nonblocking"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def summary(role: str, text: str, lines: int) -> str:
    """Return the shares of a process's samples as text."""
    ours: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    total = 0
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if _FRAME.match(frame)]
        if not frames or WAITING.search(_short(frames[-1])):
            continue
        total += int(count)
        inner = frames[-1]
        alone[_short(inner)] += int(count)
        packages[_package(inner)] += int(count)
        ours[next((_short(f) for f in reversed(frames) if re.search(r"\b(hashmill|worker|tasks)/", f)), "-")] += int(
            count
        )
    parts = []
    for title, found in (("innermost of ours", ours), ("package", packages), ("function itself", alone)):
        shares = "\n".join(f"  {100 * n / max(1, total):5.1f} %  {name}" for name, n in found.most_common(lines))
        parts.append(f"{role}, {total} samples, by {title}:\n{shares}")
    return "\n".join(parts)


def _short(frame: str) -> str:
    function, path = _parts(frame)
    return f"{'/'.join(Path(path).parts[-2:])} {function}"


def _package(frame: str) -> str:
    path = _parts(frame)[1]
    if "/" not in path or path.startswith("<"):
        return path or "native"
    head = path.partition("site-packages/")[2].split("/") if "site-packages/" in path else path.split("/")
    return "/".join(head[:2]) if head[0] == "hashmill" else head[0]


def _parts(frame: str) -> tuple[str, str]:
    found = _FRAME.match(frame)
    return (found[1], found[2]) if found else (frame, "")


if __name__ == "__main__":
    main()
