"""A message carries ids, never contents and never keys: in its signature, and as it lies in the broker."""

import base64
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection

from hashmill import queue
from hashmill.domain.job import SizeClass
from hashmill.domain.work import Ticket
from hashmill.queue import Queue
from tasks import base, expand_run, hash_files

RUN_ID = "0190a2c4-7d1e-7a3b-9c55-2f1f5b0d7e11"
TASKS = {queue.EXPAND_RUN: expand_run.expand_run, queue.HASH_FILES: hash_files.hash_files}
SECRETIVE = re.compile(r"key|secret|token|passw|credential|auth|bearer|event|body|payload|content|url|path", re.I)
PLAIN = re.compile(r"(str|int|bool|SizeClass|Sequence\[.+\]|tuple\[.+\])")


def step_of(task: Any) -> Callable[..., Any]:
    """Return the step behind a task's door."""
    step: Callable[..., Any] = inspect.getclosurevars(task.run).nonlocals["step"]
    return step


def parameters(task: Any) -> list[inspect.Parameter]:
    """Return what a message of this task may carry: the step's parameters but its tools."""
    return list(inspect.signature(step_of(task)).parameters.values())[1:]


def test_every_wire_name_has_a_task_and_every_task_a_wire_name() -> None:
    written = {value for name, value in vars(queue).items() if isinstance(value, str) and value.startswith("hashmill.")}
    written.discard(queue.__name__)

    assert {task.name for task in TASKS.values()} == set(TASKS) == written


def test_every_file_behind_the_door_is_looked_at_here() -> None:
    from pathlib import Path

    stems = {path.stem for path in Path(base.__file__).parent.glob("*.py")} - {"__init__", "base"}

    assert stems == {task.run.__globals__["__name__"] and name.split(".")[1] for name, task in TASKS.items()}


@pytest.mark.parametrize("name", TASKS)
def test_no_field_of_a_task_looks_like_a_secret_or_like_contents(name: str) -> None:
    fields = parameters(TASKS[name])

    assert fields
    assert [field.name for field in fields if SECRETIVE.search(field.name)] == []
    assert [str(field) for field in fields if field.kind not in {field.POSITIONAL_OR_KEYWORD, field.KEYWORD_ONLY}] == []


@pytest.mark.parametrize("name", TASKS)
def test_every_field_of_a_task_is_a_plain_value(name: str) -> None:
    told = {field.name: inspect.formatannotation(field.annotation) for field in parameters(TASKS[name])}

    assert {field for field, kind in told.items() if not PLAIN.fullmatch(kind.rpartition(".")[2] or kind)} == set()


@pytest.fixture
def lying() -> dict[str, dict[str, Any]]:
    """One message of each kind as it lies in the broker, by wire name."""
    url = "memory://"
    sender = Queue(url, cell="house")
    ticket = Ticket(run_id=RUN_ID, size_class=SizeClass.TINY, files=((7, 1), (8, 3)))
    assert sender.send([ticket])
    assert sender.ring(RUN_ID)
    found: dict[str, dict[str, Any]] = {}
    with Connection(url) as connection, connection.channel() as channel:
        for name in queue.QUEUES:
            while channel._size(name):
                message = channel._get(name)
                found[message["headers"]["task"]] = message
    sender.close()
    return found


def test_a_message_holds_only_the_fields_of_its_task(lying: dict[str, dict[str, Any]]) -> None:
    assert set(lying) == set(TASKS)
    for name, message in lying.items():
        args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
        assert args == []
        assert set(kwargs) == {field.name for field in parameters(TASKS[name])}
        assert {value for value in embedded.values() if value} == set()


def test_a_message_says_nothing_but_ids_and_numbers_anywhere(lying: dict[str, dict[str, Any]]) -> None:
    """Celery copies arguments in clear into headers, so headers count as well."""
    for message in lying.values():
        _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        known = {RUN_ID, *(str(member) for member in SizeClass)}
        said = {leaf for leaf in leaves(kwargs) if isinstance(leaf, str)}
        assert said <= known
        assert message["headers"]["argsrepr"] == "()"
        assert set(re.findall(r"'([^']*)'", message["headers"]["kwargsrepr"])) <= known | set(kwargs)
        assert message["headers"].get("stamps") in (None, {})


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value]
