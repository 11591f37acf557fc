"""What a sandbox is started with: users, storages, containers, functions and the intake its triggers call."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


class SandboxConfigInvalid(ValueError):
    """The sandbox's values do not fit; the message names the place and what may stand there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserConfig:
    """One user. `containers` lists container ids, or holds "*" for all; empty means the key opens none.

    An empty `key` is a user who has not made one.
    """

    id: str
    name: str
    key: str = field(repr=False)
    rights: Literal["read", "write"] = "write"
    containers: tuple[str, ...] = ("*",)
    root: bool = False  # this user's key travels in events as api.key_root
    s3_key_pair: bool = True  # known: without one LABDRIVE answers 403 to a notebook


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """One bucket on one real S3 server; an empty `endpoint_url` means there is none, so nothing can be uploaded."""

    id: str = "1"
    endpoint_url: str = ""
    bucket: str = "labdrive"
    region: str = "us-east-1"
    addressing_style: Literal["path", "virtual", "auto"] = "path"
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """One data container. `on_upload` names the function that every upload runs; empty means none."""

    id: str
    name: str
    description: str = ""
    storage_id: str = "1"
    on_upload: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionConfig:
    """One function. `regex` narrows which uploaded paths run it; `params` are its own parameters' defaults."""

    id: str
    key: str
    name: str = ""
    regex: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeConfig:
    """Where events are posted, as LABDRIVE posts them to a function's address."""

    url: str = ""
    bearer_token: str = field(default="", repr=False)
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """All values of one sandbox. Port 0 takes a free port; `public_url` is what events carry as api.url."""

    host: str = "127.0.0.1"
    port: int = 8700
    public_url: str = ""
    database: str = ":memory:"
    intake: IntakeConfig = IntakeConfig()
    users: tuple[UserConfig, ...] = ()
    storages: tuple[StorageConfig, ...] = (StorageConfig(),)
    containers: tuple[ContainerConfig, ...] = ()
    functions: tuple[FunctionConfig, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("users", "storages", "containers", "functions"):
            for item in getattr(self, kind):
                if not (item.id.isascii() and item.id.isdigit()):
                    raise SandboxConfigInvalid(f"{kind}: id {item.id!r} must be digits, as LABDRIVE's are")
        storage_ids = {storage.id for storage in self.storages}
        function_keys = {function.key for function in self.functions}
        for container in self.containers:
            if container.storage_id not in storage_ids:
                raise SandboxConfigInvalid(f"container {container.id}: there is no storage {container.storage_id!r}")
            if container.on_upload and container.on_upload not in function_keys:
                raise SandboxConfigInvalid(f"container {container.id}: there is no function {container.on_upload!r}")


def sheet_path() -> Path:
    """Return the sheet that ships with the project, from a checkout or from inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "_app"
    return (carried if carried.is_dir() else package.parent) / "config" / "sandbox.toml"


def load_config(path: Path | None = None, **overrides: Any) -> SandboxConfig:
    """Return the values of the TOML file at `path` (the project's own sheet when None).

    `overrides` replace whole fields of `SandboxConfig`, as typed values (`port=0`, `intake=IntakeConfig(...)`);
    one that is None is skipped, so that CLI options can be passed through unread.
    Raise `SandboxConfigInvalid` for a missing file, for broken TOML, and for an unknown or wrongly typed value.
    """
    source = path or sheet_path()
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise SandboxConfigInvalid(f"{source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SandboxConfigInvalid(f"{source}: {error}") from error
    config: SandboxConfig = _build(SandboxConfig, table, place=source.name)
    return replace(config, **{name: value for name, value in overrides.items() if value is not None})


def _build(kind: Any, table: object, *, place: str) -> Any:
    """Make the dataclass `kind` of a TOML table, and say where and what is wrong instead of guessing."""
    if not isinstance(table, dict):
        raise SandboxConfigInvalid(f"{place}: a table is needed")
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    if unknown := sorted(table.keys() - known):
        raise SandboxConfigInvalid(f"{place}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values = {name: _value(hints[name], value, place=f"{place}: {name}") for name, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise SandboxConfigInvalid(f"{place}: {error}") from error


def _value(hint: Any, value: object, *, place: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return _build(hint, value, place=place)
    if origin is tuple:
        if not isinstance(value, list):
            raise SandboxConfigInvalid(f"{place}: a list is needed")
        return tuple(_value(get_args(hint)[0], item, place=f"{place}[{at}]") for at, item in enumerate(value))
    if origin is Literal:
        if value not in get_args(hint):
            raise SandboxConfigInvalid(f"{place}: one of {', '.join(get_args(hint))} is needed")
        return value
    if hint is float and type(value) is int:
        return float(value)
    wanted = dict if origin is Mapping else hint
    if type(value) is not wanted:
        raise SandboxConfigInvalid(f"{place}: {'a table' if wanted is dict else wanted.__name__} is needed")
    return value
