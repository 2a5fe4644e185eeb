"""The facts that an office's calls are made from, and how old they may be."""

from collections.abc import Sequence
from datetime import date

import trio
from attrs import define, evolve, field

from notifierd.model.delivery import Delivery
from notifierd.model.message import Mail
from notifierd.model.office import OfficeWork
from notifierd.run.calls import Call, Prepared, describe, prepare
from notifierd.run.context import RunContext
from notifierd.run.portions import AT_ONCE, Portion, by_destination, route_of, sample

MOST_AGE = 5.0
"""The highest age of facts, in seconds, at which a call that is made from them may begin."""

FRESH = 4.5
"""The highest age of facts, in seconds, at which a call that is made from them may be reserved. The rest of MOST_AGE
is enough for nearly every reservation; after a longer one, `Facts.bear_out` reads the facts again."""


AT_A_TIME = 10
"""Deliveries that are described between two checkpoints. Each checkpoint takes about as long as a description; without
any, no call of another office could begin before all deliveries of this one are described."""


@define(eq=False)
class Facts:
    """The facts of one office, which its calls share: a call that needs newer ones reads them for all."""

    _work: OfficeWork
    _day: date
    _context: RunContext
    _reading: trio.Lock = field(factory=trio.Lock)

    async def portions(self, since: float) -> list[list[Portion]]:
        """Divide the office's deliveries into portions, a list for each destination. *since*: see `prepare`.

        The portions of a list are to be prepared one after the other. A small office is one portion.

        Raises:
            DatabaseError: see `prepare`.
        """
        deliveries = self._work.deliveries
        if len(deliveries) <= AT_ONCE:
            return [[deliveries]]
        work, routes, mail = await self._read(since), {}, None
        for nth, delivery in enumerate(deliveries, 1):
            message = sample(delivery, work, self._day, self._context, mail)
            if message is not None:
                routes[delivery.id] = route_of(delivery, message, self._context)
                mail = message if isinstance(message, Mail) else mail
            if nth % AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return by_destination(deliveries, routes, self._context)

    async def prepare(self, deliveries: Sequence[Delivery], since: float) -> Prepared:
        """Prepare *deliveries* of the office, by facts that were read at *since* (by Trio's clock) or later.

        Raises:
            DatabaseError: the facts were older, and could not be read again.
        """
        work = evolve(await self._read(since), deliveries=tuple(deliveries))
        described = {}
        for nth, delivery in enumerate(deliveries, 1):
            described[delivery] = describe(delivery, work, self._day, self._context)
            if nth % AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return prepare(work, described, self._context)

    async def bear_out(self, call: Call) -> bool:
        """Whether a reserved call may be made: facts of the last MOST_AGE seconds still give the same call.

        If an office takes longer to read than MOST_AGE, it cannot be notified, and the log reports that.

        Raises:
            DatabaseError: its facts became too old during the reservation, and could not be read again.
        """
        if _age(call) <= MOST_AGE:
            return True
        todo = await self.prepare(call.tried, since=trio.current_time() - FRESH)
        if trio.current_time() - self._work.as_of > MOST_AGE:
            self._context.progress.trouble.too_late("reading", self._work.id)
        return any(again.says_the_same(call) and _age(again) <= MOST_AGE for again in todo.calls)

    async def _read(self, since: float) -> OfficeWork:
        """The facts, as they were at *since* or later."""
        async with self._reading:
            if self._work.as_of < since:
                self._work = await self._context.source.read_again(self._work, self._day, self._context.rules)
        return self._work


def _age(call: Call) -> float:
    return trio.current_time() - call.as_of
