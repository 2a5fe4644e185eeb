"""Interpret answers by their status and by who wrote them. The one reader of answers, which never raises.

An answer is the provider's own if it has the shape of the provider's errors. Any other answer comes from a proxy, a
firewall or a captive portal on the way, and says nothing about a message. Such a box may also add headers to a
provider's answer, so no header changes what an answer means; only Retry-After is read.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import structlog
from attrs import frozen

from notifierd.model.errors import frame_locations
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._waits import parse_retry_after
from notifierd.send._words import About

log = structlog.get_logger(__name__)

T = TypeVar("T")


@frozen
class Answer:
    """An HTTP answer: *headers* by lower-case names, and the part of the body that was read, decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> object:
        """Return the body as JSON; None if it is not JSON, as a proxy's error page or a body that was cut short."""
        try:
            try:
                return json.loads(self.body)
            except UnicodeDecodeError:  # another charset: names and codes are ASCII anyway
                return json.loads(self.body.decode("utf-8", "replace"))
        except (ValueError, RecursionError):  # RecursionError: nested too deeply
            return None

    def retry_after(self, now: datetime) -> float | None:
        """Return the seconds that the answer asks us to wait."""
        asked = self.headers.get("retry-after")
        return parse_retry_after(asked, now) if asked else None


NoAnswer = Deferred | Blocked | Unknown
"""What the absence of an answer means. Blocked is never the provider's word, but that of a proxy on the way."""

Meaning = Delivered | Rejected | Deferred | Blocked | Unknown


def meaning(status: int, said: About | None, wait: float | None = None) -> Meaning:  # noqa: C901, PLR0911, PLR0912 - a table with one row for each case
    """Return what an answer means, unless its provider documents something else.

    A reason consists of a word of ours and the status. The provider's text is not stored anywhere.

    Args:
        said: what the provider's error is about; None if the answer is not the provider's own.
        wait: seconds that the answer asks us to wait.
    """
    blame = Blame.PATH if said is None else Blame.UNCLEAR
    match status, said:
        case (_, _) if 200 <= status < 300:  # noqa: PLR2004 - the class of RFC 9110, section 15.3
            return Delivered()
        case ((401 | 402 | 403 | 407 | 451), _):
            return Blocked(Reason.BLOCKED.of(status), wait)
        case ((420 | 429), About.QUOTA):  # waiting does not help
            return Blocked(Reason.QUOTA.of(status), wait)
        case ((420 | 429), _):  # 420 is Mailgun's: https://github.com/mailgun/mailgun-java/issues/50
            return Deferred(Reason.RATE_LIMITED.of(status), wait, Blame.PROVIDER)
        case 408, _:
            return Deferred(Reason.REQUEST_TIMEOUT.of(408), wait, blame)
        case 425, _:
            return Deferred(Reason.TOO_EARLY.of(425), wait, blame)
        case _, About.QUOTA if _is_refusal(status):
            return Blocked(Reason.QUOTA.of(status), wait)
        case _, About.US if _is_refusal(status):
            return Blocked(Reason.BLOCKED.of(status), wait)
        case ((500 | 503), _):
            return Deferred(Reason.SERVER_ERROR.of(status), wait, blame)
        case ((400 | 413 | 422), About.MESSAGE):
            return Rejected(Reason.REJECTED.of(status))
        case ((400 | 413 | 422), About.NOTHING):
            return Rejected(Reason.REJECTED.of(status), Blame.UNCLEAR)
        case (_, None) if 300 <= status < 500:  # noqa: PLR2004 - sections 15.4 and 15.5: no redirect is followed
            return Deferred(Reason.NOT_THE_PROVIDER.of(status), wait, Blame.PATH)
        case (_, _) if 300 <= status < 500:  # noqa: PLR2004 - the same
            return Deferred(Reason.UNEXPECTED.of(status), wait, Blame.PATH)
        case 511, _:  # RFC 6585, section 6: a captive portal, which forwarded nothing
            return Deferred(Reason.NOT_THE_PROVIDER.of(511), wait, Blame.PATH)
        case (_, _) if status in NOT_CARRIED_OUT or (said is None and status in NOT_REACHED):
            return Deferred(Reason.SERVER_ERROR.of(status), wait, Blame.PATH)
        case _:  # 502, 504, and any other that may come after the provider accepted the request
            return Unknown(Reason.SERVER_ERROR.of(status), wait)


NOT_CARRIED_OUT = frozenset({501, 505})
"""RFC 9110, sections 15.6.2 and 15.6.6: the method or the version of HTTP is not supported."""

NOT_REACHED = frozenset({521, 523, 525, 526})
"""Cloudflare's statuses when it has no connection to the server: refused, no route, TLS failed, a bad certificate. Its
other 52x, including 522, may come after it forwarded the request
(https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/)."""


def _is_refusal(status: int) -> bool:
    """Return whether a call with that status was certainly not carried out, so that its error text is reliable."""
    return 300 <= status < 500 or status in {500, 503}  # noqa: PLR2004 - RFC 9110, sections 15.4 and 15.5


def for_each(outcome: Outcome, count: int) -> list[Outcome]:
    """Return *outcome* of a whole call as one outcome for each of its *count* messages.

    If a call with several messages is rejected, one of them may be the cause, and the answer does not tell which. So
    that the others do not fail with it, each message is deferred, and goes alone.
    """
    if count > 1 and isinstance(outcome, Rejected):
        outcome = Deferred(Reason.BATCH.before(outcome.reason), blame=outcome.blame)
    return [outcome] * count


def of_receiver(answer: Answer, now: datetime) -> Outcome:
    """Return what a webhook's answer means: a 3xx or 4xx that does not ask to wait rejects the post."""
    outcome = meaning(answer.status, None, answer.retry_after(now))
    if isinstance(outcome, Deferred) and Reason.NOT_THE_PROVIDER.begins(outcome.reason):
        return Rejected(Reason.REJECTED.of(answer.status))
    return outcome


async def understand(call: Awaitable[Answer | NoAnswer], read: Callable[[Answer], T], unclear: T) -> T | NoAnswer:
    """Make *call*; return what *read* makes of its answer, or *unclear* if *read* fails on it."""

    async def understood() -> T | NoAnswer:
        answer = await call
        return read(answer) if isinstance(answer, Answer) else answer

    return await guarded(understood(), unclear)


async def guarded(call: Awaitable[T], unclear: T) -> T:
    """Make *call*, and understand its answer; return *unclear* if that fails.

    The request may have been carried out by then, so no error may escape: it would fail the whole office. A
    cancellation passes through.
    """
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - the one reader of answers: see the module's docstring
        log.error("answer_unreadable", error=type(error).__name__, where=frame_locations(error))  # noqa: TRY400 - the error's text may quote the answer
        return unclear


async def outcomes(
    call: Awaitable[Answer | NoAnswer], count: int, read: Callable[[Answer], Sequence[Outcome]]
) -> list[Outcome]:
    """Make *call*, which carries *count* messages; return one outcome for each, in order.

    *read* interprets the answer. If it fails, or returns another number of outcomes, all messages become unknown.
    """
    unclear: Sequence[Outcome] = [Unknown(Reason.ANSWER_UNCLEAR)] * count
    found = await understand(call, read, unclear)
    if isinstance(found, NoAnswer):
        return [found] * count
    return list(found if len(found) == count else unclear)


async def probed(
    what: str, call: Awaitable[Answer | NoAnswer], read: Callable[[Answer], tuple[Outcome, tuple[str, ...]]]
) -> Probe:
    """Make *call*, which is *what* in words; return what *read* makes of its answer: an outcome, and notes."""
    unclear: tuple[Outcome, tuple[str, ...]] = (Unknown(Reason.ANSWER_UNCLEAR), ())
    found = await understand(call, read, unclear)
    return Probe(what, *found) if isinstance(found, tuple) else Probe(what, found)


def get(found: object, name: str) -> object:
    """Return a field of a JSON object; None if *found* is not an object, or lacks the field."""
    return found.get(name) if isinstance(found, dict) else None


def text(found: object) -> str:
    """Return a text from an answer; empty if *found* is something else."""
    return found if isinstance(found, str) else ""


def message_id(found: object) -> str | None:
    """Return a provider's message id if the ledger can store it: visible ASCII, at most 200 characters."""
    return found if isinstance(found, str) and _MESSAGE_ID.fullmatch(found) else None


_MESSAGE_ID = re.compile(r"[!-~]{1,200}")
