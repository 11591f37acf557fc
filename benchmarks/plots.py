"""
Draws docs/plots/ from benchmarks/results/. Run by `benchmarks.report` in the peers' environment, which has matplotlib.

The same results give the same bytes: no date, a fixed salt, and text as text.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HOME = Path(__file__).resolve().parents[1]
RESULTS = HOME / "benchmarks" / "results"
PLOTS = HOME / "docs" / "plots"
OURS, OTHERS, LIMITS = "#1b6ca8", "#9a9a9a", "#d8d8d8"
PARTS = {"workers": "#1b6ca8", "leader": "#6aa9d6", "ledger": "#e0a030", "labdrive": "#b0b0b0"}


def main() -> None:
    matplotlib.rcParams |= {"svg.hashsalt": "hashmill", "svg.fonttype": "none", "font.family": "sans-serif"}
    PLOTS.mkdir(exist_ok=True)
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem.endswith(("-http", "-https")):
            contest(path.stem, json.loads(path.read_text()))
        elif path.stem == "growth":
            growth(json.loads(path.read_text()))


def contest(name: str, result: dict[str, Any]) -> None:
    """Bars of wall time with least and most, the CPU beside each."""
    gib = result["files"] * result["file_bytes"] / (1 << 30)
    small = result["file_bytes"] < 1 << 20
    unit, divisor = ("ms a file", result["files"] / 1000) if small else ("s a GiB", gib)
    rows = list(result["contenders"].items())[::-1]
    figure, axes = plt.subplots(figsize=(7.5, 0.55 * len(rows) + 1.0))
    for at, (contender, row) in enumerate(rows):
        wall = {kind: row["wall_s"][kind] / divisor for kind in ("median", "least", "most")}
        spread = [[wall["median"] - wall["least"]], [wall["most"] - wall["median"]]]
        colour = OURS if contender.startswith("Hashmill") else LIMITS if contender.startswith("limit") else OTHERS
        axes.barh(at + 0.18, wall["median"], 0.36, color=colour, xerr=spread, ecolor="#444444", capsize=2)
        axes.barh(at - 0.18, row["cpu_s"]["client"]["median"] / divisor, 0.3, color=colour, alpha=0.45)
    axes.set_yticks(range(len(rows)), [contender for contender, _ in rows])
    axes.set_xlabel(f"{unit}: wall (upper bar, least to most) and CPU (lower bar)")
    _save(figure, axes, name)


def growth(result: dict[str, Any]) -> None:
    """CPU a file by whose it is, over the number of files."""
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    counts = [row["files"] for row in result["sizes"]]
    for whose, colour in PARTS.items():
        cpu = [row["cpu_ms_per_file"][whose] for row in result["sizes"]]
        middle = [each["median"] for each in cpu]
        spread = [[each["median"] - each["least"] for each in cpu], [each["most"] - each["median"] for each in cpu]]
        axes.errorbar(counts, middle, yerr=spread, marker="o", color=colour, label=whose, capsize=2)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("files in one run")
    axes.set_ylabel("CPU, ms a file")
    axes.legend(frameon=False)
    _save(figure, axes, "growth")


def _save(figure: Any, axes: Any, name: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
