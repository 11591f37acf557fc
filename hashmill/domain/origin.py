"""Where an address leads: scheme, host and port, in one spelling."""

import re

from yarl import URL

_NEVER = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
# After IDNA: a character that maps to several may leave a blank or a slash in the host.
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_API_END = re.compile(r"(/api|/)+$")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """Return `scheme://host[:port]` of an http or https address: lower case, IDNA, no default port.

    Raises ValueError, whose text says what is wrong, for anything else, and for an address with user
    information: `https://labdrive.example@elsewhere/` leads elsewhere.
    """
    return _split(url)[0]


def api_base(url: str) -> str:
    """Return the platform's address without trailing slash and without a trailing `/api`.

    inferred: the seed's `api.url` has no `/api`; integrators configure both forms. Raises ValueError as `origin_of`
    does, and for an address with a query or a fragment, because a path is put behind it.
    """
    origin, path = _split(url)
    if "?" in url or "#" in url:
        raise ValueError("must have no query and no fragment")
    return origin + _API_END.sub("", path)


def _split(url: str) -> tuple[str, str]:
    if _NEVER.search(url):
        raise ValueError("must hold no blank, backslash or control character")
    try:
        address = URL(url)
    except ValueError:
        raise ValueError("is not an address such as https://labdrive.example.org") from None
    if address.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(address.host_subcomponent or ""):
        raise ValueError("must be an http or https address such as https://labdrive.example.org")
    if "@" in re.split(r"[/?#]", url, maxsplit=3)[2]:
        raise ValueError("must name no user")
    port = "" if address.port == _DEFAULT_PORTS[address.scheme] else f":{address.port}"
    return f"{address.scheme}://{address.host_subcomponent}{port}", address.raw_path
