"""The counts of the day so far: the process that leads keeps them in the ledger, for all who look at the day.

So neither the page nor `notifierd status` nor a scrape of the metrics reads the rows of a day that goes on.
"""

from contextlib import suppress
from datetime import date

import trio

from notifierd.model.errors import DatabaseError
from notifierd.run.context import RunContext
from notifierd.run.record.lease import Lease

COUNT_SECONDS = 5.0
"""Seconds between two counts."""
PAUSE_FACTOR = 30.0
"""Rule: the pause is at least thirty times as long as the count took, so that counting takes 3 % of one core of the
database. A million deliveries took about a second on a busy machine: such a day is counted each half minute."""


async def keep_interim(day: date, context: RunContext, lease: Lease) -> None:
    """Count the day again and again, as long as this process leads it, until cancelled."""
    shortest = pause = max(COUNT_SECONDS, context.progress.slice_seconds)
    while True:
        await trio.sleep(pause)
        if not lease.standing.leads:
            continue
        began = trio.current_time()
        with suppress(DatabaseError):  # the run's own statements tell of the database's trouble
            context.progress.all_done = await context.ledger.keep_interim(day, context.holder)
        pause = max(shortest, PAUSE_FACTOR * (trio.current_time() - began))
