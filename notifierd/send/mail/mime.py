"""A mail as RFC 5322 and 2046 have it: for providers that want it whole."""

import re
from datetime import datetime
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime

from notifierd.model.message import Mail

CRLF = compat32.clone(linesep="\r\n", max_line_length=None)
"""Unlike the newer policies it leaves a long URL in a header as it is, in place of encoded words."""


def undated(mail: Mail) -> bytes:
    """Return *mail* without its Date; the same mail gives the same bytes, its boundary being made of what it is.

    All parts are in base64, where no line is long, and none can begin as a boundary does.
    """
    parts = [MIMEText(_crlf(mail.text), "plain", "utf-8"), MIMEText(_crlf(mail.html), "html", "utf-8")]
    message = MIMEMultipart("alternative", mail.delivery_id.hex[8:], parts, policy=CRLF)
    message["From"] = mail.sender.encoded("From")
    message["To"] = mail.to
    if mail.reply_to:
        message["Reply-To"] = mail.reply_to.encoded("Reply-To")
    message["Subject"] = Header(mail.subject, "utf-8", header_name="Subject").encode()
    for name, value in sorted(mail.headers.items()):
        message[name] = value
    return message.as_bytes()


def dated(message: bytes, now: datetime) -> bytes:
    """Return an undated message as of *now*, in UTC: when it is sent (RFC 5322, section 3.6.1)."""
    return f"Date: {format_datetime(now)}\r\n".encode() + message


def _crlf(text: str) -> str:
    """RFC 2046, section 4.1.1: a line of text ends with CRLF, also inside base64."""
    return re.sub(r"\r?\n", "\r\n", text)
