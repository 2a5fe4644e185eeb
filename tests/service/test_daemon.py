"""The daemon in virtual time: when it runs a day, what it does about everything else, and what it says of it."""

import csv
import signal
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs

from notifierd.config.settings import LimitsSettings, Settings, WatchSettings
from notifierd.model.delivery import State
from notifierd.model.errors import ConfigError
from notifierd.model.outcome import Blocked, Delivered, Rejected
from tests.support.daemons import Heard, World, in_window, in_zone, tell
from tests.support.samples import some_offices
from tests.support.scripted_senders import ScriptedSender, between

HOUR = timedelta(hours=1)
DAY = date(2026, 11, 24)
TUESDAY = in_zone("2026-11-24 08:00")
"""An hour before the window; the Monday before it was a holiday."""

CABINET_OFFICE = Path(__file__).parents[1] / "data" / "holidays-jp.csv"


def wall(moments: list[datetime], zone: str = "Asia/Tokyo") -> list[str]:
    return [moment.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M") for moment in moments]


def began(world: World) -> list[datetime]:
    return [moment for _, moment in world.ledger.taken]


# When ---------------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover  # measured, it would take twice as long, and show nothing that the others do not
async def test_twelve_years_of_days_run_when_the_cabinet_office_has_them_open(autojump_clock):
    """2016 to 2027: each weekday at 09:00 but for the listed holidays, each once; every other day is skipped."""
    with CABINET_OFFICE.open(encoding="utf-8") as lines:
        holidays = {date.fromisoformat(row[0]) for row in csv.reader(lines) if row[0][:4].isdecimal()}
    days = [date(2016, 1, 1) + timedelta(days=n) for n in range(4383)]
    business = [day for day in days if day.weekday() < 5 and day not in holidays]
    world = World(in_zone("2016-01-01 00:00"), slice=28_800.0)
    async with world.serving():
        await world.until(in_zone("2027-12-31 23:59"))
    assert days[-1] == date(2027, 12, 31)
    assert world.ledger.taken == [(day, in_zone(f"{day} 09:00")) for day in business]
    kept = {str(day) for day in days if day >= business[-1] - timedelta(days=400)}
    states = world.states()
    assert {day for day, (state, _) in states.items() if state == "completed"} == kept & {str(day) for day in business}
    assert {day for day, (state, _) in states.items() if state == "skipped"} == {
        day for day in kept - {str(day) for day in business} if day < str(business[-1])
    }
    assert world.exit_code == 0


@pytest.mark.parametrize(
    ("zone", "first", "at", "moments"),
    [
        # The clocks go forward on Sunday 29 March at 02:00, and back on Sunday 25 October at 03:00.
        ("Europe/Berlin", "2026-03-27", time(9), ["03-27 08:00", "03-28 08:00", "03-29 07:00", "03-30 07:00"]),
        ("Europe/Berlin", "2026-03-28", time(2, 30), ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("Europe/Berlin", "2026-10-24", time(2, 30), ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        # On Sunday 8 March at 02:00, and on Sunday 1 November at 02:00.
        ("America/New_York", "2026-03-07", time(9), ["03-07 14:00", "03-08 13:00", "03-09 13:00"]),
        ("America/New_York", "2026-03-07", time(2, 30), ["03-07 07:30", "03-08 07:00", "03-09 06:30"]),
        ("America/New_York", "2026-10-31", time(1, 30), ["10-31 05:30", "11-01 05:30", "11-02 06:30"]),
    ],
)
async def test_days_on_which_the_clock_is_put_forward_or_back(zone, first, at, moments, autojump_clock):
    settings = in_window(zone, at=at, until=time(12), holidays="", closed_weekdays=())
    world = World(in_zone(f"{first} 00:00", zone), settings)
    async with world.serving():
        await trio.sleep(86_400 * (len(moments) - 1) + 12 * 3600)
    assert wall(began(world), "UTC") == moments
    assert len({day for day, _ in world.ledger.taken}) == len(moments)


@pytest.mark.parametrize(
    ("start", "at"),
    [("08:59", "11-24 09:00"), ("09:00", "11-24 09:00"), ("09:20", "11-24 09:20"), ("12:01", "11-25 09:00")],
)
async def test_a_start_before_in_and_after_the_window(start, at, autojump_clock):
    world = World(in_zone(f"2026-11-24 {start}"))
    async with world.serving():
        await trio.sleep(22 * 3600)
    assert wall(began(world))[:1] == [at]


async def test_a_window_past_midnight_belongs_to_the_day_on_which_it_opened(autojump_clock):
    settings = in_window(at=time(22), until=time(2))
    world = World(in_zone("2026-11-25 01:30"), settings, some_offices(1))
    async with world.serving():
        await trio.sleep(24 * 3600)
    assert world.ledger.taken == [
        (date(2026, 11, 24), in_zone("2026-11-25 01:30")),
        (date(2026, 11, 25), in_zone("2026-11-25 22:00")),
    ]


async def test_a_run_is_ended_by_its_window_and_what_is_open_expires(autojump_clock):
    """4 offices of 3,600 s each, one at a time, from 09:00: two are told, the third is in flight at its timeout."""
    settings = Settings(limits=LimitsSettings(offices=1, send_timeout=600.0, email=1))
    world = World(TUESDAY, settings, some_offices(40, staff=1), ScriptedSender(seconds=300.0))
    async with world.serving():
        await world.until(in_zone("2026-11-24 13:00"))
    assert len(world.email.told) == 3 * 3600 // 300
    assert world.ledger.states() == {State.SENT: 36, State.EXPIRED: 4}
    assert world.states() == {"2026-11-24": ("completed", None)}


@pytest.mark.parametrize("hours", [+1, -1])
async def test_a_clock_that_is_set_while_asleep_is_noticed_within_a_slice(hours, autojump_clock):
    """Set at 07:30, by an hour: the run begins when the clock shows 09:00, up to 20 s late."""
    world = World(in_zone("2026-11-24 05:00"), slice=20.0)
    async with world.serving():
        await world.until(in_zone("2026-11-24 07:30"))
        world.skew = hours * HOUR
        await trio.sleep(4 * 3600)
    (moment,) = began(world)
    assert timedelta() <= moment - in_zone("2026-11-24 09:00") <= timedelta(seconds=20)


async def test_a_clock_that_is_set_back_after_the_run_runs_nothing_twice(autojump_clock):
    world = World(TUESDAY, app=some_offices(3, staff=1))
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:30"))
        world.skew = -HOUR
        await world.until(in_zone("2026-11-24 11:00"))
    assert len(world.ledger.taken) == 1
    assert len(world.email.accepted) == 3


async def test_a_clock_that_is_set_over_the_windows_end_ends_the_run(autojump_clock):
    """Slow mails, and at 09:10 it becomes 12:10: nothing more is begun."""
    world = World(TUESDAY, app=some_offices(200, staff=1), email=ScriptedSender(seconds=25.0))
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:10"))
        world.skew = 3 * HOUR
        begun = len(world.email.calls)
        await trio.sleep(120)
    assert len(world.email.calls) - begun <= 5
    assert world.ledger.states() == {State.SENT: len(world.email.calls), State.EXPIRED: 200 - len(world.email.calls)}


async def test_a_wrong_clock_years_ahead_does_not_silence_the_days_that_come(autojump_clock):
    world = World(in_zone("2030-01-08 08:00"))
    async with world.serving():
        await trio.sleep(2 * 3600)
        world.skew = TUESDAY - world.now()
        await trio.sleep(2 * 3600)
    assert [day for day, _ in world.ledger.taken] == [date(2030, 1, 8), date(2026, 11, 24)]


async def test_what_is_planned_again_while_the_window_is_open_is_sent_by_the_daemon_that_slept(autojump_clock):
    """Three mails, one of them refused; planned again at 10:00, it is sent within a slice, and the others are not."""
    app = some_offices(3, staff=1)
    refused = "staff-0-0@example.jp"
    sender = ScriptedSender(
        script=lambda t: Rejected("rejected:422") if t.to == refused and t.nth == 1 else Delivered()
    )
    world = World(TUESDAY, app=app, email=sender, slice=20.0)
    async with world.serving():
        await world.until(in_zone("2026-11-24 10:00"))
        assert world.ledger.states() == {State.SENT: 2, State.FAILED: 1}
        await world.ledger.retry(date(2026, 11, 24), [State.FAILED])
        await trio.sleep(30)
        assert world.ledger.states() == {State.SENT: 3}
        assert world.states() == {"2026-11-24": ("completed", None)}
        await world.until(in_zone("2026-11-24 11:59:50"))
    assert len(world.ledger.taken) == 2
    assert sender.told == ["staff-0-0@example.jp", "staff-1-0@example.jp", "staff-2-0@example.jp"]


# The database -------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_at_the_start_is_waited_for_visibly(autojump_clock):
    """Away for 300 s: until then no READY, a status that says so, and more time asked of systemd."""
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(1), away=between((0.0, 300.0)))
    async with world.serving():
        await trio.sleep(400)
    (ready,) = world.notifier.when("READY=1")
    assert 300.0 <= ready <= 305.0
    assert world.notifier.statuses()[:2] == [
        "starting",
        "waiting for the database (database_unavailable:ConnectionRefusedError)",
    ]
    asked = [at for at in world.notifier.when("EXTEND_TIMEOUT_USEC=") if at < ready]
    assert max(later - earlier for earlier, later in pairwise([*asked, ready])) <= 5.0
    assert len(world.email.accepted) == 2


async def test_a_database_that_goes_away_in_mid_run_is_waited_for(autojump_clock):
    """It is away from 09:00:10 for 60 s, of which the lease does not survive one: the day goes on then."""
    email = ScriptedSender(seconds=2.0, honours_keys=True)
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(100, staff=1), email=email)
    world.ledger.down = world.away = between((10.0, 70.0))
    async with world.serving():
        await trio.sleep(600)
    assert len(world.email.told) == len(set(world.email.told)) == 100
    assert world.states() == {"2026-11-24": ("completed", None)}


async def test_a_configuration_that_is_no_good_is_not_started_with(autojump_clock):
    world = World(TUESDAY, broken=("email.sender: required for sending",))
    with pytest.raises(ConfigError):
        await world.daemon.run()
    assert world.notifier.lines == []


# Standing by --------------------------------------------------------------------------------------------------------


async def test_a_day_that_another_process_holds_is_stood_by_for_and_gone_on_with(autojump_clock):
    """The other dies at 09:00:00, with 14 s of its lease left. Until then the status says so, and the log once."""
    world = World(TUESDAY, app=some_offices(2, staff=1))
    with capture_logs() as lines:
        async with world.serving():
            await world.until(in_zone("2026-11-24 08:59:59"))
            await world.ledger.take_lease(date(2026, 11, 24), "other:1")
            await trio.sleep(2)
            assert world.notifier.statuses()[1:] == [
                "sleeping until Tue 24 Nov 09:00 JST",
                "standing by: the lease is held by other:1",
            ]
            await trio.sleep(29)
            assert len(world.email.accepted) == 2
    assert [line["holder"] for line in lines if line["event"] == "standing_by"] == ["other:1"]
    assert len(world.given_back) == 1, "memory is given back after the run, and not at each look at the lease"


async def test_a_day_that_another_process_has_done_is_not_run_again(autojump_clock):
    world = World(in_zone("2026-11-24 09:30"), app=some_offices(2, staff=1))
    await world.ledger.record({date(2026, 11, 24): ("completed", "")})
    async with world.serving():
        await trio.sleep(3600)
    assert world.ledger.taken == []
    assert world.notifier.statuses()[-2] == "sleeping until Wed 25 Nov 09:00 JST"


async def test_a_program_too_old_for_the_schema_stands_by_instead_of_ending(autojump_clock):
    """At its start, until 09:05, and again at 09:06 for 20 s, while a newer one runs the day. It says so, once each."""
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(1), newer=between((0.0, 300.0), (360.0, 380.0)))
    world.settings = evolve(world.settings, watch=WatchSettings(webhook_url="https://hooks.example.jp/T/B"))
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(200.0)
            assert world.notifier.when("READY=1") == []
            assert world.notifier.statuses()[-1] == "standing by: the schema is too new: upgrade notifierd"
            await trio.sleep(97.5)  # between two looks, and so is the end
            await world.ledger.take_lease(DAY, "newer:1")
            world.ledger.extend(DAY, 1000.0)
            await trio.sleep(100.0)
            assert world.notifier.when("READY=1") != []
    assert len([line for line in lines if line["event"] == "schema_newer"]) == 2
    assert world.receivers.causes == []
    assert world.exit_code == 0


# The end ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_sleeping_daemon_stops_at_once(signum, autojump_clock):
    world = World(TUESDAY)
    async with world.serving(signum):
        await trio.sleep(100)
    assert trio.current_time() == pytest.approx(100.0)
    assert world.exit_code == 0
    assert world.notifier.lines[-2:] == [
        (100.0, "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000"),
        (100.0, "STATUS=stopping"),
    ]


async def test_a_daemon_that_waits_for_its_database_stops_at_once(autojump_clock):
    world = World(TUESDAY, away=between((0.0, 3600.0)))
    async with world.serving():
        await trio.sleep(100)
    assert trio.current_time() == pytest.approx(100.0)
    assert world.exit_code == 0


@pytest.mark.parametrize(("seconds", "sent", "over"), [(15.0, 5, 15.0), (25.0, 5, 25.0), (200.0, 0, 30.0)])
async def test_a_run_drains_within_its_grace(seconds, sent, over, autojump_clock):
    """Stopped at 10 s with 20 s of grace: calls of 15 and 25 s land, 200 s are cut at 30 s."""
    world = World(in_zone("2026-11-24 09:00"), Settings(), some_offices(50, staff=1), ScriptedSender(seconds=seconds))
    world.settings = Settings(limits=LimitsSettings(send_timeout=300.0))
    async with world.serving():
        await trio.sleep_until(10.0)
    assert trio.current_time() == pytest.approx(over, abs=0.2)
    assert world.exit_code == 4
    assert world.ledger.states()[State.SENT] == len(world.email.accepted) == sent
    assert world.ledger.states()[State.SENDING] == 0
    assert world.states() == {"2026-11-24": ("interrupted", "signal")}


async def test_no_ready_comes_after_a_stop_that_overtakes_a_reload(autojump_clock):
    """A database that takes 2 s to open: the reload of 10 s is checked until 12 s, the stop comes at 11 s."""
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(50, staff=1), email=ScriptedSender(seconds=15.0))
    world.opening = 2.0
    async with world.serving():
        await trio.sleep_until(10.0)
        tell(signal.SIGHUP)
        await trio.sleep_until(11.0)
    assert trio.current_time() > 12.0
    protocol = [line for _, line in world.notifier.lines if line.startswith(("READY", "RELOADING", "STOPPING"))]
    assert [line.partition("=")[0] for line in protocol] == ["READY", "RELOADING", "STOPPING"]


async def test_a_second_sigint_stops_a_run_at_once(autojump_clock):
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(50, staff=1), email=ScriptedSender(seconds=25.0))
    async with world.serving(signal.SIGINT):
        await trio.sleep_until(10.0)
        tell(signal.SIGINT)
        await trio.sleep_until(12.0)
    assert trio.current_time() == pytest.approx(12.0, abs=0.2)
    assert world.exit_code == 4
    assert world.ledger.states()[State.SENDING] == 0


async def test_a_stopped_run_is_gone_on_with_by_the_next_start(autojump_clock):
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(50, staff=1), email=ScriptedSender(seconds=3.0))
    async with world.serving():
        await trio.sleep_until(10.0)
    first = len(world.email.accepted)
    world.daemon, world.exit_code = world.another(), None
    async with world.serving():
        await trio.sleep(600)
    assert 0 < first < 50
    assert len(world.email.told) == len(set(world.email.told)) == 50
    assert world.exit_code == 0


async def test_stopping_is_bounded_when_the_database_does_not_answer(autojump_clock):
    """Away from 8 s on, stopped at 10 s: over within the grace and 2 s; what was in flight stays evidence."""
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(50, staff=1), email=ScriptedSender(seconds=3.0))
    world.ledger.down = between((8.0, 1e6))
    async with world.serving():
        await trio.sleep_until(10.0)
    assert trio.current_time() <= 10.0 + 20.0 + 2.0
    assert world.exit_code == 4
    assert world.ledger.states()[State.SENDING] == 5


# What it says -------------------------------------------------------------------------------------------------------


async def test_the_status_says_how_far_a_run_is_and_how_the_last_one_ended(autojump_clock):
    world = World(TUESDAY, app=some_offices(130, staff=10), email=ScriptedSender(seconds=1.0, max_batch=10))
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:10"))
    said = world.notifier.statuses()
    assert "running 2026-11-24: 60 of 130 offices, 600 mails" in said
    last = "last run 2026-11-24 completed: 1,300 mails, 0 pushes sent, 0 not"
    assert f"sleeping until Wed 25 Nov 09:00 JST; {last}" in said


async def test_the_status_names_a_provider_that_refuses_us(autojump_clock):
    email = ScriptedSender(script=lambda _: Blocked("blocked:401"))
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(3, staff=1), email=email)
    async with world.serving():
        await trio.sleep(30)
        assert world.notifier.statuses()[-1].endswith("0 mails; scripted is unavailable (blocked:401)")


async def test_a_watchdog_is_fed_while_asleep_and_while_a_run_gets_on(autojump_clock):
    """A watchdog of 30 s, over a night, a run of 600 s and the sleep after it."""
    world = World(in_zone("2026-11-23 21:00"), app=some_offices(300, staff=1), email=ScriptedSender(seconds=10.0))
    world.notifier = Heard(watchdog=30.0)
    world.daemon = world.another()
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:20"))
    fed = world.notifier.when("WATCHDOG=1")
    assert max(later - earlier for earlier, later in pairwise(fed)) <= 15.0


async def test_a_watchdog_is_not_fed_by_a_run_that_hangs(autojump_clock):
    settings = Settings(limits=LimitsSettings(send_timeout=600.0))
    world = World(in_zone("2026-11-24 09:00"), settings, some_offices(20, staff=1), ScriptedSender(seconds=1e6))
    world.notifier = Heard(watchdog=30.0)
    world.daemon = world.another()
    async with world.serving(signal.SIGINT):
        await trio.sleep(300)
        fed = world.notifier.when("WATCHDOG=1")
        assert max(fed) <= 1.0
        tell(signal.SIGINT)
        await trio.sleep(1)


async def test_a_watchdog_is_fed_while_a_run_waits_for_the_database(autojump_clock):
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(20, staff=1), email=ScriptedSender(seconds=5.0))
    world.notifier = Heard(watchdog=30.0)
    world.ledger.down = world.away = between((7.0, 500.0))
    world.daemon = world.another()
    async with world.serving():
        await trio.sleep(600)
    fed = world.notifier.when("WATCHDOG=1")
    assert max(later - earlier for earlier, later in pairwise(fed)) <= 15.0


async def test_sigusr1_tells_every_limiter_channel_and_office(autojump_clock):
    world = World(in_zone("2026-11-24 09:00"), app=some_offices(30, staff=1), email=ScriptedSender(seconds=10.0))
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(15)
            tell(signal.SIGUSR1)
            await trio.sleep(60)
    (state,) = [line for line in lines if line["event"] == "state"]
    assert state["status"] == "running 2026-11-24: 5 of 30 offices, 5 mails"
    assert state["limiters"]["offices"] == "10 of 10, 1 waiting"
    assert state["limiters"]["email"] == "5 of 5, 0 waiting"
    assert state["limiters"]["email scripted"] == "5 of 5, 5 waiting"
    assert state["channels"] == {"reserving": 0, "unwritten": 0}
    assert len(state["offices"]) == 10


async def test_what_nobody_was_told_is_an_error_that_names_the_offices(autojump_clock):
    app = some_offices(3, staff=1)
    lonely = next(iter(app.offices))
    app.staff = [(office, someone) for office, someone in app.staff if office != lonely]
    world = World(in_zone("2026-11-24 09:00"), app=app)
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(60)
    (untold,) = [line for line in lines if line["event"] == "untold"]
    assert (untold["log_level"], untold["alerts"], untold["offices"]) == ("error", 1, [str(lonely)])
