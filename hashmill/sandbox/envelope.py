"""LABDRIVE's way to answer and to be asked: the envelope, ids as strings, form or JSON bodies."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from hashmill.sandbox.records import FileRecord, JobRecord

LIMIT_DEFAULT: Final = 1000
LIMIT_MAX: Final = 10_000


class Refused(Exception):
    """The call cannot be answered as asked; becomes an envelope with `success` false (known) and this status."""

    def __init__(self, status: int, message: str, result: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.result = result


def success(result: object) -> web.Response:
    return answer({"success": True, "result": result, "msg": ""})


def refusal(refused: Refused) -> web.Response:
    return answer({"success": False, "result": refused.result, "msg": refused.message}, status=refused.status)


def answer(body: object, *, status: int = 200) -> web.Response:
    """Return `body` as JSON with every slash escaped, as LABDRIVE's samples show it (known)."""
    # A slash can stand in JSON within a string only, so a plain replacement is right.
    text = json.dumps(body, separators=(",", ":")).replace("/", "\\/")
    return web.Response(text=text, status=status, content_type="application/json")


def file_result(file: FileRecord) -> dict[str, Any]:
    return asdict(file)


def job_result(job: JobRecord) -> dict[str, Any]:
    """Return the job's own fields; its history and counts are the sandbox's knowledge, not the platform's."""
    shown = ("id", "container_id", "user_id", "name", "status", "date_create", "date_update")
    return {name: getattr(job, name) for name in shown}


async def read_fields(request: web.Request) -> Mapping[str, Any]:
    """Return the fields of a form (known) or JSON (seen in third-party code) body; 400 when it is neither."""
    if request.content_type == "application/json" or request.content_type.endswith("+json"):
        body = await read_json(request)
        if not isinstance(body, dict):
            raise Refused(422, "a JSON object is needed")
        return body
    try:
        return dict(await request.post())
    except ValueError as error:
        raise Refused(400, f"the form cannot be read: {error}") from error


async def read_json(request: web.Request) -> object:
    try:
        body: object = json.loads(await request.read())
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    return body


def text_of(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a field that must be text; 422 when it is missing, with no default, or something else."""
    value = fields.get(name, default)
    if value is None or (value == "" and default is None):
        raise Refused(422, f"{name} is missing")
    if not isinstance(value, str):
        raise Refused(422, f"{name} must be text")
    return value


def id_of(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return an id that came as text or as a number (known: answers hold text; asked for: both)."""
    value = fields.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(fields, name, default)


def window_of(request: web.Request) -> dict[str, int]:
    """Return `limit` and `offset` of a list (assumed: no page shows how LABDRIVE pages)."""
    limit = whole_of(request.query, "limit", LIMIT_DEFAULT)
    return {"limit": min(limit, LIMIT_MAX), "offset": whole_of(request.query, "offset", 0)}


def whole_of(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a field that must be a whole number of at most nine digits, not negative."""
    value = fields.get(name, default)
    text = str(value)
    if value is None or isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Refused(422, f"{name} must be a whole number")
    return int(text)
