"""`POST /v1/events`, and `POST /` as Nuclio calls a function: an event becomes a run."""

import asyncio

from aiohttp import web

from hashmill.domain.errors import EventFault, EventInvalid, IdempotencyConflict, LedgerUnavailable, OriginRefused
from hashmill.domain.event import parse_event
from hashmill.flow.accept import accept
from hashmill.hashing.registry import algorithm_names
from hashmill.intake.answers import EventAnswer, answer
from hashmill.intake.body import read_json_body
from hashmill.intake.door import DOOR
from hashmill.intake.links import run_url
from hashmill.intake.problem import Problem

KEY_HEADERS = ("Idempotency-Key", "webhook-id")
KEY_MAX_CHARS = 255


async def post_event(request: web.Request) -> web.Response:
    """Answer 202 for a new run, 200 for the run this event had made before; the body is the same."""
    metrics = request.app[DOOR].metrics
    try:
        response = await _post_event(request)
    except Problem as problem:
        metrics.event(problem.kind)
        raise
    except LedgerUnavailable:
        metrics.event("ledger-unavailable")
        raise
    metrics.event("accepted" if response.status == 202 else "repeated")
    return response


async def _post_event(request: web.Request) -> web.Response:
    key = _idempotency_key(request)
    body = await read_json_body(request)
    try:
        # In a thread: a body of many megabytes takes longer to parse than other callers should wait.
        event = await asyncio.to_thread(parse_event, body, known_algorithms=algorithm_names())
        run, made = await accept(request.app[DOOR].tools, event, idempotency_key=key)
    except EventInvalid as error:
        raise _invalid(error.faults) from None
    except OriginRefused as error:
        raise _invalid([EventFault(path="$.api.url", problem=str(error))], kind="origin-refused") from error
    except IdempotencyConflict as error:
        raise Problem(409, "idempotency-conflict", str(error)) from error
    url = run_url(run.run_id)
    return answer(
        EventAnswer(run_id=run.run_id, status_url=url), status=202 if made else 200, headers={"Location": url}
    )


def _invalid(faults: "list[EventFault] | tuple[EventFault, ...]", *, kind: str = "event-invalid") -> Problem:
    many = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Problem(422, kind, f"the event has {many}; nothing was accepted", faults=faults)


def _idempotency_key(request: web.Request) -> str | None:
    given = [(name, value) for name in KEY_HEADERS for value in request.headers.getall(name, [])]
    if not given:
        return None
    name, key = given[0]
    if any(value != key for _, value in given):
        raise _bad_key(name, "is given more than once, with different values")
    if not 1 <= len(key) <= KEY_MAX_CHARS or not all(" " <= char <= "~" for char in key):
        raise _bad_key(name, f"must be 1 to {KEY_MAX_CHARS} printable ASCII characters")
    return key


def _bad_key(name: str, problem: str) -> Problem:
    return Problem(
        400, "bad-idempotency-key", f"header {name} {problem}", faults=[EventFault(path=name, problem=problem)]
    )
