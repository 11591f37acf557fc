"""A kernel that computes wrong is found out before it is used, and said."""

import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hashmill.hashing import fused, fused_check
from hashmill.hashing.fused import Fused, Trust
from hashmill.hashing.fused_check import NativeKernel, fault_of
from hashmill.ledger import presence

needs_kernel = pytest.mark.skipif(
    fused._trust.native is None, reason="no C compiler was there when the package was built"
)


class Corrupt:
    """The real hasher behind a fault."""

    def __init__(self, real: Any, fault: str) -> None:
        self.real, self.fault = real, fault

    def update(self, block: bytes) -> None:
        if self.fault == "raises":
            raise RuntimeError("broken")
        # Loses one byte of a long unaligned block, as a loop with a wrong end would.
        self.real.update(block[:-1] if self.fault == "update" and len(block) > 64 else block)

    def digest(self, bit: int) -> bytes:
        found = bytes(self.real.digest(bit))
        return bytes(len(found)) if self.fault == f"digest {bit}" else found

    def export(self) -> bytes:
        return bytes(self.real.export())


def corrupt(fault: str) -> NativeKernel:
    real: Any = fused._trust.native

    def opened(mask: int, kernel: str | None = None) -> Corrupt:
        return Corrupt(real.Fused(mask, kernel), fault)

    def restore(state: bytes, *, kernel: str | None = None) -> Corrupt:
        # A state of which the tail is forgotten.
        return (
            opened(real.Fused.restore(state).mask) if fault == "restore" else Corrupt(real.Fused.restore(state), fault)
        )

    def update_many(pairs: tuple[tuple[Corrupt, bytes], ...]) -> None:
        first, *rest = [(hasher.real, block) for hasher, block in pairs]
        real.update_many((first, *rest) if fault != "many" else ((first[0], rest[0][1]), *rest))

    opened.restore = restore  # type: ignore[attr-defined]
    return cast(NativeKernel, SimpleNamespace(Fused=opened, update_many=update_many, calibrate=dict))


@needs_kernel
@pytest.mark.parametrize("kernel", fused.kernels())
def test_every_kernel_here_passes_and_quickly(kernel: str) -> None:
    native = fused._trust.native
    assert native is not None
    began = time.thread_time()

    assert fault_of(native, kernel) == ""
    assert time.thread_time() - began < 0.2  # measured: a few milliseconds; this is for a machine at its limit


@needs_kernel
def test_the_real_kernel_behind_the_test_s_own_wrapper_passes() -> None:
    assert fault_of(corrupt("none")) == ""


@needs_kernel
@pytest.mark.parametrize("fault", ["digest 1", "digest 2", "digest 4", "update", "restore", "many"])
def test_a_wrong_kernel_is_found(fault: str) -> None:
    assert fault_of(corrupt(fault)) != ""


@needs_kernel
@pytest.mark.parametrize("fault", ["digest 4", "raises"])
def test_a_wrong_kernel_is_switched_off_for_the_process_and_said_once(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "_trust", Trust(corrupt(fault), ""))

    with caplog.at_level(logging.ERROR):
        assert not fused.available()
        assert not fused.accelerated()
        assert "self-test failed" in fused.why_not()
        assert fused.kernels() == ()
        for use in cast(list[Callable[[], object]], [lambda: Fused(("md5",)), lambda: Fused.restore(b"")]):
            with pytest.raises(RuntimeError, match="off: the self-test failed"):
                use()
    assert [record.message for record in caplog.records] == ["kernel_off"]
    assert fused.self_test() != ""
    assert fused.serving() == "off"


def test_a_kernel_that_was_not_built_is_off_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_trust", Trust(None, "it was not built"))

    assert not fused.available()
    assert not fused.accelerated()
    assert fused.why_not() == "it was not built"
    assert fused.serving() == "absent"
    assert fused.self_test() == ""
    assert fused.kernels() == ()
    with pytest.raises(RuntimeError, match="not built"):
        Fused(("md5",))


def test_a_cpu_without_the_instructions_is_available_and_not_accelerated(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Trust):
        def why_not(self) -> str:
            return ""

    plain = SimpleNamespace(why_slow=lambda: "the CPU has no SHA instructions", kernels=lambda: ("portable",))
    monkeypatch.setattr(fused, "_trust", Slow(cast(NativeKernel, plain), ""))

    assert fused.available()
    assert not fused.accelerated()
    assert fused.why_not() == "the CPU has no SHA instructions"
    assert fused.serving() == "slow"


def test_a_kernel_that_cannot_be_loaded_is_off_and_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_trust", Trust(None, "it cannot be loaded", broken=True))

    assert fused.serving() == "off"


def test_whoever_reads_what_a_worker_says_of_its_kernel_knows_all_of_it() -> None:
    assert tuple(fused.Serving) == presence.KERNELS


def test_the_check_covers_every_algorithm() -> None:
    assert {name for name, _, _ in fused_check.ANSWERS} == set(fused.ALGORITHMS)
