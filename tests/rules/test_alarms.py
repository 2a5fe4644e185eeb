"""What gives an alarm, and what it says in English: pure. tests/messages/test_alarm_texts.py compares the languages."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest

from notifierd.config.settings import WatchSettings
from notifierd.messages.alarms import worded
from notifierd.model.counts import Backlog, ChannelCounts, DayCounts, Failure, Untold
from notifierd.model.delivery import Channel
from notifierd.model.message import Alarm
from notifierd.rules.alarms import (
    Running,
    at_end,
    bounces,
    complaint,
    crashed,
    enforcement,
    failed,
    missed,
    never_resumed,
    no_feedback,
    ping_address,
    summary,
    untold_later,
    while_running,
)
from tests.support.samples import DAY, an_id

DONE = Backlog(0, due_now=False, next_in=None)
NONE = ChannelCounts()
QUIET = WatchSettings(run_seconds=0.0)


def counts(email: ChannelCounts, push: ChannelCounts = NONE, **more: Any) -> DayCounts:
    return DayCounts(10, 0, email, push, DONE, **more)


def said(alarm: Alarm) -> str:
    return worded(alarm, "en", host="host.example.jp", page="").text


def of(**states: int) -> ChannelCounts:
    return ChannelCounts(planned=sum(states.values()), **states)


# While it goes on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "watch", "causes"),
    [
        (Running(DAY, 0.0), WatchSettings(), []),
        (Running(DAY, 600.0), WatchSettings(), []),
        (Running(DAY, 600.1), WatchSettings(), ["slow"]),
        (Running(DAY, 1e6), QUIET, []),
        (Running(DAY, 1.0, blocked={"resend": {"resend": "blocked:401"}}), QUIET, ["blocked:resend"]),
        (Running(DAY, 1.0, out={"resend": {"resend": "timeout"}}), QUIET, ["out:resend"]),
        (
            Running(
                DAY,
                700.0,
                blocked={"resend": {"resend": "blocked:401"}, "ses": {"ses": "blocked:403"}},
                out={"webpush": {"https://fcm.googleapis.com": "timeout"}},
            ),
            WatchSettings(),
            ["slow", "blocked:resend", "blocked:ses", "out:webpush"],
        ),
    ],
)
def test_the_causes_of_a_run_that_goes_on(run: Running, watch: WatchSettings, causes: list[str]):
    alarms = list(while_running(run, watch))
    assert [alarm.cause for alarm in alarms] == causes
    assert not any(alarm.fails for alarm in alarms)


def test_a_long_run_says_how_long_and_how_far():
    (alarm,) = while_running(Running(DAY, 1234.5, done=7, offices=1500), WatchSettings())
    assert said(alarm) == (
        "The run of 2026-11-24 has taken 1,234 s so far, longer than watch.run_seconds (600): "
        "7 of 1,500 offices done. It continues.\n`notifierd status` and the page show what delays it."
    )


def test_a_sender_with_several_destinations_names_the_first_five():
    destinations = {f"https://{number}.example.net": "blocked:403" for number in range(7)}
    (alarm,) = while_running(Running(DAY, 1.0, blocked={"webpush": destinations}), QUIET)
    assert said(alarm).startswith("webpush rejects our credentials or account (https://0.example.net: blocked:403, ")
    assert "https://4.example.net: blocked:403 and 2 more). Its" in said(alarm)


def test_a_proxy_that_rejects_our_credentials_is_not_taken_for_the_provider():
    (alarm,) = while_running(Running(DAY, 1.0, blocked={"resend": {"resend": "proxy_auth_required"}}), QUIET)
    assert alarm.cause == "blocked:resend"
    assert said(alarm).startswith("The proxy rejects our credentials for calls of resend (proxy_auth_required). Its")
    assert said(alarm).endswith("\nCheck the user and the password in network.proxy.")


# At its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "push", "ratio", "rings"),
    [
        (of(sent=95, failed=5), of(), 0.05, True),
        (of(sent=96, failed=4), of(), 0.05, False),
        (of(sent=95, failed=4), of(sent=1), 0.05, False),
        (of(sent=95), of(failed=5), 0.05, True),
        (of(sent=95, unknown=2), of(expired=3), 0.05, True),
        (of(sent=90), of(gone=10), 0.05, False),
        (of(), of(), 0.0, False),
        (of(sent=5), of(), 0.0, False),
        (of(sent=99_999, failed=1), of(), 0.0, True),
        (of(failed=3), of(), 1.0, True),
        (of(sent=1, failed=99), of(), 1.0, False),
    ],
)
def test_failures_ring_from_their_ratio_on(email: ChannelCounts, push: ChannelCounts, ratio: float, rings: bool):
    """Failed, unknown and expired ones of both channels, out of all; a device that is gone is none."""
    alarms = list(at_end(DAY, counts(email, push), WatchSettings(failure_ratio=ratio)))
    assert [alarm.cause for alarm in alarms] == ["failures"] * rings


def test_failures_name_their_reasons_and_offices_the_most_frequent_first():
    one, two = an_id("one"), an_id("two")
    failures = (
        Failure(one, Channel.EMAIL, "rejected:422"),
        *[Failure(two, Channel.EMAIL, "office_error:KeyError")] * 2,
        Failure(two, Channel.PUSH, "rejected:413"),
    )
    found = counts(of(sent=6, failed=3), of(failed=1), failures=failures)
    (alarm,) = at_end(DAY, found, WatchSettings())
    assert alarm.offices == (two, one)
    assert said(alarm).startswith(
        "4 of 10 deliveries of 2026-11-24 reached nobody (40.0%; watch.failure_ratio is 0.05): "
        "2 email office_error:KeyError, 1 email rejected:422, 1 push rejected:413.\noffice_error: "
    )


def test_failures_beyond_those_that_are_listed_are_not_counted_by_reason():
    failures = (Failure(an_id("one"), Channel.EMAIL, "rejected:422"),) * 1000
    (alarm,) = at_end(DAY, counts(of(failed=1500), failures=failures, failures_omitted=500), WatchSettings())
    assert "1,500 of 1,500 deliveries" in said(alarm)
    assert "of the first 1,000, 1,000 email rejected:422" in said(alarm)


@pytest.mark.parametrize(
    ("untold", "offices"),
    [
        ((), None),
        ((Untold(an_id("a"), 3, 0),), None),
        ((Untold(an_id("a"), 3, 2), Untold(an_id("b"), 1, 1), Untold(an_id("c"), 9, 0)), (an_id("a"), an_id("b"))),
    ],
)
def test_overdue_alerts_that_reached_nobody_ring(untold: tuple[Untold, ...], offices: tuple[UUID, ...] | None):
    alarms = list(at_end(DAY, counts(of(sent=1), untold=untold), WatchSettings()))
    assert [alarm.offices for alarm in alarms] == ([] if offices is None else [offices])
    if offices:
        assert said(alarms[0]).startswith("3 overdue alerts of 2026-11-24 reached nobody, in 2 offices: ")


# Runs that were none -------------------------------------------------------------------------------------------------


def test_missed_windows_are_one_alarm_of_the_last_with_ten_named():
    days = {DAY - timedelta(days=number): "not_running" for number in range(12)}
    alarm = missed({**days, DAY: "slept_through"})
    assert (alarm.day, alarm.cause, alarm.fails) == (DAY, "missed", True)
    assert said(alarm).startswith(
        "No run on 2026-11-24 (the machine slept, or its clock was set), 2026-11-23 (no daemon"
    )
    assert "2026-11-15 (no daemon was running) and 2 more. Nobody was notified" in said(alarm)


def test_a_reason_that_has_no_words_is_told_as_it_is():
    assert "2026-11-24 (database_unavailable:08006)." in said(missed({DAY: "database_unavailable:08006"}))


def test_failed_and_never_resumed_are_one_cause():
    alarms = [
        crashed(DAY, "KeyError"),
        failed(DAY, "a view is missing"),
        never_resumed(DAY, "never_resumed (signal)", over=True),
        never_resumed(DAY, "signal", over=False),
    ]
    assert {(alarm.day, alarm.cause, alarm.fails) for alarm in alarms} == {(DAY, "failed", True)}
    assert "failed: it crashed (KeyError).\n" in said(alarms[0])
    assert said(alarms[1]).startswith("The run of 2026-11-24 failed: a view is missing.\n")
    assert "(never_resumed (signal)): its open deliveries expired." in said(alarms[2])
    assert "(signal). The next run reports what is still due.\n`notifierd once` sends" in said(alarms[3])


# The dead man's switch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "signal", "address"),
    [
        ("https://hc-ping.com/5bf66975", "", "https://hc-ping.com/5bf66975?"),
        ("https://hc-ping.com/5bf66975", "start", "https://hc-ping.com/5bf66975/start?"),
        ("https://hc-ping.com/5bf66975/", "fail", "https://hc-ping.com/5bf66975/fail?"),
        ("https://hc-ping.com/key/slug?create=1", "start", "https://hc-ping.com/key/slug/start?create=1&"),
        ("https://hc-ping.com/key/slug?create=1#x", "", "https://hc-ping.com/key/slug?create=1&"),
        ("http://[::1]:8000/ping/x", "fail", "http://[::1]:8000/ping/x/fail?"),
    ],
)
def test_a_signal_goes_into_the_path_and_the_days_id_into_the_query(url: str, signal: str, address: str):
    found = ping_address(url, signal, DAY)
    assert found.startswith(f"{address}rid=")
    rid = found.rpartition("rid=")[2]
    assert str(UUID(rid)) == rid


def test_an_id_is_the_days_own():
    days = [DAY + timedelta(days=number) for number in range(400)]
    assert len({ping_address("https://hc-ping.com/x", "", day) for day in days}) == 400
    assert (
        ping_address("https://a/x", "", DAY).rpartition("=")[2]
        == ping_address("https://b/y", "", DAY).rpartition("=")[2]
    )


def test_a_summary_has_the_days_counts_and_nobody():
    found = counts(of(sent=1200, failed=3), of(sent=2), untold=(Untold(an_id("a"), 3, 2),))
    assert summary(date(2026, 11, 24), "completed", None, found).splitlines() == [
        "2026-11-24 completed",
        "offices: 10 total, 0 failed",
        "email: 1,203 planned, 1,200 sent, 3 failed, 0 gone, 0 unknown, 0 expired, 0 open",
        "push: 2 planned, 2 sent, 0 failed, 0 gone, 0 unknown, 0 expired, 0 open",
        "untold: 3 alerts, 2 overdue, 1 offices",
    ]
    assert summary(DAY, "skipped", "closed_dates", None) == "2026-11-24 skipped (closed_dates)"


# What became of the mails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mails", "bounced", "ratio", "rings"),
    [
        (199, 199, 0.02, False),
        (200, 3, 0.02, False),
        (200, 4, 0.02, True),
        (5000, 100, 0.02, True),
        (5000, 99, 0.02, False),
        (5000, 5000, 0.0, False),
        (200, 0, 0.02, False),
    ],
)
def test_a_share_of_at_least_200_mails_that_bounced_is_an_alarm(mails: int, bounced: int, ratio: float, *, rings: bool):
    found = list(bounces(DAY, mails, bounced, WatchSettings(bounce_ratio=ratio)))
    assert [alarm.cause for alarm in found] == ["bounces"] * rings


def test_offices_that_nobody_was_told_of_after_all_are_named_the_most_overdue_first():
    quiet, worst = Untold(an_id("quiet"), 3, 0), Untold(an_id("worst"), 2, 2)
    alarm = untold_later(DAY, (quiet, worst))
    assert (alarm.cause, alarm.offices) == ("untold_later", (worst.office_id, quiet.office_id))
    assert "5 alerts (2 overdue) reached nobody, in 2 offices" in said(alarm)
    assert "Contact this office yourself" in said(untold_later(DAY, (quiet,)))


def test_each_provider_has_alarms_of_its_own():
    assert no_feedback(DAY, "ses", "timeout").cause == "feedback:ses"
    assert enforcement(DAY, "ses", "probation").cause == "enforcement:ses"
    assert said(complaint(DAY, 1)).startswith("1 recipient reported a mail of 2026-11-24 as spam.")
