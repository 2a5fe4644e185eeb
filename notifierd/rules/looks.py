"""When providers are asked what became of the mails, and from when on: pure arithmetic over moments in UTC."""

from datetime import datetime, timedelta

SOON = (timedelta(minutes=5), timedelta(minutes=20))
"""After the end of a run: most bounces come within minutes. From then on, a look is due every EVERY."""

EVERY = timedelta(hours=1)

BEFORE_WINDOW = timedelta(minutes=20)
"""Before a window opens: so the plan knows whose mails are held back. A look takes minutes at most providers."""

OVERLAP = timedelta(minutes=35)
"""By how much a look overlaps with the one before: Mailgun adds events up to half an hour late ("Event Polling" in
https://documentation.mailgun.com/en/latest/api-events.html), and clocks differ."""

SETTLED = timedelta(hours=1)
"""After the end of a run, the time at which it is reckoned again which alerts reached nobody."""


def last_look(ended: datetime, opens: datetime, now: datetime) -> datetime | None:
    """Return when the last look before *now* was due; None if none was due since the run ended.

    Args:
        ended: when the last run ended.
        opens: when the next window opens.
    """
    hours = (now - ended) // EVERY
    due = [*(ended + after for after in SOON), opens - BEFORE_WINDOW]
    if hours > 0:
        due.append(ended + hours * EVERY)
    return max((each for each in due if ended < each <= now), default=None)


def next_look(ended: datetime, opens: datetime, now: datetime) -> datetime:
    """Return when the next look after *now* is due."""
    hours = max(0, (now - ended) // EVERY)
    due = [*(ended + after for after in SOON), opens - BEFORE_WINDOW, ended + (hours + 1) * EVERY]
    return min(each for each in due if each > now)


def asked_since(complete_until: datetime | None, kept: timedelta, now: datetime) -> datetime:
    """Return the beginning of the time that a look asks about.

    Args:
        complete_until: until then earlier looks have read every answer; None if none was complete.
        kept: how long the provider keeps what it tells.
    """
    oldest = now - kept
    return oldest if complete_until is None else max(oldest, min(complete_until, now) - OVERLAP)
