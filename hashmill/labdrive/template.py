"""Texts with places in braces, filled in one pass: what is put in is never looked at again."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

Values = Mapping[str, str | int | None]
"""What stands for each placeholder; None for one that is not given."""

_PLACE = re.compile(r"\{([a-z_]+)\}")


def places(template: str) -> frozenset[str]:
    """Return the names in braces. Raises ValueError for a brace that belongs to no name."""
    if re.search(r"[{}]", _PLACE.sub("", template)):
        raise ValueError(f"{template!r} has a brace that belongs to no placeholder")
    return frozenset(_PLACE.findall(template))


def fill(template: str, values: Values, *, encode: Callable[[str, str], str] = lambda _, text: text) -> str | None:
    """Return `template` with its places filled, or None when one of them is not given.

    `encode` takes a placeholder's name and its value, and returns what is put in.
    """
    pieces = list(_pieces(template))
    for at in range(1, len(pieces), 2):
        name = pieces[at]
        value = values.get(name)
        if value is None:
            return None
        pieces[at] = encode(name, str(value))
    return "".join(pieces)


@lru_cache(maxsize=1024)
def _pieces(template: str) -> tuple[str, ...]:
    """Return the text before the first place, the name of that place, the text behind it, and so on."""
    return tuple(_PLACE.split(template))


def fill_body(template: object, values: Values) -> object:
    """Return a JSON value shaped like `template`, without the fields whose values are not given.

    A string that is one placeholder and nothing else keeps the type of its value: `"{limit}"` becomes a number.
    """
    match template:
        case str():
            pieces = _pieces(template)
            whole = len(pieces) == 3 and not pieces[0] and not pieces[2]
            return values.get(pieces[1]) if whole else fill(template, values)
        case dict():
            filled = {name: fill_body(inner, values) for name, inner in template.items()}
            return {name: inner for name, inner in filled.items() if inner is not None}
        case list():
            return [inner for inner in (fill_body(item, values) for item in template) if inner is not None]
        case _:
            return template


def texts_in(template: object) -> list[str]:
    """Return every string of a body template, however deep; names of fields are no templates."""
    match template:
        case str():
            return [template]
        case dict():
            return [text for inner in template.values() for text in texts_in(inner)]
        case list():
            return [text for inner in template for text in texts_in(inner)]
        case _:
            return []
