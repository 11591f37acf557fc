"""
Runs cases of the native kernel, and of what saves states, against hashlib.

    make fuzz                       a million cases, then the same code under the sanitizers
    python -m tests.fuzz.run --cases 1 --seed 1 --first 4711        one case again

A case that fails prints the line that repeats it.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

from hashmill.hashing import libcrypto
from hashmill.hashing.native.compile import compile_kernel
from tests.fuzz.cases import check, check_saved

STRICT = ("-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--first", type=int, default=0, help="the number of the first case")
    options.add_argument("--sanitized", action="store_true", help="compile with address and undefined sanitizers first")
    options.add_argument("--saved", action="store_true", help="cases of libcrypto's calls and of states saved by them")
    options.add_argument("--kernel", type=Path, help="the extension to try, instead of the installed one")
    asked = options.parse_args()
    if asked.sanitized:
        return run_sanitized(asked.cases, asked.seed, asked.first)
    if asked.saved:
        return run(check_saved, asked.cases, asked.seed, asked.first, again="--saved ", what=libcrypto.ALGORITHMS)
    native = loaded(asked.kernel)
    if native is None:
        print("no native kernel was built here: nothing to fuzz")
        return 0
    again = "--sanitized " if asked.kernel else ""
    return run_kernel(native, asked.cases, asked.seed, asked.first, again)


def run_kernel(native: Any, cases: int, seed: int, first: int = 0, again: str = "") -> int:
    """`run` for an extension."""
    return run(partial(check, native), cases, seed, first, again=again, what=native.kernels())


def run(
    try_case: Callable[[int, int], None], cases: int, seed: int, first: int = 0, *, again: str, what: Sequence[str]
) -> int:
    """Try `cases` cases from number `first` on; return 0, or 1 at the first that fails."""
    began = time.process_time()
    for number in range(first, first + cases):
        try:
            try_case(seed, number)
        except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as fault:
            print(f"differs from hashlib: {type(fault).__name__}: {fault}")
            print(f"again: python -m tests.fuzz.run {again}--cases 1 --seed {seed} --first {number}")
            return 1
    spent_s = time.process_time() - began
    print(f"{cases} cases of seed {seed} agree with hashlib, {', '.join(what)}: {spent_s:.1f} s of CPU")
    return 0


def loaded(path: Path | None) -> Any:
    """Return the extension at `path`, else the installed one, or None where none was built."""
    name = "hashmill.hashing._kernel"
    if path is None:
        return importlib.import_module(name) if importlib.util.find_spec(name) else None
    loader = ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    native = importlib.util.module_from_spec(spec)
    loader.exec_module(native)
    return native


def run_sanitized(cases: int, seed: int, first: int) -> int:
    """Compile with the sanitizers, which takes minutes, and run the cases so in a process of its own."""
    compiler = shutil.which("gcc")
    if compiler is None:
        print("there is no gcc here: not run under the sanitizers")
        return 0
    with tempfile.TemporaryDirectory(prefix="hm-fuzz-") as folder:
        kernel = Path(folder, "_kernel.abi3.so")
        why_not = compile_kernel(kernel, compiler=compiler, flags=(*STRICT, *SANITIZERS))
        if why_not:
            print(why_not)
            return 1
        library = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        environ = {
            **os.environ,
            "LD_PRELOAD": library.stdout.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaves much behind
            "PYTHONMALLOC": "malloc",  # else an overflow ends in memory that Python's own allocator holds, unseen
        }
        words = ["--kernel", str(kernel), "--cases", str(cases), "--seed", str(seed), "--first", str(first)]
        return subprocess.run([sys.executable, "-m", "tests.fuzz.run", *words], env=environ, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
