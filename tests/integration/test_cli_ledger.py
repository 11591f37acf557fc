"""`hashmill runs`, `replay` and `ledger` on real ledgers of both databases."""

import json
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass
from hashmill.intake.answers import EntryAnswer, FileAnswer, LargeFileAnswer, RunAnswer
from hashmill.ledger import gates, leases
from hashmill.ledger.engine import Ledger
from hashmill.ledger.gates import GateKind
from tests.helpers.cli import Said, run_cli
from tests.helpers.ledger import fresh_ledger, save_slice
from tests.helpers.stocked_ledger import (
    SEAL_KEY,
    completed_run,
    end_run,
    failed_run,
    number_entries,
    open_run,
    read_files,
)

Cli = Callable[..., Said]


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as ledger:
        yield ledger


@pytest.fixture
def cli(ledger_url: str) -> Cli:
    def run(*args: str, **change: str) -> Said:
        env = {"HASHMILL_LEDGER__URL": ledger_url, "HASHMILL_SECRETS__SEAL_KEY": SEAL_KEY, **change}
        return run_cli(*args, env=env)

    return run


def test_runs_are_listed_newest_first_page_by_page(ledger: Ledger, cli: Cli) -> None:
    ids = [failed_run(ledger).run_id, completed_run(ledger).run_id, open_run(ledger, ["x"]).run_id]

    first = cli("runs", "list", "--limit", "2", "--json").json
    second = cli("runs", "list", "--limit", "2", "--before", first[-1]["run_id"], "--json").json

    assert [run["run_id"] for run in first + second] == ids[::-1]


def test_the_list_says_how_to_see_the_next_page(ledger: Ledger, cli: Cli) -> None:
    older, newer = completed_run(ledger).run_id, completed_run(ledger).run_id

    said = cli("runs", "list", "--limit", "1")

    assert newer in said.out
    assert older not in said.out
    assert f"older ones: hashmill runs list --before {newer}" in said.out


def test_filters_narrow_the_list(ledger: Ledger, cli: Cli) -> None:
    failed, _ = failed_run(ledger, job_id="1"), completed_run(ledger, job_id="2")

    def ids(*filters: str) -> list[str]:
        return [run["run_id"] for run in cli("runs", "list", *filters, "--json").json]

    assert ids("--state", "failed") == ids("--job", "1") == ids("--error-class", "s3.not_found") == [failed.run_id]
    assert ids("--tenant", "nobody") == ids("--container", "99") == []


def test_an_empty_list_says_so_in_words_and_in_json(ledger: Ledger, cli: Cli) -> None:
    assert cli("runs", "list").out == "no runs\n"
    assert cli("runs", "list", "--json").json == []


def test_the_documents_have_the_names_of_the_http_answers(ledger: Ledger, cli: Cli) -> None:
    run_id = failed_run(ledger).run_id
    only_http = {"status_url", "eta_s"}

    assert set(RunAnswer.model_fields) - only_http <= set(cli("runs", "show", run_id, "--json").json)
    assert set(FileAnswer.model_fields) == set(cli("runs", "files", run_id, "--json").json[0])
    assert set(EntryAnswer.model_fields) == set(cli("runs", "entries", run_id, "--json").json[0])


def test_a_failed_run_shows_what_failed_why_and_what_to_do(ledger: Ledger, cli: Cli) -> None:
    run_id = failed_run(ledger).run_id

    said = cli("runs", "show", run_id).out
    page = cli("runs", "show", run_id, "--json").json

    assert "a/gone.txt: it went wrong" in said
    assert "[objects] in config/labdrive.toml" in said
    assert f'hashmill replay --run {run_id} --reason "…"' in said
    assert page["failures"][0]["error_class"] == "s3.not_found"
    assert page["failures"][0]["files"] == 1
    assert (page["job_status"], page["job_status_delivered"]) == ("FAILED", True)


def test_a_run_shows_how_far_its_large_files_are(ledger: Ledger, cli: Cli) -> None:
    run = open_run(ledger, ["small", "large"])
    save_slice(ledger, run.run_id, 2, offset_bytes=3 << 40, size_bytes=4 << 40, slices=768)

    page = cli("runs", "show", run.run_id, "--json").json
    said = " ".join(cli("runs", "show", run.run_id).out.split())

    (file,) = page["large_files"]
    assert set(file) == set(LargeFileAnswer.model_fields)
    assert (file["file_no"], file["offset_bytes"], file["slices"]) == (2, 3 << 40, 768)
    assert "75 % 768" in said
    read_files(ledger, run, 2)
    assert cli("runs", "show", run.run_id, "--json").json["large_files"] == []


def test_a_run_that_does_not_move_shows_what_holds_it_back_and_what_to_do(ledger: Ledger, cli: Cli) -> None:
    run = open_run(ledger, ["a", "b"])
    detail = {"slots": 4, "storages_away": [{"address": "eu-west-9", "for_s": 240.0, "reason": "no answer"}]}
    ledger.write_now(leases.take, f"{leases.PROCESS}w", "w", lease_s=60, detail=detail)
    ledger.write_now(gates.shut, run.api_url, kind=GateKind.API, failures=9, for_s=600.0, reason="HTTP 503")
    ledger.write_now(gates.shut, "http://elsewhere", kind=GateKind.API, failures=9, for_s=600.0, reason="HTTP 503")

    page = cli("runs", "show", run.run_id, "--json", HASHMILL_S3__REGION="eu-west-9").json
    said = " ".join(cli("runs", "show", run.run_id, HASHMILL_S3__REGION="eu-west-9").out.split())

    assert [hold["by"] for hold in page["held_back"]] == ["leader", "storage", "api"]
    assert "Held back: no process leads" in said
    assert "Held back: the S3 server eu-west-9 is away since " in said
    assert "(4 min 0 s): no answer what to do: check that it runs" in said
    assert "LABDRIVE at http://127.0.0.1:1 is away since " in said
    assert ": HTTP 503 what to do: check that LABDRIVE runs" in said
    assert ", next try in " in said
    assert "elsewhere" not in said
    assert 500 < page["held_back"][2]["next_try_in_s"] <= 600


def test_whoever_only_looks_needs_no_sealing_key(ledger: Ledger, cli: Cli) -> None:
    run_id = open_run(ledger, ["a"]).run_id

    assert cli("runs", "show", run_id, HASHMILL_SECRETS__SEAL_KEY="").code == 0


def test_no_page_shows_the_events_key(ledger: Ledger, cli: Cli) -> None:
    run_id = failed_run(ledger).run_id

    for args in (("show",), ("show", "--json"), ("files", "--json"), ("entries", "--json")):
        assert "the-users-key" not in cli("runs", args[0], run_id, *args[1:]).out


def test_a_run_is_found_by_the_beginning_of_its_id(ledger: Ledger, cli: Cli) -> None:
    run_id = completed_run(ledger).run_id

    for given in (run_id[:8], run_id[:14].upper(), run_id):
        assert cli("runs", "show", given, "--json").json["run_id"] == run_id


def test_a_beginning_of_two_ids_or_of_none_is_a_usage_error(ledger: Ledger, cli: Cli) -> None:
    run_id = completed_run(ledger).run_id
    completed_run(ledger)

    two, none, odd = cli("runs", "show", run_id[:6]), cli("runs", "show", "ffff"), cli("runs", "show", "x%")

    assert [two.code, none.code, odd.code] == [2, 2, 2]
    assert "more than one run" in two.err
    assert "no run ffff" in none.err
    assert "no run id" in odd.err


def test_files_show_their_digests_or_what_went_wrong(ledger: Ledger, cli: Cli) -> None:
    run_id = failed_run(ledger).run_id

    said = cli("runs", "files", run_id).out
    failed = cli("runs", "files", run_id, "--state", "failed", "--json").json
    rest = cli("runs", "files", run_id, "--after", "2", "--json").json

    assert "0" * 32 in said
    assert "s3.not_found: it went wrong" in said
    assert [file["path"] for file in failed] == ["a/gone.txt"]
    assert [file["file_no"] for file in rest] == [3]


def test_entries_tell_what_happened_in_order(ledger: Ledger, cli: Cli) -> None:
    run_id = completed_run(ledger).run_id
    number_entries(ledger)

    found = cli("runs", "entries", run_id, "--json").json

    kinds = ["run_accepted", "run_started", "run_expanded", "file_hashed", "file_hashed", "run_settled", "run_ended"]
    assert [entry["kind"] for entry in found] == kinds
    assert [entry["leaf_index"] for entry in found] == list(range(7))
    assert "run_expanded" in cli("runs", "entries", run_id).out


def test_watching_a_run_that_has_ended_tells_how_by_its_exit_status(ledger: Ledger, cli: Cli) -> None:
    good, bad = completed_run(ledger).run_id, failed_run(ledger).run_id

    assert cli("runs", "watch", good).code == 0
    ended = cli("runs", "watch", bad)
    assert ended.code == 1
    assert f"run {bad} failed: s3.not_found" in ended.out


def test_a_dry_run_counts_by_class_and_changes_nothing(ledger: Ledger, cli: Cli) -> None:
    run_id = failed_run(ledger).run_id

    report = cli("replay", "--run", run_id[:14], "--reason", "try", "--dry-run", "--json").json

    assert report["runs"][0]["by_class"] == {"s3.not_found": 1}
    assert (report["files"], report["size_bytes"]) == (1, 1000)
    assert cli("runs", "show", run_id, "--json").json["state"] == "failed"


def test_a_replay_opens_the_run_again_and_is_ledgered_with_who_and_why(ledger: Ledger, cli: Cli) -> None:
    run_id = failed_run(ledger).run_id

    said = cli("replay", "--job", "4711", "--reason", "storage is back", "--who", "ana")

    assert said.code == 0
    assert "1 files, 1000 B as far as known, in 1 runs will be read again" in said.out
    last = cli("runs", "entries", run_id, "--json").json[-1]
    assert (last["kind"], last["body"]["who"], last["body"]["reason"]) == ("run_replayed", "ana", "storage is back")
    assert cli("runs", "show", run_id, "--json").json["state"] == "running"


def test_a_replay_of_nothing_or_of_an_active_run_is_refused(ledger: Ledger, cli: Cli) -> None:
    active = open_run(ledger, ["x", "y"])
    read_files(ledger, active, 1, {"x": ErrorClass.S3_NOT_FOUND})

    nowhere = cli("replay", "--reason", "r")
    running = cli("replay", "--run", active.run_id, "--reason", "r")
    unknown = cli("replay", "--job", "none", "--reason", "r")

    assert [nowhere.code, running.code, unknown.code] == [5, 5, 5]
    assert "say what to replay" in nowhere.err
    assert "use force" in running.err
    assert cli("replay", "--run", active.run_id, "--reason", "r", "--force").code == 0


def test_an_unaltered_ledger_verifies(ledger: Ledger, cli: Cli) -> None:
    failed_run(ledger)
    number_entries(ledger)

    found = cli("ledger", "verify", "--json")

    assert found.code == 0
    assert (found.json["faults"], found.json["files_hashed"]) == ([], 2)


def test_an_altered_entry_is_found_and_named(ledger: Ledger, cli: Cli) -> None:
    failed_run(ledger)
    number_entries(ledger)
    _alter_an_entry(ledger)

    found = cli("ledger", "verify")

    assert found.code == 1
    assert "fault: entry 2: the stored bytes do not have the stored leaf hash" in found.out


def test_the_ledger_says_whether_it_is_at_this_version(ledger: Ledger, cli: Cli) -> None:
    found = cli("ledger", "current", "--json")

    assert found.code == 0
    assert found.json["current"] is True
    assert cli("ledger", "upgrade").out.endswith("already\n")


def test_an_empty_database_is_upgraded_only_when_asked(ledger_url: str, cli: Cli) -> None:
    engine = sa.create_engine(ledger_url)
    engine.connect().close()  # makes SQLite's file
    engine.dispose()

    refused = cli("runs", "list")
    assert refused.code == 3
    assert "hashmill ledger upgrade" in refused.err
    assert cli("ledger", "upgrade", "--json").json["before"] is None
    assert cli("runs", "list").code == 0


def test_watch_prints_one_json_line_per_change(ledger: Ledger, cli: Cli) -> None:
    run = open_run(ledger, ["p", "q"])
    read_files(ledger, run, 2)
    end_run(ledger, run)

    lines = [json.loads(line) for line in cli("runs", "watch", run.run_id, "--json").out.splitlines()]

    assert [line["state"] for line in lines] == ["completed"]
    assert lines[0]["files_done"] == 2


def _alter_an_entry(ledger: Ledger) -> None:
    """Change a stored entry as somebody with the database's own rights could."""

    def work(connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("ALTER TABLE entries DISABLE TRIGGER ALL"))
        else:
            names = connection.execute(
                sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entries'")
            ).scalars()
            for name in list(names):
                connection.execute(sa.text(f"DROP TRIGGER {name}"))
        entry_id = connection.execute(sa.text("SELECT entry_id FROM positions WHERE leaf_index = 2")).scalar_one()
        connection.execute(
            sa.text("UPDATE entries SET body = :body WHERE entry_id = :entry_id"),
            {"body": b'{"kind":"file_hashed"}', "entry_id": entry_id},
        )

    ledger.write_now(work)
