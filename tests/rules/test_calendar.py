"""Business days and windows."""

import csv
import time as clock
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from holidays import country_holidays
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config.settings import WindowSettings
from notifierd.rules.calendar import Calendar, Window

DAY = timedelta(days=1)

# The Cabinet Office's list of public holidays (国民の祝日・休日), https://www8.cao.go.jp/chosei/shukujitsu/gaiyou.html
CABINET_OFFICE = Path(__file__).parents[1] / "data" / "holidays-jp.csv"


def tokyo(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Tokyo")).astimezone(UTC)


# -------------------------------------------------------------------------------------------------------- business days


def test_twelve_years_of_japanese_holidays_are_as_the_cabinet_office_has_them():
    with CABINET_OFFICE.open(encoding="utf-8") as lines:
        official = {date.fromisoformat(row["date"]) for row in csv.DictReader(lines)}
    calendar = Calendar(WindowSettings(closed_weekdays=()))
    days = [date(2016, 1, 1) + n * DAY for n in range((date(2028, 1, 1) - date(2016, 1, 1)).days)]
    assert {day for day in days if calendar.closed(day)} == official
    assert len(official) == 219


def test_a_closed_day_has_a_reason_that_people_can_read():
    calendar = Calendar(
        WindowSettings(
            closed_weekdays=("wed", "sat", "sun"),
            closed_dates=(date(2026, 12, 29), date(2026, 12, 31)),
            open_dates=(date(2026, 11, 3), date(2026, 12, 31), date(2026, 12, 27)),
        )
    )
    assert calendar.closed(date(2026, 11, 24)) is None
    assert calendar.closed(date(2026, 11, 23)) == "holiday: 勤労感謝の日"
    assert calendar.closed(date(2026, 11, 21)) == "weekend: saturday"
    assert calendar.closed(date(2026, 11, 25)) == "weekday: wednesday"
    assert calendar.closed(date(2026, 12, 29)) == "closed_dates"
    # open_dates win over a holiday, a Sunday and closed_dates
    assert [calendar.closed(day) for day in calendar.settings.open_dates] == [None, None, None]


def test_other_countries_have_their_own_holidays_and_none_is_an_answer_too():
    assert Calendar(WindowSettings(holidays="US")).closed(date(2025, 7, 4)) == "holiday: Independence Day"
    assert Calendar(WindowSettings(holidays="")).closed(date(2026, 11, 23)) is None


@pytest.mark.parametrize("code", ["JP", "JPN", "US", "GU", "GB", "UK", "AX", "HolidaysAX", "KR", "IL"])
def test_a_countrys_holidays_are_the_librarys(code: str):
    """By each kind of code, and for countries whose holidays are those of another one with changes."""
    days = [date(2026, 1, 1) + n * DAY for n in range(365)]
    theirs = country_holidays(code, language="ja")
    calendar = Calendar(WindowSettings(holidays=code, closed_weekdays=()))
    closed = {day: reason for day in days if (reason := calendar.closed(day))}
    assert closed == {day: f"holiday: {theirs[day]}" for day in days if day in theirs}
    assert closed


# -------------------------------------------------------------------------------------------------- windows and today


def test_the_window_is_kept_in_local_time_and_told_in_utc():
    opens, ends = Calendar(WindowSettings()).window(date(2026, 11, 24))
    assert (opens, ends) == (datetime(2026, 11, 24, 0, tzinfo=UTC), datetime(2026, 11, 24, 3, tzinfo=UTC))
    assert (opens.tzinfo, ends.tzinfo) == (UTC, UTC)


def test_today_is_the_zones_date():
    calendar = Calendar(WindowSettings())
    assert calendar.today(datetime(2026, 11, 23, 14, 59, tzinfo=UTC)) == date(2026, 11, 23)
    assert calendar.today(datetime(2026, 11, 23, 15, 0, tzinfo=UTC)) == date(2026, 11, 24)


@pytest.mark.parametrize(
    ("now", "today"),
    [
        ("2026-11-24 21:59", date(2026, 11, 24)),
        ("2026-11-24 22:00", date(2026, 11, 24)),
        ("2026-11-25 00:00", date(2026, 11, 24)),
        ("2026-11-25 01:59:59", date(2026, 11, 24)),
        ("2026-11-25 02:00", date(2026, 11, 25)),
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_on_which_it_opened(now, today):
    calendar = Calendar(WindowSettings(at=time(22), until=time(2)))
    assert calendar.today(tokyo(now)) == today
    assert calendar.window(date(2026, 11, 24)) == (tokyo("2026-11-24 22:00"), tokyo("2026-11-25 02:00"))


@pytest.mark.parametrize(
    ("now", "day"),
    [
        ("2026-11-20 08:59", date(2026, 11, 20)),  # a Friday, before it opens
        ("2026-11-20 11:59:59.999999", date(2026, 11, 20)),  # still open
        ("2026-11-20 12:00", date(2026, 11, 24)),  # ended; Monday is a holiday
        ("2026-11-22 10:00", date(2026, 11, 24)),
        ("2026-11-24 09:00", date(2026, 11, 24)),
    ],
)
def test_the_next_window_is_the_open_one_or_that_of_the_next_business_day(now, day):
    calendar = Calendar(WindowSettings())
    assert calendar.next_window(tokyo(now)) == Window(day, *calendar.window(day))


def test_after_midnight_the_window_of_friday_is_still_the_one_that_is_open():
    window = Calendar(WindowSettings(at=time(22), until=time(2))).next_window(tokyo("2026-11-21 01:00"))
    assert window == Window(date(2026, 11, 20), tokyo("2026-11-20 22:00"), tokyo("2026-11-21 02:00"))


@pytest.mark.parametrize(
    ("at", "until", "ends"),
    [
        ((9, 0), (12, 0), "2026-11-25 00:00"),
        ((22, 0), (2, 0), "2026-11-26 00:00"),  # the date on which the window ends is over
        ((22, 0), (0, 0), "2026-11-26 00:00"),
    ],
)
def test_a_day_ends_with_the_date_on_which_its_window_ends(at, until, ends):
    calendar = Calendar(WindowSettings(at=time(*at), until=time(*until)))
    day_ends = calendar.day_ends(date(2026, 11, 24))
    assert (day_ends, day_ends.tzinfo) == (tokyo(ends), UTC)


def test_where_midnight_does_not_exist_a_day_ends_at_the_jump():
    calendar = Calendar(WindowSettings(timezone="America/Sao_Paulo"))  # 4 November 2018: from 00:00 to 01:00
    assert calendar.day_ends(date(2018, 11, 3)) == datetime(2018, 11, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize("machine", ["Asia/Tokyo", "America/New_York", "UTC"])
def test_the_machines_own_zone_is_nobodys_business(machine, monkeypatch):
    calendar = Calendar(WindowSettings(timezone="America/New_York", at=time(2, 30), until=time(12)))
    monkeypatch.setenv("TZ", machine)
    clock.tzset()
    try:
        opens, ends = calendar.window(date(2026, 3, 8))
        day_ends = calendar.day_ends(date(2026, 3, 8))
    finally:
        monkeypatch.undo()
        clock.tzset()
    assert (opens, ends) == (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 3, 8, 16, tzinfo=UTC))
    assert day_ends == datetime(2026, 3, 9, 4, tzinfo=UTC)
    assert {moment.tzinfo for moment in (opens, ends, day_ends)} == {UTC}


# ---------------------------------------------------------------------------------------------- the clock is changed


@pytest.mark.parametrize(
    ("at", "until", "opens", "ends"),
    [
        # New York, 8 March 2026: at 02:00 (07:00 UTC) the clock is put forward to 03:00
        ((1, 0), (4, 0), "06:00", "08:00"),  # an hour shorter
        ((2, 30), (12, 0), "07:00", "16:00"),  # 02:30 does not exist: opens at the jump
        ((1, 0), (2, 30), "06:00", "07:00"),  # ends at the jump
        ((2, 15), (2, 45), "07:00", "07:30"),  # swallowed whole: half an hour from the jump
        ((2, 30), (3, 0), "07:00", "07:30"),
    ],
)
def test_a_clock_put_forward_costs_no_run(at, until, opens, ends):
    calendar = Calendar(WindowSettings(timezone="America/New_York", at=time(*at), until=time(*until)))
    day = date(2026, 3, 8)
    assert calendar.window(day) == (
        datetime.fromisoformat(f"{day}T{opens}:00Z"),
        datetime.fromisoformat(f"{day}T{ends}:00Z"),
    )


@pytest.mark.parametrize(
    ("at", "until", "opens", "ends"),
    [
        # New York, 1 November 2026: at 02:00 (06:00 UTC) the clock is put back to 01:00
        ((0, 30), (3, 0), "04:30", "08:00"),  # an hour longer
        ((1, 30), (3, 0), "05:30", "08:00"),  # opens at the first 01:30
        ((1, 15), (1, 45), "05:15", "05:45"),  # once, and not twice
    ],
)
def test_a_clock_put_back_makes_no_second_run(at, until, opens, ends):
    calendar = Calendar(WindowSettings(timezone="America/New_York", at=time(*at), until=time(*until)))
    day = date(2026, 11, 1)
    assert calendar.window(day) == (
        datetime.fromisoformat(f"{day}T{opens}:00Z"),
        datetime.fromisoformat(f"{day}T{ends}:00Z"),
    )


zones = st.sampled_from([
    "Asia/Tokyo",
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",  # half an hour
    "America/Sao_Paulo",  # changed at midnight
    "Africa/Casablanca",
    "Pacific/Apia",  # had no 30 December 2011
])  # fmt: skip
minutes = st.integers(0, 24 * 60 - 1).map(lambda n: time(n // 60, n % 60))
calendars = st.builds(
    lambda zone, ends: Calendar(WindowSettings(timezone=zone, at=ends[0], until=ends[1])),
    zones,
    st.tuples(minutes, minutes).filter(lambda ends: ends[0] != ends[1]),
)
moments = st.integers(0, 22 * 365 * 24 * 60).map(lambda n: datetime(2008, 1, 1, tzinfo=UTC) + timedelta(minutes=n))
days = st.dates(date(2008, 1, 1), date(2030, 12, 31))


@given(calendars, days)
def test_every_day_has_a_window_and_never_before_its_hour(calendar, day):
    opens, ends = calendar.window(day)
    zone = calendar.settings.zone
    assert opens < ends <= opens + 26 * timedelta(hours=1)
    assert opens.astimezone(zone).replace(tzinfo=None) >= datetime.combine(day, calendar.settings.at)
    just_before = (opens - timedelta.resolution).astimezone(zone).replace(tzinfo=None)
    assert just_before < datetime.combine(day, calendar.settings.at)


@given(calendars, days, st.integers(0, 999))
def test_a_moment_inside_a_window_belongs_to_its_day(calendar, day, share):
    opens, ends = calendar.window(day)
    now = opens + (ends - opens) * share / 1000
    if now < calendar.window(day - DAY)[1]:  # a window of nearly 24 hours in a night of 25: the earlier one goes first
        assert calendar.today(now) == day - DAY
    else:
        assert calendar.today(now) == day


@given(calendars, moments)
def test_the_next_window_is_open_and_no_open_day_lies_between(calendar, now):
    window = calendar.next_window(now)
    assert now < window.ends
    assert calendar.closed(window.day) is None
    day = calendar.today(now)
    while day < window.day:
        assert calendar.closed(day) is not None or calendar.window(day)[1] <= now
        day += DAY
    assert calendar.next_window(window.ends).day > window.day
