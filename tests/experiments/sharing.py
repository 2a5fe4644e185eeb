"""Several simulated processes on one day: how they share it, and what must hold at each instant while they do.

`Watch` sees every statement and every call of all processes, as the database and the providers do. sim.py asks it.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from math import ceil
from random import Random
from typing import Any, Protocol
from uuid import UUID

import trio
from attrs import define, field, fields, frozen

from notifierd.model.delivery import OPEN, Channel
from notifierd.rules.cluster.grants import ClusterLimits, Grant
from notifierd.rules.cluster.membership import Standing, Terms
from tests.support.memory import MemoryLedger

TERMS = Terms(shares=True, config_hash="same")
MOST_MEMBERS = 5
SKEW = 10.0
"""Seconds by which a member's clock may differ from the others'."""
ANSWER_SECONDS = 30.0
"""Seconds after which a statement that gets no answer is given up."""
INSTANT = 1e-6


@frozen
class Sharing:
    """How several processes share the day.

    Attributes:
        joins: when each of them starts, in seconds from the beginning.
        skews: by how many seconds each one's clock is behind.
        limits: those of all of them together.
    """

    joins: tuple[float, ...]
    skews: tuple[float, ...]
    limits: ClusterLimits


def a_sharing(random: Random, mails: int) -> Sharing:
    """Make one for a day with so many *mails*."""
    members = random.randint(1, MOST_MEMBERS)
    joins = [0.0, *(random.choice([0.0, random.uniform(0.0, 3.0), random.uniform(0.0, 30.0)]) for _ in range(4))]
    is_skewed, push = random.random() < 0.3, random.choice([2, 4, 8])
    limits = ClusterLimits(
        email=random.choice([1, 2, 3, 5, 8]),
        push=push,
        per_destination=max(1, push // 4),
        per_second=random.choice([0.0, 0.0, 2.0, 3.0, 2.5]),
        per_day=random.choice([0, 0, max(1, mails // 2), max(1, mails - 1)]),
    )
    skews = tuple(random.uniform(-SKEW, SKEW) if is_skewed else 0.0 for _ in range(members))
    return Sharing(tuple(joins[:members]), skews, limits)


class Worker(Protocol):
    """A process of the simulation."""

    name: str
    dead: bool
    frozen_until: float
    thawed_at: float


@define(eq=False)
class _Call:
    worker: Worker
    channel: Channel
    service: str
    destination: str
    deliveries: Collection[UUID]
    began: float


@frozen
class Seen:
    """What the ledger showed before a statement."""

    leader: str | None
    joined_at: float
    state: str
    holder: str | None
    claims: Mapping[tuple[date, UUID], str]
    living: frozenset[str]
    states: Mapping[UUID, str]


@define
class Watch:
    """Sees what the ledger and the providers see, and notes in *broken* what must not be."""

    ledger: MemoryLedger
    day: date
    limits: ClusterLimits
    broken: list[str]
    accepted: Counter[UUID] = field(factory=Counter)
    """The mails that a provider accepted."""
    _evicted: set[str] = field(factory=set)
    """The processes whose lease was once over before its time."""
    _calls: list[_Call] = field(factory=list)
    _began: list[_Call] = field(factory=list)

    # The database ------------------------------------------------------------------------------------------------

    def before(self) -> Seen:
        """Look at the ledger right before a statement."""
        run = self.ledger.runs.get(self.day)
        living = self.living()
        leader = run.holder if run and run.lease_until > self.ledger.clock() and run.holder in living else None
        rows = self.ledger.rows.items()
        return Seen(
            leader,
            self._joined_at(leader),
            run.state if run else "",
            run.holder if run else None,
            dict(self.ledger.claims),
            living,
            {key: row.delivery.state for key, row in rows if row.day == self.day},
        )

    def living(self) -> frozenset[str]:
        """The processes whose lease on the day is in force."""
        now = self.ledger.clock()
        return frozenset(
            name for (on, name), kept in self.ledger.memberships.items() if on == self.day and kept.until > now
        )

    def evict(self, name: str) -> None:
        """Let the lease of a process be over before its time, as when the database's clock is set."""
        if membership := self.ledger.memberships.get((self.day, name)):
            membership.until = self.ledger.clock()
            self._evicted.add(name)
        if (run := self.ledger.runs.get(self.day)) and run.holder == name:
            run.lease_until = self.ledger.clock()

    def after(self, who: str, name: str, args: tuple[Any, ...], seen: Seen, done: object) -> None:
        """Look at it right after *who* made the statement *name*, and was answered *done*."""
        self._check_grants()
        self._check_leader(who, seen)
        self._check_claims(who, seen)
        self._check_epoch(who, name, done)
        if name == "finish":
            self._check_end(who, args, seen)
        if name in {"expire", "fail", "fail_office"}:
            self._check_ends(who, name, seen)
        if self.limits.per_day and self.ledger.given(self.day) > self.limits.per_day:
            self.broken.append(f"quota: more mails are reserved than {self.limits.per_day}")

    def _joined_at(self, name: str | None) -> float:
        membership = self.ledger.memberships.get((self.day, name or ""))
        return membership.joined_at if membership else 0.0

    def _check_grants(self) -> None:
        """Check that what is kept for all living members together is within the limits."""
        living = self.living()
        grants = [self.ledger.memberships[self.day, name].member.grant for name in sorted(living)]
        for one in fields(Grant):
            limit, total = getattr(self.limits, one.name), sum(getattr(grant, one.name) for grant in grants)
            if limit and total > limit + INSTANT:
                self.broken.append(f"limits: {total:g} of {limit:g} {one.name} are granted to {len(living)} members")

    def _check_leader(self, who: str, seen: Seen) -> None:
        """Check that nobody takes the lead from one who lives and has it."""
        run, leader = self.ledger.runs.get(self.day), seen.leader
        if leader in {None, who} or run is None or run.holder == leader:
            return
        if leader in self.living() and self._joined_at(leader) == seen.joined_at:
            self.broken.append(f"leader: {who} took the lead from {leader}, which lives")

    def _check_claims(self, who: str, seen: Seen) -> None:
        """Check that nobody claims an office of another member that lives."""
        for office, before in seen.claims.items():
            now = self.ledger.claims.get(office, before)
            if now != before and before in seen.living & self.living():
                self.broken.append(f"claims: {who} gave {now} an office of {before}, which lives: {office[1]}")

    def _check_epoch(self, who: str, name: str, done: object) -> None:
        """Check that nobody goes on as a member of a run that another process has begun anew since."""
        run, membership = self.ledger.runs.get(self.day), self.ledger.memberships.get((self.day, who))
        if run is None or membership is None or membership.member.epoch == run.epoch:
            return
        if name == "reserve" and done:
            self.broken.append(f"epoch: {who} reserves in a run that it has not joined")
        if isinstance(done, Standing) and not done.over:
            self.broken.append(f"epoch: {who} goes on in a run that it has not joined")

    def _check_end(self, who: str, args: tuple[Any, ...], seen: Seen) -> None:
        """Check that the run is ended by who leads it, is a member of this run, and found nothing open."""
        run = self.ledger.runs[self.day]
        if seen.state != "running" or run.state == "running":
            return
        if seen.holder != who:
            self.broken.append(f"end: {who} ended the run as {args[2]}, which {seen.holder} leads")
        if run.state == "completed" and any(
            row.delivery.state in OPEN for row in self.ledger.rows.values() if row.day == self.day
        ):
            self.broken.append(f"end: {who} completed the run while deliveries are open")

    def _check_ends(self, who: str, name: str, seen: Seen) -> None:
        """Check that only who claims an office ends its deliveries without a call."""
        for key, before in seen.states.items():
            row = self.ledger.rows[key]
            office = self.day, row.delivery.office_id
            if row.delivery.state != before and (seen.claims.get(office) != who or who not in seen.living):
                self.broken.append(f"claims: {name} by {who}, which does not claim the office: {key}")

    # The providers -------------------------------------------------------------------------------------------------

    @contextmanager
    def call(
        self, worker: Worker, channel: Channel, service: str, destination: str, deliveries: Collection[UUID]
    ) -> Iterator[None]:
        """Have a call in flight during the block."""
        call = _Call(worker, channel, service, destination, deliveries, self.ledger.clock())
        self._check_live_tries(call)
        self._calls.append(call)
        self._check_at_once(call)
        self._check_rate(call)
        try:
            yield
        finally:
            self._calls.remove(call)

    def _counts(self, call: _Call) -> bool:
        """Whether the process of a call must end it in time: not if its lease is over, and it cannot know that."""
        worker = call.worker
        is_unaware = worker.dead or worker.frozen_until > trio.current_time() or worker.name in self._evicted
        return not is_unaware or worker.name in self.living()

    def _check_live_tries(self, call: _Call) -> None:
        """Check that no other call in flight carries one of the same deliveries."""
        for other in filter(self._counts, self._calls):
            if same := set(call.deliveries) & set(other.deliveries):
                self.broken.append(f"2: {len(same)} deliveries are in two calls at once: {next(iter(same))}")

    def _check_at_once(self, call: _Call) -> None:
        """Check how many calls are in flight at once, over all processes."""
        most: dict[Channel, int] = {Channel.EMAIL: self.limits.email, Channel.PUSH: self.limits.push}
        together = [one for one in filter(self._counts, self._calls) if one.channel is call.channel]
        if len(together) > most[call.channel]:
            self.broken.append(f"limits: {len(together)} calls of {call.channel} in flight, of {most[call.channel]}")
        there = [one for one in together if one.destination == call.destination]
        if call.channel is Channel.PUSH and len(there) > self.limits.per_destination:
            limit = self.limits.per_destination
            self.broken.append(f"limits: {len(there)} calls in flight to one destination, of {limit}")

    def _check_rate(self, call: _Call) -> None:
        """Check how many calls began within a second.

        Calls that a frozen process had begun leave together when it goes on: nobody can prevent that.
        """
        rate = self.limits.per_second
        if not rate or call.channel is not Channel.EMAIL or self._has_just_thawed(call.worker):
            return
        self._began = [one for one in self._began if one.began > call.began - 1.0 + INSTANT]
        self._began.append(call)
        number = sum(one.service == call.service for one in filter(self._counts, self._began))
        if number > ceil(rate):
            self.broken.append(f"limits: {number} calls to {call.service} began within a second, of {rate:g}")

    def _has_just_thawed(self, worker: Worker) -> bool:
        return worker.thawed_at > trio.current_time() - 1.0

    def note_accepted(self, deliveries: Collection[UUID]) -> None:
        """Note the mails that a provider accepted."""
        self.accepted.update(deliveries)
        if self.limits.per_day and len(self.accepted) > self.limits.per_day:
            self.broken.append(f"quota: {len(self.accepted)} mails were accepted, of {self.limits.per_day}")

    # The end --------------------------------------------------------------------------------------------------------

    def check_quota_used_up(self) -> None:
        """Check that mails were withheld only because others used up the quota. It holds where nothing went wrong."""
        rows = [row.delivery for row in self.ledger.rows.values() if row.delivery.channel is Channel.EMAIL]
        withheld = [row for row in rows if "email_per_day" in (row.reason or "")]
        given = self.ledger.given(self.day)
        if withheld and given < self.limits.per_day:
            self.broken.append(f"quota: {given} of {self.limits.per_day} mails were used, and {len(withheld)} withheld")
