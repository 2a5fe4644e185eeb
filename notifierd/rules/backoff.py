"""Growing pauses between tries that fail. Pure."""

from collections.abc import Iterator
from itertools import count

from attrs import frozen

_MOST_DOUBLINGS = 64


@frozen
class Backoff:
    """Pauses in seconds: the *first* one, then each twice as long as the one before, up to the *longest*."""

    first: float
    longest: float

    def pause(self, nth: int) -> float:
        """The pause after the *nth* failure in a row, counted from 1."""
        return min(self.longest, self.first * 2.0 ** (min(nth, _MOST_DOUBLINGS) - 1))

    def pauses(self) -> Iterator[float]:
        """The pauses after one failure, two failures in a row, and so on; without end."""
        return map(self.pause, count(1))
