"""A delivery: its states, the call that carries it, how a try changes it; and the ids of both."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from enum import StrEnum
from math import inf
from uuid import UUID

from attrs import field, frozen


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

LOST = (State.FAILED, State.UNKNOWN, State.EXPIRED)
"""States of a delivery that reached nobody, or perhaps nobody, though its device is still there."""


LISTED = 100
"""Alerts that one mail lists, the most urgent first; the rest are counted. With the longest names that is less HTML
than the 102 kB that Gmail shows before it clips."""


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
