"""Settings as text: what is in force with its secrets masked, and the page docs/settings.md of all knobs."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from hashmill.knobs import S3Override
from hashmill.settings import Settings

MASK = "***"


def effective(settings: Settings) -> dict[str, Any]:
    """Return every knob's value as plain JSON; of a secret only whether it is set, of an address no password."""
    return _plain(settings)


def _plain(model: BaseModel) -> dict[str, Any]:
    values = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if value is not None:
            values[name] = _value(value)
    return values


def _value(value: Any) -> Any:
    match value:
        case SecretStr():
            return masked(value.get_secret_value())
        case BaseModel():
            return _plain(value)
        case dict():
            return {name: _value(inner) for name, inner in value.items()}
        case _:
            return value


def masked(secret: str) -> str:
    """Return an address without user, password and query, and a mask for any other text; nothing stays nothing."""
    if "://" not in secret:
        return MASK if secret else ""
    try:
        parts = urlsplit(secret)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return MASK
    # A slash in a password ends the host too early, and the password's rest would stand in the path.
    if "@" in parts.path or ";" in secret:
        return MASK
    host = f"[{host}]" if ":" in host else host
    user = f"{MASK}@" if "@" in parts.netloc else ""
    return f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{parts.path}" + (
        f"?{MASK}" if parts.query else ""
    )


def toml(values: Mapping[str, Any]) -> str:
    """Return nested plain values as TOML."""
    return "\n".join(_tables(values, ())).lstrip("\n") + "\n"


def _tables(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    if plain or not values:
        if path:
            yield f"\n[{'.'.join(map(_toml_key, path))}]"
        for name, value in plain.items():
            yield f"{_toml_key(name)} = {_toml_value(value)}"
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _tables(value, (*path, name))


def _toml_key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    # JSON's numbers, booleans and strings are TOML's; of its escapes only DEL is missing.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


HEAD = """\
# Settings

Every knob, its default and its unit. Written by `make docs` from `hashmill/knobs.py`; do not edit it here.

A knob is set, the first that applies: in the environment as `HASHMILL_SECTION__KNOB` (a list as JSON or with commas,
a table as JSON), in the TOML file named by `HASHMILL_CONFIG`, in `config/hashmill.toml`, or it has the default below.
Secrets belong in the environment. `hashmill settings` prints what is in force. A name ending in `_s` is seconds, in
`_bytes` bytes, in `_days` days.
"""


def markdown(settings: type[Settings]) -> str:
    """Return docs/settings.md."""
    parts = [HEAD]
    tables = []
    for name, field in settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            knobs = {
                knob: inner for knob, inner in section.model_fields.items() if get_origin(inner.annotation) is not dict
            }
            parts.append(f"## {name}\n\n{_sentence(section)}\n\n{_rows(name, knobs)}")
            tables += [(f"{name}.{knob}", inner) for knob, inner in section.model_fields.items() if knob not in knobs]
        else:
            tables.append((name, field))
    for name, field in tables:
        model = get_args(field.annotation)[1]
        parts.append(f"## {name}.NAME\n\n{field.description} {_sentence(model)}\n\n{_described(model)}")
    return "\n".join(parts)


def _described(model: type[BaseModel]) -> str:
    if issubclass(model, S3Override):
        names = ", ".join(f"`{name}`" for name in model.model_fields)
        return f"Knobs, as in `s3`: {names}.\n"
    rows = ["| knob | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | {_default(field)} | {_meaning(field)} |" for name, field in model.model_fields.items()]
    return "\n".join(rows) + "\n"


def _rows(section: str, knobs: Mapping[str, FieldInfo]) -> str:
    rows = ["| knob | default | environment | meaning |", "| --- | --- | --- | --- |"]
    for name, field in knobs.items():
        variable = f"`HASHMILL_{section.upper()}__{name.upper()}`"
        rows.append(f"| `{name}` | {_default(field)} | {variable} | {_meaning(field)} |")
    return "\n".join(rows) + "\n"


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return f"`{_toml_value(value)}`"


def _meaning(field: FieldInfo) -> str:
    said = (field.description or "").replace("|", "\\|")
    limits = _limits(field)
    return f"{said} ({limits})" if limits else said


def _limits(field: FieldInfo) -> str:
    """Return what a value may be, where that is less than its type says."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    said = []
    for rule in field.metadata:
        match rule:
            case Ge(ge=least):
                said.append(f"at least {least}")
            case Gt(gt=bound):
                said.append(f"more than {bound}")
            case Le(le=most):
                said.append(f"at most {most}")
    return ", ".join(said)
