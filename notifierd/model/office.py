"""An office: its staff and their devices, its alerts, and the notices to its staff."""

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from attrs import field, frozen

from notifierd.model.delivery import NOT_READ, Channel, Delivery


class Kind(StrEnum):
    """The subject of an alert."""

    RENEWAL = "renewal"
    ASSESSMENT = "assessment"


@frozen(cache_hash=True)
class Alert:
    """One deadline to notify of: a renewal that is near or overdue, or a missing assessment (whose ``due_on`` is None).

    Attributes:
        cycle: the number of the recipient's plan cycle; None if the application has none.
        unlisted: above 0, this stands for so many alerts of the same kind and day, without names: alerts of an office
            beyond those that a mail can list. 0 for a single alert.
    """

    recipient_id: UUID
    recipient_name: str = field(repr=False)
    kind: Kind
    due_on: date | None
    cycle: int | None
    unlisted: int = 0

    @property
    def number(self) -> int:
        """The number of alerts that this stands for."""
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
    """A staff member of one office, with the choice of channels and thresholds (in days).

    None means no choice, and stands for the default; ``sql.plans`` has the same defaults.
    """

    id: UUID
    name: str = field(repr=False)
    email: str | None = field(repr=False)
    email_enabled: bool = field(converter=_unless_off)
    email_days: int = field(converter=_email_days)
    push_enabled: bool = field(converter=bool)
    push_days: int = field(converter=_push_days)

    def days(self, channel: Channel) -> int:
        """Return the threshold of this staff member on *channel*, in days."""
        match channel:
            case Channel.EMAIL:
                return self.email_days
            case Channel.PUSH:
                return self.push_days
        assert_never(channel)


@frozen
class Device:
    """A Web Push subscription (RFC 8030). Its endpoint is a secret: whoever knows it can push."""

    id: UUID
    staff_id: UUID
    endpoint: str = field(repr=False)
    p256dh: str = field(repr=False)
    auth: str = field(repr=False)


@frozen
class LastRun:
    """The run before a day, for one office.

    Attributes:
        day: the last one within two weeks on which a run was planned, else the day before.
        missed: who had deliveries on that day none of which ended as sent, by channel.
    """

    day: date
    missed: frozenset[tuple[UUID, Channel]] = frozenset()


@frozen(eq=False)
class OfficeWork:
    """The work for one office in one pass, with all facts that its messages are made from.

    Attributes:
        name: None if the office no longer exists.
        as_of: Trio's time right before the first statement that read a fact. NOT_READ if none did: then only the
            deliveries are there.
        last_run: None if no fact was read; the day before then counts as its day.
    """

    id: UUID
    name: str | None
    deliveries: tuple[Delivery, ...]
    staff: Mapping[UUID, Staff]
    alerts: tuple[Alert, ...]
    devices: Mapping[UUID, Device]
    as_of: float
    last_run: LastRun | None = None

    @classmethod
    def unread(cls, office_id: UUID, deliveries: tuple[Delivery, ...]) -> "OfficeWork":
        """Return an office with *deliveries* only, because its facts cannot be read along with those of others."""
        return cls(office_id, None, deliveries, {}, (), {}, NOT_READ)

    @property
    def is_read(self) -> bool:
        """Whether the facts for the messages are there, however old."""
        return self.as_of > NOT_READ


@frozen
class Notice:
    """The alerts that one staff member of one office is notified of on one channel.

    Attributes:
        news: those of which something changed since the run before: a deadline came nearer, came, or passed.
    """

    day: date
    office_id: UUID
    office_name: str
    staff: Staff
    channel: Channel
    alerts: tuple[Alert, ...]
    news: tuple[Alert, ...] = ()

    @property
    def threshold(self) -> int:
        """The threshold of the staff member on this channel, in days."""
        return self.staff.days(self.channel)
