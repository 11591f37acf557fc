"""The example notebooks are kept as a reader should find them."""

import json
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[2] / "notebook" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_an_example_is_a_valid_notebook_without_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    nbformat.validate(nbformat.reads(text, as_version=4))
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(cells)
