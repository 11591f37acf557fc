"""
Compiles the native kernel: one call of the C compiler, nothing else needed.

    python -m hashmill.hashing.native.compile [COMPILER]

puts it beside `fused.py`; the build of the package does the same.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent
BESIDE_FUSED: Final = SOURCES.parent / "_kernel.abi3.so"
OPTIMISED: Final = ("-O3",)
_COMPILERS: Final = ("cc", "gcc", "clang")
_TIMEOUT_S: Final = 900
"""A sanitized build takes minutes on a busy machine."""


def compile_kernel(target: Path, *, compiler: str = "", flags: Sequence[str] = OPTIMISED) -> str:
    """Compile the kernel to `target` and return an empty string, or why not; `target` is then untouched.

    `compiler` is a command with its own options, as in `$CC`; without one the first of cc, gcc and clang serves.
    No -march: what a CPU can do is found out when the kernel is loaded.
    """
    command = shlex.split(compiler) or [found for name in _COMPILERS if (found := shutil.which(name))][:1]
    if not command:
        return "no C compiler: none of cc, gcc, clang is on the PATH"
    include = sysconfig.get_paths()["include"]
    if not Path(include, "Python.h").exists():
        return f"no Python.h in {include}"
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    told = _run([*command, "-std=c11", "-fPIC", "-shared", "-fvisibility=hidden", *flags, f"-I{include}",
                 *map(str, sorted(SOURCES.glob("*.c"))), "-o", str(part)])  # fmt: skip
    if told:
        part.unlink(missing_ok=True)
        return f"{shlex.join(command)}: {told}"
    part.replace(target)
    return ""


def _run(command: list[str]) -> str:
    """Return an empty string, or the first line that tells why the command failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else f"status {done.returncode}")


if __name__ == "__main__":
    sys.exit(compile_kernel(BESIDE_FUSED, compiler=" ".join(sys.argv[1:])) or None)
