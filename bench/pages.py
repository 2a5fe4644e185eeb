"""What looking on costs a run: fifty open pages and a client that never reads, on and off within one run.

The real daemon on a real PostgreSQL, with mails over real HTTP. Phase after phase of one run, the pages are open or
not; how many mails were settled in each, and for how much CPU time, is what the daemon's own counters say. What a page
costs, it costs for each second, whatever the run does; so the run is held up by the share of its one core that goes to
pages, if it could have used that. Who else is at work on the machine has no part in it.

    python -m bench.pages --seconds 120 --pages 50
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import httpx
import trio
from attrs import frozen
from prometheus_client.parser import text_string_to_metric_families

from notifierd.demo.servers.trouble import MailConfig
from tests.support.daemon_process import OPEN, TODAY, Service, running_service
from tests.support.events import Events, listening
from tests.support.faults import until
from tests.support.processes import API_KEY, Place, invent, running_place

PHASE = 5.0
SETTLING = 1.0
"""Seconds at the start of a phase that do not count: pages are opened, or closed."""

MAILS_A_SECOND = 1000
"""More than this machine settles, so that the run outlasts the measurement."""


@frozen
class Phase:
    """A part of the run.

    Attributes:
        mails: settled in a second.
        cpu: seconds of the daemon's CPU time in a second.
        rss: the daemon's memory at its end, in bytes.
    """

    pages: int
    mails: float
    cpu: float
    events: int
    rss: float


async def scraped(client: httpx.AsyncClient) -> tuple[float, float, float]:
    """Mails settled so far, CPU seconds so far, and the daemon's memory."""
    text = (await client.get("/metrics")).text
    found = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    sent, cpu = found["notifierd_deliveries_total", "email", "sent"], found["process_cpu_seconds_total",]
    return sent, cpu, found["process_resident_memory_bytes",]


async def read_on(page: Events) -> None:
    while True:
        await page.next()


async def phase(service: Service, pages: int) -> Phase:
    """Let the run go on for PHASE seconds, with so many pages open."""
    async with (
        AsyncExitStack() as stack,
        httpx.AsyncClient(base_url=service.url) as client,
        trio.open_nursery() as nursery,
    ):
        opened = [await stack.enter_async_context(listening(service.url)) for _ in range(pages)]
        for page in opened:
            nursery.start_soon(read_on, page)
        if pages:
            await stack.enter_async_context(listening(service.url))  # and never reads
        await trio.sleep(SETTLING)
        began, (before, cpu_before, _) = trio.current_time(), await scraped(client)
        await trio.sleep(PHASE - SETTLING)
        after, cpu, rss = await scraped(client)
        seconds, mails = trio.current_time() - began, after - before
        nursery.cancel_scope.cancel()
    return Phase(pages, mails / seconds, (cpu - cpu_before) / seconds, sum(page.heard for page in opened), rss)


async def measure(place: Place, seconds: float, pages: int) -> list[Phase]:
    """The phases of one run, with and without pages in turn."""
    found: list[Phase] = []
    async with running_service(place) as service:
        await until(lambda: service.said("planned"), "the plan")
        await until(lambda: place.states()["sent"] > 0, "the first mails")
        while len(found) * PHASE < seconds or len(found) % 2:
            found += [await phase(service, pages if len(found) % 2 else 0)]
        assert place.states()["planned"], "the run was over before the measurement: raise MAILS_A_SECOND"
    return found


def costs(phases: Sequence[Phase]) -> tuple[float, float]:
    """The CPU time that a mail takes, and the share of a core that all pages take: what fits the phases best."""
    looking = [one for one in phases if one.pages]
    mails, mails_looking = sum(one.mails**2 for one in phases), sum(one.mails for one in looking)
    cpu, cpu_looking = sum(one.mails * one.cpu for one in phases), sum(one.cpu for one in looking)
    determinant = mails * len(looking) - mails_looking**2
    mail = (cpu * len(looking) - mails_looking * cpu_looking) / determinant
    return mail, (mails * cpu_looking - mails_looking * cpu) / determinant


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description="What looking on costs a run.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--pages", type=int, default=50)
    options = parser.parse_args()
    with (
        running_place() as place,
    ):
        rows = invent(int(options.seconds * MAILS_A_SECOND / 4), staff=4, day=TODAY)
        place.load(rows)
        place.serve(rows, MailConfig(API_KEY, latency_ms=10.0, keep_eml=False))
        place.configure(window=OPEN, limits={"email": 20, "offices": 20})
        phases = trio.run(measure, place, options.seconds, options.pages)
    for one in phases:
        print(
            f"{one.pages:>3} pages {one.mails:>6.0f} mails/s {one.cpu:>6.1%} of a core "
            f"{one.events:>6} events {one.rss / 2**20:>7.1f} MiB"
        )
    mail, share = costs(phases)
    events = sum(one.events for one in phases)
    print(f"a mail takes {1000 * mail:.2f} ms of CPU time; the pages take {share:.1%} of a core, for {events:,} events")
    print(f"so a run that had all of that core takes {1 / (1 - share):.3f} times as long")
    return 0


if __name__ == "__main__":
    sys.exit(main())
