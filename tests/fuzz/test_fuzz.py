"""Ten thousand cases of one seed; `make fuzz` runs a million, and some under the sanitizers."""

from types import SimpleNamespace
from typing import Any

import pytest

from hashmill.hashing import libcrypto
from tests.fuzz.cases import check_saved
from tests.fuzz.run import loaded, run, run_kernel

SEED = 20_260
native = loaded(None)
needs_kernel = pytest.mark.skipif(native is None, reason="no C compiler was there when the package was built")


@needs_kernel
def test_ten_thousand_cases_agree_with_hashlib() -> None:
    assert run_kernel(native, 10_000, SEED) == 0


@needs_kernel
def test_a_wrong_kernel_is_found_and_the_line_that_repeats_it_printed(capsys: pytest.CaptureFixture[str]) -> None:
    real: Any = native

    def swapped(pairs: tuple[tuple[Any, Any], ...]) -> None:
        real.update_many(tuple((hasher, block[1:] if len(block) > 4000 else block) for hasher, block in pairs))

    assert run_kernel(SimpleNamespace(Fused=real.Fused, kernels=real.kernels, update_many=swapped), 1000, SEED) == 1
    assert f"--cases 1 --seed {SEED} --first " in capsys.readouterr().out


@pytest.mark.skipif(not all(map(libcrypto.available, libcrypto.ALGORITHMS)), reason="no states of libcrypto here")
def test_five_thousand_cases_of_saved_states_agree_with_hashlib() -> None:
    assert run(check_saved, 5_000, SEED, again="--saved ", what=libcrypto.ALGORITHMS) == 0
