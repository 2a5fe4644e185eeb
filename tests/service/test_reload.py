"""A reload of the daemon, in virtual time: what it changes, and when it is refused."""

import signal
from datetime import time

import pytest
import trio
from structlog.testing import capture_logs

from notifierd.config.settings import DatabaseSettings, LimitsSettings, Settings
from tests.support.daemons import World, in_zone, tell
from tests.support.samples import some_offices
from tests.support.scripted_senders import ScriptedSender, between, most_at_once, spans

TUESDAY = in_zone("2026-11-24 08:00")
"""An hour before the window; the Monday before it was a holiday."""


async def test_limits_change_in_a_run_that_goes_on(autojump_clock):
    """5 mails of 10 s at once; from 60 s on 20 at once, from 120 s on 1."""
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(300, staff=1), email=ScriptedSender(seconds=10.0))
    async with world.serving():
        for at, mails in ((60.5, 20), (120.5, 1)):
            await trio.sleep_until(at)
            world.settings = Settings(limits=LimitsSettings(email=mails, offices=30))
            tell(signal.SIGHUP)
        await trio.sleep_until(200.0)
        parts = [(0.0, 60.0), (75.0, 120.0), (135.0, 195.0)]
        calls = spans(world.email.calls)
        assert [most_at_once([s for s in calls if low <= s[0] < high]) for low, high in parts] == [5, 20, 1]


async def test_a_bad_file_changes_nothing_and_is_said_until_a_good_one_comes(autojump_clock):
    world = World(TUESDAY)
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(100)
            world.broken = ("limits.offices: 0 is too small", "window.at: is not a time")
            tell(signal.SIGHUP)
            await trio.sleep(100)
            asleep = "sleeping until Tue 24 Nov 09:00 JST"
            refused = "reload refused at 08:01: limits.offices: 0 is too small (and 1 more)"
            assert world.notifier.statuses()[-1] == f"{asleep}; {refused}"
            assert len(world.in_force) == 1
            world.broken = ()
            tell(signal.SIGHUP)
            await trio.sleep(100)
            assert world.notifier.statuses()[-1] == asleep
    assert [line["problems"] for line in lines if line["event"] == "reload_refused"] == [
        ["limits.offices: 0 is too small", "window.at: is not a time"]
    ]
    assert len(world.notifier.when("RELOADING=1\nMONOTONIC_USEC=")) == 2
    assert len(world.notifier.when("READY=1")) == 3


async def test_a_window_that_is_moved_by_a_reload_is_kept_at_once(autojump_clock):
    world = World(TUESDAY)
    async with world.serving():
        await trio.sleep(100)
        world.window(at=time(8, 30))
        tell(signal.SIGHUP)
        await world.until(in_zone("2026-11-24 08:31"))
        assert [moment for _, moment in world.ledger.taken] == [in_zone("2026-11-24 08:30")]


@pytest.mark.parametrize("dsn", ["", "postgresql://elsewhere/app"])
async def test_a_reload_while_the_database_is_away_is_refused_only_if_it_names_another(dsn, autojump_clock):
    world = World(TUESDAY, away=between((60.0, 3600.0)))
    async with world.serving():
        await trio.sleep(100)
        world.settings = Settings(database=DatabaseSettings(dsn=dsn), limits=LimitsSettings(offices=3))
        tell(signal.SIGHUP)
        await trio.sleep(100)
    assert len(world.in_force) == (1 if dsn else 2)


async def test_a_request_that_comes_while_a_file_is_checked_leads_to_another_reload(autojump_clock):
    """A database that takes 2 s to open: the file of 100 s is checked until 102 s, and another lies there at 101 s."""
    world = World(TUESDAY)
    async with world.serving():
        await trio.sleep(10)
        world.opening = 2.0
        for at, offices in ((100.0, 3), (101.0, 4)):
            await trio.sleep_until(at)
            world.settings = Settings(limits=LimitsSettings(offices=offices))
            tell(signal.SIGHUP)
        await trio.sleep_until(110.0)
    assert [settings.limits.offices for settings in world.in_force[1:]] == [3, 4]
