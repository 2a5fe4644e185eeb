"""What the daemon does about days that are over, in virtual time."""

from datetime import date, time, timedelta

import pytest
import trio
from structlog.testing import capture_logs

from notifierd.config.settings import Settings, WindowSettings
from notifierd.model.delivery import State
from notifierd.model.errors import StatementRefused
from notifierd.model.outcome import Delivered, Rejected
from notifierd.rules.due import Rules
from notifierd.run.day import run_day
from notifierd.store.ledger import LEASE_SECONDS
from tests.support.daemons import Diary, World, in_window, in_zone
from tests.support.samples import some_offices
from tests.support.scripted_senders import ScriptedSender, a_run, between

HOUR = timedelta(hours=1)
DAY = date(2026, 11, 24)
TUESDAY = in_zone("2026-11-24 08:00")
"""An hour before the window; the Monday before it was a holiday."""


@pytest.mark.parametrize("starts", [0, 1, 3])
async def test_what_is_planned_again_after_the_window_waits_for_once_until_midnight(starts, autojump_clock):
    """Planned again at 12:30; however many daemons start then, it is there for `once` until the date is over."""
    sender = ScriptedSender(script=lambda _: Rejected("rejected:422"))
    world = World(TUESDAY, app=some_offices(1, staff=1), email=sender)
    async with world.serving():
        await world.until(in_zone("2026-11-24 12:30"))
    await world.ledger.retry(DAY, [State.FAILED])
    for hour in range(starts):
        world.daemon = world.another()
        async with world.serving():
            await world.until(in_zone(f"2026-11-24 {14 + hour}:00"))
    assert world.states() == {"2026-11-24": ("interrupted", "retried")}
    assert world.ledger.states() == {State.PLANNED: 1}
    world.daemon = world.another()
    async with world.serving():
        await world.until(in_zone("2026-11-24 23:59:50"))
        assert world.ledger.states() == {State.PLANNED: 1}
        await world.until(in_zone("2026-11-25 00:10"))
        assert world.ledger.reasons() == {(State.EXPIRED, "window_ended"): 1}
        assert world.states() == {"2026-11-24": ("interrupted", "never_resumed")}
    assert len(sender.calls) == 1


async def test_a_daemon_says_what_waits_for_once_and_until_when_and_no_longer_than_it_does(autojump_clock):
    world = World(
        TUESDAY, app=some_offices(3, staff=1), email=ScriptedSender(script=lambda _: Rejected("rejected:422"))
    )
    async with world.serving():
        await world.until(in_zone("2026-11-24 12:30"))
    await world.ledger.retry(DAY, [State.FAILED])
    world.daemon, world.email.script = world.another(), lambda _: Delivered()
    waits = "3 deliveries of 2026-11-24 wait for `notifierd once`, until Wed 25 Nov 00:00 JST"
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(3600)
            assert waits in world.notifier.statuses()[-1]
            await run_day(DAY, a_run(world.ledger, world.email, holder="once"))
            await trio.sleep(600)
            assert world.notifier.statuses()[-1] == "sleeping until Wed 25 Nov 09:00 JST"
            await world.until(in_zone("2026-11-25 00:10"))
    (line,) = [line for line in lines if line["event"] == "left_open"]
    assert line == {
        "event": "left_open",
        "log_level": "warning",
        "run": "2026-11-24",
        "deliveries": 3,
        "sent_by": "notifierd once",
        "until": "Wed 25 Nov 00:00 JST",
    }
    assert world.states() == {"2026-11-24": ("completed", None)}
    assert world.ledger.states() == {State.SENT: 3}


async def test_one_day_without_counts_is_counted_at_each_look_until_none_is_left(autojump_clock):
    """Today's is not: its counts may still change."""
    world = World(TUESDAY)
    days = [DAY - timedelta(days=n) for n in range(4)]
    world.ledger.uncounted |= set(days)
    left: list[int] = []
    async with world.serving():
        for _ in range(4):
            await trio.sleep(world.slice)
            left.append(len(world.ledger.uncounted))
    assert left[0] in (2, 3)
    assert left[-1] == 1
    assert world.ledger.uncounted == {DAY}


async def test_a_day_that_cannot_be_counted_is_named_once_in_the_log_and_holds_nothing_up(autojump_clock):
    class Refusing(Diary):
        async def keep_counts(self, before):
            raise StatementRefused("database_refused:57014")

    world = World(TUESDAY, app=some_offices(1, staff=1))
    world.ledger = Refusing(world.ledger.app, clock=world.ledger.clock, down=world.ledger.down)
    with capture_logs() as lines:
        async with world.serving():
            await world.until(in_zone("2026-11-24 12:30"))
    assert world.ledger.states() == {State.SENT: 1}
    refused = [line["reason"] for line in lines if line["event"] == "not_counted"]
    assert refused == ["database_refused:57014"] * 2, "in the morning, and when the window was over"


async def test_of_a_closed_day_that_was_forced_it_says_how_it_is_forced_again(autojump_clock):
    settings = Settings(window=WindowSettings(closed_dates=(DAY,)))
    world = World(in_zone("2026-11-24 14:00"), settings, some_offices(1, staff=1))
    await run_day(DAY, a_run(world.ledger, ScriptedSender(script=lambda _: Rejected("rejected:422"))))
    await world.ledger.retry(DAY, [State.FAILED])
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(600)
    (line,) = [line for line in lines if line["event"] == "left_open"]
    assert line["sent_by"] == "notifierd once --force"


# What was missed ----------------------------------------------------------------------------------------------------


async def test_days_on_which_nobody_ran_are_recorded_once_with_the_reason(autojump_clock):
    """Last run on Thursday 19th; Friday nobody; a weekend; Monday a holiday; started on Tuesday after the window."""
    world = World(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 19): ("completed", "")})
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(3600)
        world.daemon, world.exit_code = world.another(), None
        async with world.serving():
            await trio.sleep(3600)
    assert world.states() == {
        "2026-11-19": ("completed", ""),
        "2026-11-20": ("missed", "not_running"),
        "2026-11-21": ("skipped", "weekend: saturday"),
        "2026-11-22": ("skipped", "weekend: sunday"),
        "2026-11-23": ("skipped", "holiday: 勤労感謝の日"),
        "2026-11-24": ("missed", "not_running"),
    }
    missed = [(line["run"], line["log_level"]) for line in lines if line["event"] == "missed"]
    assert missed == [("2026-11-20", "error"), ("2026-11-24", "error")]


async def test_a_machine_that_slept_through_the_window_says_so(autojump_clock):
    world = World(TUESDAY)
    async with world.serving():
        await trio.sleep(600)
        world.skew = 10 * HOUR
        await trio.sleep(600)
    assert world.states() == {"2026-11-24": ("missed", "slept_through")}


async def test_a_new_installation_has_missed_nothing(autojump_clock):
    world = World(in_zone("2026-11-24 12:01"))
    async with world.serving():
        await trio.sleep(3600)
    assert world.states() == {}


async def test_a_database_that_is_away_for_the_whole_window_is_the_reason(autojump_clock):
    """From 08:30 to 12:30; the daemon looks again every 5 s, and says so once."""
    world = World(TUESDAY, away=between((1800.0, 4.5 * 3600)))
    with capture_logs() as lines:
        async with world.serving():
            await world.until(in_zone("2026-11-24 13:00"))
    assert world.states() == {"2026-11-24": ("missed", "database_unavailable:ConnectionRefusedError")}
    waits = [line for line in lines if line["event"] == "waiting_for_database"]
    assert [line["log_level"] for line in waits] == ["error"]
    assert "waiting for the database (database_unavailable:ConnectionRefusedError)" in world.notifier.statuses()


async def test_a_day_that_was_left_half_done_is_settled_when_its_date_is_over(autojump_clock):
    world = World(in_zone("2026-11-24 12:30"), app=some_offices(2, staff=1))
    await world.ledger.take_lease(DAY, "dead")
    await world.ledger.plan(DAY, Rules())
    await trio.sleep(LEASE_SECONDS)
    async with world.serving():
        await trio.sleep(60)
        assert world.states() == {"2026-11-24": ("interrupted", "run_died")}
        assert world.ledger.states() == {State.PLANNED: 2}, "`once` can still send them"
        await world.until(in_zone("2026-11-25 00:10"))
        assert world.states() == {"2026-11-24": ("interrupted", "never_resumed (run_died)")}
        assert world.ledger.states() == {State.EXPIRED: 2}


async def test_a_day_whose_window_ends_after_midnight_is_settled_then(autojump_clock):
    """From 22:00 to 02:00: `once` runs the next day from then on."""
    world = World(in_zone("2026-11-25 01:00"), in_window(at=time(22), until=time(2)), some_offices(2, staff=1))
    await world.ledger.take_lease(DAY, "other")
    await world.ledger.plan(DAY, Rules())
    await world.ledger.finish(DAY, "other", "interrupted", "signal")
    await trio.sleep(3700)
    async with world.serving():
        await trio.sleep(60)
        assert world.states() == {"2026-11-24": ("interrupted", "never_resumed (signal)")}
        assert world.ledger.states() == {State.EXPIRED: 2}
