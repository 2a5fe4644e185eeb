"""Gmail: https://developers.google.com/gmail/api/reference/rest/v1/users.messages/send."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32

from notifierd.errors import ConfigError
from notifierd.model import Blame, Blocked, Deferred, Delivered, Mail, Outcome, Rejected, Unknown
from notifierd.send._address import ascii_address, ascii_mailbox
from notifierd.send._http import Answer, Client, classify, message_id
from notifierd.send.oauth import ServiceAccount, load_key
from notifierd.settings import GmailSettings

SCOPE = "https://www.googleapis.com/auth/gmail.send"

RATE_LIMITS = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
"""Said with status 403 or 429 (https://developers.google.com/gmail/api/guides/handle-errors)."""

DAILY = "dailyLimitExceeded"
MAIL_SENDING = "Mail sending"
"""How a 429 says that the user's mails of a day are used up (the same page): for hours, then."""

OURS = frozenset({"failedPrecondition", "notFound"})
"""Errors beside 401 and 403 that no message is to blame for: the user has no mailbox, the base_url is wrong."""

CRLF = compat32.clone(linesep="\r\n", max_line_length=None)
"""Unlike the newer policies it leaves a long URL in a header as it is, in place of encoded words."""


class Gmail:
    """One mail by one call, built here but for its Date, which Gmail adds.

    Google's batches gain nothing: each part counts as a call (https://developers.google.com/gmail/api/guides/batch). No
    idempotency key is documented. For some minutes after the user's daily limit is reached, a 200 may be wrong
    (.../gmail/api/guides/handle-errors): `limits.email_per_day` is there to stay below it.
    """

    name = "gmail"
    max_batch = 1
    honours_keys = False

    def __init__(self, client: Client, settings: GmailSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url = f"{settings.base_url}/gmail/v1/users/me/messages/send"
        self._account = _account(client, settings, now)

    def lane(self, message: Mail) -> str:  # noqa: ARG002 - one user, one lane
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        """Return the call's content; nothing for a mail whose address no header can carry, which `send` rejects."""
        (mail,) = messages
        to = ascii_address(mail.to)
        return json.dumps({"raw": base64.urlsafe_b64encode(_mime(mail, to)).decode()}).encode() if to else b""

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - one mail; there are no keys
        if not body:
            return [Rejected("bad_address")]
        answer = await self._post(body)
        if isinstance(answer, Answer) and answer.status == 401:  # noqa: PLR2004 - Unauthorized
            answer = await self._post(body)  # certainly not accepted, so it may go again, with another token
        return [self._outcome(answer) if isinstance(answer, Answer) else answer]

    async def _post(self, body: bytes) -> Answer | Blocked | Deferred | Unknown:
        token = await self._account.token()
        if not isinstance(token, str):
            return token
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = await self._client.post(self._url, body, headers)
        if isinstance(answer, Answer) and answer.status == 401:  # noqa: PLR2004 - Unauthorized
            self._account.forget(token)
        return answer

    def _outcome(self, answer: Answer) -> Outcome:
        """https://developers.google.com/gmail/api/guides/handle-errors."""
        outcome, found = classify(answer, self._now()), answer.json()
        if isinstance(outcome, Delivered):
            taken = message_id(_get(found, "id"))
            return Delivered(taken) if taken else Unknown("answer_unclear")
        status, wait = answer.status, answer.retry_after(self._now())
        error = _get(found, "error")
        reasons = set(_reasons(error))
        if not 400 <= status < 500:  # noqa: PLR2004 - the client's errors
            return outcome
        if DAILY in reasons or (reasons & RATE_LIMITS and MAIL_SENDING in str(_get(error, "message"))):
            return Blocked(f"quota:{status}", wait)
        if reasons & RATE_LIMITS:
            return Deferred(f"rate_limited:{status}", wait, Blame.PROVIDER)
        return Blocked(f"blocked:{status}", wait) if reasons & OURS else outcome


def _account(client: Client, settings: GmailSettings, now: Callable[[], datetime]) -> ServiceAccount:
    account = json.loads(settings.service_account)
    try:
        key = load_key(account["private_key"])
    except ValueError as error:
        raise ConfigError((f"email.gmail.service_account: its private_key is {error} (an RSA key in PEM)",)) from error
    return ServiceAccount(
        client,
        now,
        email=account["client_email"],
        key=key,
        key_id=str(account.get("private_key_id", "")),
        url=settings.token_url,
        user=settings.user,
        scope=SCOPE,
    )


def _get(found: object, name: str) -> object:
    return found.get(name) if isinstance(found, Mapping) else None


def _reasons(error: object) -> Iterator[str]:
    errors = _get(error, "errors")
    for each in errors if isinstance(errors, list) else []:
        yield str(_get(each, "reason"))


def _mime(mail: Mail, to: str) -> bytes:
    """Return *mail* as RFC 5322 and 2046 have it, its boundary made of what it is rather than of chance.

    All parts are in base64, where no line can begin as a boundary does.
    """
    parts = [MIMEText(_crlf(mail.text), "plain", "utf-8"), MIMEText(_crlf(mail.html), "html", "utf-8")]
    message = MIMEMultipart("alternative", mail.delivery_id.hex, parts, policy=CRLF)
    message["From"] = ascii_mailbox(mail.sender)
    message["To"] = to
    if mail.reply_to:
        message["Reply-To"] = ascii_mailbox(mail.reply_to)
    message["Subject"] = Header(mail.subject, "utf-8", header_name="Subject").encode()
    for name, value in sorted(mail.headers.items()):
        message[name] = value
    return message.as_bytes()


def _crlf(text: str) -> str:
    """RFC 2046, section 4.1.1: a line of text ends with CRLF, also inside base64."""
    return re.sub(r"\r?\n", "\r\n", text)
