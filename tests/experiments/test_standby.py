"""Two daemons on one database, and the active one dies, is cut off or is frozen; `make standby` kills more of them."""

import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio
from attrs import evolve, frozen

from notifierd.demo.servers.process import running_servers
from notifierd.demo.servers.trouble import MailConfig
from tests.experiments.standby import Played, asleep, open_window, play_all
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import until
from tests.support.processes import API_KEY, PASSWORD, Place, Template, invent
from tests.support.proxy import Door, a_door

ROUNDS = 1
OFFICES = 120
LIMITS = {"email": 2, "send_timeout": 10.0}


async def test_killed_in_mid_run_the_active_one_is_followed_by_the_other_and_nobody_is_told_twice(
    template: Template, tmp_path: Path
):
    """Its lease is put to its end: the test below, and `make standby`, wait for that, too."""
    played: list[Played] = []
    await play_all(template, tmp_path, ROUNDS, seed=3, played=played)
    assert [line for one in played for line in one.round.broken] == []
    total = sum((one.round.figures for one in played), Counter[str]())
    assert total["rounds"] == total["kills"] == ROUNDS
    assert total["deliveries (email, keys)"] == 80 * ROUNDS


# The lease runs out -------------------------------------------------------------------------------------------------


@frozen
class Pair:
    """Two sleeping daemons, for which the window is open as soon as they load their files.

    Attributes:
        active: the one that is to have the day; it has a *door* to the database.
    """

    place: Place
    active: Service
    standby: Service
    door: Door

    async def begin(self) -> None:
        """Have the one tell the first few, and the other stand by."""
        await open_window(self.active, self.standby)
        await until(lambda: len(self.place.mails()) >= 5, "the first mails")

    async def take_over(self) -> float:
        """Wait until the other goes on; how many seconds nobody was told."""
        began = time.monotonic()
        await until(lambda: self.standby.said("planned"), "the other to have the day")
        told = len(self.place.mails())
        await until(lambda: len(self.place.mails()) > told, "the next mail")
        return time.monotonic() - began

    async def swap(self) -> None:
        """Wait until the one that had the day has become the standby, and knows of whom; then let the run end."""
        other = re.compile(rf"standing by: the lease is held by \S+:{self.standby.process.pid}:")
        await until(lambda: other.match(self.active.statuses[-1]) is not None, "the places to be swapped")
        assert self.active.said("lease_lost")
        assert self.place.states()["planned"] > 0
        self.place.serve(invent(OFFICES))
        await until(lambda: self.active.shows("sleeping until"), "the first to see that the day is done")
        self.active.tell(signal.SIGTERM)
        await self.active.ended(0)


@asynccontextmanager
async def a_pair(template: Template, folder: Path) -> AsyncIterator[Pair]:
    """Make a pair: mails of 400 ms, two at once, for 120 offices."""
    behind_door = folder / "behind a door"
    behind_door.mkdir(parents=True)
    rows = invent(OFFICES, staff=1, day=TODAY)
    with ExitStack() as stack:
        servers = await trio.to_thread.run_sync(stack.enter_context, running_servers(folder / "servers"))
        place = await trio.to_thread.run_sync(stack.enter_context, template.place(folder, servers))
        place.load(rows)
        place.serve(rows, MailConfig(API_KEY, 400.0, keep_eml=False))
        async with a_door(place.cluster.socket_dir / ".s.PGSQL.5432") as door:
            behind = evolve(place, folder=behind_door)
            through = f"postgresql://{place.role}:{PASSWORD}@127.0.0.1:{door.port}/{place.database}"
            behind.configure(window=AHEAD, database={"dsn": through})
            place.configure(window=AHEAD)
            async with running_service(behind) as active, running_service(place) as standby:
                await asleep(active, standby)
                behind.configure(window=OPEN, limits=LIMITS, database={"dsn": through})
                place.configure(window=OPEN, limits=LIMITS)
                yield Pair(place, active, standby, door)


async def killed(pair: Pair) -> float:
    await pair.begin()
    pair.active.tell(signal.SIGKILL)
    idle = await pair.take_over()
    pair.place.serve(invent(OFFICES))
    return idle


async def frozen_and_woken(pair: Pair) -> float:
    await pair.begin()
    pair.active.tell(signal.SIGSTOP)
    idle = await pair.take_over()
    pair.active.tell(signal.SIGCONT)
    await pair.swap()
    return idle


async def cut_off(pair: Pair) -> float:
    """When the other has the day, the cable is back, and what was held up arrives, late."""
    await pair.begin()
    pair.door.hush()
    idle = await pair.take_over()
    pair.door.speak()
    await pair.swap()
    return idle


async def cut_off_in_its_plan(pair: Pair) -> float:
    """What it has planned is not committed, and locked."""
    pair.door.last_words = (b"insert into notifierd.deliveries", b"COMMIT")
    pair.active.tell(signal.SIGHUP)
    await until(lambda: pair.door.is_hushed, "the plan's end")
    pair.standby.tell(signal.SIGHUP)
    idle = await pair.take_over()
    pair.door.speak()
    await pair.swap()
    return idle


async def test_the_other_goes_on_within_30_seconds_of_a_death_a_cut_and_a_freeze(template: Template, tmp_path: Path):
    """Side by side, as all of them wait for a lease to run out: 15 s, and 5 s until the other looks again.

    One that comes back does no harm: it becomes the standby.
    """
    idle: dict[str, float] = {}

    async def play(trouble: Callable[[Pair], Awaitable[float]]) -> None:
        name = trouble.__name__
        async with a_pair(template, tmp_path / name) as pair:
            idle[name] = await trouble(pair)
            await until(lambda: pair.standby.shows("sleeping until"), "the day to be done")
            pair.standby.tell(signal.SIGTERM)
            await pair.standby.ended(0)
            times = Counter(mail.delivery_id for mail in pair.place.mails())
            assert (len(times), set(times.values())) == (OFFICES, {1}), name
            rows = "select state, reason, doubts, audit_missing, count(*) from notifierd.deliveries group by 1, 2, 3, 4"
            assert pair.place.sql(rows) == f"sent||0|f|{OFFICES}", name
            assert (
                pair.place.sql("select count(*), count(distinct target_id) from audit_logs") == f"{OFFICES}|{OFFICES}"
            )
            assert pair.place.sql("select state, holder from notifierd.runs") == "completed|"

    async with trio.open_nursery() as nursery:
        for trouble in (killed, frozen_and_woken, cut_off, cut_off_in_its_plan):
            nursery.start_soon(play, trouble)
    assert all(seconds <= 30.0 for seconds in idle.values()), idle
