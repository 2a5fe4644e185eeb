"""What an answer means: by its status, whose answer it is, and what it speaks of. A table, and what holds for any.

Sources, as the rows name them.
"""

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import cache

import httpx
import pytest
import trio
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notifierd.model.message import Mail, Push
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._answers import Answer, for_each, get, meaning, message_id, of_receiver, outcomes, text
from notifierd.send._http import Client
from notifierd.send._words import About
from notifierd.send.open import PROVIDERS
from notifierd.send.route.exchange import Exchange
from tests.send.test_senders import BASE, HTTP, KEY, KINDS

DESIGN = "docs/delivery.md, What an answer means"
RFC = "RFC 9110, section 15; RFC 6585, section 6, for 511"
CLOUDFLARE = "developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/"
RESEND = "resend.com/docs/api-reference/errors"
RESEND_KEYS = "resend.com/docs/dashboard/emails/idempotency-keys"
RESEND_TO = "github.com/resend/resend-python/issues/65"
POSTMARK = "postmarkapp.com/developer/api/overview#error-codes"
POSTMARK_422 = "postmarkapp.com/support/article/troubleshooting-422-unprocessable-entity-errors"
POSTMARK_403 = "postmarkapp.com/support/article/getting-a-403-that-doesnt-look-like-a-postmark-error"
SENDGRID = "twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/errors"
SENDGRID_MAIL = "twilio.com/docs/sendgrid/api-reference/mail-send/errors"
SENDGRID_ALL = "github.com/rubyforgood/casa/pull/231, github.com/sendgrid/sendgrid-php/issues/869"
MAILGUN = "documentation.mailgun.com/docs/mailgun/quickstart-guide/responses"
MAILGUN_420 = "github.com/mailgun/mailgun-java/issues/50"
MAILGUN_SANDBOX = "github.com/googleapis/google-api-php-client/issues/1539"
MAILGUN_FREE = "github.com/mailgun/wordpress-plugin/issues/68"
SES = "docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html"
SES_COMMON = "docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html"
SES_TEXTS = "docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html"
SES_QUOTAS = "docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html"
AWS_RETRIES = "github.com/boto/botocore/blob/develop/botocore/retries/standard.py"
GMAIL = "developers.google.com/gmail/api/guides/handle-errors"


MAILS = [name for name in HTTP if name in PROVIDERS]
"""The providers of mails over HTTP."""


@frozen
class Row:
    """An answer to a call with *count* messages, and what it means for each of them; *source* says why."""

    provider: str
    status: int
    body: bytes
    outcome: Outcome
    source: str
    headers: tuple[tuple[str, str], ...] = ()
    count: int = 1


def unclear(status: int) -> Rejected:
    """Rejected in words that name neither the message nor its address."""
    return Rejected(f"rejected:{status}", Blame.UNCLEAR)


def rejected(status: int) -> Rejected:
    return Rejected(f"rejected:{status}")


def blocked(status: int) -> Blocked:
    return Blocked(f"blocked:{status}")


def quota(status: int) -> Blocked:
    return Blocked(f"quota:{status}")


def limited(status: int, wait: float | None = None) -> Deferred:
    return Deferred(f"rate_limited:{status}", wait, Blame.PROVIDER)


def unexpected(status: int) -> Deferred:
    return Deferred(f"unexpected:{status}", blame=Blame.PATH)


def trouble(status: int) -> Deferred:
    return Deferred(f"server_error:{status}")


def lost(status: int) -> Unknown:
    return Unknown(f"server_error:{status}")


# What is no provider's answer ----------------------------------------------------------------------------------------

FOREIGN_BODIES = (
    b"",
    b"<!DOCTYPE html><html><title>Access denied: your API key</title><p>to taro1@example.jp</html>",
    b'{"detail": "invalid recipient taro1@example.jp"}',
    b"blocked by policy: recipient",
    b"[]",
    b'"x"',
    b"[" * 5000,
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b"\x00\xff\xfe",
)


def foreign(status: int) -> Outcome:
    """What a status means in an answer that is not the provider's own."""
    match status:
        case 401 | 402 | 403 | 407 | 451:
            return blocked(status)
        case 408:
            return Deferred("request_timeout:408", blame=Blame.PATH)
        case 425:
            return Deferred("too_early:425", blame=Blame.PATH)
        case 420 | 429:
            return limited(status)
        case 500 | 501 | 503 | 505 | 521 | 523 | 525 | 526:
            return Deferred(f"server_error:{status}", blame=Blame.PATH)
        case _ if status < 500 or status == 511:
            return Deferred(f"not_the_provider:{status}", blame=Blame.PATH)
        case _:
            return Unknown(f"server_error:{status}")


# What the providers say ----------------------------------------------------------------------------------------------


def resend(status: int, name: str, message: str, outcome: Outcome, source: str = RESEND, count: int = 1) -> Row:
    body = json.dumps({"statusCode": status, "name": name, "message": message}).encode()
    return Row("resend", status, body, outcome, source, count=count)


def postmark(status: int, code: int, message: str, outcome: Outcome, source: str = POSTMARK, count: int = 1) -> Row:
    body = json.dumps({"ErrorCode": code, "Message": message}).encode()
    return Row("postmark", status, body, outcome, source, count=count)


def sendgrid(status: int, field: str | None, message: str, outcome: Outcome, source: str = SENDGRID_MAIL) -> Row:
    body = json.dumps({"errors": [{"message": message, "field": field, "help": None}]}).encode()
    return Row("sendgrid", status, body, outcome, source)


def sendgrid_all(status: int, fields: Sequence[str], outcome: Outcome, source: str = SENDGRID_ALL) -> Row:
    """An answer with an error for each of *fields*."""
    errors = [{"message": "is not valid", "field": field, "help": None} for field in fields]
    return Row("sendgrid", status, json.dumps({"errors": errors}).encode(), outcome, source)


def mailgun(status: int, message: str, outcome: Outcome, source: str = MAILGUN) -> Row:
    return Row("mailgun", status, json.dumps({"message": message}).encode(), outcome, source)


def ses(status: int, kind: str, message: str, outcome: Outcome, source: str = SES, count: int = 1) -> Row:
    headers = (("x-amzn-ErrorType", f"{kind}:http://internal.amazon.com/"), ("x-amzn-RequestId", "0"))
    return Row("ses", status, json.dumps({"message": message}).encode(), outcome, source, headers, count)


def gmail(status: int, reason: str, message: str, outcome: Outcome, source: str = GMAIL) -> Row:
    errors = [{"domain": "global", "reason": reason, "message": message}]
    body = json.dumps({"error": {"code": status, "message": message, "errors": errors}}).encode()
    return Row("gmail", status, body, outcome, source)


TO = "Invalid `to` field. The email address needs to follow the `a@example.com` or `Name <a@example.com>` format."
FROM = TO.replace("`to`", "`from`")
AUTHORIZED = "add the address to authorized recipients in Account Settings."
UNTIL = "Domain mg.example.jp is not allowed to send: recipient limit exceeded, try again after"

OWN = (
    # Resend
    resend(400, "validation_error", "API key is invalid", blocked(400)),
    resend(401, "validation_error", "API key is invalid", blocked(401)),
    resend(401, "missing_api_key", "Missing API key in the authorization header.", blocked(401)),
    resend(401, "restricted_api_key", "This API key is restricted to only send emails.", blocked(401)),
    resend(403, "invalid_api_key", "API key is invalid.", blocked(403)),
    resend(400, "INVALID_API_KEY", "no", blocked(400)),
    resend(400, "expired_api_key", "no", blocked(400), DESIGN),
    resend(422, "invalid_to_address", "no", rejected(422), "github.com/resend/resend-php/pull/32"),
    resend(400, "suspended_api_key", "", blocked(400)),
    resend(422, "validation_error", "The API-KEY was revoked", blocked(422)),
    resend(403, "validation_error", "The example.jp domain is not verified. Please, add and verify it.", blocked(403)),
    resend(400, "validation_error", "The example.jp domain is not verified.", blocked(400)),
    resend(400, "validation_error", "Your account has been suspended", blocked(400)),
    resend(500, "application_error", "Your account has been suspended", blocked(500)),
    resend(422, "invalid_from_address", FROM, blocked(422)),
    resend(422, "validation_error", FROM, blocked(422)),
    resend(422, "validation_error", "Invalid `reply_to` field.", blocked(422)),
    resend(422, "validation_error", TO, rejected(422), RESEND_TO),
    resend(422, "missing_required_field", "Missing `to` field.", rejected(422)),
    resend(422, "missing_required_field", "Missing `subject` field.", unclear(422)),
    resend(422, "validation_error", "Invalid `to` field: 'api-key-invalid@example.jp'", rejected(422), DESIGN),
    resend(400, "validation_error", "account.suspended@api-key.example.jp is odd", unclear(400), DESIGN),
    resend(400, "validation_error", "We found an error with one or more fields in the request.", unclear(400)),
    resend(413, "validation_error", "The request is too large", unclear(413)),
    resend(400, "invalid_idempotency_key", "The key must be between 1-256 chars.", blocked(400), RESEND_KEYS),
    resend(404, "not_found", "The requested endpoint does not exist.", blocked(404)),
    resend(405, "method_not_allowed", "This endpoint does not support this method.", blocked(405)),
    resend(409, "invalid_idempotent_request", "", Unknown("key_conflict:409", key_usable=False), RESEND_KEYS),
    resend(409, "concurrent_idempotent_requests", "", Unknown("in_progress:409", 2.0), RESEND_KEYS),
    resend(409, "resource_locked", "The resource is locked.", unexpected(409), DESIGN),
    resend(409, "conflict", "", unexpected(409), DESIGN),
    resend(429, "rate_limit_exceeded", "Too many requests. You can only make 2 requests per second.", limited(429)),
    resend(429, "rate_limit_exceeded", "Your account has exceeded its rate limit.", limited(429), DESIGN),
    resend(429, "daily_quota_exceeded", "You have reached your daily email sending quota.", quota(429)),
    resend(429, "monthly_quota_exceeded", "You have reached your monthly email sending quota.", quota(429)),
    resend(403, "daily_quota_exceeded", "You have reached your daily email sending quota.", blocked(403)),
    resend(451, "security_error", "We may have found a security issue with the request.", blocked(451)),
    resend(408, "application_error", "timeout", Deferred("request_timeout:408"), RFC),
    resend(425, "application_error", "early", Deferred("too_early:425"), RFC),
    resend(418, "application_error", "teapot", unexpected(418), DESIGN),
    resend(302, "application_error", "elsewhere", unexpected(302), DESIGN),
    resend(500, "internal_server_error", "An unexpected error occurred.", trouble(500)),
    resend(503, "application_error", "later", trouble(503)),
    resend(502, "application_error", "Your account has been suspended", lost(502), DESIGN),
    resend(504, "application_error", "", lost(504), DESIGN),
    # Postmark
    postmark(401, 10, "No Account or Server API tokens were supplied in the HTTP headers.", blocked(401)),
    postmark(422, 10, "Bad or missing API token.", Blocked("blocked:422:10")),
    postmark(422, 300, "Invalid 'To' address: 'taro1@example'.", Rejected("rejected:422:300")),
    postmark(
        422,
        300,
        "Invalid 'From' address: 'a@b.jp' is not a verified sender signature.",
        Blocked("blocked:422:300"),
        POSTMARK_422,
    ),
    postmark(422, 300, "Zero recipients specified", Rejected("rejected:422:300")),
    postmark(422, 300, "Invalid email request", Rejected("rejected:422:300", Blame.UNCLEAR)),
    postmark(
        422,
        400,
        "The 'From' address you supplied is not a Sender Signature on your account.",
        Blocked("blocked:422:400"),
    ),
    postmark(422, 401, "Sender signature not confirmed", Blocked("blocked:422:401")),
    postmark(422, 402, "Invalid JSON", Deferred("refused:422:402")),
    postmark(422, 405, "Not allowed to send", Blocked("blocked:422:405")),
    postmark(
        422, 406, "You tried to send to recipient(s) that have been marked as inactive.", Rejected("rejected:422:406")
    ),
    postmark(422, 412, "Your account is pending approval", Blocked("blocked:422:412")),
    postmark(422, 413, "Account may not send", Blocked("blocked:422:413")),
    postmark(422, 100, "Maintenance", Deferred("maintenance:422:100", blame=Blame.PROVIDER)),
    postmark(422, 429, "Rate limit exceeded", Deferred("rate_limited:422:429", blame=Blame.PROVIDER)),
    postmark(422, 1235, "The message stream does not exist", Blocked("blocked:422:1235")),
    postmark(422, 7777, "Your account was suspended", Blocked("blocked:422:7777"), DESIGN),
    postmark(422, 7777, "Something new", Deferred("refused:422:7777"), DESIGN),
    postmark(422, 10**30, "Something huge", Deferred("not_the_provider:422", blame=Blame.PATH), DESIGN),
    postmark(400, 0, "", unclear(400), DESIGN),
    postmark(400, 10, "", blocked(400), DESIGN),
    postmark(404, 0, "", blocked(404)),
    postmark(405, 0, "", blocked(405)),
    postmark(415, 0, "", blocked(415)),
    postmark(413, 0, "too large", unclear(413)),
    postmark(409, 0, "conflict", unexpected(409), DESIGN),
    postmark(429, 0, "slower", limited(429)),
    postmark(500, 0, "", trouble(500)),
    postmark(503, 100, "Maintenance", trouble(503)),
    postmark(504, 10, "", lost(504), DESIGN),
    Row("postmark", 403, b"<html><title>403 Forbidden</title></html>", blocked(403), POSTMARK_403),
    # SendGrid
    sendgrid(400, "personalizations.0.to.0.email", "Does not contain a valid address.", rejected(400)),
    sendgrid(400, "personalizations", "Each address in the personalization block should be unique", unclear(400)),
    sendgrid(400, "personalizations.0.to", "The to array is required.", rejected(400)),
    sendgrid(400, "personalizations", "The personalizations field is required.", unclear(400)),
    sendgrid(400, "personalizations.0", "Invalid type. Expected: object, given: null.", unclear(400)),
    sendgrid(400, "personalizations.0.from.email", "The from email is odd.", blocked(400)),
    sendgrid(400, "personalizations.0.headers", "The headers are odd.", unclear(400)),
    sendgrid_all(400, ("from.email", "personalizations", "content"), blocked(400)),
    sendgrid_all(400, ("personalizations.0.to.0.email", "content.0.value"), rejected(400)),
    sendgrid_all(400, ("personalizations.0.to.0.email", "from.email"), blocked(400)),
    sendgrid(400, "from.email", "The from email does not contain a valid address.", blocked(400)),
    sendgrid(400, "from", "The from object must be provided.", blocked(400)),
    sendgrid(400, "reply_to.email", "The reply_to email does not contain a valid address.", blocked(400)),
    sendgrid(400, "content.0.value", "The content value must be a string at least one character long.", unclear(400)),
    sendgrid(400, "subject", "The subject is required.", unclear(400)),
    sendgrid(400, None, "Bad Request", unclear(400)),
    sendgrid(400, None, "The from address does not match a verified Sender Identity.", blocked(400)),
    sendgrid(400, None, "Invalid JSON: Unexpected token < at position 0", unclear(400)),
    sendgrid(400, None, "Maximum credits exceeded", quota(400)),
    sendgrid(401, None, "Maximum credits exceeded", blocked(401)),
    sendgrid(401, None, "The provided authorization grant is invalid, expired, or revoked", blocked(401)),
    sendgrid(400, None, "authorization required", blocked(400)),
    sendgrid(403, "from", "The from address does not match a verified Sender Identity.", blocked(403)),
    sendgrid(404, None, "not found", blocked(404), SENDGRID),
    sendgrid(405, None, "method not allowed", blocked(405), SENDGRID),
    sendgrid(406, None, "missing accept header", blocked(406), SENDGRID),
    sendgrid(413, None, "payload too large", unclear(413), SENDGRID),
    sendgrid(415, None, "unsupported media type", unexpected(415), SENDGRID),
    sendgrid(429, None, "too many requests", limited(429), SENDGRID),
    sendgrid(451, None, "region", blocked(451), SENDGRID),
    sendgrid(500, None, "internal", trouble(500), SENDGRID),
    sendgrid(503, None, "unavailable", trouble(503), SENDGRID),
    sendgrid(504, None, "timeout", lost(504), SENDGRID),
    Row("sendgrid", 202, b"", Delivered("id-1"), SENDGRID_MAIL, (("X-Message-Id", "id-1"),)),
    Row("sendgrid", 200, b"{}", Unknown("answer_unclear"), SENDGRID_MAIL),
    # Mailgun
    mailgun(400, "to parameter is not a valid address. please check documentation", rejected(400)),
    mailgun(400, "'to' parameter is not a valid address. please check documentation", rejected(400)),
    mailgun(400, "'from' parameter is not a valid address. please check documentation", blocked(400)),
    mailgun(400, "from parameter is missing", blocked(400)),
    mailgun(400, "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified", unclear(400)),
    mailgun(400, "Domain x.jp is not allowed to send: The domain is unverified", blocked(400)),
    mailgun(400, "Domain x.jp is not allowed to send: Please activate your Mailgun account", blocked(400)),
    mailgun(400, f"Sandbox subdomains are for test purposes only. Please {AUTHORIZED}", blocked(400), MAILGUN_SANDBOX),
    mailgun(400, f"Free accounts are restricted. Please {AUTHORIZED}", blocked(400), MAILGUN_FREE),
    mailgun(400, "Free accounts are for test purposes only. Please upgrade.", blocked(400), MAILGUN_FREE),
    mailgun(401, "Invalid private key", blocked(401)),
    Row("mailgun", 401, b"Forbidden", blocked(401), MAILGUN),
    mailgun(402, "Request Failed", blocked(402)),
    mailgun(403, "Domain x.jp is not allowed to send large batches yet", blocked(403)),
    mailgun(404, "Domain not found: x.jp", blocked(404)),
    mailgun(405, "Method not allowed", blocked(405)),
    mailgun(413, "Request entity too large", unclear(413)),
    mailgun(420, f"{UNTIL} Tue, 24 Nov 2026 00:01:30 UTC", limited(420, 90.0), MAILGUN_420),
    mailgun(420, f"{UNTIL} 120 seconds", limited(420, 120.0), MAILGUN_420),
    mailgun(420, f"{UNTIL} 40 minutes", limited(420, 2400.0), MAILGUN_420),
    mailgun(429, "Too many requests, try again in 2 hours.", limited(429, 7200.0), MAILGUN_420),
    mailgun(400, f"{UNTIL} 1 minute", limited(400, 60.0), DESIGN),
    mailgun(429, "Too many requests", limited(429)),
    mailgun(409, "conflict", unexpected(409), DESIGN),
    mailgun(500, "Internal Server Error", trouble(500)),
    mailgun(503, "later", trouble(503)),
    mailgun(502, "bad gateway", lost(502)),
    mailgun(200, "Queued. Thank you.", Unknown("answer_unclear"), DESIGN),
    # Amazon SES
    ses(
        400,
        "MessageRejected",
        "Email address is not verified. The following identities failed",
        Blocked("not_verified:400"),
        SES_TEXTS,
    ),
    ses(400, "MessageRejected", "Transaction failed: contains a virus", rejected(400)),
    ses(400, "MessageRejected", "Sending suspended for this account", blocked(400), SES_TEXTS),
    ses(400, "BadRequestException", "Illegal address", unclear(400)),
    ses(400, "BadRequestException", "Missing final '@domain'", unclear(400)),
    ses(400, "BadRequestException", "Recipient address is not valid", rejected(400), DESIGN),
    ses(400, "AccountSuspendedException", "", Blocked("suspended:400")),
    ses(400, "SendingPausedException", "", Blocked("sending_paused:400")),
    ses(400, "MailFromDomainNotVerifiedException", "", Blocked("not_verified:400")),
    ses(404, "NotFoundException", "Configuration set <x> does not exist.", Blocked("not_found:404")),
    ses(400, "LimitExceededException", "", limited(400)),
    ses(429, "TooManyRequestsException", "", limited(429)),
    ses(400, "ThrottlingException", "Maximum sending rate exceeded.", limited(400), SES_QUOTAS),
    ses(400, "ThrottlingException", "Daily message quota exceeded.", quota(400), SES_QUOTAS),
    ses(403, "SignatureDoesNotMatch", "", blocked(403), SES_COMMON),
    ses(
        403,
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        blocked(403),
        SES_COMMON,
    ),
    ses(
        400, "ExpiredTokenException", "The security token included in the request is expired", blocked(400), SES_COMMON
    ),
    ses(400, "AccessDeniedException", "", Blocked("access_denied:400"), SES_COMMON),
    ses(400, "IncompleteSignature", "", Blocked("bad_signature:400"), SES_COMMON),
    ses(400, "Throttling", "Maximum sending rate exceeded.", limited(400), AWS_RETRIES),
    ses(400, "Throttling", "Daily message quota exceeded.", quota(400), AWS_RETRIES),
    ses(400, "ThrottledException", "Rate exceeded", limited(400), AWS_RETRIES),
    ses(400, "RequestLimitExceeded", "Request limit exceeded", limited(400), AWS_RETRIES),
    ses(400, "RequestTimeoutException", "", Deferred("request_timeout:400"), AWS_RETRIES),
    ses(400, "RequestTimeout", "", Deferred("request_timeout:400"), AWS_RETRIES),
    ses(400, "RequestExpired", "", Blocked("clock_wrong:400"), SES_COMMON),
    ses(400, "ValidationError", "1 validation error detected", unclear(400), SES_COMMON),
    ses(413, "RequestEntityTooLargeException", "Request size exceeded", unclear(413)),
    ses(418, "NewException", "", unexpected(418), DESIGN),
    ses(500, "InternalFailure", "", trouble(500), SES_COMMON),
    ses(503, "ServiceUnavailable", "", trouble(503), SES_COMMON),
    ses(504, "InternalFailure", "", lost(504), DESIGN),
    Row("ses", 400, b'{"__type": "com.amazonaws.sesv2#SendingPausedException"}', Blocked("sending_paused:400"), SES),
    # Gmail
    gmail(400, "invalidArgument", "Invalid To header", rejected(400)),
    gmail(400, "invalidArgument", "Recipient address required", rejected(400)),
    gmail(400, "invalidArgument", "Invalid From header", blocked(400)),
    gmail(400, "badRequest", "Bad Request", unclear(400)),
    gmail(400, "failedPrecondition", "Mail service not enabled", blocked(400)),
    gmail(403, "rateLimitExceeded", "Rate Limit Exceeded", limited(403)),
    gmail(403, "userRateLimitExceeded", "User Rate Limit Exceeded", limited(403)),
    gmail(429, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries' per minute per user", limited(429)),
    gmail(429, "rateLimitExceeded", "User-rate limit exceeded. (Mail sending)", quota(429)),
    gmail(403, "dailyLimitExceeded", "Daily Limit Exceeded", quota(403)),
    gmail(403, "domainPolicy", "disabled by the domain's administrators", blocked(403)),
    gmail(403, "insufficientPermissions", "Insufficient Permission", blocked(403)),
    gmail(400, "unknown", "Request had insufficient authentication scopes.", blocked(400)),
    gmail(401, "authError", "Invalid Credentials", blocked(401)),
    gmail(404, "notFound", "Not Found", blocked(404)),
    gmail(413, "uploadTooLarge", "Request too large", unclear(413)),
    gmail(409, "conflict", "Conflict", unexpected(409), DESIGN),
    gmail(500, "backendError", "Backend Error", trouble(500)),
    gmail(503, "backendError", "Backend Error", trouble(503)),
    gmail(502, "backendError", "Backend Error", lost(502), DESIGN),
    gmail(504, "backendError", "Backend Error", lost(504)),
)

BATCHES = (
    resend(400, "validation_error", "API key is invalid", blocked(400), count=3),
    resend(400, "validation_error", "no", Deferred("batch_rejected:400"), DESIGN, count=3),
    resend(422, "validation_error", TO, Deferred("batch_rejected:422", blame=Blame.MESSAGE), RESEND_TO, count=3),
    resend(413, "validation_error", "too large", Deferred("batch_rejected:413"), DESIGN, count=3),
    postmark(422, 300, "Invalid 'To' address", Deferred("batch_rejected:422:300", blame=Blame.MESSAGE), count=3),
    postmark(422, 300, "no", Deferred("batch_rejected:422:300"), DESIGN, count=3),
    postmark(413, 0, "too large", Deferred("batch_rejected:413"), DESIGN, count=3),
    ses(400, "BadRequestException", "Illegal address", Deferred("batch_rejected:400"), DESIGN, count=3),
    ses(400, "MessageRejected", "a virus", Deferred("batch_rejected:400", blame=Blame.MESSAGE), count=3),
)


# How they are asked --------------------------------------------------------------------------------------------------


class Raw(httpx.AsyncByteStream):
    """A body as it is, whatever its headers say."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


Headers = Sequence[tuple[str | bytes, str | bytes]]


class Asked:
    """A sender, and what its next call is answered."""

    def __init__(self, name: str) -> None:
        self.kind, self.answer = KINDS[name], httpx.Response(200)
        self.sender = self.kind.make(Client(lambda: Exchange(httpx.MockTransport(lambda _: self.answer))), BASE)
        self.calls = {count: self._call(count) for count in ((1, 3) if self.sender.max_batch > 1 else (1,))}

    def _call(self, count: int) -> tuple[Sequence[Mail | Push], bytes]:
        messages = self.kind.messages(count, BASE)
        return messages, self.sender.encode(messages)


asked = cache(Asked)


async def ask(name: str, status: int, headers: Headers, body: bytes, count: int = 1) -> list[Outcome]:
    """Have the sender called *name* make a call, and answer it so."""
    one = asked(name)
    one.answer = httpx.Response(status, headers=list(headers), stream=Raw(body))  # type: ignore[arg-type]
    return await one.sender.send(*one.calls[count], KEY)


def test_the_table_has_answers_of_each_provider() -> None:
    """Beside 300 statuses with nine bodies that are nobody's own."""
    assert min(sum(row.provider == name for row in OWN) for name in MAILS) >= 20
    assert {row.provider for row in BATCHES} == {"postmark", "resend", "ses"}


ROWS = [pytest.param(row, id=f"{n}-{row.provider}-{row.status}") for n, row in enumerate((*OWN, *BATCHES))]


@pytest.mark.parametrize("row", ROWS)
async def test_an_answer_of_a_providers_own_means_what_it_says(row: Row) -> None:
    assert await ask(row.provider, row.status, row.headers, row.body, row.count) == [row.outcome] * row.count


@pytest.mark.parametrize("name", MAILS)
async def test_an_answer_of_anybody_else_fails_nobody(name: str) -> None:
    """A page, nothing, other people's JSON, with any status that is no success: by the status, and never Rejected."""
    for status in range(300, 600):
        for body in FOREIGN_BODIES[:3] if status % 10 else FOREIGN_BODIES:
            assert await ask(name, status, [], body) == [foreign(status)], (status, body[:40])


@pytest.mark.parametrize("name", [name for name in MAILS if name != "sendgrid"])
async def test_a_success_that_names_no_mail_is_in_doubt(name: str) -> None:
    """The request may have passed through whatever wrote a page with 200."""
    for status in (200, 201, 202, 204, 226, 299):
        for body in FOREIGN_BODIES:
            assert await ask(name, status, [], body) == [Unknown("answer_unclear")]


# What the answers of all providers have in common ---------------------------------------------------------------------


def own(status: int, said: About, wait: float) -> Outcome:
    """What a status means in an answer that is the provider's own, and asks to wait."""
    match status, said:
        case (_, _) if 200 <= status < 300:
            return Delivered()
        case 401 | 402 | 403 | 407 | 451, _:
            return Blocked(f"blocked:{status}", wait)
        case 420 | 429, About.MESSAGE | About.US | About.NOTHING:
            return limited(status, wait)
        case 408, _:
            return Deferred("request_timeout:408", wait)
        case 425, _:
            return Deferred("too_early:425", wait)
        case _, About.US | About.QUOTA if 300 <= status < 500 or status in {500, 503}:
            return Blocked(f"{'quota' if said is About.QUOTA else 'blocked'}:{status}", wait)
        case 500 | 503, _:
            return Deferred(f"server_error:{status}", wait)
        case 400 | 413 | 422, _:
            return rejected(status) if said is About.MESSAGE else unclear(status)
        case (_, _) if 300 <= status < 500:
            return Deferred(f"unexpected:{status}", wait, Blame.PATH)
        case 501 | 505, _:
            return Deferred(f"server_error:{status}", wait, Blame.PATH)
        case 511, _:
            return Deferred("not_the_provider:511", wait, Blame.PATH)
        case _:
            return Unknown(f"server_error:{status}", wait)


@pytest.mark.parametrize("said", About)
def test_an_answer_of_the_providers_own_means_what_its_status_and_its_words_say(said: About) -> None:
    for status in range(100, 600):
        assert meaning(status, said, 7.0) == own(status, said, 7.0), status


def test_a_wait_that_is_asked_for_is_kept_whoever_wrote_the_answer() -> None:
    for status in range(300, 600):
        without = foreign(status)
        assert isinstance(without, Deferred | Blocked | Unknown)
        assert meaning(status, None, 7.0) == evolve(without, retry_after=7.0), status
    assert meaning(299, None, 7.0) == Delivered()
    assert meaning(199, None, 7.0) == Unknown("server_error:199", 7.0)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("refusal", [rejected(422), unclear(400)])
def test_of_several_messages_each_goes_alone_after_a_refusal_and_a_single_one_is_refused(
    refusal: Rejected, count: int
) -> None:
    assert for_each(refusal, count) == [Deferred(f"batch_{refusal.reason}", blame=refusal.blame)] * count
    assert for_each(refusal, 1) == [refusal]
    assert for_each(blocked(401), count) == [blocked(401)] * count


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "utf-16"])
def test_names_and_codes_are_read_in_any_charset(charset: str) -> None:
    found = Answer(400, {}, '{"code": 300, "message": "Empfänger"}'.encode(charset)).json()
    assert get(found, "code") == 300
    assert text(get(found, "message")).startswith("Empf")


def test_the_answer_of_a_webhook_speaks_of_the_post() -> None:
    """There is no provider whose answers have a shape: any 3xx or 4xx but a plea to wait is the receiver's."""
    now = datetime(2026, 11, 24, tzinfo=UTC)
    for status in range(200, 600):
        expected = foreign(status) if status >= 300 else Delivered()
        if expected == Deferred(f"not_the_provider:{status}", blame=Blame.PATH):
            expected = rejected(status)
        assert of_receiver(Answer(status, {}), now) == expected, status
    assert of_receiver(Answer(503, {"retry-after": "Tue, 24 Nov 2026 00:01:30 GMT"}), now) == Deferred(
        "server_error:503", 90.0, Blame.PATH
    )


@pytest.mark.parametrize(
    "found", ["", "x" * 201, "a b", "a\nb", "\x7f", "\xe4", "\u9023\u7d61", None, 7, ["x"], {"id": "x"}, True]
)
def test_what_the_ledger_cannot_hold_is_no_id_of_a_message(found: object) -> None:
    assert message_id(found) is None
    assert message_id("x" * 200) == "x" * 200
    assert message_id("<a~!@b>") == "<a~!@b>"


async def test_the_error_of_who_reads_an_answer_is_logged_without_its_text_and_leaves_the_messages_in_doubt() -> None:
    async def call() -> Answer:
        return Answer(200, {})

    def read(_answer: Answer) -> Sequence[Outcome]:
        raise ValueError("taro1@example.jp")

    with capture_logs() as lines:
        assert await outcomes(call(), 2, read) == [Unknown("answer_unclear")] * 2
    (line,) = lines
    assert (line["event"], line["error"], line["log_level"]) == ("answer_unreadable", "ValueError", "error")
    assert any("test_answers" in place for place in line["where"])
    assert "taro1" not in str(line)


# What stands in front of a provider -----------------------------------------------------------------------------------

ADDED = (
    ("Via", "1.1 proxy.example.jp (squid/5.7)"),
    ("Server", "cloudflare"),
    ("CF-Ray", "8e6f-NRT"),
    ("X-Cache", "MISS from firewall"),
    ("Set-Cookie", "session=1"),
    ("Location", "https://example.jp/"),
    ("Content-Type", "text/html"),
    ("content-TYPE", 'application/json; charset="ISO-8859-1"'),
    ("CONTENT-LANGUAGE", "ja"),
)


def packed(body: bytes, codings: Sequence[str]) -> bytes:
    """*body* in *codings*, the first one innermost."""
    for coding in codings:
        if coding == "raw":
            engine = zlib.compressobj(wbits=-15)
            body = engine.compress(body) + engine.flush()
        else:
            body = gzip.compress(body, mtime=0) if coding.lower().endswith("gzip") else zlib.compress(body)
    return body


def named(codings: Sequence[str]) -> str:
    """What Content-Encoding says of them."""
    return ", ".join("deflate" if coding == "raw" else coding for coding in codings)


@settings(max_examples=300)
@given(
    st.sampled_from([row for row in (*OWN, *BATCHES) if row.body]),
    st.lists(st.sampled_from(ADDED), max_size=4),
    st.lists(st.sampled_from(["gzip", "deflate", "raw", "x-gzip", "GZIP"]), max_size=3),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from([b"", b"\r\n \t"]),
    st.binary(max_size=12),
)
def test_what_stands_in_front_of_a_provider_changes_no_answer(
    row: Row, added: list[tuple[str, str]], codings: list[str], mark: bytes, space: bytes, junk: bytes
) -> None:
    """Headers, charsets, white space, a byte order mark, compression, and what follows a compressed body."""
    headers = [*added, *((name.swapcase(), value) for name, value in row.headers)]
    is_json = row.body.startswith(b"{")
    body = packed(mark + space + row.body + space if is_json else row.body, codings)
    if codings:
        headers.append(("Content-Encoding", named(codings)))
        body += junk if codings[-1] in {"gzip", "GZIP", "x-gzip"} and not junk.startswith(b"\x1f") else b""
    found = trio.run(ask, row.provider, row.status, headers, body, row.count)
    assert found == [row.outcome] * row.count


# Anything at all ------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("errors", "error", "message", "Message", "name", "statusCode", "ErrorCode", "MessageID", "id", "data"),
        *("index", "field", "code", "__type", "reason", "Status", "Error", "BulkEmailEntryResults", "SUCCESS"),
        *("validation_error", "API key is invalid", "Invalid `to` field", "try again after 120 seconds"),
        *("try again after Tue, 24 Nov 2026 00:00:99999999999 GMT", "\x00", "\ud800", "\U0001f468", "MESSAGE_REJECTED"),
    ]
)
NUMBERS = st.one_of(
    st.integers(-3, 500), st.sampled_from([10**400, -(10**40), float("nan"), float("inf"), 1e308, 0.0, -0.0])
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda found: json.dumps(found).encode()),
    JSON.map(lambda found: json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [*(row.body for row in OWN), *FOREIGN_BODIES, b"9" * 10_000, b'{"ErrorCode":' + b"9" * 5000 + b"}"]
    ),
)
VALUES = st.one_of(
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
    st.from_regex(r"\A\w{3}, \d{1,12} \w{3} \d{1,12} \d\d:\d\d:\d{1,12} ([+-]\d{1,30}|GMT)\Z").map(str.encode),
    st.sampled_from([b"gzip", b"gzip, gzip", b"br", b"deflate", b"nan", b"-inf", b"9" * 10_000, b"\xff" * 9]),
)
NAMES = st.sampled_from(
    [
        *(b"Retry-After", b"X-RateLimit-Reset", b"Content-Encoding", b"Content-Type", b"x-amzn-ErrorType"),
        *(b"X-Message-Id", b"X-WNS-NotificationStatus", b"Location", b"X-\xe4"),
    ]
)
STATUSES = st.integers(100, 599) | st.sampled_from([101, 200, 202, 204, 205, 304, 400, 409, 420, 422, 429, 503])


@pytest.mark.parametrize("name", HTTP)
def test_no_answer_raises_and_each_gives_one_outcome_for_each_message(name: str) -> None:
    """Nor does the one reader of answers have anything to catch."""

    @given(STATUSES, st.lists(st.tuples(NAMES, VALUES), max_size=4), BODIES, st.sampled_from([1, 1, 3]))
    @settings(max_examples=150)
    def any_answer(status: int, headers: list[tuple[bytes, bytes]], body: bytes, count: int) -> None:
        count = count if name in {"postmark", "resend", "ses"} else 1
        with capture_logs() as lines:
            found = trio.run(ask, name, status, headers, body, count)
        assert len(found) == count
        assert all(isinstance(outcome, Outcome) for outcome in found)
        assert lines == []
        for outcome in found:
            wait = getattr(outcome, "retry_after", None)
            assert wait is None or 0 <= wait <= 86_400
            if not isinstance(outcome, Delivered):
                assert len(outcome.reason) < 60
                assert outcome.reason.isascii()

    any_answer()


ODD_WAITS = {
    "Tue, 24 Nov 2026 00:00:99999999999 GMT": None,
    "Tue, 24 Nov 20261111111 00:00:00 GMT": None,
    "Tue, 24 Nov 2026 00:00:00 +99999999999999999999": None,
    "9" * 10_000: None,
    "1e999": 86_400.0,
    "-1e999": 0.0,
    "nan": None,
    "5, 5": 5.0,
}


@pytest.mark.parametrize("name", HTTP)
@pytest.mark.parametrize(("value", "wait"), ODD_WAITS.items(), ids=range(len(ODD_WAITS)))
async def test_an_odd_wait_takes_nothing_from_an_answer(name: str, value: str, wait: float | None) -> None:
    (outcome,) = await ask(name, 503, [("Retry-After", value)], b"")
    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == wait
