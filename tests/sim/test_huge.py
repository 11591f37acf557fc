"""What keeps a file of terabytes safe, taken away: its world must miss it. The file of 5 TB is in `test_sim`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from hashmill.flow import slices as step
from hashmill.hashing import saved
from hashmill.ledger import files, slices
from tests.sim.huge import UNIT_BYTES, broken_huge, huge_plan_of, lived_huge
from tests.sim.ledger import Database
from tests.sim.plan import FAULTS, Plan

SMALLER_BYTES = 300_000_000_000
SEEDS = range(1, 7)
HORIZON_S = 600.0

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not saved.can_be_saved(["md5", "sha1", "sha256"]), reason="no state can be saved here"),
]


@pytest.fixture(scope="module")
def database() -> Database:
    return Database()


def smaller(seed: int, **only: float) -> Plan:
    """Return the plan of `seed` for a smaller file, with no faults but these where some are named."""
    plan = replace(huge_plan_of(seed), horizon_s=HORIZON_S)
    return replace(plan, rates=dict.fromkeys(FAULTS, 0.0) | only) if only else plan


@contextmanager
def no_slice_is_kept() -> Iterator[None]:
    with patch.object(slices, "keep", lambda *_: None):
        yield


@contextmanager
def no_slice_ends_before_the_file_does() -> Iterator[None]:
    with patch.object(step, "_enough", lambda *_, **__: None):
        yield


@contextmanager
def a_slice_begins_before_the_last_one_ended() -> Iterator[None]:
    with_saved = slices.with_saved

    def before(*args: Any) -> Any:
        return [
            replace(file, saved=file.saved and replace(file.saved, offset_bytes=file.saved.offset_bytes - UNIT_BYTES))
            for file in with_saved(*args)
        ]

    with patch.object(slices, "with_saved", before):
        yield


@contextmanager
def a_slice_is_of_whatever_object_is_there() -> Iterator[None]:
    with patch.object(step, "ObjectHead", lambda **_: None):
        yield


@contextmanager
def a_slice_is_kept_whoever_comes_with_it() -> Iterator[None]:
    settle = files.settle

    def without(connection: Any, run_id: str, outcomes: Any) -> int:
        slices.keep(connection, run_id, outcomes)
        return settle(connection, run_id, outcomes)

    without.__qualname__, without.__module__ = "settle", files.__name__
    with patch.object(files, "settle", without):
        yield


def test_a_smaller_giant_has_one_right_result(database: Database) -> None:
    for seed in (1, 5):
        world = lived_huge(database, smaller(seed), SMALLER_BYTES)

        assert broken_huge(world) == [], f"seed {seed}"


@pytest.mark.parametrize(
    ("taken_away", "law", "surely"),
    [
        (no_slice_is_kept, "the_world_comes_to_rest", {}),
        (no_slice_ends_before_the_file_does, "the_giant_has_one_result", {}),
        (a_slice_begins_before_the_last_one_ended, "each_digest_equals_an_independent_one", {}),
        (a_slice_is_of_whatever_object_is_there, "each_digest_equals_an_independent_one", {"replaced": 1.0}),
        (a_slice_is_kept_whoever_comes_with_it, "the_giant_has_one_result", {"freeze": 1.0}),
    ],
)
def test_what_is_taken_away_is_missed(
    database: Database,
    taken_away: Callable[[], AbstractContextManager[None]],
    law: str,
    surely: Mapping[str, float],
) -> None:
    found: list[str] = []
    for seed in SEEDS:
        with taken_away():
            found = broken_huge(lived_huge(database, smaller(seed, **surely), SMALLER_BYTES))
        if any(told.startswith(law) for told in found):
            return

    pytest.fail(f"{law} holds all the same: {found}")


def test_where_one_process_does_one_thing_at_a_time_a_file_without_slices_starves_all_others(
    database: Database,
) -> None:
    plan = replace(smaller(1, crash=0.0), processes=1, slots=1, horizon_s=4000.0)
    assert broken_huge(lived_huge(database, plan, SMALLER_BYTES * 4)) == []

    with no_slice_ends_before_the_file_does():
        found = broken_huge(lived_huge(database, plan, SMALLER_BYTES * 4))

    assert any(told.startswith("nobody_beside_the_giant_is_starved") for told in found)
