import re

import pytest

from hashmill.domain.job import FileState, RunState
from hashmill.intake.console import ASSETS, FOLDER

SCRIPT = (FOLDER / "page.js").read_text(encoding="utf-8")
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "sink",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser", "srcdoc"],
)
def test_the_script_never_parses_text_as_html_or_code(sink: str) -> None:
    assert sink not in SCRIPT


def test_the_html_holds_no_inline_script_style_or_handler() -> None:
    assert re.findall(r"<script(?![^>]*\bsrc=)", HTML) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", HTML) == []


def test_the_page_takes_nothing_from_elsewhere() -> None:
    asked = re.findall(r'(?:src|href)="([^"#]+)"', HTML)

    assert {name.removeprefix("page/") for name in asked} == set(ASSETS)
    for text in (SCRIPT, HTML, (FOLDER / "page.css").read_text(encoding="utf-8")):
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", text)


def test_the_script_knows_every_state_there_is() -> None:
    def listed(name: str) -> set[str]:
        found = re.search(rf"const {name} = \[(.*?)\]", SCRIPT)
        assert found
        return set(re.findall(r'"(\w+)"', found[1]))

    assert listed("RUN_STATES") == set(RunState)
    assert listed("FILE_STATES") == set(FileState)


def test_the_token_is_kept_in_the_tab_only() -> None:
    assert "sessionStorage" in SCRIPT
    assert "localStorage" not in SCRIPT
    assert "cookie" not in SCRIPT
