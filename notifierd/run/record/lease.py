"""The lease on a day: only who has one sends, and a process that cannot renew it stops before it expires.

The ledger's statements check the lease, too, by the database's clock. So the lease also fences: a process that was
suspended or cut off, and wakes up later, can reserve nothing. If processes share the day, each has its own lease, and
one of them leads.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date

import structlog
import trio
from attrs import define, evolve, field

from notifierd.model.counts import Planned
from notifierd.model.delivery import Channel
from notifierd.model.errors import DatabaseError, LeaseLost, LeaseNotRenewed, LedgerUnavailable, first_of
from notifierd.model.reasons import Reason
from notifierd.rules.cluster.membership import Standing
from notifierd.run.context import RunContext
from notifierd.run.record.grants import Grants
from notifierd.run.record.tally import Tally
from notifierd.store.ledger import LEASE_SECONDS

MOST_RENEWALS = 2
"""The most renewals under way at once. Over a connection that fell silent, a renewal gets no answer for half a minute;
the next one uses another connection."""
MARGIN = 2.0
"""Seconds before the lease expires at which calls are cancelled: clocks drift, and a cancellation takes time."""
GIVE_BACK_SECONDS = 2.0
"""How many seconds the release of the lease may delay an error of the block."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def hold_lease(day: date, context: RunContext) -> AsyncIterator["Lease"]:
    """Hold the lease on *day* during the block. The block is cancelled if the lease cannot be renewed in time.

    If the block raises an error, the lease is released, so that the next run does not have to wait until it expires. If
    the error is that the database is unreachable, the lease is kept: this process resumes the run as soon as it can.

    Raises:
        LeaseHeld: another process has it.
        LeaseLost: it expired while this process was suspended, or another process took it over.
        LeaseNotRenewed: the database did not renew it in time.
    """
    asked = trio.current_time()
    terms = evolve(context.terms, limits=context.limits.for_cluster())
    standing = await context.ledger.take_lease(day, context.holder, terms)
    lease = Lease(
        trio.CancelScope(deadline=asked + LEASE_SECONDS - MARGIN), standing, Grants(context, Tally(context.progress))
    )
    lease.grants.answer(0, standing)
    lease.show(context)
    if terms.shares:
        log.info("day_joined", members=standing.members, leads=standing.leads)
    with lease.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, day, context, lease)
            try:
                yield lease
            except Exception as error:
                await _give_back(day, context, lease, first_of(error))
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
        standing: whether the process leads, with how many others, and whether the day is planned.
        grants: its part of the limits.
        trouble: why the database did not renew the lease when it was last asked to.
        given_back: whether the lease is being released. A renewal that fails is then no error.
        has_left: whether the process left the day to others.
    """

    scope: trio.CancelScope
    standing: Standing
    grants: Grants
    trouble: str | None = None
    given_back: bool = False
    has_left: bool = False
    _noted: int = -1
    """The number of the last renewal that had been asked for when this process noted a plan."""
    _renewed: trio.Event = field(factory=trio.Event)

    @property
    def is_alone(self) -> bool:
        """Whether no other process works on the day."""
        return self.standing.leads and self.standing.members == 1

    @property
    def all_are_planned(self) -> bool:
        """Whether the plan of the day is complete, as far as this process knows."""
        return self.standing.planned is not None and self.standing.planned.is_complete

    def is_planned(self, planned: Planned, members: int) -> None:
        """Note that this process planned the day, and how many *members* may begin now."""
        self._noted = self.grants.asked
        self.standing = evolve(self.standing, planned=planned, members=members)

    async def renewed(self) -> None:
        """Wait for the next answer to a renewal."""
        await self._renewed.wait()

    def show(self, context: RunContext) -> None:
        """Let others see how the process stands."""
        progress, grant = context.progress, self.standing.grant
        progress.leads, progress.members = self.standing.leads, self.standing.members
        if grant:
            progress.granted = {Channel.EMAIL: grant.email, Channel.PUSH: grant.push}

    def renew(self, asked: int, standing: Standing) -> None:
        """Note the answer to the renewal number *asked*. It may be older than what this process knows of the plan."""
        if asked <= self._noted:
            standing = evolve(standing, planned=self.standing.planned)
        self.standing = standing
        self.grants.answer(asked, standing)
        self._renewed.set()
        self._renewed = trio.Event()


async def _give_back(day: date, context: RunContext, lease: Lease, error: BaseException) -> None:
    if isinstance(error, LedgerUnavailable):
        return
    lease.given_back = True
    reason = error.reason if isinstance(error, DatabaseError) else "run_died"
    deadline = trio.current_time() + GIVE_BACK_SECONDS
    with trio.CancelScope(shield=True, deadline=deadline), suppress(DatabaseError):
        await context.ledger.give_back(day, context.holder, reason)


async def _keep(day: date, context: RunContext, lease: Lease) -> None:
    trouble = context.progress.trouble

    async def renew() -> None:
        asked, use = trio.current_time(), lease.grants.ask()
        lease.trouble = lease.trouble or Reason.DATABASE_UNAVAILABLE.of("timeout")  # until it answers
        try:
            standing = await context.ledger.renew_lease(day, context.holder, use)
        except DatabaseError as error:
            lease.trouble = error.reason
            trouble.met("the lease", error.reason)
            return
        trouble.passed("the lease")
        lease.trouble = None
        if standing:
            if standing.leads and not lease.standing.leads:
                log.info("lead_taken", members=standing.members)
            lease.renew(use.asked, standing)
            lease.show(context)
            if not standing.leads:  # the leader's plan may have grown
                context.progress.planned = context.progress.planned and standing.planned
            lease.scope.deadline = max(lease.scope.deadline, asked + LEASE_SECONDS - MARGIN)
        elif not lease.given_back:
            lease.scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(context.renew_seconds)
                if len(nursery.child_tasks) < MOST_RENEWALS:
                    nursery.start_soon(renew)
    finally:
        if lease.scope.cancel_called:  # log it now: writing the known outcomes may take long
            log.error("lease_lost", reason=lease.trouble)
