"""The interface of the ledger, the durable record of runs and deliveries, which alone decides who may send what."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from attrs import frozen

from notifierd.model.counts import Capacity, DayCounts, Planned, Untold
from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State
from notifierd.rules.cluster.membership import ALONE, Standing, Terms, Use
from notifierd.rules.due import Rules

LEASE_SECONDS = 15.0
FORGET_STEP = 5000
UNLIMITED = Capacity()

PLAN_STEP = 100_000
"""The most offices that are planned in one step, in which nothing is sent yet."""

AUDIT_TOGETHER = 500
"""The most offices whose own audit rows are written in one statement."""

OfficeDay = tuple[date, UUID]

Ended = Counter[tuple[Channel, State]]
"""The number of deliveries that a statement settled, by channel and state."""


@frozen
class Run:
    """The run of one day, as the ledger records it."""

    state: str
    reason: str | None
    finished_at: datetime | None


class Ledger(Protocol):
    """The part of the ledger that a run needs. Every method is one transaction.

    Every method raises LedgerUnavailable if the database gave no answer, and StatementRefused if it refused the
    statement. Without an answer, the change may have been made; repeating the call is harmless.
    """

    async def take_lease(self, day: date, holder: str, terms: Terms = ALONE) -> Standing:
        """Join *day* for LEASE_SECONDS from now: as the one process that runs it or, if its *terms* say so, others.

        Raises:
            LeaseHeld: another process has a lease that has not expired, and does not share the day with this one.
            ConfigsDiffer: the others would send something else.
        """

    async def renew_lease(self, day: date, holder: str, use: Use = Use()) -> Standing | None:  # noqa: B008 - it is frozen
        """Renew the lease for LEASE_SECONDS from now; return None if it has expired, or another process has the day.

        If nobody leads any more, this member does.
        """

    async def leave(self, day: date, holder: str) -> bool:
        """Leave *day* to its other members; return False if there are none, in which case *holder* stays, and leads."""

    async def give_back(self, day: date, holder: str, reason: str) -> None:
        """Release the lease of *holder* before it expires; if no other member is left, *reason* interrupted the run."""

    async def recount_mails(self, day: date, holder: str, quota: int) -> None:
        """Count anew how many mails of the day's *quota* nobody was given or has drawn. Only the leader does."""

    async def draw_mails(self, day: date, holder: str, needed: int) -> int:
        """Draw mails from the day's quota until *holder* has drawn *needed* since it joined, or more.

        Returns how many it has drawn since then, which is fewer if no more are left. What a member leaves unused when
        it leaves or dies is there for the others once the leader has counted anew.
        """
        ...

    async def note_plan(self, day: date, holder: str, planned: Planned) -> int:
        """Let the members begin: the leader planned the day. Offices that have open deliveries again are reopened.

        Returns the number of members; 0 if *holder* does not lead, in which case nothing is changed.
        """

    async def release(self, day: date, holder: str, kept: Collection[UUID]) -> None:
        """Give up the claims of *holder* to offices that are not done, except to those that are *kept*."""

    async def reopen(self, day: date) -> None:
        """Reopen the offices that were done and have open deliveries again: planned since, or retried."""

    async def is_open(self, day: date) -> bool:
        """Return whether an office that is not done has open deliveries. Looks at no office that is done."""

    async def plan(self, day: date, rules: Rules, capacity: Capacity = UNLIMITED) -> Planned:
        """Write the due deliveries of *day* that are new; return what is open, and what exceeds *capacity*.

        Of a day with more than PLAN_STEP offices, only the most urgent ones are planned; `plan_next` plans the others.
        """

    async def plan_next(self, day: date, rules: Rules, capacity: Capacity) -> Planned:
        """Plan the next PLAN_STEP offices that `plan` left; return what was written, and what exceeds *capacity*.

        Args:
            capacity: what the offices that are planned already leave.
        """

    async def resume(self, day: date) -> Planned | None:
        """Return what is open of a *day* that was planned before, if it has more than PLAN_STEP offices; else None.

        So a process that takes over such a day sends at once what stands in the ledger, and plans beside that.
        """

    async def close_earlier(self, day: date) -> Ended:
        """Settle what earlier days left open because no process resumed them."""

    async def leave_open(self, day: date) -> int:
        """Return the number of open deliveries of *day*, whose window is over.

        A run of that day whose process died becomes interrupted.
        """

    async def keep_counts(self, before: date) -> date | None:
        """Count the last day before *before* whose counts were not kept at its end, and keep them; return that day.

        Otherwise the day would be counted each time that somebody looks back. Days with an active run are left out.
        """

    async def keep_interim(self, day: date, holder: str) -> int:
        """Count the day so far, and keep the counts with the membership of *holder*, for those who look at the day.

        Returns how many offices are done.
        """
        ...

    async def reserve(self, day: date, holder: str, reservations: Sequence[Reservation]) -> set[UUID]:
        """Mark the deliveries of each call as being sent; return the ids of the calls that may be made.

        A call is reserved as a whole or not at all. It is not reserved if one of its deliveries is settled or held by
        another try, or if *holder* is no member of the day.
        """

    async def settle(self, settlements: Sequence[Settlement], *, without_audit: bool = False) -> set[UUID]:
        """Write how tries ended, with their audit rows, and delete devices that are gone, all in one transaction.

        If offices have rows of their own, the deliveries and the office are marked instead: see `audit_offices`.

        Returns the deliveries for which a settlement came too late, because a newer try exists. Such a settlement is
        recorded as evidence, and changes nothing. There is one exception: `sent` settles a planned delivery, because
        the database lost the try in a failover, or the delivery was put back after the try.

        Args:
            without_audit: without audit rows and deletions; the deliveries are marked as lacking an audit row.
        """

    async def settle_extras(self, settlements: Sequence[Settlement]) -> None:
        """Write what bare *settlements* left out: the audit rows, and the deletion of devices.

        The marks are removed in the same transaction. Repeating the call is harmless.
        """

    async def unaudited_offices(self, day: date) -> Sequence[OfficeDay]:
        """Return the offices whose own audit row is due, with their days: *day* and earlier ones.

        An office's row is due once something of its day was sent that no row counts yet, and nothing is open.
        """

    async def audit_offices(self, day: date, office: OfficeDay | None = None) -> int:
        """Write the rows of AUDIT_TOGETHER of the `unaudited_offices`, or of one of them; return their number.

        An office's row counts what was sent and has no row yet. Its mark and those of its deliveries are removed in the
        same transaction, so that each delivery is counted once. Nothing is written if the application is to get no
        audit rows.
        """

    async def give_up_audit(self, office: OfficeDay) -> None:
        """Leave an office without a row that the database refuses for its content; its deliveries keep their marks."""

    async def expire(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        """Settle as expired the planned deliveries that are no longer due, or whose target is gone.

        Deliveries of offices that *holder* does not claim any more are left to who claims them now.
        """

    async def fail(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        """Settle as failed the planned deliveries that can never be sent, of offices that *holder* claims."""

    async def fail_office(self, day: date, holder: str, office_id: UUID, reason: str) -> Ended:
        """Settle an office that cannot be processed: planned deliveries fail, those with a lost try become unknown.

        Nothing is changed if *holder* does not claim the office any more.
        """

    async def close(self, day: date, unsent_mail_reason: str | None = None) -> Ended:
        """End the day's window: planned deliveries expire, and those whose try was lost become unknown.

        Args:
            unsent_mail_reason: the reason for mails that were never tried.
        """

    async def counts(self, day: date, rules: Rules, *, interim: bool = False) -> DayCounts:
        """Return the counts of the day.

        Args:
            interim: if anything is open, only tell what it is, which does not read the deliveries of offices that are
                done: leave out the counts by state, the failures and what is untold.
        """

    async def mails_given(self, day: date) -> int:
        """Return the number of mails of *day* that a provider accepted, or may have accepted."""
        ...

    async def finish(
        self, day: date, holder: str, state: str, reason: str | None, untold: Sequence[Untold] = ()
    ) -> bool:
        """End the day's run, which *holder* leads: write how it ended, and which alerts stay *untold*, for the history.

        Returns False if `retry` planned deliveries again before that. The run is then interrupted, not completed.
        """

    async def run(self, day: date) -> Run | None:
        """Return the state of the run of *day*; None if the day has no record."""

    async def last_day(self, day: date) -> date | None:
        """Return the last day up to *day* that has a record."""

    async def record(self, runs: Mapping[date, tuple[str, str]]) -> list[date]:
        """Record the state and the reason of days without a run; return those that had no record before."""

    async def claim_alarm(self, day: date, cause: str) -> bool:
        """Claim the alarm of *cause* for *day*; return whether no process had claimed it before."""

    async def retry(self, day: date, states: Collection[State], keyed: Collection[str] = ()) -> Planned:
        """Plan again the deliveries of *day* that ended in one of *states*, each for a new call; return their number.

        An unknown delivery that was tried by one of the *keyed* providers repeats the same call under its idempotency
        key. A run in progress finds the deliveries in its next pass; a completed run becomes interrupted.
        """

    async def forget(self, before: date) -> bool:
        """Delete a small portion of what is older than the day *before*; return False once nothing older is left."""
