"""
Builds the native kernel with the package; without a C compiler the package is whole all the same.

HASHMILL_BUILD_KERNEL=0 leaves it out, =1 makes a kernel that cannot be built an error.
"""

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNEL = "hashmill/hashing/_kernel.abi3.so"


class KernelHook(BuildHookInterface):  # type: ignore[type-arg, misc]
    """Called by hatchling for every wheel, the one of an editable install too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile beside the sources when `version` is "editable", else in a folder that goes in the end."""
        wanted = os.environ.get("HASHMILL_BUILD_KERNEL", "")
        if version == "editable":
            built = Path(self.root, KERNEL)
            built.unlink(missing_ok=True)  # never an old kernel beside new sources
        else:
            self.folder = tempfile.TemporaryDirectory(prefix="hm-kernel-")
            built = Path(self.folder.name, Path(KERNEL).name)
        why_not = "left out by HASHMILL_BUILD_KERNEL=0" if wanted == "0" else self._compile(built)
        if why_not and wanted == "1":
            raise RuntimeError(f"HASHMILL_BUILD_KERNEL=1, but there is no native kernel: {why_not}")
        if why_not:
            print(f"hashmill: no native kernel ({why_not}); hashlib serves", file=sys.stderr)  # noqa: T201
        elif version != "editable":
            build_data["force_include"][str(built)] = KERNEL
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take the folder away."""
        if version != "editable":
            self.folder.cleanup()

    def _compile(self, built: Path) -> str:
        """Return why there is no kernel, or an empty string. The tree is not on the path of a build: load by file."""
        source = Path(self.root, "hashmill/hashing/native/compile.py")
        spec = importlib.util.spec_from_file_location("compile_kernel", source)
        assert spec is not None  # noqa: S101
        assert spec.loader is not None  # noqa: S101
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return str(module.compile_kernel(built, compiler=os.environ.get("CC", "")))
