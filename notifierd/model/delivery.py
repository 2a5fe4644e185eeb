"""The words of notifierd as values: what is read, what is sent, how a try ended.

Everything here is frozen and knows nothing of databases, HTTP or time. Days left are counted as of a run's day.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from enum import StrEnum
from math import inf
from typing import assert_never
from uuid import UUID

from attrs import field, frozen

from notifierd.model.address import Address, Mailbox


class Channel(StrEnum):
    """A way to reach a staff member."""

    EMAIL = "email"
    PUSH = "push"


class State(StrEnum):
    """Where a delivery stands in its life."""

    PLANNED = "planned"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    GONE = "gone"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


OPEN = frozenset({State.PLANNED, State.SENDING})
"""States in which something is still to be done."""


class Kind(StrEnum):
    """What an alert is about."""

    RENEWAL = "renewal"
    ASSESSMENT = "assessment"


LISTED = 100
"""Alerts that one mail lists, the most urgent first; the rest are counted. With the longest names that is less HTML
than the 102 kB that Gmail shows before it clips."""


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


@frozen(cache_hash=True)
class Delivery:
    """One message, on one channel, to one target, on one day: a row of the ledger as it stood when it was read.

    Attributes:
        attempts: tries that were Deferred while other messages passed.
        try_no: the number of the last try; only the try that reserved a row settles it.
        call_id: the call it was last part of, *position* its place there.
        payload_hash: SHA-256 of that whole call's body.
        call_tries: how often that call was tried under its key: above 1, an earlier answer was lost.
        doubts: calls without a usable key whose answer was lost; -1 after `retry` asked for the former call once more.
        put_back: how often it was put back to planned, for a new call: part of that call's key.
        reason: how the last try ended, where it did not end the delivery.
        due: False for a settled delivery that was read only because a call to be repeated carried it.
    """

    id: UUID
    office_id: UUID
    staff_id: UUID
    channel: Channel
    device_id: UUID | None = None
    state: State = State.PLANNED
    attempts: int = 0
    try_no: int = 0
    call_id: UUID | None = None
    position: int = 0
    payload_hash: bytes | None = None
    call_tries: int = 0
    doubts: int = 0
    put_back: int = 0
    provider: str | None = None
    reason: str | None = None
    due: bool = True


NOT_READ = -inf
"""See `OfficeWork`."""


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


@frozen
class Mail:
    """One email, ready for a provider.

    Attributes:
        to: the staff member's address, or ``safety.redirect_to``.
        headers: further headers, as ``Message-ID`` and ``Auto-Submitted``; ASCII, one line each.
    """

    delivery_id: UUID
    sender: Mailbox
    to: Address = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    headers: Mapping[str, str]
    reply_to: Mailbox | None = None


@frozen
class Push:
    """One Web Push message before encryption.

    Attributes:
        payload: UTF-8 JSON, below 3,993 bytes (RFC 8291 in one 4,096-byte record).
        topic: at most 32 characters of base64url (RFC 8030, section 5.4): a later message replaces an earlier one.
        ttl: seconds for which the push service keeps it (RFC 8030, section 5.2).
    """

    delivery_id: UUID
    office_id: UUID
    device: Device
    payload: bytes = field(repr=False)
    topic: str
    ttl: int
    urgency: str = "normal"


Message = Mail | Push


@frozen
class Delivered:
    """The provider took it."""

    provider_message_id: str | None = None


class Blame(StrEnum):
    """Whose trouble it is that a message was not accepted."""

    MESSAGE = "message"
    PROVIDER = "provider"
    PATH = "path"
    """Of whatever answered in the provider's place: a proxy, a firewall, a captive portal. Says nothing of the message,
    and of the provider only if nothing passes meanwhile."""
    UNCLEAR = "unclear"
    """Told by whether other messages pass."""


@frozen
class Rejected:
    """The provider itself says that it does not accept this message.

    Attributes:
        blame: the message's if the answer names it or its address; unclear if it names neither, as a bare 400: that is
            final only where other messages have passed.
        asked: False if the message never left, as no provider could take it: that says nothing of its lane.
    """

    reason: str
    blame: Blame = Blame.MESSAGE
    asked: bool = True


@frozen
class Gone:
    """The device is no more (push 404, 410)."""

    reason: str


@frozen
class Deferred:
    """Not accepted, may be later.

    Attributes:
        retry_after: seconds that the provider asked us to wait, if it did.
        blame: the provider's if it spoke of us (429) or could not be reached; the path's if something else answered.
    """

    reason: str
    retry_after: float | None = None
    blame: Blame = Blame.UNCLEAR


BATCH = "batch_"
"""What the reason of a Deferred begins with if it is of a call with several messages, of which one may be to blame."""


@frozen
class Blocked:
    """The provider refuses *us*: a bad key, an exhausted quota, a suspended account."""

    reason: str
    retry_after: float | None = None


@frozen
class Unknown:
    """The answer was lost: the provider may or may not have taken it.

    Attributes:
        retry_after: seconds to wait before the same call goes again.
        key_usable: whether the call's idempotency key can still settle the doubt.
    """

    reason: str
    retry_after: float | None = None
    key_usable: bool = True


Outcome = Delivered | Rejected | Gone | Deferred | Blocked | Unknown


@frozen
class Reservation:
    """A call about to be made: the deliveries it carries, in order, marked as being sent before the request goes.

    Attributes:
        expires: seconds after which another process may take the deliveries up, if nothing settled them.
    """

    call_id: UUID
    deliveries: tuple[Delivery, ...]
    payload_hash: bytes
    provider: str
    expires: float


@frozen
class Settlement:
    """How a try changes its delivery: one row for the ledger to write.

    Attributes:
        try_no: the try that speaks, with the delivery's call_id; a row reserved by another one is left as it is, and
            this is kept as evidence.
        wait: seconds before the delivery's turn comes again (``not_before``); None for at once.
        audit: the details of the audit row to write with it, or None for no row.
        gone_endpoint: the endpoint of the device to delete with it.
    """

    delivery: Delivery
    try_no: int
    state: State
    reason: str | None = None
    attempts: int = 0
    doubts: int = 0
    put_back: int = 0
    wait: float | None = None
    provider_message_id: str | None = None
    audit: Mapping[str, object] | None = field(default=None, repr=False)
    gone_endpoint: str | None = field(default=None, repr=False)


_DELIVERIES = b"notifierd\x00\x00\x00\x00\x00\x00\x01"
_CALLS = b"notifierd\x00\x00\x00\x00\x00\x00\x02"
_CHANNEL_BYTE = {Channel.EMAIL: b"\x01", Channel.PUSH: b"\x02"}


def delivery_id(day: date, office_id: UUID, staff_id: UUID, channel: Channel, device_id: UUID | None = None) -> UUID:
    """The id of a delivery, derived from what it is.

    The same as the SQL function ``notifierd.delivery_id``, which plans.
    """
    days = (day - date(2000, 1, 1)).days.to_bytes(4, "big", signed=True)
    device = device_id.bytes if device_id else b""
    return _derived(_DELIVERIES + days + office_id.bytes + staff_id.bytes + _CHANNEL_BYTE[channel] + device)


def call_id(deliveries: Iterable[Delivery], payload_hash: bytes) -> UUID:
    """The id of a new call, which is its idempotency key, derived from its *deliveries* in order and its content.

    A process that finds these deliveries planned, because the database forgot the call's reservation, derives the same
    key. A delivery that was put back since goes under another key.
    """
    parts = [delivery.id.bytes + delivery.put_back.to_bytes(4, "big") for delivery in deliveries]
    return _derived(b"".join([_CALLS, *parts, payload_hash]))


def _derived(name: bytes) -> UUID:
    """UUID version 8 (RFC 9562, section 5.8) over the SHA-256 of namespace and *name*, as in appendix B.2."""
    digest = bytearray(hashlib.sha256(name).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))
