"""Canonical JSON (RFC 8785), quickly for what entries hold: texts, whole numbers, true, false, null, in any depth."""

import json
from typing import Any

import rfc8785

_INTEGER_MAX = 2**53 - 1
"""RFC 8785 writes numbers as JavaScript has them."""
_encoded = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def dumps(value: Any) -> bytes:
    """Return `value` as canonical JSON, byte for byte what `rfc8785` returns; raise `ValueError` where it does.

    The standard encoder writes the same but for numbers with a fraction, for keys whose order in UTF-16 is another one,
    and for what canonical JSON does not allow: all that is left to `rfc8785`.
    """
    if _plain(value):
        try:
            return _encoded(value).encode()
        except UnicodeEncodeError:
            pass  # half a surrogate pair: refused below
    return rfc8785.dumps(value)


def _plain(value: object) -> bool:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -_INTEGER_MAX <= value <= _INTEGER_MAX  # type: ignore[operator]
    if kind is dict:
        return all(type(key) is str and key.isascii() and _plain(inner) for key, inner in value.items())  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return all(map(_plain, value))  # type: ignore[call-overload]
    return isinstance(value, str)
