"""A kernel that cannot be compiled is a sentence, never a failed install or half a file."""

import sysconfig
from pathlib import Path

import pytest

from hashmill.hashing.native.compile import compile_kernel


@pytest.fixture
def target(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    include = tmp_path_factory.mktemp("include")  # a Python without its headers runs these tests too
    (include / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(include)})
    target = tmp_path / "_kernel.abi3.so"
    target.write_bytes(b"the one before")
    return target


def test_without_a_compiler_the_reason_says_which_were_looked_for(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert compile_kernel(target) == "no C compiler: none of cc, gcc, clang is on the PATH"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexit 3\n", "status 3"),
        ("#!/bin/sh\necho 'In file included' >&2\necho 'x.c:1: error: no' >&2\nexit 1\n", "x.c:1: error: no"),
    ],
)
def test_a_compiler_that_fails_leaves_what_was_there(target: Path, tmp_path: Path, script: str, reason: str) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(script)
    compiler.chmod(0o755)

    assert compile_kernel(target, compiler=f"{compiler} -m64") == f"{compiler} -m64: {reason}"
    assert target.read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_kernel.abi3.so", "compiler"]


def test_a_compiler_that_is_not_there_is_a_reason_too(target: Path) -> None:
    assert "No such file" in compile_kernel(target, compiler="/nowhere/cc")


def test_a_python_without_its_headers_is_a_reason_too(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": "/nowhere"})

    assert compile_kernel(target, compiler="cc") == "no Python.h in /nowhere"
