"""Quotas for each kind of request, so that no kind starves another, or takes time from a run.

A connection occupies a waiting place until its next request has arrived, and then an answering place. If all waiting
places are occupied, a new connection displaces the one that has waited longest: clients that are silent or slow only
displace each other. The rate of answers is limited: requests beyond it wait.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio
from attrs import Factory, define, field, frozen


@frozen
class Kind:
    """A kind of request, with its quota.

    Attributes:
        waiting: the most connections that wait for their next request, by the kind of their last one.
        answered: the most requests that are answered at once.
        per_second: the most answers that begin per second, on average.
        burst: the most that begin at once, after a quiet time.
    """

    name: str
    waiting: int
    answered: int
    per_second: float
    burst: int


STRANGER = Kind("stranger", waiting=384, answered=128, per_second=100.0, burst=100)
"""Requests without a token or session, and every connection before its first request, which has three quarters of a
second to arrive at http.CONNECTIONS_PER_SECOND."""

ALIVE = Kind("alive", waiting=16, answered=64, per_second=100.0, burst=50)
READY = Kind("ready", waiting=16, answered=64, per_second=50.0, burst=50)
METRICS = Kind("metrics", waiting=16, answered=16, per_second=10.0, burst=20)

READER = Kind("reader", waiting=64, answered=150, per_second=20.0, burst=200)
"""Requests for pages by authorized readers. A page takes about 10 ms, and at the end of a run a hundred open pages ask
for it."""


@define
class Pace:
    """A rate limit with a *burst* after a quiet time (the generic cell rate algorithm)."""

    per_second: float
    burst: int
    _next: float = -float("inf")
    """When the next turn would be without a burst."""

    async def turn(self) -> None:
        """Wait for a turn; first come, first served."""
        now = trio.current_time()
        self._next = max(self._next, now - self.burst / self.per_second) + 1 / self.per_second
        if self._next > now:
            await trio.sleep_until(self._next)


@define
class Places:
    """The occupied places."""

    _waiting: dict[Kind, dict[trio.CancelScope, None]] = field(factory=dict)
    """The connections that wait, the longest first."""
    _answered: Counter[Kind] = Factory(Counter)
    _paces: dict[Kind, Pace] = field(factory=dict)

    @contextmanager
    def waiting(self, kind: Kind, seconds: float) -> Iterator[None]:
        """Occupy a waiting place for at most *seconds*; leave the block at their end, or when the place is lost."""
        waiting = self._waiting.setdefault(kind, {})
        while len(waiting) >= kind.waiting:
            longest = next(iter(waiting))
            del waiting[longest]
            longest.cancel()
        with trio.move_on_after(seconds) as scope:
            waiting[scope] = None
            try:
                yield
            finally:
                waiting.pop(scope, None)

    @asynccontextmanager
    async def answered(self, kind: Kind) -> AsyncIterator[bool]:
        """Occupy an answering place, and wait for a turn; yield False if no place is free."""
        if self._answered[kind] >= kind.answered:
            yield False
            return
        self._answered[kind] += 1
        try:
            await self._paces.setdefault(kind, Pace(kind.per_second, kind.burst)).turn()
            yield True
        finally:
            self._answered[kind] -= 1
