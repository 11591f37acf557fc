"""docs/performance.md says what benchmarks/results/ says, and the code that judges can say no."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import CONTESTS, SECTIONS, SEED, SERVICE, TARGETS, Target, filled, read_results

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"


def test_the_page_of_performance_is_what_its_results_say() -> None:
    page = PAGE.read_text()

    assert filled(page, read_results()) == page, "`make bench-report` writes it"


def test_every_section_has_its_place_on_the_page() -> None:
    assert sorted(re.findall(r"<!-- made: ([\w-]+) -->", PAGE.read_text())) == sorted(SECTIONS)


def test_every_plot_on_the_page_has_its_results() -> None:
    drawn = {path.stem for path in report.PLOTS.glob("*.svg")} if report.PLOTS.exists() else set()

    assert drawn <= set(read_results())


def test_a_target_is_met_missed_or_not_measured_by_its_figure_alone() -> None:
    target = Target(case="case", against="-", limit=2, at_least=True, unit="x", figure=lambda found: found["it"])

    assert target.line({"it": 2.0}).endswith("| 2 x | met |")
    assert target.line({"it": 1.99}).endswith("| 1.99 x | missed |")
    assert target.line({}).endswith("| - | not measured yet |")


def test_a_service_slower_than_every_target_misses_every_target() -> None:
    slow, quick = result(service_s=100.0), result(service_s=0.01)
    missed = [target.case for target in TARGETS if target.line(slow).endswith("| missed |")]
    met = [target.case for target in TARGETS if target.line(quick).endswith("| met |")]

    assert missed == met == [target.case for target in TARGETS]


def test_a_table_shows_every_contender_with_spread_and_circumstances() -> None:
    for name in CONTESTS:
        shown = SECTIONS[name](result(service_s=2.0))
        assert f"| {SEED} |" in shown
        assert f"| {SERVICE} |" in shown
        assert "Medians of 5. a CPU, 2 cores" in shown


def result(*, service_s: float) -> dict[str, Any]:
    """Return results of every kind in which the service took so long, and all others a second."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "least": value, "most": value, "n": 5}

    def row(seconds: float) -> dict[str, Any]:
        cpu = dict.fromkeys(("client", "server", "workers"), spread(seconds))
        return {"wall_s": spread(seconds), "cpu_s": cpu, "peak_rss_mib": {"workers": 10 * seconds}}

    about = {"n": 5, "machine": {"cpu": "a CPU", "cores": 2, "python": "3"}, "commit": "c", "at": "2026-01-01T00:00"}
    contest = {
        "question": "?",
        "files": 1000,
        "file_bytes": 4096,
        "scheme": "http",
        "ledger": "postgresql",
        "messages": "summary",
        "contenders": {SEED: row(1.0), report.RCLONE: row(1.0), SERVICE: row(service_s)},
        **about,
    }
    sizes = [{"peak_rss_mib": {"workers": each}} for each in (1.0, max(1.0, service_s))]
    rates = {report.ALL_THREE: {f"{n} streams": {"times": 10 / service_s} for n in (1, 2)}}
    return json.loads(
        json.dumps(
            {
                **dict.fromkeys(CONTESTS, contest),
                "growth": {
                    "sizes": [size | row(service_s) | size for size in sizes],
                    "most_over_least_files": service_s,
                },
                "kernel": {"rates": rates},
                "fault-huge-object": {"more": {"sent_again_slices": service_s}, "faults": 1},
            }
        )
    )
