"""SendGrid: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send."""

from collections.abc import Callable, Sequence
from datetime import datetime

import orjson
from attrs import evolve

from notifierd.address import Mailbox
from notifierd.model import Blocked, Deferred, Delivered, Mail, Outcome, Rejected, Unknown
from notifierd.send._http import Answer, Client, classify, message_id, parse_retry_after
from notifierd.settings import SendgridSettings

OURS = frozenset({404, 405, 406, 451})
"""Statuses beside 401 and 403 that no message is to blame for: our base_url, our account's region
(https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/errors)."""

OUR_FIELDS = ("from", "reply_to")
"""What we are to blame for in a 400, whose errors each name their field, as ``from.email``."""


class Sendgrid:
    """One mail by ``POST /v3/mail/send``.

    One call has one content. Its up to 1,000 ``personalizations`` vary by substitutions only, which may have 10,000
    bytes for a mail, and ours have more; they are text that is searched and replaced, so that a name could be taken for
    a tag (https://www.twilio.com/docs/sendgrid/for-developers/sending-email/substitution-tags). An address may stand in
    them only once, which ``safety.redirect_to`` cannot keep, and one bad item fails all
    (https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors). So they cannot carry an office's mails
    exactly, and a call carries one. No idempotency keys are documented.

    "Unicode encoding is not supported for the from field" (https://www.twilio.com/docs/sendgrid/api-reference/mail-send)
    is about its address, which is in ASCII here as all are; a name goes as it is, and SendGrid encodes it
    (sendgrid/sendgrid-php#826).
    """

    name = "sendgrid"
    max_batch = 1
    honours_keys = False

    def __init__(self, client: Client, settings: SendgridSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url = f"{settings.base_url}/v3/mail/send"
        self._headers = {"Authorization": f"Bearer {settings.api_key}", "Content-Type": "application/json"}

    def lane(self, message: Mail) -> str:  # noqa: ARG002 - one account, one lane
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        (mail,) = messages
        return orjson.dumps(_call(mail), option=orjson.OPT_SORT_KEYS)

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - one mail, and no keys
        answer = await self._client.post(self._url, body, self._headers)
        return [self._outcome(answer) if isinstance(answer, Answer) else answer]

    def _outcome(self, answer: Answer) -> Outcome:
        now = self._now()
        match classify(answer, now):
            case Delivered() if answer.status == 202:  # noqa: PLR2004 - Accepted, the one success there is
                return Delivered(message_id(answer.headers.get("x-message-id")))
            case Delivered():
                return Unknown("answer_unclear")
            case Deferred(retry_after=None) as limited if answer.status == 429:  # noqa: PLR2004 - Too Many Requests
                return evolve(limited, retry_after=_until_reset(answer, now))
            case Rejected() if answer.status in OURS or _is_ours(answer):
                return Blocked(f"blocked:{answer.status}", answer.retry_after(now))
            case outcome:
                return outcome


def _until_reset(answer: Answer, now: datetime) -> float | None:
    """Return the seconds until X-RateLimit-Reset, in Unix time.

    https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits
    """
    try:
        seconds = float(answer.headers.get("x-ratelimit-reset", "")) - now.timestamp()
    except ValueError:
        return None
    return parse_retry_after(str(seconds), now)


def _is_ours(answer: Answer) -> bool:
    """Tell whether a refusal speaks of nothing but our own fields."""
    found = answer.json()
    errors = found.get("errors") if isinstance(found, dict) else None
    if answer.status != 400 or not isinstance(errors, list):  # noqa: PLR2004 - Bad Request
        return False
    fields = [str(error.get("field")) if isinstance(error, dict) else "" for error in errors]
    return bool(fields) and all(field.partition(".")[0] in OUR_FIELDS for field in fields)


def _call(mail: Mail) -> dict[str, object]:
    call: dict[str, object] = {
        "personalizations": [{"to": [{"email": mail.to}]}],
        "from": _mailbox(mail.sender),
        "subject": mail.subject,
        "content": [  # text before HTML, or it is a 400
            {"type": "text/plain", "value": mail.text},
            {"type": "text/html", "value": mail.html},
        ],
        "headers": dict(mail.headers),
    }
    return {**call, "reply_to": _mailbox(mail.reply_to)} if mail.reply_to else call


def _mailbox(mailbox: Mailbox) -> dict[str, str]:
    return {"email": mailbox.address} | ({"name": mailbox.name} if mailbox.name else {})
