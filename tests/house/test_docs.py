"""What the documents say exists: commands, options, targets, files, links, knobs, tables, states."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from typer.main import get_command

from hashmill.cli.exits import ExitCode
from hashmill.cli.main import app
from hashmill.cli.settings_sheet import markdown
from hashmill.domain.digest import DEFAULT_ALGORITHMS, KNOWN_ALGORITHMS
from hashmill.domain.errors import ErrorClass
from hashmill.domain.event import parse_event
from hashmill.domain.job import FileState, OutboxState, RunState
from hashmill.ledger import entries
from hashmill.ledger.tables import metadata
from hashmill.settings import Settings
from tests.helpers.ledger import accept_run, fresh_ledger

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "tests/**/README.md", "benchmarks/README.md")
DOCS = sorted(path for place in PLACES for path in ROOT.glob(place))
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"\.?[\w-][\w./-]*\.(py|toml|md|yml|yaml|json|txt|env|html|css|js)|[\w-]+(/[\w.-]+)*/")
MADE_UP = {"event.json", "hashmill.env", "hashmill-own.toml", "adler_for_hashmill.py"}
"""Files an example asks its reader to have."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose(name: str) -> str:
    return FENCE.sub("", text_of(name))


def said_commands(name: str) -> Iterator[list[str]]:
    """Yield every command line a document shows, in blocks and in backticks, as words."""
    blocks = [body for language, body in FENCE.findall(text_of(name)) if language in {"", "sh", "bash", "console"}]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    for line in [*lines, *INLINE.findall(prose(name))]:
        for part in re.split(r"\s*(?:&&|\||;)\s*|\$\(|\)", line.split("#")[0]):
            try:
                words = shlex.split(part)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
                words.pop(0)
            if words and words[0] in {".venv/bin/hashmill", "hashmill", "make"}:
                yield [words[0].rpartition("/")[2], *words[1:]]


@cache
def leaves() -> dict[str, Any]:
    """Every command by its full name."""
    found: dict[str, Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, name))
        if not hasattr(command, "commands"):
            found[" ".join(path)] = command

    walk(get_command(app), ("hashmill",))
    return found


def fault_of(words: list[str]) -> str | None:
    """Return what is wrong with a `hashmill …` line, or None. `COMMAND` and `…` stand for any."""
    command: Any = get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0] in {"…", "COMMAND"}:
            return None
        if rest[0].startswith("-"):
            return None if rest[0] == "--help" else f"hashmill has no {rest[0]}"
        if rest[0] not in command.commands:
            return f"there is no {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    wrong = [word for word in rest if word.startswith("--") and word.split("=")[0] not in {*known, "--help"}]
    return f"{' '.join(words)}: no {', '.join(wrong)}" if wrong else None


@pytest.mark.parametrize("name", NAMES)
def test_every_command_a_document_shows_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), flags=re.MULTILINE))
    faults = []
    for words in said_commands(name):
        if words[0] == "hashmill":
            faults.append(fault_of(words))
        elif len(words) > 1 and words[1].islower() and words[1].isalpha():
            faults.append(None if words[1] in targets else f"there is no make {words[1]}")

    assert [fault for fault in faults if fault] == []


def test_every_command_and_option_has_help() -> None:
    silent = [name for name, command in leaves().items() if not (command.help or "").strip()]
    mute = [
        f"{name} {parameter.name}"
        for name, command in leaves().items()
        for parameter in command.params
        if parameter.name != "help" and not (getattr(parameter, "help", None) or "").strip()
    ]

    assert len(leaves()) > 10
    assert silent == []
    assert mute == []


def test_every_command_stands_in_the_page_of_commands() -> None:
    assert set(table_under("docs/cli.md", "Commands")) == set(leaves())


def test_every_exit_status_stands_in_the_page_of_commands() -> None:
    assert set(table_under("docs/cli.md", "Exit statuses")) == {str(int(code)) for code in ExitCode}


def test_every_command_that_answers_can_answer_in_json() -> None:
    serving = {f"hashmill {name}" for name in ("intake", "worker", "dispatcher", "up", "sandbox")}
    speaks = {name for name, command in leaves().items() if any("--json" in option.opts for option in command.params)}

    assert speaks == set(leaves()) - serving


def test_the_page_of_settings_is_what_make_docs_writes() -> None:
    assert text_of("docs/settings.md") == markdown(Settings)


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    broken = []
    for link in LINK.findall(prose(name)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_file_a_document_names_exists(name: str) -> None:
    named = {text for text in INLINE.findall(prose(name)) if FILE.fullmatch(text)} - MADE_UP

    missing = {text for text in named if not ((ROOT / text).exists() or (ROOT / name).parent.joinpath(text).exists())}
    # What a process of ours makes, or a wheel carries, is not in a checkout.
    assert {text for text in missing if not text.startswith((".venv/", ".run/", "hashmill/_app/"))} == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_a_document_names_exists(name: str) -> None:
    wrong = set()
    for text in INLINE.findall(prose(name)):
        if text in set(ErrorClass):
            continue
        if match := re.fullmatch(r"HASHMILL_([A-Z0-9]+)__([A-Z0-9_]+)(=.*)?", text):
            section, knob = match[1].lower(), match[2].lower()
        elif match := re.fullmatch(r"([a-z0-9]+)\.([a-z0-9_]+)", text):
            section, knob = match[1], match[2]
        else:
            continue
        field = Settings.model_fields.get(section)
        kind = field.annotation if field else None
        if isinstance(kind, type) and issubclass(kind, BaseModel) and knob not in kind.model_fields:
            wrong.add(text)

    assert wrong - {"HASHMILL_SECTION__KNOB"} == set()


def test_no_document_names_a_knob_in_the_environment_that_does_not_exist() -> None:
    for name in NAMES:
        for section, knob in re.findall(r"HASHMILL_([A-Z0-9]+)__([A-Z0-9_]+)", text_of(name)):
            if (section, knob) == ("SECTION", "KNOB"):
                continue
            kind: Any = Settings.model_fields[section.lower()].annotation
            assert knob.lower() in kind.model_fields, f"{name}: HASHMILL_{section}__{knob}"


def test_every_service_a_document_scales_or_starts_is_in_the_compose_file() -> None:
    compose = text_of("docker-compose.yml")

    for name in NAMES:
        for service in re.findall(r"--(?:scale|profile) ([a-z]+)", text_of(name)):
            assert re.search(rf"^  {service}:$", compose, flags=re.MULTILINE), f"{name}: {service}"


def test_the_event_in_the_readme_is_one() -> None:
    (shown,) = [body for language, body in FENCE.findall(text_of("README.md")) if language == "json"]

    event = parse_event(shown.encode(), known_algorithms=KNOWN_ALGORITHMS)
    assert event.job_id == json.loads(shown)["labdrive"]["job"]["id"]
    assert set(DEFAULT_ALGORITHMS) == {"md5", "sha1", "sha256"}
    assert "it computes md5, sha1 and sha256" in " ".join(text_of("README.md").split())


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))
    groups = [name for group in project["dependency-groups"].values() for name in group]
    notebook = tomllib.loads(text_of("notebook/pyproject.toml"))["project"]["dependencies"]
    asked = [re.split(r"[\[<>=!~; ]", line)[0] for line in [*project["project"]["dependencies"], *groups, *notebook]]
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", text_of("docs/decisions/0005-libraries.md"), flags=re.MULTILINE)
    told = [name for names, _ in rows for name in re.findall(r"`([\w-]+)`", names)]

    assert sorted(told) == sorted(asked)
    assert [names for names, reason in rows if len(reason.split()) < 2] == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("*.md"))

    assert numbers == list(range(1, len(numbers) + 1))


def table_under(name: str, heading: str) -> dict[str, str]:
    """Return a table's first column and the rest of each row, from the chapter of that heading."""
    chapter = text_of(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ", 1) for line in chapter.splitlines() if line.startswith("| ")]
    return {first.strip().strip("`"): rest for first, rest in rows[2:]}


def test_the_ledgers_tables_are_all_described() -> None:
    assert set(table_under("docs/ledger.md", "Tables")) == set(metadata.tables)


def test_the_ledgers_states_are_all_described() -> None:
    told = {name: re.findall(r"`(\w+)`", rest) for name, rest in table_under("docs/ledger.md", "States").items()}

    assert told == {
        "a run": [str(state) for state in RunState],
        "a file": [str(state) for state in FileState],
        "a report": [str(state) for state in OutboxState],
    }


def test_the_kinds_of_entries_are_all_described() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "hashmill" / "ledger").glob("*.py"))
    written = {
        kind for kind in re.findall(r'"((?:run|file|function)_[a-z_]+)"', sources) if re.search(r"(ed|led)$", kind)
    }
    told = {kind for kinds in table_under("docs/ledger.md", "Entries") for kind in kinds.replace("`", "").split(", ")}

    assert told == written


def test_the_ledger_can_be_checked_with_what_its_document_shows(tmp_path: Path) -> None:
    (shown,) = [body for language, body in FENCE.findall(text_of("docs/ledger.md")) if language == "python"]
    file = tmp_path / "ledger.sqlite3"
    (tmp_path / "check.py").write_text(shown)

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(tmp_path / "check.py"), str(file)], capture_output=True, text=True, check=False
        )

    with fresh_ledger(f"sqlite:///{file}") as ledger:
        for key in ("k1", "k2", "k3"):
            accept_run(ledger, key=key)
        ledger.write_now(entries.number)
        good = check()

        def forge(connection: sa.Connection) -> None:
            for (trigger,) in connection.execute(
                sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entries'")
            ).all():
                connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
            connection.execute(sa.text("UPDATE entries SET body = replace(body, 'run_accepted', 'run_ended')"))

        ledger.write_now(forge)
    bad = check()

    assert good.stdout == "3 entries are what they were\n", good.stderr
    assert bad.returncode == 1
    assert "was altered" in bad.stderr


def test_the_licence_is_apache_2_word_by_word() -> None:
    text = " ".join(text_of("LICENSE").split())

    assert text.startswith("Apache License Version 2.0, January 2004")
    assert hashlib.sha256(text.encode()).hexdigest() == LICENCE_SHA256


LICENCE_SHA256 = "0ffddef9e48f8a09aed5caf2d44f7ba1c1be2d9b8e0a6f693b1635b2d5566645"
"""Of the licence's text with every run of blanks made one."""
