"""Small things for people who read."""

import json
import pprint
from typing import Any

__all__ = ["format_json_item"]


def format_json_item(item: Any) -> str:
    """Return `item` as JSON of several lines, for a message or a cell (known: name and use; assumed: the layout).

    What is no JSON is shown as its text.
    """
    try:
        return json.dumps(item, indent=4, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # a key that JSON has not, or something that holds itself
        return pprint.pformat(item)
