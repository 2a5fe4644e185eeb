"""How much of the server each kind of request may have, so that none takes what another needs, or a run's time.

A connection has a place among those that wait as long as its next request is on its way, and among those that are
answered afterwards. Who waits longest has to go when another one comes and there is no place left: so connections that
say nothing, or say it slowly, cost themselves alone. Answers have a pace: whoever asks faster than that waits for it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio
from attrs import Factory, define, field, frozen


@frozen
class Kind:
    """A kind of request.

    Attributes:
        waiting: how many connections may wait for their next request, whose last one was of this kind.
        answered: how many requests may be answered at once.
        per_second: how many answers are begun in a second, in the long run.
        burst: how many at once, after a quiet time.
    """

    name: str
    waiting: int
    answered: int
    per_second: float
    burst: int


STRANGER = Kind("stranger", waiting=256, answered=128, per_second=100.0, burst=100)
"""Without a token or session; and every connection until its first request has come: at http.CONNECTIONS_PER_SECOND it
has more than a second for that."""

ALIVE = Kind("alive", waiting=16, answered=64, per_second=100.0, burst=50)
READY = Kind("ready", waiting=16, answered=64, per_second=50.0, burst=50)
METRICS = Kind("metrics", waiting=16, answered=16, per_second=10.0, burst=20)

READER = Kind("reader", waiting=64, answered=150, per_second=20.0, burst=200)
"""Of pages, by whoever may see them. A page takes some 10 ms, and at a run's end a hundred open ones ask for it."""


@define
class Pace:
    """So many turns in a second, and a *burst* of them after a quiet time (the generic cell rate algorithm)."""

    per_second: float
    burst: int
    _next: float = -float("inf")
    """When the next turn would be, were there no burst."""

    async def turn(self) -> None:
        """Wait for a turn; first come, first served."""
        now = trio.current_time()
        self._next = max(self._next, now - self.burst / self.per_second) + 1 / self.per_second
        if self._next > now:
            await trio.sleep_until(self._next)


@define
class Places:
    """Who has a place now."""

    _waiting: dict[Kind, dict[trio.CancelScope, None]] = field(factory=dict)
    """The longest first."""
    _answered: Counter[Kind] = Factory(Counter)
    _paces: dict[Kind, Pace] = field(factory=dict)

    @contextmanager
    def waiting(self, kind: Kind, seconds: float) -> Iterator[None]:
        """Have a place to wait, for *seconds* at most; the block is left when they are over, or the place is lost."""
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
        """Have a place and a turn to be answered; False if there is no place."""
        if self._answered[kind] >= kind.answered:
            yield False
            return
        self._answered[kind] += 1
        try:
            await self._paces.setdefault(kind, Pace(kind.per_second, kind.burst)).turn()
            yield True
        finally:
            self._answered[kind] -= 1
