"""
Refuses to be installed over a library of the same name.

A wheel does not ask before it writes, so the question is put while the wheel is built: pip builds with the very
interpreter it installs for. Who installs a wheel that was built elsewhere, or with uv, is told by the first import.
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RefuseHook(BuildHookInterface):  # type: ignore[type-arg, misc]
    """Called by hatchling for every wheel, the one of an editable install too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raise `RuntimeError` when there is another `libnova` here, installed or just laid down."""
        # The tree is not on the path of a build: load by file.
        spec = importlib.util.spec_from_file_location("guard", Path(self.root, "src/libnova/_guard.py"))
        assert spec is not None  # noqa: S101
        assert spec.loader is not None  # noqa: S101
        guard = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(guard)
        places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        if others := guard.others(places) or guard.unclaimed(places):
            raise RuntimeError(guard.refusal(others))
