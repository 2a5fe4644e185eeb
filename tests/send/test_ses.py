"""SES: the calls it gets, and what its answers mean (https://docs.aws.amazon.com/ses/latest/APIReference-V2)."""

import json
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import httpx
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config.providers import SesSettings
from notifierd.config.settings import EmailSettings, Settings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send.mail.ses import BULK_BYTES, ENTRY_CHARACTERS, TEMPLATE, Ses
from notifierd.send.mail.sigv4 import Signer
from notifierd.send.open import open_email
from tests.support.aws import botocore_signs, operation, schema_problems, sesv2
from tests.support.messages import mail

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
SETTINGS = SesSettings(access_key_id="AKIA1", secret_access_key="secret-1")
SINGLE = "https://email.ap-northeast-1.amazonaws.com/v2/email/outbound-emails"
BULK = "https://email.ap-northeast-1.amazonaws.com/v2/email/outbound-bulk-emails"


def ses(client: Any = None, settings: SesSettings = SETTINGS) -> Ses:
    return Ses(client, settings, now=lambda: NOW)


async def call(
    messages: list[Mail], answer: httpx.Response, settings: SesSettings = SETTINGS
) -> tuple[httpx.Request, list[Outcome]]:
    """Send *messages* in one call; return the request as it left, and the outcomes."""
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with open_client(width=1, transport=httpx.MockTransport(transport)) as client:
        sender = ses(client, settings)
        outcomes = await sender.send(messages, sender.encode(messages), "key-1")
    (request,) = seen
    return request, outcomes


def error(status: int, kind: str, text: str = "taro1@example.jp is odd", **headers: str) -> httpx.Response:
    """As SES says it: the type in a header, with a URL behind it."""
    kind = f"{kind}:http://internal.amazon.com/coral/com.amazonaws.ses/"
    return httpx.Response(status, json={"message": text}, headers={"x-amzn-ErrorType": kind, **headers})


def results(*entries: dict[str, str]) -> httpx.Response:
    return httpx.Response(200, json={"BulkEmailEntryResults": list(entries)})


def accepted(count: int) -> httpx.Response:
    return results(*({"Status": "SUCCESS", "MessageId": f"id-{n}"} for n in range(1, count + 1)))


def filled(body: bytes) -> list[dict[str, str]]:
    """What each entry of a bulk call puts into the template."""
    entries = json.loads(body)["BulkEmailEntries"]
    return [
        json.loads(each["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"])
        for each in entries
    ]


# Calls --------------------------------------------------------------------------------------------------------------


async def test_a_single_mail() -> None:
    request, outcomes = await call(
        [mail(1, reply_to="ask@example.jp")], httpx.Response(200, json={"MessageId": "0100-a"})
    )
    assert (request.method, str(request.url)) == ("POST", SINGLE)
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "FromEmailAddress": "keikakun <no-reply@example.jp>",
        "ReplyToAddresses": ["ask@example.jp"],
        "Destination": {"ToAddresses": ["taro1@example.jp"]},
        "Content": {
            "Simple": {
                "Subject": {"Data": "【期限アラート】ひまわり", "Charset": "UTF-8"},
                "Body": {
                    "Text": {"Data": "本日が期限", "Charset": "UTF-8"},
                    "Html": {"Data": "<p>本日が期限</p>", "Charset": "UTF-8"},
                },
                "Headers": [{"Name": "Auto-Submitted", "Value": "auto-generated"}],
            }
        },
    }
    assert outcomes == [Delivered("0100-a")]


@pytest.mark.parametrize("count", [2, 3])
async def test_several_mails_fill_a_template_that_has_nothing_but_holes(count: int) -> None:
    mails = [mail(n, subject=f"件名{n}", text=f"本文{n}", html=f"<p>{n}</p>") for n in range(1, count + 1)]
    request, outcomes = await call(mails, accepted(count))
    assert (request.method, str(request.url)) == ("POST", BULK)
    body = json.loads(request.content)
    assert body["FromEmailAddress"] == "keikakun <no-reply@example.jp>"
    assert body["DefaultContent"] == {
        "Template": {
            "TemplateContent": {"Subject": "{{subject}}", "Text": "{{text}}", "Html": "{{html}}"},
            "TemplateData": "{}",
        }
    }
    assert [entry["Destination"]["ToAddresses"] for entry in body["BulkEmailEntries"]] == [[m.to] for m in mails]
    assert [entry["ReplacementHeaders"] for entry in body["BulkEmailEntries"]] == [
        [{"Name": "Auto-Submitted", "Value": "auto-generated"}]
    ] * count
    assert filled(request.content) == [{"subject": m.subject, "text": m.text, "html": m.html} for m in mails]
    assert outcomes == [Delivered(f"id-{n}") for n in range(1, count + 1)]


async def test_message_id_is_left_out_and_every_other_header_goes() -> None:
    headers = {
        "Message-ID": "<1@example.jp>",
        "X-Entity-Ref-ID": "1",
        "Auto-Submitted": "auto-generated",
        "List-Unsubscribe": "<https://app.example.jp/stop>",
    }
    expected = [
        {"Name": "Auto-Submitted", "Value": "auto-generated"},
        {"Name": "List-Unsubscribe", "Value": "<https://app.example.jp/stop>"},
        {"Name": "X-Entity-Ref-ID", "Value": "1"},
    ]
    single = json.loads(ses().encode([mail(1, headers=headers)]))
    assert single["Content"]["Simple"]["Headers"] == expected
    bulk = json.loads(ses().encode([mail(1, headers=headers), mail(2, headers=headers)]))
    assert [entry["ReplacementHeaders"] for entry in bulk["BulkEmailEntries"]] == [expected] * 2


@pytest.mark.parametrize(
    ("sender", "sent"),
    [
        ("no-reply@example.jp", "no-reply@example.jp"),
        ("Keikakun <no-reply@example.jp>", "Keikakun <no-reply@example.jp>"),
        ("Keikakun, Inc. <no-reply@example.jp>", "=?utf-8?q?Keikakun=2C_Inc=2E?= <no-reply@example.jp>"),
        ("けいかくん <no-reply@例え.jp>", "=?utf-8?b?44GR44GE44GL44GP44KT?= <no-reply@xn--r8jz45g.jp>"),
        (" <no-reply@example.jp>", "no-reply@example.jp"),
    ],
)
def test_a_sender_is_in_ascii(sender: str, sent: str) -> None:
    envelope = json.loads(ses().encode([mail(sender=sender, reply_to=sender)]))
    assert (envelope["FromEmailAddress"], envelope["ReplyToAddresses"]) == (sent, [sent])


@pytest.mark.parametrize("count", [1, 2])
async def test_a_request_keeps_to_the_published_schema(count: int) -> None:
    settings = evolve(SETTINGS, configuration_set="alerts")
    messages = [mail(n, reply_to="ask@example.jp") for n in range(count)]
    request, _ = await call(messages, httpx.Response(503), settings)
    called, document = operation(request.method, request.url.path), json.loads(request.content)
    assert called.name == ("SendEmail" if count == 1 else "SendBulkEmail")
    assert schema_problems(called, document) == ""
    assert document["ConfigurationSetName"] == "alerts"
    assert schema_problems(called, {**document, "Unheard": 1}) != "", "it would be found"


@pytest.mark.parametrize("token", ["", "session-1"])
@pytest.mark.parametrize("base_url", ["", "http://127.0.0.1:8005/stage"])
async def test_what_leaves_is_signed_as_botocore_signs_it(base_url: str, token: str) -> None:
    settings = evolve(SETTINGS, base_url=base_url, session_token=token)
    request, _ = await call([mail()], httpx.Response(503), settings)
    assert str(request.url) == (f"{base_url}/v2/email/outbound-emails" if base_url else SINGLE)
    signer = Signer("AKIA1", "secret-1", token, "ap-northeast-1", "ses")
    plain = {name: request.headers[name] for name in ("content-type", "host")}
    expected = botocore_signs(signer, "POST", str(request.url), plain, request.content, NOW)
    assert {name.lower(): value for name, value in expected.items()}.items() <= dict(request.headers).items()
    assert request.headers.get("x-amz-security-token", "") == token


@given(st.tuples(*[st.text(st.sampled_from("{}subjecthtmlx \n漢"))] * 3))
def test_whatever_a_mail_says_it_fills_its_own_hole_and_opens_no_other(said: tuple[str, str, str]) -> None:
    """SES does not say how it fills holes: one after the other, in any order, gives the same mail."""
    subject, text, html = said
    data = filled(ses().encode([mail(1, subject=subject, text=text, html=html), mail(2)]))[0]
    assert not any("{{" in value for value in data.values())
    for order in permutations(data):
        parts = dict(TEMPLATE)
        for hole in order:
            parts = {name: part.replace(f"{{{{{hole}}}}}", data[hole]) for name, part in parts.items()}
        assert {name: part.replace("\u2060", "") for name, part in parts.items()} == {
            "Subject": subject,
            "Text": text,
            "Html": html,
        }


def test_mails_without_double_braces_go_as_they_are() -> None:
    html = "<style>@media print { p { color: red } }</style>"
    assert filled(ses().encode([mail(1, html=html), mail(2)]))[0]["html"] == html


def test_what_is_too_much_for_one_call_is_refused() -> None:
    """By SES' limits: 50 entries, 1 MB for the call, 262,144 characters for an entry. A mail alone may have more."""
    sender = ses()
    assert len(sender.encode([mail(n, html="x" * 19_000) for n in range(50)])) < BULK_BYTES
    with pytest.raises(ValueError, match=r"50 mails of 1\d{6} bytes"):
        sender.encode([mail(n, html="x" * 20_000) for n in range(50)])
    with pytest.raises(ValueError, match="51 mails"):
        sender.encode([mail(n) for n in range(51)])
    long = mail(1, html="x" * ENTRY_CHARACTERS)
    with pytest.raises(ValueError, match=r"a mail of \d+ characters"):
        sender.encode([long, mail(2)])
    assert len(sender.encode([long])) > ENTRY_CHARACTERS


def test_mails_of_two_senders_make_no_call() -> None:
    with pytest.raises(ValueError, match="one sender"):
        ses().encode([mail(1), mail(2, reply_to="ask@example.jp")])


def test_the_same_mails_always_make_the_same_bytes() -> None:
    one, other = mail(1, headers={"A": "1", "B": "2"}), mail(1, headers={"B": "2", "A": "1"})
    assert ses().encode([one]) == ses().encode([other])
    assert ses().encode([one, mail(2)]) == ses().encode([other, mail(2)])


# Answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        ({"Status": "SUCCESS", "MessageId": "b"}, Delivered("b")),
        ({"Status": "SUCCESS"}, Delivered()),
        ({"Status": "MESSAGE_REJECTED", "Error": "a virus"}, Rejected("rejected:item")),
        (
            {"Status": "MESSAGE_REJECTED", "Error": "Email address is not verified. [...] taro1@example.jp"},
            Blocked("not_verified:item"),
        ),
        ({"Status": "ACCOUNT_THROTTLED"}, Deferred("rate_limited:item", blame=Blame.PROVIDER)),
        ({"Status": "TRANSIENT_FAILURE"}, Deferred("server_error:item")),
        ({"Status": "MESSAGE_REJECTED", "Error": "Sending suspended for this account"}, Blocked("blocked:item")),
        ({"Status": "FAILED", "Error": "taro1@example.jp"}, Deferred("refused:item")),
        ({"Status": "INVALID_PARAMETER"}, Deferred("refused:item")),
        ({"Status": "INVALID_PARAMETER", "Error": "The From address is not valid"}, Blocked("blocked:item")),
        ({"Status": "ACCOUNT_SUSPENDED"}, Blocked("suspended:item")),
        ({"Status": "ACCOUNT_SENDING_PAUSED"}, Blocked("sending_paused:item")),
        ({"Status": "CONFIGURATION_SET_SENDING_PAUSED"}, Blocked("sending_paused:item")),
        ({"Status": "ACCOUNT_DAILY_QUOTA_EXCEEDED"}, Blocked("quota:item")),
        ({"Status": "MAIL_FROM_DOMAIN_NOT_VERIFIED"}, Blocked("not_verified:item")),
        ({"Status": "CONFIGURATION_SET_NOT_FOUND"}, Blocked("not_found:item")),
        ({"Status": "TEMPLATE_NOT_FOUND"}, Blocked("not_found:item")),
        ({"Status": "INVALID_SENDING_POOL_NAME"}, Blocked("not_found:item")),
        ({"Status": "UNHEARD_OF"}, Unknown("answer_unclear")),
        ({"MessageId": "b"}, Unknown("answer_unclear")),
        ({"Status": ["SUCCESS"]}, Unknown("answer_unclear")),
        ("SUCCESS", Unknown("answer_unclear")),
    ],
)
async def test_each_entry_has_its_own_outcome(entry: Any, outcome: Outcome) -> None:
    answer = results({"Status": "SUCCESS", "MessageId": "a"}, entry, {"Status": "SUCCESS", "MessageId": "c"})
    _, outcomes = await call([mail(1), mail(2), mail(3)], answer)
    assert outcomes == [Delivered("a"), outcome, Delivered("c")]


async def test_every_status_of_the_schema_has_a_meaning() -> None:
    statuses = sesv2().shape_for("BulkEmailStatus").enum
    assert len(statuses) >= 14
    for status in statuses:
        _, (outcome, _) = await call([mail(1), mail(2)], results({"Status": status}, {"Status": status}))
        assert not isinstance(outcome, Unknown), status


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"BulkEmailEntryResults": None},
        {"BulkEmailEntryResults": []},
        {"BulkEmailEntryResults": [{"Status": "SUCCESS", "MessageId": "a"}]},
        {"BulkEmailEntryResults": [{"Status": "SUCCESS", "MessageId": "a"}] * 3},
        {"MessageId": "a"},
    ],
)
async def test_an_answer_that_does_not_add_up_tells_nothing(found: Any) -> None:
    _, outcomes = await call([mail(1), mail(2)], httpx.Response(200, json=found))
    assert outcomes == [Unknown("answer_unclear")] * 2


@pytest.mark.parametrize("body", [b"", b"<html>welcome to our wifi</html>", b"{}", b'{"MessageId": null}', b'["id"]'])
async def test_a_200_that_names_no_mail_tells_nothing(body: bytes) -> None:
    assert (await call([mail()], httpx.Response(200, content=body)))[1] == [Unknown("answer_unclear")]


UNVERIFIED = (
    "Email address is not verified. The following identities failed the check in region US-EAST-1: a@example.jp"
)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (error(429, "TooManyRequestsException"), Deferred("rate_limited:429", blame=Blame.PROVIDER)),
        (error(400, "LimitExceededException"), Deferred("rate_limited:400", blame=Blame.PROVIDER)),
        (
            error(400, "ThrottlingException", "Maximum sending rate exceeded."),
            Deferred("rate_limited:400", blame=Blame.PROVIDER),
        ),
        (error(400, "ThrottlingException", "Daily message quota exceeded."), Blocked("quota:400")),
        (error(429, "TooManyRequestsException", "Daily message quota exceeded."), Blocked("quota:429")),
        (error(400, "AccountSuspendedException"), Blocked("suspended:400")),
        (error(400, "SendingPausedException"), Blocked("sending_paused:400")),
        (error(400, "MailFromDomainNotVerifiedException"), Blocked("not_verified:400")),
        (error(404, "NotFoundException"), Blocked("not_found:404")),
        (error(404, "UnknownOperationException"), Blocked("not_found:404")),
        (error(400, "AccessDeniedException"), Blocked("access_denied:400")),
        (error(400, "IncompleteSignature"), Blocked("bad_signature:400")),
        (error(400, "RequestExpired"), Blocked("clock_wrong:400")),
        (error(403, "SignatureDoesNotMatch"), Blocked("blocked:403")),
        (error(403, "ExpiredTokenException"), Blocked("blocked:403")),
        (error(400, "MessageRejected", UNVERIFIED), Blocked("not_verified:400")),
        (error(400, "MessageRejected", "Transaction failed: contains a virus"), Rejected("rejected:400")),
        (error(400, "BadRequestException"), Rejected("rejected:400", Blame.UNCLEAR)),
        (error(500, "InternalFailure"), Deferred("server_error:500")),
        (error(500, "NotFoundException"), Deferred("server_error:500")),
        (
            httpx.Response(400, json={"__type": "com.amazonaws.sesv2#SendingPausedException"}),
            Blocked("sending_paused:400"),
        ),
        (httpx.Response(400, json={"code": "SendingPausedException"}), Blocked("sending_paused:400")),
        (
            httpx.Response(400, json={"__type": "MessageRejected", "Message": UNVERIFIED}),
            Blocked("not_verified:400"),
        ),
    ],
)
async def test_documented_errors(answer: httpx.Response, outcome: Outcome) -> None:
    assert (await call([mail()], answer))[1] == [outcome]


async def test_the_errors_of_the_schema_are_told_apart_by_whom_they_blame() -> None:
    meant = {}
    for shape in sesv2().operation_model("SendEmail").error_shapes:
        status = shape.metadata["error"]["httpStatusCode"]
        _, (meant[shape.name],) = await call([mail()], error(status, shape.name))
    assert {name: type(outcome) for name, outcome in meant.items()} == {
        "TooManyRequestsException": Deferred,
        "LimitExceededException": Deferred,
        "AccountSuspendedException": Blocked,
        "SendingPausedException": Blocked,
        "MessageRejected": Rejected,
        "MailFromDomainNotVerifiedException": Blocked,
        "NotFoundException": Blocked,
        "BadRequestException": Rejected,
    }


@pytest.mark.parametrize("kind", ["ThrottlingException", "SendingPausedException", "MessageRejected"])
async def test_a_wait_that_is_asked_for_is_kept(kind: str) -> None:
    answer = error(400, kind, UNVERIFIED, **{"Retry-After": "90"})
    _, (outcome,) = await call([mail()], answer)
    assert isinstance(outcome, Deferred | Blocked)
    assert outcome.retry_after == 90.0


async def test_a_batch_refused_as_a_whole_condemns_nobody() -> None:
    """Which entry is to blame is not said, if it is one at all, so each gets another call."""
    _, outcomes = await call([mail(1), mail(2)], error(400, "BadRequestException"))
    assert outcomes == [Deferred("batch_rejected:400")] * 2


THROTTLED = error(429, "TooManyRequestsException")


def throttled(count: int, passed: int = 0) -> httpx.Response:
    entries = [{"Status": "SUCCESS"}] * passed + [{"Status": "ACCOUNT_THROTTLED"}] * (count - passed)
    return results(*entries)


@pytest.mark.parametrize(
    ("count", "answer", "then"),
    [
        (50, THROTTLED, 25),
        (50, throttled(50), 25),
        (50, throttled(50, passed=1), 50),
        (50, error(503, "ServiceUnavailable"), 50),
        (50, error(400, "BadRequestException"), 50),
        (3, THROTTLED, 1),
        (2, throttled(2), 1),
        (1, THROTTLED, 50),
    ],
)
async def test_a_call_that_is_throttled_whole_halves_those_that_follow(
    count: int, answer: httpx.Response, then: int
) -> None:
    """A call may have more entries than the account's sending rate allows at once: it would never pass."""
    async with open_client(width=1, transport=httpx.MockTransport(lambda _: answer)) as client:
        sender, messages = ses(client), [mail(n) for n in range(count)]
        body = sender.encode(messages)
        await sender.send(messages, body, "")
        assert sender.max_batch == then
        await sender.send(messages, body, "")
        assert sender.max_batch == then, "as it had been under way before"
    assert Ses.max_batch == 50, "another run begins anew"


async def test_fifty_mails_in_one_call() -> None:
    assert (await call([mail(n) for n in range(50)], accepted(50)))[1] == [Delivered(f"id-{n}") for n in range(1, 51)]


async def test_it_opens_by_its_name_and_shows_no_secret() -> None:
    settings = Settings(email=EmailSettings(provider="ses", ses=evolve(SETTINGS, session_token="token-1")))
    async with open_email(settings.email.provider, settings, now=lambda: NOW) as sender:
        assert (sender.name, sender.max_batch, sender.honours_keys) == ("ses", 50, False)
        shown = repr(settings) + "".join(map(repr, vars(sender).values()))
    assert "secret-1" not in shown
    assert "token-1" not in shown
