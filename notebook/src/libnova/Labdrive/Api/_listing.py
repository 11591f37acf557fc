"""What the API gives, looked at: objects, and lists page by page."""

from collections.abc import Iterator, Mapping
from typing import Any

from libnova.errors import AnswerUnreadable
from libnova.Labdrive.Api import Driver


def record(call: str, **values: Any) -> dict[str, Any]:
    """Return the object that the call gives; nothing, or PHP's empty list, is an empty one.

    Raises `AnswerUnreadable` for anything else, or what a call raises.
    """
    found = Driver.current().call(call, **values)
    if found is None or found == []:
        return {}
    if not isinstance(found, Mapping):
        raise AnswerUnreadable(f"the call {call} gave no object. Correct [calls.{call}] in labdrive.toml.")
    return dict(found)


def pages(call: str, **values: Any) -> Iterator[dict[str, Any]]:
    """Return every item of a list. A page that brings nothing new, or less than was asked for, is the last.

    Raises what a call raises.
    """
    offset, page, last = 0, 1, None
    while True:
        items = Driver.current().call(call, limit=Driver.PAGE, offset=offset, page=page, **values)
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise AnswerUnreadable(f"the call {call} gave no list of objects. Correct [calls.{call}] in labdrive.toml.")
        if items == last:  # a platform that does not heed the paging gives all of them each time
            return
        yield from items
        if len(items) < Driver.PAGE:
            return
        offset, page, last = offset + len(items), page + 1, items
