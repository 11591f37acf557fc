"""The same event posted 50 times at once, for 100 events: 100 runs, and every answer names the same one."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fault.figures import Row
from tests.fault.load import Store, scaled
from tests.fault.site import fault_site

EVENTS = 100
AT_ONCE = 50
FILES_EACH = 5


@pytest.mark.timeout(1800)
def test_the_same_event_many_times_at_once_is_one_run(store: Store, fresh_ledger: str, table: list[Row]) -> None:
    events = scaled(EVENTS, least=5)
    with fault_site(store, ledger_url=fresh_ledger, workers=2, seed=3) as site, ThreadPoolExecutor(AT_ONCE) as posters:
        wrong = []
        for _ in range(events):
            container = site.chance.choice(list(store.content.files))
            paths = site.chance.sample(store.content.paths(container), FILES_EACH)
            job_id = site.load.new_job(container)
            asked = [posters.submit(site.load.post, container, job_id=job_id, paths=paths) for _ in range(AT_ONCE)]
            answers = [one.result() for one in asked]
            site.faults += len(answers)
            if not all(answer.accepted for answer in answers):
                wrong.append(f"job {job_id} was answered {sorted({str(answer.status) for answer in answers})}")
            if len({answer.run_id for answer in answers}) != 1:
                wrong.append(f"job {job_id} got {len({answer.run_id for answer in answers})} runs")
        row, verdict = site.finish(
            "same-event",
            f"post of an event, {AT_ONCE} of the same at once",
            f"{events} runs; every answer 2xx, with the same run",
            broken=wrong,
        )
        table.append(row)

    assert not row.broken, verdict
    assert verdict.figures["runs"] == verdict.figures["events"] == events, verdict
