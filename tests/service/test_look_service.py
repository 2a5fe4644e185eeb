"""When the daemon asks providers what became of the mails, and what follows: in virtual time."""

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from math import inf
from typing import Any
from uuid import UUID

import trio
from attrs import evolve
from structlog.testing import capture_logs

from notifierd.config.providers import PostmarkSettings, ResendSettings
from notifierd.config.settings import ContentSettings, EmailSettings, Settings, WatchSettings
from notifierd.model.delivery import Channel, State, delivery_id
from notifierd.model.feedback import MailStatus
from notifierd.run.day import run_day
from notifierd.store.feedback import LOOK_LEASE_SECONDS
from tests.support.daemons import World, in_zone
from tests.support.memory import Application
from tests.support.receivers import SECRET
from tests.support.samples import an_id, some_offices
from tests.support.scripted_senders import ScriptedSender, a_run, between

TUESDAY, WEDNESDAY = date(2026, 11, 24), date(2026, 11, 25)
EVE = in_zone("2026-11-24 08:59")
ASKED = EmailSettings(resend=ResendSettings(feedback_key="re_reads"))
TOLD = WatchSettings(webhook_url=f"https://hooks.example.jp/hook/{SECRET}")


def asking(app: Application | None = None, start: datetime = EVE, every: float = 30.0, **more: Any) -> World:
    """A daemon that is to ask Resend, and that sleeps slices of *every* so many seconds."""
    settings = Settings(content=ContentSettings(language="en"), email=ASKED, watch=TOLD)
    return World(start, settings, app or some_offices(1), slice=every, **more)


async def test_looks_follow_the_run_and_come_before_the_next_window(autojump_clock):
    """The run takes 2 s. Looks come up to half a minute late, since the daemon wakes so often."""
    world = asking()
    async with world.serving():
        await world.until(in_zone("2026-11-25 08:59"))
    hours = [f"{day} {hour:02}:00" for day, first, last in ((24, 10, 24), (25, 0, 9)) for hour in range(first, last)]
    assert world.provider.at() == ["24 09:05", "24 09:20", *hours, "25 08:40"]
    states = await world.feedback.looks()
    assert [(state.provider, state.result) for state in states] == [("resend", "")]


async def test_the_first_look_asks_three_days_back_and_the_next_overlaps_with_the_last(autojump_clock):
    world = asking()
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:30"))
    (first, one), (_, two) = world.provider.looks
    assert (one.since, one.until) == (first - timedelta(days=3), first)
    assert two.since == first - timedelta(minutes=35)


async def test_after_an_outage_a_look_asks_from_the_last_complete_one_on(autojump_clock):
    """Complete at 09:05 and 09:20; then out until 13:30."""
    world = asking()
    world.provider.fails = lambda: "timeout" if between((30 * 60.0, 4.5 * 3600))() else ""
    async with world.serving():
        await world.until(in_zone("2026-11-24 14:30"))
    (complete, _), (last, look) = world.provider.looks[1], world.provider.looks[-1]
    assert (len(world.provider.looks), len(world.provider.done)) == (7, 3)
    assert look.since == complete - timedelta(minutes=35)
    (state,) = await world.feedback.looks()
    assert (state.complete_until, state.result) == (last, "")


async def test_who_is_not_set_up_or_has_sent_nothing_is_not_asked(autojump_clock):
    """No key at all, then a key of a provider that is neither used nor has sent any of the mails."""
    for email in (EmailSettings(), EmailSettings(postmark=PostmarkSettings(feedback_key="pm_reads"))):
        world = asking()
        world.settings = evolve(world.settings, email=email)
        async with world.serving():
            await trio.sleep(4 * 3600)
        assert world.provider.looks == []
        assert await world.feedback.looks() == ()


# A look gives way ----------------------------------------------------------------------------------------------------


def slow(app: Application | None = None) -> World:
    """A provider that takes ten minutes for the page with two mails."""
    world = asking(app)
    world.provider.seconds = 600.0
    return world


async def test_a_run_in_another_process_ends_a_look_and_none_begins_during_it(autojump_clock):
    """A look from 09:05:30 on; `once` holds the day from 09:08 to 09:30, and the next look is 5 minutes after it."""
    world = slow()
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:08"))
        assert len(world.provider.looks) == 1
        await world.ledger.take_lease(TUESDAY, "once")
        for _ in range(11 * 60):
            await trio.sleep(2)
            assert await world.ledger.renew_lease(TUESDAY, "once")
        assert (len(world.provider.looks), world.provider.done) == (1, [])
        assert world.feedback.it.holder is None
        await world.ledger.finish(TUESDAY, "once", "completed", None)
        await world.until(in_zone("2026-11-24 09:49"))
    assert world.provider.at() == ["24 09:05", "24 09:35"]
    assert world.provider.done
    assert await world.feedback.looks()


async def test_a_window_that_opens_ends_a_look(autojump_clock):
    """The last look before it takes too long."""
    world = asking()
    world.provider.seconds = 1500.0
    async with world.serving():
        await world.until(in_zone("2026-11-25 08:59:59"))
        assert world.feedback.it.holder
        done = len(world.provider.done)
        await world.until(in_zone("2026-11-25 09:00:30"))
        assert not world.feedback.it.holder
        assert world.states()["2026-11-25"] == ("completed", None)
        assert len(world.provider.done) == done


async def test_a_stop_ends_a_look_and_the_next_start_makes_up_for_it(autojump_clock):
    world = slow()
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:07"))
    assert world.exit_code == 0
    assert trio.current_time() < 9 * 60, "it did not wait for the look"
    assert (world.feedback.it.holder, await world.feedback.looks()) == (None, ())
    world.daemon = world.another()
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:19"))
    assert world.provider.at() == ["24 09:05", "24 09:07"]
    assert len(world.provider.done) == 1


async def test_while_another_process_asks_this_one_does_not(autojump_clock):
    world = asking()
    world.feedback.it.holder, world.feedback.it.lease_until = "another", inf
    async with world.serving():
        await world.until(in_zone("2026-11-24 12:30"))
    assert world.provider.looks == []


async def test_what_another_process_has_asked_is_not_asked_again(autojump_clock):
    """It looked at 09:05 and at 09:20."""
    world = asking()
    async with world.serving():
        for moment in ("2026-11-24 09:05:10", "2026-11-24 09:20:10"):
            await world.until(in_zone(moment))
            await world.feedback.note_look("resend", world.now(), "")
        await world.until(in_zone("2026-11-24 10:30"))
    assert world.provider.at() == ["24 10:00"]


async def test_a_lease_that_is_lost_ends_the_look(autojump_clock):
    """As after a suspension: the process finds out at the next renewal."""
    world = slow()
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:07"))
        world.feedback.it.holder = "another"
        await trio.sleep(LOOK_LEASE_SECONDS)
        assert world.provider.done == []
        await trio.sleep(400)
        assert world.provider.done == []


# Trouble -------------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_waited_for_and_said_once(autojump_clock):
    """Away from 09:03 to 09:33."""
    world = asking(away=between((4 * 60.0, 34 * 60.0)))
    with capture_logs() as lines:
        async with world.serving():
            await world.until(in_zone("2026-11-24 09:50"))
    (line,) = [line for line in lines if line["event"] == "not_looked"]
    assert line["reason"] == "database_unavailable:ConnectionRefusedError"
    (at,) = world.provider.at()
    assert "24 09:33" <= at <= "24 09:39"


async def test_a_bug_in_a_reader_is_that_providers_result(autojump_clock):
    world = asking()
    world.provider.raises = lambda: KeyError("somebody@example.jp")
    with capture_logs() as lines:
        async with world.serving():
            await world.until(in_zone("2026-11-24 09:30"))
    (state,) = await world.feedback.looks()
    assert (state.complete_until, state.result) == (None, "unreadable:KeyError")
    assert [line["event"] for line in lines].count("look_failed") == 2
    assert [line["event"] for line in lines].count("look_incomplete") == 1
    assert "somebody@example.jp" not in str(lines)


# A day with all of it ------------------------------------------------------------------------------------------------


def fates(day: date) -> Callable[[UUID], MailStatus]:
    """Of 1,250 offices with four people each, on *day*: all mails of 25 offices bounce, which are 2 %; one mail of each
    of 50 offices is suppressed, which are 1 %; two are complained of."""

    def mails(offices: range, members: range) -> set[UUID]:
        return {
            delivery_id(day, an_id(f"office {office}"), an_id(f"staff-{office}-{member}"), Channel.EMAIL)
            for office in offices
            for member in members
        }

    bounced = mails(range(25), range(4))
    suppressed, complained = mails(range(100, 150), range(1)), mails(range(200, 202), range(1, 2))

    def fate(key: UUID) -> MailStatus:
        if key in bounced:
            return MailStatus.BOUNCED
        if key in suppressed:
            return MailStatus.SUPPRESSED
        return MailStatus.COMPLAINED if key in complained else MailStatus.DELIVERED

    return fate


async def test_a_day_of_5000_mails_with_all_of_it(autojump_clock):
    """On Wednesday the provider is out from 09:30 of Tuesday on for a day, and two people's mails are held back."""
    world = asking(some_offices(1250, staff=4), every=60.0, email=ScriptedSender(max_batch=100, seconds=0.1))
    world.provider.tells = fates(TUESDAY)
    world.provider.fails = lambda: "timeout" if between((31 * 60.0, 24.6 * 3600))() else ""
    async with world.serving():
        await world.until(in_zone("2026-11-24 09:59"))
        assert Counter(world.feedback.it.statuses.values()) == {
            MailStatus.BOUNCED: 100,
            MailStatus.SUPPRESSED: 50,
            MailStatus.COMPLAINED: 2,
            MailStatus.DELIVERED: 4848,
        }
        assert world.receivers.causes == ["bounces", "complaint"], "the day is reckoned again after an hour"
        await world.until(in_zone("2026-11-25 12:00"))
    assert [(alarm.day, alarm.cause) for alarm in world.receivers.alarms] == [
        ("2026-11-24", "bounces"),
        ("2026-11-24", "complaint"),
        ("2026-11-24", "untold_later"),
        ("2026-11-25", "feedback:resend"),
    ]
    bounces, complaint, untold, silent = (alarm.json["text"] for alarm in world.receivers.alarms)
    assert "100 of 4,950 mails of the last seven days bounced (2.0%" in bounces
    assert "2 recipients reported a mail of 2026-11-24 as spam" in complaint
    assert "in 25 offices" in untold
    assert "resend could not be asked completely what became of the mails (timeout)" in silent
    assert world.ledger.states() == {State.SENT: 9998, State.FAILED: 2}
    assert world.ledger.reasons()[State.FAILED, "held:complained"] == 2
    assert {(hold.since, hold.until) for hold in world.ledger.holds} == {(WEDNESDAY, date(2026, 12, 24))}


async def test_alarms_are_raised_once_whatever_process_looks(autojump_clock):
    world = asking(some_offices(2))
    world.provider.tells = lambda _: MailStatus.REFUSED
    world.provider.enforcement = "probation"
    for moment in ("12:30", "14:30"):
        async with world.serving():
            await world.until(in_zone(f"2026-11-24 {moment}"))
        world.daemon = world.another()
    assert len(world.feedback.it.statuses) == 4
    assert sorted(world.receivers.causes) == ["enforcement:resend", "untold_later"]


async def test_a_forced_run_is_asked_about_too(autojump_clock):
    """At 15:00, long after the window, on another day; the daemon notices within five minutes."""
    world = asking(start=in_zone("2026-11-24 12:30"))
    async with world.serving():
        await world.until(in_zone("2026-11-24 15:00"))
        await run_day(date(2026, 11, 23), a_run(world.ledger, world.email, holder="once"))
        await world.until(in_zone("2026-11-24 15:30"))
    assert world.provider.at() == ["24 15:05", "24 15:20"]
