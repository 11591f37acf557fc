"""When a run will have read its last file."""

from hashmill.domain.job import RunState
from hashmill.ledger.runs import Run


def eta_s(run: Run, now_ms: int) -> float | None:
    """Return the seconds left at the average rate since the run was accepted, or None when nobody can say.

    Files and bytes both must end, so the slower of the two decides. Nobody can say before all files are listed,
    before the first one has ended, and after a replay: its counters hold what was done before it.
    """
    ended = run.files_total - run.files_open
    if run.state is not RunState.RUNNING or run.generation or not ended or not run.files_open:
        return None
    done = ended / run.files_total
    if 0 < run.bytes_done < run.bytes_total:
        done = min(done, run.bytes_done / run.bytes_total)
    return round(max(0, now_ms - run.created_at_ms) / 1000 * (1 - done) / done, 1)
