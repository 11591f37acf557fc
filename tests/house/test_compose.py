"""docker-compose.yml and worker/Dockerfile name only what exists: commands, knobs, files, ports."""

import fnmatch
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, SecretStr
from typer.main import get_command

from hashmill.cli.main import app
from hashmill.domain.secret import Secret
from hashmill.intake.config import IntakeConfig, check_config
from hashmill.knobs import Section
from hashmill.sandbox.config import load_config
from hashmill.settings import Settings
from worker.house import CLOSE_TIMEOUT_S

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("hashmill:")}
LONG_RUNNING = {name: service for name, service in SERVICES.items() if name != "migrate"}
DOCKERFILE = (ROOT / "worker" / "Dockerfile").read_text()
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container's own network
SECRETS = {"POSTGRES_PASSWORD", "HASHMILL_SECRETS__SEAL_KEY", "HASHMILL_INTAKE__BEARER_TOKEN"}


def env_file() -> dict[str, str]:
    lines = (ROOT / "config" / "compose.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Return what a container sees, interpolated as an operator's shell would who sets only the secrets."""
    asked = {name: str(value) for name, value in service.get("environment", {}).items()}
    return {**(env_file() if service.get("env_file") else {}), **{name: filled(text) for name, text in asked.items()}}


def filled(text: str) -> str:
    return VARIABLE.sub(lambda match: f"made-up-{match['name']}" if match["how"] != "-" else match["rest"], text)


def knob(variable: str) -> Any:
    """Return the default of the knob an environment variable sets; KeyError when there is no such knob."""
    found: Any = Settings
    for name in variable.removeprefix("HASHMILL_").lower().split("__"):
        field = found.model_fields[name]
        kind = field.annotation
        found = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else field
    assert not (isinstance(found, type) and issubclass(found, Section)), f"{variable} is a section"
    return found


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, rest), continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def copied() -> list[str]:
    """Return what the image takes from the build context."""
    rests = [rest.split() for word, rest in instructions() if word == "COPY"]
    return [source for rest in rests if not rest[0].startswith("--from") for source in rest[:-1]]


def words_of(check: list[str]) -> list[str]:
    return shlex.split(check[1]) if check[0] == "CMD-SHELL" else check[1:]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def test_the_compose_file_fits_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())

    Draft202012Validator.check_schema(schema)
    faults = [f"{list(fault.path)}: {fault.message}" for fault in Draft202012Validator(schema).iter_errors(COMPOSE)]
    assert faults == []


def test_the_services_are_those_the_design_names() -> None:
    assert set(SERVICES) == {"redis", "postgres", "migrate", "intake", "dispatcher", "worker", "sandbox"}
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["sandbox"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_exists_with_options_it_has(name: str) -> None:
    command: Any = get_command(app)
    context = command.make_context("hashmill", [], resilient_parsing=True)
    words = list(SERVICES[name]["command"])
    while words and hasattr(command, "commands"):
        command = command.get_command(context, words.pop(0))
        assert command is not None, SERVICES[name]["command"]

    # A file is named as it lies in the image: /app is the root of the checkout.
    words = [str(ROOT / word.removeprefix("/app/")) if word.startswith("/app/") else word for word in words]
    command.make_context(name, words, parent=context)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_service_is_a_knob(name: str) -> None:
    variables = {variable for variable in environment(SERVICES[name]) if variable.startswith("HASHMILL_")}

    assert variables
    for variable in variables:
        knob(variable)


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_service_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in environment(SERVICES[name]).items():
        monkeypatch.setenv(variable, text)

    settings = Settings()
    assert settings.ledger.url.get_secret_value().startswith("postgresql+psycopg://") is (name != "sandbox")


def test_the_intake_is_reachable_and_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in environment(SERVICES["intake"]).items():
        monkeypatch.setenv(variable, text)
    intake = Settings().intake

    check_config(
        IntakeConfig(host=intake.host, port=intake.port, bearer_token=Secret(intake.bearer_token.get_secret_value()))
    )
    assert intake.host == EVERYWHERE
    assert SERVICES["intake"]["ports"] == [f"127.0.0.1:${{INTAKE_PORT:-8600}}:{intake.port}"]


def test_the_sandbox_and_the_intake_find_each_other() -> None:
    sandbox = load_config(ROOT / "config" / "compose-sandbox.toml")

    assert sandbox.public_url == f"http://sandbox:{sandbox.port}"
    assert sandbox.host == EVERYWHERE
    assert sandbox.intake.url == "http://intake:8600/v1/events"
    assert SERVICES["sandbox"]["ports"] == [f"127.0.0.1:${{SANDBOX_PORT:-8700}}:{sandbox.port}"]
    assert SERVICES["sandbox"]["command"] == ["sandbox", "--config", "/app/config/compose-sandbox.toml"]


def test_only_the_dispatcher_leads() -> None:
    assert environment(SERVICES["worker"])["HASHMILL_WORKER__LEAD"] == "false"
    assert SERVICES["dispatcher"]["command"] == ["dispatcher"]


def test_addresses_name_services_and_the_ports_they_listen_on() -> None:
    assert env_file()["HASHMILL_BROKER__URL"] == "redis://redis:6379/0"
    url = environment(SERVICES["migrate"])["HASHMILL_LEDGER__URL"]
    postgres = SERVICES["postgres"]["environment"]
    assert url == (
        f"postgresql+psycopg://{postgres['POSTGRES_USER']}:made-up-POSTGRES_PASSWORD@postgres/{postgres['POSTGRES_DB']}"
    )


def test_the_operator_must_give_every_secret_and_nothing_else() -> None:
    asked = {match["name"] for text in strings(COMPOSE) for match in VARIABLE.finditer(text) if match["how"] == "?"}
    bare = {match["name"] for text in strings(COMPOSE) for match in VARIABLE.finditer(text) if not match["how"]}

    assert asked == SECRETS
    assert bare == set()


def test_no_value_of_the_compose_files_is_a_secret() -> None:
    written = {**env_file()}
    for service in SERVICES.values():
        for name, text in service.get("environment", {}).items():
            # What is left of a value without its variables is what stands in the file.
            written[name] = VARIABLE.sub("", text)
    secret = {name for name in written if name.startswith("HASHMILL_") and knob(name).annotation is SecretStr}

    assert {name: text for name, text in written.items() if name in secret} == {
        "HASHMILL_BROKER__URL": "redis://redis:6379/0",
        "HASHMILL_LEDGER__URL": "postgresql+psycopg://hashmill:@postgres/hashmill",
        "HASHMILL_SECRETS__SEAL_KEY": "",
        "HASHMILL_INTAKE__BEARER_TOKEN": "",
        "HASHMILL_S3__ACCESS_KEY_ID": "",
        "HASHMILL_S3__SECRET_ACCESS_KEY": "",
    }
    assert written["POSTGRES_PASSWORD"] == ""


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_as_little_as_possible(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert name in OURS or service["user"] not in {"0", "root", "0:0"}
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_service_that_stays_has_a_health_check_its_image_can_run(name: str) -> None:
    check = SERVICES[name]["healthcheck"]["test"]
    first, *rest = words_of(check)

    if name not in OURS:
        assert first in {"valkey-cli", "pg_isready"}
        return
    assert first == "python"
    if rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None
    else:
        compile(rest[1], "healthcheck", "exec")
        (port,) = re.findall(r"127\.0\.0\.1:(\d+)/", rest[1])
        assert SERVICES[name]["ports"][0].endswith(f":{port}")


def test_nobody_waits_for_the_health_of_a_service_that_has_no_check() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            wanted = how["condition"]
            assert wanted == ("service_completed_successfully" if other == "migrate" else "service_healthy")
            assert wanted != "service_healthy" or "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", ["worker", "dispatcher"])
def test_docker_waits_longer_than_a_worker_drains(name: str) -> None:
    grace_s = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))

    assert grace_s > Settings().worker.drain_grace_s + CLOSE_TIMEOUT_S


def test_files_and_volumes_that_are_named_exist() -> None:
    for service in OURS.values():
        # The operator's own knobs stand last, so that they win, and need not be there.
        assert service["env_file"] == ["config/compose.env", "${KNOBS_FILE:-config/knobs.env}"]
        assert (ROOT / "config" / "knobs.env").is_file()
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), volume


def test_the_image_is_tagged_with_this_version() -> None:
    from hashmill import __version__

    assert {service["image"] for service in OURS.values()} == {f"hashmill:{__version__}"}


def test_everything_the_image_copies_exists_and_reaches_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}

    assert copied()
    assert {source.rstrip("/") for source in copied()} == let_in
    assert {source for source in let_in if not (ROOT / source).exists()} == set()
    assert not any(fnmatch.fnmatch(".git", line) for line in lines[1:])


def test_the_image_holds_all_that_a_process_opens() -> None:
    assert {"hashmill", "worker", "tasks", "config", "migrations"} <= set(copied())


def test_the_image_runs_as_nobody_in_particular_and_holds_no_compiler() -> None:
    words = instructions()
    last_stage = max(at for at, (word, _) in enumerate(words) if word == "FROM")

    assert [rest for word, rest in words[last_stage:] if word == "USER"] == ["10001:10001"]
    images = [rest.split()[0] for word, rest in words if word == "FROM"]
    assert set(images) == {
        "python:3.11-slim-bookworm",
        "python:3.11-bookworm",
    }  # one system: what one built the other runs
    assert images[-1] == "python:3.11-slim-bookworm"
    assert "--require-hashes" in DOCKERFILE
    assert "--only-binary :all:" in DOCKERFILE
    assert not re.search(r"\b(apt-get|gcc|build-essential|curl|wget)\b", DOCKERFILE)
    assert "HEALTHCHECK" not in {word for word, _ in words}
    assert ("ENTRYPOINT", '["hashmill"]') in words
