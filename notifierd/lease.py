"""The lease on a day: who has it may send; who cannot renew it stops before it runs out.

The ledger's statements check it too, by the database's clock, so that it fences: a process that was stopped, or cut
off, and wakes up later can reserve nothing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date

import structlog
import trio

from notifierd.errors import DatabaseError, LeaseLost
from notifierd.ledger import LEASE_SECONDS, Ledger

RENEW_EVERY = 5.0
MARGIN = 2.0
"""Seconds before the lease's end at which calls are cancelled: clocks drift, and a cancellation takes its time."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def hold_lease(ledger: Ledger, day: date, holder: str) -> AsyncIterator[None]:
    """Hold the lease on *day* for the length of the block, which is cancelled if the lease cannot be renewed in time.

    Raises:
        LeaseHeld: another process has it.
        LeaseLost: it could not be renewed, or another process took it over.
    """
    asked = trio.current_time()
    await ledger.take_lease(day, holder)
    with trio.CancelScope(deadline=asked + LEASE_SECONDS - MARGIN) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, ledger, day, holder, scope)
            yield
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        log.error("lease_lost")
        raise LeaseLost("another process, or nobody: the lease could not be renewed in time")


async def _keep(ledger: Ledger, day: date, holder: str, scope: trio.CancelScope) -> None:
    while True:
        await trio.sleep(RENEW_EVERY)
        asked = trio.current_time()
        try:
            if not await ledger.renew_lease(day, holder):
                scope.cancel()
                return
        except DatabaseError as error:
            log.warning("lease_not_renewed", reason=error.reason)
            continue
        scope.deadline = asked + LEASE_SECONDS - MARGIN
