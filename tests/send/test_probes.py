"""The calls that prove a key and send nothing, over real HTTP: what a provider is asked, and what its answers mean."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen
from hypothesis import given, settings
from structlog.testing import capture_logs

from notifierd.config.providers import PostmarkSettings
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Unknown
from notifierd.send import Provable, Sender
from notifierd.send._http import Client, open_client
from notifierd.send.mail.gmail import Gmail
from notifierd.send.mail.postmark import TEST_TOKEN, Postmark
from notifierd.send.open import PROVIDERS
from tests.send.test_answers import BODIES, STATUSES
from tests.send.test_senders import KINDS, NOW, SECRET
from tests.support.google_api import gmail_settings
from tests.support.loopback import answering, serving


@frozen
class Row:
    """An answer to a provider's probe, and what it means.

    Attributes:
        found: the answer's body, as JSON if it is no text.
        headers: of the answer.
    """

    provider: str
    status: int
    found: object
    outcome: Outcome
    notes: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}


ASKED = {
    "postmark": (b"GET /server HTTP/1.1", b"x-postmark-server-token: ", b""),
    "resend": (b"GET /domains HTTP/1.1", b"authorization: bearer ", b""),
    "sendgrid": (b"GET /v3/scopes HTTP/1.1", b"authorization: bearer ", b""),
    "mailgun": (b"POST /v3/mg.example.jp/messages HTTP/1.1", b"authorization: basic ", b"o:testmode=yes"),
    "ses": (b"GET /v2/email/account HTTP/1.1", b"authorization: aws4-hmac-sha256 credential=a/", b""),
    "gmail": (b"POST /token HTTP/1.1", b"content-type: application/x-www-form-urlencoded", None),
}
"""What each is asked: the request line, the header with the key, and the body."""

OVER_HTTP = sorted(PROVIDERS.keys() - {"smtp"})
"""All but a mail server: test_smtp.py tests its login."""

ACCOUNT = {
    "EnforcementStatus": "HEALTHY",
    "ProductionAccessEnabled": True,
    "SendingEnabled": True,
    "SendQuota": {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 25.0},
}
SANDBOX = "the account is in the sandbox, so mail goes to verified addresses only"
NO_DOMAIN = "no domain is verified, so mail goes to the account's own address only"

ROWS = [
    Row("postmark", 200, {"ID": 1, "Name": "Staging", "DeliveryType": "Live"}, Delivered()),
    Row(
        "postmark",
        200,
        {"ID": 1, "DeliveryType": "Sandbox"},
        Delivered(),
        ("the server is a sandbox, which delivers no mail",),
    ),
    Row("postmark", 401, {"ErrorCode": 10, "Message": "No Account or Server API tokens"}, Blocked("blocked:401")),
    Row("postmark", 503, {"ErrorCode": 100, "Message": "Maintenance"}, Deferred("server_error:503")),
    Row("resend", 200, {"object": "list", "data": [{"status": "failed"}, {"status": "verified"}]}, Delivered()),
    Row("resend", 200, {"object": "list", "data": [{"status": "pending"}]}, Delivered(), (NO_DOMAIN,)),
    Row("resend", 200, {"object": "list", "data": []}, Delivered(), (NO_DOMAIN,)),
    Row(
        "resend",
        401,
        {"statusCode": 401, "name": "restricted_api_key", "message": "This API key is restricted to only send emails"},
        Delivered(),
    ),
    Row(
        "resend",
        400,
        {"statusCode": 400, "name": "validation_error", "message": "API key is invalid"},
        Blocked("blocked:400"),
    ),
    Row("resend", 403, {"statusCode": 403, "name": "suspended_api_key", "message": "no"}, Blocked("blocked:403")),
    Row("sendgrid", 200, {"scopes": ["alerts.read", "mail.send"]}, Delivered()),
    Row("sendgrid", 200, {"scopes": ["alerts.read"]}, Blocked("access_denied:mail.send")),
    Row(
        "sendgrid",
        401,
        {"errors": [{"field": None, "message": "authorization required"}]},
        Blocked("blocked:401"),
    ),
    Row("mailgun", 400, {"message": "from parameter is missing"}, Delivered()),
    Row("mailgun", 400, {"message": "'from' parameter is missing"}, Delivered()),
    Row("mailgun", 400, {"message": "Need at least one of 'text' or 'html' parameters specified"}, Delivered()),
    Row("mailgun", 401, "Forbidden", Blocked("blocked:401")),
    Row("mailgun", 404, {"message": "Domain not found: mg.example.jp"}, Blocked("blocked:404")),
    Row(
        "mailgun",
        400,
        {"message": "Domain mg.example.jp is not allowed to send: the account is disabled"},
        Blocked("blocked:400"),
    ),
    Row("ses", 200, ACCOUNT, Delivered()),
    Row("ses", 200, ACCOUNT | {"ProductionAccessEnabled": False}, Delivered(), (SANDBOX,)),
    Row("ses", 200, ACCOUNT | {"EnforcementStatus": "PROBATION"}, Delivered(), ("the account is under review",)),
    Row("ses", 200, ACCOUNT | {"EnforcementStatus": "SHUTDOWN"}, Blocked("sending_paused:account")),
    Row("ses", 200, ACCOUNT | {"SendingEnabled": False}, Blocked("sending_paused:account")),
    Row(
        "ses",
        200,
        ACCOUNT | {"SendQuota": {"Max24HourSend": 200.0, "SentLast24Hours": 160.0}},
        Delivered(),
        ("160 of 200 mails of the last 24 hours' quota are used",),
    ),
    Row("ses", 200, ACCOUNT | {"SendQuota": {"Max24HourSend": -1.0, "SentLast24Hours": 9e9}}, Delivered()),
    Row(
        "ses",
        403,
        {"message": "User is not authorized to perform ses:GetAccount"},
        Delivered(),
        ("the access key lacks ses:GetAccount, so sandbox and quota are not known",),
        {"x-amzn-ErrorType": "AccessDeniedException"},
    ),
    Row(
        "ses",
        403,
        {"message": "The request signature we calculated does not match the signature you provided."},
        Blocked("blocked:403"),
        headers={"x-amzn-ErrorType": "SignatureDoesNotMatch"},
    ),
    Row("gmail", 200, {"access_token": "ya29", "expires_in": 3599, "token_type": "Bearer"}, Delivered()),
    Row("gmail", 401, {"error": "unauthorized_client"}, Blocked("token_blocked:401")),
    Row("gmail", 400, {"error": "invalid_grant"}, Blocked("token_rejected:400")),
]


def make(provider: str, client: Client, base: str) -> Sender[Any]:
    """The sender of *provider*; Google's tokens come from *base*, too."""
    if provider == "gmail":
        return Gmail(client, gmail_settings(base_url=base, token_url=f"{base}/token"), now=lambda: NOW)
    return KINDS[provider].make(client, base)


async def probe(provider: str, client: Client, base: str) -> Probe:
    sender = make(provider, client, base)
    assert isinstance(sender, Provable)
    return await sender.probe()


def written(row: Row) -> bytes:
    """The answer of *row*, as it comes over the wire."""
    body = row.found.encode() if isinstance(row.found, str) else json.dumps(row.found).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in row.headers.items())
    return f"HTTP/1.1 {row.status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_every_provider_has_a_probe() -> None:
    assert set(ASKED) == {row.provider for row in ROWS} == set(OVER_HTTP)
    assert isinstance(KINDS["smtp"].make(None, "http://127.0.0.1:1"), Provable)  # type: ignore[arg-type]  # no client


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.provider}-{row.status}-{n}" for n, row in enumerate(ROWS)])
async def test_what_an_answer_to_a_probe_means(row: Row) -> None:
    """One request, the one that is documented; nothing of the answer but what is ours is in the result."""
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(written(row), seen)) as port, open_client(width=1) as client:
        found = await probe(row.provider, client, f"http://127.0.0.1:{port}")
    assert (found.outcome, found.notes) == (row.outcome, row.notes)
    assert SECRET not in repr(found)
    line, key, body = ASKED[row.provider]
    ((head, sent),) = seen
    assert head.startswith(line)
    assert key in head.lower()
    assert body in (None, sent)


@pytest.mark.parametrize("provider", OVER_HTTP)
@pytest.mark.parametrize("body", ["<html>Log in to the network", "{}", "[]", "null", ""])
async def test_a_page_with_a_200_proves_no_key(provider: str, body: str) -> None:
    """A captive portal's, say."""
    row = Row(provider, 200, body, Delivered())
    async with serving(answering(written(row))) as port, open_client(width=1) as client:
        found = await probe(provider, client, f"http://127.0.0.1:{port}")
    assert isinstance(found.outcome, Unknown | Deferred)


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_a_provider_that_is_out_of_reach_proves_nothing(provider: str) -> None:
    async with open_client(width=1) as client:
        outcome = (await probe(provider, client, "http://127.0.0.1:1")).outcome
    reason = "token_connection_failed" if provider == "gmail" else "connection_failed"
    assert outcome == Deferred(reason, blame=Blame.PROVIDER)


async def test_the_token_that_sends_nothing_is_told_without_a_call() -> None:
    async with open_client(width=1) as client:
        sender = Postmark(
            client, PostmarkSettings(server_token=TEST_TOKEN, base_url="http://127.0.0.1:1"), now=lambda: NOW
        )
        found = await sender.probe()
    assert (found.outcome, found.notes) == (Delivered(), ("with POSTMARK_API_TEST, no mail is sent",))


@pytest.mark.parametrize("provider", OVER_HTTP)
def test_no_answer_to_a_probe_raises(provider: str) -> None:
    @given(STATUSES, BODIES)
    @settings(max_examples=150)
    def any_answer(status: int, body: bytes) -> None:
        async def asked() -> Probe:
            answer = httpx.Response(status, content=body)
            transport = httpx.MockTransport(lambda _request: answer)
            async with open_client(width=1, transport=transport) as client:
                return await probe(provider, client, "http://127.0.0.1:1")

        with capture_logs() as lines:
            found = trio.run(asked)
        assert lines == []
        assert isinstance(found.outcome, Outcome)
        assert all(len(note) < 100 and note.isascii() for note in found.notes)
        if not isinstance(found.outcome, Delivered):
            assert len(found.outcome.reason) < 60

    any_answer()
