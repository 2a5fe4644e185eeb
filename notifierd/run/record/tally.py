"""What a process has done on a day, as it tells with each renewal of its lease."""

from collections import deque

import trio
from attrs import define, field

from notifierd.model.counts import Tallies
from notifierd.run.progress import Progress

RATE_OVER = 60.0
"""The period in seconds over which the rate is averaged."""


@define
class Tally:
    """See the module. Lasts for a run."""

    _progress: Progress
    _samples: deque[tuple[float, int]] = field(factory=deque)
    """When renewals were made, and how many deliveries had ended by then; the first one is RATE_OVER ago or younger."""

    def __attrs_post_init__(self) -> None:
        self._samples.append((trio.current_time(), self._done))

    @property
    def _done(self) -> int:
        return sum(self._progress.settled.values())

    def now(self) -> Tallies:
        """Return what the process has done so far."""
        progress, now = self._progress, trio.current_time()
        self._samples.append((now, self._done))
        while now - self._samples[0][0] > RATE_OVER:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = (self._done - before) / (now - since) if now > since else 0.0
        return Tallies(dict(progress.settled), progress.offices_done, len(progress.in_flight), round(rate, 1))
