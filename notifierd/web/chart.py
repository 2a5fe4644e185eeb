"""The last days as a bar chart: pure geometry, COLUMN units wide for each day and HEIGHT units high."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

from attrs import frozen

from notifierd.store.history import Day

COLUMN: Final = 10
GAP: Final = 2
HEIGHT: Final = 100
LEAST: Final = 3.0
"""The least height of a bar that is not zero, in units, so that it is visible."""


@frozen
class Bar:
    """One day: its column begins at *x*; the bar of lost deliveries stands on that of sent ones."""

    day: date
    x: int
    found: Day | None
    sent: int
    lost: int
    sent_height: float
    lost_height: float


@frozen
class Chart:
    """The bars, the oldest first."""

    bars: tuple[Bar, ...]
    most: int

    @property
    def width(self) -> int:
        return COLUMN * len(self.bars)

    @property
    def lost(self) -> int:
        return sum(bar.lost for bar in self.bars)


def chart(days: Sequence[Day], last: date, count: int) -> Chart:
    """Return the chart of the *count* days up to *last*; *days* has those with a record."""
    known = {day.day: day for day in days}
    every = [last - timedelta(days=n) for n in reversed(range(count))]
    figures = [_figures(known.get(day)) for day in every]
    most = max(*map(sum, figures), 1)
    bars = (
        Bar(day, COLUMN * n, known.get(day), sent, lost, _height(sent, most), _height(lost, most))
        for n, (day, (sent, lost)) in enumerate(zip(every, figures, strict=True))
    )
    return Chart(tuple(bars), most)


def _figures(day: Day | None) -> tuple[int, int]:
    return (day.email.sent + day.push.sent, day.email.lost + day.push.lost) if day else (0, 0)


def _height(number: int, most: int) -> float:
    """Return the height for *number* deliveries: *most* fill the box, less the room that two least heights may need."""
    return round(max(LEAST, (HEIGHT - 2 * LEAST) * number / most), 2) if number else 0.0
