"""What people read: sizes, times, and texts from outside that can do no harm."""

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hashmill.cli.console import duration, facts, plain, size


def test_a_size_is_shown_in_the_largest_unit_that_leaves_a_whole() -> None:
    shown = [size(n) for n in (0, 1023, 1024, 1536, 1024**2, 5 * 1024**4, 1024**6)]

    assert shown == ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 TiB", "1024.0 PiB"]


def test_a_time_is_shown_in_its_two_largest_units() -> None:
    shown = [duration(s) for s in (0, 59.4, 75, 3600, 90_000, -3)]

    assert shown == ["0 s", "59 s", "1 min 15 s", "1 h 0 min", "1 d 1 h", "0 s"]


@given(text=st.text())
def test_no_text_from_outside_reaches_a_terminal_with_control_characters(text: str) -> None:
    assert plain(text).plain.isprintable()


def test_brackets_in_a_files_name_are_shown_and_not_obeyed() -> None:
    console = Console(width=80, highlight=False)
    with console.capture() as said:
        console.print(facts({"path": "[red]a[/red].txt"}))

    assert "[red]a[/red].txt" in said.get()
