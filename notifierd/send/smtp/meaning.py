"""What the refusals of a mail server mean: by the command that it refused, by its code and its enhanced code.

A reply that names the recipient's address or mailbox fails that mail. One that names our login, our sender or our
server pauses the sender, so it must not be caused by a single recipient: of what a server says when a recipient is
named, only codes count, and Postfix's words for the sender.
"""

import re
from datetime import datetime
from enum import IntEnum, StrEnum

from notifierd.model.outcome import Blame, Blocked, Deferred, Rejected
from notifierd.model.reasons import Reason
from notifierd.send._waits import wait_in_words
from notifierd.send._words import About, about
from notifierd.send.smtp.replies import Reply


class Stage(StrEnum):
    """What a reply answers."""

    CONNECT = "connect"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    """The line with a dot that ends the mail."""


class Subject(IntEnum):
    """The subject of an enhanced code: RFC 3463, section 3."""

    ADDRESS = 1
    MAILBOX = 2
    SYSTEM = 3
    SECURITY = 7


Refusal = Rejected | Deferred | Blocked

_OF_A_MAIL = {Stage.RCPT, Stage.DATA, Stage.CONTENT}


def refusal(stage: Stage, reply: Reply, now: datetime) -> Refusal:
    """Return what a 4xx or 5xx reply means. The mail was certainly not accepted (RFC 5321, section 4.2.1)."""
    wait = wait_in_words(reply.text, now)
    match reply.kind, _about(stage, reply):
        case _, About.QUOTA:
            return Blocked(Reason.QUOTA.of(*reply.codes), wait)
        case 4, said:
            reason, blame = _cause(stage, reply, said)
            return Deferred(reason.of(*reply.codes), wait, blame)
        case _, About.US:
            return Blocked(Reason.BLOCKED.of(*reply.codes), wait)
        case _, About.MESSAGE:
            return Rejected(Reason.REJECTED.of(*reply.codes))
        case _:
            return Rejected(Reason.REJECTED.of(*reply.codes), Blame.UNCLEAR)


def _cause(stage: Stage, reply: Reply, said: About) -> tuple[Reason, Blame]:
    """Return why a 4xx came, and whose trouble it is."""
    subject = reply.enhanced[0] if reply.enhanced else None
    if (
        stage in {Stage.STARTTLS, Stage.AUTH}
        or (reply.code == CLOSING and subject != Subject.SECURITY)
        or (subject == Subject.SYSTEM and said is not About.MESSAGE)
    ):
        return Reason.SERVER_ERROR, Blame.PROVIDER
    if reply.code != CLOSING and (
        _GREYLISTED.search(reply.text) or (stage is Stage.RCPT and subject == Subject.SECURITY)
    ):
        # RFC 6647, section 2.1: the same mail will be accepted later, so a try of it must cost nothing.
        return Reason.REFUSED, Blame.PATH
    if subject == Subject.SECURITY or reply.code == THROTTLED:
        return Reason.RATE_LIMITED, Blame.PROVIDER
    return Reason.REFUSED, Blame.PROVIDER if said is About.US else Blame.UNCLEAR


CLOSING = 421
"""The server ends the connection (RFC 5321, section 3.8)."""

THROTTLED = 454
"""Of a mail, only Amazon SES answers so, about the account's rate and its daily quota
(https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html)."""

_GREYLISTED = re.compile(r"gr[ae]y-?list", re.IGNORECASE)


def _about(stage: Stage, reply: Reply) -> About:
    """Return what a refusal is about. Before a recipient is named, it is about us, except for the size of the mail."""
    match reply.enhanced:
        case (Subject.SYSTEM, 4) | (Subject.MAILBOX, 3):  # too big: RFC 3463, sections 3.4 and 3.3
            return About.MESSAGE
        case (Subject.SECURITY, detail) if detail in _OURS:
            return About.US
        case (Subject.ADDRESS, (7 | 8)):  # the sender's address: RFC 3463, section 3.2
            return About.US
        case (Subject.ADDRESS, _) if stage in _OF_A_MAIL:
            return About.MESSAGE
        case (Subject.MAILBOX, detail) if stage in _OF_A_MAIL and detail <= LAST_MAILBOX:
            return About.MESSAGE
        case None if reply.code == TOO_BIG:
            return About.MESSAGE
    if stage in _OF_A_MAIL and (
        reply.code in _LOGIN_NEEDED or reply.code == CLOSING or _SENDER_REJECTED.search(reply.text)
    ):
        return About.US
    speaks_of_recipient = stage is Stage.RCPT or (stage in _OF_A_MAIL and _RECIPIENT.search(reply.text))
    if speaks_of_recipient and reply.code != THROTTLED:
        return About.NOTHING
    said = about(reply.text)
    return said if stage in _OF_A_MAIL or said is About.QUOTA else About.US


TOO_BIG = 552
"""RFC 1870, section 6.1: the mail is bigger than the server accepts. RFC 5321, section 4.2.3: a mailbox is full."""

LAST_MAILBOX = 4
"""RFC 3463, section 3.3. Microsoft uses higher details of this subject for the sender's permissions."""

_LOGIN_NEEDED = {530, 535}
"""RFC 4954, section 6."""

_SENDER_REJECTED = re.compile(r"\b(sender address|client host|helo command) rejected:", re.IGNORECASE)
"""Postfix says so of the sender, our machine and the domain in EHLO, and by default only when a recipient is named
(https://www.postfix.org/postconf.5.html#smtpd_delay_reject)."""

_RECIPIENT = re.compile(r"\b(mailbox|recipient|inbox)\b", re.IGNORECASE)
"""Some servers refuse a recipient only after the content, in words that would otherwise be read as about us."""

_OURS = frozenset({3, *range(8, 15), *range(20, 28), 57, 60, 64, *range(500, 513), *range(606, 650), 705, 708, 750})
"""Details of the subject security that are about us: our login (RFC 3463, section 3.8; RFC 4954, section 6; RFC 5248,
section 2.4), our signatures, SPF and the name of our address (RFC 7372, section 3; RFC 7505, section 4.2), and
Microsoft's for clients and tenants that it does not let send
(https://learn.microsoft.com/troubleshoot/exchange/email-delivery/ndr/non-delivery-reports-in-exchange-online).
The others also stand for a single recipient's rules, as 5.7.1 does."""
