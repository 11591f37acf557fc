"""
The figures of a row: printed as a line, kept as JSON, shown as a table at the end.

    python -m tests.fault.figures

writes the table of docs/faults.md anew from what is kept in benchmarks/results/.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import circumstances
from tests.fault.checker import Verdict
from tests.fault.load import scale

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
TRIALS: Final = ROOT / ".run" / "fault"
"""Where scaled-down runs leave their figures, unless HASHMILL_FAULT_KEEP is set."""
PAGE: Final = ROOT / "docs" / "faults.md"
BEGIN: Final = "from benchmarks/results/ -->\n"
END: Final = "<!-- end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table of faults, as it went. Recoveries are in seconds, one for each fault; RSS in MiB by role."""

    name: str
    fault: str
    demand: str
    files: int
    faults: int
    wall_s: float
    s3: str
    ledger: str
    settings: Mapping[str, str]
    broken: Sequence[str]
    figures: Mapping[str, Any]
    recoveries_s: Sequence[float] = ()
    peak_rss_mib: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The row in one line of text."""
        slowest = f"{max(self.recoveries_s):.1f} s" if self.recoveries_s else "-"
        told = (f"{name} {self.figures.get(name, '?')}" for name in ("lost", "wrong", "doubled"))
        verdict = "BROKEN: " + ", ".join(self.broken) if self.broken else "held"
        return (
            f"{self.name}: {self.faults} x {self.fault}, {self.files} files, {self.wall_s:.0f} s; "
            f"slowest recovery {slowest}; {', '.join(told)}; {verdict}"
        )

    def write(self) -> Path:
        """Keep the row and return the file: among the results at full scale or when asked to, else apart from them."""
        folder = RESULTS if scale() >= 1 or os.environ.get("HASHMILL_FAULT_KEEP") else TRIALS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"fault-{self.name}.json"
        path.write_text(json.dumps({**asdict(self), "scale": scale(), "n": 1, **circumstances()}, indent=2) + "\n")
        return path


def broken_by(verdict: Verdict, more: Sequence[str] = ()) -> list[str]:
    """Return what was broken as words: invariants with their counts, and what the row itself demands."""
    return [*(f"{breach.name} ({breach.count})" for breach in verdict.breaches), *more]


def _table() -> str:
    lines = [
        "| fault | files | scale | demand | wall | slowest recovery | lost | wrong | doubled | S3 | held | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(RESULTS.glob("fault-*.json")):
        row = json.loads(path.read_text())
        slowest = f"{max(row['recoveries_s']):.1f} s" if row["recoveries_s"] else "-"
        counts = " | ".join(str(row["figures"].get(name, "-")) for name in ("lost", "wrong", "doubled"))
        held = ", ".join(row["broken"]) or "yes"
        lines.append(
            f"| {row['faults']} x {row['fault']} | {row['files']} | {row['scale']:g} | {row['demand']} "
            f"| {row['wall_s']:.0f} s | {slowest} | {counts} | {row['s3']} | {held} | {row['commit']} |"
        )
    return "\n".join(lines) if len(lines) > 2 else "No run is on record yet."


def main() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{_table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
