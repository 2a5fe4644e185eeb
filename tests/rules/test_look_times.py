"""When a look is due, and from when on it asks."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.rules.looks import BEFORE_WINDOW, OVERLAP, asked_since, last_look, next_look

ENDED = datetime(2026, 11, 24, 0, 10, tzinfo=UTC)
OPENS = datetime(2026, 11, 25, 0, 0, tzinfo=UTC)
MINUTES = st.integers(0, 23 * 60 + 49)


def after(minutes: float) -> datetime:
    return ENDED + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("now", "last", "following"),
    [
        (0, None, 5),
        (4.9, None, 5),
        (5, 5, 20),
        (19, 5, 20),
        (20, 20, 60),
        (61, 60, 120),
        (119, 60, 120),
        (500, 480, 540),
        (23 * 60 + 25, 23 * 60, 23 * 60 + 30),
        (23 * 60 + 35, 23 * 60 + 30, 24 * 60),
    ],
)
def test_looks_follow_a_run_after_5_20_and_60_minutes_and_hourly(now: float, last: float | None, following: float):
    """The next window opens 23 hours and 50 minutes after the run's end, and a look is due 20 minutes before."""
    assert last_look(ENDED, OPENS, after(now)) == (None if last is None else after(last))
    assert next_look(ENDED, OPENS, after(now)) == after(following)


@given(minutes=MINUTES)
def test_no_look_is_left_out_between_the_last_and_the_next(minutes: int):
    following = next_look(ENDED, OPENS, after(minutes))
    assert last_look(ENDED, OPENS, following) == following
    assert last_look(ENDED, OPENS, following - timedelta.resolution) == last_look(ENDED, OPENS, after(minutes))
    assert timedelta() < following - after(minutes) <= timedelta(hours=1)


def test_a_window_that_opened_before_the_run_ended_has_no_look_before_it():
    assert last_look(ENDED, ENDED + BEFORE_WINDOW, after(1)) is None


def test_a_look_overlaps_with_the_last_complete_one_but_asks_for_no_more_than_is_kept():
    kept = timedelta(days=3)
    assert asked_since(None, kept, OPENS) == OPENS - kept
    assert asked_since(ENDED, kept, OPENS) == ENDED - OVERLAP
    assert asked_since(ENDED - 9 * kept, kept, OPENS) == OPENS - kept
    assert asked_since(OPENS + kept, kept, OPENS) == OPENS - OVERLAP, "the clock was set back"
