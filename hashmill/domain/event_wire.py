"""
The event as LABDRIVE posts it: pydantic models, for parsing and for the OpenAPI document.

known: every name below is in the seed's sample, where each leaf is a string and `ids` and `paths` are lists.
known by third-party code: newer platforms call the block `function_data` instead of `labdrive`.
inferred: the platform is PHP, whose empty maps are written `[]`; they count as empty blocks here.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from hashmill.domain.digest import DEFAULT_ALGORITHMS
from hashmill.domain.origin import api_base
from hashmill.domain.secret import Secret
from hashmill.domain.text import unstorable

ID_MAX_CHARS = 255
TEXT_MAX_CHARS = 4096
PRIORITIES = range(10)
"""0 is the most urgent, 9 may wait longest."""
PRIORITY_DEFAULT = 5

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")


def wrong(problem: str) -> PydanticCustomError:
    """Return the error that becomes one fault with `problem` as its text."""
    return PydanticCustomError("event", "{problem}", {"problem": problem})


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong("must be a string or an integer")
    # Not str(value): Python refuses to write out integers of more than 4300 digits.
    if isinstance(value, int) and abs(value) >= 10**ID_MAX_CHARS:
        raise wrong(f"must have at most {ID_MAX_CHARS} characters")
    text = str(value)
    if len(text) > ID_MAX_CHARS:
        raise wrong(f"must have at most {ID_MAX_CHARS} characters")
    if _CONTROL.search(text) or unstorable(text):
        raise wrong("must hold no control character")
    return text


def _required_id(value: object) -> str:
    text = _id(value)
    if not text.strip():
        raise wrong("must not be empty")
    return text


def _optional_id(value: object) -> str:
    return "" if value is None else _id(value)


def _optional_text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise wrong("must be a string")
    if len(value) > TEXT_MAX_CHARS:
        raise wrong(f"must have at most {TEXT_MAX_CHARS} characters")
    if unstorable(value):
        raise wrong("must hold no NUL and no half of a surrogate pair")
    return value


def _path(value: object) -> str:
    text = _optional_text(value)
    text = text.removeprefix("/")
    if not text:
        raise wrong("must not be empty: a path names a file, relative to its container")
    return text


def _url(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be a string")
    if len(value) > TEXT_MAX_CHARS or unstorable(value):
        raise wrong("is not an address such as https://labdrive.example.org")
    try:
        return api_base(value)
    except ValueError as error:
        raise wrong(str(error)) from None


def _key(value: object) -> Secret:
    if not isinstance(value, str):
        raise wrong("must be a string")
    if not value:
        raise wrong("must not be empty")
    # It becomes a header: a line break in it would be a second header.
    if len(value) > TEXT_MAX_CHARS or not _HEADER_SAFE.fullmatch(value):
        raise wrong(f"must be at most {TEXT_MAX_CHARS} visible ASCII characters")
    return Secret(value)


def _optional_key(value: object) -> Secret | None:
    return None if value is None or value == "" else _key(value)


def _algorithms(value: object, info: ValidationInfo) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise wrong("must be a list of names, or one string with commas between them")
    asked = tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    known = (info.context or {})["known_algorithms"]
    if unknown := [name for name in asked if name not in known]:
        shown = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise wrong(f"unknown algorithm {shown}; known are {', '.join(known)}")
    return asked or DEFAULT_ALGORITHMS


def _priority(value: object) -> int:
    if value is None or value == "":
        return PRIORITY_DEFAULT
    # Parameters typed into LABDRIVE's form may arrive as strings.
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]", value) else value
    if isinstance(number, bool) or not isinstance(number, int) or number not in PRIORITIES:
        raise wrong("must be an integer from 0 (most urgent) to 9")
    return number


def _mode(value: object) -> Literal["hash", "attest"]:
    match value.strip().lower() if isinstance(value, str) else value:
        case None | "" | "hash":
            return "hash"
        case "attest":
            return "attest"
        case _:
            raise wrong('must be "hash" or "attest"')


def _or_empty(empty: Callable[[], Any]) -> BeforeValidator:
    return BeforeValidator(lambda value: empty() if value is None or value == [] or value == "" else value)


_ID_SCHEMA = {
    "anyOf": [{"type": "string", "minLength": 1, "maxLength": ID_MAX_CHARS}, {"type": "integer"}],
}
_OPTIONAL_ID_SCHEMA = {
    "anyOf": [{"type": "string", "maxLength": ID_MAX_CHARS}, {"type": "integer"}, {"type": "null"}],
}
_TEXT_SCHEMA = {"anyOf": [{"type": "string", "maxLength": TEXT_MAX_CHARS}, {"type": "null"}]}
_KEY_SCHEMA = {"type": "string", "format": "password", "writeOnly": True, "minLength": 1, "maxLength": TEXT_MAX_CHARS}
_PATH_SCHEMA = {"type": "string", "minLength": 1, "maxLength": TEXT_MAX_CHARS}

RequiredId = Annotated[str, PlainValidator(_required_id), WithJsonSchema(_ID_SCHEMA)]
OptionalId = Annotated[str, PlainValidator(_optional_id), WithJsonSchema(_OPTIONAL_ID_SCHEMA)]
OptionalText = Annotated[str, PlainValidator(_optional_text), WithJsonSchema(_TEXT_SCHEMA)]
Path = Annotated[str, PlainValidator(_path), WithJsonSchema(_PATH_SCHEMA)]
Url = Annotated[
    str, PlainValidator(_url), WithJsonSchema({"type": "string", "format": "uri", "maxLength": TEXT_MAX_CHARS})
]
Key = Annotated[Secret, PlainValidator(_key), WithJsonSchema(_KEY_SCHEMA)]
OptionalKey = Annotated[
    Secret | None, PlainValidator(_optional_key), WithJsonSchema({"anyOf": [_KEY_SCHEMA, {"type": "null"}]})
]
Algorithms = Annotated[
    tuple[str, ...],
    PlainValidator(_algorithms),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, {"type": "null"}]}),
]
Priority = Annotated[
    int,
    PlainValidator(_priority),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "pattern": "^[0-9]?$"}]}
    ),
]
Mode = Annotated[
    Literal["hash", "attest"],
    PlainValidator(_mode),
    WithJsonSchema({"type": "string", "enum": ["hash", "attest", ""]}),
]


class Block(BaseModel):
    """One object of the event; names we do not know are ignored, so that the platform may grow."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)


class ApiBlock(Block):
    """Where the platform is and who we are to it."""

    url: Url = Field(description="The platform's address, with or without a trailing /api.")
    key_user: Key = Field(description="The key of the user who triggered the function.")
    key_root: OptionalKey = Field(None, description="A system key; used only where the installation says so.")


class ContainerBlock(Block):
    id: RequiredId = Field(description="The data container.")


class UserBlock(Block):
    id: OptionalId = Field("", description="Who triggered the function.")


class FilesBlock(Block):
    ids: Annotated[list[RequiredId], _or_empty(list)] = Field(
        default_factory=list, description="Files by id. No ids and no paths: the whole container."
    )
    paths: Annotated[list[Path], _or_empty(list)] = Field(
        default_factory=list, description="Files by path, relative to the container; one leading slash is optional."
    )


class JobBlock(Block):
    id: RequiredId = Field(description="The job that progress and messages belong to.")


class TriggerBlock(Block):
    id: OptionalId = ""
    type: OptionalText = ""
    regex: OptionalText = ""


class FunctionBlock(Block):
    id: OptionalId = ""
    key: OptionalText = ""


class LabdriveBlock(Block):
    """What happened, where, and on behalf of whom."""

    container: ContainerBlock
    job: JobBlock
    user: Annotated[UserBlock, _or_empty(dict)] = Field(default_factory=UserBlock)
    files: Annotated[FilesBlock, _or_empty(dict)] = Field(default_factory=FilesBlock)
    trigger: Annotated[TriggerBlock, _or_empty(dict)] = Field(default_factory=TriggerBlock)
    function: Annotated[FunctionBlock, _or_empty(dict)] = Field(default_factory=FunctionBlock)


class FunctionParams(BaseModel):
    """The function's own parameters; the three named here are ours, all others are kept as they came."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    algorithms: Algorithms = Field(
        DEFAULT_ALGORITHMS, description='Digests to compute: a list, or one string such as "md5, sha256".'
    )
    priority: Priority = Field(PRIORITY_DEFAULT, description="0 is the most urgent, 9 may wait longest.")
    mode: Mode = Field(
        "hash",
        description="What to do with the files: hash reads them; attest reads none, asks their S3 server for the "
        "checksum it stores, and compares that with what hash computed before. It is no fixity check.",
    )


class EventBody(Block):
    """The event a LABDRIVE trigger posts; exactly one of `labdrive` and `function_data` is needed."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["labdrive"]}, {"required": ["function_data"]}]}
    )

    api: ApiBlock
    labdrive: LabdriveBlock | None = None
    function_data: LabdriveBlock | None = Field(None, description="The name newer platforms use for `labdrive`.")
    function_params: Annotated[FunctionParams, _or_empty(dict)] = Field(default_factory=FunctionParams)

    @model_validator(mode="before")
    @classmethod
    def _one_block(cls, data: Any) -> Any:
        if (
            isinstance(data, dict)
            and data.get("labdrive") is not None
            and data.get("labdrive") == data.get("function_data")
        ):
            return {name: value for name, value in data.items() if name != "function_data"}
        return data
