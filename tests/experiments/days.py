"""Many days of one daemon, in one process: does it grow?

The real daemon over a real PostgreSQL, with mails and pushes over real HTTP; only the wall clock is made up, and leaps
over what the daemon would sleep. Each day has a run, with old days forgotten after it as ever.

    python -m tests.experiments.days --days 1000     prints tasks, file descriptors and memory as the days pass
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import partial
from pathlib import Path

import structlog
import trio
from attrs import define, field, frozen

from notifierd.config.load import load_for_sending
from notifierd.service.daemon import Daemon
from notifierd.service.site import claim_alarm, open_site
from notifierd.service.systemd import Notifier
from notifierd.web.service import keep_serving
from tests.support.processes import DAY, Place, invent, running_place

OFFICES = 3
START = datetime.combine(DAY, time(0), UTC)


@frozen
class Size:
    """The daemon's process at the end of a day.

    Attributes:
        rss: resident memory in KiB.
    """

    day: int
    tasks: int
    files: int
    rss: int

    @classmethod
    def now(cls, day: int) -> "Size":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        tasks = trio.lowlevel.current_statistics().tasks_living
        return cls(day, tasks, files, pages * os.sysconf("SC_PAGE_SIZE") // 1024)


@define
class HastyDaemon(Daemon):
    """Sleeps no slice: the wall clock leaps over it. Ends itself after *days* days."""

    days: int = 1
    told: Callable[[Size], None] = field(default=lambda _size: None)
    clock: list[datetime] = field(factory=lambda: [START])
    _passed: int = 0

    async def _nap(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        self.clock[0] += timedelta(seconds=min(seconds, self.slice))
        passed = (self.clock[0] - START).days
        if passed > self._passed:
            self._passed = passed
            self.told(Size.now(passed))
            if passed >= self.days:
                os.kill(os.getpid(), signal.SIGTERM)
                await trio.sleep_forever()


def live(place: Place, days: int, told: Callable[[Size], None]) -> int:
    """Have a daemon serve *place* for *days*, and be *told* its size at the end of each; its exit code."""
    window: dict[str, object] = {"timezone": "UTC", "holidays": "", "closed_weekdays": []}
    place.configure(window=window, content={"horizon_days": 366})
    place.load(invent(OFFICES, push_url=place.servers.push_url))
    clock = [START]
    daemon = HastyDaemon(
        load=partial(load_for_sending, place.folder / "config.toml"),
        open_site=open_site,
        now=lambda: clock[0],
        notifier=Notifier(),
        in_force=lambda _settings: None,
        claim_alarm=claim_alarm,
        keep_serving=keep_serving,
        slice=6 * 3600.0,
        days=days,
        told=told,
        clock=clock,
    )
    return trio.run(daemon.run)


def table(sizes: Sequence[Size], step: int) -> str:
    """A line for each *step* days."""
    lines = [f"{size.day:>6} {size.tasks:>6} {size.files:>6} {size.rss:>9,}" for size in sizes[step - 1 :: step]]
    return "\n".join([f"{'day':>6} {'tasks':>6} {'files':>6} {'RSS KiB':>9}", *lines])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.days", description="Many days of one daemon.")
    parser.add_argument("--days", type=int, default=1000)
    parser.add_argument("--every", type=int, help="days between two lines (default: a twentieth of all)")
    options = parser.parse_args()
    step = options.every or max(1, options.days // 20)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sizes: list[Size] = []
    with (
        running_place() as place,
    ):
        live(place, options.days, sizes.append)
        runs = place.sql("select state, count(*) from notifierd.runs group by 1")
        told = len(place.mails()), len(place.pushes())
    accepted = f"{told[0]:,} mails, {told[1]:,} pushes"
    sys.stdout.write(f"{table(sizes, step)}\nruns in the ledger: {runs}; accepted: {accepted}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
