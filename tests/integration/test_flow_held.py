"""What holds a run back is said of this run and of no other, and a process says which S3 servers it finds away."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hashmill.domain.secret import Secret
from hashmill.flow.dispatch import HELD
from hashmill.flow.endpoints import Endpoint
from hashmill.flow.gates import Gates
from hashmill.flow.held import HeldBy, Hold, held_back
from hashmill.flow.lead import LEADER
from hashmill.flow.present import NEWS_S, STORAGES_MAX, keep_leases
from hashmill.ledger import gates, leases
from hashmill.ledger.gates import GateKind
from hashmill.ledger.presence import Presence, presence
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer, new_key
from tests.helpers.fakes import CANARY, ORIGIN, OTHER_ORIGIN, Stage, accepted, listed, staged
from tests.helpers.ledger import fresh_ledger
from tests.helpers.stocked_ledger import failed_run
from tests.helpers.wait import wait_until_async


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as ledger, staged(ledger) as opened:
        yield opened


def somebody_is_there(stage: Stage) -> None:
    write = stage.tools.ledger.write_now
    write(leases.take, LEADER, "w", lease_s=30)
    write(leases.take, f"{leases.PROCESS}w", "w", lease_s=30, detail={"slots": 4})


def shut(stage: Stage, name: str, kind: GateKind, *, for_s: float = 60.0) -> None:
    stage.tools.ledger.write_now(gates.shut, name, kind=kind, failures=3, for_s=for_s, reason="it said no")


def key_gate(stage: Stage, origin: str, user_id: str, key: str) -> str:
    """The name the deliverer gives it."""
    return Gates().key(stage.tools, origin, user_id, stage.tools.sealer.fingerprint(Secret(key))).name


def held(stage: Stage, run: Run, *, sealer: Sealer | None = None, storage: str | None = None) -> list[Hold]:
    read = stage.tools.ledger.read_now
    return read(held_back, run, sealer=sealer or stage.tools.sealer, storage=storage)


def by(holds: list[Hold]) -> list[HeldBy]:
    return [hold.by for hold in holds]


async def test_a_run_is_held_back_by_its_own_gates_and_no_others(stage: Stage) -> None:
    somebody_is_there(stage)
    run = await listed(stage, 3)
    for name, kind in (
        (OTHER_ORIGIN, GateKind.API),
        (HELD + OTHER_ORIGIN, GateKind.DISPATCH),
        (key_gate(stage, OTHER_ORIGIN, "1", CANARY), GateKind.KEY),
        (key_gate(stage, ORIGIN, "2", CANARY), GateKind.KEY),
        (key_gate(stage, ORIGIN, "1", "the key it had before"), GateKind.KEY),
    ):
        shut(stage, name, kind)
    assert held(stage, run) == []

    shut(stage, ORIGIN, GateKind.API)
    shut(stage, key_gate(stage, ORIGIN, "1", CANARY), GateKind.KEY, for_s=-1.0)
    shut(stage, HELD + ORIGIN, GateKind.DISPATCH, for_s=0.0)

    found = {hold.by: hold for hold in held(stage, run)}
    assert set(found) == {HeldBy.API, HeldBy.KEY, HeldBy.DISPATCH}
    api, key, dispatch = found[HeldBy.API], found[HeldBy.KEY], found[HeldBy.DISPATCH]
    assert (api.what, api.reason) == (f"LABDRIVE at {ORIGIN} is away", "it said no")
    assert api.for_s == pytest.approx(0, abs=5)
    assert api.next_try_in_s == pytest.approx(60, abs=5)
    assert key.next_try_in_s == 0, "it is due"
    assert "post the event again" in key.to_do
    assert dispatch.next_try_in_s is None, "what is owed opens it, no try"


async def test_the_longest_name_of_a_key_s_gate_is_found_as_well(stage: Stage) -> None:
    somebody_is_there(stage)
    origin = f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}.example"
    run = replace(await accepted(stage, user_id="u" * 80), api_url=origin)
    shut(stage, key_gate(stage, origin, "u" * 80, CANARY), GateKind.KEY)

    assert by(held(stage, run)) == [HeldBy.KEY]


async def test_without_the_sealing_key_every_refused_key_of_its_user_counts(stage: Stage) -> None:
    somebody_is_there(stage)
    run = await accepted(stage)
    shut(stage, key_gate(stage, ORIGIN, "1", "another"), GateKind.KEY)
    shut(stage, key_gate(stage, ORIGIN, "2", CANARY), GateKind.KEY)

    assert held(stage, run) == []
    assert by(stage.tools.ledger.read_now(held_back, run, sealer=None)) == [HeldBy.KEY]
    assert by(held(stage, run, sealer=Sealer(Secret(new_key())))) == [HeldBy.KEY]


async def test_a_run_without_open_files_is_not_held_back_by_dispatch(stage: Stage) -> None:
    somebody_is_there(stage)
    run = await accepted(stage)
    shut(stage, HELD + ORIGIN, GateKind.DISPATCH)

    assert held(stage, run) == []


async def test_nobody_there_is_said_cause_first(stage: Stage) -> None:
    run = await accepted(stage)
    shut(stage, ORIGIN, GateKind.API)

    assert by(held(stage, run)) == [HeldBy.LEADER, HeldBy.WORKER, HeldBy.API]

    stage.tools.ledger.write_now(leases.take, LEADER, "gone", lease_s=-1)
    stage.tools.ledger.write_now(leases.take, f"{leases.PROCESS}x", "x", lease_s=30, detail={"slots": 0})
    assert by(held(stage, run)) == [HeldBy.LEADER, HeldBy.WORKER, HeldBy.API], "one is dead, one only dispatches"

    somebody_is_there(stage)
    assert by(held(stage, run)) == [HeldBy.API]


async def test_a_run_that_only_owes_reports_needs_no_worker(stage: Stage) -> None:
    run = await listed(stage, 1)

    assert by(held(stage, replace(run, files_open=0))) == [HeldBy.LEADER]


async def test_nothing_holds_back_a_run_that_has_ended(stage: Stage) -> None:
    run = failed_run(stage.tools.ledger)
    shut(stage, "http://127.0.0.1:1", GateKind.API)

    assert held(stage, run) == []


async def one_renewal(stage: Stage) -> Presence:
    def seen() -> Presence:
        return stage.tools.ledger.read_now(lambda connection: presence(connection, leader=LEADER))

    renewing = asyncio.create_task(keep_leases(stage.tools))
    try:
        await wait_until_async(lambda: seen().living, what="the process says that it lives")
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
    return seen()


def away(now_s: float, *, for_s: float, seen_s: float = 1.0, said: str = "the S3 server is away") -> Endpoint:
    return Endpoint(away_s=now_s - seen_s, since_s=now_s - for_s, said=said)


async def test_a_process_says_which_s3_servers_it_finds_away_and_nothing_secret(stage: Stage) -> None:
    run = await listed(stage, 1)
    now_s = stage.tools.clock_s()
    stage.tools.endpoints.update(
        {
            "http://s3.one:9000/ AKIDEXAMPLE": away(now_s, for_s=5),
            "http://s3.one:9000/ AKIDOTHER": away(now_s, for_s=90, said="refused\n" + "x" * 500),
            "https://user:secret@s3.two": away(now_s, for_s=7),
            "eu-central-1": Endpoint(away_s=now_s - 9, since_s=now_s - 9, answered_s=now_s),
        }
    )
    async with stage.tools.suspect:
        seen = await one_renewal(stage)

    assert [(found.address, round(found.for_s)) for found in seen.storages_away] == [
        ("an S3 server", 7),
        ("http://s3.one:9000", 90),
    ]
    assert len(seen.storages_away[1].reason) == 200
    assert seen.storages_away[1].reason.startswith("refused xxx")
    assert (seen.slots, seen.on_trial) == (4, 1)
    said = str(seen.processes[0].detail)
    assert "AKID" not in said
    assert "secret" not in said

    assert [hold.what for hold in held(stage, run, storage="http://s3.one:9000") if hold.by is HeldBy.STORAGE] == [
        "the S3 server http://s3.one:9000 is away"
    ]
    assert HeldBy.STORAGE not in by(held(stage, run, storage="http://s3.three"))
    assert HeldBy.STORAGE not in by(held(stage, replace(run, files_open=0), storage="http://s3.one:9000"))


async def test_old_news_of_a_server_is_not_told_and_the_longest_outages_first(stage: Stage) -> None:
    now_s = stage.tools.clock_s()
    stage.tools.endpoints["http://old"] = away(now_s, for_s=9000, seen_s=NEWS_S + 1)
    for number in range(STORAGES_MAX + 3):
        stage.tools.endpoints[f"http://s{number}"] = away(now_s, for_s=10 + number)

    seen = await one_renewal(stage)

    assert [found.address for found in seen.storages_away] == [f"http://s{n}" for n in range(3, STORAGES_MAX + 3)]
    assert seen.on_trial == 0
