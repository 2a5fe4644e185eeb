"""When a run may send: which days are business days, and when their windows open and end.

Pure arithmetic over one moment given by the caller. Moments are aware and in UTC; days and times of day are those of
the window's zone.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import attrs

from notifierd.config.settings import Weekday, WindowSettings
from notifierd.model.reasons import Reason

WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SATURDAY = 5
_DAY = timedelta(days=1)


@attrs.frozen
class Window:
    """One day's window, from *opens* (included) to *ends* (not included), in UTC."""

    day: date
    opens: datetime
    ends: datetime


@cache  # making one takes half a millisecond, and the daemon makes a calendar in each slice of its sleep
def _holidays(country: str) -> Mapping[date, str]:
    if not country:
        return {}
    # Holiday names in Japanese for Japan; for other countries, the library uses its default language.
    found: Mapping[date, str] = _class_of(country)(language="ja")
    return found


def _class_of(country: str) -> Callable[..., Mapping[date, str]]:
    """Return the class of *country* from its module, which is loaded alone.

    `holidays.country_holidays` would load the modules of all 250 countries, which takes 0.1 s and 8 MB.
    """
    from holidays import registry  # noqa: PLC0415 - takes 60 ms and 5 MB, and is not needed without public holidays

    (name,) = (name for name, (_, *codes) in registry.COUNTRIES.items() if country in codes)
    path = Path(registry.__file__).parent / "countries" / f"{name}.py"
    spec = spec_from_file_location(f"holidays.countries.{name}", path)
    assert spec is not None  # noqa: S101 - to mypy: it is None only for a file name of no known kind
    assert spec.loader is not None  # noqa: S101 - likewise
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Mapping[date, str]] = getattr(module, country)
    return found


@attrs.frozen
class Calendar:
    """The business days and windows of [window]."""

    settings: WindowSettings

    def closed(self, day: date) -> str | None:
        """Return why there is no run on *day*, or None on a business day.

        The reason is ``closed_dates``, or ``weekend``, ``weekday`` (another closed one) or ``holiday`` with its name.
        """
        if day in self.settings.open_dates:
            return None
        if day in self.settings.closed_dates:
            return Reason.CLOSED_DATES
        if WEEKDAYS[day.weekday()] in self.settings.closed_weekdays:
            return f"{Reason.WEEKEND if day.weekday() >= _SATURDAY else Reason.WEEKDAY}: {_NAMES[day.weekday()]}"
        name = _holidays(self.settings.holidays).get(day)
        return f"{Reason.HOLIDAY}: {name}" if name else None

    def today(self, now: datetime) -> date:
        """Return the business day that *now* belongs to, closed or not.

        It is the zone's date; while a window that opened before midnight is open, it is the day on which it opened.
        """
        day = now.astimezone(self.settings.zone).date()
        return day - _DAY if now < self.window(day - _DAY)[1] else day

    def window(self, day: date) -> tuple[datetime, datetime]:
        """Return when the window of *day* opens and ends, in UTC, whether the day is closed or not.

        If the clock is put forward over the opening or the end, the window opens or ends at the jump. If it is put
        back, the first of two equal times counts. A window that lies within a jump opens at the jump and has its usual
        length.
        """
        opens_at = datetime.combine(day, self.settings.at)
        ends_at = datetime.combine(day, self.settings.until)
        if ends_at <= opens_at:
            ends_at += _DAY
        opens, ends = self._first_moment(opens_at), self._first_moment(ends_at)
        return opens, ends if opens < ends else opens + (ends_at - opens_at)

    def day_ends(self, day: date) -> datetime:
        """Return the midnight, in UTC, that ends the date on which the window of *day* ends."""
        ends = self.window(day)[1].astimezone(self.settings.zone).date()
        return self._first_moment(datetime.combine(ends + _DAY, time()))

    def next_window(self, now: datetime) -> Window:
        """Return the window that is open at *now*, else the next one. For the one after it, pass its ``ends``."""
        day = self.first_to_come(now)
        while self.closed(day):
            day += _DAY  # ends, since config/settings.py rejects seven closed weekdays
        return Window(day, *self.window(day))

    def first_to_come(self, now: datetime) -> date:
        """Return the first day, closed or not, whose window is not over at *now*."""
        day = self.today(now)
        return day + _DAY if self.window(day)[1] <= now else day

    def _first_moment(self, wall: datetime) -> datetime:
        """Return the first moment at which the zone's clock reads *wall* or later."""
        zone = self.settings.zone
        # PEP 495: in a gap, fold=0 reckons with the offset from before it, and so lands after it; fold=1 lands before.
        moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
        while moment - before > timedelta.resolution:  # only in a gap, whose end lies between the two
            middle = before + (moment - before) / 2
            if middle.astimezone(zone).replace(tzinfo=None) >= wall:
                moment = middle
            else:
                before = middle
        return moment
