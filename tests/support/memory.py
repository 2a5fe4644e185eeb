"""The ledger and the source in memory, over an application in memory: held to the same contract as PostgreSQL's.

Time is Trio's, so that virtual time moves it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Any, TypeVar
from uuid import UUID

import trio
from attrs import define, evolve, field, frozen

from notifierd.config.settings import Audit
from notifierd.model.counts import Backlog, Capacity, ChannelCounts, DayCounts, Excess, Failure, Planned, Untold
from notifierd.model.delivery import OPEN, Channel, Delivery, Reservation, Settlement, State, delivery_id
from notifierd.model.office import Alert, Device, Kind, LastRun, OfficeWork, Staff
from notifierd.model.reasons import Reason
from notifierd.rules.cluster.grants import ClusterLimits
from notifierd.rules.cluster.membership import ALONE, Day, Member, Standing, Terms, Use, join, renew
from notifierd.rules.due import Rules, chosen
from notifierd.rules.reminders import LOOK_BACK
from notifierd.store.ledger import (
    AUDIT_TOGETHER,
    FORGET_STEP,
    LEASE_SECONDS,
    PLAN_STEP,
    UNLIMITED,
    Ended,
    OfficeDay,
    Run,
)
from notifierd.store.source import CHUNK, Chunk, Claim, Place

T = TypeVar("T")


@define
class Application:
    """What the five views would show."""

    offices: dict[UUID, str] = field(factory=dict)
    staff: list[tuple[UUID, Staff]] = field(factory=list)
    alerts: list[tuple[UUID, Alert]] = field(factory=list)
    devices: dict[UUID, Device] = field(factory=dict)
    audit_log: list[dict[str, Any]] = field(factory=list)

    def staff_of(self, office_id: UUID) -> dict[UUID, Staff]:
        """The staff members of one office by their id."""
        return {staff.id: staff for office, staff in self.staff if office == office_id}

    def devices_of(self, staff_id: UUID) -> list[Device]:
        """Somebody's devices, the newest first; nothing says when they came, so their ids decide."""
        devices = (device for device in self.devices.values() if device.staff_id == staff_id)
        return sorted(devices, key=lambda device: device.id, reverse=True)

    def alerts_of(self, office_id: UUID) -> list[Alert]:
        """The alerts of one office."""
        return [alert for office, alert in self.alerts if office == office_id]


@define
class _Row:
    """A delivery as the table has it, with what the model does not carry."""

    day: date
    delivery: Delivery
    not_before: float | None = None
    try_until: float | None = None
    reserved_at: float = -math.inf
    reserved_by: str = ""
    provider_message_id: str | None = None
    audit_missing: bool = False


@define
class _Run:
    state: str
    holder: str | None
    lease_until: float
    reason: str | None = None
    finished_at: datetime | None = None
    epoch: int = 0
    plan: Planned | None = None
    limits: ClusterLimits | None = None
    mails_room: int = 0


@define
class _Membership:
    member: Member
    joined_at: float
    until: float
    drawn: int = 0
    used: int = 0


@frozen
class Version:
    """What a run had written at some moment, into the ledger and into the application."""

    runs: dict[date, _Run]
    offices: dict[tuple[date, UUID], int]
    failed_offices: dict[tuple[date, UUID], str]
    rows: dict[UUID, _Row]
    late: list[Settlement]
    alarms: set[tuple[date, str]]
    audit_owed: set[OfficeDay]
    to_plan: dict[date, list[UUID]]
    memberships: dict[tuple[date, str], _Membership]
    claims: dict[OfficeDay, str]
    done: set[OfficeDay]
    devices: dict[UUID, Device]
    audit_log: list[dict[str, Any]]


@frozen
class Hold:
    """Somebody whose mails are held back while they have that address; both days included."""

    staff_id: UUID
    address: str
    reason: str
    since: date
    until: date


@frozen
class EarlierRun:
    """A run of an earlier day: its state, the offices that it planned, and how their deliveries ended."""

    day: date
    state: str
    offices: tuple[UUID, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


@define
class MemoryLedger:
    """See the module. Also the source that a run reads."""

    app: Application
    clock: Callable[[], float] = trio.current_time
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    chunk: int = CHUNK
    runs: dict[date, _Run] = field(factory=dict)
    offices: dict[tuple[date, UUID], int] = field(factory=dict)
    failed_offices: dict[tuple[date, UUID], str] = field(factory=dict)
    rows: dict[UUID, _Row] = field(factory=dict)
    late: list[Settlement] = field(factory=list)
    alarms: set[tuple[date, str]] = field(factory=set)
    holds: list[Hold] = field(factory=list)
    not_reached: set[UUID] = field(factory=set)
    """The deliveries that were accepted, and then bounced, refused or suppressed."""
    audit_owed: set[OfficeDay] = field(factory=set)
    uncounted: set[date] = field(factory=set)
    """The days whose counts were not kept; what keeps them removes the day."""
    memberships: dict[tuple[date, str], _Membership] = field(factory=dict)
    claims: dict[OfficeDay, str] = field(factory=dict)
    done: set[OfficeDay] = field(factory=set)
    audit: Audit = "each"
    plan_step: int = PLAN_STEP
    to_plan: defaultdict[date, list[UUID]] = field(factory=lambda: defaultdict(list))
    """The offices that `plan` left to `plan_next`, the most urgent first."""
    _held: int = 0

    # What a database may forget ----------------------------------------------------------------------------------

    def version(self) -> "Version":
        """Keep all that a run writes, as it is now."""
        return Version(
            {day: copy(run) for day, run in self.runs.items()},
            dict(self.offices),
            dict(self.failed_offices),
            {key: copy(row) for key, row in self.rows.items()},
            list(self.late),
            set(self.alarms),
            set(self.audit_owed),
            {day: list(offices) for day, offices in self.to_plan.items()},
            {key: copy(membership) for key, membership in self.memberships.items()},
            dict(self.claims),
            set(self.done),
            dict(self.app.devices),
            list(self.app.audit_log),
        )

    def go_back(self, version: "Version") -> None:
        """Know nothing of what was written since *version* was kept, to which this cannot go back again."""
        self.runs, self.offices, self.failed_offices = version.runs, version.offices, version.failed_offices
        self.rows, self.late, self.alarms = version.rows, version.late, version.alarms
        self.audit_owed = version.audit_owed
        self.to_plan = defaultdict(list, version.to_plan)
        self.memberships, self.claims, self.done = version.memberships, version.claims, version.done
        self.app.devices, self.app.audit_log = version.devices, version.audit_log

    # The lease ---------------------------------------------------------------------------------------------------

    async def take_lease(self, day: date, holder: str, terms: Terms = ALONE) -> Standing:
        await self._statement()
        standing = join(self._day(day), holder, terms)
        run = self.runs.setdefault(day, _Run("running", None, -math.inf))
        run.state, run.epoch, run.limits = "running", standing.epoch, standing.limits
        if standing.begins:
            run.reason = run.finished_at = run.plan = None
        before = self.memberships.get((day, holder))
        joined_at = before.joined_at if before and self._is_member(day, holder) else self.clock()
        if standing.leads:
            run.holder, run.lease_until = holder, self.clock() + LEASE_SECONDS
        member = Member(holder, standing.epoch, standing.kept, terms.shares, terms.config_hash)
        self.memberships[day, holder] = _Membership(member, joined_at, self.clock() + LEASE_SECONDS)
        return standing

    async def renew_lease(self, day: date, holder: str, use: Use = Use()) -> Standing | None:  # noqa: B008 - it is frozen
        await self._statement()
        standing = renew(self._day(day), holder, use)
        if standing is None:
            return None
        run, membership = self.runs[day], self.memberships[day, holder]
        membership.until = self.clock() + LEASE_SECONDS
        membership.used = max(membership.used, use.mails_used)
        asked = max(membership.member.asked, use.asked)
        membership.member = evolve(membership.member, grant=standing.kept, asked=asked)
        if standing.leads:
            run.holder, run.lease_until, run.limits = holder, self.clock() + LEASE_SECONDS, standing.limits
        return standing

    def extend(self, day: date, until: float) -> None:
        """Let the lease of *day*, and the memberships, end at *until*."""
        self.runs[day].lease_until = until
        for (of, _), membership in self.memberships.items():
            if of == day:
                membership.until = until

    async def leave(self, day: date, holder: str) -> bool:
        await self._statement()
        last = self._day(day).is_last(holder)
        if last:
            self.runs[day].holder, self.runs[day].lease_until = holder, self.clock() + LEASE_SECONDS
        else:
            self._remove(day, holder)
        return not last

    async def give_back(self, day: date, holder: str, reason: str) -> None:
        await self._statement()
        run = self.runs[day]
        found = self._day(day)
        if not found.peers(holder) and (found.is_last(holder) or run.holder == holder):
            self._end_run(day, "interrupted", reason)
        self._remove(day, holder)

    def _remove(self, day: date, holder: str) -> None:
        run = self.runs[day]
        self.memberships.pop((day, holder), None)
        if run.holder == holder:
            run.holder, run.lease_until = None, self.clock()

    def _end_run(self, day: date, state: str, reason: str | None) -> None:
        epoch = self.runs[day].epoch
        self.runs[day] = _Run(state, None, self.clock(), reason, self.now(), epoch)

    def _day(self, day: date) -> Day:
        """The day as the rules of the membership want it."""
        run = self.runs.get(day) or _Run("", None, -math.inf)
        there = [(kept.joined_at, name) for (on, name), kept in self.memberships.items() if on == day]
        members = tuple(self.memberships[day, name].member for _, name in sorted(there) if self._is_member(day, name))
        leader = run.holder if run.lease_until > self.clock() else None
        return Day(run.state == "running", leader, run.epoch, run.plan, run.limits, members)

    def _is_member(self, day: date, name: str) -> bool:
        membership, run = self.memberships.get((day, name)), self.runs.get(day)
        if membership is None or run is None or membership.until <= self.clock():
            return False
        return membership.member.shares or (run.holder == name and run.lease_until > self.clock())

    def _in_progress(self, day: date) -> bool:
        run = self.runs[day]
        return run.state == "running" and (run.lease_until > self.clock() or bool(self._day(day).peers("")))

    async def note_plan(self, day: date, holder: str, planned: Planned) -> int:
        await self._statement()
        run = self.runs[day]
        if run.holder != holder or run.lease_until <= self.clock():
            return 0
        run.plan = evolve(planned, held=0, crowded={})
        self._reopen(day)
        return len(self._day(day).peers(""))

    async def recount_mails(self, day: date, holder: str, quota: int) -> None:
        await self._statement()
        drawn = sum(
            kept.drawn - kept.used
            for (on, name), kept in self.memberships.items()
            if on == day and self._is_member(on, name)
        )
        if self.runs[day].holder == holder and self.runs[day].lease_until > self.clock():
            self.runs[day].mails_room = max(0, quota - self.given(day) - drawn)

    async def draw_mails(self, day: date, holder: str, needed: int) -> int:
        await self._statement()
        run, membership = self.runs[day], self.memberships.get((day, holder))
        if membership is None or not self._is_member(day, holder):
            return 0
        lacking = needed - membership.drawn
        if lacking > 0:
            share = run.mails_room // (2 * max(1, len(self._day(day).peers(""))))
            mails = min(run.mails_room, max(lacking, share))
            run.mails_room -= mails
            membership.drawn += mails
        return membership.drawn

    async def release(self, day: date, holder: str, kept: Collection[UUID]) -> None:
        await self._statement()
        for (on, office), claimed_by in list(self.claims.items()):
            if (on, claimed_by) == (day, holder) and office not in kept and (on, office) not in self.done:
                del self.claims[on, office]

    async def reopen(self, day: date) -> None:
        await self._statement()
        self._reopen(day)

    def _reopen(self, day: date) -> None:
        again = {(day, row.delivery.office_id) for row in self._of(day) if row.delivery.state in OPEN} & self.done
        self.done -= again
        for office in again:
            self.claims.pop(office, None)

    async def is_open(self, day: date) -> bool:
        await self._statement()
        return any(
            row.delivery.state in OPEN and (day, row.delivery.office_id) not in self.done for row in self._of(day)
        )

    async def finish(
        self, day: date, holder: str, state: str, reason: str | None, untold: Sequence[Untold] = ()
    ) -> bool:
        await self._statement()
        if self.runs[day].holder != holder:
            return True
        again = state == "completed" and any(row.delivery.state in OPEN for row in self._of(day))
        state, reason = ("interrupted", "retried") if again else (state, reason)
        self._end_run(day, state, reason)
        self.memberships.pop((day, holder), None)
        return not again

    async def run(self, day: date) -> Run | None:
        await self._statement()
        if day not in self.runs:
            return None
        run = self.runs[day]
        return Run(run.state, run.reason, run.finished_at)

    async def last_day(self, day: date) -> date | None:
        await self._statement()
        return max((known for known in self.runs if known <= day), default=None)

    async def record(self, runs: Mapping[date, tuple[str, str]]) -> list[date]:
        await self._statement()
        new = sorted(day for day in runs if day not in self.runs)
        for day in new:
            state, reason = runs[day]
            self.runs[day] = _Run(state, None, self.clock(), reason, self.now())
        return new

    async def claim_alarm(self, day: date, cause: str) -> bool:
        await self._statement()
        known = (day, cause) in self.alarms
        self.alarms.add((day, cause))
        return not known

    # Planning ----------------------------------------------------------------------------------------------------

    async def plan(self, day: date, rules: Rules, capacity: Capacity = UNLIMITED) -> Planned:
        await self._statement()
        alerts, due = _by_office(self.app.alerts), self.due(day, rules)
        ranked = sorted({d.office_id for d in due}, key=lambda office: (_urgency(alerts[office], day, rules), office))
        first, self.to_plan[day] = set(ranked[: self.plan_step]), ranked[self.plan_step :]
        self._write([delivery for delivery in due if delivery.office_id in first], day, rules)
        waiting = [row.delivery for row in self._of(day) if row.delivery.state in OPEN]
        return self._planned(waiting, day, rules, capacity, self.given(day))

    async def plan_next(self, day: date, rules: Rules, capacity: Capacity) -> Planned:
        await self._statement()
        step, self.to_plan[day] = set(self.to_plan[day][: self.plan_step]), self.to_plan[day][self.plan_step :]
        written = self._write([delivery for delivery in self.due(day, rules) if delivery.office_id in step], day, rules)
        return self._planned([row for row in written if row.state in OPEN], day, rules, capacity, 0)

    async def resume(self, day: date) -> Planned | None:
        await self._statement()
        waiting = [row.delivery for row in self._of(day) if row.delivery.state in OPEN]
        if not waiting or sum(on == day for on, _ in self.offices) <= self.plan_step:
            return None
        channels = Counter(delivery.channel for delivery in waiting)
        offices = sum(on == day and (on, office) not in self.done for on, office in self.offices)
        return Planned(
            offices, channels[Channel.EMAIL], channels[Channel.PUSH], mails_given=self.given(day), later=None
        )

    def _write(self, due: Sequence[Delivery], day: date, rules: Rules) -> list[Delivery]:
        """Write what is new of what is *due*; return it."""
        told = {
            (row.delivery.office_id, row.delivery.staff_id)
            for row in self._of(day)
            if row.delivery.channel is Channel.PUSH and row.delivery.state is State.SENT
        }
        alerts = _by_office(self.app.alerts)
        written = []
        for delivery in due:
            if delivery.channel is Channel.PUSH and (delivery.office_id, delivery.staff_id) in told:
                continue
            self.offices.setdefault((day, delivery.office_id), _urgency(alerts[delivery.office_id], day, rules))
            if delivery.id not in self.rows:
                reason = self.held(delivery, day)
                state = State.FAILED if reason else State.PLANNED
                self.rows[delivery.id] = _Row(day, evolve(delivery, state=state, reason=reason))
                written.append(self.rows[delivery.id].delivery)
        self._held = sum(delivery.state is State.FAILED for delivery in written)
        return written

    def _planned(self, waiting: Sequence[Delivery], day: date, rules: Rules, capacity: Capacity, given: int) -> Planned:
        """What a statement that plans returns: it counts what is *waiting*, beside mails that were given before."""
        channels = Counter(delivery.channel for delivery in waiting)
        offices = {delivery.office_id for delivery in waiting}
        mails = Counter(d.office_id for d in waiting if d.channel is Channel.EMAIL and d.state is State.PLANNED)
        return Planned(
            len(offices),
            channels[Channel.EMAIL],
            channels[Channel.PUSH],
            self._held,
            given,
            tuple(self._excess(day, mails, capacity, given)),
            self._crowded(day, rules),
            sum(math.ceil(n / capacity.batch) for n in mails.values()),
            len(self.to_plan[day]),
        )

    def held(self, delivery: Delivery, day: date) -> str | None:
        """Why a mail is held back on *day*."""
        if not self.holds or delivery.channel is Channel.PUSH:
            return None
        address = (self.app.staff_of(delivery.office_id)[delivery.staff_id].email or "").lower()
        reasons = [
            Reason.HELD.of(hold.reason)
            for hold in self.holds
            if (hold.staff_id, hold.address) == (delivery.staff_id, address) and hold.since <= day <= hold.until
        ]
        return reasons[0] if reasons else None

    def _crowded(self, day: date, rules: Rules) -> dict[UUID, int]:
        pushed_to = {delivery.staff_id for delivery in self.due(day, rules) if delivery.device_id}
        numbers = {staff_id: len(self.app.devices_of(staff_id)) for staff_id in pushed_to}
        crowded = [(-n, staff_id) for staff_id, n in numbers.items() if n > rules.devices_per_person]
        return {staff_id: -n for n, staff_id in sorted(crowded)[:10]}

    def given(self, day: date) -> int:
        """How many mails of the day a provider accepted, or may have."""
        given = (State.SENT, State.SENDING, State.UNKNOWN)
        mails = [row.delivery for row in self._of(day) if row.delivery.channel is Channel.EMAIL]
        return sum(mail.state in given or mail.doubts > 0 for mail in mails)

    def _excess(self, day: date, mails: Counter[UUID], capacity: Capacity, given: int) -> Iterator[Excess]:
        ranked = sorted(mails, key=lambda office: (self.offices[day, office], office))
        if capacity.mails is not None:
            yield from _beyond("email_per_day", ranked, mails, max(0, capacity.mails - given))
        if capacity.calls is not None:
            calls = Counter({office: math.ceil(mails[office] / capacity.batch) for office in ranked})
            fit = sum(total <= capacity.calls for total in accumulate(calls[office] for office in ranked))
            yield from _beyond("email_per_second", ranked, mails, sum(mails[office] for office in ranked[:fit]))

    def due(self, day: date, rules: Rules) -> list[Delivery]:
        """What ``choose`` says is due, delivery by delivery."""
        found = []
        alerts, members = _by_office(self.app.alerts), _by_office(self.app.staff)
        last_runs = self.last_runs(day)
        for office_id in self.app.offices:
            if rules.only_offices and office_id not in rules.only_offices:
                continue
            last_run = last_runs(office_id)
            for staff in members[office_id]:
                if chosen(staff, Channel.EMAIL, alerts[office_id], day, rules, last_run):
                    key = delivery_id(day, office_id, staff.id, Channel.EMAIL)
                    found.append(Delivery(key, office_id, staff.id, Channel.EMAIL))
                if chosen(staff, Channel.PUSH, alerts[office_id], day, rules, last_run):
                    for device in self.app.devices_of(staff.id)[: rules.devices_per_person]:
                        key = delivery_id(day, office_id, staff.id, Channel.PUSH, device.id)
                        found.append(Delivery(key, office_id, staff.id, Channel.PUSH, device.id))
        return found

    def remember(self, run: EarlierRun) -> None:
        """Have made the run of an earlier day."""
        self.runs[run.day] = _Run(run.state, None, -math.inf)
        self.offices |= {(run.day, office): 0 for office in run.offices}
        self.rows |= {delivery.id: _Row(run.day, delivery) for delivery in run.deliveries}

    def previous_day(self, day: date) -> date:
        """The day of the run before *day*."""
        planned = {known for known, run in self.runs.items() if run.state == "completed"} | {
            known for known, _ in self.offices if known in self.runs
        }
        within = (known for known in planned if day - timedelta(days=LOOK_BACK) <= known < day)
        return max(within, default=day - timedelta(days=1))

    def last_runs(self, day: date) -> Callable[[UUID], LastRun]:
        """The run before *day*, for each office."""
        previous = self.previous_day(day)
        ends, unplanned = defaultdict(set), set(self.to_plan[previous])
        for row in self._of(previous):
            ends[row.delivery.office_id, row.delivery.staff_id, row.delivery.channel].add(row.delivery.state)
        nothing_sent = [key for key, states in ends.items() if State.SENT not in states]
        not_planned = [
            (office, staff.id, on) for office, staff in self.app.staff if office in unplanned for on in Channel
        ]
        missed = _by_office((office, (staff, channel)) for office, staff, channel in [*nothing_sent, *not_planned])
        return lambda office: LastRun(previous, frozenset(missed.get(office, ())))

    # Reading -----------------------------------------------------------------------------------------------------

    async def read(self, day: date, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
        as_of = trio.current_time()
        await self._statement()
        self._finish_offices(day, claim)
        places = sorted((urgency, office) for (on, office), urgency in self.offices.items() if on == day)
        rows = _by_office((row.delivery.office_id, row) for row in self._of(day))
        members, alerts = _by_office(self.app.staff), _by_office(self.app.alerts)
        free = [place for place in places if self._can_claim((day, place[1]), claim)]
        due = [place for place in free if place > after and self._to_do(rows[place[1]], claim)]
        most = min(most, self.chunk)
        if claim.members > 1:
            most = min(most, max(1, len(free) // (4 * claim.members)))
        chunk = due[:most]
        self.claims |= {(day, office): claim.holder for _, office in chunk}
        horizon, last_runs = day + timedelta(days=rules.horizon_days), self.last_runs(day)
        works = tuple(
            evolve(
                self._work(office, self._deliveries(rows[office]), members[office], alerts[office], horizon, as_of),
                last_run=last_runs(office),
            )
            for _, office in chunk
        )
        more = len(due) > len(chunk) or (claim.members > 1 and chunk)
        return Chunk(works, chunk, chunk[-1] if more else None)

    def _finish_offices(self, day: date, claim: Claim) -> None:
        """Mark those of the member's offices as done that are finished."""
        unfinished = {row.delivery.office_id for row in self._of(day) if row.delivery.state in OPEN}
        self.done |= {
            (day, office)
            for office in claim.finished
            if self.claims.get((day, office)) == claim.holder
            and office not in unfinished
            and (day, office) not in self.failed_offices
        }

    def _can_claim(self, office: OfficeDay, claim: Claim) -> bool:
        if office in self.done:
            return False
        claimed_by = self.claims.get(office)
        return claimed_by in (None, claim.holder) or not self._is_member(office[0], str(claimed_by))

    def _to_do(self, rows: Iterable[_Row], claim: Claim) -> bool:
        due = {row.delivery.channel for row in rows if self._due(row)}
        return bool(due) and (claim.channels is None or due <= set(claim.channels))

    async def read_again(self, work: OfficeWork, day: date, rules: Rules) -> OfficeWork:
        as_of = trio.current_time()
        await self._statement()
        members, alerts = list(self.app.staff_of(work.id).values()), self.app.alerts_of(work.id)
        horizon = day + timedelta(days=rules.horizon_days)
        again = self._work(work.id, work.deliveries, members, alerts, horizon, as_of)
        return evolve(again, last_run=self.last_runs(day)(work.id))

    def _deliveries(self, rows: list[_Row]) -> tuple[Delivery, ...]:
        again = {row.delivery.call_id for row in rows if row.delivery.state is State.SENDING} - {None}
        return tuple(
            evolve(row.delivery, due=self._due(row))
            for row in sorted(rows, key=_place)
            if self._due(row) or row.delivery.call_id in again
        )

    def _work(
        self,
        office_id: UUID,
        deliveries: tuple[Delivery, ...],
        members: list[Staff],
        alerts: list[Alert],
        horizon: date,
        as_of: float,
    ) -> OfficeWork:
        there = office_id in self.app.offices
        return OfficeWork(
            id=office_id,
            name=self.app.offices.get(office_id),
            deliveries=deliveries,
            staff={staff.id: staff for staff in members} if there else {},
            alerts=tuple(
                alert
                for alert in alerts
                if alert.kind is Kind.ASSESSMENT or (alert.due_on is not None and alert.due_on <= horizon)
            ),
            devices={
                d.device_id: device
                for d in deliveries
                if d.device_id and (device := self.app.devices.get(d.device_id)) and device.staff_id == d.staff_id
            },
            as_of=as_of,
        )

    def _of(self, day: date) -> list[_Row]:
        return [row for row in self.rows.values() if row.day == day]

    def _due(self, row: _Row) -> bool:
        now = self.clock()
        if row.not_before is not None and row.not_before > now:
            return False
        match row.delivery.state:
            case State.PLANNED:
                return True
            case State.SENDING:
                return row.try_until is not None and row.try_until <= now
            case _:
                return False

    # A delivery's life ---------------------------------------------------------------------------------------------

    async def keep_interim(self, day: date, holder: str) -> int:
        await trio.lowlevel.checkpoint()  # no strike of the simulator: nothing depends on it
        return sum(of == day for of, _ in self.done)

    async def keep_counts(self, before: date) -> date | None:
        day = max((day for day in self.uncounted if day < before), default=None)
        if day:
            self.uncounted.remove(day)
        return day

    async def reserve(self, day: date, holder: str, reservations: Sequence[Reservation]) -> set[UUID]:
        await self._statement()
        if not self._is_member(day, holder) or self.memberships[day, holder].member.epoch != self.runs[day].epoch:
            return set()
        since = self.memberships[day, holder].joined_at
        granted = [
            r for r in reservations if all(self._free(marked, r.call_id, holder, since) for marked in r.deliveries)
        ]
        for reservation in granted:
            for marked in reservation.deliveries:
                row = self.rows[marked.id]
                row.delivery = evolve(
                    marked, payload_hash=reservation.payload_hash, provider=reservation.provider, reason=None
                )
                row.try_until = self.clock() + reservation.expires
                row.not_before, row.reserved_at, row.reserved_by = None, self.clock(), holder
        return {reservation.call_id for reservation in granted}

    def _free(self, marked: Delivery, call_id: UUID, holder: str, since: float) -> bool:
        row = self.rows[marked.id]
        now = row.delivery
        if now.try_no == marked.try_no - 1:
            stale = row.try_until is not None and row.try_until <= self.clock()
            return now.state is State.PLANNED or (now.state is State.SENDING and stale)
        ours = now.call_id == call_id and row.reserved_by == holder and row.reserved_at >= since
        return now.try_no == marked.try_no and now.state is State.SENDING and ours

    async def settle(self, settlements: Sequence[Settlement], *, without_audit: bool = False) -> set[UUID]:
        await self._statement()
        late = set()
        for settlement in settlements:
            row = self.rows[settlement.delivery.id]
            now = row.delivery
            if not _settles(settlement, now):
                if not _said_before(settlement, row):
                    late.add(now.id)
                    self.late.append(settlement)
                continue
            self._extras(row, settlement, without_audit=without_audit)
            row.delivery = evolve(
                now,
                state=settlement.state,
                reason=settlement.reason,
                attempts=settlement.attempts,
                doubts=settlement.doubts,
                put_back=settlement.put_back,
                try_no=max(now.try_no, settlement.try_no),
                provider=settlement.delivery.provider or now.provider,
            )
            row.not_before = None if settlement.wait is None else self.clock() + settlement.wait
            row.try_until = self.clock() if settlement.state is State.SENDING else None
            row.provider_message_id = settlement.provider_message_id or row.provider_message_id
        return late

    def _extras(self, row: _Row, settlement: Settlement, *, without_audit: bool) -> None:
        is_sent = settlement.state is State.SENT
        row.audit_missing = is_sent and {"each": without_audit, "office": True, "none": False}[self.audit]
        if is_sent and self.audit == "office":
            self.audit_owed.add((row.day, row.delivery.office_id))
        if without_audit:
            return
        if settlement.state is State.GONE:
            self._delete_device(row.delivery, settlement.gone_endpoint)
        if is_sent and self.audit == "each":
            self._audit(row, settlement)

    async def settle_extras(self, settlements: Sequence[Settlement]) -> None:
        await self._statement()
        for settlement in settlements:
            row = self.rows[settlement.delivery.id]
            if row.delivery.try_no != settlement.try_no:
                continue
            if row.delivery.state is State.GONE:
                self._delete_device(row.delivery, settlement.gone_endpoint)
            if row.delivery.state is State.SENT and row.audit_missing and self.audit == "each":
                self._audit(row, settlement)
                row.audit_missing = False

    def _delete_device(self, delivery: Delivery, endpoint: str | None) -> None:
        if delivery.device_id:
            device = self.app.devices.get(delivery.device_id)
            if device and device.endpoint == endpoint:
                del self.app.devices[delivery.device_id]

    def _audit(self, row: _Row, settlement: Settlement) -> None:
        """Write the audit row of a delivery that was sent; of one's pushes of a day and office, the first has one."""
        delivery = row.delivery
        told_before = delivery.channel is Channel.PUSH and any(
            (other.delivery.office_id, other.delivery.staff_id) == (delivery.office_id, delivery.staff_id)
            and other.delivery.channel is Channel.PUSH
            and other.delivery.state is State.SENT
            and not other.audit_missing
            and other is not row
            for other in self._of(row.day)
        )
        if not told_before:
            self.app.audit_log.append(
                {
                    "channel": delivery.channel,
                    "target_id": delivery.staff_id,
                    "office_id": delivery.office_id,
                    "details": settlement.audit,
                }
            )

    async def unaudited_offices(self, day: date) -> list[OfficeDay]:
        await self._statement()
        return self._unaudited(day)

    def _unaudited(self, day: date) -> list[OfficeDay]:
        unfinished = {(row.day, row.delivery.office_id) for row in self.rows.values() if row.delivery.state in OPEN}
        return sorted(office for office in self.audit_owed if office[0] <= day and office not in unfinished)

    async def audit_offices(self, day: date, office: OfficeDay | None = None) -> int:
        await self._statement()
        if self.audit == "none":
            return 0
        due = [place for place in self._unaudited(day) if office in (None, place)][:AUDIT_TOGETHER]
        for place in due:
            self._audit_office(place)
        return len(due)

    def _audit_office(self, place: OfficeDay) -> None:
        """Write one row of an office for all that was sent and has no row yet."""
        on, office_id = place
        sent = [row for row in self._of(on) if row.audit_missing and row.delivery.office_id == office_id]
        channels = Counter(row.delivery.channel for row in sent)
        for row in sent:
            row.audit_missing = False
        self.audit_owed.remove(place)
        if sent:
            details = {
                "day": str(on),
                "office_name": self.app.offices.get(office_id),
                "staff_count": len({row.delivery.staff_id for row in sent}),
                "email_count": channels[Channel.EMAIL],
                "push_count": channels[Channel.PUSH],
            }
            self.app.audit_log.append(
                {"channel": None, "target_id": office_id, "office_id": office_id, "details": details}
            )

    async def give_up_audit(self, office: OfficeDay) -> None:
        await self._statement()
        self.audit_owed.discard(office)

    async def expire(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        return await self._end_planned(State.EXPIRED, day, holder, reasons)

    async def fail(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        return await self._end_planned(State.FAILED, day, holder, reasons)

    def _claims(self, holder: str, office: OfficeDay) -> bool:
        return self.claims.get(office) == holder and self._is_member(office[0], holder)

    async def _end_planned(self, state: State, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        await self._statement()
        ended: Ended = Counter()
        for delivery, reason in reasons.items():
            row = self.rows[delivery.id]
            if not self._claims(holder, (day, row.delivery.office_id)):
                continue
            if row.delivery.state is State.PLANNED and row.delivery.try_no == delivery.try_no:
                self._end(row, state, reason)
                ended[row.delivery.channel, state] += 1
        return ended

    async def fail_office(self, day: date, holder: str, office_id: UUID, reason: str) -> Ended:
        await self._statement()
        ended: Ended = Counter()
        if not self._claims(holder, (day, office_id)):
            return ended
        self.failed_offices[day, office_id] = reason
        for row in self._of(day):
            if row.delivery.office_id == office_id and self._can_end(row):
                state = State.FAILED if row.delivery.state is State.PLANNED else State.UNKNOWN
                self._end(row, state, reason)
                ended[row.delivery.channel, state] += 1
        return ended

    async def close(self, day: date, unsent_mail_reason: str | None = None) -> Ended:
        await self._statement()
        return self._end_windows([row for row in self._of(day) if self._can_end(row)], unsent_mail_reason)

    async def close_earlier(self, day: date) -> Ended:
        await self._statement()
        days = [
            earlier
            for earlier, run in self.runs.items()
            if earlier < day
            and not self._in_progress(earlier)
            and run.state in ("running", "interrupted")
            and not (run.reason or "").startswith("never_resumed")
        ]
        ending = [row for row in self.rows.values() if row.day in days and row.delivery.state in OPEN]
        for earlier in days:
            reason = self.runs[earlier].reason
            reason = None if reason == "retried" else reason
            reason = "never_resumed" + (f" ({reason})" if reason else "")
            self.runs[earlier] = _Run("interrupted", None, self.clock(), reason, epoch=self.runs[earlier].epoch)
        return self._end_windows(ending)

    async def leave_open(self, day: date) -> int:
        await self._statement()
        run = self.runs.get(day)
        if run and run.state == "running" and not self._in_progress(day):
            self._end_run(day, "interrupted", "run_died")
        return sum(row.delivery.state in OPEN for row in self._of(day))

    def _can_end(self, row: _Row) -> bool:
        stale = row.try_until is not None and row.try_until <= self.clock()
        return row.delivery.state is State.PLANNED or (row.delivery.state is State.SENDING and stale)

    def _end_windows(self, rows: Sequence[_Row], unsent_mail_reason: str | None = None) -> Ended:
        for row in rows:
            self._end_window(row, unsent_mail_reason if row.delivery.channel is Channel.EMAIL else None)
        return Counter((row.delivery.channel, row.delivery.state) for row in rows)

    def _end_window(self, row: _Row, otherwise: str | None) -> None:
        state = State.EXPIRED if row.delivery.state is State.PLANNED else State.UNKNOWN
        reason = "window_ended" + ("_in_doubt" if row.delivery.doubts else "")
        why = row.delivery.reason or otherwise
        self._end(row, state, reason + (f" ({why})" if why else ""))

    def _end(self, row: _Row, state: State, reason: str) -> None:
        row.delivery = evolve(row.delivery, state=state, reason=reason)
        row.not_before = row.try_until = None

    async def retry(self, day: date, states: Collection[State], keyed: Collection[str] = ()) -> Planned:
        await self._statement()
        again = [
            row for row in self._of(day) if row.delivery.state in states and not self._held_by_now(row.delivery, day)
        ]
        for row in again:
            now = row.delivery
            same_call = now.state is State.UNKNOWN and now.payload_hash is not None and now.provider in keyed
            row.delivery = evolve(
                now,
                state=State.SENDING if same_call else State.PLANNED,
                reason=None,
                attempts=0,
                doubts=-1 if same_call else 0,
                put_back=now.put_back + (0 if same_call or now.state is State.EXPIRED else 1),
            )
            row.not_before, row.try_until = None, self.clock() if same_call else None
            office = day, row.delivery.office_id
            if self.failed_offices.pop(office, None) or office in self.done:
                self.claims.pop(office, None)
                self.done.discard(office)
        if again and not self._in_progress(day):
            run = self.runs[day]
            self.runs[day] = _Run("interrupted", None, self.clock(), "retried", run.finished_at, run.epoch)
        channels = Counter(row.delivery.channel for row in again)
        offices = {row.delivery.office_id for row in again}
        return Planned(len(offices), channels[Channel.EMAIL], channels[Channel.PUSH])

    def _held_by_now(self, delivery: Delivery, day: date) -> bool:
        there = delivery.staff_id in self.app.staff_of(delivery.office_id)
        return there and self.held(delivery, day) is not None

    async def forget(self, before: date) -> bool:
        await self._statement()
        old = min((day for day in self.runs if day < before), default=None)
        if old is None:
            return False
        self.alarms = {alarm for alarm in self.alarms if alarm[0] > old}
        self.to_plan.pop(old, None)
        rows = self._of(old)[:FORGET_STEP]
        for row in rows:
            del self.rows[row.delivery.id]
        if not rows:
            del self.runs[old]
            self.audit_owed = {office for office in self.audit_owed if office[0] != old}
            self.offices = {key: urgency for key, urgency in self.offices.items() if key[0] != old}
            self.failed_offices = {key: why for key, why in self.failed_offices.items() if key[0] != old}
            self.claims = {key: who for key, who in self.claims.items() if key[0] != old}
            self.memberships = {key: member for key, member in self.memberships.items() if key[0] != old}
        return True

    # How the day stands ----------------------------------------------------------------------------------------------

    async def counts(self, day: date, rules: Rules, *, interim: bool = False) -> DayCounts:
        await self._statement()
        rows = self._of(day)
        waiting = [row for row in rows if row.delivery.state in OPEN]
        whole = not (interim and waiting)
        turns = [max(row.not_before or 0.0, row.try_until or 0.0) for row in waiting if not self._due(row)]
        failed = [row.delivery for row in rows if row.delivery.state in (State.FAILED, State.UNKNOWN, State.EXPIRED)]
        failures, of_one = list[tuple[int, Failure]](), Counter[UUID]()
        for one in sorted(failed, key=lambda one: (one.office_id, one.channel, one.reason or "")):
            failures.append((of_one[one.staff_id], Failure(one.office_id, one.channel, one.reason or "")))
            of_one[one.staff_id] += 1
        failures.sort(key=lambda ranked: ranked[0])
        return DayCounts(
            offices=sum(on == day for on, _ in self.offices),
            offices_failed=sum(on == day for on, _ in self.failed_offices),
            email=_channel_counts(rows if whole else (), Channel.EMAIL),
            push=_channel_counts(rows if whole else (), Channel.PUSH),
            untold=self._all_untold(day, rules, self._reached(day, rules)) if whole else (),
            failures=tuple(failure for _, failure in failures) if whole else (),
            failures_omitted=0,
            unaudited=len(self._unaudited(day)),
            backlog=Backlog(
                len(waiting),
                any(map(self._due, waiting)),
                min(turns) - self.clock() if turns else None,
                self._done(day, {row.delivery.office_id for row in waiting}),
            ),
        )

    async def mails_given(self, day: date) -> int:
        await self._statement()
        return self.given(day)

    def _done(self, day: date, waiting: set[UUID]) -> tuple[int, UUID] | None:
        """The last office before the first of those that have something open."""
        places = sorted((urgency, office) for (on, office), urgency in self.offices.items() if on == day)
        first = next((n for n, (_, office) in enumerate(places) if office in waiting), 0)
        return places[first - 1] if first else None

    def _reached(self, day: date, rules: Rules) -> dict[UUID, list[int]]:
        """The thresholds of those who were reached, by office."""
        staff = {(office, one.id): one for office, one in self.app.staff}
        done = [
            row.delivery
            for row in self._of(day)
            if row.delivery.state is State.SENT and row.delivery.id not in self.not_reached
        ]
        return _by_office(
            (sent.office_id, someone.days(sent.channel) if someone else rules.horizon_days)
            for sent in done
            for someone in [staff.get((sent.office_id, sent.staff_id))]
        )

    def would_be_untold(self, day: date, rules: Rules) -> tuple[Untold, ...]:
        """The alerts that would reach nobody if every message arrived."""
        reached: dict[UUID, list[int]] = defaultdict(list)
        alerts, last_runs = _by_office(self.app.alerts), self.last_runs(day)
        for office, staff in self.app.staff:
            mail = Delivery(UUID(int=0), office, staff.id, Channel.EMAIL)
            held = self.held(mail, day) is not None
            reached[office] += [
                staff.days(channel)
                for channel in self._ways(evolve(staff, email_enabled=False) if held else staff, rules)
                if chosen(staff, channel, alerts[office], day, rules, last_runs(office))
            ]
        return self._all_untold(day, rules, reached)

    def _all_untold(self, day: date, rules: Rules, reached: Mapping[UUID, list[int]]) -> tuple[Untold, ...]:
        alerts: Counter[UUID] = Counter()
        overdue: Counter[UUID] = Counter()
        members, last_runs = _by_office(self.app.staff), self.last_runs(day)
        for office, alert in self.app.alerts:
            if self._untold(office, alert, members[office], reached[office], day, rules, last_runs):
                left = alert.days_left(day)
                alerts[office] += 1
                overdue[office] += left is not None and left <= 0
        found = [Untold(office, n, overdue[office]) for office, n in alerts.items()]
        return tuple(sorted(found, key=lambda office: (-office.overdue, -office.alerts, office.office_id)))

    def _untold(
        self,
        office_id: UUID,
        alert: Alert,
        members: list[Staff],
        reached: list[int],
        day: date,
        rules: Rules,
        last_runs: Callable[[UUID], LastRun],
    ) -> bool:
        shut_out = rules.only_offices and office_id not in rules.only_offices
        if office_id not in self.app.offices or shut_out or not _in_scope(alert, day, rules):
            return False
        left = alert.days_left(day)
        if reached and (left is None or left <= max(reached)):
            return False
        ways = [(someone, channel) for someone in members for channel in self._ways(someone, rules)]
        last_run, alerts = last_runs(office_id), self.app.alerts_of(office_id)
        if not ways:
            return rules.reminders.is_reason(alert, rules.horizon_days, day, last_run.day)
        written_to = {s.days(channel) for s, channel in ways if chosen(s, channel, alerts, day, rules, last_run)}
        return bool(written_to) and (left is None or left <= max(written_to))

    def _ways(self, staff: Staff, rules: Rules) -> list[Channel]:
        ways = [Channel.EMAIL] if staff.email_enabled and staff.email else []
        has_device = any(device.staff_id == staff.id for device in self.app.devices.values())
        return [*ways, Channel.PUSH] if rules.push and staff.push_enabled and has_device else ways

    async def _statement(self) -> None:
        """What every statement is at least: a place where others run, and where a cancellation is met."""
        await trio.lowlevel.checkpoint()


def _settles(settlement: Settlement, now: Delivery) -> bool:
    sent = settlement.state is State.SENT
    same_call = settlement.delivery.call_id == now.call_id
    tried = now.state is State.SENDING and settlement.try_no == now.try_no and (same_call or sent)
    older = now.state is State.PLANNED or (now.state is State.SENDING and now.try_no < settlement.try_no)
    return tried or (older and sent)


def _said_before(settlement: Settlement, row: _Row) -> bool:
    now, its_id = row.delivery, settlement.provider_message_id
    again = settlement.try_no == now.try_no or (its_id is not None and its_id == row.provider_message_id)
    return settlement.state is now.state and again


def _place(row: _Row) -> tuple[str, UUID, UUID]:
    return row.delivery.channel, row.delivery.staff_id, row.delivery.device_id or UUID(int=0)


def _beyond(limit: str, ranked: Sequence[UUID], mails: Counter[UUID], fit: int) -> Iterator[Excess]:
    """What is beyond the first *fit* of the *mails* of offices in their order."""
    ends = accumulate(mails[office] for office in ranked)
    first = [office for office, end in zip(ranked, ends, strict=True) if end > fit]
    if first:
        yield Excess(limit, mails.total() - fit, len(first), tuple(first[:50]))


def _by_office(pairs: Iterable[tuple[UUID, T]]) -> dict[UUID, list[T]]:
    """What each office has; nothing, of one that is not there."""
    found: dict[UUID, list[T]] = defaultdict(list)
    for office_id, one in pairs:
        found[office_id].append(one)
    return found


def _urgency(alerts: Iterable[Alert], day: date, rules: Rules) -> int:
    lefts = [alert.days_left(day) for alert in alerts if _in_scope(alert, day, rules)]
    return min((left for left in lefts if left is not None), default=100_000)


def _in_scope(alert: Alert, day: date, rules: Rules) -> bool:
    left = alert.days_left(day)
    return left is None or (left <= rules.horizon_days and (rules.overdue or left > 0))


def _channel_counts(rows: Sequence[_Row], channel: Channel) -> ChannelCounts:
    states = Counter(row.delivery.state.value for row in rows if row.delivery.channel is channel)
    waiting = states.pop("planned", 0) + states.pop("sending", 0)
    return ChannelCounts(planned=waiting + states.total(), open=waiting, **states)
