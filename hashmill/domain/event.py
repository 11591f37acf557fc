"""The event a LABDRIVE trigger posts: parsed at the door, everything that is wrong said at once."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import rfc8785
from pydantic import ValidationError

from hashmill.domain.digest import DEFAULT_ALGORITHMS
from hashmill.domain.errors import EventFault, EventInvalid
from hashmill.domain.event_wire import PRIORITY_DEFAULT, EventBody, FunctionParams, LabdriveBlock
from hashmill.domain.secret import Secret
from hashmill.domain.text import unstorable

DEPTH_MAX = 64
FAULTS_MAX = 100
"""More faults than this are counted, not listed: an answer must not be larger than what caused it."""
EXACT_MAX = 2**53 - 1
"""The largest number JSON carries exactly everywhere (RFC 8785, RFC 7493)."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROBLEMS = {
    "missing": "is required",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerEvent:
    """What a trigger asked for.

    `api_url` has no trailing slash and no trailing `/api`. Ids are strings, whatever the wire had; `file_ids` and
    `file_paths` hold no duplicate, and when both are empty the whole container is meant. Paths are relative to the
    container, without the one leading slash, and otherwise untouched. `""` stands for a user, trigger or function value
    that was not given. `algorithms` are lower case, in the order asked for. Priority 0 is the most urgent, 9 may wait
    longest. `function_params` are the parameters that are not ours.
    """

    api_url: str
    key_user: Secret
    key_root: Secret | None = None
    container_id: str
    user_id: str = ""
    job_id: str
    file_ids: tuple[str, ...] = ()
    file_paths: tuple[str, ...] = ()
    trigger_id: str = ""
    trigger_type: str = ""
    trigger_regex: str = ""
    function_id: str = ""
    function_key: str = ""
    function_params: Mapping[str, Any]
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    priority: int = PRIORITY_DEFAULT
    mode: Literal["hash", "attest"] = "hash"


def parse_event(body: bytes, *, known_algorithms: Sequence[str]) -> TriggerEvent:
    """Return the event in `body`, or raise `EventInvalid` with every fault and its JSON path.

    A body that is no JSON of ours at all (not UTF-8, malformed, a name twice, NaN, nested deeper than 64) has one
    fault, at `$`. No fault ever repeats a key's value.
    """
    data = _load(body)
    faults: list[EventFault] = []
    parsed: EventBody | None = None
    try:
        parsed = EventBody.model_validate(data, context={"known_algorithms": tuple(known_algorithms)})
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            faults.append(EventFault(path=_json_path(fault["loc"]), problem=_PROBLEMS.get(fault["type"], fault["msg"])))
    faults.extend(_block_faults(data))
    faults.extend(_value_faults(data.get("function_params"), ("function_params",)))
    block = (parsed.labdrive or parsed.function_data) if parsed else None
    if parsed is None or block is None or faults:
        raise EventInvalid(_at_most(faults))
    return _event(parsed, block, parsed.function_params)


def event_digest(event: TriggerEvent) -> str:
    """Return the SHA-256 (hex) of what was asked, without the keys: RFC 8785 JSON of `public_event`."""
    return hashlib.sha256(rfc8785.dumps(public_event(event))).hexdigest()


def default_idempotency_key(event: TriggerEvent) -> str:
    """Return the key that two deliveries of one trigger have in common, when the caller named none.

    Made of platform, container, job, function and trigger; hashed, because ids are free text of any length.
    """
    parts = [
        event.api_url,
        event.container_id,
        event.job_id,
        event.function_id,
        event.function_key,
        event.trigger_id,
    ]
    return f"labdrive-{hashlib.sha256(rfc8785.dumps(parts)).hexdigest()}"


def public_event(event: TriggerEvent) -> dict[str, Any]:
    """Return the event as JSON that may be stored and shown: everything but the keys."""
    return {
        "api_url": event.api_url,
        "container_id": event.container_id,
        "user_id": event.user_id,
        "job_id": event.job_id,
        "file_ids": list(event.file_ids),
        "file_paths": list(event.file_paths),
        "trigger_id": event.trigger_id,
        "trigger_type": event.trigger_type,
        "trigger_regex": event.trigger_regex,
        "function_id": event.function_id,
        "function_key": event.function_key,
        "function_params": dict(event.function_params),
        "algorithms": list(event.algorithms),
        "priority": event.priority,
        "mode": event.mode,
    }


def from_public(public: Mapping[str, Any], *, key_user: Secret, key_root: Secret | None = None) -> TriggerEvent:
    """Return the event that `public_event` was made of, with its keys put back (`Secret("")` when they are gone)."""
    lists = {name: tuple(public[name]) for name in ("file_ids", "file_paths", "algorithms")}
    return TriggerEvent(**{**public, **lists}, key_user=key_user, key_root=key_root)


def _event(body: EventBody, block: LabdriveBlock, params: FunctionParams) -> TriggerEvent:
    return TriggerEvent(
        api_url=body.api.url,
        key_user=body.api.key_user,
        key_root=body.api.key_root,
        container_id=block.container.id,
        user_id=block.user.id,
        job_id=block.job.id,
        file_ids=tuple(dict.fromkeys(block.files.ids)),
        file_paths=tuple(dict.fromkeys(block.files.paths)),
        trigger_id=block.trigger.id,
        trigger_type=block.trigger.type,
        trigger_regex=block.trigger.regex,
        function_id=block.function.id,
        function_key=block.function.key,
        function_params=dict(params.model_extra or {}),
        algorithms=params.algorithms,
        priority=params.priority,
        mode=params.mode,
    )


def _load(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise _at_root(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _at_root(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _at_root(f"is nested deeper than {DEPTH_MAX}") from None
    except ValueError:
        raise _at_root("holds an integer with too many digits") from None
    if not isinstance(data, dict):
        raise _at_root("must be a JSON object")
    if _deeper_than(data, DEPTH_MAX):
        raise _at_root(f"is nested deeper than {DEPTH_MAX}")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _at_root("holds an object that has one name twice")
    return result


def _constant(name: str) -> NoReturn:
    raise _at_root(f"holds {name}, which is not JSON")


def _at_root(problem: str) -> EventInvalid:
    return EventInvalid([EventFault(path="$", problem=problem)])


def _deeper_than(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _items(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _items(value: object) -> Sequence[object]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _block_faults(data: Mapping[str, Any]) -> Iterator[EventFault]:
    labdrive, function_data = data.get("labdrive"), data.get("function_data")
    if labdrive is None and function_data is None:
        yield EventFault(path="$.labdrive", problem="is required")
    elif labdrive is not None and function_data is not None and labdrive != function_data:
        yield EventFault(path="$.function_data", problem="differs from $.labdrive; send one of the two")


def _value_faults(value: object, loc: tuple[str | int, ...]) -> Iterator[EventFault]:
    """Find what could not be stored exactly as it came: we keep these parameters, so we promise that."""
    if isinstance(value, str) and unstorable(value):
        yield EventFault(path=_json_path(loc), problem="must hold no NUL and no half of a surrogate pair")
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= EXACT_MAX):
        yield EventFault(
            path=_json_path(loc), problem=f"is no number JSON keeps exactly (up to {EXACT_MAX}); send a string"
        )
    elif isinstance(value, dict):
        for name, inner in value.items():
            if unstorable(name):
                yield EventFault(path=_json_path(loc), problem="has a name that holds NUL or half of a surrogate pair")
            else:
                yield from _value_faults(inner, (*loc, name))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _value_faults(inner, (*loc, position))


def _json_path(loc: Sequence[str | int]) -> str:
    steps = []
    for step in loc:
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            steps.append(f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step)}]")
    return "$" + "".join(steps)


def _at_most(faults: Sequence[EventFault]) -> Sequence[EventFault]:
    if len(faults) <= FAULTS_MAX:
        return faults
    rest = EventFault(path="$", problem=f"has {len(faults) - FAULTS_MAX} more faults")
    return [*faults[:FAULTS_MAX], rest]
