"""SendGrid: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime

import orjson

from notifierd.config.providers import SendgridSettings
from notifierd.model.address import Mailbox
from notifierd.model.message import Mail
from notifierd.model.outcome import Blocked, Delivered, Outcome, Probe, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, meaning, message_id, outcomes, probed, text
from notifierd.send._http import Client
from notifierd.send._waits import parse_number, within_bounds
from notifierd.send._words import About, about, about_field

OURS = frozenset({404, 405, 406})
"""Statuses that are not about a message if SendGrid itself sends them: our base_url is wrong
(https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/errors)."""

SEND = "mail.send"
"""The scope that sending needs."""

FIELD = re.compile(r"(?:personalizations\.\d{1,4}\.)?([a-z_]{1,20})\b")
"""How an error names its field: ``from.email``, or ``personalizations.0.to.0.email``, which is the recipient's address.
An error about ``personalizations`` as a whole is not about an address."""


class Sendgrid:
    """One mail for each ``POST /v3/mail/send``.

    One call has one content. Its up to 1,000 ``personalizations`` differ only by substitutions, which may have 10,000
    bytes for a mail, and our mails are larger. Substitutions are text search and replace, so a name could be taken for
    a tag (https://www.twilio.com/docs/sendgrid/for-developers/sending-email/substitution-tags). An address may appear
    only once in them, which is impossible with ``safety.redirect_to``, and one bad item fails all
    (https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors). So they cannot carry an office's mails
    exactly, and a call carries one mail. No idempotency keys are documented.

    "Unicode encoding is not supported for the from field"
    (https://www.twilio.com/docs/sendgrid/api-reference/mail-send) concerns the address, which is always ASCII here. A
    name is sent as it is, and SendGrid encodes it (sendgrid/sendgrid-php#826).
    """

    name = "sendgrid"
    max_batch = 1
    honours_keys = False

    def __init__(self, client: Client, settings: SendgridSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url, self._scopes = f"{settings.base_url}/v3/mail/send", f"{settings.base_url}/v3/scopes"
        self._headers = {"Authorization": f"Bearer {settings.api_key}", "Content-Type": "application/json"}

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one account, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        (mail,) = messages
        return orjson.dumps(_call(mail), option=orjson.OPT_SORT_KEYS)

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - one mail, and no keys
        call = self._client.post(self._url, body, self._headers)
        return await outcomes(call, 1, lambda answer: [self._read(answer)])

    async def probe(self) -> Probe:
        """Ask for the scopes of the key: https://www.twilio.com/docs/sendgrid/api-reference/api-key-permissions."""
        return await probed("GET /v3/scopes", self._client.get(self._scopes, self._headers), self._read_scopes)

    def _read_scopes(self, answer: Answer) -> tuple[Outcome, tuple[str, ...]]:
        found = answer.json()
        outcome, scopes = self._of_call(answer, found), get(found, "scopes")
        if not isinstance(outcome, Delivered):
            return outcome, ()
        if not isinstance(scopes, list):
            return Unknown(Reason.ANSWER_UNCLEAR), ()
        return (outcome if SEND in scopes else Blocked(Reason.ACCESS_DENIED.of(SEND))), ()

    def _read(self, answer: Answer) -> Outcome:
        outcome = self._of_call(answer, answer.json())
        if not isinstance(outcome, Delivered):
            return outcome
        if answer.status != 202:  # noqa: PLR2004 - Accepted, the one success there is
            return Unknown(Reason.ANSWER_UNCLEAR)
        return Delivered(message_id(answer.headers.get("x-message-id")))

    def _of_call(self, answer: Answer, found: object) -> Outcome:
        status, now, said = answer.status, self._now(), _about(found)
        if status in OURS and said is not None:
            return Blocked(Reason.BLOCKED.of(status), answer.retry_after(now))
        wait = answer.retry_after(now)
        if wait is None and status == 429:  # noqa: PLR2004 - Too Many Requests
            wait = _until_reset(answer, now)
        return meaning(status, said, wait)


def _until_reset(answer: Answer, now: datetime) -> float | None:
    """Return the seconds until X-RateLimit-Reset, a Unix time.

    https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits
    """
    reset = parse_number(answer.headers.get("x-ratelimit-reset", ""))
    return None if reset is None else within_bounds(reset - now.timestamp())


def _about(found: object) -> About | None:
    """Return what an answer's errors are about, our account before the recipient; None if they are not SendGrid's."""
    errors = get(found, "errors")
    if not isinstance(errors, list) or not all(isinstance(error, dict) for error in errors):
        return None
    named = [field[1] for error in errors if (field := FIELD.match(text(get(error, "field"))))]
    by_field = {about_field(name) for name in named}
    for said in (About.US, About.MESSAGE):
        if said in by_field:
            return said
    return about(" ".join(text(get(error, "message")) for error in errors))


def _call(mail: Mail) -> dict[str, object]:
    call: dict[str, object] = {
        "personalizations": [{"to": [{"email": mail.to}]}],
        "from": _mailbox(mail.sender),
        "subject": mail.subject,
        "content": [  # text must come before HTML, or SendGrid answers 400
            {"type": "text/plain", "value": mail.text},
            {"type": "text/html", "value": mail.html},
        ],
        "headers": dict(mail.headers),
    }
    return {**call, "reply_to": _mailbox(mail.reply_to)} if mail.reply_to else call


def _mailbox(mailbox: Mailbox) -> dict[str, str]:
    return {"email": mailbox.address} | ({"name": mailbox.name} if mailbox.name else {})
