"""A mail API that speaks Resend's protocol and delivers into a directory; it accepts mails by SMTP, too.

Sources: resend.com/docs/api-reference (emails, batch emails, errors, rate limit),
resend.com/docs/dashboard/emails/idempotency-keys, resend.com/changelog/batch-validation-modes.
"""

import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime, formataddr, getaddresses
from pathlib import Path
from typing import Any, Final, Self

import trio
from attrs import define, field, frozen

from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.demo.servers.http11 import Answer, Request
from notifierd.demo.servers.journal import Journal
from notifierd.demo.servers.smtp import Step, good
from notifierd.demo.servers.trouble import MailConfig, Script
from notifierd.model.address import encoded_words
from notifierd.model.feedback import MailStatus

_MAX_BATCH: Final = 100
_MAX_KEY: Final = 256
_MAX_TO: Final = 50
_KEY_LIFE_SECONDS: Final = 24 * 3600
_BRACKETED: Final = re.compile(r"<([^>]*)>")
_ADDRESS: Final = re.compile(r"(?:[^<>]*<)?\s*([^@\s<>]+@[^@\s<>]+)\s*>?")

# The error name for each status: resend.com/docs/api-reference/errors
_NAMES: Final = {
    400: "validation_error",
    401: "missing_api_key",
    403: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    409: "concurrent_idempotent_requests",
    422: "validation_error",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
}


@frozen
class AcceptedMail:
    """A line of ``mails/accepted.jsonl``: a mail that the API has sent, as far as its clients can tell.

    Attributes:
        number: counts from 1, in the order of acceptance; ``mails/0001.eml`` is the file of the first.
        id: the id in the API's answer.
        delivery_id: from the header ``X-Entity-Ref-ID``; "" without it.
        idempotency_key: of its call; "" without one.
        time: when it was accepted, RFC 3339 in UTC.
    """

    number: int
    id: str
    delivery_id: str
    to: tuple[str, ...] = field(converter=tuple[str, ...])
    sender: str
    subject: str
    idempotency_key: str
    time: str


class _Refused(Exception):
    """The call, or one email in it, is rejected."""

    def __init__(self, status: int, message: str, name: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.name = name


@frozen
class _Remembered:
    """A key that was used; *answer* is None while its first call is running."""

    fingerprint: bytes
    began: float
    answer: Answer | None


@define
class MailApi:
    """The API's state: accepted mails and what became of them, used keys, and the rules' counters."""

    _directory: Path
    _config: MailConfig
    _script: Script
    _journal: Journal[AcceptedMail]
    _keys: dict[str, _Remembered] = field(factory=dict)
    _afterwards: FakeResend = field(factory=FakeResend)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Deliver into *directory*, continuing after what is in it."""
        config = MailConfig()
        return cls(directory, config, Script(config.rules, time.monotonic), Journal.open(directory, AcceptedMail))

    def configure(self, config: MailConfig) -> None:
        """Change the behaviour from the next call on; the rules start again."""
        self._config = config
        self._afterwards.key = config.feedback_key
        self._script = Script(config.rules, time.monotonic)

    async def handle(self, request: Request) -> Answer | None:
        """Answer one call; None cuts the connection."""
        if (request.method, request.path) == ("GET", "/_received"):
            return Answer(200, self._journal.told())
        if request.method == "GET":
            status, headers, body = self._afterwards.answer("GET", request.target, request.headers, b"")
            return Answer(status, body, headers)
        began = self._journal.begin()
        try:
            answer = await self._answer(request, self._emails(request))
        except _Refused as refused:
            answer = _error(refused.status, refused.message, refused.name)
        self._journal.call(request.path, None if answer is None else answer.status, began)
        return answer

    async def submit(self, step: Step) -> str | None:
        """Reply to a client that submits mails by SMTP, which has no keys; the rules are for calls."""
        if step.verb == "RCPT" and _BRACKETED.findall(step.argument)[0] in self._config.rejected:
            return "550 5.1.1 No such user"
        if step.verb != ".":
            return await good(step)
        await trio.sleep(self._config.latency_ms / 1000)
        found = message_from_bytes(step.mail.content)
        item = {
            "from": found["From"],
            "to": [address for recipient in step.mail.recipients for address in _BRACKETED.findall(recipient)],
            "subject": str(make_header(decode_header(found["Subject"]))),
            "headers": dict(found.items()),
        }
        return f"250 2.0.0 Ok: queued as {self._deliver(item, '', step.mail.content)['id']}"

    def _emails(self, request: Request) -> Sequence[Any]:
        """Return the emails of a call that passes the checks of its head; the emails are not checked yet."""
        if request.path not in ("/emails", "/emails/batch"):
            raise _Refused(404, "The requested endpoint does not exist.")
        if request.method != "POST":
            raise _Refused(405, "This endpoint does not support this method.")
        scheme, _, api_key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not api_key:
            raise _Refused(401, "Missing API key in the authorization header.")
        if api_key != self._config.api_key:
            raise _Refused(403, "API key is invalid.")
        try:
            body = json.loads(request.body)
        except ValueError as error:
            raise _Refused(400, "The request body is not JSON.") from error
        if request.path == "/emails":
            return [body]
        if not isinstance(body, list) or not 1 <= len(body) <= _MAX_BATCH:
            raise _Refused(422, f"The batch must be an array of 1 to {_MAX_BATCH} emails.")
        return body

    async def _answer(self, request: Request, items: Sequence[Any]) -> Answer | None:
        rule = self._script.strike({address for item in items for address in _addresses(item)})
        if rule is None:
            return await self._keyed(request, items)
        if rule.accept:
            await self._keyed(request, items)
        if rule.then == "answer":
            # A rule for one address names the field: a bare rejection would not be about a particular message.
            about = "Invalid `to` field: as ordered." if rule.to else "As ordered."
            return _error(rule.status, about, rule.name, rule.retry_after)
        if rule.then == "hang":
            await request.hung_up()
        return None

    async def _keyed(self, request: Request, items: Sequence[Any]) -> Answer:
        """Carry out the call once for its key; repeat the first answer for the same call under the same key."""
        key = request.headers.get("idempotency-key")
        if key is None or not self._config.honours_keys:
            return await self._accept(request, items)
        if not 1 <= len(key) <= _MAX_KEY:
            raise _Refused(400, "The key must be between 1-256 chars.", "invalid_idempotency_key")
        fingerprint = hashlib.sha256(request.path.encode() + b"\0" + request.body).digest()
        known = self._keys.get(key)
        if known is not None and time.monotonic() - known.began < _KEY_LIFE_SECONDS:
            if known.fingerprint != fingerprint:
                message = "This idempotency key has been used on a request with a different payload."
                raise _Refused(409, message, "invalid_idempotent_request")
            if known.answer is None:
                raise _Refused(409, "A request with this idempotency key is in progress.")
            return known.answer
        began = time.monotonic()
        self._keys[key] = _Remembered(fingerprint, began, None)
        try:
            answer = await self._accept(request, items)
        except _Refused:
            del self._keys[key]
            raise
        self._keys[key] = _Remembered(fingerprint, began, answer)
        return answer

    async def _accept(self, request: Request, items: Sequence[Any]) -> Answer:
        await trio.sleep(self._config.latency_ms / 1000)
        permissive = request.headers.get("x-batch-validation") == "permissive" and request.path == "/emails/batch"
        good, errors = [], []
        for index, item in enumerate(items):
            try:
                self._check(item)
                good.append(item)
            except _Refused as refused:
                if not permissive:
                    raise
                errors.append({"index": index, "message": refused.message})
        key = request.headers.get("idempotency-key", "")
        ids = [self._deliver(item, key) for item in good]
        if request.path == "/emails":
            return Answer(200, ids[0], _limits())
        body: dict[str, Any] = {"data": ids}
        if permissive:
            body["errors"] = errors
        return Answer(200, body, _limits())

    def _check(self, item: Any) -> None:  # noqa: ANN401 - whatever a client sent
        if not isinstance(item, Mapping):
            raise _Refused(422, "An email must be an object.")
        for name in ("from", "to", "subject"):
            if not item.get(name):
                raise _Refused(422, f"Missing `{name}` field.", "missing_required_field")
        if not item.get("html") and not item.get("text"):
            raise _Refused(422, "Missing `html` or `text` field.", "missing_required_field")
        to = item["to"] if isinstance(item["to"], list) else [item["to"]]
        addresses = _addresses(item)
        if len(to) > _MAX_TO or len(addresses) != len(to) or set(addresses) & set(self._config.rejected):
            raise _Refused(
                422,
                "Invalid `to` field. The email address needs to follow the `email@example.com` or "
                "`Name <email@example.com>` format.",
            )
        if not _ADDRESS.fullmatch(str(item["from"])):
            raise _Refused(422, "Invalid `from` field.")
        headers = item.get("headers", {})
        if not isinstance(headers, Mapping) or any(
            mark in str(value) for value in (item["subject"], *headers.values()) for mark in "\r\n"
        ):
            raise _Refused(422, "Invalid `headers` or `subject` field.")

    def _deliver(self, item: Mapping[str, Any], key: str, content: bytes = b"") -> dict[str, str]:
        headers = {name.lower(): str(value) for name, value in item.get("headers", {}).items()}
        mail = AcceptedMail(
            number=self._journal.count + 1,
            id=str(uuid.uuid4()),
            delivery_id=headers.get("x-entity-ref-id", ""),
            to=_addresses(item),
            sender=item["from"],
            subject=item["subject"],
            idempotency_key=key,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        if self._config.keep_eml:
            path = self._directory / f"{mail.number:04}.eml"
            path.write_bytes(content or _message(item).as_bytes())
        self._journal.add(mail)
        became = MailStatus(self._config.became.get(mail.to[0], MailStatus.DELIVERED))
        self._afterwards.add(uuid.UUID(int=0), mail.id, mail.to[0], became, "", datetime.now(UTC))
        return {"id": mail.id}


def _addresses(item: Any) -> list[str]:  # noqa: ANN401 - whatever a client sent
    """Return the bare addresses in an email's ``to``, without invalid ones."""
    to = item.get("to", []) if isinstance(item, Mapping) else []
    found = [_ADDRESS.fullmatch(str(text)) for text in (to if isinstance(to, list) else [to])]
    return [match[1] for match in found if match is not None]


def _message(item: Mapping[str, Any]) -> Message:
    """Return the mail as a MIME message, as a mail program would show it."""
    # The older API of the email package: the newer one takes more than twice as long.
    parts = [
        MIMEText(item[name], kind, "utf-8") for name, kind in (("text", "plain"), ("html", "html")) if item.get(name)
    ]
    message: Message = parts[0] if len(parts) == 1 else MIMEMultipart("alternative", _subparts=parts)
    message["From"] = _encoded(item["from"])
    message["To"] = _encoded(item["to"])
    message["Subject"] = _words(item["subject"], "Subject")
    if reply_to := item.get("reply_to"):
        message["Reply-To"] = _encoded(reply_to)
    message["Date"] = format_datetime(datetime.now(UTC))
    for name, value in item.get("headers", {}).items():
        message[name] = str(value)
    return message


def _encoded(addresses: str | Sequence[str]) -> str:
    """Return addresses with their display names encoded for a header (RFC 2047)."""
    texts = [addresses] if isinstance(addresses, str) else addresses
    return ", ".join(
        formataddr((name, address)) if name.isascii() else f"{_words(name, 'Reply-To')}\n <{address}>"
        for name, address in getaddresses(texts)
    )


def _words(text: str, header: str) -> str:
    """Return any *text* for *header*, in encoded words if it is not ASCII."""
    return text if text.isascii() else encoded_words(text.encode(errors="replace").decode(), header)


def _limits(retry_after: int | None = None) -> dict[str, str]:
    """Return the headers of Resend's rate limit; only the rules enforce it."""
    limits = {"ratelimit-limit": "10", "ratelimit-remaining": "9", "ratelimit-reset": "1"}
    if retry_after is not None:
        limits |= {"ratelimit-remaining": "0", "ratelimit-reset": str(retry_after), "retry-after": str(retry_after)}
    return limits


def _error(status: int, message: str, name: str = "", retry_after: int | None = None) -> Answer:
    body = {"statusCode": status, "name": name or _NAMES.get(status, "application_error"), "message": message}
    return Answer(status, body, _limits(retry_after))
