"""The one place of a process that writes a run's deliveries: reservations before a call, settlements after it.

Both arrive over memory channels and share statements (group commit). A reservation holds a slot, and shares its
statement only with others that wait already; settlements are gathered for GATHER seconds.
The recorder writes everything that it was given, even if the run is cancelled: its loops are shielded, and the shield
has a deadline.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date
from functools import partial
from uuid import UUID

import structlog
import trio
from attrs import define, field

from notifierd.model.delivery import Delivery, Reservation, Settlement
from notifierd.model.errors import LedgerUnavailable, StatementRefused
from notifierd.run.progress import Progress, keep_deadline
from notifierd.run.record.outcomes import ENOUGH, MOST_TOGETHER, OutcomeWriter
from notifierd.store.ledger import Ledger

FEW, WHILE = 30, 0.1
"""Reservations, and seconds. If the last FEW reservations took longer than WHILE to arrive, none waits to share a
statement, and each statement takes half of those that wait. Calls whose answers came together then begin their next
calls one after the other, so that the next answers are spread, too, and find the processor free. If more reservations
arrive, sharing statements is worth more."""
SLOW = 0.01
"""Seconds. After a statement that took longer, sharing the next one is worth more, too. The first statement is shared,
as nothing is known about its duration."""
JOIN_TURNS = 10
"""Scheduler checkpoints before a statement that is worth sharing is sent, less than a millisecond: calls whose answers
came together are then reserved together."""
GATHER = 0.05
MOST_UNWRITTEN = 2000
"""The most outcomes that wait to be written before new calls must wait. A process that dies leaves them in doubt."""
LONGEST_OWED = 300.0
"""Seconds for which a run that is otherwise over still tries to write audit rows that the database refuses."""
LONGEST_ASIDE = 60.0
"""Seconds for which a run that was cut, for example by the loss of its lease, still tries to write outcomes that the
database refuses: about as long as other processes leave their rows alone. Then the next run of this process may begin;
the process still knows these outcomes. So one row that is locked for hours does not keep all others from being sent."""
PATIENCE = 2.0
ANSWER_SECONDS = 5.0
"""Seconds for which a cancelled reservation waits for its answer, if a stop allows that. Over a broken connection, the
answer never comes."""

log = structlog.get_logger(__name__)


@define
class _Request:
    """A reservation that a task waits for."""

    reservation: Reservation
    granted: bool = False
    error: LedgerUnavailable | StatementRefused | None = None
    answered: trio.Event = field(factory=trio.Event)


@define
class Recorder:
    """See the module. Made by ``open_recorder``."""

    _ledger: Ledger
    _day: date
    _holder: str
    _progress: Progress
    _last_moment: Callable[[float], float]
    _requests: tuple[trio.MemorySendChannel[_Request], trio.MemoryReceiveChannel[_Request]] = field(
        factory=lambda: trio.open_memory_channel[_Request](0)
    )
    # Unbounded: an outcome that waits for room could be lost to a cancellation. MOST_UNWRITTEN and the calls in flight
    # bound it all the same, since no other call begins then.
    _settlements: tuple[
        trio.MemorySendChannel[Sequence[Settlement]], trio.MemoryReceiveChannel[Sequence[Settlement]]
    ] = field(factory=lambda: trio.open_memory_channel[Sequence[Settlement]](math.inf))
    _handed_on: int = 0
    _written: int = 0
    _forgotten: int = 0
    _longest_aside: float = math.inf
    _writer: OutcomeWriter = field(init=False)
    _closed: trio.Event = field(factory=trio.Event)
    _shield: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True))

    def __attrs_post_init__(self) -> None:
        self._writer = OutcomeWriter(self._ledger, self._progress)

    async def reserve(self, reservation: Reservation) -> bool:
        """Reserve a call, and return whether it may be made. Its deliveries are then marked as being sent.

        The caller holds the limiter's slot, and makes the request right afterwards.

        Raises:
            LedgerUnavailable: PostgreSQL could not be reached; the call must not be made.
            StatementRefused: PostgreSQL refused the statement; the call must not be made.
        """
        while self._unwritten > MOST_UNWRITTEN:
            await self._writer.changed.park()
        request = _Request(reservation)
        await self._requests[0].send(request)
        try:
            await request.answered.wait()
        except trio.Cancelled:  # if the call is granted, its deliveries must be put back to planned
            now = trio.current_time()
            with trio.CancelScope(shield=True, deadline=min(now + ANSWER_SECONDS, self._last_moment(now))):
                await request.answered.wait()
            if not request.answered.is_set():
                raise
        if request.error is not None:
            raise request.error
        return request.granted

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Hand on settlements to be written. Never wait, so that no known outcome is lost to a cancellation."""
        if settlements:
            self._handed_on += len(settlements)
            self._settlements[0].send_nowait(settlements)

    def settle_forgotten(self, deliveries: Iterable[Delivery]) -> set[UUID]:
        """Settle again those of *deliveries* that are due and that this process wrote as sent before; return their ids.

        The database forgot them: a replica without the last commits took over, or a backup was restored.
        """
        sent = self._progress.metrics.sent
        again = [settlement for d in deliveries if d.due and (settlement := sent.again(d))]
        self._forgotten += len(again)
        self.settle(again)
        return {settlement.delivery.id for settlement in again}

    def has_unwritten(self, delivery: Delivery) -> bool:
        """Whether an outcome of *delivery* is known here and the database refuses to write it at the moment."""
        return self._writer.has_unwritten(delivery.id)

    def offices_unwritten(self) -> set[UUID]:
        """The offices of which the database refuses to write an outcome at the moment."""
        return self._writer.offices_aside()

    def waiting(self) -> dict[str, int]:
        """How many tasks wait for a reservation, and how many settlements are not written yet."""
        return {"reserving": self._requests[0].statistics().tasks_waiting_send, "unwritten": self._unwritten}

    async def settled(self) -> bool:
        """Wait up to PATIENCE seconds for outcomes that the database refused; return whether all are written."""
        with trio.move_on_after(PATIENCE):
            await self._writer.settled()
        return not self._writer.aside

    @property
    def handed_on(self) -> int:
        """How many settlements were handed on so far."""
        return self._handed_on

    @property
    def written(self) -> int:
        """How many of them are written or refused: always the first ones."""
        return self._written

    async def flush(self) -> None:
        """Wait until everything that was handed on so far is written or refused; later settlements do not count."""
        mark = self._handed_on
        while self._written < mark:
            await self._writer.changed.park()

    @property
    def _unwritten(self) -> int:
        return self._handed_on - self._written + self._writer.aside

    async def run(self) -> None:
        """Write until the recorder is closed and everything is written, or the time for that is up."""
        with self._shield:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.retry)
                nursery.start_soon(self._end_in_time)
                async with trio.open_nursery() as first:
                    first.start_soon(self._reserve_all)
                    first.start_soon(self._settle_all)
                with trio.move_on_after(self._longest_aside):
                    await self._writer.settled()
                with trio.move_on_after(LONGEST_OWED):
                    await self._writer.complete()
                nursery.cancel_scope.cancel()
        self._writer.remember()
        if self._forgotten:
            log.error("ledger_forgot", deliveries=self._forgotten)
        if self._unwritten:
            log.error("outcomes_not_written", deliveries=self._unwritten)
        if self._writer.unwritten_extras:
            log.error("audit_rows_not_written", deliveries=self._writer.unwritten_extras)

    def close(self, *, cut: bool) -> None:
        """Accept nothing more. What was handed on is written until the last moment.

        Args:
            cut: whether the run was cut short, and may be resumed later.
        """
        if cut:
            self._longest_aside = LONGEST_ASIDE
        self._requests[0].close()
        self._settlements[0].close()
        self._closed.set()

    async def _end_in_time(self) -> None:
        await self._closed.wait()
        await keep_deadline(self._shield, partial(self._last_moment, trio.current_time()))

    async def _reserve_all(self) -> None:
        requests = self._requests[1]
        took = math.inf
        last = deque[float](maxlen=FEW)
        async for first in requests:
            batch = [first]
            try:
                together = took > SLOW or (len(last) == FEW and trio.current_time() - last[0] < WHILE)
                for _ in range(JOIN_TURNS * together):
                    await trio.lowlevel.checkpoint()
                waiting = requests.statistics().tasks_waiting_send
                batch += [requests.receive_nowait() for _ in range(waiting if together else waiting // 2)]
                began = trio.current_time()
                last.extend([began] * len(batch))
                if not await self._reserved(batch) and len(batch) > 1:
                    await self._reserve_one_by_one(batch)
                took = trio.current_time() - began
            finally:  # whatever happens here, no task waits for ever
                for request in batch:
                    request.answered.set()

    async def _reserve_one_by_one(self, batch: Sequence[_Request]) -> None:
        """Reserve each of *batch*: one of them may be why it was refused. If none is, stop after ENOUGH refusals."""
        in_a_row = 0
        for request in batch:
            in_a_row = 0 if await self._reserved([request]) else in_a_row + 1
            if in_a_row == ENOUGH and request.error and not request.error.about_row:
                return

    async def _reserved(self, batch: Sequence[_Request]) -> bool:
        """Reserve *batch* in one statement, and answer each request; return False if the database refused it."""
        granted: set[UUID] = set()
        error: LedgerUnavailable | StatementRefused | None = None
        try:
            granted = await self._ledger.reserve(self._day, self._holder, [r.reservation for r in batch])
        except (LedgerUnavailable, StatementRefused) as caught:
            error = caught
        if error is None:
            self._progress.passed("reservations")
        for request in batch:
            request.granted, request.error = request.reservation.call_id in granted, error
        return not isinstance(error, StatementRefused)

    async def _settle_all(self) -> None:
        async for first in self._settlements[1]:
            batch = [*first]
            self._gather(batch)
            if len(batch) < MOST_TOGETHER:
                await trio.sleep(GATHER)
                self._gather(batch)
            await self._writer.write(batch)
            self._written += len(batch)
            self._writer.changed.unpark_all()

    def _gather(self, batch: list[Settlement]) -> None:
        """Add the settlements that wait already to *batch*."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(batch) < MOST_TOGETHER:
                batch += self._settlements[1].receive_nowait()


@asynccontextmanager
async def open_recorder(
    ledger: Ledger, day: date, holder: str, progress: Progress, *, last_moment: Callable[[float], float]
) -> AsyncIterator[Recorder]:
    """Open a recorder for a run of *day*.

    Args:
        progress: counts each settlement that is written.
        last_moment: gives the last moment for writing, by Trio's clock; its argument is when the recorder was closed.
            It is asked repeatedly, as a signal may change the answer.
    """
    recorder = Recorder(ledger, day, holder, progress, last_moment)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        ended = False
        try:
            yield recorder
            ended = True
        finally:
            recorder.close(cut=not ended)
