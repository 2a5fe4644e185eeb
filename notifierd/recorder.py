"""The one place of a process that writes a run's deliveries: reservations before a call, settlements after it.

Both arrive over memory channels and share statements (group commit): reservations, for which slots are held, with
others that wait already; settlements gather for GATHER seconds.
What is handed to the recorder is written, even if the run is cancelled: its loops are shielded, and the shield has a
deadline.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date
from uuid import UUID

import structlog
import trio
from attrs import define, field

from notifierd.errors import LedgerUnavailable, StatementRefused
from notifierd.ledger import Ended, Ledger
from notifierd.model import OPEN, Delivery, Reservation, Settlement, State
from notifierd.progress import Progress

FEW, WHILE = 30, 0.1
"""As long as so many reservations take more seconds than that to come, none waits for others that it could share a
statement with, and of those that have to wait, half go at a time. Calls whose answers came together then begin their
next ones one after the other, so that the next answers come so too, and find the processor free. Where there are more,
sharing statements is worth more."""
SLOW = 0.01
"""Seconds from which on a statement takes so long that sharing the next one is worth more, too; so is the first one,
before which nobody knows how long they take."""
JOIN_TURNS = 10
"""Turns that all other tasks get before a statement goes for which it is worth waiting, less than a millisecond: calls
whose answers came together begin their next ones together."""
GATHER = 0.05
MOST_TOGETHER = 500
MOST_UNWRITTEN = 2000
"""Outcomes that may wait to be written before calls wait for them: what a dying process would leave in doubt."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
STUCK_PAUSE = 2.0
ANSWER_SECONDS = 5.0
"""How long a cancelled reservation waits for its answer: a database that a broken line leads to never gives one."""

REACHED_NOBODY = (State.FAILED, State.UNKNOWN)

log = structlog.get_logger(__name__)


@define
class _Request:
    """A reservation that somebody waits for."""

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
    _requests: tuple[trio.MemorySendChannel[_Request], trio.MemoryReceiveChannel[_Request]] = field(
        factory=lambda: trio.open_memory_channel[_Request](0)
    )
    # Unbounded, as no outcome may wait for room and be lost to a cancellation there. What it can hold is bounded all
    # the same: by MOST_UNWRITTEN and the calls in flight, since no other begins then.
    _settlements: tuple[
        trio.MemorySendChannel[Sequence[Settlement]], trio.MemoryReceiveChannel[Sequence[Settlement]]
    ] = field(factory=lambda: trio.open_memory_channel[Sequence[Settlement]](math.inf))
    _handed_on: int = 0
    _written: int = 0
    _just_written: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    _stuck: set[UUID] = field(factory=set)
    _nursery: trio.Nursery | None = None
    _shield: trio.CancelScope = field(factory=lambda: trio.CancelScope(shield=True))

    async def reserve(self, reservation: Reservation) -> bool:
        """Whether the call may be made: its deliveries are then marked as being sent.

        To be called with the limiter's slot in hand, right before the request.

        Raises:
            LedgerUnavailable: PostgreSQL could not be reached; the call must not be made.
            StatementRefused: it refused; the same.
        """
        while self._unwritten > MOST_UNWRITTEN:
            await self._just_written.park()
        request = _Request(reservation)
        await self._requests[0].send(request)
        try:
            await request.answered.wait()
        except trio.Cancelled:  # a granted call must be known here: what is not made is put back to planned
            with trio.move_on_after(ANSWER_SECONDS, shield=True):
                await request.answered.wait()
            if not request.answered.is_set():
                raise
        if request.error is not None:
            raise request.error
        return request.granted

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Hand on how tries ended. Never waits, so that nothing known is lost to a cancellation."""
        if settlements:
            self._handed_on += len(settlements)
            self._settlements[0].send_nowait(settlements)

    def holds(self, delivery: Delivery) -> bool:
        """Whether an outcome of *delivery* is known here, and another program's lock keeps it from being written."""
        return delivery.id in self._stuck

    def waiting(self) -> dict[str, int]:
        """How many tasks wait for a reservation, and how many settlements are not written yet."""
        return {
            "reserving": self._requests[0].statistics().tasks_waiting_send,
            "unwritten": self._unwritten + len(self._stuck),
        }

    async def flush(self) -> None:
        """Wait until all that was handed on so far is written, whatever comes after it."""
        mark = self._handed_on
        while self._written < mark:
            await self._just_written.park()

    @property
    def _unwritten(self) -> int:
        return self._handed_on - self._written

    async def run(self) -> None:
        """Write until closed and all is written, or the time for it is up."""
        with self._shield:
            async with trio.open_nursery() as self._nursery:
                nursery = self._nursery
                nursery.start_soon(self._reserve_all)
                nursery.start_soon(self._settle_all)
        if self._unwritten or self._stuck:
            log.error("outcomes_not_written", deliveries=self._unwritten + len(self._stuck))

    def close(self, last_moment: float) -> None:
        """Take nothing more; what was handed on is written until *last_moment*, by Trio's clock."""
        self._requests[0].close()
        self._settlements[0].close()
        self._shield.deadline = last_moment

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
                    for request in batch:  # one of them is what the lot was refused for
                        await self._reserved([request])
                took = trio.current_time() - began
            finally:  # whatever happens here, nobody waits for ever
                for request in batch:
                    request.answered.set()

    async def _reserved(self, batch: Sequence[_Request]) -> bool:
        """Put the ledger's answer into each request of *batch*; False if it refused the statement."""
        granted: set[UUID] = set()
        error: LedgerUnavailable | StatementRefused | None = None
        try:
            granted = await self._ledger.reserve(self._day, self._holder, [r.reservation for r in batch])
        except (LedgerUnavailable, StatementRefused) as caught:
            error = caught
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
            await self._write(batch)
            self._written += len(batch)
            self._just_written.unpark_all()

    def _gather(self, batch: list[Settlement]) -> None:
        """Add what is there to *batch*."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(batch) < MOST_TOGETHER:
                batch += self._settlements[1].receive_nowait()

    async def _write(self, batch: Sequence[Settlement]) -> None:
        """Settle the lot; if the database refuses it, one by one; if it refuses one, that one without its extras."""
        try:
            await self._insist(batch)
        except StatementRefused as refused:
            log.warning("settlements_refused", reason=refused.reason, deliveries=len(batch))
            for settlement in batch:
                await self._write_one(settlement)

    async def _write_one(self, settlement: Settlement) -> None:
        labels = _labels(settlement)
        try:
            await self._insist([settlement])
        except StatementRefused as refused:
            log.error("audit_row_refused", refused=refused.reason, **labels)  # noqa: TRY400 - its text quotes the row
            try:
                await self._insist([settlement], bare=True)
            except StatementRefused as worse:
                log.error("settlement_refused", refused=worse.reason, **labels)  # noqa: TRY400 - the same
                if worse.transient and self._nursery is not None:
                    self._nursery.start_soon(self._write_stuck, settlement)

    async def _write_stuck(self, settlement: Settlement) -> None:
        """Write what another program's lock is in the way of, when that is gone. Nothing else waits for it."""
        key = settlement.delivery.id
        self._stuck.add(key)
        while key in self._stuck:
            await trio.sleep(STUCK_PAUSE)
            with suppress(StatementRefused):
                await self._insist([settlement])
                self._stuck.remove(key)

    def _wrote(self, batch: Sequence[Settlement], late: Container[UUID]) -> None:
        """Count what *batch* ended; the outcomes of deliveries that are *late* ended nothing."""
        self._progress.written += len(batch)
        ended = Ended()
        for settlement in batch:
            if settlement.delivery.id in late:
                log.warning("late_outcome", delivery=str(settlement.delivery.id))
                continue
            if settlement.state not in OPEN:
                ended[settlement.delivery.channel, settlement.state] += 1
            if settlement.state in REACHED_NOBODY:
                log.warning("not_delivered", **_labels(settlement))
        self._progress.end(ended)

    async def _insist(self, batch: Sequence[Settlement], *, bare: bool = False) -> None:
        """Settle, however long the database is out of reach; the shield's deadline ends it."""
        pause = FIRST_PAUSE
        while True:
            try:
                late = await self._ledger.settle(batch, bare=bare)
            except LedgerUnavailable as unavailable:
                log.warning("waiting_for_database", reason=unavailable.reason, unwritten=self._unwritten)
                await self._progress.wait(pause, unavailable.reason)
                pause = min(LONGEST_PAUSE, pause * 2)
            else:
                self._progress.waiting_for = ""
                self._wrote(batch, late)
                return


def _labels(settlement: Settlement) -> dict[str, str]:
    """A settlement as fields of a log line."""
    delivery = settlement.delivery
    labels = {"delivery": delivery.id, "office": delivery.office_id, "channel": delivery.channel}
    return {key: str(label) for key, label in (labels | {"reason": settlement.reason}).items()}


@asynccontextmanager
async def open_recorder(
    ledger: Ledger, day: date, holder: str, progress: Progress, *, last_moment: Callable[[], float]
) -> AsyncIterator[Recorder]:
    """A recorder for the length of a run of *day*.

    Args:
        progress: is told of each settlement when it is written.
        last_moment: until when, by Trio's clock, writing may go on at the end, once nothing more is handed on.
    """
    recorder = Recorder(ledger, day, holder, progress)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        try:
            yield recorder
        finally:
            recorder.close(last_moment())
