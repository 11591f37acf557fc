"""What the door needs to know, as plain values."""

import ipaddress
from dataclasses import dataclass

from hashmill.domain.errors import ConfigFault
from hashmill.domain.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeConfig:
    """Where to listen and what to take. `port` 0 takes a free one; an empty `bearer_token` means none is asked for."""

    host: str = "127.0.0.1"
    port: int = 0
    bearer_token: Secret
    body_max_bytes: int = 8_388_608
    page_max: int = 500


def check_config(config: IntakeConfig) -> None:
    """Raise `ConfigFault` when the door would stand open to the network."""
    token = config.bearer_token.reveal()
    if not token and not is_loopback(config.host):
        raise ConfigFault(
            f"intake.host {config.host} can be reached from elsewhere and intake.bearer_token is empty: set "
            "HASHMILL_INTAKE__BEARER_TOKEN to a long random text, or intake.host to 127.0.0.1"
        )
    if not all("\x21" <= char <= "\x7e" for char in token):
        raise ConfigFault("intake.bearer_token must be visible ASCII characters without blanks: it travels in a header")


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
