import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.labdrive.template import fill, fill_body, places, texts_in


def test_places_are_the_names_in_braces() -> None:
    assert places("/job/{job_id}/x/{path}?{path}") == {"job_id", "path"}
    assert places("plain") == frozenset()


@pytest.mark.parametrize("template", ["{", "}", "{}", "{A}", "{a", "{{a}}", "{a-b}"])
def test_a_brace_that_belongs_to_no_name_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="brace"):
        places(template)


@given(st.text(), st.text())
def test_what_is_put_in_is_never_looked_at_again(path: str, container_id: str) -> None:
    assert fill("{container_id}/{path}", {"path": path, "container_id": container_id}) == f"{container_id}/{path}"


def test_a_place_without_a_value_leaves_nothing() -> None:
    assert fill("a{x}", {"x": None}) is None
    assert fill("a{x}", {}) is None


def test_a_body_keeps_its_shape_and_loses_what_is_not_given() -> None:
    template = {"a": "{x}", "n": "{limit}", "t": "n={limit}", "deep": [{"b": "{none}"}, "{none}", 3], "c": "{none}"}

    filled = fill_body(template, {"x": "{limit}", "limit": 5, "none": None})

    assert filled == {"a": "{limit}", "n": 5, "t": "n=5", "deep": [{}, 3]}


def test_every_text_of_a_body_is_found() -> None:
    assert texts_in({"a": "{x}", "b": [{"c": "{y}"}, 3], "d": None}) == ["{x}", "{y}"]
