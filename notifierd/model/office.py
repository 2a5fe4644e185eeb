"""An office: its staff and their devices, its alerts, and what one of its staff is told."""

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from attrs import field, frozen

from notifierd.model.delivery import NOT_READ, Channel, Delivery


class Kind(StrEnum):
    """What an alert is about."""

    RENEWAL = "renewal"
    ASSESSMENT = "assessment"


@frozen(cache_hash=True)
class Alert:
    """One reason to tell: a renewal that is near or overdue, or a missing assessment (whose ``due_on`` is None).

    Attributes:
        cycle: the number of the recipient's plan cycle; None if the application has none.
        unlisted: how many alerts of the same kind and day it stands for, of nobody in particular: those of an office
            that come after so many that no mail lists them. 0 for an alert of its own.
    """

    recipient_id: UUID
    recipient_name: str = field(repr=False)
    kind: Kind
    due_on: date | None
    cycle: int | None
    unlisted: int = 0

    @property
    def number(self) -> int:
        """How many alerts it counts for."""
        return self.unlisted or 1

    def days_left(self, day: date) -> int | None:
        """Days from *day* to the deadline: 0 or less is overdue; None for an assessment, which has no date."""
        return None if self.due_on is None else (self.due_on - day).days


def _unless_off(chosen: bool | None) -> bool:  # noqa: FBT001 - attrs calls it
    return chosen is not False


def _email_days(chosen: int | None) -> int:
    return 30 if chosen is None else chosen


def _push_days(chosen: int | None) -> int:
    return 10 if chosen is None else chosen


@frozen
class Staff:
    """A staff member of one office, with what they chose to be told, and how early (in days).

    None is no choice, and stands for the default; ``sql.plans`` has the same ones.
    """

    id: UUID
    name: str = field(repr=False)
    email: str | None = field(repr=False)
    email_enabled: bool = field(converter=_unless_off)
    email_days: int = field(converter=_email_days)
    push_enabled: bool = field(converter=bool)
    push_days: int = field(converter=_push_days)

    def days(self, channel: Channel) -> int:
        """How many days ahead this staff member wants to be told on *channel*."""
        match channel:
            case Channel.EMAIL:
                return self.email_days
            case Channel.PUSH:
                return self.push_days
        assert_never(channel)


@frozen
class Device:
    """A Web Push subscription (RFC 8030): its endpoint is a secret, as whoever has it can push."""

    id: UUID
    staff_id: UUID
    endpoint: str = field(repr=False)
    p256dh: str = field(repr=False)
    auth: str = field(repr=False)


@frozen(eq=False)
class OfficeWork:
    """What there is to do for one office in one pass, with all that its messages are made from.

    Attributes:
        name: None if the office is no more.
        as_of: Trio's time right before the first statement that read any of it but the deliveries. NOT_READ if none
            did: then it holds nothing but these.
    """

    id: UUID
    name: str | None
    deliveries: tuple[Delivery, ...]
    staff: Mapping[UUID, Staff]
    alerts: tuple[Alert, ...]
    devices: Mapping[UUID, Device]
    as_of: float

    @classmethod
    def unread(cls, office_id: UUID, deliveries: tuple[Delivery, ...]) -> "OfficeWork":
        """An office with *deliveries*, of which the views say what cannot be read along with others."""
        return cls(office_id, None, deliveries, {}, (), {}, NOT_READ)

    @property
    def is_read(self) -> bool:
        """Whether there is what its messages are made from, however old."""
        return self.as_of > NOT_READ


@frozen
class Notice:
    """What one staff member of one office is told on one channel."""

    day: date
    office_id: UUID
    office_name: str
    staff: Staff
    channel: Channel
    alerts: tuple[Alert, ...]

    @property
    def threshold(self) -> int:
        """The staff member's own number of days on this channel."""
        return self.staff.days(self.channel)
