"""
How does Hashmill stand beside what people use today, and beside the limits of the machine?

    .venv/bin/python -m benchmarks.contest one|many|small [--tls no|yes|both] [--rounds 5] [--files N] [--size-mib N]
                                           [--only WORD] [--ledger postgresql|sqlite] [--messages summary]

    one     1 object of 4 GiB               many    64 objects of 64 MiB               small   20,000 objects of 4 KiB

All in one run, forwards and backwards in turn, against one cheap S3 server (`benchmarks/source.py`) on the same
machine: the seed's loop, the same in 8 threads, rclone, the AWS command line, the limits of reading (curl) and hashing
(the kernel), Hashmill as a library, and the whole service with ledger and reports. Wall time, CPU seconds of the
contender and of the source apart, peak memory; medians with least and most. Each digest of each round is held against
hashlib's, computed before. Programs that are started anew for each pass are measured with their start; the others stay.
"""

import argparse
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.measured import Contender, Digests, checked_against, keep, say, summed_up, take_turns
from benchmarks.peers import ALGORITHMS
from benchmarks.source import Shelf, Source, make_certificate
from benchmarks.whole_service import WholeService, whole_service

MIB: Final = 1 << 20
ROUNDS: Final = 5
Maker = Callable[[Source, Shelf, Path], Contender]
MAKERS: Final[dict[str, Maker]] = {
    "seed": lambda source, shelf, _: peers.seed(source, shelf),
    "threads": lambda source, shelf, _: peers.seed_in_threads(source, shelf),
    "rclone3": lambda source, shelf, _: peers.rclone(source, shelf, *ALGORITHMS),
    "rclone1": lambda source, shelf, _: peers.rclone(source, shelf, "md5"),
    "aws3": lambda source, shelf, _: peers.aws(source, shelf, *ALGORITHMS),
    "aws1": lambda source, shelf, _: peers.aws(source, shelf, "md5"),
    "curl": peers.curl,
    "kernel": lambda source, shelf, _: peers.kernel(source, shelf),
    "library": lambda source, shelf, _: peers.library(source, shelf),
}
SERVICE: Final = "service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is read, and by whom besides the whole service."""

    question: str
    files: int
    size_bytes: int
    contenders: tuple[str, ...]


CASES: Final = {
    "one": Case(
        question="one large object",
        files=1,
        size_bytes=4096 * MIB,
        contenders=("seed", "aws1", "aws3", "rclone1", "rclone3", "curl", "kernel", "library"),
    ),
    "many": Case(
        question="many objects of middle size",
        files=64,
        size_bytes=64 * MIB,
        contenders=("seed", "threads", "rclone1", "rclone3", "curl", "kernel", "library"),
    ),
    "small": Case(
        question="many small objects",
        files=20_000,
        size_bytes=4096,
        contenders=("seed", "threads", "rclone1", "rclone3", "curl", "kernel", "library"),
    ),
}


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("case", choices=list(CASES))
    options.add_argument("--tls", default="no", choices=["no", "yes", "both"])
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--files", type=int)
    options.add_argument("--size-mib", type=float)
    options.add_argument("--only", action="append", choices=[*MAKERS, SERVICE])
    options.add_argument("--ledger", default="postgresql", choices=["postgresql", "sqlite"])
    options.add_argument("--messages", default="summary", choices=["per_digest", "per_file", "summary"])
    asked = options.parse_args(words)
    for tls in {"no": [False], "yes": [True], "both": [False, True]}[asked.tls]:
        contest(asked, tls=tls)


def contest(asked: argparse.Namespace, *, tls: bool) -> dict[str, Any]:
    """Run one case over plain HTTP or TLS, keep the result and return it."""
    case = CASES[asked.case]
    size_bytes = int(asked.size_mib * MIB) if asked.size_mib else case.size_bytes
    shelf = Shelf(container="1", count=asked.files or case.files, size_bytes=size_bytes)
    names = [name for name in case.contenders if not asked.only or name in asked.only]
    with_service = not asked.only or SERVICE in asked.only
    say(f"{case.question}: {shelf.count} x {shelf.size_bytes} bytes, {'TLS' if tls else 'plain HTTP'}")
    expected = digests_by_hashlib(shelf)
    with tempfile.TemporaryDirectory(prefix="hm-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        certificate = make_certificate(folder / "source.pem") if tls else None
        source = stack.enter_context(Source(folder / "source", [shelf], certificate=certificate))
        contenders: list[Contender] = []
        for each in names:
            contenders.append(MAKERS[each](source, shelf, folder))
            stack.callback(contenders[-1].close)
        service: WholeService | None = None
        if with_service:
            (service,) = stack.enter_context(
                whole_service(folder, source, [shelf], ledger=asked.ledger, messages=asked.messages)
            )
            contenders.append(service)
        check = checked_against(expected, shelf.count * shelf.size_bytes)
        found = take_turns(contenders, asked.rounds, check)
        if service:
            service.verify_ledger()
    scheme = "https" if tls else "http"
    result = {
        "question": case.question,
        "files": shelf.count,
        "file_bytes": shelf.size_bytes,
        "scheme": scheme,
        "ledger": asked.ledger,
        "messages": asked.messages,
        "n": asked.rounds,
        "digests_right": sum(len(t.digests or ()) for taken in found.values() for t in taken),
        "contenders": {name: summed_up(taken) for name, taken in found.items()},
    }
    full = (
        (shelf.count, shelf.size_bytes) == (case.files, case.size_bytes) and asked.rounds >= ROUNDS and not asked.only
    )
    keep(f"{asked.case}-{scheme}", result, full=full)
    print(told(result))
    return result


def told(result: dict[str, Any]) -> str:
    """Return a result as lines for a terminal, times against the seed's loop where it ran."""
    gib = result["files"] * result["file_bytes"] / (1 << 30)
    lines = [f"{'':34} {'wall s':>8} {'least':>8} {'most':>8} {'CPU s':>8} {'source':>7} {'RSS MiB':>8}  times"]
    base = result["contenders"].get("the seed's loop", {}).get("wall_s", {}).get("median")
    for name, row in result["contenders"].items():
        wall = row["wall_s"]
        cpu, server = (row["cpu_s"][whose]["median"] for whose in ("client", "server"))
        rss = max(row["peak_rss_mib"].get(name, 0) for name in ("client", "workers"))
        times = f"{base / wall['median']:6.2f}" if base else ""
        lines.append(
            f"{name:34} {wall['median']:8.2f} {wall['least']:8.2f} {wall['most']:8.2f} {cpu:8.2f} {server:7.2f}"
            f" {rss:8.0f} {times}"
        )
        if "workers" in row["cpu_s"]:
            lines.append(f"{'':6}CPU s: " + ", ".join(f"{w} {v['median']:.2f}" for w, v in row["cpu_s"].items()))
    lines.append(f"{result['files']} files, {gib:.2f} GiB, {result['scheme']}, medians of {result['n']}")
    return "\n".join(lines)


def digests_by_hashlib(shelf: Shelf) -> Digests:
    """Return what every digest must be; hashlib computes them from the source's own bytes."""

    def digest(job: tuple[int, str]) -> str:
        number, algorithm = job
        one = hashlib.new(algorithm, usedforsecurity=False)
        for piece in shelf.pieces(number):
            one.update(piece)
        return one.hexdigest()

    if shelf.size_bytes <= MIB:
        return {shelf.key(n): {name: digest((n, name)) for name in ALGORITHMS} for n in range(shelf.count)}
    jobs = [(number, name) for number in range(shelf.count) for name in ALGORITHMS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(jobs, pool.map(digest, jobs), strict=True))
    return {shelf.key(n): {name: found[n, name] for name in ALGORITHMS} for n in range(shelf.count)}


if __name__ == "__main__":
    main()
