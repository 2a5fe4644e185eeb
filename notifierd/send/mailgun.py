"""Mailgun: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages."""

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import urlencode

from notifierd.model import Blame, Blocked, Deferred, Delivered, Mail, Outcome, Rejected, Unknown
from notifierd.send._http import Answer, Client, classify, message_id, parse_retry_after
from notifierd.settings import MailgunSettings

OURS = frozenset({402, 404, 405})
"""Statuses beside 401 and 403 that no message is to blame for: our account, domain or base_url. A 404 may also pass by
itself (https://documentation.mailgun.com/docs/mailgun/quickstart-guide/responses)."""

NOT_ALLOWED = "is not allowed to send"
"""Said in a 400 of a domain that is not verified, or an account that is not activated or not paid for."""


class Mailgun:
    """One mail by ``POST /v3/{domain}/messages``, form data.

    Its batch is one message to up to 1,000 addresses, with ``recipient-variables`` put into it for each; without them
    every address sees the others. The variables are kept by address, and an address that is given twice is ignored: of
    two mails to the same one, as all are with ``safety.redirect_to``, the second would be lost. What becomes of a
    ``%recipient.name%`` inside a value is not said. There is one answer and one Message-ID for all
    (https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/batch-sending). So it cannot carry an
    office's mails exactly, and a call carries one. No idempotency keys are documented.
    """

    name = "mailgun"
    max_batch = 1
    honours_keys = False

    def __init__(self, client: Client, settings: MailgunSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url = f"{settings.base_url}/v3/{settings.domain}/messages"
        self._headers = {
            "Authorization": f"Basic {b64encode(f'api:{settings.api_key}'.encode()).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
        }

    def lane(self, message: Mail) -> str:  # noqa: ARG002 - one account, one lane
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        (mail,) = messages
        return urlencode(sorted(_fields(mail).items())).encode()

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - Mailgun knows no keys
        answer = await self._client.post(self._url, body, self._headers)
        return [self._outcome(answer) if isinstance(answer, Answer) else answer]

    def _outcome(self, answer: Answer) -> Outcome:
        found, now = answer.json(), self._now()
        found = found if isinstance(found, dict) else {}
        said, status = str(found.get("message")), answer.status
        match classify(answer, now):
            case Delivered():
                accepted = message_id(found.get("id"))
                return Delivered(accepted) if accepted else Unknown("answer_unclear")
            case _ if status in {420, 429}:  # 420: https://github.com/mailgun/mailgun-java/issues/50
                return Deferred(f"rate_limited:{status}", _wait(answer, said, now), Blame.PROVIDER)
            case Rejected() if status in OURS or (status == 400 and NOT_ALLOWED in said):  # noqa: PLR2004 - Bad Request
                return Blocked(f"blocked:{status}", answer.retry_after(now))
            case outcome:
                return outcome


def _wait(answer: Answer, said: str, now: datetime) -> float | None:
    """Return the seconds that a limit lasts: its end stands in the message."""
    wait, end = answer.retry_after(now), re.search(r"try again after (.+)", said)
    return parse_retry_after(end[1], now) if wait is None and end else wait


def _fields(mail: Mail) -> dict[str, str]:
    headers = {**mail.headers, "Reply-To": mail.reply_to.encoded()} if mail.reply_to else mail.headers
    return {
        "from": mail.sender.quoted(),
        "to": mail.to,
        "subject": mail.subject,
        "text": mail.text,
        "html": mail.html,
        **{f"h:{name}": value for name, value in headers.items()},
    }
