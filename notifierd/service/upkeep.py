"""The days whose window is over: the ledger gets a row for each, and the operator is told which were missed."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import date, datetime, timedelta

import structlog
from attrs import define, field, frozen

from notifierd.config.settings import Settings
from notifierd.model.errors import NotifierdError, StatementRefused
from notifierd.model.message import Alarm
from notifierd.model.reasons import Reason
from notifierd.rules import alarms
from notifierd.rules.calendar import Calendar
from notifierd.run.context import Site
from notifierd.service.state import Status, in_zone
from notifierd.service.watch import Watch
from notifierd.store.ledger import Ledger

_DAY = timedelta(days=1)

log = structlog.get_logger(__name__)


@frozen
class Unfinished:
    """A day whose window is over and whose run was interrupted.

    Attributes:
        reason: why it was interrupted.
        left: how many of its deliveries are open.
    """

    day: date
    reason: str
    left: int

    def alarm(self, today: date) -> Alarm | None:
        """The alarm for the operator; None after `notifierd retry`, which the operator ran themselves."""
        if self.reason == Reason.RETRIED:
            return None
        return alarms.never_resumed(self.day, self.reason, over=self.day < today)

    def sent_by(self, calendar: Calendar) -> str:
        """The command that sends what is left."""
        return "notifierd once --force" if calendar.closed(self.day) else "notifierd once"


@define
class Upkeep:
    """What the daemon does about days that are over.

    Attributes:
        open_site: opens the database that a configuration names.
        now: the wall clock, in UTC.
        began: when this process began, in UTC.
    """

    open_site: Callable[[Settings], AbstractAsyncContextManager[Site]]
    now: Callable[[], datetime]
    status: Status
    watch: Watch
    began: datetime
    _recorded: tuple[date, date] | None = None
    """The day before which every day has a row, and the date before which no delivery is open."""
    _unfinished: Unfinished | None = None
    """The day before, if its run was interrupted."""
    _troubles: dict[date, str] = field(factory=dict)
    """Why a day could not be run at its last try."""

    def note_trouble(self, day: date, error: BaseException) -> None:
        """Remember why *day* cannot be run, in case its window ends before it can."""
        self._troubles[day] = str(error)

    def announce_closed(self, settings: Settings) -> None:
        """Announce a closed day from the hour at which its window would open."""
        calendar = Calendar(settings.window)
        day = calendar.today(self.now())
        if (closed := calendar.closed(day)) and calendar.window(day)[0] <= self.now():
            self.watch.skipped(day, closed)

    async def still_done(self, settings: Settings, done: date | None) -> date | None:
        """Return *done*, the last day with no work left; None if it has work again while its window is open.

        It has work again if `notifierd retry` planned deliveries again, or if `notifierd once` was interrupted. If the
        database does not answer, the next call asks it again.
        """
        window = Calendar(settings.window).next_window(self.now())
        if window.day == done and window.opens <= self.now():
            with suppress(NotifierdError):
                async with self.open_site(settings) as site:
                    run = await site.ledger.run(window.day)
                    return None if run and run.state == "interrupted" else done
        return done

    async def close_past_days(self, settings: Settings) -> None:
        """Record each day whose window is over, expire the deliveries of earlier dates, and keep their counts.

        Does nothing if that was done before. If the database does not answer, the next call tries again.
        """
        calendar = Calendar(settings.window)
        day, today = calendar.first_to_come(self.now()), calendar.today(self.now())
        if self._recorded == (day, today):
            return
        try:
            async with self.open_site(settings) as site:
                keep = timedelta(days=settings.database.retention_days)
                last = await self._record_days(site.ledger, calendar, day, keep)
                self.status.metrics.deliveries.update(await site.ledger.close_earlier(today))
                left = await site.ledger.leave_open(last) if last else 0
                run = await site.ledger.run(last) if last else None
                kept = await self._keep_counts(site.ledger, today)
        except NotifierdError as error:
            self.status.ledger_not_seen(error)
            return
        self.status.away = ""
        if run and run.state == "running":
            return  # another process may hold its lease, and end it
        interrupted = run if run and run.state == "interrupted" else None
        found = Unfinished(last, str(interrupted.reason), left) if last and interrupted else None
        self._report_unfinished(found, calendar, today)
        # Look again as long as deliveries wait for `once`, or days have no counts: one is counted at a time.
        self._recorded = None if left or kept else (day, today)
        self._troubles = {known: why for known, why in self._troubles.items() if known >= day}

    async def _keep_counts(self, ledger: Ledger, today: date) -> bool:
        """Count one earlier day whose counts were not kept at its end; return whether there was one."""
        try:
            return await ledger.keep_counts(today) is not None
        except StatementRefused as error:  # only those who look back are slowed down by that
            log.warning("not_counted", reason=error.reason)
            return False

    async def _record_days(self, ledger: Ledger, calendar: Calendar, day: date, keep: timedelta) -> date | None:
        """Record the days before *day* that have no row, and tell the operator which were missed.

        Returns:
            The last day that had a row before; None if no day had one.
        """
        last = await ledger.last_day(day - _DAY)
        kept = last and max(last, day - keep)
        runs = without_run(calendar, kept, day, self.began, self._troubles)
        new = {each: runs[each] for each in await ledger.record(runs)}
        for each, (state, reason) in new.items():
            (log.error if state == "missed" else log.info)(state, run=str(each), reason=reason)
            self.status.metrics.runs[state] += 1
        if missed := {each: reason for each, (state, reason) in new.items() if state == "missed"}:
            self.watch.tell(alarms.missed(missed))
        return last

    def _report_unfinished(self, found: Unfinished | None, calendar: Calendar, today: date) -> None:
        """Say once that the run of the day before was interrupted, and what waits for `once`."""
        if found == self._unfinished:
            return
        self._unfinished, self.status.left_open = found, ""
        if found and (alarm := found.alarm(today)):
            self.watch.tell(alarm)
        if found and found.left:
            until = in_zone(calendar.day_ends(found.day), calendar.settings.zone)
            self.status.leave_open(found.day, found.left, found.sent_by(calendar), until)


def without_run(
    calendar: Calendar, last: date | None, day: date, began: datetime, troubles: Mapping[date, str]
) -> dict[date, tuple[str, str]]:
    """The days after *last* and before *day*, with the state of each and its reason.

    Args:
        last: the last day with a row; None if no day has one: then days count from the moment *began*.
        began: when this process began.
        troubles: why a day could not be run at its last try.
    """
    if last is None:
        last = calendar.first_to_come(began) - _DAY
    between = [last + n * _DAY for n in range(1, (day - last).days)]
    return {
        each: ("skipped", closed)
        if (closed := calendar.closed(each))
        else ("missed", troubles.get(each) or _why_missed(calendar, each, began))
        for each in between
    }


def _why_missed(calendar: Calendar, day: date, began: datetime) -> str:
    opens, _ = calendar.window(day)
    return Reason.SLEPT_THROUGH if opens >= began else Reason.NOT_RUNNING
