"""What Resend tells of sent mails: https://resend.com/docs/api-reference/emails/list-emails."""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlencode

import trio
from attrs import evolve, frozen

from notifierd.config.providers import ResendSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, message_id, text
from notifierd.send._http import Client
from notifierd.send._words import about
from notifierd.send.feedback import Keep, Look, Looked
from notifierd.send.feedback._reading import MOST_MAILS, Failed, ask, recipient, refusal

T = TypeVar("T")

PAGE = 100
"""The most mails of one page (https://resend.com/docs/api-reference/pagination), and the most ids that metrics can be
asked for (https://github.com/resend/resend-openapi, emails/metrics)."""

MOST_PAGES = MOST_MAILS // PAGE

PACE_SECONDS = 0.5
"""Seconds before each request: a team may make 2 requests a second, whichever of its keys it uses
(https://resend.com/docs/api-reference/rate-limit)."""

STATUSES = MappingProxyType(
    {
        "delivery_delayed": MailStatus.DELAYED,
        "delivered": MailStatus.DELIVERED,
        "opened": MailStatus.DELIVERED,
        "clicked": MailStatus.DELIVERED,
        "bounced": MailStatus.REFUSED,
        "failed": MailStatus.REFUSED,
        "suppressed": MailStatus.SUPPRESSED,
        "complained": MailStatus.COMPLAINED,
    }
)
"""The last events of a mail (https://github.com/resend/resend-openapi, schema Email) that tell something. Whether
``bounced`` is about the address, only the metrics say."""

KINDS = "bounced_permanent,bounced_transient,bounced_undetermined"


@frozen
class _Mail:
    """A mail of ours: what the list says of it."""

    id: str
    verdict: Verdict
    is_bounced: bool
    day: str


@frozen
class _Page:
    """One page of the team's mails; *last* is the id of its last mail, "" without mails."""

    mails: Sequence[_Mail]
    ids: frozenset[str]
    last: str
    has_more: bool


class ResendFeedback:
    """The team's mails by ``GET /emails``, from newer to older, up to the oldest one that is asked about.

    The list says of each mail only what happened to it last. For mails that bounced, ``GET /emails/metrics`` says
    whether the bounce was permanent, for as many mails as a page has. Both need a key with full access.
    """

    name = "resend"
    tells: AbstractSet[MailStatus] = frozenset(MailStatus)

    def __init__(
        self,
        client: Client,
        settings: ResendSettings,
        *,
        now: Callable[[], datetime],  # noqa: ARG002 - each reader takes it
        pace: float = PACE_SECONDS,
    ) -> None:
        self._client, self._pace = client, pace
        self._url = settings.base_url
        self._headers = {"Authorization": f"Bearer {settings.feedback_key}"}

    async def look(self, look: Look, keep: Keep) -> Looked:
        bounced: list[_Mail] = []
        incomplete = await self._pages(look, keep, bounced)
        without_kind = await self._keep_permanent(bounced, keep)
        return Looked(incomplete or without_kind)

    async def probe(self) -> str:
        page = await self._ask("/emails", {"limit": "1"}, _read_list)
        return page.reason if isinstance(page, Failed) else ""

    async def _pages(self, look: Look, keep: Keep, bounced: list[_Mail]) -> str:
        """Keep what the list says, a bounce as a refusal at first; return why a part is missing, or "".

        Mails that bounced are added to *bounced*. PAGE of them are asked about at once, and removed.
        """
        missing, cursors, query = set(look.sent), set[str](), {"limit": str(PAGE)}
        for _ in range(MOST_PAGES):
            page = await self._ask("/emails", query, lambda answer: _read_page(answer, look))
            if isinstance(page, Failed):
                return page.reason
            if page.mails:
                await keep([mail.verdict for mail in page.mails])
            bounced += [mail for mail in page.mails if mail.is_bounced]
            if len(bounced) >= PAGE:
                asked, bounced[:] = bounced[:PAGE], bounced[PAGE:]
                if incomplete := await self._keep_permanent(asked, keep):
                    return incomplete
            missing -= page.ids
            if not missing or not page.has_more:
                return ""
            if not page.last or page.last in cursors:
                return Reason.UNREADABLE
            cursors.add(page.last)
            query["after"] = page.last
        return Reason.TOO_MANY

    async def _keep_permanent(self, mails: Sequence[_Mail], keep: Keep) -> str:
        """Keep which of *mails*, at most PAGE, bounced for good; return why that is not known, or ""."""
        if not mails:
            return ""
        query = {"dimensions": "email", "metrics": KINDS, "email_id": ",".join(mail.id for mail in mails)}
        if first := min(mail.day for mail in mails):
            query["start_date"] = first
        permanent = await self._ask("/emails/metrics", query, _read_metrics)
        if isinstance(permanent, Failed):
            return permanent.reason
        if found := [evolve(mail.verdict, status=MailStatus.BOUNCED) for mail in mails if mail.id in permanent]:
            await keep(found)
        return ""

    async def _ask(self, path: str, query: Mapping[str, str], read: Callable[[Answer], T | Failed]) -> T | Failed:
        await trio.sleep(self._pace)
        return await ask(self._client.get(f"{self._url}{path}?{urlencode(query, safe=',')}", self._headers), read)


def _failure(answer: Answer) -> Failed:
    """Return why an answer is none of the lists (https://resend.com/docs/api-reference/errors)."""
    found = answer.json()
    name, message = text(get(found, "name")), get(found, "message")
    if name == "restricted_api_key":
        return Failed(Reason.NO_RIGHT.of(answer.status, "full_access"))
    is_own = isinstance(message, str) and bool(name or isinstance(get(found, "statusCode"), int))
    return refusal(answer.status, about(text(message)) if is_own else None)


def _read_list(answer: Answer) -> list[object] | Failed:
    """Return the mails or rows of an answer."""
    data = get(answer.json(), "data")
    if answer.status != 200 or not isinstance(data, list) or len(data) > PAGE:  # noqa: PLR2004 - OK
        return _failure(answer)
    return data if all(isinstance(item, dict) for item in data) else Failed(Reason.UNREADABLE)


def _read_page(answer: Answer, look: Look) -> _Page | Failed:
    data, has_more = _read_list(answer), get(answer.json(), "has_more")
    if isinstance(data, Failed):
        return data
    ids = [message_id(get(item, "id")) or "" for item in data]
    if not isinstance(has_more, bool) or not all(ids):
        return Failed(Reason.UNREADABLE)
    mails = [mail for item in data if (mail := _mail(item, look))]
    return _Page(mails, frozenset(ids), ids[-1] if ids else "", has_more)


def _mail(item: object, look: Look) -> _Mail | None:
    sent_id, event = text(get(item, "id")), text(get(item, "last_event"))
    delivery_id, status = look.sent.get(sent_id), STATUSES.get(event)
    if delivery_id is None or status is None:
        return None
    to = get(item, "to")
    address = recipient(to[0]) if isinstance(to, list) and len(to) == 1 else ""
    day = DAY.match(text(get(item, "created_at")))
    return _Mail(sent_id, Verdict(delivery_id, status, address=address), event == "bounced", day[0] if day else "")


DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _read_metrics(answer: Answer) -> frozenset[str] | Failed:
    """Return the ids of the mails whose bounce was permanent.

    If Resend refuses to answer this call, of all that the key may make, the kind of the bounces stays unknown.
    """
    rows = _read_list(answer)
    if isinstance(rows, Failed):
        is_own = Reason.UNEXPECTED.begins(rows.reason)
        return frozenset() if is_own else rows
    return frozenset(text(get(row, "email_id")) for row in rows if _counts(get(row, "bounced_permanent")))


def _counts(found: object) -> bool:
    return isinstance(found, int | float) and found > 0
