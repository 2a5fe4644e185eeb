"""One pass over the offices that are due: what it may use, what it left, and when another pass can do something."""

from datetime import date

from attrs import define, evolve

from notifierd.model.counts import Backlog
from notifierd.model.delivery import Channel, State
from notifierd.model.errors import DatabaseError
from notifierd.model.office import OfficeWork
from notifierd.run.context import RunContext
from notifierd.run.record.claims import Claims
from notifierd.run.record.lease import Lease
from notifierd.run.record.recorder import Recorder

DATABASE_PAUSE = 2.0
"""Seconds before another try of an office that had trouble with the database, or of a call that shares a delivery with
another try."""

QUOTA_PAUSE = 30.0
"""Seconds before the day's quota of mails is looked at again: refused mails or a reload may have made room."""

SHORTEST_PAUSE = 0.05

IDLE = 1.0
"""Seconds between two looks of a process that shares the day and finds no office to work on."""

LONGEST_LOOK = 5.0
"""Seconds after which a process that shares the day makes another pass, whatever its own offices wait for."""

NEVER = float("inf")


@define
class RunPass:
    """One pass over the deliveries that are due, and when those that it skipped may be tried again."""

    day: date
    context: RunContext
    recorder: Recorder
    lease: Lease
    claims: Claims
    mails_left: float = NEVER
    """How many more mails may be given to a provider. The offices use them up in their order."""
    offices: int = 0
    """How many offices it began."""
    _skipped_for: float = NEVER

    def as_known(self, work: OfficeWork) -> OfficeWork:
        """*work* with the outcomes that only this process knows, and the ledger does not: such deliveries are not due.

        They stay in *work*, so that a call that carried them can still be repeated whole.
        """
        held = {delivery.id for delivery in work.deliveries if self.recorder.has_unwritten(delivery)}
        if held:  # their outcomes are known, and only not written yet
            self.skip(DATABASE_PAUSE)
        left = [evolve(d, due=False) if d.id in held else d for d in work.deliveries]
        forgotten = self.recorder.settle_forgotten(left)
        found = tuple(evolve(d, state=State.SENT, due=False) if d.id in forgotten else d for d in left)
        return evolve(work, deliveries=found) if held or forgotten else work

    async def draw_mails(self, work: OfficeWork) -> None:
        """Draw the mails of *work* from the day's quota, if there is one and other processes share it.

        If the database does not answer, the mails are left to a later pass.
        """
        if not self.lease.grants.has_quota:
            return
        needed = sum(d.channel is Channel.EMAIL and d.due and d.state is State.PLANNED for d in work.deliveries)
        grants = self.lease.grants
        try:
            await grants.draw(self.day, needed)
        except DatabaseError as error:
            self.context.progress.trouble.met("offices", error.reason)
        self.mails_left = given = min(needed, grants.mails)
        grants.give(work.id, given)

    def within_quota(self, work: OfficeWork) -> OfficeWork:
        """*work* without the mails that exceed the day's quota.

        Mails of a call that is to be repeated stay in *work*, not due: without them, it would be another call.
        """
        mails = [d for d in work.deliveries if d.channel is Channel.EMAIL and d.due and d.state is State.PLANNED]
        if len(mails) <= self.mails_left:
            self.mails_left -= len(mails)
            return work
        beyond = {delivery.id for delivery in mails[int(self.mails_left) :]}
        self.mails_left = 0
        self.context.progress.withheld += len(beyond)
        self.skip(QUOTA_PAUSE)
        again = {delivery.call_id for delivery in work.deliveries if delivery.state is State.SENDING}
        left = [d for d in work.deliveries if d.id not in beyond or d.call_id in again]
        return evolve(work, deliveries=tuple(evolve(d, due=False) if d.id in beyond else d for d in left))

    def skip(self, seconds: float) -> None:
        """Note that deliveries that were due were left planned, for at least *seconds*."""
        self._skipped_for = min(self._skipped_for, seconds)

    def next_look(self) -> float:
        """Seconds until another pass of a process that shares the day: others may leave offices, or die."""
        if self.offices and self._skipped_for == NEVER:
            return SHORTEST_PAUSE
        return max(SHORTEST_PAUSE, min(self._skipped_for, LONGEST_LOOK)) if self.offices else IDLE

    def next_turn(self, backlog: Backlog) -> float:
        """Seconds until another pass can do something."""
        if backlog.due_now and self._skipped_for == NEVER:
            return SHORTEST_PAUSE
        return max(SHORTEST_PAUSE, min(self._skipped_for, NEVER if backlog.next_in is None else backlog.next_in))
