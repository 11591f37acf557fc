"""
Where the knobs come from.

Order of precedence: environment (`HASHMILL_SECTION__KNOB`), then the file named by `HASHMILL_CONFIG`, then the sheet
`config/hashmill.toml`, then the defaults in `hashmill.knobs`. A test keeps the sheet equal to the defaults. `assemble`
reads them once.
"""

import json
import os
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from hashmill.domain.errors import ConfigFault
from hashmill.home import app_home
from hashmill.knobs import (
    S3,
    Broker,
    Files,
    Functions,
    Hashing,
    Intake,
    Labdrive,
    Leases,
    Ledger,
    Logging,
    Report,
    Secrets,
    Slices,
    Tenant,
    Tickets,
    Worker,
)


class Settings(BaseSettings):
    """All knobs of Hashmill."""

    model_config = SettingsConfigDict(env_prefix="HASHMILL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    broker: Broker = Broker()
    ledger: Ledger = Ledger()
    intake: Intake = Intake()
    s3: S3 = S3()
    hashing: Hashing = Hashing()
    labdrive: Labdrive = Labdrive()
    report: Report = Report()
    tickets: Tickets = Tickets()
    slices: Slices = Slices()
    functions: Functions = Functions()
    leases: Leases = Leases()
    files: Files = Files()
    worker: Worker = Worker()
    secrets: Secrets = Secrets()
    logging: Logging = Logging()
    tenants: dict[str, Tenant] = Field(default_factory=dict, description="Tenants by name: [tenants.NAME].")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = [sheet_path()]
        if named := os.environ.get("HASHMILL_CONFIG"):
            files.append(Path(named))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=files, deep_merge=True)


PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)
"""What a researcher's function has of the worker's environment."""


def passed_on() -> dict[str, str]:
    """Return that part of the environment which a researcher's function gets."""
    return {name: value for name in PASSED_ON if (value := os.environ.get(name)) is not None}


def sheet_path() -> Path:
    """Return the sheet of knobs that ships with the project."""
    return app_home() / "config" / "hashmill.toml"


def read_settings(**overrides: Any) -> Settings:
    """Return the settings, or raise `ConfigFault` that names each wrong knob and where it may stand.

    `overrides` are whole or partial sections as dicts, above every other source (CLI options).
    """
    if (named := os.environ.get("HASHMILL_CONFIG")) and not Path(named).is_file():
        raise ConfigFault(f"HASHMILL_CONFIG names {named}, and there is no such file")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        # Never include the input: a wrong knob may be a misplaced key.
        wrong = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)
        )
        raise ConfigFault(f"settings: {wrong}. See config/hashmill.toml for every knob and its unit") from None
    except SettingsError:
        # Its own words name the section only, and its cause holds the text.
        wrong = ", ".join(_tables_not_json()) or "a variable of the environment"
        raise ConfigFault(
            f"settings: {wrong} must be a JSON object; to set one knob, write HASHMILL_SECTION__KNOB"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigFault(f"settings file is not TOML: {error}") from error


def reading_environment() -> dict[str, str]:
    """Return the environment for a process that only reads objects: without the keys that this takes none of."""
    secret = {"HASHMILL_LEDGER__URL", "HASHMILL_BROKER__URL", "HASHMILL_SECRETS__SEAL_KEY"}
    return {name: text for name, text in os.environ.items() if name.upper() not in secret}


def _tables_not_json() -> list[str]:
    """Return the variables that stand for a whole section or table and hold no JSON."""
    return [name for name, text in os.environ.items() if _names_a_table(name) and not _is_json(text)]


def _names_a_table(variable: str) -> bool:
    if not variable.upper().startswith("HASHMILL_"):
        return False
    kind: Any = Settings
    for name in variable[len("HASHMILL_") :].lower().split("__"):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and (field := kind.model_fields.get(name)):
            kind = field.annotation
        else:
            return False
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
