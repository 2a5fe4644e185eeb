"""What became of the days whose window is over: those that no run wrote of, and the one that was left open. Pure."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from attrs import frozen

from notifierd.rules import alarms
from notifierd.rules.calendar import Calendar
from notifierd.run.day import RETENTION

_DAY = timedelta(days=1)


@frozen
class Unfinished:
    """A day whose window is over, and whose run did not come to its end.

    Attributes:
        reason: why it was interrupted.
        left: how many of its deliveries are open.
    """

    day: date
    reason: str
    left: int

    def alarm(self, today: date) -> alarms.Alarm | None:
        """What the operator has to hear of it; nothing of what they planned again themselves."""
        if self.reason == "retried":
            return None
        return alarms.never_resumed(self.day, self.reason, over=self.day < today)

    def sent_by(self, calendar: Calendar) -> str:
        """The command that sends what is left."""
        return "notifierd once --force" if calendar.closed(self.day) else "notifierd once"


def without_run(
    calendar: Calendar, last: date | None, day: date, began: datetime, troubles: Mapping[date, str]
) -> dict[date, tuple[str, str]]:
    """The days after *last* and before *day*, with the state of each and its reason.

    Args:
        last: None where nothing is written yet: days count from when this process *began* then.
        troubles: why a day could not be run when that was last tried.
    """
    if last is None:
        last = calendar.first_to_come(began) - _DAY
    last = max(last, day - RETENTION)
    between = [last + n * _DAY for n in range(1, (day - last).days)]
    return {
        each: ("skipped", closed)
        if (closed := calendar.closed(each))
        else ("missed", troubles.get(each) or _why_missed(calendar, each, began))
        for each in between
    }


def _why_missed(calendar: Calendar, day: date, began: datetime) -> str:
    opens, _ = calendar.window(day)
    return "slept_through" if opens >= began else "not_running"
