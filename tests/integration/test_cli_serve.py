"""The serving commands as processes: they start, say where they are, and end as they are told."""

import http.client
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hashmill.parts.postgres import Databases
from hashmill.parts.redis import Redis
from tests.helpers.cli import Command, run_cli
from tests.helpers.intake import closed_port
from tests.helpers.stocked_ledger import SEAL_KEY
from tests.helpers.tcp_gate import TcpGate
from tests.helpers.wait import wait_until


@pytest.fixture
def env(tmp_path: Path, redis_server: Redis) -> Iterator[dict[str, str]]:
    """The environment of one small installation whose ledger is at head."""
    env = {
        "HASHMILL_LEDGER__URL": f"sqlite:///{tmp_path / 'l.sqlite3'}",
        "HASHMILL_BROKER__URL": redis_server.url,
        "HASHMILL_BROKER__CELL": tmp_path.name,
        "HASHMILL_SECRETS__SEAL_KEY": SEAL_KEY,
        "HASHMILL_LOGGING__FORMAT": "text",
        "HASHMILL_INTAKE__PORT": "0",
    }
    assert run_cli("ledger", "upgrade", env=env).code == 0
    return env


def url_in(said: str) -> str:
    return next(word.removeprefix("url=") for word in said.split() if word.startswith("url="))


def get(url: str) -> int:
    address = urlsplit(url)
    door = http.client.HTTPConnection(address.netloc, timeout=10)
    try:
        door.request("GET", address.path)
        return door.getresponse().status
    finally:
        door.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_intake_answers_and_ends_in_order(number: signal.Signals, env: dict[str, str], tmp_path: Path) -> None:
    with Command("intake", folder=tmp_path, env=env) as intake:
        intake.wait_for("listening")
        assert get(url_in(intake.said) + "/healthz") == 200
        code = intake.end(number)

        assert code == 0, intake.said


def test_the_intake_refuses_a_ledger_of_another_shape(env: dict[str, str], tmp_path: Path) -> None:
    with Command(
        "intake", folder=tmp_path, env={**env, "HASHMILL_LEDGER__URL": f"sqlite:///{tmp_path / 'other.sqlite3'}"}
    ) as intake:
        assert intake.process.wait(60) == 3
        assert "hashmill ledger upgrade" in intake.said


def test_the_intake_starts_while_its_ledger_is_away(env: dict[str, str], tmp_path: Path) -> None:
    away = {**env, "HASHMILL_LEDGER__URL": f"postgresql+psycopg://u@127.0.0.1:{closed_port()}/db"}
    with Command("intake", folder=tmp_path, env=away) as intake:
        intake.wait_for("listening")

        assert get(url_in(intake.said) + "/healthz") == 200
        assert intake.end() == 0


def test_a_worker_leads_shows_itself_and_drains(env: dict[str, str], tmp_path: Path) -> None:
    with Command("worker", "--slots", "3", "--queues", "files,runs", folder=tmp_path, env=env) as worker:
        worker.wait_for("worker_ready")
        found = {check["name"]: check for check in run_cli("doctor", "--json", env=env).json["checks"]}
        code = worker.end()

        assert found["workers"]["said"] == "1 processes with 3 slots"
        assert found["leader"]["outcome"] == "ok"
        assert code == 0, worker.said
        assert "worker_stopped" in worker.said
        assert "celery@" not in worker.said


def test_a_worker_that_starts_while_ledger_and_broker_are_away_waits_for_both(
    env: dict[str, str], tmp_path: Path, postgres: Databases, redis_server: Redis
) -> None:
    url = postgres.fresh_database()
    assert run_cli("ledger", "upgrade", env={**env, "HASHMILL_LEDGER__URL": url}).code == 0
    with TcpGate() as ledger_gate, TcpGate() as broker_gate:
        away = {
            **env,
            "HASHMILL_LEDGER__URL": url.replace(f":{urlsplit(url).port}/", f":{ledger_gate.port}/"),
            "HASHMILL_BROKER__URL": broker_gate.url.replace("http://", "redis://") + "/0",
        }
        with Command("worker", folder=tmp_path, env=away) as worker:
            worker.wait_for("ledger_away duty=start")
            ledger_gate.lead_to(url)
            worker.wait_for("leading")
            assert "worker_ready" not in worker.said
            broker_gate.lead_to(redis_server.url)
            worker.wait_for("worker_ready")

            assert worker.end() == 0, worker.said
    assert worker.said.count("ledger_away") < 20


@pytest.mark.parametrize("command", ["worker", "dispatcher"])
def test_what_waits_for_its_ledger_ends_as_it_is_told(command: str, env: dict[str, str], tmp_path: Path) -> None:
    away = {**env, "HASHMILL_LEDGER__URL": f"postgresql+psycopg://u@127.0.0.1:{closed_port()}/db"}
    with Command(command, folder=tmp_path, env=away) as waiting:
        waiting.wait_for("ledger_away duty=start")

        assert waiting.end() == 0, waiting.said


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"HASHMILL_SECRETS__SEAL_KEY": ""}, 3, "hashmill secrets new-key"),
        ({"HASHMILL_LEDGER__URL": "sqlite:///nowhere.sqlite3"}, 3, "hashmill ledger upgrade"),
        ({"HASHMILL_LABDRIVE__ALLOWED_ORIGINS": '["labdrive"]'}, 3, "labdrive.allowed_origins"),
        ({"HASHMILL_WORKER__SLOTS": "many"}, 3, "worker.slots"),
    ],
)
def test_a_worker_that_cannot_work_says_why_in_one_line_before_celery_starts(
    change: dict[str, str], code: int, said: str, env: dict[str, str]
) -> None:
    worker = run_cli("worker", env={**env, **change})

    assert worker.code == code
    assert said in worker.err
    assert worker.err.startswith("error: ")
    assert len(worker.err.splitlines()) == 1


def test_an_unknown_queue_is_a_usage_error(env: dict[str, str]) -> None:
    said = run_cli("worker", "--queues", "files,bigger", env=env)

    assert said.code == 2
    assert "files, big, runs" in said.err


def test_a_dispatcher_leads_without_slots_and_goes_without_a_trace(env: dict[str, str], tmp_path: Path) -> None:
    def processes() -> list[int]:
        ledger = sqlite3.connect(tmp_path / "l.sqlite3")
        try:
            rows = ledger.execute("SELECT detail FROM leases WHERE name LIKE 'process:%'").fetchall()
        finally:
            ledger.close()
        return [json.loads(detail)["slots"] for (detail,) in rows]

    with Command("dispatcher", folder=tmp_path, env=env) as dispatcher:
        dispatcher.wait_for("leading")
        wait_until(lambda: processes() == [0], what="the dispatcher shows itself")
        code = dispatcher.end()

        assert code == 0, dispatcher.said
    assert processes() == []


def test_the_sandbox_says_where_it_is_and_ends_in_order(env: dict[str, str], tmp_path: Path) -> None:
    with Command("sandbox", "--port", "0", folder=tmp_path, env=env) as sandbox:
        sandbox.wait_for("the sandbox LABDRIVE is at http://")
        code = sandbox.end()

        assert code == 0, sandbox.said


def test_values_the_sandbox_cannot_use_are_named(env: dict[str, str], tmp_path: Path) -> None:
    sheet = tmp_path / "sandbox.toml"
    sheet.write_text("prot = 1\n")

    said = run_cli("sandbox", "--config", str(sheet), env=env)

    assert said.code == 3
    assert "unknown prot" in said.err


def test_up_runs_the_service_starts_again_what_dies_and_drains(env: dict[str, str], tmp_path: Path) -> None:
    own = {name: value for name, value in env.items() if not name.startswith("HASHMILL_BROKER")}
    own["HASHMILL_LEDGER__URL"] = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    args = ("up", "--workers", "1", "--slots", "2", "--port", "0", "--broker", "embedded")
    with Command(*args, folder=tmp_path, env=own) as up:
        up.wait_for("listening")
        up.wait_for("worker_ready")
        first = pids_in(up.said)
        os.kill(first["worker-1"], signal.SIGKILL)
        up.wait_for("worker_ready", times=2)
        second = pids_in(up.said)
        checks = run_cli("doctor", "--json", env={**own, "HASHMILL_BROKER__URL": "redis://127.0.0.1:1/0"}).json
        code = up.end()

        assert code == 0, up.said
        assert "the ledger is at" in up.said
        assert second["worker-1"] != first["worker-1"]
        assert second["intake"] == first["intake"]
        assert next(check for check in checks["checks"] if check["name"] == "leader")["outcome"] == "ok"
        for pid in second.values():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), what=f"process {pid} is gone")


def test_up_ends_its_children_also_when_it_is_killed(env: dict[str, str], tmp_path: Path) -> None:
    with Command("up", "--workers", "1", "--port", "0", folder=tmp_path, env=env) as up:
        up.wait_for("listening")
        up.wait_for("worker_ready")
        up.process.kill()

        for pid in pids_in(up.said).values():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 40, what=f"process {pid} is gone")


def test_up_stops_when_a_setting_is_wrong(env: dict[str, str], tmp_path: Path) -> None:
    open_to_all = {**env, "HASHMILL_INTAKE__HOST": "::"}
    with Command("up", "--workers", "1", folder=tmp_path, env=open_to_all) as up:
        assert up.process.wait(60) == 3
        assert "intake.bearer_token" in up.said


def pids_in(said: str) -> dict[str, int]:
    """Return the process id of each child's newest start."""
    found = {}
    for line in said.splitlines():
        name, _, rest = line.partition(" | ")
        if rest.startswith("started as process "):
            found[name.strip()] = int(rest.split()[-1])
    return found
