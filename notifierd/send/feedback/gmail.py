"""Gmail tells what became of a mail by bounce mails only: this reads those in the mailbox of the user who sent it.

https://developers.google.com/workspace/gmail/api/reference/rest/v1/users.messages/list.
"""

import base64
import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlencode
from uuid import UUID

import trio
from attrs import frozen

from notifierd.config.providers import GmailSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, text
from notifierd.send._http import Client
from notifierd.send.feedback import Keep, Look, Looked
from notifierd.send.feedback._dsn import Notification, Recipient, read_notification
from notifierd.send.feedback._reading import Failed, ask, no_answer, not_permanent, worst
from notifierd.send.mail.gmail import DAILY, RATE_LIMITS, UNAUTHORIZED, about_error, error_reasons, service_account

T = TypeVar("T")

SCOPE = "https://www.googleapis.com/auth/gmail.readonly"
"""The scope of gmail.metadata would show less, but it does not allow to search
(https://developers.google.com/workspace/gmail/api/reference/rest/v1/users.messages/list)."""

PAGE_SIZE = 100

PAGES = 50
"""The most pages of one look. Gmail sends 2,000 mails a day for a user, so the bounce mails of two days fit."""

PACE = 0.25
"""Seconds between two mails, so that a user's quota has room for 25 units each
(https://developers.google.com/workspace/gmail/api/reference/quota)."""

MAIL_BYTES = 700_000
"""The size of the longest bounce mail that is asked for. In base64 and JSON, it fits into what is read of an answer."""


@frozen
class _Page:
    """The ids of some mails, and the token of the next page; "" if there is none."""

    mails: list[str]
    next: str


class GmailFeedback:
    """Searches the user's mailbox for bounce mails, and reads each of them.

    Who receives a bounce mail knows nothing of what was delivered, and Gmail reports no complaints.
    """

    name = "gmail"
    tells: AbstractSet[MailStatus] = frozenset({MailStatus.DELAYED, MailStatus.REFUSED, MailStatus.BOUNCED})

    def __init__(
        self, client: Client, settings: GmailSettings, *, now: Callable[[], datetime], pace: float = PACE
    ) -> None:
        self._client, self._now, self._pace = client, now, pace
        self._url = f"{settings.base_url}/gmail/v1/users/me/messages"
        self._account = service_account(client, settings, now, SCOPE)

    async def look(self, look: Look, keep: Keep) -> Looked:
        return Looked(await self._pages(look, keep))

    async def probe(self) -> str:
        now = self._now()
        page = await self._page(now - timedelta(hours=1), now, "", 1)
        return page.reason if isinstance(page, Failed) else ""

    async def _pages(self, look: Look, keep: Keep) -> str:
        """Read the bounce mails page by page; return why some are missing, or ""."""
        ours = look.unknown | set(look.sent.values())
        token, asked = "", {""}
        for _ in range(PAGES):
            page = await self._page(look.since, look.until, token, PAGE_SIZE)
            if isinstance(page, Failed):
                return page.reason
            incomplete = await self._mails(page.mails, ours, keep)
            if incomplete or not page.next:
                return incomplete
            if page.next in asked:
                return Reason.UNREADABLE
            token = page.next
            asked.add(token)
        return Reason.TOO_MANY

    async def _mails(self, ids: list[str], ours: AbstractSet[UUID], keep: Keep) -> str:
        """Read the mails *ids*, and keep what they report; return why one was not read, or ""."""
        verdicts: list[Verdict] = []
        incomplete = ""
        for mail_id in ids:
            await trio.sleep(self._pace)
            found = await self._get(f"{self._url}/{mail_id}?format=raw", _read_mail)
            if isinstance(found, Failed):
                incomplete = found.reason
                break
            if found is not None:
                verdicts += _verdicts(found, ours)
        if kept := worst(verdicts):
            await keep(kept)
        return incomplete

    async def _page(self, since: datetime, until: datetime, token: str, size: int) -> _Page | Failed:
        # Times in seconds: https://developers.google.com/workspace/gmail/api/guides/filtering
        times = f"after:{int(since.timestamp()) - 1} before:{int(until.timestamp()) + 1}"
        query = {
            "q": f"{{from:mailer-daemon from:postmaster}} {times} smaller:{MAIL_BYTES}",
            "maxResults": size,
            "includeSpamTrash": "true",
        } | ({"pageToken": token} if token else {})
        return await self._get(f"{self._url}?{urlencode(query)}", _read_page)

    async def _get(self, url: str, read: Callable[[Answer], T | Failed]) -> T | Failed:
        token = await self._account.token()
        if not isinstance(token, str):
            return Failed(token.reason)
        found = await ask(self._client.get(url, {"Authorization": f"Bearer {token}"}), read)
        if isinstance(found, Failed) and found.reason == UNAUTHORIZED:
            self._account.forget(token)
        return found


def _read_page(answer: Answer) -> _Page | Failed:
    """Return the page in *answer*, or why it is none. A page without mails has no list of them."""
    found = answer.json()
    mails, following = get(found, "messages"), get(found, "nextPageToken")
    if mails is None and isinstance(get(found, "resultSizeEstimate"), int):
        mails = []
    if answer.status != 200 or not isinstance(mails, list):  # noqa: PLR2004 - OK
        return _failure(answer)
    ids = [text(get(mail, "id")) for mail in mails]
    following = "" if following is None else following
    if not all(map(_ID.fullmatch, ids)) or not isinstance(following, str) or len(following) > LONGEST_TOKEN:
        return Failed(Reason.UNREADABLE.of(200))
    return _Page(ids, following)


_ID = re.compile(r"[\w-]{1,100}", re.ASCII)
LONGEST_TOKEN = 1000


def _read_mail(answer: Answer) -> Notification | Failed | None:
    """Return the notification in a mail, or why it was not read; None if there is none in it, or it was deleted."""
    found = answer.json()
    if answer.status == 404 and about_error(get(found, "error")):  # noqa: PLR2004 - Not Found
        return None
    raw = _decoded(text(get(found, "raw")))
    return read_notification(raw) if answer.status == 200 and raw else _failure(answer)  # noqa: PLR2004 - OK


def _decoded(raw: str) -> bytes:
    """Return a mail from its base64url; b"" if it is none."""
    try:
        return base64.urlsafe_b64decode(f"{raw}==")
    except ValueError:  # or binascii.Error, which is one
        return b""


def _failure(answer: Answer) -> Failed:
    """https://developers.google.com/workspace/gmail/api/guides/handle-errors."""
    error = get(answer.json(), "error")
    reasons = set(error_reasons(error))
    if DAILY in reasons:
        return Failed(Reason.QUOTA.of(answer.status))
    if reasons & RATE_LIMITS:
        return Failed(Reason.RATE_LIMITED.of(answer.status))
    return no_answer(answer, about_error(error), "gmail.readonly")


def _verdicts(notification: Notification, ours: AbstractSet[UUID]) -> Iterator[Verdict]:
    """Yield what a bounce mail reports of mails of ours."""
    for delivery_id in notification.deliveries & ours:
        for recipient in notification.recipients:
            if status := _status(recipient):
                yield Verdict(delivery_id, status, recipient.code, recipient.address)


def _status(recipient: Recipient) -> MailStatus | None:
    """Return what an Action means (RFC 3464, section 2.3.3); None if it is no trouble."""
    match recipient.action:
        case "failed":
            return not_permanent(recipient.code)
        case "delayed":
            return MailStatus.DELAYED
        case _:
            return None
