"""Read a bounce mail: a delivery status notification (RFC 3464) inside a multipart/report (RFC 6522)."""

import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from uuid import UUID

from attrs import frozen

from notifierd.send.feedback._reading import code_in, delivery_of, more_specific, recipient

PARTS = 10
"""The most parts of a report that are read; it has two or three (RFC 6522, section 3)."""

RECIPIENTS = 10
"""The most recipients of a notification that are read; a mail of ours has one."""

STATUS_TYPES = frozenset({"message/delivery-status", "message/global-delivery-status"})
RETURNED_TYPES = frozenset(
    {"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers", "message/rfc822-headers"}
)
"""The types of a report's second and third part: RFC 3464, section 2, RFC 6522, section 4, and RFC 6533."""

NAMES = ("Message-ID", "X-Original-Message-ID", "Original-Message-ID", "X-Entity-Ref-ID")
"""Headers that name the original mail: in the headers that are returned, or among the notification's fields, where
Google has X-Original-Message-ID. Ours have X-Entity-Ref-ID, too."""


@frozen
class Recipient:
    """What became of a mail for one recipient: the Action of RFC 3464, section 2.3.3, the code, and the address."""

    action: str
    code: str
    address: str


@frozen
class Notification:
    """A bounce mail: the deliveries that it may be about, and what it says of each recipient."""

    deliveries: frozenset[UUID]
    recipients: tuple[Recipient, ...]


def read_notification(raw: bytes) -> Notification | None:
    """Return the notification in a mail; None if it is none, or a mail that was made to confuse the parser.

    Only the headers of a mail and of its parts are parsed, not the parts of parts: the original mail is one of them.
    """
    try:
        return _read(raw)
    except Exception:  # noqa: BLE001 - the parser does not say what it raises, and anybody can send such a mail
        return None


def _read(raw: bytes) -> Notification | None:
    mail = _parsed(raw)
    kind = str(mail.get_param("report-type")).lower()
    if mail.get_content_type() != "multipart/report" or kind != "delivery-status":
        return None
    parts = list(_parts(mail))
    fields = [group for part in parts if part.get_content_type() in STATUS_TYPES for group in _groups(part)]
    returned = [_parsed(_content(part)) for part in parts if part.get_content_type() in RETURNED_TYPES]
    named = (str(value) for headers in (*fields, *returned) for name in NAMES for value in headers.get_all(name, ()))
    return Notification(
        frozenset(filter(None, map(_delivery, named))),
        tuple(_recipient(group) for group in fields if "Action" in group),
    )


def _parsed(raw: bytes) -> Message:
    return BytesParser().parsebytes(raw, headersonly=True)


def _content(part: Message) -> bytes:
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""


def _parts(mail: Message) -> Iterator[Message]:
    """Yield the parts of *mail*: RFC 2046, section 5.1.1."""
    boundary = str(mail.get_boundary() or "").encode("utf-8", "replace")
    if boundary:
        lines = rb"(?:^|\r?\n)--" + re.escape(boundary) + rb"(?:--)?[ \t]*(?:\r?\n|$)"
        for part in re.split(lines, _content(mail), maxsplit=PARTS)[1:]:
            yield _parsed(part)


def _groups(part: Message) -> Iterator[Message]:
    """Yield the groups of fields of a notification, which an empty line separates: RFC 3464, section 2.1."""
    for group in re.split(rb"(?:\r?\n){2,}", _content(part).strip(), maxsplit=RECIPIENTS + 1)[: RECIPIENTS + 1]:
        yield _parsed(group)


def _recipient(group: Message) -> Recipient:
    """Return a recipient. A code that says nothing is replaced by the one in the other server's answer."""
    code = more_specific(code_in(str(group["Status"])), code_in(str(group["Diagnostic-Code"])))
    named = str(group["Original-Recipient"] or group["Final-Recipient"] or "").rpartition(";")[2]
    action = str(group["Action"]).strip().lower().partition(" ")[0]
    return Recipient(action, code, recipient(named.strip().strip("<>")))


def _delivery(named: str) -> UUID | None:
    """Return the delivery that a header names by a Message-ID of ours, or by the id alone."""
    text = named[:LONGEST_NAME].strip()
    return delivery_of(text) or delivery_of(f"{text}@-")


LONGEST_NAME = 400
