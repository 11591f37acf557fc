"""
Runs seeds: many beside each other, or one with its story.

    make sim SEEDS=100000 HUGE=50        make sim SEED=1234        make sim HUGE_SEED=5
"""

import argparse
import gc
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass

from tests.sim.huge import HugeWorld, broken_huge, huge_plan_of, lived_huge
from tests.sim.invariants import broken
from tests.sim.ledger import Database
from tests.sim.mutations import MUTATIONS
from tests.sim.world import World, lived

CHUNK = 25
TAIL = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one seed ended: what was broken, and the hash of all that happened."""

    seed: int
    broken: tuple[str, ...]
    trace_hash: str
    huge: bool = False


class _Here:
    database: Database | None = None


def result_of(seed: int, *, mutation: str | None = None) -> tuple[Result, World]:
    """Live the world of `seed`, with a protection taken away if `mutation` names one."""
    _Here.database = _Here.database or Database()
    taken = MUTATIONS[mutation] if mutation else None
    with taken.applied() if taken else nullcontext():
        world = lived(_Here.database, seed, surely=taken.surely if taken else None)
        faults = tuple(broken(world))
    return Result(seed=seed, broken=faults, trace_hash=_hash_of(world)), world


def huge_result_of(seed: int) -> tuple[Result, HugeWorld]:
    """Live the world of `seed` that has a file of 5 TB in it."""
    _Here.database = _Here.database or Database()
    world = lived_huge(_Here.database, huge_plan_of(seed))
    return Result(seed=seed, broken=tuple(broken_huge(world)), trace_hash=_hash_of(world), huge=True), world


def _hash_of(world: World) -> str:
    return hashlib.blake2b(repr(world.trace).encode(), digest_size=16).hexdigest()


def results_of(seeds: Sequence[int], *, huge: bool = False) -> list[Result]:
    # A tenth of the time would go into looking for garbage of which there is little.
    gc.disable()
    try:
        return [(huge_result_of if huge else result_of)(seed)[0] for seed in seeds]
    finally:
        gc.enable()
        gc.collect()


def first_broken(seeds: Sequence[int], mutation: str | None = None) -> Result | None:
    """Return the first result of `seeds` that is broken."""
    return next((found for seed in seeds if (found := result_of(seed, mutation=mutation)[0]).broken), None)


def pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Return processes that start from nothing: what one test has loaded must not change what a seed does."""
    return ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn"))


def run_all(first: int, seeds: int, *, huge: bool = False) -> Iterator[Result]:
    """Yield the results of `seeds` seeds from `first`, in no order."""
    at_once = 1 if huge else CHUNK
    starts = iter(range(first, first + seeds, at_once))
    with pool() as processes:
        under_way: set[Future[list[Result]]] = set()
        while True:
            while len(under_way) < 2 * (os.cpu_count() or 1) and (start := next(starts, None)) is not None:
                chunk = range(start, min(start + at_once, first + seeds))
                under_way.add(processes.submit(results_of, chunk, huge=huge))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()


def told(result: Result) -> str:
    """Return what a person needs to repeat a broken seed."""
    return "\n".join(
        [f"make sim {'HUGE_' if result.huge else ''}SEED={result.seed}", *(f"    {fault}" for fault in result.broken)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make sim", description="Live simulated worlds, one per seed.")
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, help="live this one and tell its story")
    parser.add_argument("--huge", type=int, default=0, help="then so many worlds with a file of 5 TB")
    parser.add_argument("--huge-seed", type=int, help="live this one and tell its story")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="with --seed: without this protection")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        return _one(*result_of(asked.seed, mutation=asked.mutation))
    if asked.huge_seed is not None:
        return _one(*huge_result_of(asked.huge_seed))
    bad = _many(asked.first, asked.seeds, huge=False) + _many(asked.first, asked.huge, huge=True)
    return 1 if bad else 0


def _many(first: int, seeds: int, *, huge: bool) -> int:
    """Live the seeds, say what is broken and how far it is, and return how many are broken."""
    started = shown = time.monotonic()
    bad, what = 0, "huge seeds" if huge else "seeds"
    for count, result in enumerate(run_all(first, seeds, huge=huge), start=1):
        if result.broken:
            bad += 1
            print(told(result), flush=True)
        if (now := time.monotonic()) - shown > 5 or count == seeds:
            shown = now
            pace = count / (now - started)
            print(f"{count} of {seeds} {what}, {bad} broken, {pace:.2g} seeds/s", file=sys.stderr, flush=True)
    return bad


def _one(result: Result, world: World) -> int:
    rates = {fault: round(rate, 2) for fault, rate in world.plan.rates.items() if rate}
    for line in world.trace if not result.broken else world.trace[-TAIL:]:
        print(*(part for part in line if part != ""))
    print(f"seed {result.seed}: {len(world.trace)} lines, trace {result.trace_hash}, faults {rates}")
    print(told(result) if result.broken else "nothing is broken")
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
