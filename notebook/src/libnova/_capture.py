"""
What code tells LABDRIVE, kept for whoever runs it instead of being sent.

A service that runs a researcher's function file by file decides itself when the job has ended, and owes LABDRIVE
messages and hashes with the result. It names a file in LIBNOVA_CAPTURE; each call is one line of JSON there. What the
service does not deliver is refused, so that nothing reaches LABDRIVE past it.
"""

import json
import os
from typing import Any, Final

from libnova._table import only_asks
from libnova.errors import NotDelivered

CAPTURED: Final = frozenset({"set_job_status", "create_message", "set_hash"})
"""The calls of the table that the service delivers."""


def captured(name: str, values: dict[str, Any]) -> bool:
    """Return whether the call was kept, so that nobody is to be asked.

    Raises `NotDelivered` for a write that cannot be kept.
    """
    path = os.environ.get("LIBNOVA_CAPTURE", "")
    if not path or only_asks(name):
        return False
    if name not in CAPTURED:
        what = "metadata" if name == "set_metadata" else f"this ({name})"
        raise NotDelivered(
            f"A function under Hashmill cannot write {what} yet: Hashmill delivers its messages, its hashes and its "
            "end, and nothing else. Nothing was written. Tell it in a message (log), or run this part in a notebook."
        )
    with open(path, "a", encoding="utf-8") as kept:
        kept.write(json.dumps({"call": name, **values}) + "\n")
    return True
