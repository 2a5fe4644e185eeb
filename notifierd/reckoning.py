"""What became of the days that no run wrote of. Pure."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from notifierd.run import RETENTION
from notifierd.schedule import Calendar

_DAY = timedelta(days=1)


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
