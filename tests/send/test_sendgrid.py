"""SendGrid: the calls it gets, and what its answers mean (https://www.twilio.com/docs/sendgrid)."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sendgrid import SendGridAPIClient
from sendgrid.helpers import mail as vendor

from notifierd.config.providers import SendgridSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send._waits import LONGEST_WAIT
from notifierd.send.mail.sendgrid import Sendgrid
from tests.support.messages import mail
from tests.support.providers import made_by, made_here

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)


async def call(message: Mail, answer: httpx.Response) -> tuple[httpx.Request, Outcome]:
    """Send *message*; return the request as it left, and the outcome."""
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with open_client(width=1, transport=httpx.MockTransport(transport)) as client:
        sender = Sendgrid(client, SendgridSettings(api_key="SG.1"), now=lambda: NOW)
        (outcome,) = await sender.send([message], sender.encode([message]), "key-1")
    (request,) = seen
    return request, outcome


def refused(*fields: object) -> httpx.Response:
    errors = [{"message": "taro1@example.jp is odd", "field": field, "help": None} for field in fields]
    return httpx.Response(400, json={"errors": errors})


async def test_a_mail() -> None:
    answer = httpx.Response(202, headers={"X-Message-Id": "14c5d75ce93.dfd.64b469"})
    message = mail(1, sender="期限のお知らせ <no-reply@example.jp>", reply_to="ask@example.jp")
    request, outcome = await call(message, answer)
    assert (request.method, str(request.url)) == ("POST", "https://api.sendgrid.com/v3/mail/send")
    assert request.headers["authorization"] == "Bearer SG.1"
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert json.loads(request.content) == {
        "personalizations": [{"to": [{"email": "taro1@example.jp"}]}],
        "from": {"email": "no-reply@example.jp", "name": "期限のお知らせ"},
        "reply_to": {"email": "ask@example.jp"},
        "subject": "【期限アラート】ひまわり",
        "content": [
            {"type": "text/plain", "value": "本日が期限"},
            {"type": "text/html", "value": "<p>本日が期限</p>"},
        ],
        "headers": dict(message.headers),
    }
    assert "本日が期限".encode() in request.content, "as it is, and half as long as escaped"
    assert outcome == Delivered("14c5d75ce93.dfd.64b469")
    request, _ = await call(mail(1), answer)
    assert "reply_to" not in json.loads(request.content), "there is none"


async def test_the_call_is_the_one_that_sendgrids_own_client_makes() -> None:
    message = mail(1, sender="期限 <no-reply@example.jp>", reply_to="相談窓口 <ask@example.jp>")

    def send(base: str) -> None:
        theirs = vendor.Mail(
            vendor.From("no-reply@example.jp", "期限"),
            vendor.To(message.to),
            vendor.Subject(message.subject),
            vendor.PlainTextContent(message.text),
            vendor.HtmlContent(message.html),
        )
        theirs.reply_to = vendor.ReplyTo("ask@example.jp", "相談窓口")
        for name, value in message.headers.items():
            theirs.add_header(vendor.Header(name, value))
        SendGridAPIClient("SG.1", host=base).send(theirs)

    keep = ("authorization", "content-type", "accept")
    theirs = await made_by(send, {}, keep, json.loads)
    request, _ = await call(message, httpx.Response(202))
    assert made_here(request, keep, json.loads) == theirs


@pytest.mark.parametrize(
    ("sender", "read"),
    [
        ("a@example.jp", {"email": "a@example.jp"}),
        ("<a@example.jp>", {"email": "a@example.jp"}),
        ("期限, 係 <a@example.jp>", {"email": "a@example.jp", "name": "期限, 係"}),
        ('"期限; \\"係\\"" <a@例え.jp>', {"email": "a@xn--r8jz45g.jp", "name": '期限; "係"'}),
    ],
)
async def test_every_form_of_a_sender(sender: str, read: dict[str, str]) -> None:
    request, _ = await call(mail(1, sender=sender), httpx.Response(202))
    assert json.loads(request.content)["from"] == read


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (httpx.Response(202), Delivered()),
        (httpx.Response(202, headers={"X-Message-Id": "two words"}), Delivered()),
        (httpx.Response(200, headers={"X-Message-Id": "id"}), Unknown("answer_unclear")),
        (httpx.Response(200, text="<html>welcome to our wifi</html>"), Unknown("answer_unclear")),
        (httpx.Response(204), Unknown("answer_unclear")),
    ],
)
async def test_202_and_nothing_else_is_accepted(answer: httpx.Response, outcome: Outcome) -> None:
    assert (await call(mail(), answer))[1] == outcome


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (refused("personalizations.0.to.0.email"), Rejected("rejected:400")),
        (refused("content.0.value"), Rejected("rejected:400", Blame.UNCLEAR)),
        (refused("from.email"), Blocked("blocked:400")),
        (refused("from"), Blocked("blocked:400")),
        (refused("reply_to.email", "from.name"), Blocked("blocked:400")),
        (refused("from.email", "personalizations.0.to"), Blocked("blocked:400")),
        (refused("from_name"), Rejected("rejected:400", Blame.UNCLEAR)),
        (refused(None), Rejected("rejected:400", Blame.UNCLEAR)),
        (refused(), Rejected("rejected:400", Blame.UNCLEAR)),
        (httpx.Response(400, json={"errors": ["from"]}), Deferred("not_the_provider:400", blame=Blame.PATH)),
        (httpx.Response(400, json={"errors": {"field": "from"}}), Deferred("not_the_provider:400", blame=Blame.PATH)),
        (httpx.Response(413, json={"errors": [{"field": "from"}]}), Blocked("blocked:413")),
        (httpx.Response(413, json={"errors": []}), Rejected("rejected:413", Blame.UNCLEAR)),
        (httpx.Response(401, json={"errors": [{"message": "Maximum credits exceeded"}]}), Blocked("blocked:401")),
        (httpx.Response(403, json={"errors": [{"field": "from"}]}), Blocked("blocked:403")),
        (httpx.Response(404, json={"errors": []}), Blocked("blocked:404")),
        (httpx.Response(405, json={"errors": []}), Blocked("blocked:405")),
        (httpx.Response(406, json={"errors": []}), Blocked("blocked:406")),
        (httpx.Response(404), Deferred("not_the_provider:404", blame=Blame.PATH)),
        (httpx.Response(451), Blocked("blocked:451")),
        (httpx.Response(500, json={"errors": []}), Deferred("server_error:500")),
    ],
)
async def test_documented_errors(answer: httpx.Response, outcome: Outcome) -> None:
    assert (await call(mail(), answer))[1] == outcome


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"X-RateLimit-Reset": str(int(NOW.timestamp()) + 90)}, 90.0),
        ({"X-RateLimit-Reset": str(int(NOW.timestamp()) - 90)}, 0.0),
        ({"X-RateLimit-Reset": "99999999999999"}, LONGEST_WAIT),
        ({"X-RateLimit-Reset": "inf"}, LONGEST_WAIT),
        ({"X-RateLimit-Reset": "nan"}, None),
        ({"X-RateLimit-Reset": "soon"}, None),
        ({"X-RateLimit-Reset": "9" * 10_000}, None),
        ({"X-RateLimit-Reset": "-1e999"}, 0.0),
        ({"X-RateLimit-Reset": str(int(NOW.timestamp()) + 90), "Retry-After": "7"}, 7.0),
        ({}, None),
    ],
)
async def test_a_rate_limit_names_the_moment_of_its_end(headers: dict[str, str], wait: float | None) -> None:
    outcome: Any = (await call(mail(), httpx.Response(429, headers=headers)))[1]
    assert outcome == Deferred("rate_limited:429", wait, Blame.PROVIDER)


async def test_the_moment_counts_for_a_rate_limit_only() -> None:
    answer = httpx.Response(503, headers={"X-RateLimit-Reset": str(int(NOW.timestamp()) + 90)})
    assert (await call(mail(), answer))[1] == Deferred("server_error:503", blame=Blame.PATH)
