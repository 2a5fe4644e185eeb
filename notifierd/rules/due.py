"""Which alerts go to which staff member, and why. Pure.

This rule decides the content of the messages. The same rule in SQL (``store/sql/plans.py``) plans a day; a property
test compares the two.
"""
# ruff: noqa: PLR0913, PLR0917 - a decision takes this many facts

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from functools import lru_cache
from uuid import UUID

from attrs import evolve, field, frozen

from notifierd.config.settings import Settings
from notifierd.model.delivery import OPEN, Channel, Delivery, State, delivery_id
from notifierd.model.office import Alert, Kind, LastRun, Notice, OfficeWork, Staff
from notifierd.model.reasons import Reason
from notifierd.rules.calendar import Calendar
from notifierd.rules.reminders import Reminders

RECENT = 16
"""How many results of a rule are cached: the staff of an office mostly have the same thresholds, and are notified one
after the other."""

NOT_TODAY = "not_today"
"""The reason for leaving out what is due when nothing that is due is a reason to write on the day."""


@frozen(cache_hash=True)
class Rules:
    """The part of the configuration that decides who is due.

    Attributes:
        horizon_days: renewals further away than this many days are ignored, even within a person's threshold.
        overdue: whether renewals due on the day or before it are included.
        push: whether pushes are sent at all.
        only_offices: if not empty, all other offices are ignored.
        devices_per_person: the number of devices of one person that get pushes; the newest ones do.
        reminders: the days on which somebody is written to.
    """

    horizon_days: int = 30
    overdue: bool = True
    push: bool = True
    only_offices: frozenset[UUID] = frozenset()
    devices_per_person: int = 20
    reminders: Reminders = field(default=Reminders())

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Return the rules of a configuration. If mails are redirected, no push is sent."""
        return cls(
            horizon_days=settings.content.horizon_days,
            overdue=settings.content.overdue,
            push=settings.push.enabled and not settings.safety.redirect_to,
            only_offices=frozenset(settings.safety.only_offices),
            devices_per_person=settings.push.devices_per_person,
            reminders=Reminders.of(settings.content),
        )

    def within(self, threshold: int) -> int:
        """Return how many days ahead a staff member with this *threshold* is told of renewals."""
        return min(threshold, self.horizon_days)


@frozen
class Skip:
    """A delivery that is not made: there is nothing to tell any more, or nobody to tell it to."""

    reason: Reason


@frozen
class Decision:
    """Whether one alert goes to one staff member on one channel; ``reason`` is a code.

    Attributes:
        key: the key that decides on which days the alert is a reason to write; None on every business day.
        next_day: the next day after this one on which it will be a reason; None if no such day is known.
    """

    alert: Alert
    included: bool
    reason: str
    key: str | None = None
    next_day: date | None = None


def decide(
    staff: Staff, channel: Channel, alerts: Iterable[Alert], day: date, rules: Rules, last_run: LastRun | None = None
) -> Iterator[Decision]:
    """Decide on each of an office's *alerts* for one staff member on one channel, as of *day*.

    A message tells of all alerts within the staff member's threshold. There is one only if one of them is a reason.
    """
    shut, threshold = _shut(staff, channel, rules), staff.days(channel)
    scopes = [(alert, shut or _out_of_scope(alert, threshold, day, rules)) for alert in alerts]
    in_scope = (alert for alert, reason in scopes if reason is None)
    kept_back = None if _is_written_to(staff, channel, in_scope, day, rules, last_run) else NOT_TODAY
    for alert, out_of_scope in scopes:
        reason = out_of_scope or kept_back
        yield Decision(alert, reason is None, reason or ("overdue" if _overdue(alert, day) else "due"))


def _is_written_to(
    staff: Staff, channel: Channel, alerts: Iterable[Alert], day: date, rules: Rules, last_run: LastRun | None
) -> bool:
    """Whether there is a reason to write to a staff member, whose *alerts* these are, on *day*."""
    last_run = last_run or _the_day_before(day)
    if not rules.reminders.selective or (staff.id, channel) in last_run.missed:
        return True
    threshold = rules.within(staff.days(channel))
    return any(rules.reminders.is_reason(alert, threshold, day, last_run.day) for alert in alerts)


def _the_day_before(day: date) -> LastRun:
    return LastRun(day - timedelta(days=1))


def chosen(
    staff: Staff, channel: Channel, alerts: Iterable[Alert], day: date, rules: Rules, last_run: LastRun | None = None
) -> tuple[Alert, ...]:
    """Return the alerts for one staff member: overdue first, then by deadline, then missing assessments.

    These are the alerts that `decide` includes.
    """
    if _shut(staff, channel, rules):
        return ()
    in_scope = _in_scope(tuple(alerts), staff.days(channel), day, rules)
    return in_scope if _is_written_to(staff, channel, in_scope, day, rules, last_run) else ()


@lru_cache(RECENT)
def _in_scope(alerts: tuple[Alert, ...], threshold: int, day: date, rules: Rules) -> tuple[Alert, ...]:
    """Return those of an office's *alerts* that a message within *threshold* days tells of, in its order."""
    return tuple(sorted((a for a in alerts if _out_of_scope(a, threshold, day, rules) is None), key=_order))


@lru_cache(RECENT)
def _news(alerts: tuple[Alert, ...], within: int, day: date, last_day: date, rules: Rules) -> tuple[Alert, ...]:
    """Return those of *alerts* of which something changed since *last_day*."""
    return tuple(alert for alert in alerts if rules.reminders.is_new(alert, within, day, last_day))


def notice_for(delivery: Delivery, work: OfficeWork, day: date, rules: Rules) -> Notice | Skip:
    """Return the content of *delivery* of an office, or why it has none any more."""
    staff = work.staff.get(delivery.staff_id)
    if work.name is None:
        return Skip(Reason.OFFICE_GONE)
    if rules.only_offices and work.id not in rules.only_offices:
        return Skip(Reason.OFFICE_LEFT_OUT)
    if staff is None:
        return Skip(Reason.STAFF_GONE)
    alerts = chosen(staff, delivery.channel, work.alerts, day, rules, work.last_run)
    if not alerts:
        return Skip(Reason.NO_LONGER_DUE)
    if delivery.channel is Channel.PUSH and not _has_device(delivery, work):
        return Skip(Reason.DEVICE_GONE)
    within, last_run = rules.within(staff.days(delivery.channel)), work.last_run or _the_day_before(day)
    news = _news(alerts, within, day, last_run.day, rules)
    return Notice(day, work.id, work.name, staff, delivery.channel, alerts, news)


def _has_device(delivery: Delivery, work: OfficeWork) -> bool:
    """Whether the device of *delivery* still belongs to its staff member, and not to a colleague by now."""
    device = work.devices.get(delivery.device_id) if delivery.device_id else None
    return device is not None and device.staff_id == delivery.staff_id


@frozen
class Target:
    """What a run would do now with one staff member's mail, or with their push to one device.

    Attributes:
        delivery: as it is in the ledger, or as it would be planned; None if there is no device for a push.
        reason: a code; "due" if it would be sent.
    """

    delivery: Delivery | None
    included: bool
    reason: str


@frozen
class ChannelDecision:
    """Whether one staff member of an office is notified on one channel, and why.

    Attributes:
        targets: one for each device; one for mail.
        decisions: one for each of the office's alerts.
    """

    channel: Channel
    targets: tuple[Target, ...]
    decisions: tuple[Decision, ...]


def channel_decisions(
    staff: Staff, work: OfficeWork, day: date, rules: Rules, held: str | None = None
) -> tuple[ChannelDecision, ...]:
    """Return for each channel what a run would do now for a staff member of an office.

    Args:
        work: the office with all alerts, the devices of *staff*, the newest first, and all their deliveries of *day*,
            settled or not.
        held: why mails to *staff* are held back, "complained" or "suppressed"; None if they are not.
    """
    alerts = sorted(work.alerts, key=_order)
    return tuple(
        ChannelDecision(
            channel,
            tuple(
                _hold(target, work, held) if held and channel is Channel.EMAIL else target
                for target in _targets(staff, channel, work, day, rules)
            ),
            tuple(decide(staff, channel, alerts, day, rules, work.last_run)),
        )
        for channel in Channel
    )


def with_next_days(
    decided: ChannelDecision, staff: Staff, day: date, rules: Rules, calendar: Calendar
) -> ChannelDecision:
    """Return *decided* with the key and the next day of each alert. While the channel is off, no day is next."""
    threshold, is_off = rules.within(staff.days(decided.channel)), _shut(staff, decided.channel, rules) is not None

    def next_day(alert: Alert) -> date | None:
        return rules.reminders.next_day(alert, threshold, day, calendar, overdue=rules.overdue)

    return evolve(
        decided,
        decisions=tuple(
            evolve(
                decision,
                key=rules.reminders.key(decision.alert, day),
                next_day=None if is_off else next_day(decision.alert),
            )
            for decision in decided.decisions
        ),
    )


def _hold(target: Target, work: OfficeWork, held: str) -> Target:
    """Return *target* as held back if it is a mail that would be sent, and is not planned yet."""
    if not target.included or target.delivery in work.deliveries:
        return target
    return Target(target.delivery, included=False, reason=Reason.HELD.of(held))


def _targets(staff: Staff, channel: Channel, work: OfficeWork, day: date, rules: Rules) -> Iterator[Target]:
    there = {delivery.id: delivery for delivery in work.deliveries}
    told = any(delivery.channel is channel and delivery.state is State.SENT for delivery in work.deliveries)
    devices = list(work.devices) if channel is Channel.PUSH else [None]
    for nth, device in enumerate(devices, 1):
        key = delivery_id(day, work.id, staff.id, channel, device)
        delivery = there.get(key) or Delivery(key, work.id, staff.id, channel, device)
        reason = _kept_from(delivery, staff, work, day, rules)
        if reason is None and told and key not in there:
            reason = "told_on_another_device"
        if reason is None and nth > rules.devices_per_person and key not in there:
            reason = "too_many_devices"
        yield Target(delivery, reason is None, reason or "due")
    if not devices:
        yield Target(None, included=False, reason=_shut(staff, channel, rules) or "no_device")


def _kept_from(delivery: Delivery, staff: Staff, work: OfficeWork, day: date, rules: Rules) -> str | None:
    """Return why a run would not send *delivery*, or None."""
    if Reason.HELD.begins(delivery.reason):
        return delivery.reason
    if delivery.state not in OPEN:
        return f"already_{delivery.state}"
    notice = notice_for(delivery, work, day, rules)
    if not isinstance(notice, Skip):
        return None
    if notice.reason is Reason.NO_LONGER_DUE:
        decisions = decide(staff, delivery.channel, work.alerts, day, rules, work.last_run)
        if any(decision.reason == NOT_TODAY for decision in decisions):
            return NOT_TODAY
        return _shut(staff, delivery.channel, rules) or ("nothing_due" if work.alerts else "no_alerts")
    return notice.reason


def _shut(staff: Staff, channel: Channel, rules: Rules) -> str | None:
    """Return why the channel is off for this staff member regardless of the alerts, or None."""
    match channel:
        case Channel.EMAIL if not staff.email:
            return Reason.NO_ADDRESS
        case Channel.EMAIL if not staff.email_enabled:
            return "email_off"
        case Channel.PUSH if not rules.push:
            return "push_disabled"
        case Channel.PUSH if not staff.push_enabled:
            return "push_off"
    return None


def _out_of_scope(alert: Alert, threshold: int, day: date, rules: Rules) -> str | None:
    left = alert.days_left(day)
    if left is None:
        return None
    if left <= 0 and not rules.overdue:
        return "overdue_left_out"
    if left > rules.horizon_days:
        return "beyond_horizon"
    return "beyond_threshold" if left > threshold else None


def _overdue(alert: Alert, day: date) -> bool:
    left = alert.days_left(day)
    return left is not None and left <= 0


def _order(alert: Alert) -> tuple[bool, date, bool, str, UUID, int]:
    """Return the sort key. The order is total, so the same alerts always make the same bytes."""
    return (
        alert.kind is Kind.ASSESSMENT,
        alert.due_on or date.max,
        alert.unlisted > 0,
        alert.recipient_name,
        alert.recipient_id,
        -1 if alert.cycle is None else alert.cycle,
    )
