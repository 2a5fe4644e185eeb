"""Bugs to plant where several simulated processes share a day: see plants.py.

The rules of `rules.cluster` are those that PostgreSQL's ledger uses, too. What its statements check is planted in the
ledger in memory, which the contract tests hold to the same behaviour.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import wraps
from typing import Any
from unittest.mock import patch

import trio
from attrs import evolve

from notifierd.model.counts import Untold
from notifierd.model.delivery import Reservation
from notifierd.rules.cluster import membership
from notifierd.rules.cluster.grants import ClusterLimits, Grant, next_grants
from notifierd.rules.cluster.membership import Day, Standing, Use
from notifierd.store.ledger import OfficeDay
from notifierd.store.source import Claim
from tests.support import memory
from tests.support.memory import MemoryLedger

RENEW = membership.renew


@contextmanager
def grant_released_early() -> Iterator[None]:
    """Give others the part of a limit that a member's calls in flight still use."""

    def granting(
        limits: ClusterLimits, fair: Grant, others: Sequence[Grant], kept: Grant, holding: Grant
    ) -> tuple[Grant, Grant]:
        use, _ = next_grants(limits, fair, others, kept, holding)
        return use, use

    with patch.object(membership, "next_grants", granting):
        yield


@contextmanager
def others_not_counted() -> Iterator[None]:
    """Give each member its fair part, whatever the others keep."""

    def granting(
        limits: ClusterLimits, fair: Grant, others: Sequence[Grant], kept: Grant, holding: Grant
    ) -> tuple[Grant, Grant]:
        return next_grants(limits, fair, (), kept, holding)

    with patch.object(membership, "next_grants", granting):
        yield


@contextmanager
def lead_taken() -> Iterator[None]:
    """Let each renewal take the lead, also from a leader that lives."""

    def renewing(day: Day, name: str, use: Use) -> Standing | None:
        return RENEW(evolve(day, leader=None), name, use)

    with patch.object(memory, "renew", renewing):
        yield


@contextmanager
def epoch_ignored() -> Iterator[None]:
    """Take a member of an earlier run of the day for a member of the one that goes on."""

    def renewing(day: Day, name: str, use: Use) -> Standing | None:
        members = tuple(evolve(member, epoch=day.epoch) for member in day.members)
        return RENEW(evolve(day, members=members), name, use)

    with patch.object(memory, "renew", renewing):
        yield


@contextmanager
def claim_without_lease() -> Iterator[None]:
    """Let a member claim what another one has, without looking whether that one's lease is over."""

    def claiming(self: MemoryLedger, office: OfficeDay, claim: Claim) -> bool:
        return office not in self.done

    with patch.object(MemoryLedger, "_can_claim", claiming):
        yield


@contextmanager
def ended_without_claim() -> Iterator[None]:
    """End deliveries, or a whole office, without asking who claims it."""

    def claims(self: MemoryLedger, holder: str, office: OfficeDay) -> bool:
        return True

    with patch.object(MemoryLedger, "_claims", claims):
        yield


@contextmanager
def finished_by_anybody() -> Iterator[None]:
    """Let a process that is stopped end the run as if it were the last one, although another one leads it."""
    finish = MemoryLedger.finish

    @wraps(finish)
    async def finishing(
        self: MemoryLedger, day: date, holder: str, state: str, reason: str | None, untold: Sequence[Untold] = ()
    ) -> bool:
        return await finish(self, day, self.runs[day].holder or holder, state, reason, untold)

    async def leaving(self: MemoryLedger, day: date, holder: str) -> bool:
        await self._statement()
        return False

    with patch.object(MemoryLedger, "finish", finishing), patch.object(MemoryLedger, "leave", leaving):
        yield


@contextmanager
def reserved_by_strangers() -> Iterator[None]:
    """Reserve calls for a process whose lease is over."""
    reserve = MemoryLedger.reserve

    @wraps(reserve)
    async def reserving(self: MemoryLedger, day: date, holder: str, reservations: Sequence[Reservation]) -> set[Any]:
        with patch.object(MemoryLedger, "_is_member", lambda *_: True):
            return await reserve(self, day, holder, reservations)

    with patch.object(MemoryLedger, "reserve", reserving):
        yield


@contextmanager
def drawn_without_lock() -> Iterator[None]:
    """Read how many mails are left of the quota, and take them from it a moment later."""

    async def drawing(self: MemoryLedger, day: date, holder: str, needed: int) -> int:
        run = self.runs[day]
        if not self._is_member(day, holder):
            return 0
        room = run.mails_room
        await trio.sleep(0.01)
        mails = min(room, max(needed, room // (2 * max(1, len(self._day(day).peers(""))))))
        run.mails_room = room - mails
        self.memberships[day, holder].drawn += mails
        return mails

    with patch.object(MemoryLedger, "draw_mails", drawing):
        yield


@contextmanager
def draws_not_counted() -> Iterator[None]:
    """Count the quota anew without what members drew and did not use yet."""
    recount = MemoryLedger.recount_mails

    @wraps(recount)
    async def recounting(self: MemoryLedger, day: date, holder: str, quota: int) -> None:
        for membership_ in self.memberships.values():
            membership_.used = membership_.drawn
        await recount(self, day, holder, quota)

    with patch.object(MemoryLedger, "recount_mails", recounting):
        yield


@contextmanager
def never_recounted() -> Iterator[None]:
    """Leave unused what members drew from the quota and gave back."""

    async def recounting(self: MemoryLedger, day: date, holder: str, quota: int) -> None:
        await self._statement()
        if self.runs[day].mails_room == 0 and not self.given(day):
            self.runs[day].mails_room = quota

    with patch.object(MemoryLedger, "recount_mails", recounting):
        yield
