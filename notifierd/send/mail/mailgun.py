"""Mailgun: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages."""

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import urlencode

from notifierd.config.providers import MailgunSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, get, meaning, message_id, outcomes, probed, text
from notifierd.send._http import Client
from notifierd.send._waits import wait_in_words
from notifierd.send._words import About, about

OURS = frozenset({404, 405})
"""Statuses that are not about a message if Mailgun itself sends them: our domain or base_url is wrong. A 404 may also
be temporary (https://documentation.mailgun.com/docs/mailgun/quickstart-guide/responses)."""

MISSING = re.compile(r"^(?:'?(?:from|to|subject|message)'? parameter is missing|Need at least one of )", re.IGNORECASE)
"""How an answer to an incomplete message begins (.../api-reference/send/mailgun/messages, status 400)."""


class Mailgun:
    """One mail for each ``POST /v3/{domain}/messages``, as form data.

    Mailgun's batch is one message to up to 1,000 addresses, with ``recipient-variables`` for each of them. Without
    these variables, every address sees the others. The variables are stored by address, and a repeated address is
    ignored: of two mails to the same address, as with ``safety.redirect_to``, the second would be lost. How a
    ``%recipient.name%`` inside a value is read is not documented. There is one answer and one Message-ID for all
    (https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/batch-sending). So a batch cannot carry
    an office's mails exactly, and a call carries one mail. No idempotency keys are documented.
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

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one account, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        (mail,) = messages
        return urlencode(sorted(_fields(mail).items())).encode()

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - Mailgun knows no keys
        call = self._client.post(self._url, body, self._headers)
        return await outcomes(call, 1, lambda answer: [self._read(answer)])

    async def probe(self) -> Probe:
        """Post a message without sender, recipient and content, which Mailgun refuses once it has accepted the key.

        A sending key may do nothing else than post messages
        (https://documentation.mailgun.com/docs/mailgun/api-reference/authentication). The message is also marked as a
        test, which Mailgun would accept and not deliver (.../docs/mailgun/user-manual/sending-messages/test-mode).
        """
        call = self._client.post(self._url, b"o:testmode=yes", self._headers)
        return await probed("POST of an empty message", call, lambda answer: (self._read_refusal(answer), ()))

    def _read_refusal(self, answer: Answer) -> Outcome:
        if answer.status == 400 and MISSING.search(_words(answer.json())):  # noqa: PLR2004 - Bad Request
            return Delivered()
        return self._read(answer)

    def _read(self, answer: Answer) -> Outcome:
        found, now, status = answer.json(), self._now(), answer.status
        words, said = _words(found), _about(found)
        until = wait_in_words(words, now)
        wait = until if (asked := answer.retry_after(now)) is None else asked
        if until is not None and 400 <= status < 500 and said is not About.QUOTA:  # noqa: PLR2004 - the client's errors
            # This text also says that the domain is not allowed to send.
            return Deferred(Reason.RATE_LIMITED.of(status), wait, Blame.PROVIDER)
        if status in OURS and said is not None:
            return Blocked(Reason.BLOCKED.of(status), wait)
        outcome = meaning(status, said, wait)
        if not isinstance(outcome, Delivered):
            return outcome
        accepted = message_id(get(found, "id"))
        return Delivered(accepted) if accepted else Unknown(Reason.ANSWER_UNCLEAR)


def _about(found: object) -> About | None:
    """Return what an error is about; None if the answer is not Mailgun's.

    A 400 "... is not allowed to send" means a domain that is not verified, or an account that is not activated or not
    paid for.
    """
    return about(_words(found)) if isinstance(found, dict) and "message" in found else None


def _words(found: object) -> str:
    message = get(found, "message")
    return " ".join(map(text, message)) if isinstance(message, list) else text(message)


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
