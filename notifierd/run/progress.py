"""What a run reports while it goes on, and what a process counts over all its runs."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from uuid import UUID

import trio
from attrs import define, evolve, field

from notifierd.model.counts import Planned
from notifierd.model.delivery import Channel, Delivery, Settlement, State
from notifierd.model.errors import DatabaseError
from notifierd.rules.backoff import Backoff
from notifierd.run.trouble import CallTroubles, DatabaseTrouble

T = TypeVar("T")

SLICE = 1.0
"""The longest single wait of a run, in seconds. Longer waits are sliced, so that they count as progress and a change of
the clock is noticed."""


RETRIES = Backoff(first=0.5, longest=5.0)
"""Pauses before the next tries of a statement that the database does not carry out."""

CALL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RUN_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 10800.0)


@define
class Histogram:
    """Counts observations by the lowest bound that they do not exceed, and adds them up; in seconds."""

    bounds: tuple[float, ...]
    total: float = 0.0
    counts: Counter[int] = field(factory=Counter)
    """By the index of that bound; the index after the last one is for observations that exceed all bounds."""

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


MOST_REMEMBERED = 10_000
"""Deliveries: those of 20 s at 500 a second. A replica that takes over lacks less than that."""


@define
class Sent:
    """The deliveries that a process last wrote as sent, in case the database forgets them.

    Only a part of each settlement is kept: 10,000 settlements take 11 MB, and these parts less than half of that.
    """

    _last: dict[int, tuple[str | None, str | None, Mapping[str, object] | None]] = field(factory=dict)
    """By the delivery's id: provider, provider_message_id and audit."""

    def add(self, settlement: Settlement) -> None:
        """Remember *settlement*, which was written. If there are too many, forget the oldest one."""
        delivery = settlement.delivery
        self._last[delivery.id.int] = delivery.provider, settlement.provider_message_id, settlement.audit
        if len(self._last) > MOST_REMEMBERED:
            del self._last[next(iter(self._last))]

    def again(self, delivery: Delivery) -> Settlement | None:
        """The settlement of *delivery* as it was just read, if this process recently wrote it as sent."""
        if (known := self._last.get(delivery.id.int)) is None:
            return None
        provider, message_id, audit = known
        return Settlement(
            evolve(delivery, provider=provider),
            delivery.try_no,
            State.SENT,
            attempts=delivery.attempts,
            doubts=delivery.doubts,
            put_back=delivery.put_back,
            provider_message_id=message_id,
            audit=audit,
        )


@define
class ProcessMetrics:
    """The counts of a process over all its runs. No count ever decreases.

    Attributes:
        deliveries: how many it settled in the ledger, by the state that they ended in.
        runs: how many ended, by state: completed or interrupted; and how many days were found missed.
        run_seconds: how long those took.
        call_seconds: how long calls took, by sender.
        calls_in_trouble: calls with an outcome that was deferred, blocked or unknown, by sender.
        sent: the deliveries that it last wrote as sent.
    """

    deliveries: Counter[tuple[Channel, State]] = field(factory=Counter)
    runs: Counter[str] = field(factory=Counter)
    run_seconds: Histogram = field(factory=lambda: Histogram(RUN_SECONDS))
    call_seconds: dict[str, Histogram] = field(factory=lambda: defaultdict(lambda: Histogram(CALL_SECONDS)))
    calls_in_trouble: Counter[str] = field(factory=Counter)
    sent: Sent = field(factory=Sent)


@define
class Progress:
    """What a run has done so far in this process."""

    metrics: ProcessMetrics = field(factory=ProcessMetrics)
    has_day: bool = False
    """Whether this run took the lease on its day."""
    leads: bool = False
    """Whether this process leads the day: it plans, closes and ends it, and reports on it."""
    members: int = 0
    """How many processes work on the day, this one included."""
    granted: Mapping[Channel, int] = field(factory=dict)
    """How many calls at once this process may make, by channel."""
    all_done: int = 0
    """Offices that all of them have finished, as this process last counted; 0 if it does not lead."""
    planned: Planned | None = None
    offices_done: int = 0
    """Offices that were finished, counted again in each pass."""
    offices_failed: int = 0
    in_flight: dict[UUID, float] = field(factory=dict)
    """The offices in progress, and when the work on each began, by Trio's clock."""
    names: dict[UUID, str] = field(factory=dict)
    """The names of these offices, for the page. They are never logged."""
    settled: Counter[tuple[Channel, State]] = field(factory=Counter)
    written: int = 0
    """Settlements that the recorder wrote, whatever their state."""
    slice_seconds: float = SLICE
    """Seconds of one slice; more in a simulated run, whose clock nobody sets and whose progress nobody watches."""
    slices: int = 0
    """Slices of waits that are over."""
    withheld: int = 0
    """Mails that the pass skipped because they exceed the day's quota."""
    waiting_for: str = ""
    """What the run waits for at the moment, in words; empty if it waits for nothing."""
    trouble: DatabaseTrouble = field(factory=DatabaseTrouble)
    call_troubles: CallTroubles = field(factory=CallTroubles)
    channels: Callable[[], Mapping[str, int]] = dict
    """How much waits in the recorder's channels."""

    @property
    def steps(self) -> int:
        """A number that grows while the run makes progress."""
        return self.slices + self.offices_done + self.written

    def end(self, settled: Mapping[tuple[Channel, State], int]) -> None:
        """Count deliveries that ended, by channel and state."""
        self.settled.update(settled)
        self.metrics.deliveries.update(settled)

    def done(self, channel: Channel) -> int:
        """How many deliveries ended on *channel*."""
        return sum(n for (on, _), n in self.settled.items() if on is channel)

    def waits(self, what: str, reason: str) -> None:
        """Note that *what* waits for the database; see ``DatabaseTrouble.place``."""
        self.trouble.waits(what, reason)
        self._show_trouble()

    async def wait(self, seconds: float, what: str, reason: str) -> None:
        """Wait *seconds* before another try of *what*, which the database did not carry out."""
        self.waits(what, reason)
        await self.sleep(seconds)

    def passed(self, what: str) -> None:
        """Note that the database carried out *what*."""
        self.trouble.passed(what)
        self._show_trouble()

    def _show_trouble(self) -> None:
        reason = self.trouble.waiting_for
        self.waiting_for = f"the database ({reason})" if reason else ""

    async def sleep(self, seconds: float) -> None:
        """Sleep in slices, and count them."""
        ends = trio.current_time() + seconds
        while (left := ends - trio.current_time()) > 0:
            await trio.sleep(min(self.slice_seconds, left))
            self.slices += 1


async def retry_while_unavailable(progress: Progress, what: str, statement: Callable[[], Awaitable[T]]) -> T:
    """Make *statement*, after growing pauses again, until the database carries it out; *what* is its name in the log.

    Only a cancellation ends that earlier.

    Raises:
        StatementRefused: the database refused a row's content, so another try would not help.
    """
    pauses = RETRIES.pauses()
    with progress.trouble.place(what):
        while True:
            try:
                answer = await statement()
            except DatabaseError as error:
                if error.about_row:
                    raise
                progress.trouble.met(what, error.reason)
                await progress.wait(next(pauses), what, error.reason)
            else:
                progress.passed(what)
                return answer


async def keep_deadline(scope: trio.CancelScope, last_moment: Callable[[], float]) -> None:
    """Keep the deadline of *scope* at *last_moment*, by Trio's clock. Read it in every SLICE: a signal may move it."""
    while True:
        scope.deadline = last_moment()
        await trio.sleep(SLICE)
