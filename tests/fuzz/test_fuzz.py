"""Ten thousand cases of one seed; `make fuzz` runs a million, and some under the sanitizers."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.fuzz.run import loaded, run

SEED = 20_260
native = loaded(None)
pytestmark = pytest.mark.skipif(native is None, reason="no C compiler was there when the package was built")


def test_ten_thousand_cases_agree_with_hashlib() -> None:
    assert run(native, 10_000, SEED) == 0


def test_a_wrong_kernel_is_found_and_the_line_that_repeats_it_printed(capsys: pytest.CaptureFixture[str]) -> None:
    real: Any = native

    def swapped(pairs: tuple[tuple[Any, Any], ...]) -> None:
        real.update_many(tuple((hasher, block[1:] if len(block) > 4000 else block) for hasher, block in pairs))

    assert run(SimpleNamespace(Fused=real.Fused, kernels=real.kernels, update_many=swapped), 1000, SEED) == 1
    assert f"--cases 1 --seed {SEED} --first " in capsys.readouterr().out
