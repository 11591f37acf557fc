"""Worlds made of seeds: the real steps over a virtual clock, beside whatever can befall them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from hashmill.home import app_home
from tests.sim.conftest import HUGE_SEEDS, SEEDS
from tests.sim.mutations import MUTATIONS
from tests.sim.run import first_broken, pool

REPEATED = range(1, 13)
ENOUGH = 60
"""So many seeds find any protection that is taken away."""


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with pool() as opened:
        yield opened


def test_a_seed_is_one_run_whatever_order_sets_have() -> None:
    stories = [
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from tests.sim.run import results_of\n"
                f"for result in results_of({order}(range({REPEATED.start}, {REPEATED.stop}))): "
                "sys.stdout.write(f'{result.seed} {result.trace_hash}\\n')",
            ],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=app_home(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed, order in (("1", "list"), ("2", "reversed"))
    ]

    assert len(stories[0].splitlines()) == len(REPEATED)
    assert sorted(stories[0].splitlines()) == sorted(stories[1].splitlines())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_protection_that_is_taken_away_is_missed(mutation: str, processes: ProcessPoolExecutor) -> None:
    found = processes.submit(first_broken, range(1, ENOUGH + 1), mutation).result()

    assert found is not None


# Last: until here the worlds had time to live beside the other tests.
@pytest.mark.timeout(1800)
def test_every_world_comes_to_rest_and_nothing_is_broken(lived: Callable[[], tuple[int, str]]) -> None:
    status, said = lived()

    assert status == 0, said
    assert f"{SEEDS} of {SEEDS} seeds, 0 broken" in said
    assert f"{HUGE_SEEDS} of {HUGE_SEEDS} huge seeds, 0 broken" in said
