"""An event that names a function runs it for each file, with everything that holds for a fixity check."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from hashmill.domain.errors import EventInvalid
from hashmill.domain.event import from_public
from hashmill.domain.function import Function, Kind, Limits
from hashmill.domain.job import Mode, RunState
from hashmill.domain.secret import Secret
from hashmill.flow.accept import accept
from hashmill.flow.hash_files import hash_files
from hashmill.flow.replay import ReplayRequest, replay
from hashmill.ledger import entries, files, functions, runs, tables
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.fakes import RULES, Stage, accepted, delivered, dispatched, listed, run_now, staged
from tests.helpers.ledger import fresh_ledger

NAME = "mine"
GOOD = b"""
from libnova.Labdrive.Nuclio.Request import Request
from libnova.Labdrive.Api import File

def handler(context, event):
    request = Request(context, event)
    request.job_init()
    for file in request.Files:
        if file.id == "2" and request.function_params.get("fail"):
            raise LookupError("not this one")
        request.log("seen", file_id=file.id)
        File.set_hash(file.id, "mine", "00" + file.id.zfill(2))
    print("printed")
    request.job_end(True)
"""


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with fresh_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger) -> Iterator[Stage]:
    rules = replace(RULES, function_limits=Limits(time_s=60.0), batch_max=8)
    with staged(ledger, rules=rules) as opened:
        yield opened


def handler(source: bytes) -> Function:
    return Function(name=NAME, kind=Kind.HANDLER, source=source)


async def worked(stage: Stage, run: Run) -> Run:
    for _ in range(5):
        for ticket in await dispatched(stage):
            await hash_files(stage.tools, ticket)
        await delivered(stage)
    return await run_now(stage, run)


async def told(stage: Stage, name: str) -> list[Any]:
    return [call.what for call in stage.api.calls if call.name == name]


async def test_a_function_runs_for_each_file_and_what_it_tells_is_delivered(stage: Stage, ledger: Ledger) -> None:
    await stage.tools.ledger.write(functions.add, handler(GOOD), by="op")
    run = await listed(stage, 3, function_key=NAME)
    assert (run.mode, run.function_name) == (Mode.FUNCTION, NAME)

    run = await worked(stage, run)

    assert run.state is RunState.COMPLETED
    rows = ledger.read_now(files.of_run, run.run_id, limit=10)
    assert [(row.state, row.digests) for row in rows] == [("done", {"mine": f"00{row.file_id:0>2}"}) for row in rows]
    stored = {(one["file_id"], one["algorithm"], one["digest"]) for one in await told(stage, "set_hash")}
    assert stored == {(str(number), "mine", f"00{number:02}") for number in (1, 2, 3)}
    messages = [(one["text"], one["file_id"]) for one in await told(stage, "create_message")]
    assert sorted(messages[:-1], key=str) == sorted(
        [(text, str(number)) for number in (1, 2, 3) for text in ("seen", "printed")], key=str
    )
    assert messages[-1] == ("3 of 3 files processed by function mine", None)
    statuses = [one["status"] for one in await told(stage, "set_job_status")]
    assert statuses == ["RUNNING", "COMPLETED"]
    assert ledger.read_now(entries.verify).faults == ()


async def test_a_function_s_failure_is_of_its_file_alone_and_can_be_replayed(stage: Stage, ledger: Ledger) -> None:
    await stage.tools.ledger.write(functions.add, handler(GOOD), by="op")
    run = await listed(stage, 3, function_key=NAME, function_params={"fail": True})

    run = await worked(stage, run)

    assert run.state is RunState.FAILED
    rows = ledger.read_now(files.of_run, run.run_id, limit=10)
    assert [row.state for row in rows] == ["done", "failed", "done"]
    assert rows[1].error_detail == "function mine: it raised LookupError: not this one"
    assert any("File not processed" in one["text"] for one in await told(stage, "create_message"))

    await replay(stage.tools, ReplayRequest(run_id=run.run_id, reason="again", who="op"))
    run = await worked(stage, run)
    assert [row.generation for row in ledger.read_now(files.of_run, run.run_id, limit=10)] == [0, 1, 0]
    assert ledger.read_now(entries.verify).faults == ()


async def test_what_a_function_printed_before_its_time_was_up_is_told(ledger: Ledger) -> None:
    source = b"import time\ndef handler(context, event):\n    print('I got this far')\n    time.sleep(600)\n"
    with staged(ledger, rules=replace(RULES, function_limits=Limits(time_s=3.0), batch_max=8)) as stage:
        await stage.tools.ledger.write(functions.add, handler(source), by="op")
        await worked(stage, await listed(stage, 1, function_key=NAME))

        texts = [one["text"] for one in await told(stage, "create_message")]
    assert texts[0] == "I got this far"
    assert "it took more than 3 s" in texts[1]


async def test_a_run_keeps_the_version_that_was_current_when_it_was_accepted(stage: Stage, ledger: Ledger) -> None:
    first, second = handler(GOOD), handler(GOOD.replace(b"00", b"ff"))
    await stage.tools.ledger.write(functions.add, first, by="op")
    before = await listed(stage, 1, function_key=NAME)
    await stage.tools.ledger.write(functions.add, second, by="op")
    after = await listed(stage, 1, start=5, function_key=NAME)
    await stage.tools.ledger.write(functions.remove, NAME, by="op")

    for run in (before, after):
        await worked(stage, run)

    def digests(run: Run) -> Any:
        (row,) = ledger.read_now(files.of_run, run.run_id, limit=10)
        return row.digests

    assert (before.function_sha256, after.function_sha256) == (first.sha256, second.sha256)
    assert (digests(before), digests(after)) == ({"mine": "0001"}, {"mine": "ff05"})


async def test_an_event_that_names_a_removed_function_is_refused_and_leaves_no_run(
    stage: Stage, ledger: Ledger
) -> None:
    await stage.tools.ledger.write(functions.add, handler(GOOD), by="op")
    before = await listed(stage, 1, function_key=NAME)
    await stage.tools.ledger.write(functions.remove, NAME, by="op")

    with pytest.raises(EventInvalid, match=r"\$.labdrive.function.key: function 'mine' was removed"):
        await listed(stage, 1, start=7, function_key=NAME)

    assert ledger.read_now(lambda connection: connection.execute(sa.select(tables.runs.c.run_id)).scalars().all()) == [
        before.run_id
    ]
    assert ledger.read_now(entries.verify).faults == ()
    await stage.tools.ledger.write(functions.add, handler(GOOD), by="op")
    assert (await listed(stage, 1, start=7, function_key=NAME)).mode is Mode.FUNCTION


async def test_a_run_made_before_its_function_was_removed_is_still_found_by_its_event(stage: Stage) -> None:
    await stage.tools.ledger.write(functions.add, handler(GOOD), by="op")
    first = await accepted(stage, function_key=NAME)
    await stage.tools.ledger.write(functions.remove, NAME, by="op")

    public = await stage.tools.ledger.read(runs.event_of, first.run_id)
    again, made = await accept(
        stage.tools, from_public(public, key_user=Secret("key")), idempotency_key=first.idempotency_key
    )

    assert (made, again.run_id) == (False, first.run_id)


async def test_a_name_by_which_files_are_hashed_is_known_as_such(stage: Stage, ledger: Ledger) -> None:
    hashing = await listed(stage, 1, function_key="hash_mill%")
    await listed(stage, 1, start=5, function_key="else", function_params={"function_key": "other"})
    await stage.tools.ledger.write(functions.add, handler(GOOD), by="op")
    await listed(stage, 1, start=7, function_key=NAME)

    found = {name: ledger.read_now(functions.hashed_lately, name) for name in ("hash_mill%", "other", "hash", NAME)}

    assert found == {"hash_mill%": hashing.run_id, "other": None, "hash": None, NAME: None}


async def test_a_notebook_s_copy_is_kept_and_its_entry_names_it(stage: Stage, ledger: Ledger) -> None:
    cells = [
        "from types import SimpleNamespace\nfrom libnova.Labdrive.Nuclio.Request import Request",
        "request = Request(None, SimpleNamespace(body='{}'))\nprint([one.id for one in request.Files])",
    ]
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{at}",
                "metadata": {},
                "outputs": [],
                "execution_count": None,
                "source": text,
            }
            for at, text in enumerate(cells)
        ],
    }
    function = Function(name=NAME, kind=Kind.NOTEBOOK, source=json.dumps(document).encode())
    await stage.tools.ledger.write(functions.add, function, by="op")
    run = await worked(stage, await listed(stage, 1, function_key=NAME))

    (copy,) = ledger.read_now(
        lambda connection: connection.execute(sa.select(tables.executed_notebooks.c.body)).scalars().all()
    )
    (entry,) = [one for one in ledger.read_now(entries.of_run, run.run_id, limit=50) if one.kind == "file_processed"]
    body = json.loads(entry.body)
    assert "['1']" in bytes(copy).decode()
    assert body["executed_sha256"] == hashlib.sha256(bytes(copy)).hexdigest()
    assert body["function"] == {"name": NAME, "sha256": function.sha256, "kind": "notebook"}


async def test_no_key_of_the_event_stands_in_the_ledger(stage: Stage, ledger: Ledger) -> None:
    from tests.helpers.fakes import CANARY

    source = b"def handler(context, event):\n    assert b'key-that-must-never-be-seen' in event.body\n"
    await stage.tools.ledger.write(functions.add, handler(source), by="op")
    run = await worked(stage, await listed(stage, 1, function_key=NAME))

    assert run.state is RunState.COMPLETED
    for entry in ledger.read_now(entries.of_run, run.run_id, limit=50):
        assert CANARY.encode() not in entry.body
