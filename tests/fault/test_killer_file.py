"""A file that ends every process which reads it, 1 in 5,000: set aside after three, and nobody else with it."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.fault.figures import Row
from tests.fault.killing_proxy import KillingProxy
from tests.fault.load import Store, say, scaled
from tests.fault.site import FaultSite, fault_site

CONTAINERS = 5
FILES_FOR_EACH_KILLER = 5_000
RANDOM_KILLS = 30
LOST_MAX = 3


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("random_kills", [0, RANDOM_KILLS])
def test_a_file_that_kills_is_set_aside_alone(
    store: Store, fresh_ledger: str, table: list[Row], random_kills: int
) -> None:
    kills = scaled(random_kills, least=1) if random_kills else 0
    killers = max(1, CONTAINERS * store.files_each // FILES_FOR_EACH_KILLER)
    # In the middle of its container, so that it travels in the company of others.
    deadly = {str(n): store.content.paths(str(n))[store.files_each // 2] for n in range(1, killers + 1)}
    environ = {"HASHMILL_LEASES__FILE_S": "10", "HASHMILL_TICKETS__BATCH_MAX": "16"}
    with killing(store, {f"{container}/{path}" for container, path in deadly.items()}) as (proxy, sites):
        environ["HASHMILL_S3__ENDPOINT_URL"] = proxy.url
        with fault_site(store, ledger_url=fresh_ledger, workers=3, environ=environ, seed=5) as site:
            sites.append(site)
            for number in range(1, CONTAINERS + 1):
                failing = {deadly[str(number)]: ["poison"]} if str(number) in deadly else None
                site.load.post_until_accepted(str(number), failing=failing)
            total = CONTAINERS * store.files_each
            for number in range(1, kills + 1):
                site.wait_for_progress(total * number // (kills + 2), timeout_s=180)
                site.wait(site.present, timeout_s=60, what="a worker is there to be killed")
                site.supervisor.kill(site.chance.choice(site.present() or site.supervisor.names("worker")))
                site.faults += 1
            ended = {key: len(pids) for key, pids in proxy.kills.items()}
            say(f"killed until now, by key: {ended}")
            row, verdict = site.finish(
                f"killer-file-{'and-kills' if kills else 'alone'}",
                f"a file that kills who reads it, 1 in {FILES_FOR_EACH_KILLER}"
                + (f", beside {kills} random SIGKILLs of workers" if kills else ""),
                f"dead after {LOST_MAX}; every other file done",
                more={"killers": killers, "random_kills": kills, "ended_by": proxy_counts(proxy)},
            )
            table.append(row)
            sites.clear()

    assert not row.broken, verdict
    assert verdict.figures["dead"] == killers, verdict
    assert proxy.unknown == 0
    for key, count in proxy_counts(proxy).items():
        # A random SIGKILL may take a worker that is just about to read it: that loss counts too.
        assert count == LOST_MAX or (kills and 0 < count < LOST_MAX), f"{key} ended {count} processes"


def proxy_counts(proxy: KillingProxy) -> dict[str, int]:
    return {key: len(pids) for key, pids in proxy.kills.items()}


@contextlib.contextmanager
def killing(store: Store, deadly: set[str]) -> Iterator[tuple[KillingProxy, list[FaultSite]]]:
    """Give a proxy before S3, and the list into which the site goes that is then its prey."""
    sites: list[FaultSite] = []

    def ours() -> list[int]:
        return [pid for site in sites for pid in site.supervisor.pids("worker")]

    def before_kill(pid: int) -> None:
        for site in sites:
            if (name := site.supervisor.pids("worker").get(pid)) is not None:
                site.supervisor.order(name)
            site.faults += 1

    with KillingProxy(store.s3.endpoint_url, deadly, ours=ours, before_kill=before_kill) as proxy:
        yield proxy, sites
