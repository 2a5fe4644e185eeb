"""Print what became of mails, for people."""

from datetime import date
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape

from notifierd.commands.display.columns import Column, print_table
from notifierd.model.counts import counted
from notifierd.model.feedback import TROUBLE, DayFeedback, MailStatus
from notifierd.model.reasons import Reason
from notifierd.store.feedback import FeedbackDay, Held, LookState

if TYPE_CHECKING:
    from notifierd.commands.providers.feedback import FeedbackReport

_LEAVE_OUT = {MailStatus.DELAYED: 1, MailStatus.DELIVERED: 2, MailStatus.REFUSED: 3}
"""The columns that a narrow terminal lacks, by their order: first what is no trouble."""

REASONS = {"complained": "reported a mail as spam", "suppressed": "on the provider's suppression list"}


def print_feedback(report: "FeedbackReport", zone: ZoneInfo, console: Console) -> None:
    """Print how far each provider was asked, what became of each day's mails, and whose mails are held back."""
    for look in report.looks:
        console.print(f"[bold]{escape(look.provider)}[/]: {asked_until(look, zone)}")
    for name, keys in report.not_set_up.items():
        how = f"[yellow]not set up[/]; {' or '.join(keys)} has notifierd ask" if keys else "cannot be asked"
        console.print(f"[bold]{name}[/]: {how}")
    if report.days:
        console.print()
        columns = (Column(status, right=True, leave_out=_LEAVE_OUT.get(status, 0)) for status in MailStatus)
        print_table(
            console,
            (Column("day"), Column("provider"), *columns, Column("not known", right=True)),
            [
                (f"{day.day:%Y-%m-%d %a}", escape(day.provider), *_numbers(day), f"{day.not_known:,}")
                for day in report.days
            ],
        )
    if report.held:
        console.print("\nMails are held back, until `notifierd lift STAFF_ID`, of:")
    for held in report.held:
        console.print(f"  {held.staff_id} {held_since(held)}")


def asked_until(look: LookState, zone: ZoneInfo) -> str:
    """Return in words how far a provider was asked."""
    until = "never asked completely"
    if look.complete_until:
        until = f"known until {look.complete_until.astimezone(zone):%a %d %b %H:%M %Z}"
    if not look.result:
        return until
    known = Reason.explaining(look.result)
    return f"{until}; [red]the last look was not complete[/] ({escape(look.result)})" + (
        f": {known.english}" if known else ""
    )


def came_back(feedback: DayFeedback) -> str:
    """Return in words which mails of a day came back or were complained of."""
    if feedback.came_back is None:
        return "not known"
    lost = [f"{number:,} {status}" for status, number in feedback.counts.items() if number and status in TROUBLE]
    rest = f"; nothing is known of {counted(feedback.not_known, 'mail')}" if feedback.not_known else ""
    return (f"[red]{', '.join(lost)}[/]" if lost else "nothing") + rest


def held_since(held: Held) -> str:
    """Return in words since when mails are held back, and why."""
    return f"not mailed since {_day(held.since)}, until {_day(held.until)}: {held.reason} ({REASONS[held.reason]})"


def _numbers(day: FeedbackDay) -> list[str]:
    numbers = [(status, int(getattr(day, status.value))) for status in MailStatus]
    return [f"[red]{number:,}[/]" if number and status in TROUBLE else f"{number:,}" for status, number in numbers]


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
