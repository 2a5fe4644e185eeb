"""What the readers share: one request of a look, why an answer tells nothing, and how a failure is classified."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from uuid import UUID

import trio
from attrs import frozen

from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.outcome import Delivered, Rejected
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, NoAnswer, meaning, understand
from notifierd.send._http import BODY_BYTES
from notifierd.send._words import About

T = TypeVar("T")

REQUEST_SECONDS = 30.0
"""The longest duration of one request. A look consists of many, so the caller cannot limit each of them."""

MOST_MAILS = 50_000
"""The number of mails up to which one look is complete. A day of the largest installation has this many."""


@frozen
class Failed:
    """An answer that tells nothing; *reason* is the code of the reason."""

    reason: str


async def ask(call: Awaitable[Answer | NoAnswer], read: Callable[[Answer], T | Failed]) -> T | Failed:
    """Make *call*; return what *read* makes of its answer, or why there is none. A cancellation passes through."""
    with trio.move_on_after(REQUEST_SECONDS):
        unclear: T | Failed = Failed(Reason.UNREADABLE)
        found = await understand(call, read, unclear)
        return Failed(found.reason) if isinstance(found, NoAnswer) else found
    return Failed(Reason.TIMEOUT)


def refusal(status: int, said: About | None) -> Failed:
    """Return why an answer is not a page of the provider.

    Args:
        said: what the provider's error is about; None if the answer is not the provider's own.
    """
    outcome = meaning(status, said)
    if isinstance(outcome, Delivered):
        return Failed(Reason.UNREADABLE.of(status))
    return Failed(Reason.UNEXPECTED.of(status) if isinstance(outcome, Rejected) else outcome.reason)


def is_cut(answer: Answer) -> bool:
    """Return whether the client left out the end of a page, because the page is too long."""
    return answer.status == 200 and len(answer.body) >= BODY_BYTES and answer.json() is None  # noqa: PLR2004 - OK


def permanent(code: str) -> MailStatus:
    """Return what a failure is that the provider calls permanent.

    The address is to blame if the code says so (RFC 3463, section 3.2, and for X.1.10 RFC 7505, section 5), or if the
    code says nothing (X.0.0, section 3.1). Any other code is about a mailbox that exists, a policy, or us.
    """
    speaks_of_address = code.partition(".")[2] in {"", "0.0", "1.1", "1.2", "1.10"}
    return MailStatus.BOUNCED if speaks_of_address else MailStatus.REFUSED


def code_in(found: object) -> str:
    """Return the enhanced status code in a text of the provider; empty if there is none."""
    code = _CODE.search(found[:LONGEST_TEXT]) if isinstance(found, str) else None
    return code[0] if code else ""


def more_specific(code: str, other: str) -> str:
    """Return *other* if it is a code, and *code* is none or says nothing, as X.0.0 (RFC 3463, section 3.1)."""
    return other if other and code[1:] in {"", ".0.0"} else code


LONGEST_TEXT = 1000
"""The most characters of a provider's text that are searched for a code."""

_CODE = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?!\.?\d)", re.ASCII)
"""RFC 3463, section 2. Neither a longer number nor an IP address."""


def recipient(found: object) -> str:
    """Return an address that a provider names; empty if *found* is none."""
    is_address = isinstance(found, str) and "@" in found and len(found) <= LONGEST_ADDRESS and found.isprintable()
    return str(found) if is_address else ""


LONGEST_ADDRESS = 320
"""RFC 3696, section 3: 64 characters, an @ and 255 characters."""


def not_permanent(code: str) -> MailStatus:
    """Return what a final failure is that the provider does not call permanent: the code must blame the address."""
    return MailStatus.REFUSED if code.partition(".")[2] in {"", "0.0"} else permanent(code)


def no_answer(answer: Answer, said: About | None, right: str) -> Failed:
    """Return why an answer is not a page, as `refusal` does, or that the permission *right* is missing.

    A 403 says so (RFC 9110, section 15.5.4), if it is the provider's own: a proxy answers 403, too.
    """
    if answer.status == 403 and said is not None:  # noqa: PLR2004 - see above
        return Failed(Reason.NO_RIGHT.of(403, right))
    return refusal(answer.status, said)


def delivery_of(message_id: str) -> UUID | None:
    """Return the delivery that a Message-ID of ours names, with or without its angle brackets; None for any other."""
    match = _OURS.fullmatch(message_id)
    return UUID(match[1]) if match else None


_OURS = re.compile(r"<?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@[!-;=?-~]{1,255}>?", re.ASCII | re.IGNORECASE)


def worst(verdicts: Iterable[Verdict | None]) -> list[Verdict]:
    """Return the verdict of the highest severity for each delivery, so that a page names each of them once."""
    found: dict[UUID, Verdict] = {}
    for verdict in filter(None, verdicts):
        known = found.get(verdict.delivery_id)
        if known is None or known.status.severity < verdict.status.severity:
            found[verdict.delivery_id] = verdict
    return list(found.values())
