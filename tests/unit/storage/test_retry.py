import pytest

from hashmill.domain.errors import ObjectMissing, StorageThrottled, StorageTimeout
from hashmill.storage.config import ObjectPlace, StoragePace
from hashmill.storage.retry import Retry
from tests.helpers.s3_answers import client_error

PLACE = ObjectPlace(bucket="bucket", key="key")


class Pauses:
    """A clock without time: remembers every pause."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, pause_s: float) -> None:
        self.seconds.append(pause_s)


def retry(pauses: Pauses, *, random: float = 1.0, attempts: int = 6, cap_s: float = 20.0) -> Retry:
    pace = StoragePace(throttle_attempts=attempts, backoff_base_s=0.5, backoff_cap_s=cap_s)
    return Retry(pace=pace, sleep=pauses, random=lambda: random)


async def test_a_busy_server_is_asked_again_until_it_answers() -> None:
    pauses = Pauses()
    answers = [client_error(503, "SlowDown"), ConnectionRefusedError(), "answer"]

    async def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await retry(pauses).in_place(PLACE, ask) == "answer"
    assert pauses.seconds == [0.5, 1.0]


@pytest.mark.parametrize(
    ("error", "fault"),
    [(client_error(503, "SlowDown"), StorageThrottled), (client_error(500, "InternalError"), StorageTimeout)],
)
async def test_after_its_attempts_the_fault_stands_with_its_cause(error: Exception, fault: type[Exception]) -> None:
    pauses = Pauses()

    async def ask() -> None:
        raise error

    with pytest.raises(fault) as raised:
        await retry(pauses, attempts=4).in_place(PLACE, ask)

    assert len(pauses.seconds) == 3
    assert raised.value.__cause__ is error


async def test_what_does_not_pass_is_not_tried_again() -> None:
    pauses = Pauses()

    async def ask() -> None:
        raise client_error(404, "NoSuchKey")

    with pytest.raises(ObjectMissing):
        await retry(pauses).in_place(PLACE, ask)
    assert pauses.seconds == []


async def test_pauses_double_up_to_the_cap_and_chance_takes_a_part_of_them() -> None:
    whole, half = Pauses(), Pauses()
    for attempt in (1, 2, 3, 4, 5_000):
        await retry(whole, cap_s=3.0).pause(attempt)
        await retry(half, cap_s=3.0, random=0.5).pause(attempt)

    assert whole.seconds == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert half.seconds == [0.25, 0.5, 1.0, 1.5, 1.5]


async def test_the_pause_the_server_asked_for_is_kept_up_to_the_cap() -> None:
    pauses = Pauses()
    answers: list[Exception] = [
        client_error(503, "SlowDown", headers={"retry-after": "2"}),
        client_error(503, "SlowDown", headers={"retry-after": "9999"}),
    ]

    async def ask() -> None:
        if answers:
            raise answers.pop(0)

    await retry(pauses, random=0.0, cap_s=5.0).in_place(PLACE, ask)

    assert pauses.seconds == [2.0, 5.0]
