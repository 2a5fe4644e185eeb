"""What an answer means: by its status, and by whose answer it is. And the one reader of answers, which never raises.

An answer is a provider's own if it has the shape of its errors. All else was written on the way there, by a proxy, a
firewall or a captive portal, and says nothing of a message. What stands in front of a provider may add headers, and
changes no answer's meaning: nothing here looks at them, but for the wait that one asks for.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import structlog
from attrs import frozen

from notifierd.model.errors import places
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._waits import parse_retry_after
from notifierd.send._words import About

log = structlog.get_logger(__name__)

T = TypeVar("T")


@frozen
class Answer:
    """What came back: the names of *headers* in lower case, as much of the body as is read, unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> object:
        """Return the body's JSON; None if it is none (a proxy's error page, say, or cut short)."""
        try:
            try:
                return json.loads(self.body)
            except UnicodeDecodeError:  # another charset: names and codes are ASCII all the same
                return json.loads(self.body.decode("utf-8", "replace"))
        except (ValueError, RecursionError):  # RecursionError: nested without end
            return None

    def retry_after(self, now: datetime) -> float | None:
        """Seconds that the answer asks us to wait."""
        asked = self.headers.get("retry-after")
        return parse_retry_after(asked, now) if asked else None


Meaning = Delivered | Rejected | Deferred | Blocked | Unknown


def meaning(status: int, said: About | None, wait: float | None = None) -> Meaning:  # noqa: C901, PLR0911, PLR0912 - a table, a case a row
    """Return what an answer means, as far as its provider documents nothing else.

    A reason is a word of ours and the status; what the provider wrote goes nowhere.

    Args:
        said: what the provider speaks of; None if the answer is not its own.
        wait: seconds that the answer asks us to wait.
    """
    blame = Blame.PATH if said is None else Blame.UNCLEAR
    match status, said:
        case (_, _) if 200 <= status < 300:  # noqa: PLR2004 - the class of RFC 9110, section 15.3
            return Delivered()
        case ((401 | 402 | 403 | 407 | 451), _):
            return Blocked(Reason.BLOCKED.of(status), wait)
        case ((420 | 429), About.QUOTA):  # waiting does not clear it
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
        case 511, _:  # RFC 6585, section 6: of a captive portal, which let nothing through
            return Deferred(Reason.NOT_THE_PROVIDER.of(511), wait, Blame.PATH)
        case (_, _) if status in NOT_CARRIED_OUT or (said is None and status in NOT_REACHED):
            return Deferred(Reason.SERVER_ERROR.of(status), wait, Blame.PATH)
        case _:  # 502 and 504, and all that may come after the provider took the request
            return Unknown(Reason.SERVER_ERROR.of(status), wait)


NOT_CARRIED_OUT = frozenset({501, 505})
"""RFC 9110, sections 15.6.2 and 15.6.6: the method or the version of HTTP is not supported."""

NOT_REACHED = frozenset({521, 523, 525, 526})
"""What Cloudflare answers in the place of a server that it has no connection to: refused, no route, TLS failed, a bad
certificate. Its other 52x may come after the request was passed on, a 522 too
(https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/)."""


def _is_refusal(status: int) -> bool:
    """Tell whether a call with that status was certainly not carried out, so that what it says of us counts."""
    return 300 <= status < 500 or status in {500, 503}  # noqa: PLR2004 - RFC 9110, sections 15.4 and 15.5


def for_each(outcome: Outcome, count: int) -> list[Outcome]:
    """Return *outcome* of a call as a whole as one for each of its *count* messages.

    One of several may be to blame, and nothing says which: the others must not fail with it, so each goes alone.
    """
    if count > 1 and isinstance(outcome, Rejected):
        outcome = Deferred(Reason.BATCH.before(outcome.reason), blame=outcome.blame)
    return [outcome] * count


def of_receiver(answer: Answer, now: datetime) -> Outcome:
    """Return what the answer of a webhook means: there, a 3xx or 4xx that is no plea to wait speaks of the post."""
    outcome = meaning(answer.status, None, answer.retry_after(now))
    if isinstance(outcome, Deferred) and Reason.NOT_THE_PROVIDER.begins(outcome.reason):
        return Rejected(Reason.REJECTED.of(answer.status))
    return outcome


async def understand(
    call: Awaitable[Answer | Deferred | Unknown], read: Callable[[Answer], T], unclear: T
) -> T | Deferred | Unknown:
    """Make *call*, and return what *read* makes of its answer; *unclear* if that fails, whatever the answer is.

    The request may have been carried out by then, so no error may get out: it would end as an office's. A cancellation
    passes.
    """
    try:
        answer = await call
        return read(answer) if isinstance(answer, Answer) else answer
    except Exception as error:  # noqa: BLE001 - the one reader of answers: see the module
        log.error("answer_unreadable", error=type(error).__name__, where=places(error))  # noqa: TRY400 - its text may quote
        return unclear


async def outcomes(
    call: Awaitable[Answer | Deferred | Unknown], count: int, read: Callable[[Answer], Sequence[Outcome]]
) -> list[Outcome]:
    """Make *call*, which carries *count* messages; return one outcome for each, in order.

    *read* says what an answer means. Where it fails, or gives more or fewer outcomes, all of them are in doubt.
    """
    unclear: Sequence[Outcome] = [Unknown(Reason.ANSWER_UNCLEAR)] * count
    found = await understand(call, read, unclear)
    if isinstance(found, Deferred | Unknown):
        return [found] * count
    return list(found if len(found) == count else unclear)


def get(found: object, name: str) -> object:
    """Return a field of a JSON object; None if *found* is none, or has no such field."""
    return found.get(name) if isinstance(found, dict) else None


def text(found: object) -> str:
    """Return a text of an answer; empty for anything else."""
    return found if isinstance(found, str) else ""


def message_id(found: object) -> str | None:
    """Return a provider's id of a message, if it is one that the ledger can hold: visible ASCII, 200 characters."""
    return found if isinstance(found, str) and _MESSAGE_ID.fullmatch(found) else None


_MESSAGE_ID = re.compile(r"[!-~]{1,200}")
