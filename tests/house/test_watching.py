"""What config/prometheus, config/grafana and config/keda ask for is what the service really says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hashmill.domain.job import FileState, RunState
from hashmill.intake.broker import BrokerState
from hashmill.intake.metrics import Metrics
from hashmill.intake.standing import Standing
from hashmill.ledger import overview, runs
from hashmill.queue import QUEUES
from tests.helpers.ledger import accept_run, fresh_ledger

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "config/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "config/grafana/hashmill.json").read_text())
KEDA = list(yaml.safe_load_all((ROOT / "config/keda/scaledobject.yaml").read_text()))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
METRIC = re.compile(r"\b((?:hashmill|celery)_[a-z_]+)(?:\{([^}]*)\})?")
WANTED = re.compile(r'(\w+)(=~|!~|=|!=)"([^"]*)"')


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Every series the intake exports, with its labels and the values they took for an empty ledger and one event."""
    metrics = Metrics()
    metrics.event("accepted")
    metrics.request(method="POST", route="/v1/events", status=202, took_s=0.01)
    with fresh_ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.sqlite3'}") as ledger:
        standing = Standing(overview=ledger.read_now(overview.overview, leader="leader"))
    text = metrics.text(standing, BrokerState(state="ok", waiting=dict.fromkeys(QUEUES, 0))).decode()
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_a_query_asks_for_series_and_labels_that_exist(query: str, said: dict[str, dict[str, set[str]]]) -> None:
    asked = METRIC.findall(query)

    assert asked or query == 'absent(up{job="hashmill"} == 1)'
    for name, matchers in asked:
        assert name in said, f"nothing exports {name}"
        for label, how, value in WANTED.findall(matchers):
            assert label in said[name], f"{name} has no label {label}"
            wanted = set(value.split("|")) if "~" in how else {value}
            assert wanted <= said[name][label], f"{name}: {label} is never {wanted - said[name][label]}"


def test_every_alert_tells_what_to_do_in_a_chapter_that_exists() -> None:
    chapters = re.findall(r"^#+ (.+)$", (ROOT / "docs/operate.md").read_text(), flags=re.MULTILINE)
    anchors = {"docs/operate.md#" + re.sub(r"[^\w -]", "", chapter.lower()).replace(" ", "-") for chapter in chapters}

    assert {
        rule["alert"]: rule["annotations"]["runbook"] for rule in RULES if rule["annotations"]["runbook"] not in anchors
    } == {}
    assert {rule["labels"]["severity"] for rule in RULES} <= {"critical", "warning", "info"}


def test_prometheus_scrapes_the_address_compose_gives_the_intake() -> None:
    config = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    port = compose["services"]["intake"]["ports"][0].rpartition(":")[2]

    assert config["rule_files"] == ["alerts.yml"]
    assert job["static_configs"] == [{"targets": [f"intake:{port}"]}]
    assert job["metrics_path"] == "/metrics"


def test_panels_have_a_title_a_sentence_and_a_place_of_their_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells


def keda_query() -> str:
    scaled: dict[str, Any] = next(part for part in KEDA if part["kind"] == "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    return str(trigger["metadata"]["query"])


def test_the_scaler_counts_open_files_and_runs_not_listed_yet(ledger_url: str) -> None:
    with fresh_ledger(ledger_url) as ledger:

        def ask() -> int:
            return int(ledger.read_now(lambda connection: connection.execute(sa.text(keda_query())).scalar_one()))

        assert ask() == 0
        run = accept_run(ledger)
        assert ask() == 1

        def open_files(connection: sa.Connection, state: RunState) -> None:
            connection.execute(sa.text("UPDATE runs SET files_open = 500, state = :state"), {"state": str(state)})
            assert runs.get(connection, run.run_id) is not None

        ledger.write_now(open_files, RunState.RUNNING)
        assert ask() == 500
        ledger.write_now(open_files, RunState.COMPLETED)
        assert ask() == 0


def test_the_scaler_names_states_that_exist() -> None:
    named = set(re.findall(r"'([a-z]+)'", keda_query()))

    assert named
    assert named <= {str(state) for state in RunState} | {str(state) for state in FileState}
