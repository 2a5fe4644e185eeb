"""Postmark: https://postmarkapp.com/developer/api/email-api."""

from collections.abc import Callable, Sequence
from datetime import datetime

import orjson

from notifierd.config.providers import PostmarkSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, for_each, get, meaning, message_id, outcomes, probed, text
from notifierd.send._http import Client
from notifierd.send._words import About, about

OURS = frozenset({10, 400, 401, 405, 412, 413, 422, 1235, 1236, 1480})
"""Error codes that are not about a message: the token, the sender signature, credits, the account's approval, the
server, the stream, our IP address (https://postmarkapp.com/developer/api/overview#error-codes)."""

OUR_STATUSES = frozenset({404, 405, 415})
"""Statuses about our base_url, if they come with an error code (.../developer/api/overview#response-codes). An HTML
page is not from Postmark
(https://postmarkapp.com/support/article/getting-a-403-that-doesnt-look-like-a-postmark-error)."""

TEST_TOKEN = "POSTMARK_API_TEST"  # noqa: S105 - public: .../developer/user-guide/send-email-with-api
"""The token with which Postmark accepts every mail and sends none. It belongs to no server."""

HIGHEST_CODE = 99_999
"""The highest number that is read as an error code, so that a reason stays short."""


class Postmark:
    """Mails by ``POST /email/batch``, even a single one; the answer is 200, with an error code for each message.

    The codes are in the order of the messages. A batch has at most 500 messages and 50 MB; a larger one gets a 413
    (https://postmarkapp.com/developer/user-guide/send-email-with-api/batch-emails). No idempotency keys are documented.
    A ``Message-ID`` among the headers is kept
    (https://postmarkapp.com/developer/user-guide/send-email-with-api/send-a-single-email). A name with punctuation must
    be quoted (https://postmarkapp.com/support/article/1180-what-does-errorcode-300-mean).
    """

    name = "postmark"
    max_batch = 500
    honours_keys = False

    def __init__(self, client: Client, settings: PostmarkSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url, self._server = f"{settings.base_url}/email/batch", f"{settings.base_url}/server"
        self._stream = settings.message_stream
        self._headers = {"X-Postmark-Server-Token": settings.server_token, "Content-Type": "application/json"}

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one account, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        if not 1 <= len(messages) <= self.max_batch:
            raise ValueError(f"{len(messages)} mails in one call")
        return orjson.dumps([self._item(mail) for mail in messages])

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - Postmark knows no keys
        call = self._client.post(self._url, body, self._headers)
        return await outcomes(call, len(messages), lambda answer: self._read(answer, len(messages)))

    async def probe(self) -> Probe:
        """Ask for the server of the token: https://postmarkapp.com/developer/api/server-api#get-server."""
        if self._headers["X-Postmark-Server-Token"] == TEST_TOKEN:
            return Probe("no call", Delivered(), (f"with {TEST_TOKEN}, no mail is sent",))
        return await probed("GET /server", self._client.get(self._server, self._headers), self._read_server)

    def _read_server(self, answer: Answer) -> tuple[Outcome, tuple[str, ...]]:
        outcome, server = self._of_call(answer), answer.json()
        if not isinstance(outcome, Delivered):
            return outcome, ()
        if get(server, "ID") is None:
            return Unknown(Reason.ANSWER_UNCLEAR), ()
        sandbox = text(get(server, "DeliveryType")).lower() == "sandbox"
        return outcome, ("the server is a sandbox, which delivers no mail",) * sandbox

    def _read(self, answer: Answer, count: int) -> list[Outcome]:
        outcome = self._of_call(answer)
        return _of_items(answer.json(), count) if isinstance(outcome, Delivered) else for_each(outcome, count)

    def _of_call(self, answer: Answer) -> Outcome:
        """Return the outcome of the call as a whole: https://postmarkapp.com/developer/api/overview#response-codes."""
        said, status, wait = answer.json(), answer.status, answer.retry_after(self._now())
        code = _code(said)
        if status == 422 and code:  # noqa: PLR2004 - Unprocessable Content
            return _of_code(code, "422", said)
        if status in OUR_STATUSES and code is not None:
            return Blocked(Reason.BLOCKED.of(status), wait)
        return meaning(status, None if code is None else _about(code, said), wait)

    def _item(self, mail: Mail) -> dict[str, object]:
        item: dict[str, object] = {
            "From": mail.sender.quoted(),
            "To": mail.to,
            "Subject": mail.subject,
            "HtmlBody": mail.html,
            "TextBody": mail.text,
            "Headers": [{"Name": name, "Value": value} for name, value in sorted(mail.headers.items())],
            "MessageStream": self._stream,
        }
        return {**item, "ReplyTo": mail.reply_to.quoted()} if mail.reply_to else item


def _of_items(found: object, count: int) -> list[Outcome]:
    """Return the outcome of each message of a call that succeeded; the results are in the order of the messages."""
    if not isinstance(found, list) or len(found) != count:
        return [Unknown(Reason.ANSWER_UNCLEAR)] * count
    return [_of_item(item) for item in found]


def _of_item(item: object) -> Outcome:
    code = _code(item)
    if code:
        return _of_code(code, "item", item)
    accepted = message_id(get(item, "MessageID")) if code == 0 else None
    return Delivered(accepted) if accepted else Unknown(Reason.ANSWER_UNCLEAR)


def _of_code(code: int, said_of: str, said: object) -> Outcome:
    """Return what an error code other than 0 means. Postmark did not accept the message, whatever the code."""
    match code, _about(code, said):
        case 100, _:
            return Deferred(Reason.MAINTENANCE.of(said_of, code), blame=Blame.PROVIDER)
        case 429, _:
            return Deferred(Reason.RATE_LIMITED.of(said_of, code), blame=Blame.PROVIDER)
        case _, About.US | About.QUOTA:
            return Blocked(Reason.BLOCKED.of(said_of, code))
        case _, About.MESSAGE:
            return Rejected(Reason.REJECTED.of(said_of, code))
        case 300, _:
            return Rejected(Reason.REJECTED.of(said_of, code), Blame.UNCLEAR)
        case _:
            return Deferred(Reason.REFUSED.of(said_of, code))


def _about(code: int, said: object) -> About:
    """Return what an error is about.

    300 is an invalid request, whose text names the field, which can also be the sender
    (https://postmarkapp.com/support/article/troubleshooting-422-unprocessable-entity-errors). 406 is an address that
    bounced, complained or is suppressed.
    """
    if code in OURS:
        return About.US
    return About.MESSAGE if code == 406 else about(text(get(said, "Message")))  # noqa: PLR2004 - the code above


def _code(found: object) -> int | None:
    code = get(found, "ErrorCode")
    # Exactly an int: in Python, False is an int too, and equals 0.
    return code if type(code) is int and abs(code) <= HIGHEST_CODE else None
