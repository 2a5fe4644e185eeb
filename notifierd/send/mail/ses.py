"""Amazon SES, API v2: SendEmail and SendBulkEmail.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html and .../API_SendBulkEmail.html.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from math import inf
from types import MappingProxyType
from urllib.parse import urlsplit

import orjson

from notifierd.config.providers import SesSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Rejected, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, for_each, get, meaning, message_id, outcomes, probed, text
from notifierd.send._http import Client
from notifierd.send._words import About, about
from notifierd.send.mail.sigv4 import Signer

TEMPLATE = MappingProxyType({"Subject": "{{subject}}", "Text": "{{text}}", "Html": "{{html}}"})
"""A template of placeholders only: each entry of a bulk call fills them with its whole mail. SES rejects names with an
underscore in an inline template (aws/aws-sdk-js-v3#6657)."""

BULK_BYTES, ENTRY_CHARACTERS = 1_000_000, 262_144
"""The size limit of a call with an inline template (.../dg/send-personalized-email-api.html: 1 MB), and of the data of
one entry (.../API_ReplacementTemplate.html)."""

THROTTLES = frozenset(
    {
        *("ThrottlingException", "TooManyRequestsException", "LimitExceededException"),
        *("Throttling", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
        *("RequestLimitExceeded", "BandwidthLimitExceeded", "SlowDown"),
    }
)
TIMEOUTS = frozenset({"RequestTimeout", "RequestTimeoutException"})
"""The timeout errors of the operation, and those that AWS' clients treat as timeouts, even as a 400
(https://github.com/boto/botocore/blob/develop/botocore/retries/standard.py)."""

DAILY_QUOTA = "Daily message quota exceeded"
"""The text of a throttle that lasts for hours
(https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html)."""

DENIED = "AccessDeniedException"

NEARLY = 0.8
"""Rule: the share of a quota from which on `check` mentions it."""

REJECTED = "MessageRejected"
"""The error of a message with invalid content (.../APIReference-V2/API_SendEmail.html, Errors)."""

NOT_VERIFIED = "not verified"
"""The text of a MessageRejected that is not about the message (https://docs.aws.amazon.com/ses/latest/dg/
troubleshoot-error-messages.html): our sender is not verified or, in the sandbox, the recipient's address is not."""

REFUSALS = MappingProxyType(
    {
        "AccountSuspendedException": Reason.SUSPENDED,
        "SendingPausedException": Reason.SENDING_PAUSED,
        "MailFromDomainNotVerifiedException": Reason.NOT_VERIFIED,
        "NotFoundException": Reason.NOT_FOUND,  # the configuration set
        DENIED: Reason.ACCESS_DENIED,
        "NotAuthorized": Reason.ACCESS_DENIED,
        "IncompleteSignature": Reason.BAD_SIGNATURE,
        "RequestExpired": Reason.CLOCK_WRONG,
        "UnknownOperationException": Reason.NOT_FOUND,
    }
)
"""Errors besides 401 and 403 that are not about a message: the operation's, and those of .../CommonErrors.html."""

ENTRY_REFUSALS = MappingProxyType(
    {
        "ACCOUNT_SUSPENDED": Reason.SUSPENDED,
        "ACCOUNT_SENDING_PAUSED": Reason.SENDING_PAUSED,
        "CONFIGURATION_SET_SENDING_PAUSED": Reason.SENDING_PAUSED,
        "ACCOUNT_DAILY_QUOTA_EXCEEDED": Reason.QUOTA,
        "MAIL_FROM_DOMAIN_NOT_VERIFIED": Reason.NOT_VERIFIED,
        "CONFIGURATION_SET_NOT_FOUND": Reason.NOT_FOUND,
        "TEMPLATE_NOT_FOUND": Reason.NOT_FOUND,
        "INVALID_SENDING_POOL_NAME": Reason.NOT_FOUND,
    }
)
"""The same for an entry of a bulk call: .../API_BulkEmailEntryResult.html."""


class Ses:
    """One mail by SendEmail, several by SendBulkEmail, which accepts up to 50 entries and answers for each of them.

    A bulk call has one template for all entries. We use TEMPLATE, so that mails with nothing in common can share a
    call: SES inserts values as they are, without escaping (https://docs.aws.amazon.com/ses/latest/dg/
    send-personalized-email-advanced.html). SES accepts a call whose values leave a placeholder empty, but sends nothing
    (.../API_SendEmail.html, MessageId). Ours fill all three, and contain no ``{{`` that could begin another. Each entry
    has its own headers (.../API_BulkEmailEntry.html).

    The account's sending rate may limit how many entries a call can have (.../dg/send-personalized-email-api.html). A
    call of which every entry is throttled might never succeed, so later calls have at most half as many entries.

    SES replaces Message-ID (https://docs.aws.amazon.com/ses/latest/dg/header-fields.html), so ours is left out. No
    idempotency key is documented.
    """

    name = "ses"
    max_batch = 50
    honours_keys = False

    def __init__(self, client: Client, settings: SesSettings, *, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        self._url, self._configuration_set = settings.endpoint, settings.configuration_set
        self._headers = {"Content-Type": "application/json", "Host": urlsplit(self._url).netloc}
        self._signer = Signer(
            settings.access_key_id, settings.secret_access_key, settings.session_token, settings.region, "ses"
        )

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one account, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        if not messages or len({(mail.sender, mail.reply_to) for mail in messages}) > 1:
            raise ValueError("mails of one sender make a call")
        if len(messages) == 1:
            return _json({**self._envelope(messages[0]), **_content(messages[0])})
        content = {"Template": {"TemplateContent": dict(TEMPLATE), "TemplateData": "{}"}}
        entries = [_entry(mail) for mail in messages]
        body = _json({**self._envelope(messages[0]), "DefaultContent": content, "BulkEmailEntries": entries})
        if len(messages) > Ses.max_batch or len(body) > BULK_BYTES:
            raise ValueError(f"{len(messages)} mails of {len(body)} bytes in one call")
        return body

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - there are no keys
        count = len(messages)
        url = f"{self._url}/v2/email/outbound-{'bulk-' * (count > 1)}emails"
        call = self._client.post(url, body, self._signer.sign("POST", url, self._headers, body, self._now()))
        return await outcomes(call, count, lambda answer: self._read(answer, count))

    async def probe(self) -> Probe:
        """Ask for the account: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_GetAccount.html.

        That needs the permission ses:GetAccount. Without it, AccessDeniedException proves the signature.
        """
        url = f"{self._url}/v2/email/account"
        call = self._client.get(url, self._signer.sign("GET", url, self._headers, b"", self._now()))
        return await probed("GET /v2/email/account", call, self._read_account)

    def _read_account(self, answer: Answer) -> tuple[Outcome, tuple[str, ...]]:
        if error_of(answer)[0] == DENIED:
            return Delivered(), ("the access key lacks ses:GetAccount, so sandbox and quota are not known",)
        outcome, account = self._of_call(answer), answer.json()
        if not isinstance(outcome, Delivered):
            return outcome, ()
        if not isinstance(get(account, "SendingEnabled"), bool):
            return Unknown(Reason.ANSWER_UNCLEAR), ()
        if get(account, "SendingEnabled") is False or get(account, "EnforcementStatus") == "SHUTDOWN":
            return Blocked(Reason.SENDING_PAUSED.of("account")), ()
        return outcome, tuple(_account_notes(account))

    def _read(self, answer: Answer, count: int) -> list[Outcome]:
        outcome = self._of_call(answer)
        found = _of_entries(answer.json(), count) if isinstance(outcome, Delivered) else for_each(outcome, count)
        if count > 1 and all(isinstance(one, Deferred) and one.blame is Blame.PROVIDER for one in found):
            self.max_batch = min(self.max_batch, count // 2)
        return found

    def _envelope(self, mail: Mail) -> dict[str, object]:
        envelope: dict[str, object] = {"FromEmailAddress": mail.sender.encoded()}
        if mail.reply_to:
            envelope["ReplyToAddresses"] = [mail.reply_to.encoded()]
        if self._configuration_set:
            envelope["ConfigurationSetName"] = self._configuration_set
        return envelope

    def _of_call(self, answer: Answer) -> Outcome:
        """Return the outcome of the call as a whole."""
        kind, words = error_of(answer)
        status, wait = answer.status, answer.retry_after(self._now())
        if 400 <= status < 500:  # noqa: PLR2004 - the client's errors
            if kind in THROTTLES and DAILY_QUOTA in words:
                return Blocked(Reason.QUOTA.of(status), wait)
            if kind in THROTTLES:
                return Deferred(Reason.RATE_LIMITED.of(status), wait, Blame.PROVIDER)
            if kind in TIMEOUTS:
                return Deferred(Reason.REQUEST_TIMEOUT.of(status), wait)
            if kind in REFUSALS:
                return Blocked(REFUSALS[kind].of(status), wait)
            if kind == REJECTED and NOT_VERIFIED in words:
                return Blocked(Reason.NOT_VERIFIED.of(status), wait)
        return meaning(status, _about(kind, words) if kind else None, wait)


def _account_notes(account: object) -> Iterator[str]:
    """Yield what an account's state means for sending."""
    if get(account, "ProductionAccessEnabled") is False:
        yield "the account is in the sandbox, so mail goes to verified addresses only"
    if get(account, "EnforcementStatus") == "PROBATION":
        yield "the account is under review"
    quota = get(account, "SendQuota")
    most, sent = get(quota, "Max24HourSend"), get(quota, "SentLast24Hours")
    if isinstance(most, int | float) and isinstance(sent, int | float) and 0 < most <= sent / NEARLY < inf:
        yield f"{sent:.0f} of {most:.0f} mails of the last 24 hours' quota are used"


def _about(kind: str, words: str) -> About:
    """Return what an error is about. REJECTED is about the message, unless its text is about our account."""
    said = about(words)
    return About.MESSAGE if kind == REJECTED and said is About.NOTHING else said


def _json(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def _headers(mail: Mail) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in sorted(mail.headers.items()) if name != "Message-ID"]


def _content(mail: Mail) -> dict[str, object]:
    subject, text, html = ({"Data": data, "Charset": "UTF-8"} for data in (mail.subject, mail.text, mail.html))
    simple = {"Subject": subject, "Body": {"Text": text, "Html": html}, "Headers": _headers(mail)}
    return {"Destination": {"ToAddresses": [mail.to]}, "Content": {"Simple": simple}}


def _entry(mail: Mail) -> dict[str, object]:
    data = {"subject": mail.subject, "text": mail.text, "html": mail.html}
    filled = _json({hole: _inert(value) for hole, value in data.items()}).decode()
    if len(filled) > ENTRY_CHARACTERS:
        raise ValueError(f"a mail of {len(filled)} characters in a call with others")
    return {
        "Destination": {"ToAddresses": [mail.to]},
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": filled}},
        "ReplacementHeaders": _headers(mail),
    }


def _inert(value: str) -> str:
    """Separate braces by an invisible word joiner: how SES reads a ``{{`` inside a value is not documented."""
    return re.sub(r"\{(?=\{)", "{\u2060", value)


def error_of(answer: Answer) -> tuple[str, str]:
    """Return an error's type and its text; an empty type if the answer is not from AWS.

    The type stands between a hash sign and a colon:
    https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html#operation-error-serialization.
    """
    found = answer.json()
    kind = answer.headers.get("x-amzn-errortype") or text(get(found, "__type")) or text(get(found, "code"))
    return kind.partition(":")[0].rpartition("#")[2].strip(), text(get(found, "message")) or text(get(found, "Message"))


def _of_entries(found: object, count: int) -> list[Outcome]:
    """Return the outcome of each mail of a call that succeeded."""
    if count == 1:
        taken = message_id(get(found, "MessageId"))
        return [Delivered(taken) if taken else Unknown(Reason.ANSWER_UNCLEAR)]
    results = get(found, "BulkEmailEntryResults")
    if not isinstance(results, list) or len(results) != count:
        return [Unknown(Reason.ANSWER_UNCLEAR)] * count
    return [_of_entry(result) for result in results]


def _of_entry(result: object) -> Outcome:
    """Return what an entry's status means; an entry that was refused by itself goes alone, by SendEmail."""
    status, words = text(get(result, "Status")), text(get(result, "Error"))
    if status in ENTRY_REFUSALS:
        return Blocked(ENTRY_REFUSALS[status].of("item"))
    match status:
        case "SUCCESS":
            return Delivered(message_id(get(result, "MessageId")))
        case "MESSAGE_REJECTED":
            if NOT_VERIFIED in words:
                return Blocked(Reason.NOT_VERIFIED.of("item"))
            us = about(words) is About.US
            return Blocked(Reason.BLOCKED.of("item")) if us else Rejected(Reason.REJECTED.of("item"))
        case "ACCOUNT_THROTTLED":
            return Deferred(Reason.RATE_LIMITED.of("item"), blame=Blame.PROVIDER)
        case "TRANSIENT_FAILURE":
            return Deferred(Reason.SERVER_ERROR.of("item"))
        case "FAILED" | "INVALID_PARAMETER":
            us = about(words) is About.US
            return Blocked(Reason.BLOCKED.of("item")) if us else Deferred(Reason.REFUSED.of("item"))
        case _:
            return Unknown(Reason.ANSWER_UNCLEAR)
