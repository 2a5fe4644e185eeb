"""What Postmark tells of bounces: https://postmarkapp.com/developer/api/bounce-api."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from types import MappingProxyType
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from attrs import frozen

from notifierd.config.providers import PostmarkSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, message_id, text
from notifierd.send._http import Client
from notifierd.send._words import about
from notifierd.send.feedback import Keep, Look, Looked
from notifierd.send.feedback._reading import (
    MOST_MAILS,
    Failed,
    ask,
    code_in,
    is_cut,
    not_permanent,
    permanent,
    recipient,
    refusal,
)

PAGE = 200
"""Bounces that one page is asked for; Postmark allows 500 (.../bounce-api#bounces). One has about 1 kB, and up to 5 kB
if its details quote a long answer, so that a page fits into the megabyte that the client reads."""

FURTHEST = 10_000
"""The highest sum of count and offset (the same page)."""

MOST_PAGES = 2 * MOST_MAILS // PAGE
"""Twice what the mails need: pages can be short, and begin anew after every FURTHEST bounces."""

EASTERN = ZoneInfo("America/New_York")
"""Postmark's times without an offset are US Eastern (the same page)."""

STATUSES = MappingProxyType(
    {
        "Transient": MailStatus.DELAYED,
        "DnsError": MailStatus.DELAYED,
        "Blocked": MailStatus.REFUSED,
        "SpamNotification": MailStatus.REFUSED,
        "DMARCPolicy": MailStatus.REFUSED,
        "VirusNotification": MailStatus.REFUSED,
        "BadEmailAddress": MailStatus.BOUNCED,
        "ManuallyDeactivated": MailStatus.SUPPRESSED,
        "SpamComplaint": MailStatus.COMPLAINED,
    }
)
"""The types of bounces (.../bounce-api#bounce-types), besides those whose code decides. The others, such as
AutoResponder, report no failure."""


@frozen
class _Page:
    """One page; *count* bounces of *total*, the last one of which bounced at *oldest*."""

    verdicts: Sequence[Verdict]
    count: int
    total: int
    oldest: datetime | None


class PostmarkFeedback:
    """Bounces by ``GET /bounces``, newest first.

    An address on Postmark's suppression list is rejected by the call that sends (error code 406), so it is here only
    if somebody deactivated it by hand. Deliveries are not in this list. Neither is our Message-ID, so nothing can be
    said of mails whose answer was lost.
    """

    name = "postmark"
    tells: AbstractSet[MailStatus] = frozenset(MailStatus) - {MailStatus.DELIVERED}

    def __init__(self, client: Client, settings: PostmarkSettings, *, now: Callable[[], datetime]) -> None:  # noqa: ARG002 - each reader takes it
        self._client, self._stream = client, settings.message_stream
        self._url = f"{settings.base_url}/bounces"
        self._headers = {"X-Postmark-Server-Token": settings.feedback_key or settings.server_token}

    async def look(self, look: Look, keep: Keep) -> Looked:
        until, count, offset, total = look.until, PAGE, 0, 0
        for _ in range(MOST_PAGES):
            page = await self._page(look, until, count, offset)
            if page is None and count > 1:
                count //= 2
                continue
            if page is None or isinstance(page, Failed):
                return Looked(page.reason if page else Reason.UNREADABLE)
            if page.verdicts:
                await keep(page.verdicts)
            if page.total < total:  # bounces were removed, and those behind them moved up, past the offset
                return Looked(Reason.UNREADABLE)
            offset, total = offset + page.count, page.total
            if not page.count or (page.count < count and offset >= total):
                return Looked()
            if offset + count > FURTHEST:
                if page.oldest is None or not look.since <= page.oldest < until:
                    return Looked(Reason.TOO_MANY)
                until, offset, total = page.oldest, 0, 0
        return Looked(Reason.TOO_MANY)

    async def probe(self) -> str:
        found = await ask(self._client.get(f"{self._url}?count=1&offset=0", self._headers), _read_list)
        return found.reason if isinstance(found, Failed) else ""

    async def _page(self, look: Look, until: datetime, count: int, offset: int) -> _Page | Failed | None:
        """Return a page of the bounces up to *until*; None if the page is too long to be read."""
        query = {
            "count": count,
            "offset": offset,
            "fromdate": _eastern(look.since, -HOUR),
            "todate": _eastern(until + SECOND, HOUR),
            **({"messagestream": self._stream} if self._stream else {}),
        }
        call = self._client.get(f"{self._url}?{urlencode(query)}", self._headers)
        return await ask(call, lambda answer: None if is_cut(answer) else _read_page(answer, look, count))


SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def _eastern(at: datetime, margin: timedelta) -> str:
    """Return *at* in US Eastern time, to the second; with *margin* if that time occurs twice, as clocks are set back.

    The bounds are inclusive, to the second, and have no offset.
    """
    local = at.astimezone(EASTERN)
    is_ambiguous = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
    return (local + margin * is_ambiguous).strftime("%Y-%m-%dT%H:%M:%S")


@frozen
class _List:
    """Bounces as they came, and the number of all that the query finds."""

    bounces: Sequence[object]
    total: int


def _read_list(answer: Answer) -> _List | Failed:
    found = answer.json()
    bounces, total = get(found, "Bounces"), get(found, "TotalCount")
    if answer.status != 200 or not isinstance(bounces, list) or type(total) is not int:  # noqa: PLR2004 - OK
        is_own = type(get(found, "ErrorCode")) is int
        return refusal(answer.status, about(text(get(found, "Message"))) if is_own else None)
    return _List(bounces, total) if all(isinstance(one, dict) for one in bounces) else Failed(Reason.UNREADABLE)


def _read_page(answer: Answer, look: Look, count: int) -> _Page | Failed:
    found = _read_list(answer)
    if isinstance(found, Failed):
        return found
    if len(found.bounces) > count:
        return Failed(Reason.UNREADABLE)
    verdicts = [verdict for bounce in found.bounces if (verdict := _verdict(bounce, look))]
    oldest = _time(get(found.bounces[-1], "BouncedAt")) if found.bounces else None
    return _Page(verdicts, len(found.bounces), found.total, oldest)


def _verdict(bounce: object, look: Look) -> Verdict | None:
    delivery_id = look.sent.get(message_id(get(bounce, "MessageID")) or "")
    kind, code = text(get(bounce, "Type")), code_in(get(bounce, "Details"))
    status = _status(kind, code)
    if delivery_id is None or status is None:
        return None
    return Verdict(delivery_id, status, code, recipient(get(bounce, "Email")))


def _status(kind: str, code: str) -> MailStatus | None:
    match kind:
        case "HardBounce":
            return permanent(code)
        case "SoftBounce" | "Unknown":
            return not_permanent(code)
        case _:
            return STATUSES.get(kind)


def _time(found: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text(found)[:40])
    except ValueError:
        return None
    return at if at.tzinfo else None
