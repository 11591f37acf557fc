"""Rules of style that a reader would have to trust otherwise."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("hashmill", "tasks", "worker")
ONE_FILE_MAX_LINES = 450
CATCHES_ALL = {"Exception", "BaseException"}


def sources(*rooms: str) -> list[Path]:
    found = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    assert found
    return found


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def catch_alls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ExceptHandler):
            continue
        last = node.body[-1]
        if isinstance(last, ast.Raise) and last.exc is None:
            continue  # puts things in order and lets the error pass
        if node.type is None or any(
            isinstance(part, ast.Name) and part.id in CATCHES_ALL for part in ast.walk(node.type)
        ):
            yield place(path, node.lineno)


def suppressors(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"suppress", "contextlib.suppress"}
            and any(isinstance(part, ast.Name) and part.id in CATCHES_ALL for part in node.args)
        ):
            yield place(path, node.lineno)


def test_only_the_tasks_door_catches_everything() -> None:
    found = [line for path in sources(*SHIPPED, "migrations") for line in [*catch_alls(path), *suppressors(path)]]

    assert [line.rpartition(":")[0] for line in found] == ["tasks/base.py"]


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources(*SHIPPED)}

    assert {name: lines for name, lines in lengths.items() if lines > ONE_FILE_MAX_LINES} == {}


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"}

    found = {str(path.relative_to(ROOT)) for path in sources(*SHIPPED) if {path.stem, path.parent.name} & drawers}
    assert found == set()


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*SHIPPED)
        if ast.get_docstring(ast.parse(path.read_text())) is None
    ]

    assert silent == []


def test_nothing_prints_but_the_command_line() -> None:
    found = [
        place(path, node.lineno)
        for path in sources(*SHIPPED)
        if not path.is_relative_to(ROOT / "hashmill" / "cli")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert found == []


def test_nothing_asks_the_environment_but_the_settings_and_the_real_parts() -> None:
    """A knob that is not in the sheet is a knob nobody finds."""
    found = {
        str(path.relative_to(ROOT))
        for path in sources(*SHIPPED)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    }

    assert {name for name in found if not name.startswith(("hashmill/parts/", "hashmill/cli/"))} == {
        "hashmill/settings.py"
    }
