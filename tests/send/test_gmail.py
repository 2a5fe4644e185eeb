"""Gmail: tokens for a service account, the mails as they leave, and what the answers mean."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from typing import Any

import httpx
import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from notifierd.config.settings import EmailSettings, Settings
from notifierd.model.errors import ConfigError
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send.mail import oauth
from notifierd.send.mail.gmail import Gmail
from notifierd.send.mail.oauth import Token
from notifierd.send.open import open_email
from tests.support.google_api import ACCOUNT, USER, Google, account_json, gmail_settings, google_error, private_key
from tests.support.messages import mail

NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
SEND = "https://gmail.googleapis.com/gmail/v1/users/me/messages/send"


class Clock:
    """A wall clock that a test sets."""

    now = NINE

    def __call__(self) -> datetime:
        return self.now


def gmail(client: Any = None, now: Callable[[], datetime] = lambda: NINE) -> Gmail:
    return Gmail(client, gmail_settings(), now=now)


SENDER = gmail()


async def send(google: Google, *messages: Mail, now: Callable[[], datetime] = lambda: NINE) -> list[Outcome]:
    """Send *messages*, a call each, one after the other."""
    outcomes = []
    async with open_client(width=1, transport=httpx.MockTransport(google)) as client:
        sender = gmail(client, now)
        for message in messages:
            outcomes += await sender.send([message], sender.encode([message]), "")
    return outcomes


def raw(request: httpx.Request) -> bytes:
    document = json.loads(request.content)
    assert list(document) == ["raw"]
    return base64.urlsafe_b64decode(document["raw"])


# Tokens -------------------------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_with_a_signed_assertion() -> None:
    """RFC 7523; https://developers.google.com/identity/protocols/oauth2/service-account#httprest."""
    seen: list[httpx.Request] = []
    google = Google(token=seen.append)
    assert await send(google, mail()) == [Delivered("m1")]
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://oauth2.googleapis.com/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.content.startswith(b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
    (assertion,) = google.tokens
    signed, _, signature = assertion.rpartition(".")
    private_key().public_key().verify(unpadded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    header, claims = (json.loads(unpadded(part)) for part in signed.split("."))
    assert header == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
    assert claims == {
        "iss": ACCOUNT,
        "sub": USER,
        "scope": "https://www.googleapis.com/auth/gmail.send",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1795478400,
        "exp": 1795478400 + 3600,
    }


def unpadded(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize(
    ("later", "tokens"),
    [
        (timedelta(0), 1),
        (timedelta(seconds=3598) - timedelta(minutes=5), 1),
        (timedelta(seconds=3599) - timedelta(minutes=5), 2),
        (timedelta(hours=2), 2),
        (timedelta(seconds=-1), 2),
    ],
)
async def test_a_token_is_used_until_five_minutes_before_its_end(later: timedelta, tokens: int) -> None:
    """A clock that was set back, too, makes another one: nobody knows then when the first ends."""
    google, clock = Google(), Clock()
    async with open_client(width=1, transport=httpx.MockTransport(google)) as client:
        sender = gmail(client, clock)
        body = sender.encode([mail()])
        assert await sender.send([mail()], body, "") == [Delivered("m1")]
        clock.now += later
        assert await sender.send([mail()], body, "") == [Delivered("m2")]
    assert len(google.tokens) == tokens


@pytest.mark.parametrize(("seconds", "tokens"), [(0, 2), (-(10**20), 2), (10**20, 1)])
async def test_a_token_of_an_odd_life_is_good_for_one_call_at_least(seconds: int, tokens: int) -> None:
    def token(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"access_token": f"t{len(google.tokens)}", "expires_in": seconds})

    google = Google(token=token)
    assert await send(google, mail(), mail()) == [Delivered("m1"), Delivered("m2")]
    assert len(google.tokens) == tokens


async def test_many_calls_wait_for_one_token(autojump_clock: trio.testing.MockClock) -> None:
    google = Google()

    async def slow(request: httpx.Request) -> httpx.Response:
        await trio.sleep(1)
        return google(request)

    outcomes: list[Outcome] = []

    async def one(sender: Gmail) -> None:
        outcomes.extend(await sender.send([mail()], sender.encode([mail()]), ""))

    async with open_client(width=5, transport=httpx.MockTransport(slow)) as client, trio.open_nursery() as nursery:
        sender = gmail(client)
        for _ in range(5):
            nursery.start_soon(one, sender)
    assert len(outcomes) == len(google.mails) == 5
    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
    assert len(google.tokens) == 1
    assert trio.current_time() == 2, "a second for the token, and one for all mails at once"


async def test_a_token_that_is_turned_away_is_replaced_and_the_mail_goes_again() -> None:
    """A call that is not authorized was certainly not carried out."""
    google = Google()
    async with open_client(width=1, transport=httpx.MockTransport(google)) as client:
        sender = gmail(client)
        body = sender.encode([mail()])
        assert await sender.send([mail()], body, "") == [Delivered("m1")]
        google.tokens.append("another took our place: t1 is good no more")
        assert await sender.send([mail()], body, "") == [Delivered("m3")]
        assert await sender.send([mail()], body, "") == [Delivered("m4")]
    assert [request.headers["authorization"] for request in google.mails] == [f"Bearer t{n}" for n in (1, 1, 3, 3)]
    assert len({request.content for request in google.mails}) == 1


async def test_a_new_token_that_is_turned_away_too_means_that_we_are() -> None:
    google = Google(send=lambda _: google_error(401, "authError", **{"Retry-After": "9"}))
    assert await send(google, mail()) == [Blocked("blocked:401", 9.0)]
    assert (len(google.tokens), len(google.mails)) == (2, 2)


@pytest.mark.parametrize("apart", [0, 1])
async def test_calls_that_are_turned_away_ask_for_one_token_together(
    apart: int, autojump_clock: trio.testing.MockClock
) -> None:
    """At one moment, or one after the other, when the first has its new token already."""
    google = Google()

    async def slow(request: httpx.Request) -> httpx.Response:
        answer = google(request)
        if str(request.url) == SEND:
            await trio.sleep(1 + apart * len(google.mails))
        return answer

    outcomes: list[Outcome] = []

    async def one() -> None:
        outcomes.extend(await sender.send([mail()], sender.encode([mail()]), ""))

    async with open_client(width=5, transport=httpx.MockTransport(slow)) as client:
        sender = gmail(client)
        await one()
        google.tokens.append("another took our place: t1 is good no more")
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
    assert len(google.tokens) == 3
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 6
    assert len(google.mails) == 11


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (httpx.Response(400, json={"error": "invalid_grant", "error_description": "x"}), Blocked("token_rejected:400")),
        (httpx.Response(401, json={"error": "unauthorized_client"}), Blocked("token_blocked:401")),
        (httpx.Response(403, headers={"Retry-After": "9"}), Blocked("token_blocked:403", 9.0)),
        (httpx.Response(404), Deferred("token_not_the_provider:404", blame=Blame.PATH)),
        (
            httpx.Response(302, headers={"Location": "https://example.jp/"}),
            Deferred("token_not_the_provider:302", blame=Blame.PATH),
        ),
        (
            httpx.Response(429, headers={"Retry-After": "9"}),
            Deferred("token_rate_limited:429", 9.0, Blame.PROVIDER),
        ),
        (httpx.Response(500, json={"error": "x"}), Deferred("token_server_error:500", blame=Blame.PROVIDER)),
        (httpx.Response(503), Deferred("token_server_error:503", blame=Blame.PATH)),
        (httpx.Response(502), Deferred("token_server_error:502", blame=Blame.PROVIDER)),
        (httpx.Response(200, content=b"<html>"), Deferred("token_unclear", blame=Blame.PROVIDER)),
        (httpx.Response(200, json=["t1"]), Deferred("token_unclear", blame=Blame.PROVIDER)),
        (
            httpx.Response(200, json={"access_token": 1, "expires_in": 3599}),
            Deferred("token_unclear", blame=Blame.PROVIDER),
        ),
        (httpx.Response(200, json={"access_token": "t1"}), Deferred("token_unclear", blame=Blame.PROVIDER)),
        (
            httpx.Response(200, json={"access_token": "t\r\nX: 1", "expires_in": 3599}),
            Deferred("token_unclear", blame=Blame.PROVIDER),
        ),
        (httpx.ConnectError("x"), Deferred("token_connection_failed", blame=Blame.PROVIDER)),
        (httpx.ReadError("x"), Deferred("token_connection_lost", blame=Blame.PROVIDER)),
    ],
)
async def test_without_a_token_no_mail_leaves_and_none_is_to_blame(
    answer: httpx.Response | httpx.TransportError, outcome: Outcome
) -> None:
    def token(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer

    google = Google(token=token)
    assert await send(google, mail()) == [outcome]
    assert google.mails == []


async def test_a_token_that_does_not_come_is_given_up_before_the_call_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """10 s, however many wait for it: cut off by the caller's 30 s instead, the mail would be in doubt."""

    async def never(_request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError

    outcomes: list[Outcome] = []

    async def one() -> None:
        outcomes.extend(await sender.send([mail()], sender.encode([mail()]), ""))

    async with open_client(width=5, transport=httpx.MockTransport(never)) as client:
        sender = gmail(client)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one)
    assert outcomes == [Deferred("token_timeout", blame=Blame.PROVIDER)] * 3
    assert trio.current_time() == 10


@pytest.mark.parametrize("pem", ["", "nonsense", "ec", "encrypted"])
def test_a_key_that_is_none_is_said_without_showing_it(pem: str) -> None:
    if pem == "ec":
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    if pem == "encrypted":
        secret = BestAvailableEncryption(b"password")
        pem = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret).decode()
    with pytest.raises(ConfigError, match=r"email\.gmail\.service_account: its private_key is not a") as info:
        Gmail(None, gmail_settings(service_account=account_json(private_key=pem or "-")), now=lambda: NINE)  # type: ignore[arg-type]
    assert "PRIVATE KEY" not in str(info.value)
    assert "nonsense" not in str(info.value)


async def test_it_opens_by_its_name_and_shows_no_secret() -> None:
    settings = Settings(email=EmailSettings(provider="gmail", gmail=gmail_settings()))
    async with open_email(settings.email.provider, settings, now=lambda: NINE) as sender:
        assert (sender.name, sender.max_batch, sender.honours_keys) == ("gmail", 1, False)
    google = Google()
    async with open_client(width=1, transport=httpx.MockTransport(google)) as client:
        mine = gmail(client)
        await mine.send([mail()], mine.encode([mail()]), "")
    shown = repr(settings) + repr(Token("t1", NINE, timedelta(hours=1))) + "".join(map(repr, vars(mine).values()))
    assert "PRIVATE KEY" not in shown
    assert "t1" not in shown
    assert USER not in shown


# Mails --------------------------------------------------------------------------------------------------------------


async def test_a_mail_as_it_leaves() -> None:
    google = Google()
    message = mail(1, text="本日が期限\n\n以上", reply_to="ask@example.jp")
    assert await send(google, message) == [Delivered("m1")]
    (request,) = google.mails
    assert (request.method, str(request.url)) == ("POST", SEND)
    assert request.headers["content-type"] == "application/json"
    assert raw(request).decode("ascii").split("\r\n") == [
        "Date: Tue, 24 Nov 2026 00:00:00 +0000",
        'Content-Type: multipart/alternative; boundary="000000000000000000000001"',
        "MIME-Version: 1.0",
        "From: keikakun <no-reply@example.jp>",
        "To: taro1@example.jp",
        "Reply-To: ask@example.jp",
        "Subject: =?utf-8?b?44CQ5pyf6ZmQ44Ki44Op44O844OI44CR44Gy44G+44KP44KK?=",
        "Auto-Submitted: auto-generated",
        "Message-ID: <00000000-0000-0000-0000-000000000001@example.jp>",
        "",
        "--000000000000000000000001",
        'Content-Type: text/plain; charset="utf-8"',
        "MIME-Version: 1.0",
        "Content-Transfer-Encoding: base64",
        "",
        base64.b64encode("本日が期限\r\n\r\n以上".encode()).decode(),
        "",
        "--000000000000000000000001",
        'Content-Type: text/html; charset="utf-8"',
        "MIME-Version: 1.0",
        "Content-Transfer-Encoding: base64",
        "",
        base64.b64encode("<p>本日が期限</p>".encode()).decode(),
        "",
        "--000000000000000000000001--",
        "",
    ]


async def test_a_mail_is_dated_when_it_is_sent() -> None:
    """However long before that it was made; and again on its second way, it is the same call."""
    google, clock = Google(), Clock()
    async with open_client(width=1, transport=httpx.MockTransport(google)) as client:
        sender = gmail(client, clock)
        body = sender.encode([mail()])
        clock.now += timedelta(hours=2, seconds=1)
        assert await sender.send([mail()], body, "") == [Delivered("m1")]
    (request,) = google.mails
    assert message_from_bytes(raw(request), policy=policy.default)["Date"].datetime == clock.now


# Answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (google_error(403, "rateLimitExceeded"), Deferred("rate_limited:403", blame=Blame.PROVIDER)),
        (google_error(403, "userRateLimitExceeded"), Deferred("rate_limited:403", blame=Blame.PROVIDER)),
        (google_error(429, "rateLimitExceeded"), Deferred("rate_limited:429", blame=Blame.PROVIDER)),
        (
            google_error(429, "userRateLimitExceeded", "User-rate limit exceeded.", **{"Retry-After": "9"}),
            Deferred("rate_limited:429", 9.0, Blame.PROVIDER),
        ),
        (
            google_error(429, "rateLimitExceeded", "User-rate limit exceeded. (Mail sending)", **{"Retry-After": "9"}),
            Blocked("quota:429", 9.0),
        ),
        (google_error(403, "dailyLimitExceeded"), Blocked("quota:403")),
        (google_error(403, "domainPolicy"), Blocked("blocked:403")),
        (google_error(403, "insufficientPermissions"), Blocked("blocked:403")),
        (google_error(400, "failedPrecondition", "Mail service not enabled"), Blocked("blocked:400")),
        (google_error(404, "notFound"), Blocked("blocked:404")),
        (google_error(400, "invalidArgument", "Invalid To header"), Rejected("rejected:400")),
        (google_error(400, "badRequest"), Rejected("rejected:400", Blame.UNCLEAR)),
        (google_error(413, "uploadTooLarge"), Rejected("rejected:413", Blame.UNCLEAR)),
        (google_error(500, "backendError"), Deferred("server_error:500")),
        (google_error(503, "rateLimitExceeded"), Deferred("server_error:503")),
        (google_error(504, "backendError"), Unknown("server_error:504")),
        (httpx.Response(404), Deferred("not_the_provider:404", blame=Blame.PATH)),
        (httpx.Response(403, json={"error": {"errors": {"reason": "rateLimitExceeded"}}}), Blocked("blocked:403")),
        (httpx.Response(403, json={"error": {"errors": ["rateLimitExceeded"]}}), Blocked("blocked:403")),
        (httpx.Response(403, json={"error": "rateLimitExceeded"}), Blocked("blocked:403")),
    ],
)
async def test_documented_errors(answer: httpx.Response, outcome: Outcome) -> None:
    assert await send(Google(send=lambda _: answer), mail()) == [outcome]


async def test_a_token_answer_that_cannot_be_read_leaves_the_mail_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mail was in that call, so nothing is in doubt."""

    def bug(*_: object) -> None:
        raise KeyError("t1")

    monkeypatch.setattr(oauth, "_read", bug)
    google = Google()
    assert await send(google, mail()) == [Deferred("token_unclear", blame=Blame.PROVIDER)]
    assert google.mails == []


@pytest.mark.parametrize("body", [b"", b"<html>welcome to our wifi</html>", b"{}", b'{"id": null}', b'["id"]'])
async def test_a_200_that_names_no_mail_tells_nothing(body: bytes) -> None:
    google = Google(send=lambda _: httpx.Response(200, content=body))
    assert await send(google, mail()) == [Unknown("answer_unclear")]


async def test_a_lost_answer_is_in_doubt_also_on_the_second_way() -> None:
    def lost(_request: httpx.Request) -> httpx.Response:
        if len(google.mails) == 1:
            return google_error(401, "authError")
        raise httpx.ReadError("x")

    google = Google(send=lost)
    assert await send(google, mail()) == [Unknown("connection_lost")]
    assert len(google.mails) == 2
