"""
The tables and plots of docs/performance.md, from benchmarks/results/ and nothing else.

    .venv/bin/python -m benchmarks.report

What stands between `<!-- made: NAME -->` and `<!-- end -->` is written anew; the prose around it is people's. Whether a
target is met is computed here and typed nowhere.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HOME: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = HOME / "benchmarks" / "results"
PAGE: Final = HOME / "docs" / "performance.md"
PLOTS: Final = HOME / "docs" / "plots"
DRAWING: Final = HOME / ".venv-peers" / "bin" / "python"
SEED: Final = "the seed's loop"
RCLONE: Final = "rclone hashsum, three hashes"
SERVICE: Final = "Hashmill, the whole service"
ALL_THREE: Final = "md5+sha1+sha256"
NOT_YET: Final = "No run of full size is on record yet."
CONTESTS: Final = ("one-http", "one-https", "many-http", "many-https", "small-http", "small-https")
Results = Mapping[str, Any]
Figure = Callable[[Results], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table of targets; `figure` raises `KeyError` where its result is not there."""

    case: str
    against: str
    limit: float
    at_least: bool
    unit: str
    figure: Figure

    def line(self, results: Results) -> str:
        sign = "≥" if self.at_least else "≤"
        try:
            found = self.figure(results)
        except KeyError:
            shown, verdict = "-", "not measured yet"
        else:
            shown = f"{found:.3g} {self.unit}"
            met = found >= self.limit if self.at_least else found <= self.limit
            verdict = "met" if met else "missed"
        return f"| {self.case} | {self.against} | {sign} {self.limit:g} {self.unit} | {shown} | {verdict} |"


def quicker(contest: str, other: str) -> Figure:
    """How many times the wall time of `other` ours is contained in."""
    return lambda results: _wall(results, contest, other) / _wall(results, contest, SERVICE)


def cheaper(contest: str, other: str) -> Figure:
    """Our CPU as a part of that of `other`."""
    return lambda results: _cpu(results, contest, SERVICE) / _cpu(results, contest, other)


def kernel(streams: int) -> Figure:
    return lambda results: float(results["kernel"]["rates"][ALL_THREE][f"{streams} streams"]["times"])


def worker_ms(results: Results) -> float:
    small = results["small-http"]
    return float(1000 * small["contenders"][SERVICE]["cpu_s"]["workers"]["median"] / small["files"])


def rss_mib(results: Results) -> float:
    """The most that any worker of any contest or size had."""
    found = [results[name]["contenders"][SERVICE]["peak_rss_mib"]["workers"] for name in CONTESTS if name in results]
    found += [row["peak_rss_mib"]["workers"] for row in results.get("growth", {"sizes": []})["sizes"]]
    if not found:
        raise KeyError(SERVICE)
    return float(max(found))


def again_slices(results: Results) -> float:
    row = results["fault-huge-object"]
    return float(row["more"]["sent_again_slices"] / row["faults"])


def grown(results: Results) -> float:
    return float(100 * (results["growth"]["most_over_least_files"] - 1))


def rss_grown(results: Results) -> float:
    """By how much the workers' peak is higher at the most files than at the least, in per cent."""
    sizes = results["growth"]["sizes"]
    return float(100 * (sizes[-1]["peak_rss_mib"]["workers"] / sizes[0]["peak_rss_mib"]["workers"] - 1))


TARGETS: Final = (
    Target(
        case="hash kernel, two streams, one core",
        against="hashlib, one after the other",
        limit=3.2,
        at_least=True,
        unit="x",
        figure=kernel(2),
    ),
    Target(
        case="hash kernel, one stream, one core",
        against="hashlib, one after the other",
        limit=1.8,
        at_least=True,
        unit="x",
        figure=kernel(1),
    ),
    *(
        Target(
            case=f"{case}, whole service, wall, {told}",
            against=SEED,
            limit=limit,
            at_least=True,
            unit="x",
            figure=quicker(name, SEED),
        )
        for case, name, told, limit in (
            ("64 x 64 MiB", "many-http", "HTTP", 4.0),
            ("64 x 64 MiB", "many-https", "TLS", 2.4),
            ("1 x 4 GiB", "one-http", "HTTP", 2.2),
            ("1 x 4 GiB", "one-https", "TLS", 2.0),
        )
    ),
    Target(
        case="64 x 64 MiB, whole service, wall, HTTP",
        against="rclone, three hashes",
        limit=4.0,
        at_least=True,
        unit="x",
        figure=quicker("many-http", RCLONE),
    ),
    Target(
        case="64 x 64 MiB, whole service, CPU, HTTP",
        against=SEED,
        limit=0.4,
        at_least=False,
        unit="x",
        figure=cheaper("many-http", SEED),
    ),
    Target(
        case="20,000 x 4 KiB, whole service with ledger and reports, CPU a file",
        against="the seed's loop, which keeps no ledger",
        limit=0.5,
        at_least=False,
        unit="x",
        figure=cheaper("small-http", SEED),
    ),
    Target(
        case="20,000 x 4 KiB, CPU of the workers a file",
        against="-",
        limit=0.3,
        at_least=False,
        unit="ms",
        figure=worker_ms,
    ),
    Target(
        case="memory of a worker process, the largest of all",
        against="-",
        limit=300,
        at_least=False,
        unit="MiB",
        figure=rss_mib,
    ),
    Target(
        case="a kill in a large object: bytes read again, in slices a kill",
        against="-",
        limit=1,
        at_least=False,
        unit="slices",
        figure=again_slices,
    ),
    Target(
        case="CPU a file at the most files, above that at 1,000",
        against="-",
        limit=15,
        at_least=False,
        unit="%",
        figure=grown,
    ),
    Target(
        case="memory of a worker at the most files, above that at 1,000",
        against="-",
        limit=15,
        at_least=False,
        unit="%",
        figure=rss_grown,
    ),
)


def targets(results: Results) -> str:
    lines = ["| case | against | target | measured | |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *(target.line(results) for target in TARGETS)])


def contest_table(name: str) -> Callable[[Results], str]:
    """Return what makes the table of one contest, with its plot."""

    def made(results: Results) -> str:
        if name not in results:
            return NOT_YET
        result = results[name]
        gib = result["files"] * result["file_bytes"] / (1 << 30)
        small = result["file_bytes"] < 1 << 20
        per, divisor, digits = ("ms a file", result["files"] / 1000, 3) if small else ("s a GiB", gib, 2)
        lines = [
            f"| contender | wall, {per} | least to most | CPU, {per} | CPU of the source | peak memory, MiB "
            "| wall, times the seed's |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for one, row in result["contenders"].items():
            wall = {kind: row["wall_s"][kind] / divisor for kind in ("median", "least", "most")}
            cpu, source = (row["cpu_s"][whose]["median"] / divisor for whose in ("client", "server"))
            rss = max(row["peak_rss_mib"].get(whose, 0) for whose in ("client", "workers"))
            times = _wall(results, name, SEED) / row["wall_s"]["median"]
            lines.append(
                f"| {one} | {wall['median']:.{digits}f} | {wall['least']:.{digits}f} to {wall['most']:.{digits}f} "
                f"| {cpu:.{digits}f} | {source:.{digits}f} | {f'{rss:.0f}' if rss else '-'} | {times:.2f} |"
            )
        parts = result["contenders"].get(SERVICE, {"cpu_s": {}})["cpu_s"]
        told = ", ".join(f"{whose} {row['median'] / divisor:.3f}" for whose, row in parts.items() if whose != "client")
        after = f"\n\nThe whole service's CPU, {per}: {told}." if parts else ""
        about = (
            f"{result['files']:,} x {_size(result['file_bytes'])}, {result['scheme']}, ledger {result['ledger']}, "
            f"messages `{result['messages']}`. {_circumstances(result)}"
        )
        return "\n".join(lines) + after + "\n\n" + about + _plot(name, result["question"])

    return made


def growth_table(results: Results) -> str:
    if "growth" not in results:
        return NOT_YET
    result = results["growth"]
    lines = [
        "| files | runs | wall, s | files a second | CPU of ours, ms a file | least to most | workers | leader "
        "| ledger | LABDRIVE | LABDRIVE's cores | memory of a worker, the leader, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["sizes"]:
        cpu = row["cpu_ms_per_file"]
        ours = cpu["client"]
        lines.append(
            f"| {row['files']:,} | {ours['n']} | {row['wall_s']['median']:.1f} | {row['files_per_s']['median']:.0f} "
            f"| {ours['median']:.3f} | {ours['least']:.3f} to {ours['most']:.3f} | {cpu['workers']['median']:.3f} "
            f"| {cpu['leader']['median']:.3f} | {cpu['ledger']['median']:.3f} | {cpu['labdrive']['median']:.3f} "
            f"| {row['labdrive_cores']['median']:.2f} "
            f"| {row['peak_rss_mib']['workers']:.0f}, {row['peak_rss_mib']['leader']:.0f} |"
        )
    about = f"Files of {_size(result['file_bytes'])}, ledger {result['ledger']}. {_circumstances(result)}"
    return "\n".join(lines) + "\n\n" + about + _plot("growth", result["question"])


def kernel_table(results: Results) -> str:
    if "kernel" not in results:
        return NOT_YET
    result = results["kernel"]
    names = ["hashlib", *(f"{streams} streams" for streams in (1, 2, 3, 4, 8, 16))]
    lines = [
        "| algorithms | hashlib | one stream | two | three | four | eight | sixteen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for algorithms, rows in result["rates"].items():
        small = algorithms == "small files"
        cells = [f"{rows[name]['median']:{',.0f' if small else '.2f'}}, {rows[name]['times']:.1f} x" for name in names]
        what = "files of 4 KiB, all three, a CPU second" if small else algorithms.replace("+", ", ")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    about = f"GB/s of one core, and times hashlib. Kernel `{result['kernel']}`. {_circumstances(result)}"
    return "\n".join(lines) + "\n\n" + about


SECTIONS: Final[dict[str, Callable[[Results], str]]] = {
    "targets": targets,
    **{name: contest_table(name) for name in CONTESTS},
    "growth": growth_table,
    "kernel": kernel_table,
}


def read_results(folder: Path = RESULTS) -> dict[str, Any]:
    """Return what is kept, by the file's name."""
    names = [*CONTESTS, "growth", "kernel", "fault-huge-object"]
    return {name: json.loads(path.read_text()) for name in names if (path := folder / f"{name}.json").exists()}


def filled(page: str, results: Results) -> str:
    """Return the page with everything between marks made anew."""

    def made(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{SECTIONS[found[2]](results)}\n\n{found[3]}"

    return re.sub(r"(<!-- made: ([\w-]+) -->)\n.*?(<!-- end -->)", made, page, flags=re.DOTALL)


def main() -> None:
    if DRAWING.exists():
        subprocess.run([DRAWING, HOME / "benchmarks" / "plots.py"], check=True)
    else:
        print("no new plots: `make bench-peers` installs what draws them", file=sys.stderr)
    PAGE.write_text(filled(PAGE.read_text(), read_results()))


def _wall(results: Results, contest: str, contender: str) -> float:
    return float(results[contest]["contenders"][contender]["wall_s"]["median"])


def _cpu(results: Results, contest: str, contender: str) -> float:
    return float(results[contest]["contenders"][contender]["cpu_s"]["client"]["median"])


def _plot(name: str, question: str) -> str:
    return f"\n\n![{question}](plots/{name}.svg)" if (PLOTS / f"{name}.svg").exists() else ""


def _size(size_bytes: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:g} {unit}"
    return f"{size_bytes} bytes"


def _circumstances(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    n = f"Medians of {result['n']}. " if "n" in result else ""
    return (
        f"{n}{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; "
        f"commit {result['commit']}, {result['at'][:10]}."
    )


if __name__ == "__main__":
    main()
