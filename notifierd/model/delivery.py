"""A delivery: its states, the call that carries it, how a try changes it, and how the ids of both are derived."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from enum import StrEnum
from math import inf
from typing import assert_never
from uuid import UUID

from attrs import field, frozen


class Channel(StrEnum):
    """A way to reach a staff member."""

    EMAIL = "email"
    PUSH = "push"

    @property
    def plural(self) -> str:
        """What its messages are called."""
        match self:
            case Channel.EMAIL:
                return "mails"
            case Channel.PUSH:
                return "pushes"
        assert_never(self)

    def counted(self, number: int) -> str:
        """Return *number* with what its messages are called: "1 push", "2,000 mails"."""
        singular = "mail" if self is Channel.EMAIL else "push"
        return f"{number:,} {singular if number == 1 else self.plural}"


class State(StrEnum):
    """The state of a delivery."""

    PLANNED = "planned"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    GONE = "gone"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


OPEN = frozenset({State.PLANNED, State.SENDING})
"""The states that are not final."""

LOST = (State.FAILED, State.UNKNOWN, State.EXPIRED)
"""The states of a delivery that reached nobody, or may have reached nobody, although its device still exists."""


LISTED = 100
"""Rule: one mail lists at most 100 alerts, the most urgent first, and counts the rest. Even with the longest names,
that is less HTML than the 102 kB after which Gmail clips a mail."""


@frozen(cache_hash=True)
class Delivery:
    """One message on one channel to one target on one day: a row of the ledger as it was read.

    Attributes:
        attempts: tries that were Deferred while other messages passed.
        try_no: the number of the last try; only the try that reserved a row can settle it.
        call_id: the last call that included it; *position* is its place in that call.
        payload_hash: SHA-256 of the body of that whole call.
        call_tries: how often that call was tried under its key; above 1, an earlier answer was lost.
        doubts: calls without a usable key whose answer was lost; -1 after `retry` asked to repeat the former call.
        put_back: how often it returned to planned, for a new call; it is part of that call's key.
        reason: how the last try ended, if that did not settle the delivery.
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

    def in_call(self, call_id: UUID, position: int, payload_hash: bytes, provider: str, *, repeat: bool) -> "Delivery":
        """Return the delivery as it is recorded while a call with it is made, by its next try.

        Args:
            repeat: whether the same call was made before.
        """
        return Delivery(  # attrs.evolve takes three times as long, and each mail needs it
            self.id,
            self.office_id,
            self.staff_id,
            self.channel,
            self.device_id,
            State.SENDING,
            self.attempts,
            self.try_no + 1,
            call_id,
            position,
            payload_hash,
            self.call_tries + 1 if repeat else 1,
            self.doubts,
            self.put_back,
            provider,
            self.reason,
            self.due,
        )


NOT_READ = -inf
"""The value of `OfficeWork.as_of` before the facts are read."""


@frozen
class Reservation:
    """A call that is about to be made: its deliveries, in order, which are marked as sending before the request leaves.

    Attributes:
        expires: seconds after which another process may take over the deliveries, if nothing settled them.
    """

    call_id: UUID
    deliveries: tuple[Delivery, ...]
    payload_hash: bytes
    provider: str
    expires: float


@frozen
class Settlement:
    """The change that a try makes to its delivery: one row for the ledger to write.

    Attributes:
        try_no: the try that reports, together with the delivery's call_id. If another try has reserved the row, the row
            stays unchanged, and this settlement is kept as evidence.
        wait: seconds before the delivery's next turn (``not_before``); None for at once.
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
    """Return the id of a delivery, derived from what it is.

    The SQL function ``notifierd.delivery_id``, which the planning statement uses, returns the same.
    """
    days = (day - date(2000, 1, 1)).days.to_bytes(4, "big", signed=True)
    device = device_id.bytes if device_id else b""
    return _derived(_DELIVERIES + days + office_id.bytes + staff_id.bytes + _CHANNEL_BYTE[channel] + device)


def call_id(deliveries: Iterable[Delivery], payload_hash: bytes) -> UUID:
    """Return the id of a new call, which is its idempotency key, derived from its *deliveries* and its content.

    The order of the deliveries counts. If the database lost the call's reservation, a process finds the deliveries
    planned, and derives the same key again. A delivery that was put back since then gets another key.
    """
    parts = [delivery.id.bytes + delivery.put_back.to_bytes(4, "big") for delivery in deliveries]
    return _derived(b"".join([_CALLS, *parts, payload_hash]))


def _derived(name: bytes) -> UUID:
    """Return UUID version 8 (RFC 9562, section 5.8) over the SHA-256 of namespace and *name*, as in appendix B.2."""
    digest = bytearray(hashlib.sha256(name).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))
