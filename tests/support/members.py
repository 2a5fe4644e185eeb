"""Invented processes that work on a day."""

from datetime import UTC, date, datetime, timedelta

from notifierd.model.counts import Tallies
from notifierd.model.delivery import Channel, State
from notifierd.store.history import MemberLine
from tests.support.samples import DAY


def a_member(number: int = 1, *, rate: float = 41.5, day: date = DAY) -> MemberLine:
    """A process that works on a day; number 1 leads it."""
    nine = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return MemberLine(
        day=day,
        name=f"web{number}:81{number}:5f3a09c{number}",
        host=f"web{number}",
        version="0.1.0",
        leads=number == 1,
        email=3,
        push=10,
        per_second=0.0,
        joined_at=nine,
        renewed_at=nine + timedelta(minutes=4),
        done=Tallies({(Channel.EMAIL, State.SENT): 490, (Channel.PUSH, State.GONE): 10}, 512, 6, rate),
    )
