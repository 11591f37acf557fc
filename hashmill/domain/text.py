"""What a text from outside may hold, and how it is shown."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def unstorable(text: str) -> bool:
    """Say whether `text` holds NUL or half a surrogate pair, which neither PostgreSQL nor UTF-8 can hold."""
    return _UNSTORABLE.search(text) is not None


def one_line(text: str, *, max_chars: int = 200) -> str:
    """Return `text` on one line, without control and direction characters, cut after `max_chars`."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * max_chars]).split())
    return plain if len(plain) <= max_chars else plain[: max_chars - 1] + "…"
