"""Log each trouble of a run, with the database or with a call, only once, however many tries it affects."""

from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog
import trio
from attrs import define, field

CALM = 5.0
"""Seconds without a refusal after which the next statement that succeeds ends a trouble. A row that another program has
locked is refused again and again while other statements succeed: that is one trouble."""
MOST_REASONS = 2
"""The most reasons of one trouble that are logged: a database that restarts may give a dozen."""
MOST_SLOW = 10
"""Offices of a run that get a line because reading them takes too long: a slow database may be slow for all."""
MOST_NAMED = 10_000
"""Offices and people whose calls in trouble are remembered, some 3 MB."""

log = structlog.get_logger(__name__)


@define
class DatabaseTrouble:
    """The current trouble with the database, if there is any, as all parts of a run meet it."""

    _began: float | None = None
    _last: float = 0.0
    _refusals: int = 0
    _reasons: set[str] = field(factory=set)
    _waiting: dict[str, str] = field(factory=dict)
    """What waits, and the reason."""
    _slow: set[UUID] = field(factory=set)

    @property
    def waiting_for(self) -> str:
        """Why something waits at the moment; empty if nothing waits."""
        return next(reversed(self._waiting.values()), "")

    def met(self, what: str, reason: str) -> None:
        """Note that the database did not carry out *what*; log it if the trouble or its reason is new."""
        self._last = trio.current_time()
        if self._began is None:
            self._began = self._last
        self._refusals += 1
        if reason not in self._reasons and len(self._reasons) < MOST_REASONS:
            self._reasons.add(reason)
            log.warning("waiting_for_database", reason=reason, what=what)

    def too_late(self, what: str, office: UUID) -> None:
        """Note that the database's answer to *what* came too late to be used for *office*: a line for each office."""
        if office not in self._slow and len(self._slow) < MOST_SLOW:
            self._slow.add(office)
            log.error("waiting_for_database", reason="database_unavailable:timeout", what=what)

    def waits(self, what: str, reason: str) -> None:
        """Note that *what* waits for the database, until `passed` is called or its `place` ends."""
        self._waiting[what] = reason

    @contextmanager
    def place(self, what: str) -> Iterator[None]:
        """Forget that *what* waits when the block ends, however it ends."""
        try:
            yield
        finally:
            self._waiting.pop(what, None)

    def passed(self, what: str) -> None:
        """Note that the database carried out *what*; log it if that ends the trouble."""
        self._waiting.pop(what, None)
        if self._began is not None and not self._waiting and trio.current_time() - self._last >= CALM:
            self.over()

    def over(self) -> None:
        """End the trouble, if there is one and nothing waits."""
        if self._began is not None and not self._waiting:
            seconds = round(self._last - self._began, 1)
            log.info("database_back", seconds=seconds, refusals=self._refusals)
            self._began, self._refusals = None, 0
            self._reasons.clear()


@define
class CallTroubles:
    """Which calls in trouble have a line in a run's log. The metrics count them all."""

    _named: set[Hashable] = field(factory=set)

    def are_new(self, office: UUID, destination: str, sender: str, troubled: Collection[tuple[UUID, str]]) -> bool:
        """Note a call in trouble; return whether it gets a line of its own.

        An office gets one line for each destination and set of reasons. A call gets none if all people whom it concerns
        were named before with the same sender and reason: one person may have many devices, and be a member of many
        offices.

        Args:
            troubled: who was not reached, with the reason.
        """
        call: Hashable = office, destination, frozenset(reason for _, reason in troubled)
        people: set[Hashable] = {(sender, person, reason) for person, reason in troubled}
        new = call not in self._named and not people <= self._named
        if len(self._named) + len(people) >= MOST_NAMED:
            self._named.clear()
        self._named |= {call, *people}
        return new
