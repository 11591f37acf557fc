"""The tree of errors is drawn in its module; the drawing and the classes are one."""

import inspect
import re

from hashmill.domain import errors
from hashmill.domain.errors import ErrorClass, HashmillError

CLOSED = (
    "s3.not_found s3.forbidden s3.throttled s3.timeout s3.offline s3.truncated s3.changed_during_read "
    "s3.checksum_differs "
    "api.auth api.rejected api.unavailable config secret_expired internal lease_lost poison cancelled"
)
"""Stable names: ledgers, dashboards and other people's scripts hold them. Add; never rename."""


def drawn() -> list[tuple[str, str, str]]:
    """Return (class, parent, what the drawing says of it) in the order of the drawing."""
    found: list[tuple[str, str, str]] = []
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.fullmatch(r"( *)([A-Z][A-Za-z0-9]+)(?: {2,}(.+))?", line):
            depth = len(match[1]) // 2
            path[depth:] = [match[2]]
            found.append((match[2], path[depth - 1] if depth else "", match[3] or ""))
    return found


def classes() -> dict[str, type[HashmillError]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in members if issubclass(kind, HashmillError)}


def test_the_drawing_shows_every_error_under_its_parent() -> None:
    parents = {name: kind.__mro__[1].__name__ if kind is not HashmillError else "" for name, kind in classes().items()}

    assert {name: parent for name, parent, _ in drawn()} == parents


def test_no_error_is_drawn_twice() -> None:
    names = [name for name, _, _ in drawn()]

    assert len(names) == len(set(names))


def test_what_the_drawing_says_of_an_error_is_its_class_or_its_sentence() -> None:
    for name, _, said in drawn()[1:]:
        kind = classes()[name]
        first_line = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        assert said in {str(kind.error_class), first_line[0].lower() + first_line[1:]}, name


def test_every_error_has_a_sentence() -> None:
    assert [name for name, kind in classes().items() if not (kind.__doc__ or "").splitlines()[0].endswith(".")] == []


def test_the_list_of_error_classes_is_closed() -> None:
    assert [str(member) for member in ErrorClass] == CLOSED.split()
