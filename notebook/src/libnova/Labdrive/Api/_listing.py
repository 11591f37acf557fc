"""Lists of the API, page by page."""

from collections.abc import Iterator
from typing import Any

from libnova.errors import AnswerUnreadable
from libnova.Labdrive.Api import Driver


def pages(call: str, **values: Any) -> Iterator[Any]:
    """Return every item of a list. A page that brings nothing new, or less than was asked for, is the last.

    Raises what a call raises.
    """
    offset, page, last = 0, 1, None
    while True:
        items = Driver.current().call(call, limit=Driver.PAGE, offset=offset, page=page, **values)
        if not isinstance(items, list):
            raise AnswerUnreadable(f"the call {call} gave no list. Correct [calls.{call}] in labdrive.toml.")
        if items == last:  # a platform that does not heed the paging gives all of them each time
            return
        yield from items
        if len(items) < Driver.PAGE:
            return
        offset, page, last = offset + len(items), page + 1, items
