"""The part of the limits that a member has: what it reports at each renewal of its lease, and what it may use then."""

from collections.abc import Collection
from contextlib import suppress
from datetime import date
from itertools import count
from math import inf
from uuid import UUID

import trio
from attrs import define, evolve, field

from notifierd.model.delivery import Channel
from notifierd.model.errors import DatabaseError
from notifierd.rules.cluster.grants import NOTHING, ClusterLimits, Grant
from notifierd.rules.cluster.membership import Standing, Use
from notifierd.run.context import RunContext
from notifierd.run.record.tally import Tally
from notifierd.run.transport import CallLimits

_NUMBERS = count(1)
"""Of the renewals of all memberships of this process: one that is carried out late, when the process has joined again
under the same name, is then older than those of the new membership."""

RECOUNT_SECONDS = 5.0
"""Seconds between two counts of the day's quota, which read all of the day's mails."""


@define
class Grants:
    """See the module. Without other members (`[cluster] share`), the configuration's limits are in force unchanged."""

    _context: RunContext
    _tally: Tally
    mails_drawn: int = 0
    """Mails that were drawn from the day's quota."""
    mails: int = 0
    """Those of them that no office has been given yet."""
    mails_used: int = 0
    """Mails that were drawn and belong to offices that are finished."""
    _unanswered: bool = False
    """Whether mails may have been drawn without an answer."""
    _given: dict[UUID, int] = field(factory=dict)
    """Those that the offices in progress were given."""
    _recounted: float = -inf
    asked: int = 0
    """The number of the last renewal."""
    _answered: int = -1
    _reported: Grant = NOTHING
    """What was reported with the last renewal."""
    _usable: Grant = NOTHING
    _rate: float = inf
    """The rate of the last answer. A higher one counts from the next answer on: until then, another member may have
    begun calls under it within the last second."""
    _limits: ClusterLimits = field(factory=ClusterLimits)

    @property
    def has_quota(self) -> bool:
        """Whether mails must be drawn from the quota of a day that is shared."""
        return self._context.terms.shares and bool(self._limits.per_day)

    async def draw(self, day: date, needed: int) -> None:
        """Draw mails from the day's quota, if fewer than *needed* ones are left of those that were drawn.

        Raises:
            DatabaseError: as of `Ledger.draw_mails`. What was drawn nevertheless comes with the next answer.
        """
        if needed > self.mails:
            await self._draw(day, self.mails_drawn + needed - self.mails)

    async def _draw(self, day: date, wanted: int) -> None:
        self._unanswered = True
        drawn = await self._context.ledger.draw_mails(day, self._context.holder, wanted)
        self._unanswered = False
        self.mails = max(0, self.mails + drawn - self.mails_drawn)
        self.mails_drawn = drawn

    def give(self, office_id: UUID, mails: int) -> None:
        """Give *mails* that were drawn to an office. They are used once it is finished: what it sent counts then."""
        self.mails -= mails
        self._given[office_id] = mails

    def finish(self, office_id: UUID) -> None:
        """Note that an office is finished."""
        self.mails_used += self._given.pop(office_id, 0)

    async def let_go(self, day: date) -> None:
        """Leave the mails that no office needs to the other processes; also those of a draw without an answer."""
        if self._unanswered:
            with suppress(DatabaseError):
                await self._draw(day, self.mails_drawn)
        self.mails_used += self.mails
        self.mails = 0

    def must_recount(self) -> bool:
        """Whether it is time for the leader to count the quota anew: others may have let mails go, or died."""
        now = trio.current_time()
        if not self.has_quota or now < self._recounted + RECOUNT_SECONDS:
            return False
        self._recounted = now
        return True

    def ask(self) -> Use:
        """Return what to report with the next renewal."""
        self.asked = next(_NUMBERS)
        self._reported = self._holding()
        limits = self._context.limits.for_cluster()
        return Use(self.asked, self._reported, limits, self.mails_used, self._tally.now())

    def answer(self, asked: int, standing: Standing) -> None:
        """Use what the answer to the renewal number *asked* grants, also for calls that wait already."""
        grant = standing.grant
        if not self._context.terms.shares or grant is None or asked <= self._answered:
            return
        rate = grant.per_second
        if standing.members > 1 or asked:
            grant = evolve(grant, per_second=min(rate, self._rate))
        if asked < self.asked:  # a later renewal has reported less, so this answer must not grant more
            grant = _smaller(grant, self._reported)
        self._answered, self._rate, self._limits, self._usable = asked, rate, standing.limits, grant
        # A channel without a grant begins no office, so its limiters need not block; calls that wait keep one slot.
        calls = {
            Channel.EMAIL: CallLimits(max(1, grant.email), per_second=self._calls_per_second()),
            Channel.PUSH: CallLimits(max(1, grant.push), per_destination=max(1, grant.per_destination)),
        }
        self._context.transports.limit(calls)
        slots = 2 * (grant.email + grant.push) if standing.members > 1 else inf
        self._context.offices.total_tokens = int(max(2, min(slots, self._context.limits.offices)))

    def channels(self) -> Collection[Channel] | None:
        """Return the channels on which calls may be made now; None: on all."""
        if not self._context.terms.shares:
            return None
        grant = self._usable
        mails = grant.email > 0 and (grant.per_second > 0 or not self._limits.per_second)
        pushes = grant.push > 0 and grant.per_destination > 0
        if mails and pushes:
            return None
        return [channel for channel, may in ((Channel.EMAIL, mails), (Channel.PUSH, pushes)) if may]

    def _calls_per_second(self) -> float:
        if self._limits.per_second and not self._usable.per_second:  # begins no office; what waits keeps its rate
            return self._context.transports.preferred(Channel.EMAIL).limits.per_second or self._limits.per_second
        return self._usable.per_second

    def _holding(self) -> Grant:
        """Return the most that can be in use until the next answer."""
        mail, push, per_destination = 0, 0, 0
        for channel, transport in self._context.transports:
            seen = transport.limiter.statistics()
            idle = not (seen.borrowed_tokens or seen.tasks_waiting)
            if channel is Channel.EMAIL:
                mail = (
                    0
                    if idle and not self._usable.email
                    else max(seen.borrowed_tokens, int(transport.limiter.total_tokens))
                )
            elif not (idle and not self._usable.push):
                push = max(seen.borrowed_tokens, int(transport.limiter.total_tokens))
                lanes = [limiter.borrowed_tokens for limiter in transport.destinations.values()]
                per_destination = max([transport.limits.per_destination or push, *lanes])
        return Grant(mail, push, per_destination, self._usable.per_second)


def _smaller(one: Grant, other: Grant) -> Grant:
    return Grant(
        min(one.email, other.email),
        min(one.push, other.push),
        min(one.per_destination, other.per_destination),
        min(one.per_second, other.per_second),
    )
