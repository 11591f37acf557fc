"""The table of paths and names, read from `config/labdrive.toml` and checked whole before the first call."""

import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from hashmill.domain.errors import ConfigFault
from hashmill.domain.job import JobStatus, MessageType
from hashmill.domain.remote import RemoteKind
from hashmill.labdrive.template import fill, places, texts_in

CALLS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    name: (frozenset(needed.split()), frozenset(offered.split()))
    for name, needed, offered in (
        ("set_job_status", "job_id status", "idempotency_key"),
        ("create_message", "job_id text", "type file_id idempotency_key"),
        ("get_file", "file_id", ""),
        ("get_file_by_path", "container_id path", ""),
        ("list_files", "container_id", "limit offset page"),
        ("get_container", "container_id", ""),
        ("get_metadata", "file_id", ""),
        ("set_hash", "file_id algorithm hexdigest", "idempotency_key"),
        ("probe", "", ""),
    )
}
"""Each call, the placeholders it has to use, and those it may use besides."""

MAY_BE_ABSENT: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "list_messages": (frozenset({"job_id"}), frozenset({"limit", "offset", "page"}))
}
"""Calls a platform need not have; what they are for is then done without."""

OBJECT_PLACES = frozenset({"container_id", "path", "storage_id", "tenant_id", "bucket", "file_id"})

_PATH_LITERAL = re.compile(r"(/[A-Za-z0-9/_.~!$&'()*+,;=:@-]*)?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")


class Source(StrEnum):
    """How a line is known."""

    KNOWN = "known"
    INFERRED = "inferred"
    ASSUMED = "assumed"


class Sheet(BaseModel):
    """A frozen part of the table; an unknown name is an error, not a shrug."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Marked(Sheet):
    """One name of the platform's, and how it is known."""

    value: str
    source: Source


class Base(Sheet):
    path: Marked

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: Marked) -> Marked:
        if not _PATH_LITERAL.fullmatch(path.value) or path.value.endswith("/"):
            raise ValueError("must be empty, or begin with a slash and not end with one")
        return path


class Auth(Sheet):
    header: Marked
    prefix: Marked


class Envelope(Sheet):
    success: Marked
    result: Marked
    message: Marked


class Call(Sheet):
    """One call: how it is asked, and where in the envelope's result its answer is (`answer`, dotted)."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    query: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    body: dict[str, Any] | None = None
    encoding: Literal["json", "form"] = "json"
    answer: str = ""
    source: Source

    def templates(self) -> list[str]:
        """Return every text of the call that may hold placeholders."""
        return [self.path, *self.query.values(), *self.headers.values(), *texts_in(self.body)]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.path.startswith("/") or not _PATH_LITERAL.fullmatch(re.sub(r"\{[a-z_]+\}", "", self.path)):
            raise ValueError("path must begin with a slash and hold only what may stand in a path")
        if wrong := [name for name in self.headers if not _HEADER_NAME.fullmatch(name)]:
            raise ValueError(f"{wrong[0]!r} is no header")
        if self.encoding == "form" and any(isinstance(field, dict | list) for field in (self.body or {}).values()):
            raise ValueError("a form has no nested fields")
        return self


class FileFields(Sheet):
    id: Marked
    container_id: Marked
    path: Marked
    size: Marked
    type: Marked
    deleted: Marked
    storage_class_id: Marked


class MessageFields(Sheet):
    text: Marked
    type: Marked
    file_id: Marked


class ContainerFields(Sheet):
    id: Marked
    storage_id: Marked


class Objects(Sheet):
    bucket: Marked
    key: Marked

    @field_validator("bucket", "key")
    @classmethod
    def _uses_what_is_offered(cls, template: Marked) -> Marked:
        if unknown := places(template.value) - OBJECT_PLACES:
            raise ValueError(f"{{{min(unknown)}}} is unknown; offered are {_listed(OBJECT_PLACES)}")
        if not template.value:
            raise ValueError("must not be empty")
        return template


class WireTable(Sheet):
    """All that is believed about the platform's API, every line marked known, inferred or assumed."""

    base: Base
    auth: Auth
    envelope: Envelope
    calls: dict[str, Call]
    status: dict[JobStatus, Marked]
    message_types: dict[MessageType, Marked]
    item_types: dict[RemoteKind, Marked]
    file: FileFields
    container: ContainerFields
    message: MessageFields | None = None
    objects: Objects

    @field_validator("calls")
    @classmethod
    def _every_call_is_there(cls, calls: dict[str, Call]) -> dict[str, Call]:
        problems = [f"{name} is missing" for name in CALLS if name not in calls]
        for name, call in calls.items():
            if name not in CALLS and name not in MAY_BE_ABSENT:
                problems.append(f"{name} is unknown; known are {_listed([*CALLS, *MAY_BE_ABSENT])}")
                continue
            needed, offered = CALLS.get(name) or MAY_BE_ABSENT[name]
            used = frozenset[str]().union(*map(places, call.templates()))
            problems += [f"{name} does not use {{{place}}}" for place in sorted(needed - used)]
            problems += [
                f"{name} uses {{{place}}}; offered are {_listed(needed | offered) or 'none'}"
                for place in sorted(used - needed - offered)
            ]
            if name == "create_message" and "file_id" in places(call.path):
                problems.append("create_message has {file_id} in its path, and not every message has a file")
        if problems:
            raise ValueError("; ".join(problems))
        return calls

    @field_validator("status", "message_types", "item_types")
    @classmethod
    def _every_name_is_there(cls, names: dict[StrEnum, Marked], info: ValidationInfo) -> dict[StrEnum, Marked]:
        known = {"status": JobStatus, "message_types": MessageType, "item_types": RemoteKind}[str(info.field_name)]
        if missing := [member.value for member in known if member not in names]:
            raise ValueError(f"{', '.join(missing)} is missing")
        if empty := [name.value for name, marked in names.items() if not marked.value]:
            raise ValueError(f"{empty[0]} must not be empty")
        return names


def read_wire(file: Path) -> WireTable:
    """Return the table in `file`, or raise `ConfigFault` that names every wrong line."""
    try:
        return WireTable.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigFault(f"{file.name}: cannot be read: {error.strerror}; see the setting labdrive.wire") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFault(f"{file.name}: is not TOML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigFault(f"{file.name}: {wrong}") from error


def object_address(
    wire: WireTable,
    *,
    container_id: str,
    path: str,
    bucket: str,
    storage_id: str | None = None,
    tenant_id: str | None = None,
    file_id: str | None = None,
) -> tuple[str, str]:
    """Return the bucket and the key of a file's object; `path` is put in as it is.

    Raises `ConfigFault` when a template needs what was not given.
    """
    given = {
        "container_id": container_id,
        "path": path,
        "bucket": bucket,
        "storage_id": storage_id,
        "tenant_id": tenant_id,
        "file_id": file_id,
    }
    return _filled(wire.objects.bucket.value, given), _filled(wire.objects.key.value, given)


def _filled(template: str, given: Mapping[str, str | None]) -> str:
    filled = fill(template, given)
    if filled is None:
        missing = _listed(name for name in places(template) if given[name] is None)
        raise ConfigFault(f"labdrive.toml: objects: {template!r} needs {missing}, which is not known for this file")
    return filled


def _listed(names: Any) -> str:
    return ", ".join(f"{name}" for name in sorted(names))
