"""Mailgun's logs: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/logs."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import orjson
import trio
from attrs import frozen

from notifierd.config.providers import MailgunSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, message_id, text
from notifierd.send._http import Client
from notifierd.send._words import about
from notifierd.send.feedback import Keep, Look, Looked
from notifierd.send.feedback._reading import (
    Failed,
    ask,
    code_in,
    delivery_of,
    is_cut,
    no_answer,
    not_permanent,
    permanent,
    recipient,
    worst,
)

EVENTS = ("complained", "delivered", "failed", "rejected")
"""The events that say what became of a mail
(https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-types)."""

PAGE_SIZES = (100, 25, 5)
"""Events on a page: 100 is the maximum. If a page does not fit into what is read of an answer, the look begins again
with smaller pages."""

PAGES = 2000
"""The most pages of one look: 50,000 mails with four events each."""

PACE = 0.2
"""Seconds between two pages. The rate of the logs is not documented; that of Mailgun's metrics is ten times higher."""

SUPPRESSED = frozenset({605, 606, 607})
"""Codes of mails that Mailgun did not send, because the address bounced before, unsubscribed or complained. The reasons
are ``suppress-bounce``, ``suppress-unsubscribe`` and ``suppress-complaint``."""


@frozen
class _Page:
    """Some events, the token of the next page ("" if there is none), and the token of the last page."""

    events: list[object]
    next: str
    last: str


class MailgunFeedback:
    """Asks for the domain's events between two times, in the order of their timestamps.

    Mailgun adds events late: a page is not final before its events are half an hour old ("Event Polling" in
    https://documentation.mailgun.com/en/latest/api-events.html). The overlap of two looks covers that.
    """

    name = "mailgun"
    tells: AbstractSet[MailStatus] = frozenset(MailStatus)

    def __init__(
        self, client: Client, settings: MailgunSettings, *, now: Callable[[], datetime], pace: float = PACE
    ) -> None:
        self._client, self._now, self._pace, self._domain = client, now, pace, settings.domain
        self._url = f"{settings.base_url}/v1/analytics/logs"
        self._headers = {
            "Authorization": f"Basic {b64encode(f'api:{settings.feedback_key}'.encode()).decode()}",
            "Content-Type": "application/json",
        }

    async def look(self, look: Look, keep: Keep) -> Looked:
        for size in PAGE_SIZES:
            incomplete = await self._pages(look, keep, size)
            if incomplete is not None:
                return Looked(incomplete)
        return Looked(Reason.UNREADABLE)

    async def probe(self) -> str:
        now = self._now()
        page = await self._page(now - timedelta(hours=1), now, "", 1)
        return page.reason if isinstance(page, Failed) else ""

    async def _pages(self, look: Look, keep: Keep, size: int) -> str | None:
        """Ask for all pages of *size* events; return why some are missing, or None if one is too long to be read."""
        sent = {provider_id.strip("<>"): delivery_id for provider_id, delivery_id in look.sent.items()}
        token, asked = "", {""}
        for _ in range(PAGES):
            page = await self._page(look.since, look.until, token, size)
            if page is None or isinstance(page, Failed):
                return page.reason if page else None
            if verdicts := worst(_verdict(event, sent, look.unknown) for event in page.events):
                await keep(verdicts)
            if not page.events or not page.next:
                return ""
            if page.next in asked:  # the last page may name itself as the next one
                return "" if token == page.last else Reason.UNREADABLE
            token = page.next
            asked.add(token)
            await trio.sleep(self._pace)
        return Reason.TOO_MANY

    async def _page(self, since: datetime, until: datetime, token: str, size: int) -> _Page | Failed | None:
        """Return a page of the events; None if it is too long to be read."""
        request = {
            "start": format_datetime(since),
            "end": format_datetime(until + timedelta(seconds=1)),  # the format has no fractions
            "events": EVENTS,
            "filter": {
                "AND": [
                    {
                        "attribute": "domain",
                        "comparator": "=",
                        "values": [{"label": self._domain, "value": self._domain}],
                    }
                ]
            },
            "pagination": {"sort": "timestamp:asc", "limit": size} | ({"token": token} if token else {}),
        }
        call = self._client.post(self._url, orjson.dumps(request), self._headers)
        return await ask(call, lambda answer: None if is_cut(answer) else _read(answer))


def _read(answer: Answer) -> _Page | Failed:
    """Return the page in *answer*, or why it is none."""
    found = answer.json()
    if answer.status != 200 or not isinstance(found, dict) or "items" not in found:  # noqa: PLR2004 - OK
        message = get(found, "message")
        return no_answer(answer, about(message) if isinstance(message, str) else None, "logs")
    events, pages = found["items"], get(found, "pagination")
    following = get(pages, "next")
    events = [] if events is None else events  # how Go may write an empty list
    following = "" if following is None else following
    is_list = isinstance(events, list) and all(isinstance(event, dict) for event in events)
    if not is_list or not isinstance(following, str) or len(following) > LONGEST_TOKEN or not isinstance(pages, dict):
        return Failed(Reason.UNREADABLE.of(200))
    return _Page(events, following, text(get(pages, "last")))


LONGEST_TOKEN = 4000


def _verdict(event: object, sent: Mapping[str, UUID], unknown: AbstractSet[UUID]) -> Verdict | None:
    """Return what *event* reports of a mail of ours; None if it reports nothing of that kind.

    The logs name a mail by its Message-ID without the angle brackets, which the answer to the sending has
    (anymail/django-anymail, anymail/webhooks/mailgun.py).
    """
    named = message_id(get(get(get(event, "message"), "headers"), "message-id"))
    status = _status(event)
    if named is None or status is None:
        return None
    named = named.strip("<>")
    code, address = _code(event), recipient(get(event, "recipient"))
    if named in sent:
        return Verdict(sent[named], status, code, address)
    delivery_id = delivery_of(named)
    if delivery_id is None or delivery_id not in unknown:
        return None
    return Verdict(delivery_id, status, code, address, f"<{named}>")


def _code(event: object) -> str:
    status = get(event, "delivery-status")
    return code_in(get(status, "enhanced-code")) or code_in(get(status, "message"))


def _status(event: object) -> MailStatus | None:
    """Return what an event means for its mail; None if it means nothing."""
    match get(event, "event"):
        case "complained":
            return MailStatus.COMPLAINED
        case "delivered" | "opened" | "clicked":
            return MailStatus.DELIVERED
        case "rejected":  # by Mailgun, after it accepted the call
            return MailStatus.REFUSED
        case "failed" if get(event, "severity") == "temporary":
            return MailStatus.DELAYED
        case "failed" if get(event, "severity") == "permanent":
            return _failed(event)
        case _:
            return None


def _failed(event: object) -> MailStatus:
    """Return how a mail failed. Without an enhanced code, a hard bounce is one that Mailgun calls so.

    Codes of 600 and above, and 4xx in the end, are Mailgun's own: it gave up.
    """
    status = get(event, "delivery-status")
    basic, reason = get(status, "code"), text(get(event, "reason"))
    if (isinstance(basic, int) and basic in SUPPRESSED) or reason.startswith("suppress-"):
        return MailStatus.SUPPRESSED
    is_hard = reason in {"bounce", "generic"} and get(status, "bounce-type") != "soft"
    is_final = not isinstance(basic, int) or 500 <= basic < 600  # noqa: PLR2004 - RFC 5321, section 4.2.1
    return (permanent if is_hard and is_final else not_permanent)(_code(event))
