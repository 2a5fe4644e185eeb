"""What is known of mails after they were accepted. That nothing was reported does not mean that nothing came back."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final

from notifierd.model.feedback import DayFeedback, MailStatus
from notifierd.store.feedback import Feedback, FeedbackDay, LookState
from notifierd.store.history import Day

AT_ONCE: Final = 30
"""Rule: 30 days are counted in one statement. 50,000 mails a day take 70 ms a day, so that 400 days in one statement
would come near `database.statement_timeout` (30 s)."""


def is_complete(look: LookState | None, ended: datetime | None) -> bool:
    """Return whether a provider was asked completely after the run that *ended* then.

    Args:
        look: how far the provider was asked; None if it never was.
        ended: None while the run is in progress.
    """
    return bool(look and look.complete_until and ended and look.complete_until >= ended)


def counts_of(day: FeedbackDay) -> dict[MailStatus, int]:
    """Return the mails of *day* by status."""
    return {status: int(getattr(day, status)) for status in MailStatus}


def is_known(day: FeedbackDay, look: LookState | None, ended: datetime | None) -> bool:
    """Return whether a count of 0 says that there is no such mail: something was reported, or the look is complete."""
    return is_complete(look, ended) or any(counts_of(day).values())


async def feedback_of(feedback: Feedback, days: Sequence[Day]) -> Mapping[date, DayFeedback]:
    """Return what became of the mails of *days*, which are successive ones of the history, the newest first.

    Days on which no provider accepted a mail are left out.
    """
    looks = {look.provider: look for look in await feedback.looks()}
    reported: dict[date, list[FeedbackDay]] = {}
    for start in range(0, len(days), AT_ONCE):
        part = days[start : start + AT_ONCE]
        for one in await feedback.days(part[0].day, len(part)):
            reported.setdefault(one.day, []).append(one)
    ended = {day.day: day.finished_at for day in days}
    return {
        day: DayFeedback(
            {status: sum(counts_of(one)[status] for one in ones) for status in MailStatus},
            sum(one.not_known for one in ones),
            all(is_known(one, looks.get(one.provider), ended[day]) for one in ones),
        )
        for day, ones in reported.items()
    }
