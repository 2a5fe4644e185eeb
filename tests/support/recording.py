"""A recorder over a ledger in memory, as the tests of what it writes use it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import trio
from attrs import define, evolve

from notifierd.model.delivery import Delivery, Reservation, Settlement, State
from notifierd.rules.due import Rules
from notifierd.run.progress import Progress
from notifierd.run.record.recorder import Recorder, open_recorder
from tests.support.samples import DAY
from tests.support.scripted_senders import ShakyLedger

FOR_EVER = 10_000.0
"""Seconds: more than any test of the recorder takes."""


@define
class Desk:
    """A recorder over a ledger with a planned day, and whom it tells what was settled."""

    ledger: ShakyLedger
    recorder: Recorder
    progress: Progress

    @property
    def settled(self) -> int:
        """How many deliveries it said were settled."""
        return self.progress.settled.total()

    @property
    def deliveries(self) -> list[Delivery]:
        """All of the day."""
        return [row.delivery for row in self.ledger.rows.values()]

    async def reserve(self, *deliveries: Delivery) -> bool:
        """Reserve a call of *deliveries*."""
        return await self.recorder.reserve(a_call(*deliveries))

    async def in_flight(self, count: int) -> list[Delivery]:
        """Reserve *count* deliveries, as they stand in the ledger then."""
        calls = [a_call(delivery) for delivery in self.deliveries[:count]]
        assert await self.ledger.reserve(DAY, "me", calls)
        self.ledger.reserved.clear()
        return [delivery for call in calls for delivery in call.deliveries]


def a_call(*deliveries: Delivery) -> Reservation:
    """A call of *deliveries*, each marked for its next try."""
    key = uuid4()
    marked = [evolve(d, state=State.SENDING, try_no=d.try_no + 1, call_id=key, call_tries=1) for d in deliveries]
    return Reservation(key, tuple(marked), b"hash", "scripted", 40.0)


def sent(delivery: Delivery) -> Settlement:
    """The provider took *delivery*."""
    return Settlement(delivery, delivery.try_no, State.SENT, audit={})


@asynccontextmanager
async def open_desk(
    ledger: ShakyLedger, grace: float = 10.0, last_moment: Callable[[float], float] | None = None
) -> AsyncIterator[Desk]:
    """A recorder over *ledger*, where the day is planned; it has *grace* seconds to write at the end.

    Who waits there for ever fails, as virtual time comes to FOR_EVER then.
    """
    await ledger.take_lease(DAY, "me")
    await ledger.plan(DAY, Rules())
    progress, until = Progress(), last_moment or (lambda ended: ended + grace)
    async with open_recorder(ledger, DAY, "me", progress, last_moment=until) as recorder:
        with trio.fail_after(FOR_EVER):
            yield Desk(ledger, recorder, progress)
