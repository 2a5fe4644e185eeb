"""Print results for people: tables and colours on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, TypeVar
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape

from notifierd.commands.display.columns import Column, print_table
from notifierd.commands.display.feedback import asked_until, came_back, held_since
from notifierd.commands.display.members import print_members
from notifierd.messages.text import clean, visible
from notifierd.model.counts import ChannelCounts, counted
from notifierd.model.delivery import Channel
from notifierd.model.feedback import DayFeedback
from notifierd.model.office import Alert
from notifierd.rules.due import ChannelDecision, Decision
from notifierd.store.history import Day, Open

if TYPE_CHECKING:
    from notifierd.commands.finding import Finding
    from notifierd.commands.plan import Explanation, Plan, PlannedOffice
    from notifierd.commands.status import PastDay, StatusReport

T = TypeVar("T")

MOST_OFFICES = 25
"""The most offices that a terminal shows; elsewhere, all are shown."""

STYLES = {"completed": "green", "running": "cyan", "skipped": "dim", "missed": "bold red", "interrupted": "red"}
MARKS = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "bad": "[red]bad [/]", "away": "[red]away[/]"}


class _Out(Console):
    """Leaves a closed pipe to `exit_codes`; rich itself would exit 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def out() -> Console:
    """Return the console for results, which does not wrap lines unless it is a terminal."""
    terminal = sys.stdout.isatty()
    return _Out(highlight=False, emoji=False, soft_wrap=not terminal, width=None if terminal else 1000)


def print_findings(findings: Sequence["Finding"], console: Console) -> None:
    """Print one line for each check."""
    for finding in findings:
        console.print(f"{MARKS[finding.level]} [bold]{plain(finding.subject)}[/]: {plain(finding.text)}")


def plain(text: str) -> str:
    """Return a text from outside as markup that shows it literally."""
    return escape(visible(text))


# Days ----------------------------------------------------------------------------------------------------------------


def print_history(days: Sequence["PastDay"], zone: ZoneInfo, console: Console) -> None:
    """Print one line for each day."""
    if not days:
        console.print("no run yet")
        return
    print_table(
        console,
        (
            Column("day"),
            Column(prose=True),
            Column("offices", right=True, leave_out=3),
            Column("mails", right=True),
            Column("pushes", right=True),
            Column("lost", right=True),
            Column("untold", right=True),
            Column("overdue", right=True, leave_out=4),
            Column("came back", right=True, leave_out=5),
            Column("began", leave_out=2),
            Column("took", leave_out=1),
        ),
        [
            (
                f"{past.day.day:%Y-%m-%d %a}",
                _state(past.day),
                *_numbers(past.day),
                _came_back(past.feedback),
                *_times(past.day, zone),
            )
            for past in days
        ],
    )


def _state(day: Day) -> str:
    return f"[{STYLES.get(day.state, '')}]{plain(day.state)}[/]" + (f" ({plain(day.reason)})" if day.reason else "")


def _numbers(day: Day) -> tuple[str, ...]:
    """Return a day's numbers; empty ones for a day without a run."""
    if day.state in {"skipped", "missed"}:
        return ("",) * 6
    lost, untold = day.email.lost + day.push.lost, day.untold
    return (
        f"{day.offices:,}",
        _sent(day.email),
        _sent(day.push),
        _bad(lost),
        _bad(untold.alerts) if untold else "",
        _bad(untold.overdue) if untold else "",
    )


def _came_back(feedback: DayFeedback | None) -> str:
    if feedback is None:
        return ""
    return "not known" if feedback.came_back is None else _bad(feedback.came_back)


def _sent(counts: ChannelCounts) -> str:
    return f"{counts.sent:,}" if counts.sent == counts.planned else f"{counts.sent:,} of {counts.planned:,}"


def _bad(number: int) -> str:
    return f"[red]{number:,}[/]" if number else "0"


def _times(day: Day, zone: ZoneInfo) -> tuple[str, str]:
    if day.started_at is None:
        return "", ""
    took = _span(day.finished_at - day.started_at) if day.finished_at else ""
    return f"{day.started_at.astimezone(zone):%H:%M %Z}", took


def _span(length: timedelta) -> str:
    """Return a duration in words: 2.4 s, 12 min, 3 h 05 min, 2 days."""
    seconds = length.total_seconds()
    minutes = round(seconds / 60)
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    if minutes < 120:  # noqa: PLR2004
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


# Status -------------------------------------------------------------------------------------------------------------


def print_status(report: "StatusReport", zone: ZoneInfo, console: Console) -> None:
    """Print the last run, the open deliveries, the holder of the lease, and the next window."""
    if report.database is None:
        _print_last(report, zone, console)
    window = report.window
    opens, ends = (f"{moment.astimezone(zone):%a %d %b %H:%M}" for moment in (window.opens, window.ends))
    if report.is_open:
        _line(console, "window", f"[cyan]open[/] until {ends} {zone.key} (for {_span(window.ends - report.now)})")
    else:
        closed = f"; today is closed: {plain(report.closed)}" if report.closed else ""
        wait = _span(window.opens - report.now)
        _line(console, "next window", f"{opens} to {ends} {zone.key} (in {wait}){closed}")


def _print_last(report: "StatusReport", zone: ZoneInfo, console: Console) -> None:
    for missed in report.missed:
        _line(console, "missed", f"[bold red]{missed.day.day}[/] ({plain(missed.day.reason or '')})")
    if report.last is None:
        _line(console, "last run", "none yet")
        return
    day, feedback = report.last.day, report.last.feedback
    reason = f" ({plain(day.reason)})" if day.reason else ""
    began, took = _times(day, zone)
    when = f", began {began}" + f", took {took}" * bool(took)
    _line(console, "last run", f"{day.day}: [{STYLES.get(day.state, '')}]{plain(day.state)}[/]{reason}{when}")
    _line(
        console, "", counted(day.offices, "office") + f", {_bad(day.offices_failed)} failed" * bool(day.offices_failed)
    )
    for channel, counts in ((Channel.EMAIL, day.email), (Channel.PUSH, day.push)):
        _line(console, "", _counted(counts, channel))
    if day.untold and day.untold.alerts:
        untold = day.untold
        alerts, offices = counted(untold.alerts, "alert"), counted(untold.offices, "office")
        words = f"{alerts} reached nobody[/], {untold.overdue:,} overdue, in {offices}"
        _line(console, "", f"[bold red]{words}")
    if feedback:
        _line(console, "came back", came_back(feedback))
    _line(console, "open", "; ".join(_left(each, zone) for each in report.open) or "nothing")
    for look in report.looks:
        _line(console, "feedback", f"{plain(look.provider)}: {asked_until(look, zone)}")
    if report.held:
        _line(
            console, "held back", f"[yellow]mails to {counted(report.held, 'staff member')}[/] (`notifierd feedback`)"
        )
    _line(console, "lease", f"held by {plain(day.holder)}" if day.holder else "free")
    print_members(report.members, report.now, console)


def _counted(counts: ChannelCounts, channel: Channel) -> str:
    others = ("failed", "gone", "unknown", "expired", "open")
    numbers = {word: getattr(counts, word) for word in others}
    rest = "".join(f", [red]{number:,} {word}[/]" for word, number in numbers.items() if number)
    return f"{counts.sent:,} of {channel.counted(counts.planned)} sent{rest}"


def _left(each: Open, zone: ZoneInfo) -> str:
    sending = f", {each.sending:,} being sent" if each.sending else ""
    turn = f", {each.waiting:,} not before {each.next_turn.astimezone(zone):%H:%M:%S %Z}" if each.next_turn else ""
    return f"[yellow]{each.channel.counted(each.planned + each.sending)}[/] of {each.day}{sending}{turn}"


# The plan ------------------------------------------------------------------------------------------------------------


def print_plan(plan: "Plan", console: Console) -> None:
    """Print who would get how many messages."""
    if plan.closed:
        console.print(
            f"[yellow]{plan.day} is closed[/] ({plain(plan.closed)}): only `notifierd once --force` would send this"
        )
    found = plan.as_json()
    settled = f"; sent or settled before: {plan.settled:,}" if plan.settled else ""
    console.print(
        f"[bold]{plan.day}[/]: {Channel.EMAIL.counted(found['email'])} and {Channel.PUSH.counted(found['push'])} to "
        f"the staff of {counted(len(plan.offices), 'office')}{settled}"
    )
    if plan.offices:
        _print_offices(plan.offices, console)
    shown = _shown(plan.offices, console)
    if len(shown) < len(plan.offices):
        more = len(plan.offices) - len(shown)
        console.print(f"... and {counted(more, 'more office')}: pipe this into a pager, or use --json")
    if plan.expiring:
        console.print(
            f"{counted(len(plan.expiring), 'planned delivery', 'planned deliveries')} would expire: no longer due"
        )
    if plan.held:
        held = Channel.EMAIL.counted(plan.held)
        console.print(f"[yellow]held back[/] after what the provider reported of earlier mails: {held}")
    if plan.untold:
        alerts, overdue = (sum(getattr(office, name) for office in plan.untold) for name in ("alerts", "overdue"))
        console.print(
            f"[bold red]{counted(alerts, 'alert')} would reach nobody[/], {overdue:,} of them overdue: "
            f"no staff of {counted(len(plan.untold), 'office')} can be notified"
        )
        for untold in _shown(plan.untold, console):
            console.print(f"  {untold.office_id}  {counted(untold.alerts, 'alert')}, {untold.overdue:,} overdue")
    for each in plan.unreadable:
        console.print(
            f"[bold red]office {each.office_id} cannot be read[/] ({each.reason}): nobody there would be told"
        )
    for over in plan.excess:
        console.print(f"[bold red]over the limit: {over.words}[/], the most urgent of them:")
        for office in over.first:
            console.print(f"  {office}")


def _print_offices(offices: Sequence["PlannedOffice"], console: Console) -> None:
    print_table(
        console,
        (
            Column("days", right=True),
            Column("staff", right=True, leave_out=1),
            Column("mails", right=True),
            Column("pushes", right=True),
            Column("alerts", right=True, leave_out=2),
            Column("overdue", right=True),
            Column("office", leave_out=3),
            Column(prose=True),
        ),
        [
            (
                _nearest(office.nearest),
                f"{len(office.staff):,}",
                f"{office.mails:,}",
                f"{office.pushes:,}",
                f"{office.told.alerts:,}",
                _bad(office.told.overdue),
                str(office.office_id),
                plain(clean(office.name)),
            )
            for office in _shown(offices, console)
        ],
    )


def _shown(offices: Sequence[T], console: Console) -> Sequence[T]:
    return offices[:MOST_OFFICES] if console.is_terminal else offices


def _nearest(left: int | None) -> str:
    """Return the days to the nearest deadline; empty where only assessments are missing."""
    return "" if left is None else f"{left}" if left > 0 else f"[red]{left}[/]"


# Why -----------------------------------------------------------------------------------------------------------------

TARGETS: Mapping[str, str] = {
    "due": "is notified",
    "no_device": "no device is subscribed",
    "no_address": "no mail address",
    "email_off": "has switched mails off",
    "push_off": "has not switched pushes on",
    "push_disabled": "pushes are off for all (push.enabled, safety.redirect_to)",
    "office_gone": "the office is not in the view notifierd.offices",
    "office_left_out": "the office is left out by safety.only_offices",
    "nothing_due": "none of the office's alerts is due for them",
    "not_today": "nothing that is due for them is a reason to write on this day",
    "no_alerts": "the office has no alerts",
    "too_many_devices": "not among the newest devices that push.devices_per_person allows",
    "told_on_another_device": "was notified on another device already",
    "held:complained": "reported a mail as spam, so mails are held back (`notifierd lift` ends it)",
    "held:suppressed": "is on the provider's suppression list, so mails are held back (`notifierd lift` ends it)",
    "already_sent": "was notified already",
    "already_failed": "failed (on the same day, `notifierd retry --failed` plans it again)",
    "already_unknown": "the answer was lost (on the same day, `notifierd retry --unknown` plans it again)",
    "already_expired": "expired (on the same day, `notifierd retry --expired` plans it again)",
    "already_gone": "the device had unsubscribed",
}
"""Why a staff member is notified on a channel, or is not."""

ALERTS: Mapping[str, str] = {
    "due": "{left}; notified from {threshold} on",
    "overdue": "{left}",
    "overdue_left_out": "{left}; content.overdue is false",
    "beyond_threshold": "{left}; notified from {threshold} on",
    "beyond_horizon": "{left}; content.horizon_days is less",
    "not_today": "{left}; no message on this day",
    "no_address": "{left}; no mail address",
    "email_off": "{left}; mails are off",
    "push_off": "{left}; pushes are off",
    "push_disabled": "{left}; pushes are off for all",
}
"""Why a notice includes an alert, or does not."""


def print_explanation(explanation: "Explanation", console: Console) -> None:
    """Print why a staff member is notified of each alert, or is not."""
    of = counted(len(explanation.offices), "office")
    console.print(f"[bold]{explanation.day}[/]: staff {explanation.staff_id} of {of}")
    if explanation.closed:
        console.print(f"[yellow]closed[/] ({plain(explanation.closed)}): only `notifierd once --force` would send this")
    for office in explanation.offices:
        console.print(f"\n[bold]{plain(clean(office.work.name or ''))}[/] {office.work.id}")
        if office.held:
            console.print(f"  [yellow]{held_since(office.held)}[/]")
        for decided in office.channels:
            threshold = office.work.staff[explanation.staff_id].days(decided.channel)
            _print_channel(decided, threshold, explanation, console)


def _print_channel(decided: ChannelDecision, threshold: int, explanation: "Explanation", console: Console) -> None:
    for target in decided.targets:
        device = f" to device {target.delivery.device_id}" if target.delivery and target.delivery.device_id else ""
        style = "green" if target.included else "yellow"
        console.print(f"  {decided.channel}{device}: [{style}]{TARGETS[target.reason]}[/]")
    print_table(
        console,
        (Column(), Column(), Column(leave_out=2), Column(leave_out=1), Column(), Column(prose=True)),
        [
            (
                "   ",
                "[green]in [/]" if decision.included else "[yellow]out[/]",
                decision.alert.kind,
                str(decision.alert.due_on or ""),
                _whose(decision.alert),
                _why(decision, threshold, explanation.day) + _next_day(decision),
            )
            for decision in decided.decisions
        ],
        header=False,
    )


def _whose(alert: Alert) -> str:
    if alert.unlisted:
        return f"and {alert.unlisted:,} more"
    return f"{alert.recipient_id} cycle {'-' if alert.cycle is None else alert.cycle}"


def _why(decision: Decision, threshold: int, day: date) -> str:
    left = decision.alert.days_left(day)
    if left is None:
        return (
            "missing: notified until it exists" if decision.included else ALERTS[decision.reason].format(left="missing")
        )
    days = counted(abs(left), "day")
    words = f"{days} left" if left > 0 else f"{days} overdue" if left else "due today"
    return ALERTS[decision.reason].format(left=words, threshold=counted(threshold, "day"))


def _next_day(decision: Decision) -> str:
    """Return the next day of an alert that is not a reason to write on every business day."""
    return f"; next on {decision.next_day} ({decision.key})" if decision.key and decision.next_day else ""


def _line(console: Console, label: str, text: str) -> None:
    console.print(f"[bold]{label:<12}[/] {text}")
