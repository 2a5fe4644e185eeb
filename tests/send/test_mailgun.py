"""Mailgun: the calls it gets, and what its answers mean (https://documentation.mailgun.com)."""

from datetime import UTC, datetime
from urllib.parse import parse_qs

import httpx
import pytest
from mailgun.builders import MailgunMessageBuilder
from mailgun.client import Client as VendorClient

from notifierd.config.providers import MailgunSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send.mail.mailgun import Mailgun
from tests.support.messages import mail
from tests.support.providers import made_by, made_here, mailgun_answers

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
LIMITED = "Domain mg.example.jp is not allowed to send: recipient limit exceeded, try again after"


async def call(message: Mail, answer: httpx.Response) -> tuple[list[httpx.Request], Outcome]:
    """Send *message*; return the requests as they left, and the outcome."""
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with open_client(width=1, transport=httpx.MockTransport(transport)) as client:
        sender = Mailgun(client, MailgunSettings(api_key="key-1", domain="mg.example.jp"), now=lambda: NOW)
        (outcome,) = await sender.send([message], sender.encode([message]), "key-1")
    return seen, outcome


def said(status: int, message: object, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"message": message}, headers=headers)


def fields(body: str) -> dict[str, list[str]]:
    return parse_qs(body, keep_blank_values=True, strict_parsing=True)


async def test_a_mail() -> None:
    (request,), outcome = await call(mail(1, reply_to="ask@example.jp"), mailgun_answers([True]))
    assert (request.method, str(request.url)) == ("POST", "https://api.mailgun.net/v3/mg.example.jp/messages")
    assert request.headers["authorization"] == "Basic YXBpOmtleS0x"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert fields(request.content.decode("ascii")) == {
        "from": ["keikakun <no-reply@example.jp>"],
        "to": ["taro1@example.jp"],
        "subject": ["【期限アラート】ひまわり"],
        "text": ["本日が期限"],
        "html": ["<p>本日が期限</p>"],
        "h:Auto-Submitted": ["auto-generated"],
        "h:Message-ID": ["<00000000-0000-0000-0000-000000000001@example.jp>"],
        "h:Reply-To": ["ask@example.jp"],
    }
    assert outcome == Delivered("<id-0@mg.example.jp>")
    (request,), _ = await call(mail(1), mailgun_answers([True]))
    assert "h:Reply-To" not in fields(request.content.decode("ascii")), "there is none"


async def test_the_call_is_the_one_that_mailguns_own_client_makes() -> None:
    """Down to the form's encoding, but for the order of the fields."""
    message = mail(1, sender="期限 <no-reply@example.jp>", reply_to="ask@example.jp", text="一\r\n二 & 三")

    def send(base: str) -> None:
        builder = (
            MailgunMessageBuilder("期限 <no-reply@example.jp>").add_recipient(message.to).set_subject(message.subject)
        )
        builder.set_text(message.text).set_html(message.html).add_custom_header("Reply-To", "ask@example.jp")
        for name, value in message.headers.items():
            builder.add_custom_header(name, value)
        data, files = builder.set_idempotency_safe(safe=False).build()
        assert files is None
        with VendorClient(auth=("api", "key-1"), api_url=base) as client:
            client.messages.create(data=data, domain="mg.example.jp")

    def pieces(body: str) -> list[str]:
        return sorted(body.split("&"))

    keep = ("authorization", "content-type")
    answer = mailgun_answers([True])
    theirs = await made_by(send, answer.json(), keep, pieces)
    (request,), _ = await call(message, answer)
    assert made_here(request, keep, pieces) == theirs


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200),
        httpx.Response(200, text="<html>welcome to our wifi</html>"),
        httpx.Response(200, json=["<id@mg.example.jp>"]),
        httpx.Response(200, json={"message": "Queued. Thank you."}),
        httpx.Response(200, json={"id": "two words", "message": "Queued. Thank you."}),
        httpx.Response(200, json={"id": 7}),
    ],
)
async def test_a_200_that_names_no_mail_tells_nothing(answer: httpx.Response) -> None:
    assert (await call(mail(), answer))[1] == Unknown("answer_unclear")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (said(400, "to parameter is not a valid address. please check documentation"), Rejected("rejected:400")),
        (said(400, "Domain x.jp is not allowed to send: The domain is unverified"), Blocked("blocked:400")),
        (said(400, ["is not allowed to send"]), Blocked("blocked:400")),
        (said(413, "Domain x.jp is not allowed to send"), Blocked("blocked:413")),
        (said(413, "Request entity too large"), Rejected("rejected:413", Blame.UNCLEAR)),
        (said(401, "Forbidden"), Blocked("blocked:401")),
        (said(402, "Request Failed"), Blocked("blocked:402")),
        (said(403, "Domain x.jp is not allowed to send large batches yet"), Blocked("blocked:403")),
        (said(404, "Domain not found: x.jp"), Blocked("blocked:404")),
        (said(405, "Method not allowed", **{"Retry-After": "90"}), Blocked("blocked:405", 90.0)),
        (httpx.Response(405), Deferred("not_the_provider:405", blame=Blame.PATH)),
        (said(500, "Internal Server Error"), Deferred("server_error:500")),
        (said(503, f"{LIMITED} Tue, 24 Nov 2026 00:01:30 UTC"), Blocked("blocked:503", 90.0)),
    ],
)
async def test_documented_errors(answer: httpx.Response, outcome: Outcome) -> None:
    assert (await call(mail(), answer))[1] == outcome


@pytest.mark.parametrize("status", [420, 429])
@pytest.mark.parametrize(
    ("message", "headers", "wait"),
    [
        (f"{LIMITED} Tue, 24 Nov 2026 00:01:30 UTC", {}, 90.0),
        (f"{LIMITED} Mon, 23 Nov 2026 00:01:30 UTC", {}, 0.0),
        (f"{LIMITED} Tue, 24 Nov 2026 00:01:30 UTC", {"Retry-After": "0"}, 0.0),
        (f"{LIMITED} 120 seconds", {}, 120.0),
        (f"{LIMITED} 40 minutes", {}, 2400.0),
        (f"{LIMITED} Tue, 24 Nov 2026 00:00:99999999999 GMT", {}, None),
        (f"{LIMITED} lunch", {}, None),
        ("Too many requests", {}, None),
        (None, {}, None),
    ],
)
async def test_a_rate_limit_says_when_it_ends(
    status: int, message: str | None, headers: dict[str, str], wait: float | None
) -> None:
    """With 429 or, for a new domain's limits, with 420; nobody is failed for it."""
    outcome = (await call(mail(), said(status, message, **headers)))[1]
    assert outcome == Deferred(f"rate_limited:{status}", wait, Blame.PROVIDER)
