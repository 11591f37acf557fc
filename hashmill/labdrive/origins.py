"""The wall before every call: only addresses an operator has listed are ever called."""

from collections.abc import Iterable
from functools import lru_cache

from hashmill.domain.errors import ConfigFault, OriginRefused
from hashmill.domain.origin import api_base, origin_of

_KNOB = "labdrive.allowed_origins (HASHMILL_LABDRIVE__ALLOWED_ORIGINS)"


def normal_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return the allow-list in one spelling, or raise `ConfigFault` for an entry that is no origin."""
    normal = set()
    for origin in origins:
        try:
            normal.add(origin_of(origin))
        except ValueError as error:
            raise ConfigFault(f"{_KNOB}: {origin!r} {error}") from None
    return frozenset(normal)


@lru_cache(maxsize=1024)
def check_origin(url: str, allowed: frozenset[str]) -> str:
    """Return the base of the platform at `url` when scheme, host and port are in `allowed`, else raise `OriginRefused`.

    `allowed` comes from `normal_origins`. Names are compared, not addresses: who controls the DNS of a listed name
    decides where it leads, and could point it into the private network between two calls. Against that stands TLS with
    certificate checks for https origins, and an egress proxy for others; see docs/labdrive-api.md.
    """
    try:
        origin, base = origin_of(url), api_base(url)
    except ValueError as error:
        raise OriginRefused(f"the platform's address {error}") from None
    if origin not in allowed:
        raise OriginRefused(f"{origin} is not allowed; to call it, add it to {_KNOB}")
    return base
