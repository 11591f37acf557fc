"""
What code tells LABDRIVE, kept for whoever runs it instead of being sent.

A service that runs a researcher's function file by file decides itself when the job has ended, and owes LABDRIVE
messages and hashes with the result. It names a file in LIBNOVA_CAPTURE; each call is one line of JSON there.
"""

import json
import os
from typing import Any, Final

CAPTURED: Final = frozenset({"set_job_status", "create_message", "set_hash"})
"""The calls of the table that only tell."""


def captured(name: str, values: dict[str, Any]) -> bool:
    """Return whether the call was kept, so that nobody is to be asked."""
    path = os.environ.get("LIBNOVA_CAPTURE", "")
    if not path or name not in CAPTURED:
        return False
    with open(path, "a", encoding="utf-8") as kept:
        kept.write(json.dumps({"call": name, **values}) + "\n")
    return True
