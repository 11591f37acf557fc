import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.text import one_line, unstorable


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "x\udfff"])
def test_nul_and_half_a_surrogate_pair_cannot_be_stored(text: str) -> None:
    assert unstorable(text)


@pytest.mark.parametrize("text", ["", "plain", "tab\tline\n", "ü", "\U0001f600"])
def test_every_other_text_can_be_stored(text: str) -> None:
    assert not unstorable(text)


def test_a_shown_text_has_one_line_and_no_tricks() -> None:
    assert one_line("a\r\nb\x1b[31m\u202ec\ud800") == "a b [31m c"
    assert one_line("x" * 300) == "x" * 199 + "…"


@given(st.text(), st.integers(1, 50))
def test_a_shown_text_is_short_printable_and_storable(text: str, max_chars: int) -> None:
    shown = one_line(text, max_chars=max_chars)

    assert len(shown) <= max_chars
    assert shown.isprintable()
    assert not unstorable(shown)
