"""
Does a file cost more when there are more of them?

    .venv/bin/python -m benchmarks.growth [--most 100000] [--file-bytes 4096] [--ledger postgresql|sqlite]

Containers of 1,000, 10,000, 100,000 and more small files go one after the other through one whole service: its workers,
its leader and its ledger see all of them, and grow old on the way. CPU milliseconds a file by whose they are, wall
time, and the memory of each process after each size; the small sizes are run several times and their median counts.
Every digest of every run is held against hashlib. What the sandbox LABDRIVE uses stands apart: where it uses a whole
core, the wall time is its own and not ours.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.contest import digests_by_hashlib
from benchmarks.measured import Taken, checked_against, keep, say, spread
from benchmarks.source import Shelf, Source
from benchmarks.whole_service import WholeService, whole_service

LEAST: Final = 1000
MOST: Final = 100_000
REPEATS: Final = {1000: 9, 10_000: 3}
"""How often a size is run, where that is more than once: a short run is met by every wind."""
OURS: Final = ("workers", "leader", "intake")


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--least", type=int, default=LEAST)
    options.add_argument("--most", type=int, default=MOST)
    options.add_argument("--file-bytes", type=int, default=4096)
    options.add_argument("--ledger", default="postgresql", choices=["postgresql", "sqlite"])
    options.add_argument("--messages", default="summary", choices=["per_digest", "per_file", "summary"])
    asked = options.parse_args(words)
    sizes = [asked.least]
    while sizes[-1] * 10 <= asked.most:
        sizes.append(sizes[-1] * 10)
    shelves = [Shelf(container=str(at), count=size, size_bytes=asked.file_bytes) for at, size in enumerate(sizes, 1)]
    with tempfile.TemporaryDirectory(prefix="hm-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        source = stack.enter_context(Source(folder / "source", shelves))
        services = stack.enter_context(
            whole_service(folder, source, shelves, ledger=asked.ledger, messages=asked.messages)
        )
        say("a run that does not count")
        services[0].run()
        rows = [grown(one) for one in services]
        services[0].verify_ledger()
    first, last = (row["cpu_ms_per_file"]["client"]["median"] for row in (rows[0], rows[-1]))
    result = {
        "question": "what a small file costs as their number grows, through the whole service",
        "file_bytes": asked.file_bytes,
        "ledger": asked.ledger,
        "messages": asked.messages,
        "sizes": rows,
        "most_over_least_files": round(last / first, 4),
    }
    keep("growth", result, full=asked.most >= MOST and asked.least == LEAST)
    print(told(rows))


def grown(service: WholeService) -> dict[str, Any]:
    """Run one size as often as it is due and return its row."""
    shelf = service.shelf
    check = checked_against(digests_by_hashlib(shelf), shelf.count * shelf.size_bytes)
    rounds: list[Taken] = []
    for _ in range(REPEATS.get(shelf.count, 1)):
        taken = service.run()
        check(service, taken)
        rounds.append(taken)
        busy = ", ".join(f"{whose} {1000 * cpu / shelf.count:.3f}" for whose, cpu in taken.cpu_s.items())
        say(f"{shelf.count} files: {taken.wall_s:.2f} s; CPU ms a file: {busy}")
    return {
        "files": shelf.count,
        "wall_s": spread(taken.wall_s for taken in rounds),
        "files_per_s": spread((shelf.count / taken.wall_s for taken in rounds), 1),
        "cpu_ms_per_file": {
            whose: spread(1000 * taken.cpu_s[whose] / shelf.count for taken in rounds) for whose in rounds[0].cpu_s
        },
        "labdrive_cores": spread((taken.cpu_s["labdrive"] / taken.wall_s for taken in rounds), 2),
        "peak_rss_mib": rounds[-1].rss_mib,
    }


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as lines for a terminal."""
    lines = [
        f"{'files':>9} {'wall s':>9} {'files/s':>8} {'ours ms':>8} {'worker':>7} {'leader':>7} {'LABDRIVE':>8}  RSS MiB"
    ]
    for row in rows:
        cpu = row["cpu_ms_per_file"]
        rss = ", ".join(f"{name} {row['peak_rss_mib'][name]:.0f}" for name in OURS)
        lines.append(
            f"{row['files']:9} {row['wall_s']['median']:9.2f} {row['files_per_s']['median']:8.0f}"
            f" {cpu['client']['median']:8.3f} {cpu['workers']['median']:7.3f} {cpu['leader']['median']:7.3f}"
            f" {cpu['labdrive']['median']:8.3f}  {rss}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
