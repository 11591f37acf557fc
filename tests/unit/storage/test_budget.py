import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashmill.domain.errors import ConfigFault
from hashmill.storage.budget import ByteBudget


@settings(deadline=None)
@given(
    total_bytes=st.integers(100, 1000),
    streams=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 100)), max_size=80),
    seed=st.integers(0, 2**32),
)
def test_what_is_held_never_exceeds_the_total_and_every_stream_gets_its_turn(
    total_bytes: int, streams: list[tuple[int, int]], seed: int
) -> None:
    random = Random(seed)
    budget = ByteBudget(total_bytes)
    held_bytes = 0
    finished = 0

    async def stream(wanted_bytes: int, least_bytes: int) -> None:
        nonlocal held_bytes, finished
        least_bytes = min(least_bytes, wanted_bytes)
        async with budget.reserve(wanted_bytes, least_bytes=least_bytes) as granted_bytes:
            assert least_bytes <= granted_bytes <= wanted_bytes
            held_bytes += granted_bytes
            assert held_bytes <= budget.held_bytes <= total_bytes
            try:
                for _ in range(random.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                held_bytes -= granted_bytes
        finished += 1

    async def all_streams() -> int:
        tasks = [asyncio.create_task(stream(wanted, least)) for wanted, least in streams]
        cancelled = [task for task in tasks if random.random() < 0.2]
        for task in cancelled:
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(answer is None or isinstance(answer, asyncio.CancelledError) for answer in answers)
        return sum(answer is None for answer in answers)

    assert asyncio.run(all_streams()) == finished
    assert budget.held_bytes == 0


async def test_first_come_is_first_served_also_when_a_later_one_would_fit() -> None:
    budget = ByteBudget(100)
    order: list[str] = []
    first_may_end = asyncio.Event()

    async def stream(name: str, least_bytes: int) -> None:
        async with budget.reserve(least_bytes, least_bytes=least_bytes):
            order.append(name)
            if name == "first":
                await first_may_end.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(stream("first", 60))
        await asyncio.sleep(0)
        group.create_task(stream("large", 80))
        group.create_task(stream("small", 10))
        await asyncio.sleep(0)
        assert order == ["first"]
        first_may_end.set()

    assert order == ["first", "large", "small"]


async def test_a_newcomer_leaves_half_of_what_is_free_unless_it_needs_it() -> None:
    budget = ByteBudget(1000)

    async with (
        budget.reserve(900, least_bytes=100) as first,
        budget.reserve(900, least_bytes=100) as second,
        budget.reserve(900, least_bytes=200) as third,
        budget.reserve(7, least_bytes=7) as tiny,
    ):
        assert (first, second, third, tiny) == (500, 250, 200, 7)


async def test_a_stream_that_could_never_fit_is_a_fault_of_the_configuration() -> None:
    budget = ByteBudget(100)

    with pytest.raises(ConfigFault, match=r"hashing\.buffer_bytes is 100, and one stream needs at least 101"):
        async with budget.reserve(500, least_bytes=101):
            pass
