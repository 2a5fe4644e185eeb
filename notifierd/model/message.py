"""Messages that are ready for a provider."""

from collections.abc import Mapping
from uuid import UUID

from attrs import field, frozen

from notifierd.model.address import Address, Mailbox
from notifierd.model.office import Device

PUSH_BYTES = 2641
"""The longest plaintext that every device accepts: its encrypted record has 2,744 bytes. Push services must accept
4,096 (RFC 8291, section 4), but those for Firefox on Android do not:
https://mozilla-services.github.io/autopush-rs/http.html"""

PUSH_SIZES = (560, 1280, PUSH_BYTES)
"""The lengths that pushes are padded to: a push service cannot read them, but sees how long they are.

Measured: payloads have 298 to 552 bytes for office names of 1 to 35 characters, and with ``push.declarative`` 574 to
1,185 for names of 3 to 60. Emoji, long URLs and the longest names without it take more.
"""


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
        payload: UTF-8 JSON, at most 3,993 bytes (RFC 8291 in one 4,096-byte record); PUSH_BYTES is stricter.
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
