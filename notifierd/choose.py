"""Which alerts go to whom, and why. Pure.

The rule stands here for the messages and in ``planning.sql`` for the plan: a property test holds the two together.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from uuid import UUID

from attrs import frozen

from notifierd.model import Alert, Channel, Kind, Staff
from notifierd.settings import Settings


@frozen
class Rules:
    """What of the configuration decides who is due.

    Attributes:
        horizon_days: renewals further away than this are not looked at, whatever a threshold says.
        overdue: whether renewals due on the day or before it are told of.
        push: whether pushes are sent at all.
        only_offices: if not empty, no other office exists.
    """

    horizon_days: int = 30
    overdue: bool = True
    push: bool = True
    only_offices: frozenset[UUID] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """The rules of a configuration. With all mail redirected there is no device to push to."""
        return cls(
            horizon_days=settings.content.horizon_days,
            overdue=settings.content.overdue,
            push=settings.push.enabled and not settings.safety.redirect_to,
            only_offices=frozenset(settings.safety.only_offices),
        )


@frozen
class Decision:
    """Whether one alert is told to one staff member on one channel; ``reason`` is a code."""

    alert: Alert
    included: bool
    reason: str


def decide(staff: Staff, channel: Channel, alerts: Iterable[Alert], day: date, rules: Rules) -> Iterator[Decision]:
    """Decide on each of an office's *alerts* for one staff member on one channel, as of *day*."""
    shut = _shut(staff, channel, rules)
    for alert in alerts:
        reason = shut or _out_of_scope(alert, staff.days(channel), day, rules)
        yield Decision(alert, reason is None, reason or ("overdue" if _overdue(alert, day) else "due"))


def chosen(staff: Staff, channel: Channel, alerts: Iterable[Alert], day: date, rules: Rules) -> tuple[Alert, ...]:
    """The alerts that one staff member is told of: overdue first, then by deadline, then missing assessments."""
    told = [decision.alert for decision in decide(staff, channel, alerts, day, rules) if decision.included]
    return tuple(sorted(told, key=_order))


def _shut(staff: Staff, channel: Channel, rules: Rules) -> str | None:
    """Why the channel is shut for this staff member whatever there is to tell, or None."""
    match channel:
        case Channel.EMAIL if not staff.email:
            return "no_address"
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


def _order(alert: Alert) -> tuple[bool, date, str, str, int]:
    """Total, so that the same alerts always make the same bytes."""
    return (
        alert.kind is Kind.ASSESSMENT,
        alert.due_on or date.max,
        alert.recipient_name,
        str(alert.recipient_id),
        alert.cycle,
    )
