"""``notifierd status`` and ``notifierd history``: the state by the calendar and the ledger, and the past days."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Any

from attrs import evolve, frozen

from notifierd import __version__
from notifierd.config.settings import Settings
from notifierd.model.errors import DatabaseError, LedgerUnavailable
from notifierd.model.feedback import DayFeedback
from notifierd.rules.calendar import Calendar, Window
from notifierd.service.feedback.known import feedback_of
from notifierd.service.site import PostgresSite, open_site
from notifierd.store.feedback import LookState
from notifierd.store.history import FIRST_DAY, Day, MemberLine, Open

LOOK_BACK = 30
"""The number of past days in which the last run is looked for."""


@frozen
class PastDay:
    """A day of the history, and what became of its mails; None if no provider accepted any."""

    day: Day
    feedback: DayFeedback | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the day as one JSON object."""
        return self.day.as_json() | {"feedback": self.feedback and self.feedback.as_json()}


@frozen
class StatusReport:
    """The state at a moment.

    Attributes:
        window: the one that is open, or the next one.
        closed: why there is no run today; None on a business day.
        database: why the ledger could not be read; the rest is then what the calendar knows.
        last: the last run: the newest day that was neither skipped nor missed.
        missed: the later days that should have had a run, the newest first.
        members: the processes that work on the day that goes on.
        open: the open deliveries.
        looks: how far each provider was asked what became of mails.
        held: how many staff members' mails are held back today.
    """

    now: datetime
    today: date
    window: Window
    closed: str | None
    database: str | None = None
    last: PastDay | None = None
    missed: tuple[PastDay, ...] = ()
    members: tuple[MemberLine, ...] = ()
    open: tuple[Open, ...] = ()
    looks: tuple[LookState, ...] = ()
    held: int = 0

    @property
    def is_open(self) -> bool:
        """Whether a window is open now."""
        return self.window.opens <= self.now

    def as_json(self) -> dict[str, Any]:
        """Return the state as one JSON object."""
        return {
            "version": __version__,
            "now": self.now.isoformat(),
            "today": {"day": str(self.today), "closed": self.closed},
            "next_window": {
                "day": str(self.window.day),
                "opens": self.window.opens.isoformat(),
                "ends": self.window.ends.isoformat(),
                "open": self.is_open,
            },
            "database": self.database,
            "last_run": self.last and self.last.as_json(),
            "missed": [day.as_json() for day in self.missed],
            "members": [member.as_json() for member in self.members],
            "open": [each.as_json() for each in self.open],
            "looks": [look.as_json() for look in self.looks],
            "held": self.held,
        }


async def status_report(settings: Settings, now: datetime) -> StatusReport:
    """Return the state at *now*. An unreachable database is part of the state, not an error.

    Raises:
        ConfigError, SchemaMissing: see `open_site`.
    """
    calendar = Calendar(settings.window)
    today = calendar.today(now)
    bare = StatusReport(now, today, calendar.next_window(now), calendar.closed(today))
    try:
        async with open_site(settings, read_only=True) as site:
            last_run = await site.overview.last_run(today)
            days = await site.overview.days(today, LOOK_BACK, last_run or FIRST_DAY)
            ran = next((day for day in days if day.state not in {"skipped", "missed"}), None)
            last = next(iter(await _past(site, [ran] if ran else [])), None)
            missed = tuple(PastDay(day) for day in days if day.state == "missed" and (ran is None or day.day > ran.day))
            left, members = await site.overview.open(), await site.overview.members()
            looks, held = await site.feedback.looks(), await site.feedback.held(today)
    except LedgerUnavailable as error:
        return evolve(bare, database=error.reason)
    return evolve(bare, last=last, missed=missed, members=members, open=left, looks=looks, held=len(held))


async def history(settings: Settings, now: datetime, days: int) -> tuple[PastDay, ...]:
    """Return the last *days* that have a record, the newest first.

    Days whose counts were not kept at their end are counted first, one after the other, and are kept then.

    Raises:
        ConfigError, SchemaMissing: see `open_site`.
        LedgerUnavailable: the database could not be reached.
    """
    today = Calendar(settings.window).today(now)
    async with open_site(settings, read_only=True) as site:
        if uncounted := await site.overview.uncounted(today, days):
            with suppress(DatabaseError):  # a standby takes no writes: the days are counted below, for this time only
                await _keep_counts(settings, today, uncounted)
        return await _past(site, await site.overview.days(today, days))


async def _keep_counts(settings: Settings, before: date, days: int) -> None:
    """Keep the counts of *days* days before *before*, with a bar on stderr if that is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - takes 50 ms, and is seldom needed

    from notifierd.commands.display.bars import bar  # noqa: PLC0415 - likewise

    async with open_site(settings) as site:
        with bar(Console(stderr=True)) as done:
            task = done.add_task("counting days", total=days)
            while days and await site.ledger.keep_counts(before):
                done.advance(task)
                days -= 1


async def _past(site: PostgresSite, days: Sequence[Day]) -> tuple[PastDay, ...]:
    """Return *days*, which are successive ones, with what became of their mails."""
    became = await feedback_of(site.feedback, days)
    return tuple(PastDay(day, became.get(day.day)) for day in days)
