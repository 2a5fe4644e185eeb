"""The lease on a day: only its holder sends, and a holder that cannot renew it stops before it expires.

The ledger's statements check the lease, too, by the database's clock. So the lease also fences: a process that was
suspended or cut off, and wakes up later, can reserve nothing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date

import structlog
import trio
from attrs import define

from notifierd.model.errors import DatabaseError, LeaseLost, LeaseNotRenewed, LedgerUnavailable, first_of
from notifierd.model.reasons import Reason
from notifierd.run.trouble import DatabaseTrouble
from notifierd.store.ledger import LEASE_SECONDS, Ledger

RENEW_EVERY = 2.0
MOST_RENEWALS = 2
"""The most renewals under way at once. Over a connection that fell silent, a renewal gets no answer for half a minute;
the next one uses another connection."""
MARGIN = 2.0
"""Seconds before the lease expires at which calls are cancelled: clocks drift, and a cancellation takes time."""
GIVE_BACK_SECONDS = 2.0
"""How many seconds the release of the lease may delay an error of the block."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def hold_lease(ledger: Ledger, day: date, holder: str, trouble: DatabaseTrouble) -> AsyncIterator["Lease"]:
    """Hold the lease on *day* during the block. The block is cancelled if the lease cannot be renewed in time.

    If the block raises an error, the lease is released, so that the next run does not have to wait until it expires. If
    the error is that the database is unreachable, the lease is kept: this process resumes the run as soon as it can.

    Raises:
        LeaseHeld: another process has it.
        LeaseLost: it expired while this process was suspended, or another process took it over.
        LeaseNotRenewed: the database did not renew it in time.
    """
    asked = trio.current_time()
    await ledger.take_lease(day, holder)
    lease = Lease(trio.CancelScope(deadline=asked + LEASE_SECONDS - MARGIN))
    with lease.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, ledger, day, holder, lease, trouble)
            try:
                yield lease
            except Exception as error:
                await _give_back(ledger, day, holder, lease, first_of(error))
                raise
            nursery.cancel_scope.cancel()
    if lease.scope.cancelled_caught:
        if lease.trouble:
            raise LeaseNotRenewed(lease.trouble)
        raise LeaseLost("another process, or nobody: the lease was not renewed in time")


@define
class Lease:
    """A lease that this process holds.

    Attributes:
        scope: around everything that requires the lease.
        trouble: why the database did not renew the lease when it was last asked to.
        given_back: whether the lease is being released. A renewal that fails is then no error.
    """

    scope: trio.CancelScope
    trouble: str | None = None
    given_back: bool = False


async def _give_back(ledger: Ledger, day: date, holder: str, lease: Lease, error: BaseException) -> None:
    if isinstance(error, LedgerUnavailable):
        return
    lease.given_back = True
    reason = error.reason if isinstance(error, DatabaseError) else "run_died"
    deadline = trio.current_time() + GIVE_BACK_SECONDS
    with trio.CancelScope(shield=True, deadline=deadline), suppress(DatabaseError):
        await ledger.give_back(day, holder, reason)


async def _keep(ledger: Ledger, day: date, holder: str, lease: Lease, trouble: DatabaseTrouble) -> None:
    async def renew() -> None:
        asked = trio.current_time()
        lease.trouble = lease.trouble or Reason.DATABASE_UNAVAILABLE.of("timeout")  # until it answers
        try:
            renewed = await ledger.renew_lease(day, holder)
        except DatabaseError as error:
            lease.trouble = error.reason
            trouble.met("the lease", error.reason)
            return
        trouble.passed("the lease")
        lease.trouble = None
        if renewed:
            lease.scope.deadline = max(lease.scope.deadline, asked + LEASE_SECONDS - MARGIN)
        elif not lease.given_back:
            lease.scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(RENEW_EVERY)
                if len(nursery.child_tasks) < MOST_RENEWALS:
                    nursery.start_soon(renew)
    finally:
        if lease.scope.cancel_called:  # log it now: writing the known outcomes may take long
            log.error("lease_lost", reason=lease.trouble)
