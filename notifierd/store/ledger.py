"""What a run needs of the durable record of runs and deliveries, the only judge of who may send what."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from attrs import frozen

from notifierd.model.counts import DayCounts, Planned, Room, Untold
from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State
from notifierd.rules.due import Rules

LEASE_SECONDS = 15.0
FORGET_STEP = 5000
UNLIMITED = Room()

Ended = Counter[tuple[Channel, State]]
"""How many deliveries a statement settled, and in which state."""


@frozen
class Run:
    """One day's run, as the ledger has it."""

    state: str
    reason: str | None
    finished_at: datetime | None


class Ledger(Protocol):
    """What a run needs of the ledger. Every method is one transaction.

    All of them raise LedgerUnavailable where the database gave no answer (what was asked may have been done; asking
    again is harmless) and StatementRefused where it refused.
    """

    async def take_lease(self, day: date, holder: str) -> None:
        """Become the one process that runs *day*, for LEASE_SECONDS from now.

        Raises:
            LeaseHeld: another process has it, and its lease has not run out.
        """

    async def renew_lease(self, day: date, holder: str) -> bool:
        """Have the lease for LEASE_SECONDS from now; False if it is no longer ours."""

    async def give_back(self, day: date, holder: str, reason: str) -> None:
        """End the lease of *holder* before its time, and write that the run was interrupted for *reason*."""

    async def plan(self, day: date, rules: Rules, room: Room = UNLIMITED) -> Planned:
        """Write what is due on *day* and not there yet; what is open then, and what of it there is no *room* for."""

    async def close_earlier(self, day: date) -> Ended:
        """Settle what days before *day* left open and no process came back to."""

    async def leave_open(self, day: date) -> int:
        """How many deliveries of *day*, whose window is over, are open. A run of it that died becomes interrupted."""

    async def reserve(self, day: date, holder: str, reservations: Sequence[Reservation]) -> set[UUID]:
        """Mark the deliveries of each call as being sent; return the ids of the calls that may be made.

        A call is reserved whole or not at all: not if a delivery of it is settled, or held by another try, or if
        *holder* does not have the lease.
        """

    async def settle(self, settlements: Sequence[Settlement], *, bare: bool = False) -> set[UUID]:
        """Write how tries ended, with their audit rows, and delete devices that are gone, all in one transaction.

        Returns the deliveries that a settlement came too late for: their try was no longer the last. It is kept as
        evidence, and changes nothing. One that says `sent` of a planned delivery settles it all the same: the database
        forgot the try, by a failover, or it was put back meanwhile.

        Args:
            bare: without audit rows and deletions; the deliveries are marked as lacking an audit row.
        """

    async def settle_extras(self, settlements: Sequence[Settlement]) -> None:
        """Write what *settlements* that were settled bare lack: their audit rows, and the deletion of devices.

        Their marks go in the same transaction. Doing it again is harmless.
        """

    async def expire(self, reasons: Mapping[Delivery, str]) -> None:
        """Settle planned deliveries that are no longer due, or whose target is gone."""

    async def fail(self, reasons: Mapping[Delivery, str]) -> None:
        """Settle planned deliveries that can never be sent."""

    async def fail_office(self, day: date, office_id: UUID, reason: str) -> Ended:
        """Settle an office that cannot be worked on: what is planned fails, a lost try's doubt becomes unknown."""

    async def close(self, day: date, why_no_mail: str | None = None) -> Ended:
        """End the day's window: planned becomes expired, a lost try's doubt becomes unknown.

        Args:
            why_no_mail: what kept mails back that were never tried.
        """

    async def counts(self, day: date, rules: Rules) -> DayCounts:
        """How the day stands."""

    async def finish(
        self, day: date, holder: str, state: str, reason: str | None, untold: Sequence[Untold] = ()
    ) -> bool:
        """Give the lease back, and write how the run ended, and for who looks back what stays *untold*.

        False if deliveries were planned again meanwhile (`retry`): it is then interrupted, and not completed.
        """

    async def run(self, day: date) -> Run | None:
        """How the run of *day* stands; None if nothing is written of it."""

    async def last_day(self, day: date) -> date | None:
        """The last day, *day* at the latest, of which anything is written."""

    async def record(self, runs: Mapping[date, tuple[str, str]]) -> list[date]:
        """Write of days without a run their state and its reason; those of which nothing was written before."""

    async def first_to_tell(self, day: date, cause: str) -> bool:
        """Whether no process has raised the alarm of *cause* for *day* before; from now on, one has."""

    async def retry(self, day: date, states: Collection[State], keyed: Collection[str] = ()) -> Planned:
        """Plan those deliveries of *day* again that ended in one of *states*, each for a new call; how many.

        What is unknown, and was tried by one of the *keyed* providers, is to be the same call again, under its key.
        A run that goes on passes over them; one that was completed is interrupted then.
        """

    async def forget(self, before: date) -> bool:
        """Delete a small step of what is older than the day *before*; False once there is nothing older."""
