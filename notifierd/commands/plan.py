"""``notifierd plan``: what a run would send now, and for one staff member why. Writes nothing, sends nothing.

It decides by the rule of a run, ``due.notice_for``, over the deliveries that the run's plan would find open.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from datetime import date
from itertools import islice
from typing import Any
from uuid import UUID

from attrs import asdict, field, frozen

from notifierd.config.settings import Settings
from notifierd.model.counts import Excess, Untold
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.errors import ConfigError, may_pass, office_error
from notifierd.model.office import Alert, Notice, OfficeWork
from notifierd.rules.calendar import Calendar
from notifierd.rules.due import (
    ChannelDecision,
    Decision,
    Rules,
    Skip,
    Target,
    channel_decisions,
    notice_for,
    with_next_days,
)
from notifierd.send.open import mail_capacity
from notifierd.service.site import PostgresSite, open_site
from notifierd.store.feedback import Held
from notifierd.store.source import CHUNK


@frozen
class AlertCount:
    """The number of alerts in a message, and how many of them are overdue."""

    alerts: int
    overdue: int

    @classmethod
    def of(cls, alerts: Iterable[Alert], day: date) -> "AlertCount":
        """Count *alerts*, as of *day*."""
        told = overdue = 0
        for alert in alerts:
            left = alert.days_left(day)
            told += alert.number
            overdue += alert.number if left is not None and left <= 0 else 0
        return cls(told, overdue)


@frozen
class PlannedStaff:
    """The messages to one staff member; None for a channel without one.

    Attributes:
        devices: how many devices the push goes to.
    """

    staff_id: UUID
    email: AlertCount | None
    push: AlertCount | None
    devices: int


@frozen
class PlannedOffice:
    """The messages to the staff of one office.

    Attributes:
        nearest: days to the nearest deadline in any message; None if only assessments are missing.
        told: the alerts in any message, each counted once.
    """

    office_id: UUID
    name: str
    nearest: int | None
    told: AlertCount
    staff: tuple[PlannedStaff, ...]

    @property
    def mails(self) -> int:
        """The number of mails."""
        return sum(someone.email is not None for someone in self.staff)

    @property
    def pushes(self) -> int:
        """The number of pushes."""
        return sum(someone.devices for someone in self.staff)


@frozen
class Expiring:
    """A delivery that was planned and would expire, because nothing is due any more, with the reason."""

    office_id: UUID
    staff_id: UUID
    channel: Channel
    reason: str


@frozen
class Unreadable:
    """An office that cannot be read or decided on, with the reason for which a run fails it."""

    office_id: UUID
    reason: str


@frozen
class Plan:
    """What a run of *day* would do now.

    Attributes:
        closed: why there is no run on *day* without ``--force``; None on a business day.
        settled: how many deliveries of *day* are settled already.
        offices: the most urgent first.
        untold: the offices with alerts that no channel takes to anybody.
        excess: the mails that exceed the limits.
        held: how many mails are held back after what the provider reported.
        unreadable: the offices whose data is broken, about which nothing else is known.
    """

    day: date
    closed: str | None
    settled: int
    offices: tuple[PlannedOffice, ...]
    expiring: tuple[Expiring, ...]
    untold: tuple[Untold, ...]
    excess: tuple[Excess, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    held: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object."""
        return {
            "day": str(self.day),
            "closed": self.closed,
            "email": sum(office.mails for office in self.offices),
            "push": sum(office.pushes for office in self.offices),
            "settled": self.settled,
            "held": self.held,
            "offices": [
                {
                    "office_id": str(office.office_id),
                    "name": office.name,
                    "nearest_days": office.nearest,
                    "email": office.mails,
                    "push": office.pushes,
                    **asdict(office.told),
                    "staff": [asdict(someone) | {"staff_id": str(someone.staff_id)} for someone in office.staff],
                }
                for office in self.offices
            ],
            "expiring": [
                asdict(each) | {"office_id": str(each.office_id), "staff_id": str(each.staff_id)}
                for each in self.expiring
            ],
            "untold": [asdict(office) | {"office_id": str(office.office_id)} for office in self.untold],
            "no_room": [asdict(over) | {"first": list(map(str, over.first))} for over in self.excess],
            "unreadable": [{"office_id": str(each.office_id), "reason": each.reason} for each in self.unreadable],
        }


async def plan(settings: Settings, day: date) -> Plan:
    """Return what a run of *day* would send now.

    Raises:
        ConfigError, SchemaMissing: see `open_site`.
        LedgerUnavailable: the database could not be reached.
    """
    rules, calendar = Rules.of(settings), Calendar(settings.window)
    offices: list[PlannedOffice] = []
    expiring: list[Expiring] = []
    unreadable: list[Unreadable] = []
    async with open_site(settings, read_only=True) as site:
        async for work in works(site, day, await site.ledger.list_due(day, rules)):
            if isinstance(work, Unreadable):
                unreadable.append(work)
                continue
            try:
                notices = {delivery: notice_for(delivery, work, day, rules) for delivery in work.deliveries}
                told = {delivery: notice for delivery, notice in notices.items() if isinstance(notice, Notice)}
                planned = _office(work, told, day) if told else None
            except Exception as error:  # noqa: BLE001 - a view may hold any value: an error concerns one office only
                unreadable.append(Unreadable(work.id, office_error(error)))
                continue
            if planned:
                offices.append(planned)
            expiring += [
                Expiring(work.id, delivery.staff_id, delivery.channel, skip.reason)
                for delivery, skip in notices.items()
                if isinstance(skip, Skip)
            ]
        opens, ends = calendar.window(day)
        capacity = mail_capacity(settings, (ends - opens).total_seconds())
        due_counts = await site.ledger.count_due(day, rules, capacity)
        so_far = await site.overview.day(day)
    settled = sum(counts.planned - counts.open for counts in (so_far.email, so_far.push)) if so_far else 0
    closed = calendar.closed(day)
    return Plan(
        day,
        closed,
        settled,
        tuple(offices),
        tuple(expiring),
        due_counts.untold,
        due_counts.excess,
        tuple(unreadable),
        due_counts.email.failed,
    )


async def works(
    site: PostgresSite, day: date, deliveries: Mapping[UUID, tuple[Delivery, ...]]
) -> AsyncGenerator[OfficeWork | Unreadable, None]:
    """Yield the offices of *deliveries*, in the same order, read in chunks; one that fails in a chunk is read alone."""
    rules, rest = Rules.of(site.settings), iter(deliveries.items())
    while chunk := dict(islice(rest, CHUNK)):
        for work in await site.source.works(chunk, day, rules):
            yield work if work.is_read else await _alone(work, site, day, rules)


async def _alone(work: OfficeWork, site: PostgresSite, day: date, rules: Rules) -> OfficeWork | Unreadable:
    try:
        return await site.source.read_again(work, day, rules)
    except Exception as error:
        if may_pass(error):
            raise
        return Unreadable(work.id, office_error(error))


def _office(work: OfficeWork, told: dict[Delivery, Notice], day: date) -> PlannedOffice:
    alerts = {alert for notice in told.values() for alert in notice.alerts}
    lefts = (alert.days_left(day) for alert in alerts)
    return PlannedOffice(
        office_id=work.id,
        name=work.name or "",
        nearest=min((left for left in lefts if left is not None), default=None),
        told=AlertCount.of(alerts, day),
        staff=tuple(_staff(told, day)),
    )


def _staff(told: dict[Delivery, Notice], day: date) -> Iterator[PlannedStaff]:
    for staff_id in sorted({delivery.staff_id for delivery in told}):
        mine = {delivery: notice for delivery, notice in told.items() if delivery.staff_id == staff_id}
        by_channel = {delivery.channel: AlertCount.of(notice.alerts, day) for delivery, notice in mine.items()}
        devices = sum(delivery.channel is Channel.PUSH for delivery in mine)
        yield PlannedStaff(staff_id, by_channel.get(Channel.EMAIL), by_channel.get(Channel.PUSH), devices)


# For one staff member ------------------------------------------------------------------------------------------------


@frozen
class OfficeDecisions:
    """One office of a staff member, and the decision for each channel."""

    work: OfficeWork = field(repr=False)
    channels: tuple[ChannelDecision, ...]
    held: Held | None = None
    """Since when mails are held back, if they are."""


@frozen
class Explanation:
    """Why one staff member is notified, or is not."""

    day: date
    closed: str | None
    staff_id: UUID
    offices: tuple[OfficeDecisions, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as one JSON object."""
        return {
            "day": str(self.day),
            "closed": self.closed,
            "staff_id": str(self.staff_id),
            "offices": [
                {
                    "office_id": str(office.work.id),
                    "name": office.work.name,
                    "held": office.held and office.held.as_json(),
                    "ways": [self._channel(decided, office.work) for decided in office.channels],
                }
                for office in self.offices
            ],
        }

    def _channel(self, decided: ChannelDecision, work: OfficeWork) -> dict[str, Any]:
        return {
            "channel": decided.channel.value,
            "threshold_days": work.staff[self.staff_id].days(decided.channel),
            "targets": [self._target(target) for target in decided.targets],
            "alerts": [self._decision(decision) for decision in decided.decisions],
        }

    def _target(self, target: Target) -> dict[str, Any]:
        device = target.delivery.device_id if target.delivery else None
        return {
            "device_id": str(device) if device else None,
            "included": target.included,
            "reason": target.reason,
        }

    def _decision(self, decision: Decision) -> dict[str, Any]:
        alert = decision.alert
        return {
            "recipient_id": None if alert.unlisted else str(alert.recipient_id),
            "number": alert.number,
            "kind": alert.kind.value,
            "cycle": alert.cycle,
            "due_on": str(alert.due_on) if alert.due_on else None,
            "days_left": alert.days_left(self.day),
            "included": decision.included,
            "reason": decision.reason,
            "key": decision.key,
            "next_day": str(decision.next_day) if decision.next_day else None,
        }


async def explain(settings: Settings, day: date, staff_id: UUID) -> Explanation:
    """Explain for each alert of a staff member's offices on *day* whether they are notified of it, and why.

    Raises:
        ConfigError: there is no such staff member; or see `open_site`.
        SchemaMissing: see `open_site`.
        LedgerUnavailable: the database could not be reached.
    """
    rules, calendar = Rules.of(settings), Calendar(settings.window)
    async with open_site(settings, read_only=True) as site:
        offices = await site.source.works_of(staff_id, day)
        held = await site.feedback.held_in(day, staff_id)
    if not offices:
        problem = f"--explain: {staff_id} is not in the view notifierd.staff"
        raise ConfigError((problem,))
    explained = tuple(
        OfficeDecisions(
            work,
            tuple(
                with_next_days(decided, staff, day, rules, calendar)
                for decided in channel_decisions(staff, work, day, rules, hold.reason if hold else None)
            ),
            hold,
        )
        for work in offices
        for hold in [held.get(work.id)]
        for staff in [work.staff[staff_id]]
    )
    return Explanation(day, calendar.closed(day), staff_id, explained)
