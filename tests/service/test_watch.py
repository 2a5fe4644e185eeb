"""What the operator hears of a daemon's days, and when: in virtual time, over receivers without sockets."""

import signal
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs

from notifierd.config.settings import ContentSettings, Settings, WatchSettings
from notifierd.model.delivery import Channel, State
from notifierd.model.message import Alarm
from notifierd.model.outcome import Blame, Blocked, Deferred, Outcome, Rejected
from notifierd.rules.cluster.membership import Terms
from notifierd.rules.due import Rules
from notifierd.run.day import run_day
from notifierd.service.watch import DRAIN_SECONDS, open_watch
from notifierd.store.ledger import LEASE_SECONDS
from tests.support.daemons import World, in_zone, tell
from tests.support.memory import Application, MemoryLedger
from tests.support.receivers import SECRET, Answer, Got, Receivers
from tests.support.samples import an_id, some_offices
from tests.support.scripted_senders import TAKEN, ScriptedSender, Try, a_run, between

WEBHOOK, PING = f"https://hooks.example.jp/hook/{SECRET}", f"https://ping.example.jp/ping/{SECRET}"
TUESDAY = date(2026, 11, 24)
NINE = in_zone("2026-11-24 09:00")
SHARED = Terms(shares=True, config_hash="version=1 window=1 content=1")
ENGLISH = ContentSettings(language="en")
DOWN = Deferred("connection_failed", blame=Blame.PROVIDER)


def watched(
    start: datetime = NINE,
    app: Application | None = None,
    email: ScriptedSender | None = None,
    *,
    every: float = 20.0,
    **watch: Any,
) -> World:
    """A daemon that is to tell both receivers, and that sleeps slices of *every* so many seconds."""
    told = WatchSettings(**{"webhook_url": WEBHOOK, "ping_url": PING, **watch})
    return World(start, Settings(content=ENGLISH, watch=told), app or ahead(2), email or ScriptedSender(), slice=every)


def ahead(count: int) -> Application:
    """So many offices with one staff member each, and a deadline in the days to come."""
    app = some_offices(count, staff=1)
    app.alerts = [(office, evolve(alert, due_on=_day_after(alert.due_on))) for office, alert in app.alerts]
    return app


def an_alarm(cause: str) -> Alarm:
    return Alarm(TUESDAY, cause, "crashed", {"error": "KeyError"})


def _day_after(day: date | None) -> date:
    assert day
    return day + timedelta(days=1)


def refusing(*numbers: int) -> ScriptedSender:
    """A provider that will have nothing to do with the staff of these offices."""
    to = {f"staff-{number}-0@example.jp" for number in numbers}
    return ScriptedSender(script=lambda mail: Rejected("rejected:422") if mail.to in to else TAKEN)


def until(seconds: float, outcome: Outcome) -> Callable[[Try], Outcome]:
    """A provider's trouble until that moment."""
    return lambda mail: outcome if mail.at < seconds else TAKEN


# The dead man's switch -----------------------------------------------------------------------------------------------


async def test_a_good_day_is_a_start_and_a_success_under_one_id(autojump_clock):
    world = watched(in_zone("2026-11-24 08:59"))
    async with world.serving():
        await trio.sleep(600)
    start, success = world.receivers.pings
    assert (start.signal, start.body) == ("start", b"")
    assert 60.0 <= start.at <= 61.0
    assert (success.signal, success.rid) == ("success", start.rid)
    assert success.type == "text/plain; charset=utf-8"
    assert success.body.decode().splitlines() == [
        "2026-11-24 completed",
        "offices: 2 total, 0 failed",
        "email: 2 planned, 2 sent, 0 failed, 0 gone, 0 unknown, 0 expired, 0 open",
        "push: 0 planned, 0 sent, 0 failed, 0 gone, 0 unknown, 0 expired, 0 open",
        "untold: 0 alerts, 0 overdue, 0 offices",
    ]
    assert world.receivers.alarms == []


async def test_a_day_on_which_nothing_is_due_is_a_start_and_a_success(autojump_clock):
    world = watched(app=Application())
    async with world.serving():
        await trio.sleep(60)
    assert world.receivers.signals == ["start", "success"]


async def test_closed_days_are_successes_when_their_windows_would_open(autojump_clock):
    """From Friday evening to Tuesday noon: a weekend, and a Monday that is a holiday."""
    world = watched(in_zone("2026-11-20 18:00"), every=600.0)
    async with world.serving():
        await world.until(in_zone("2026-11-24 11:00"))
    hours = [(ping.at - 15 * 3600) / 3600 for ping in world.receivers.pings]
    assert hours == pytest.approx([0, 24, 48, 72, 72], abs=0.01)
    assert world.receivers.signals == ["success", "success", "success", "start", "success"]
    assert [ping.body.decode() for ping in world.receivers.pings[:3]] == [
        "2026-11-21 skipped (weekend: saturday)",
        "2026-11-22 skipped (weekend: sunday)",
        "2026-11-23 skipped (holiday: 勤労感謝の日)",
    ]
    assert len({ping.rid for ping in world.receivers.pings}) == 4


async def test_a_run_that_is_gone_on_with_by_another_process_is_one_start_and_one_end_under_one_id(autojump_clock):
    """Stopped at 10 s, started anew: the second process' start has the first one's id."""
    world = watched(app=some_offices(50, staff=1), email=ScriptedSender(seconds=3.0))
    async with world.serving():
        await trio.sleep_until(10.0)
    assert world.receivers.signals == ["start"]
    world.daemon = world.another()
    async with world.serving():
        await trio.sleep(600)
    assert world.receivers.signals == ["start", "start", "success"]
    assert len({ping.rid for ping in world.receivers.pings}) == 1


async def test_a_database_that_goes_away_in_mid_run_is_neither_an_end_nor_a_second_start(autojump_clock):
    world = watched(app=some_offices(100, staff=1), email=ScriptedSender(seconds=2.0, honours_keys=True))
    world.ledger.down = world.away = between((10.0, 70.0))
    async with world.serving():
        await trio.sleep(600)
    assert world.receivers.signals == ["start", "success"]
    assert world.receivers.alarms == []


async def test_what_is_planned_again_is_a_run_of_its_own(autojump_clock):
    """Ended at 9:00, planned again at 10:00: it did not take an hour."""
    world = watched(email=refusing(0), failure_ratio=1.0)
    async with world.serving():
        await world.until(in_zone("2026-11-24 10:00"))
        world.email.script = lambda _: TAKEN
        await world.ledger.retry(TUESDAY, [State.FAILED])
        await trio.sleep(60)
    assert world.receivers.signals == ["start", "success"] * 2
    assert world.receivers.alarms == []


async def test_what_another_process_went_on_with_is_over_for_this_one(autojump_clock):
    """Cut off from 10 to 70 s, in which another process ends the day; an hour later a mail is planned again."""
    world = watched(app=ahead(30), email=ScriptedSender(seconds=3.0, honours_keys=True), failure_ratio=1.0)
    theirs = evolve(world.ledger)
    world.ledger.down = world.away = between((10.0, 70.0))
    async with world.serving():
        await trio.sleep_until(40.0)
        await run_day(TUESDAY, a_run(theirs, refusing(29), holder="other"))
        await trio.sleep_until(3600.0)
        await world.ledger.retry(TUESDAY, [State.FAILED])
        await trio.sleep(60)
    assert world.states() == {"2026-11-24": ("completed", None)}
    assert world.receivers.signals == ["start", "start", "success"]
    assert world.receivers.alarms == []


# The causes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "ratio", "causes", "end"),
    [
        (1, 0.05, ["failures"], "fail"),
        (1, 0.051, [], "success"),
        (0, 0.0, [], "success"),
        (1, 0.0, ["failures"], "fail"),
        (20, 1.0, ["failures"], "fail"),
        (19, 1.0, [], "success"),
    ],
)
async def test_a_run_with_too_many_failures_out_of_twenty(failing, ratio, causes, end, autojump_clock):
    world = watched(app=ahead(20), email=refusing(*range(failing)), failure_ratio=ratio)
    async with world.serving():
        await trio.sleep(600)
    assert world.receivers.causes == causes
    assert world.receivers.signals == ["start", end]
    if causes:
        (alarm,) = world.receivers.alarms
        assert f"{failing} of 20 deliveries of 2026-11-24 reached nobody" in alarm.json["text"]
        assert f"{failing} email rejected:422" in alarm.json["text"]
        assert {str(an_id(f"office {number}")) for number in range(failing)} == _ids(alarm)


def _ids(alarm: Got) -> set[str]:
    lines = alarm.json["text"].splitlines()
    return {line for line in lines if len(line) == 36 and str(UUID(line)) == line}


async def test_overdue_alerts_that_reached_nobody_are_told_and_others_are_not(autojump_clock):
    """Two offices without staff: the one's deadline is today, the other's in five days."""
    app = some_offices(6, staff=1)
    overdue, later = an_id("office 0"), an_id("office 5")
    app.staff = [(office, someone) for office, someone in app.staff if office not in {overdue, later}]
    world = watched(app=app)
    async with world.serving():
        await trio.sleep(60)
    (alarm,) = world.receivers.alarms
    assert alarm.cause == "untold"
    assert "1 overdue alert of 2026-11-24 reached nobody, in 1 office" in alarm.json["text"]
    assert _ids(alarm) == {str(overdue)}
    assert world.receivers.signals == ["start", "success"]


async def test_a_run_that_takes_long_is_told_while_it_goes_on(autojump_clock):
    """40 mails of 10 s, 5 at once: 80 s, and an alarm after 30."""
    world = watched(app=some_offices(40, staff=1), email=ScriptedSender(seconds=10.0), run_seconds=30.0)
    async with world.serving():
        await trio.sleep(600)
    (alarm,) = world.receivers.alarms
    assert alarm.cause == "slow"
    assert 30.0 < alarm.at <= 32.0
    assert "15 of 40 offices done. It continues." in alarm.json["text"]
    (_, success) = world.receivers.pings
    assert success.at >= 80.0


@pytest.mark.parametrize("run_seconds", [0.0, 200.0])
async def test_a_run_that_may_take_as_long_is_none(run_seconds, autojump_clock):
    world = watched(app=some_offices(40, staff=1), email=ScriptedSender(seconds=10.0), run_seconds=run_seconds)
    async with world.serving():
        await trio.sleep(600)
    assert world.receivers.alarms == []


async def test_a_provider_that_refuses_us_is_told_at_once(autojump_clock):
    world = watched(email=ScriptedSender(script=until(120.0, Blocked("blocked:401"))), run_seconds=0.0)
    async with world.serving():
        await trio.sleep(900)
    (alarm,) = world.receivers.alarms
    assert alarm.cause == "blocked:scripted"
    assert alarm.at <= 3.0
    assert "scripted rejects our credentials or account (blocked:401)" in alarm.json["text"]
    assert world.receivers.signals == ["start", "success"]


async def test_push_services_that_refuse_us_are_one_alarm_of_the_sender(autojump_clock):
    """Two destinations of three."""
    receivers, context = (
        Receivers(),
        a_run(MemoryLedger(Application()), ScriptedSender(), ScriptedSender(name="webpush")),
    )
    context.progress.has_day = True
    outcomes: dict[str, Outcome] = {"fcm": Blocked("blocked:403"), "moz": Blocked("blocked:401"), "wns": TAKEN}
    for destination, outcome in outcomes.items():
        context.transports.preferred(Channel.PUSH).limiter_for(destination)
        context.transports.breakers[destination].record([outcome], 0.0, an_id("office"))
    settings = Settings(content=ENGLISH, watch=WatchSettings(webhook_url=WEBHOOK))

    async def claim_alarm(_settings: Settings, day: date, cause: str) -> bool:
        return await context.ledger.claim_alarm(day, cause)

    async with open_watch(lambda: settings, claim_alarm, receivers.client) as watch, watch.over(TUESDAY, context):
        await trio.sleep(5)
    assert receivers.causes == ["blocked:webpush"]
    assert (
        "webpush rejects our credentials or account (fcm: blocked:403, moz: blocked:401). "
        in receivers.alarms[0].json["text"]
    )


@pytest.mark.parametrize(("seconds", "causes"), [(20.0, []), (300.0, ["out:scripted"])])
async def test_a_provider_that_fails_every_call_is_told_when_that_lasts_a_minute(seconds, causes, autojump_clock):
    world = watched(email=ScriptedSender(script=until(seconds, DOWN)), run_seconds=0.0)
    async with world.serving():
        await trio.sleep(900)
    assert world.receivers.causes == causes
    assert all(60.0 <= alarm.at <= 75.0 for alarm in world.receivers.alarms)
    assert world.receivers.signals == ["start", "success"]


async def test_a_day_that_cannot_be_run_is_told_once_and_may_be_run_after_all(autojump_clock):
    world = watched(in_zone("2026-11-24 08:59"))
    async with world.serving():
        await trio.sleep(30)
        world.unfit = ("notifierd.staff: column name (text) is missing",)
        await trio.sleep(600)
        world.unfit = ()
        await trio.sleep(60)
    (alarm,) = world.receivers.alarms
    assert alarm.cause == "failed"
    assert 60.0 <= alarm.at <= 61.0
    assert "notifierd.staff: column name (text) is missing" in alarm.json["text"]
    assert world.receivers.signals == ["fail", "start", "success"]
    assert len({ping.rid for ping in world.receivers.pings}) == 1


async def test_a_run_that_a_bug_ends_is_told_before_the_process_goes(autojump_clock):
    """The ledger raises what it never should, with a name in it: neither goes anywhere."""
    world = watched(app=some_offices(50, staff=1), email=ScriptedSender(seconds=3.0))
    crashes = iter([KeyError("Yamada Hanako")])

    def crash() -> bool:
        if trio.current_time() > 5.0 and (error := next(crashes, None)):
            raise error
        return False

    world.ledger.down = crash
    with pytest.raises(BaseExceptionGroup), capture_logs() as lines:
        await world.daemon.run()
    assert world.receivers.causes == ["failed"]
    assert "it crashed (KeyError)" in world.receivers.alarms[0].json["text"]
    assert world.receivers.signals == ["start", "fail"]
    assert "Yamada" not in f"{lines}{world.receivers.got}"


async def test_missed_windows_are_told_together(autojump_clock):
    """Last run on Wednesday; nobody on Thursday and Friday; started on Tuesday after the window."""
    world = watched(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 18): ("completed", "")})
    async with world.serving():
        await trio.sleep(60)
    (alarm,) = world.receivers.alarms
    assert (alarm.cause, alarm.day) == ("missed", "2026-11-24")
    why = "(no daemon was running)"
    assert f"No run on 2026-11-24 {why}, 2026-11-20 {why}, 2026-11-19 {why}." in alarm.json["text"]
    assert world.receivers.signals == ["fail"]


async def test_a_window_that_the_database_was_away_for_is_told_when_it_is_back(autojump_clock):
    """Away from 08:59 to 09:30, and the window ends at 09:10: the ledger has to note it first."""
    world = watched(in_zone("2026-11-24 08:58"), every=60.0)
    world.window(until=time(9, 10))
    world.away = between((60.0, 1920.0))
    async with world.serving():
        await world.until(in_zone("2026-11-24 10:00"))
    (alarm,) = world.receivers.alarms
    assert alarm.cause == "missed"
    assert 1920.0 <= alarm.at <= 1980.0
    assert "database_unavailable:ConnectionRefusedError" in alarm.json["text"]


async def test_a_run_that_nobody_went_on_with_is_told_once_by_whoever_comes_next(autojump_clock):
    """The process that had the day died at 12:00; a daemon comes at 12:30, and another one in the evening."""
    world = watched(in_zone("2026-11-24 12:00"), every=600.0)
    await world.ledger.take_lease(TUESDAY, "dead")
    await world.ledger.plan(TUESDAY, Rules())
    await trio.sleep(1800)
    for _ in range(2):
        async with world.serving():
            await trio.sleep(6 * 3600)
        world.daemon = world.another()
    assert world.states() == {"2026-11-24": ("interrupted", "never_resumed (run_died)")}
    (alarm,) = world.receivers.alarms
    assert (alarm.cause, alarm.day) == ("failed", "2026-11-24")
    assert alarm.at < 1900.0, "as soon as it is seen, and not at midnight"
    assert "did not finish (run_died). The next run reports what is still due.\n`notifierd once`" in alarm.json["text"]
    assert world.receivers.signals == ["fail"]


async def test_a_run_whose_lease_outlives_its_window_is_waited_for(autojump_clock):
    """Another process has the day until 5 s beyond its window's end, and dies then."""
    world = watched(in_zone("2026-11-24 11:59:50"))
    await world.ledger.take_lease(TUESDAY, "other")
    async with world.serving():
        await trio.sleep(LEASE_SECONDS - 3.0)
        assert world.receivers.alarms == []
        await trio.sleep(60)
    assert world.receivers.causes == ["failed"]


async def test_what_was_planned_again_after_the_window_is_no_alarm_before_it_expires(autojump_clock):
    """Planned again at 12:30 by the operator, who knows of it; nobody sent it, and the date is over."""
    world = watched(in_zone("2026-11-24 12:30"), every=600.0)
    await run_day(TUESDAY, a_run(world.ledger, ScriptedSender(script=lambda _: Rejected("rejected:422"))))
    await world.ledger.retry(TUESDAY, [State.FAILED])
    async with world.serving():
        await world.until(in_zone("2026-11-24 23:50"))
        assert world.receivers.alarms == []
        await world.until(in_zone("2026-11-25 00:30"))
    assert world.receivers.causes == ["failed"]
    assert "(never_resumed): its open deliveries expired" in world.receivers.alarms[0].json["text"]


# Once ----------------------------------------------------------------------------------------------------------------


async def test_each_cause_is_told_once_a_day_over_restarts_and_again_on_the_next_day(autojump_clock):
    """Two processes on Tuesday, a third on Wednesday: refused, slow, with failures and an office without staff."""
    app = some_offices(21, staff=1)
    app.staff = [(office, someone) for office, someone in app.staff if office != an_id("office 0")]

    def script(mail: Try) -> Outcome:
        hour = mail.at % 86_400
        return Blocked("blocked:401") if hour < 30 or 600 < hour < 640 else Rejected("rejected:422")

    world = watched(app=app, email=ScriptedSender(script=script), every=100.0, run_seconds=20.0)
    causes = ["blocked:scripted", "slow", "failures", "untold"]
    async with world.serving():
        await trio.sleep_until(40.0)
    assert world.receivers.causes == causes[:2]
    world.daemon = world.another()
    async with world.serving():
        await trio.sleep_until(500.0)
        assert world.receivers.causes == causes
        await world.ledger.retry(TUESDAY, [State.FAILED])
        await trio.sleep_until(3600.0)
    assert world.receivers.causes == causes
    world.daemon = world.another()
    async with world.serving():
        await trio.sleep_until(86_400.0 + 3600.0)
    assert world.receivers.causes == causes * 2
    assert [alarm.day for alarm in world.receivers.alarms] == ["2026-11-24"] * 4 + ["2026-11-25"] * 4


async def test_of_two_daemons_that_see_the_same_one_tells(autojump_clock):
    world = watched(in_zone("2026-11-24 08:59"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.daemon.run)
        nursery.start_soon(world.another().run)
        await trio.sleep(30)
        world.unfit = ("notifierd.staff: column name (text) is missing",)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert world.receivers.causes == ["failed"]
    assert world.receivers.signals == ["fail"]


async def side_by_side(seconds: float, *worlds: World) -> None:
    """Let the daemons of *worlds* serve for so long."""
    async with trio.open_nursery() as nursery:
        for world in worlds:
            nursery.start_soon(world.serve)
            await trio.sleep(1.0)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_of_daemons_that_share_a_day_only_the_leader_tells_its_start_its_end_and_that_it_is_slow(autojump_clock):
    """40 mails of 10 s, 5 at once: 80 s, and an alarm after 30, by which each of them has done a part."""
    world = watched(app=some_offices(40, staff=1), email=ScriptedSender(seconds=10.0), run_seconds=30.0)
    world.terms = SHARED
    await side_by_side(600.0, world, world.beside("b", SHARED))
    assert world.states() == {"2026-11-24": ("completed", None)}
    assert world.receivers.causes == ["slow"]
    assert world.receivers.signals == ["start", "success"]
    statuses = world.notifier.statuses()
    for words in ("; 2 daemons share the day", "; 2 daemons share the day, led by this one"):
        assert [status for status in statuses if status.endswith(words)] != []


@pytest.mark.parametrize(
    ("differs", "causes"), [("version=1 window=1 content=2", ["configs_differ"]), ("version=2 window=1 content=1", [])]
)
async def test_a_daemon_that_would_send_something_else_is_told_once_unless_it_is_of_another_version(
    differs, causes, autojump_clock
):
    world = watched(app=some_offices(40, staff=1), email=ScriptedSender(seconds=10.0))
    world.terms = SHARED
    other = world.beside("b", evolve(SHARED, config_hash=differs))
    await side_by_side(50.0, world, other, other.beside("c", other.terms))
    assert world.receivers.causes == causes
    for alarm in world.receivers.alarms:
        assert "because [content] of its configuration differ" in alarm.json["text"]
    assert len(world.ledger.taken) == 1, "it is one list: the others did not join"


# How it gets there ---------------------------------------------------------------------------------------------------


def in_turn(*answers: Answer) -> Callable[[Got], Answer]:
    """These answers to the webhook, then 200; and always 200 to a ping."""
    left = list(answers)
    return lambda got: left.pop(0) if left and not got.is_ping else 200


@pytest.mark.parametrize(
    ("answers", "tries"),
    [
        ((500, 200), [0, 2]),
        ((503, 429, 200), [0, 2, 10]),
        ((None, None, 200), [0, 12, 30]),
        ((500,) * 9, [0, 2, 10, 40, 160]),
        ((404, 200), [0]),
        ((302, 200), [0]),
        ((403, 200), [0]),
    ],
)
async def test_a_webhook_is_tried_again_as_long_as_that_may_help(answers, tries, autojump_clock):
    """After 2, 8, 30 and 120 s; a try that is not answered takes 10 s."""
    world = watched(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 20): ("completed", "")})
    world.receivers.answers = in_turn(*answers)
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(600)
    began = world.receivers.alarms[0].at
    assert [alarm.at - began for alarm in world.receivers.alarms] == pytest.approx(tries)
    assert len({alarm.body for alarm in world.receivers.alarms}) == 1
    told = [(line["event"], line.get("reason")) for line in lines if line.get("to") == "webhook"]
    reasons = {500: "server_error:500", 404: "rejected:404", 302: "rejected:302", 403: "blocked:403"}
    assert told == (
        [("watch_told", None)] if answers[len(tries) - 1] == 200 else [("watch_not_told", reasons[answers[0]])]
    )
    assert SECRET not in str(lines)


@pytest.mark.parametrize("wait", ["Tue, 24 Nov 2026 00:00:99999999999 GMT", "9" * 10_000, "1e999", "-5", "nan"])
async def test_an_odd_wait_ends_no_telling(wait, autojump_clock):
    world = watched(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 20): ("completed", "")})
    world.receivers.answers, world.receivers.wait = in_turn(503, 200), wait
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(600)
    assert [line["event"] for line in lines if line.get("to") == "webhook"] == ["watch_told"]
    assert len(world.receivers.alarms) == 2


async def test_receivers_that_never_answer_hold_up_no_run(autojump_clock):
    """The same run with and without them: it begins and ends at the same moments."""
    taken = []
    nobody_and_both: Sequence[dict[str, Any]] = ({"webhook_url": "", "ping_url": ""}, {})
    for urls in nobody_and_both:
        world = watched(in_zone("2026-11-24 08:50"), ahead(60), refusing(*range(9)), **urls)
        world.receivers.answers = lambda _: None
        began = trio.current_time()
        world.start -= timedelta(seconds=began)
        async with world.serving():
            await trio.sleep(3600)
        taken.append([(call.began - began, (call.ended or 0.0) - began) for call in world.email.calls])
    assert taken[0] == taken[1]
    assert world.receivers.causes == ["failures"] * 5


async def test_a_ping_does_not_wait_for_a_webhook_that_hangs(autojump_clock):
    world = watched(email=ScriptedSender(script=until(20.0, Blocked("blocked:401"))))
    world.receivers.answers = lambda got: 200 if got.is_ping else None
    async with world.serving():
        await trio.sleep_until(60.0)
    assert world.receivers.signals == ["start", "success"]


async def test_what_is_queued_at_a_stop_gets_five_seconds(autojump_clock):
    world = watched(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 20): ("completed", "")})
    world.receivers.answers = lambda _: None
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(3.0)
    assert trio.current_time() == pytest.approx(3.0 + DRAIN_SECONDS)
    assert [line["untold"] for line in lines if line["event"] == "watch_cut"] == [2]
    assert world.exit_code == 0


async def test_at_a_stop_what_failed_before_is_tried_at_once(autojump_clock):
    """Tried at 0, 2 and 10 s, and to be at 40: stopped at 15, it is told then."""
    world = watched(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 20): ("completed", "")})
    world.receivers.answers = in_turn(500, 500, 500)
    async with world.serving():
        await trio.sleep(15.0)
    assert [alarm.at for alarm in world.receivers.alarms] == pytest.approx([0, 2, 10, 15], abs=0.1)
    assert trio.current_time() == pytest.approx(15.0, abs=0.1)


async def test_a_second_sigint_cuts_it(autojump_clock):
    world = watched(in_zone("2026-11-24 12:01"))
    await world.ledger.record({date(2026, 11, 20): ("completed", "")})
    world.receivers.answers = lambda _: None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.serve)
        await trio.sleep(3.0)
        tell(signal.SIGINT)
        await trio.sleep(1.0)
        tell(signal.SIGINT)
    assert trio.current_time() == pytest.approx(4.0)


async def test_an_alarm_waits_for_a_database_that_is_away(autojump_clock):
    """The run is slow, as the database is away from 10 to 200 s; the ledger has to note the alarm first."""
    world = watched(
        app=some_offices(100, staff=1), email=ScriptedSender(seconds=2.0, honours_keys=True), run_seconds=15
    )
    world.ledger.down = world.away = between((12.0, 200.0))
    async with world.serving():
        await trio.sleep(900)
    (alarm,) = world.receivers.alarms
    assert alarm.cause == "slow"
    assert 200.0 <= alarm.at <= 265.0


async def test_at_a_stop_an_alarm_that_waits_for_the_database_is_given_up_at_once(autojump_clock):
    world = watched(in_zone("2026-11-24 08:59"))
    world.away = between((30.0, 1e6))
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(40.0)
            world.daemon.watch.tell(an_alarm("failed"))
            await trio.sleep(10.0)
    assert trio.current_time() == pytest.approx(50.0)
    assert [line["reason"] for line in lines if line["event"] == "watch_not_told"] == ["not_noted"]
    assert world.receivers.got == []


async def test_a_hundred_are_queued_and_no_more(autojump_clock):
    """150 at once, to a receiver that does not answer: one is under way, a hundred wait, and nobody waits for them."""
    world = watched(in_zone("2026-11-24 08:59"))
    world.receivers.answers = lambda _: None
    with capture_logs() as lines:
        async with world.serving(signal.SIGINT):
            await trio.sleep(10.0)
            world.daemon.watch.tell(an_alarm("first"))
            await trio.sleep(1.0)
            for number in range(149):
                world.daemon.watch.tell(an_alarm(f"cause {number}"))
            assert trio.current_time() == pytest.approx(11.0)
    assert sum(line["event"] == "watch_overflow" for line in lines) == 49
    assert [line["untold"] for line in lines if line["event"] == "watch_cut"] == [101]


async def test_what_the_ledger_cannot_note_is_told_once_by_this_process(autojump_clock):
    """Refused for two minutes, and looked at each second."""
    world = watched(email=ScriptedSender(script=until(120.0, Blocked("blocked:401"))))
    world.ledger.refuses_alarms = True
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(600)
    assert world.receivers.causes == ["blocked:scripted"]
    assert [line["reason"] for line in lines if line["event"] == "alarm_not_noted"] == ["database_refused:42P01"]


async def test_a_bug_in_looking_at_a_run_does_not_end_it(autojump_clock):
    """From 5 s on, at each look and at the run's end."""
    world = watched(app=ahead(30), email=ScriptedSender(seconds=10.0))

    def bug() -> Settings:
        raise KeyError(SECRET)

    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(5)
            world.daemon.watch.settings = bug
            await trio.sleep(600)
    assert world.states() == {"2026-11-24": ("completed", None)}
    assert world.exit_code == 0
    assert {line["error"] for line in lines if line["event"] == "watch_failed"} == {"KeyError"}
    assert SECRET not in str(lines)


@pytest.mark.parametrize(("urls", "alarms", "pings"), [({"webhook_url": ""}, 0, 2), ({"ping_url": ""}, 1, 0)])
async def test_who_is_not_named_hears_nothing(urls, alarms, pings, autojump_clock):
    world = watched(email=refusing(0), **urls)
    async with world.serving():
        await trio.sleep(60)
    assert (len(world.receivers.alarms), len(world.receivers.pings)) == (alarms, pings)


async def test_a_reload_names_others_from_then_on(autojump_clock):
    world = watched(in_zone("2026-11-24 08:59"), ping_url=PING.replace(SECRET, "old"))
    async with world.serving():
        await trio.sleep(10)
        world.settings = evolve(world.settings, watch=WatchSettings(ping_url=PING))
        tell(signal.SIGHUP)
        await trio.sleep(600)
    assert world.receivers.signals == ["start", "success"]


async def test_what_goes_wrong_in_telling_stays_there_and_is_not_quoted(autojump_clock):
    """Twice it is no answer at all but a bug: what was posted is posted again, as after any answer that is lost."""
    world = watched(email=refusing(0, 1))
    bugs = [KeyError(SECRET), ValueError(SECRET)]

    def answer(_: Got) -> Answer:
        if bugs:
            raise bugs.pop()
        return 200

    world.receivers.answers = answer
    with capture_logs() as lines:
        async with world.serving():
            await trio.sleep(600)
    assert world.states() == {"2026-11-24": ("completed", None)}
    assert [line["error"] for line in lines if line["event"] == "answer_unreadable"] == ["ValueError", "KeyError"]
    assert world.receivers.signals == ["start", "start", "fail"]
    assert world.receivers.causes == ["failures", "failures"]
    assert SECRET not in str(lines)
