"""``notifierd retry``: plan today's failed, unknown or expired deliveries again, and say what will send them."""

from collections.abc import Collection
from datetime import date, datetime
from typing import Any

from attrs import frozen

from notifierd.config.settings import Settings
from notifierd.model.counts import Planned
from notifierd.model.delivery import LOST, State
from notifierd.rules.calendar import Calendar
from notifierd.send.open import honouring_keys
from notifierd.service.site import open_site
from notifierd.store.history import Day

NOTHING = Planned(0, 0, 0)


@frozen
class Retried:
    """The result of a retry.

    Attributes:
        again: how many deliveries were planned again.
        reason: why none was, in words.
        advice: what to do next.
    """

    day: date
    again: Planned
    reason: str | None
    advice: str

    def as_json(self) -> dict[str, Any]:
        """Return the result as one JSON object."""
        again = {"offices": self.again.offices, "email": self.again.email, "push": self.again.push}
        return {"day": str(self.day), **again, "reason": self.reason, "advice": self.advice}


async def retry(settings: Settings, states: Collection[State], now: datetime) -> Retried:
    """Plan again those deliveries of today that ended in one of *states*.

    Raises:
        ConfigError, SchemaMissing: see `open_site`.
        LedgerUnavailable: the database could not be reached; repeating the command is harmless.
    """
    calendar = Calendar(settings.window)
    day = calendar.today(now)
    async with open_site(settings) as site:
        found = await site.overview.day(day)
        if found is None or found.state not in ("running", "completed", "interrupted"):
            return Retried(day, NOTHING, *_no_run(calendar, day, now))
        again = await site.ledger.retry(day, states, honouring_keys())
    if not again.offices:
        return Retried(day, NOTHING, *_no_match(found, states))
    return Retried(day, again, None, _who_sends(calendar, day, now, going_on=found.holder is not None))


def _no_run(calendar: Calendar, day: date, now: datetime) -> tuple[str, str]:
    closed = calendar.closed(day)
    if closed:
        return (
            f"{day} is closed ({closed}), and nothing was sent",
            "the run of the next business day reports what is still due; `notifierd once --force` runs this day now",
        )
    opens, ends = (_clock(calendar, moment) for moment in calendar.window(day))
    if now < calendar.window(day)[1]:
        return f"no run of {day} yet", f"its window is from {opens} to {ends}; `notifierd once` runs it now"
    return f"no run of {day}: its window ended at {ends}", "`notifierd once` runs it now"


def _no_match(day: Day, states: Collection[State]) -> tuple[str, str]:
    asked = " or ".join(state.value for state in states)
    if held := sum(day.email.count(state) for state in states):
        return f"{held} mails of {day.day} are held back", "`notifierd lift STAFF_ID` ends that"
    numbers = {state: day.email.count(state) + day.push.count(state) for state in LOST if state not in states}
    others = ", ".join(f"{number} {state.value} (--{state.value})" for state, number in numbers.items() if number)
    return f"no {asked} delivery of {day.day}", f"others: {others}" if others else "nothing to do"


def _who_sends(calendar: Calendar, day: date, now: datetime, *, going_on: bool) -> str:
    if going_on:
        return "the run in progress sends them"
    if closed := calendar.closed(day):
        return f"{day} is closed ({closed}), so no daemon sends them; `notifierd once --force` does"
    opens, ends = calendar.window(day)
    once = "`notifierd once`"
    if opens <= now < ends:
        return f"the daemon sends them within a minute, if it runs; {once} sends them now"
    if now < opens:
        return f"the daemon sends them at {_clock(calendar, opens)}, if it runs; {once} sends them now"
    return f"the window of {day} ended at {_clock(calendar, ends)}, so no daemon sends them; {once} does"


def _clock(calendar: Calendar, moment: datetime) -> str:
    return f"{moment.astimezone(calendar.settings.zone):%H:%M %Z}"
