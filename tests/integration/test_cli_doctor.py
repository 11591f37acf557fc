"""`hashmill doctor`: what it finds good, what it finds bad, and what it says to do."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest

from hashmill.ledger import gates, leases
from hashmill.ledger.gates import GateKind
from hashmill.parts.redis import Redis
from hashmill.parts.s3 import S3Server
from tests.helpers.cli import Said, run_cli
from tests.helpers.faulty_s3 import SECRET_KEY, Act, FaultyS3
from tests.helpers.intake import closed_port
from tests.helpers.ledger import fresh_ledger
from tests.helpers.scripted_api import ScriptedApi, answer, scripted_api
from tests.helpers.stocked_ledger import SEAL_KEY

CANARY = "canary-77e1-in-no-output"


class Ward:
    """One installation, well unless a test makes it ill; `env` is what the settings are read from."""

    def __init__(self, env: dict[str, str], s3: FaultyS3, api: ScriptedApi) -> None:
        self.env = env
        self.s3 = s3
        self.api = api

    async def doctor(self, *args: str, **change: str) -> Said:
        return await asyncio.to_thread(run_cli, "doctor", *args, env={**self.env, **change})

    async def checks(self, *args: str, **change: str) -> Mapping[str, Any]:
        """Return the checks by name; the exit status has to agree with them."""
        said = await self.doctor("--json", *args, **change)
        healthy = not any(check["outcome"] == "failed" for check in said.json["checks"])
        assert said.json["healthy"] is healthy
        assert said.code == (0 if healthy else 1)
        assert CANARY not in said.out
        return {check["name"]: check for check in said.json["checks"]}


@asynccontextmanager
async def warded(url: str, broker_url: str) -> AsyncIterator[Ward]:
    async with FaultyS3(b"hello") as s3, scripted_api() as api:
        api.say(answer({"success": False, "msg": "no key"}, status=401))
        env = {
            "HASHMILL_LEDGER__URL": url,
            "HASHMILL_BROKER__URL": broker_url,
            "HASHMILL_BROKER__PUBLISH_TIMEOUT_S": "1",
            "HASHMILL_SECRETS__SEAL_KEY": SEAL_KEY,
            "HASHMILL_S3__ENDPOINT_URL": s3.endpoint_url,
            "HASHMILL_S3__ACCESS_KEY_ID": "AKIDEXAMPLE",
            "HASHMILL_S3__SECRET_ACCESS_KEY": SECRET_KEY,
            "HASHMILL_LABDRIVE__ALLOWED_ORIGINS": f'["{api.url}"]',
        }
        with fresh_ledger(url):
            yield Ward(env, s3, api)


@pytest.fixture
async def ward(tmp_path: Path, redis_server: Redis) -> AsyncIterator[Ward]:
    async with warded(f"sqlite:///{tmp_path / 'l.sqlite3'}", redis_server.url) as ward:
        yield ward


async def test_a_sound_installation_fails_no_check(ledger_url: str, redis_server: Redis) -> None:
    async with warded(ledger_url, redis_server.url) as ward:
        with fresh_ledger(ledger_url) as ledger:
            detail = {"slots": 8}
            ledger.write_now(leases.take, f"{leases.PROCESS}w", "w", lease_s=60, detail=detail)
            ledger.write_now(leases.take, "leader", "w", lease_s=60)

        found = await ward.checks("--key", "some/object")

        assert {name: check["outcome"] for name, check in found.items() if check["outcome"] != "ok"} == {}
        assert found["workers"]["said"] == "1 processes with 8 slots"
        assert "labdrive/some/object is there, 5 B" in found["S3"]["said"]


async def test_missing_workers_and_leader_are_only_warnings(ward: Ward) -> None:
    found = await ward.checks()

    assert (found["workers"]["outcome"], found["leader"]["outcome"]) == ("warning", "warning")
    assert "hashmill worker" in found["workers"]["advice"]


async def test_what_is_shut_is_named_with_its_reason_and_what_to_do(ward: Ward) -> None:
    assert (await ward.checks())["gates"]["outcome"] == "ok"
    with fresh_ledger(ward.env["HASHMILL_LEDGER__URL"]) as ledger:
        for name, kind, for_s in (
            ("http://a", "api", 90.0),
            ("http://a user 1", "key", -1.0),
            ("dispatch b", "dispatch", 0.0),
        ):
            ledger.write_now(gates.shut, name, kind=GateKind(kind), failures=3, for_s=for_s, reason="said no")

    found = await ward.checks()

    assert "gates" not in found
    away, key, held = found["api http://a"], found["key http://a user 1"], found["dispatch b"]
    assert {check["outcome"] for check in (away, key, held)} == {"warning"}
    assert away["said"].startswith("shut for ")
    assert ", next try in 1 min " in away["said"]
    assert ", next try now (said no)" in key["said"]
    assert "give the key its rights back" in key["advice"]
    assert "next try" not in held["said"]


async def test_what_the_processes_find_is_told_a_server_that_is_away_a_suspect_and_a_kernel_that_is_off(
    ward: Ward,
) -> None:
    away = [{"address": "http://s3.example", "for_s": 240.0, "reason": "the S3 server is away"}]
    with fresh_ledger(ward.env["HASHMILL_LEDGER__URL"]) as ledger:
        for name, detail in (("a", {"storages_away": away, "on_trial": True}), ("b", {"kernel": "off"})):
            said = {"slots": 8, **detail}
            ledger.write_now(leases.take, f"{leases.PROCESS}{name}", name, lease_s=60, detail=said)

    found = await ward.checks()

    storage = found["storage http://s3.example"]
    assert storage["said"] == "away for 4 min 0 s, as 1 of 2 processes find (the S3 server is away)"
    assert "check that it runs" in storage["advice"]
    assert found["suspects"]["said"].startswith("1 processes read a file apart")
    assert found["hash kernels"]["said"].startswith("1 workers do without theirs")
    assert {storage["outcome"], found["suspects"]["outcome"], found["hash kernels"]["outcome"]} == {"warning"}


async def test_people_get_a_line_a_check_and_a_last_line(ward: Ward) -> None:
    good = await ward.doctor("--key", "k")
    bad = await ward.doctor("--key", "k", HASHMILL_SECRETS__SEAL_KEY="")

    assert good.out.endswith("nothing is wrong\n")
    assert "hashmill secrets new-key" in bad.out
    assert bad.out.splitlines()[-1].startswith("1 of ")
    assert bad.code == 1


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        ({"HASHMILL_SECRETS__SEAL_KEY": CANARY}, "sealing key", "hashmill secrets new-key"),
        ({"HASHMILL_LABDRIVE__WIRE": "none.toml"}, "wire table", "cannot be read"),
        ({"HASHMILL_LEDGER__URL": "sqlite:///nowhere.sqlite3"}, "ledger", "hashmill ledger upgrade"),
        ({"HASHMILL_LEDGER__URL": f"nonsense-{CANARY}"}, "ledger", "no address of a database"),
        ({"HASHMILL_LEDGER__URL": f"postgresql+psycopg://u:{CANARY}@127.0.0.1:1/d"}, "ledger", "not available"),
        ({"HASHMILL_BROKER__URL": f"redis://:{CANARY}@127.0.0.1:1/0"}, "broker", "does not answer"),
        ({"HASHMILL_S3__ENDPOINT_URL": "http://127.0.0.1:1"}, "S3", "no answer from the S3 server"),
        ({"HASHMILL_LABDRIVE__ALLOWED_ORIGINS": "[]"}, "LABDRIVE", "every event is refused"),
        ({"HASHMILL_LABDRIVE__ALLOWED_ORIGINS": '["here"]'}, "LABDRIVE", "labdrive.allowed_origins"),
    ],
)
async def test_each_trouble_is_one_failed_check_that_says_so(
    change: dict[str, str], name: str, said: str, ward: Ward
) -> None:
    found = await ward.checks("--key", "k", **change)

    assert [check["name"] for check in found.values() if check["outcome"] == "failed"] == [name]
    assert said in found[name]["said"]


async def test_a_setting_that_cannot_be_read_is_all_there_is_to_say(ward: Ward) -> None:
    found = await ward.checks(HASHMILL_WORKER__SLOTS=CANARY)

    assert list(found) == ["settings"]
    assert "worker.slots" in found["settings"]["said"]


async def test_an_empty_database_is_told_from_one_that_is_away(ward: Ward, tmp_path: Path) -> None:
    (tmp_path / "empty.sqlite3").touch()

    found = await ward.checks(HASHMILL_LEDGER__URL=f"sqlite:///{tmp_path / 'empty.sqlite3'}")

    assert found["ledger"]["outcome"] == "ok"
    assert found["ledger's shape"]["outcome"] == "failed"


async def test_an_absent_key_shows_that_the_credentials_are_taken(ward: Ward) -> None:
    ward.s3.on_head.append(Act(status=404))
    ward.s3.on_head.append(Act(status=404))

    found = await ward.checks()

    assert found["S3"]["outcome"] == "ok"
    assert "takes the credentials" in found["S3"]["said"]


async def test_refused_credentials_are_a_failure_that_names_the_knobs(ward: Ward) -> None:
    ward.s3.on_head.extend([Act(status=403), Act(status=403)])

    found = await ward.checks()

    assert found["S3"]["outcome"] == "failed"
    assert "s3.secret_access_key" in found["S3"]["advice"]


async def test_an_object_that_was_named_and_is_not_there_is_a_failure(ward: Ward) -> None:
    ward.s3.on_head.extend([Act(status=404), Act(status=404)])

    found = await ward.checks("--bucket", "other", "--key", "gone")

    assert found["S3"]["outcome"] == "failed"
    assert "s3://other/gone" in found["S3"]["said"]


async def test_a_tenants_and_a_storages_own_s3_are_tried_too(ward: Ward) -> None:
    found = await ward.checks(
        "--key",
        "k",
        HASHMILL_S3__STORAGES='{"7": {"endpoint_url": "http://127.0.0.1:1"}}',
        HASHMILL_S3__TENANTS='{"lab": {"bucket": "labs"}}',
    )

    assert found["S3"]["outcome"] == found["S3 of tenant lab"]["outcome"] == "ok"
    assert "labs/k" in found["S3 of tenant lab"]["said"]
    assert found["S3 of storage 7"]["outcome"] == "failed"


@pytest.mark.parametrize(("off_s", "outcome"), [(0, "ok"), (300, "warning"), (3600, "failed")])
async def test_this_machines_clock_is_compared_with_the_s3_servers(off_s: int, outcome: str, ward: Ward) -> None:
    date = {"Date": formatdate(time() - off_s, usegmt=True)}
    async with scripted_api() as clock:
        clock.say(answer({}, headers={**date, "ETag": '"e"'}))
        found = await ward.checks(HASHMILL_S3__ENDPOINT_URL=clock.url)

    assert found["clock, by the S3 server"]["outcome"] == outcome


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "ok"), (401, "ok"), (404, "ok"), (302, "warning"), (500, "warning")]
)
async def test_any_answer_shows_that_the_platform_is_there(status: int, outcome: str, ward: Ward) -> None:
    ward.api.say(answer({}, status=status))

    found = await ward.checks()

    assert found[f"LABDRIVE {ward.api.url}"]["outcome"] == outcome
    assert ward.api.asked[-1].target == "/api/container/0"
    assert "Authorization" not in ward.api.asked[-1].headers


async def test_a_platform_that_does_not_answer_is_named(ward: Ward) -> None:
    url = f"http://127.0.0.1:{closed_port()}"

    found = await ward.checks(HASHMILL_LABDRIVE__ALLOWED_ORIGINS=f'["{url}", "{ward.api.url}"]')

    assert found[f"LABDRIVE {url}"]["outcome"] == "failed"
    assert found[f"LABDRIVE {ward.api.url}"]["outcome"] == "ok"


def test_a_real_s3_server_tells_good_credentials_from_bad(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()

    def outcome(secret: str) -> str:
        env = {
            "HASHMILL_S3__ENDPOINT_URL": s3.endpoint_url,
            "HASHMILL_S3__REGION": s3.region,
            "HASHMILL_S3__BUCKET": bucket,
            "HASHMILL_S3__ACCESS_KEY_ID": s3.access_key_id,
            "HASHMILL_S3__SECRET_ACCESS_KEY": secret,
            "HASHMILL_LEDGER__URL": f"sqlite:///{tmp_path / 'none.sqlite3'}",
        }
        checks = run_cli("doctor", "--json", env=env).json["checks"]
        return next(str(check["outcome"]) for check in checks if check["name"] == "S3")

    assert outcome(s3.secret_access_key) == "ok"
    assert outcome("wrong") == "failed"
