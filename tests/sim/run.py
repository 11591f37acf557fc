"""
Runs seeds: many beside each other, or one with its story.

    make sim SEEDS=100000        make sim SEED=1234
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


class _Here:
    database: Database | None = None


def result_of(seed: int, *, mutation: str | None = None) -> tuple[Result, World]:
    """Live the world of `seed`, with a protection taken away if `mutation` names one."""
    _Here.database = _Here.database or Database()
    taken = MUTATIONS[mutation] if mutation else None
    with taken.applied() if taken else nullcontext():
        world = lived(_Here.database, seed, surely=taken.surely if taken else None)
        faults = tuple(broken(world))
    told = hashlib.blake2b(repr(world.trace).encode(), digest_size=16).hexdigest()
    return Result(seed=seed, broken=faults, trace_hash=told), world


def results_of(seeds: Sequence[int], mutation: str | None = None) -> list[Result]:
    # A tenth of the time would go into looking for garbage of which there is little.
    gc.disable()
    try:
        return [result_of(seed, mutation=mutation)[0] for seed in seeds]
    finally:
        gc.enable()
        gc.collect()


def first_broken(seeds: Sequence[int], mutation: str | None = None) -> Result | None:
    """Return the first result of `seeds` that is broken."""
    return next((found for seed in seeds if (found := result_of(seed, mutation=mutation)[0]).broken), None)


def pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Return processes that start from nothing: what one test has loaded must not change what a seed does."""
    return ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn"))


def run_all(first: int, seeds: int) -> Iterator[Result]:
    """Yield the results of `seeds` seeds from `first`, in no order."""
    starts = iter(range(first, first + seeds, CHUNK))
    with pool() as processes:
        under_way: set[Future[list[Result]]] = set()
        while True:
            while len(under_way) < 2 * (os.cpu_count() or 1) and (start := next(starts, None)) is not None:
                chunk = range(start, min(start + CHUNK, first + seeds))
                under_way.add(processes.submit(results_of, chunk))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()


def told(result: Result) -> str:
    """Return what a person needs to repeat a broken seed."""
    return "\n".join([f"make sim SEED={result.seed}", *(f"    {fault}" for fault in result.broken)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make sim", description="Live simulated worlds, one per seed.")
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, help="live this one and tell its story")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="with --seed: without this protection")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        return _one(asked.seed, asked.mutation)
    started = shown = time.monotonic()
    bad = 0
    for count, result in enumerate(run_all(asked.first, asked.seeds), start=1):
        if result.broken:
            bad += 1
            print(told(result), flush=True)
        if (now := time.monotonic()) - shown > 5 or count == asked.seeds:
            shown = now
            pace = count / (now - started)
            print(f"{count} of {asked.seeds} seeds, {bad} broken, {pace:.1f} seeds/s", file=sys.stderr, flush=True)
    return 1 if bad else 0


def _one(seed: int, mutation: str | None) -> int:
    result, world = result_of(seed, mutation=mutation)
    rates = {fault: round(rate, 2) for fault, rate in world.plan.rates.items() if rate}
    for line in world.trace if not result.broken else world.trace[-TAIL:]:
        print(*(part for part in line if part != ""))
    print(f"seed {seed}: {len(world.trace)} lines, trace {result.trace_hash}, faults {rates}")
    print(told(result) if result.broken else "nothing is broken")
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
