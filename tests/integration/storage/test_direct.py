"""Large bodies, received straight into the reader's blocks over a connection that aiohttp lends and takes back."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from random import Random

import pytest
from aiobotocore.session import AioSession

from hashmill.storage.ask import DIRECT_FROM_BYTES
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import StoragePace
from hashmill.storage.direct import DirectStream
from tests.helpers.faulty_s3 import Act, FaultyS3
from tests.helpers.wait import wait_until_async

BODY = Random(4).randbytes(3_000_000)
SMALL = BODY[:5000]
assert len(SMALL) < DIRECT_FROM_BYTES < len(BODY)


@pytest.fixture(scope="module")
def session() -> AioSession:
    return AioSession()


@pytest.fixture
async def storage(session: AioSession) -> AsyncIterator[Storage]:
    storage = Storage(StoragePace(block_bytes=400_000), ByteBudget(16 << 20), session=session, random=lambda: 0.0)
    yield storage
    await storage.close()


@pytest.fixture
async def server() -> AsyncIterator[FaultyS3]:
    async with FaultyS3(BODY) as server:
        yield server


async def read(storage: Storage, server: FaultyS3) -> bytes:
    async with storage.open(server.config, "bucket", "key") as opened:
        return b"".join([bytes(block) async for block in opened.blocks()])


async def test_one_connection_serves_large_and_small_objects_in_turn(storage: Storage, server: FaultyS3) -> None:
    for body in (BODY, SMALL, BODY, b"", BODY):
        server.body = body
        assert await read(storage, server) == body
        await storage.head(server.config, "bucket", "key")

    assert server.connections == 1


async def test_a_large_body_is_not_copied_through_aiohttp(
    storage: Storage, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[int] = []

    class Watched(DirectStream):
        def buffer_updated(self, nbytes: int) -> None:
            received.append(nbytes)
            super().buffer_updated(nbytes)

    monkeypatch.setattr("hashmill.storage.ask.DirectStream", Watched)

    assert await read(storage, server) == BODY
    assert sum(received) > len(BODY) - 1_000_000  # what came along with the headers is not counted


@pytest.mark.parametrize("body", [SMALL, BODY], ids=["small", "large"])
async def test_bytes_behind_a_body_are_no_answer_to_the_next_request(
    storage: Storage, server: FaultyS3, body: bytes
) -> None:
    stray = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "one"\r\n\r\nwrong'
    server.on_get.append(Act(body=body + stray, length=len(body)))

    assert await read(storage, server) == body
    server.body = b"right"
    assert await read(storage, server) == b"right"


async def test_a_server_that_closes_behind_each_answer_is_called_anew(storage: Storage, server: FaultyS3) -> None:
    server.on_get += [Act(headers={"Connection": "close"})] * 2

    assert [await read(storage, server), await read(storage, server)] == [BODY, BODY]
    assert server.connections == 2


async def test_a_connection_that_the_server_hangs_up_while_it_rests_is_not_used_again(
    storage: Storage, server: FaultyS3
) -> None:
    server.on_get.append(Act(length=len(BODY)))  # after which the double hangs up

    assert await read(storage, server) == BODY
    await wait_until_async(lambda: not server.open_connections)
    assert await read(storage, server) == BODY
    assert server.asked_for("range") == [None, None]


async def test_a_body_that_trickles_is_handed_on_as_it_comes(
    storage: Storage, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashmill.storage.direct.TICK_S", 0.01)
    server.on_get.append(Act(drip=(50_000, 0.003)))

    assert await read(storage, server) == BODY
    assert server.asked_for("range") == [None]


async def test_who_leaves_in_the_middle_hangs_up(storage: Storage, server: FaultyS3) -> None:
    async with storage.open(server.config, "bucket", "key") as opened:
        blocks = opened.blocks()
        await anext(blocks)
        await blocks.aclose()

    await wait_until_async(lambda: not server.open_connections)


async def test_who_is_cancelled_while_waiting_hangs_up(storage: Storage, server: FaultyS3) -> None:
    server.on_get.append(Act(drip=(50_000, 0.05)))
    seen = 0

    async def consume() -> None:
        nonlocal seen
        async with storage.open(server.config, "bucket", "key") as opened:
            async for block in opened.blocks():
                seen += len(block)

    reading = asyncio.create_task(consume())
    await wait_until_async(lambda: seen)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    await wait_until_async(lambda: not server.open_connections)


async def test_the_storage_closes_while_a_body_is_read(session: AioSession, server: FaultyS3) -> None:
    storage = Storage(StoragePace(resumes_max=0), ByteBudget(16 << 20), session=session)
    server.on_get.append(Act(hang_after=1_500_000))
    reading = asyncio.create_task(read(storage, server))
    await wait_until_async(lambda: server.asked_for("range"))

    async with asyncio.timeout(5):
        await storage.close()
        with pytest.raises(Exception, match=r"received|session"):
            await reading


async def test_sixteen_at_once_over_four_connections_all_arrive(session: AioSession, server: FaultyS3) -> None:
    storage = Storage(StoragePace(connections=4, block_bytes=300_000), ByteBudget(64 << 20), session=session)

    bodies = await asyncio.gather(*(read(storage, server) for _ in range(16)))

    assert {hashlib.sha256(body).hexdigest() for body in bodies} == {hashlib.sha256(BODY).hexdigest()}
    assert server.connections <= 4
    await storage.close()


async def test_an_object_on_a_slow_path_is_read_by_several_ranges_at_once(
    session: AioSession, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANGE_BYTES": 131_072, "WINDOW_S": 0.1}.items():
        monkeypatch.setattr(f"hashmill.storage.ranges.{name}", value)
    monkeypatch.setattr("hashmill.storage.client.RANGES_FROM_BYTES", 1_000_000)
    server.usual_get = Act(drip=(20_000, 0.01))
    storage = Storage(StoragePace(block_bytes=100_000, ranges_max=4), ByteBudget(64 << 20), session=session)

    assert await read(storage, server) == BODY

    assert server.connections > 1
    ranges = server.asked_for("range")
    assert ranges[0] is None
    assert len(ranges) > 4
    assert set(server.asked_for("if-match")[1:]) == {'"one"'}
    await storage.close()
    await wait_until_async(lambda: not server.open_connections)


async def test_a_range_that_breaks_is_resumed_from_the_last_byte(
    session: AioSession, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANGE_BYTES": 131_072, "WINDOW_S": 0.1}.items():
        monkeypatch.setattr(f"hashmill.storage.ranges.{name}", value)
    monkeypatch.setattr("hashmill.storage.client.RANGES_FROM_BYTES", 1_000_000)
    slow = Act(drip=(20_000, 0.01))
    server.usual_get = slow
    server.on_get += [slow] * 6 + [Act(cut_after=50_000)]
    storage = Storage(
        StoragePace(block_bytes=100_000, ranges_max=4), ByteBudget(64 << 20), session=session, random=lambda: 0.0
    )

    assert await read(storage, server) == BODY

    assert any(asked and asked.endswith("-") for asked in server.asked_for("range"))
    await storage.close()
