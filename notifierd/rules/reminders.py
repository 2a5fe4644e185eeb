"""How often the same is told: on which days an alert is a reason to write to somebody. Pure arithmetic over days.

An alert is told on the first run on or after each of its days, so every rule compares a run's day with the day of the
run before it. The same rules in SQL are in ``store/sql/reminders.py``; a property test compares the two.
"""

from collections.abc import Iterable
from datetime import date, timedelta

from attrs import frozen

from notifierd.config.settings import ContentSettings, Weekday
from notifierd.model.office import Alert
from notifierd.rules.calendar import WEEKDAYS, Calendar

LOOK_BACK = 14
"""Rule: the previous run is looked for within 14 days, else the day before counts as its day. After a longer gap, what
is due is told at the next of its days."""

_DAY = timedelta(days=1)
_FARTHEST = 4000
_SEARCHED = 400


@frozen
class Reminders:
    """The keys that decide on which days somebody is written to. An empty one stands for every business day.

    Attributes:
        renewal_days: the days left, above 0, on which a renewal that is not overdue is a reason.
        overdue_weekdays: the weekdays (ISO 8601: 1 is Monday) on which an overdue renewal is one.
        assessment_weekdays: the weekdays on which a missing assessment is one.
    """

    renewal_days: frozenset[int] = frozenset()
    overdue_weekdays: frozenset[int] = frozenset()
    assessment_weekdays: frozenset[int] = frozenset()

    @classmethod
    def of(cls, content: ContentSettings) -> "Reminders":
        """Return the keys of a configuration."""
        return cls(
            frozenset(content.renewal_days), _numbers(content.overdue_weekdays), _numbers(content.assessment_weekdays)
        )

    @property
    def selective(self) -> bool:
        """Whether there are business days on which some alert is no reason."""
        return bool(self.renewal_days or self.overdue_weekdays or self.assessment_weekdays)

    def is_reason(self, alert: Alert, threshold: int, day: date, previous: date) -> bool:
        """Whether *alert*, which lies within *threshold* days on *day*, is a reason to write on that day.

        Args:
            threshold: the staff member's, or the horizon if that is smaller.
            previous: the day of the run before.
        """
        left = alert.days_left(day)
        if left is None:
            return _falls_on(self.assessment_weekdays, day, previous)
        if left <= 0:
            return left + (day - previous).days > 0 or _falls_on(self.overdue_weekdays, day, previous)
        return not self.renewal_days or self._has_come(alert, threshold, day, previous)

    def is_new(self, alert: Alert, threshold: int, day: date, previous: date) -> bool:
        """Whether something about *alert* changed since the run of *previous* that its reader should notice.

        That is: one of its days left has come, or its deadline has come, or has passed. *threshold*: see `is_reason`.
        """
        left = alert.days_left(day)
        if left is None:
            return False
        if left <= 0:
            return left == 0 or left + (day - previous).days >= 0
        return self._has_come(alert, threshold, day, previous)

    def key(self, alert: Alert, day: date) -> str | None:
        """Return the key that decides on which days *alert* is a reason; None on every business day."""
        left = alert.days_left(day)
        if left is None:
            return "content.assessment_weekdays" if self.assessment_weekdays else None
        if left <= 0:
            return "content.overdue_weekdays" if self.overdue_weekdays else None
        return "content.renewal_days" if self.renewal_days else None

    def next_day(
        self, alert: Alert, threshold: int, day: date, calendar: Calendar, *, overdue: bool = True
    ) -> date | None:
        """Return the next business day after *day* on which *alert* will be a reason if no run is missed.

        Returns None if there is no such day, or it is more than 4000 days away.

        Args:
            threshold: see `is_reason`.
            overdue: whether overdue renewals are told.
        """
        left = alert.days_left(day)
        ahead = 0 if left is None else max(0, left - threshold - LOOK_BACK - 1)
        if ahead > _FARTHEST:
            return None
        previous = day + ahead * _DAY
        for n in range(1, _SEARCHED):
            coming = day + (ahead + n) * _DAY
            if calendar.closed(coming):
                continue
            then = alert.days_left(coming)
            if then is not None and then <= 0 and not overdue:
                return None
            last = previous if (coming - previous).days <= LOOK_BACK else coming - _DAY
            if (then is None or then <= threshold) and self.is_reason(alert, threshold, coming, last):
                return coming
            previous = coming
        return None

    def _has_come(self, alert: Alert, threshold: int, day: date, previous: date) -> bool:
        """Whether one of the days left of *alert*, or the first day within *threshold*, came after *previous*."""
        left = alert.days_left(day)
        assert left is not None  # noqa: S101 - to mypy: the callers ask about renewals only
        return any(left <= days < left + (day - previous).days for days in (*self.renewal_days, threshold))


def _numbers(weekdays: Iterable[Weekday]) -> frozenset[int]:
    return frozenset(WEEKDAYS.index(weekday) + 1 for weekday in weekdays)


def _falls_on(weekdays: frozenset[int], day: date, previous: date) -> bool:
    """Whether *day*, or a day between *previous* and it, is one of *weekdays*; with none of them, every day is."""
    days = range((day - previous).days)
    return not weekdays or any((day - n * _DAY).isoweekday() in weekdays for n in days)
