"""A mail as a MIME message (RFC 5322 and 2046), for providers that accept whole messages."""

import re
from datetime import datetime
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime

from notifierd.model.address import encoded_words
from notifierd.model.message import Mail

CRLF = compat32.clone(linesep="\r\n", max_line_length=None)
"""The newer policies would write a long URL in a header as encoded words; this one leaves it unchanged."""


def undated(mail: Mail) -> bytes:
    """Return *mail* without its Date; the same mail gives the same bytes.

    The boundary is derived from the content. All parts are in base64, in which no line is long, and no line can begin
    like a boundary.
    """
    parts = [MIMEText(_crlf(mail.text), "plain", "utf-8"), MIMEText(_crlf(mail.html), "html", "utf-8")]
    message = MIMEMultipart("alternative", mail.delivery_id.hex[8:], parts, policy=CRLF)
    message["From"] = mail.sender.encoded("From")
    message["To"] = mail.to
    if mail.reply_to:
        message["Reply-To"] = mail.reply_to.encoded("Reply-To")
    message["Subject"] = encoded_words(mail.subject, "Subject")
    for name, value in sorted(mail.headers.items()):
        message[name] = value
    return message.as_bytes()


def dated(message: bytes, now: datetime) -> bytes:
    """Return an undated message with the Date *now*, in UTC, which is when it is sent (RFC 5322, section 3.6.1)."""
    return f"Date: {format_datetime(now)}\r\n".encode() + message


def _crlf(text: str) -> str:
    """Return *text* with CRLF line ends, which RFC 2046, section 4.1.1, requires even inside base64."""
    return re.sub(r"\r?\n", "\r\n", text)
