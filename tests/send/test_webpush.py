"""Web Push as a browser and a push service see it: decrypted with the subscription's key, verified with ours."""

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import http_ece
import httpx
import pytest
from attrs import evolve
from cryptography.exceptions import InvalidSignature
from py_vapid.jwt import decode

from notifierd.config.checks import parse_vapid_key
from notifierd.config.settings import PushSettings
from notifierd.model.message import PUSH_BYTES, Push
from notifierd.model.office import Device
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Gone, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send.vapid import TOKENS, Vapid, make_vapid_key
from notifierd.send.webpush import WebPush
from tests.support.messages import AUTH, Browser, base64url, push

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
PRIVATE, PUBLIC = make_vapid_key()
SETTINGS = PushSettings(vapid_private_key=PRIVATE)
TRIAL = evolve(SETTINGS, allow_private_addresses=True, allowed_hosts=("127.0.0.1", "[::1]", "push.test"))
SUBJECT = "mailto:ops@example.jp"
FCM = "https://fcm.googleapis.com/fcm/send/abc"
WINDOWS = "https://wns2-par02p.notify.windows.com/w/?token=abc"


async def send(
    *messages: Push, status: int = 201, settings: PushSettings = SETTINGS, **answer: Any
) -> tuple[list[httpx.Request], list[Outcome]]:
    """Send each of *messages* by one sender; return the requests that left, and the outcomes."""
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, **answer)

    async with open_client(width=1, transport=httpx.MockTransport(transport)) as client:
        sender = WebPush(client, settings, subject=SUBJECT, now=lambda: NOW)
        outcomes = [outcome for one in messages for outcome in await sender.send([one], sender.encode([one]), "key")]
    return seen, outcomes


def claims(authorization: str) -> dict[str, Any]:
    """Verify a header as RFC 8292, section 3, has it; return the claims."""
    scheme, _, rest = authorization.partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    assert scheme == "vapid"
    assert parts["k"] == PUBLIC
    verified: dict[str, Any] = decode(parts["t"], parts["k"])
    return verified


async def test_the_browser_reads_what_was_sent() -> None:
    browser = Browser()
    message = push(browser.subscription(FCM), payload=("期" * 1331).encode())
    (request,), outcomes = await send(message)
    decrypted = http_ece.decrypt(request.content, private_key=browser.key, auth_secret=AUTH, version="aes128gcm")
    assert decrypted == message.payload
    assert (len(message.payload), len(request.content)) == (3993, 4096)
    assert outcomes == [Delivered()]
    assert PUSH_BYTES == 3993 - (4096 - 2744)


async def test_two_texts_leave_with_one_length() -> None:
    """test_push_encryption.py has which, and why."""
    messages = [push(Browser().subscription(FCM), payload=text) for text in (b"{}", b'{"title":"a longer one"}')]
    first, second = [len(request.content) for request in (await send(*messages))[0]]
    assert first == second > len(messages[1].payload) + 103


async def test_the_request_is_as_the_rfcs_have_it() -> None:
    (request,), _ = await send(push(Browser().subscription(FCM), urgency="high", ttl=10_800))
    assert (request.method, str(request.url)) == ("POST", FCM)
    assert request.headers["content-encoding"] == "aes128gcm"
    assert request.headers["content-type"] == "application/octet-stream"
    assert request.headers["ttl"] == "10800"
    assert request.headers["urgency"] == "high"
    assert request.headers["topic"] == "A" * 32
    assert "x-wns-type" not in request.headers


async def test_each_origin_gets_a_token_of_its_own() -> None:
    """Two services in turn, twice: every token is for its own audience, and within 24 hours."""
    urls = {FCM: "https://fcm.googleapis.com", WINDOWS: "https://wns2-par02p.notify.windows.com"}
    requests, _ = await send(*[push(Browser().subscription(url)) for url in (*urls, *urls)])
    assert len(requests) == 4
    for request in requests:
        found = claims(request.headers["authorization"])
        assert found["aud"] == urls[str(request.url)]
        assert found["sub"] == SUBJECT
        assert NOW.timestamp() < found["exp"] <= (NOW + timedelta(hours=24)).timestamp()
    assert requests[0].headers["authorization"] == requests[2].headers["authorization"]


def test_a_token_is_made_anew_well_before_it_expires_and_when_the_clock_is_set_back() -> None:
    vapid = Vapid(PRIVATE, SUBJECT)
    first = vapid.authorization("https://a.example", NOW)
    for hours, same in ((0, True), (5.9, True), (6, False), (-12, False)):
        moment = NOW + timedelta(hours=hours)
        token = vapid.authorization("https://a.example", moment)
        assert (token == first) == same
        assert timedelta(hours=6) < datetime.fromtimestamp(claims(token)["exp"], UTC) - moment <= timedelta(hours=12)


def test_tokens_are_kept_for_so_many_origins_only() -> None:
    vapid = Vapid(PRIVATE, SUBJECT)
    for number in range(TOKENS + 1):
        vapid.authorization(f"https://{number}.example", NOW)
    assert len(vapid._tokens) == 1  # noqa: SLF001 - memory has no other face


def test_another_key_does_not_verify() -> None:
    other, _ = make_vapid_key()
    with pytest.raises(InvalidSignature):
        claims(
            Vapid(other, SUBJECT).authorization("https://a.example", NOW).replace(Vapid(other, "").public_key, PUBLIC)
        )


def test_a_made_key_pair_is_what_the_configuration_and_browsers_take() -> None:
    private, public = make_vapid_key()
    assert len(urlsafe_b64decode(private + "=")) == 32
    assert len(urlsafe_b64decode(public + "=")) == 65
    assert PushSettings(vapid_private_key=private).vapid_private_key == private
    assert Vapid(private, SUBJECT).public_key == public
    assert Vapid(parse_vapid_key(private).private_pem().decode(), SUBJECT).public_key == public


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Delivered()),
        (201, Delivered()),
        (202, Delivered()),
        (404, Gone("gone:404")),
        (410, Gone("gone:410")),
        (413, Rejected("rejected:413")),
        (401, Deferred("device_refused:401")),
        (403, Deferred("device_refused:403")),
        (429, Deferred("rate_limited:429", blame=Blame.PROVIDER)),
        (502, Unknown("server_error:502")),
        (407, Blocked("blocked:407")),
        (400, Deferred("refused:400")),
        (406, Deferred("refused:406")),
        (422, Deferred("refused:422")),
        (302, Deferred("refused:302")),
        (408, Deferred("request_timeout:408")),
        (500, Deferred("server_error:500")),
        (503, Deferred("server_error:503")),
    ],
)
async def test_what_a_push_service_answers(status: int, outcome: Outcome) -> None:
    _, outcomes = await send(push(Browser().subscription(FCM)), status=status, headers={"Location": "https://secret"})
    assert outcomes == [outcome]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Unknown("answer_unclear")),
        (201, Unknown("answer_unclear")),
        (302, Deferred("not_the_provider:302", blame=Blame.PATH)),
        (400, Deferred("refused:400")),
        (404, Deferred("refused:404")),
        (410, Gone("gone:410")),
        (407, Blocked("blocked:407")),
        (413, Rejected("rejected:413")),
        (500, Deferred("server_error:500", blame=Blame.PATH)),
        (502, Unknown("server_error:502")),
        (503, Deferred("server_error:503", blame=Blame.PATH)),
        (511, Deferred("not_the_provider:511", blame=Blame.PATH)),
    ],
)
@pytest.mark.parametrize("page", [b"<HTML>", b"\xef\xbb\xbf\r\n <!DOCTYPE html>"])
async def test_a_page_of_html_counts_as_anothers_but_for_a_refusal(status: int, outcome: Outcome, page: bytes) -> None:
    """FCM's own refusals are pages, too. A page takes no device away with 404, and takes no message with 200."""
    answer = httpx.Response(status, content=page)
    async with open_client(width=1, transport=httpx.MockTransport(lambda _: answer)) as client:
        sender = WebPush(client, SETTINGS, subject=SUBJECT, now=lambda: NOW)
        message = push(Browser().subscription(FCM))
        assert await sender.send([message], message.payload, "") == [outcome]


@pytest.mark.parametrize("value", ["90", "Tue, 24 Nov 2026 00:01:30 GMT"])
@pytest.mark.parametrize(("endpoint", "status"), [(FCM, 429), (FCM, 503), (WINDOWS, 406)])
async def test_a_push_service_says_how_long_to_wait_in_seconds_or_with_a_date(
    endpoint: str, status: int, value: str
) -> None:
    _, (outcome,) = await send(push(Browser().subscription(endpoint)), status=status, headers={"Retry-After": value})
    assert isinstance(outcome, Deferred)
    assert outcome.retry_after == 90.0


@pytest.mark.parametrize(("ttl", "policy"), [(0, "no-cache"), (60, "cache")])
async def test_windows_gets_its_own_headers_and_says_429_as_406(ttl: int, policy: str) -> None:
    message = push(Browser().subscription(WINDOWS), ttl=ttl)
    (request,), outcomes = await send(message, status=406, headers={"Retry-After": "5"})
    assert (request.headers["x-wns-type"], request.headers["x-wns-cache-policy"]) == ("wns/raw", policy)
    assert outcomes == [Deferred("rate_limited:406", 5.0, Blame.PROVIDER)]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("received", Delivered()),
        ("dropped", Deferred("dropped:201", blame=Blame.MESSAGE)),
        ("channelThrottled", Deferred("channelthrottled:201", 7.0, Blame.MESSAGE)),
        ("taro@example.jp", Delivered()),
    ],
)
async def test_windows_says_in_a_header_that_it_dropped_what_it_answers_201_to(status: str, outcome: Outcome) -> None:
    headers = {"X-WNS-NotificationStatus": status} | ({"Retry-After": "7"} if status == "channelThrottled" else {})
    for endpoint, expected in ((WINDOWS, outcome), (FCM, Delivered())):
        _, outcomes = await send(push(Browser().subscription(endpoint)), headers=headers)
        assert outcomes == [expected]


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("", "malformed_url"),
        ("not a url", "malformed_url"),
        ("file:///etc/passwd", "malformed_url"),
        ("https://fcm.googleapis.com\r\n/x", "malformed_url"),
        ("https://fcm.googleapis.com:0/x", "malformed_url"),
        ("https://.push.apple.com/x", "malformed_url"),
        ("https://evil.example\\.push.apple.com/x", "malformed_url"),
        ("http://fcm.googleapis.com/x", "not_https"),
        ("https://user:secret@fcm.googleapis.com/x", "userinfo"),
        ("https://fcm.googleapis.com@evil.example/x", "userinfo"),
        ("https://fcm.googleapis.com:8443/x", "port_not_443"),
        ("https://fcm.googleapis.com.evil.example/x", "host_not_allowed"),
        ("https://fcm.googleapis.com./x", "host_not_allowed"),
        ("https://evil.example/fcm.googleapis.com", "host_not_allowed"),
        ("https://evil.example#.push.apple.com", "host_not_allowed"),
        ("https://evil.example?.push.apple.com", "host_not_allowed"),
        ("https://push.apple.com/x", "host_not_allowed"),
        ("https://evilpush.apple.com/x", "host_not_allowed"),
        ("https://web.push.apple.com.evil.example/x", "host_not_allowed"),
        ("https://web.push.apple.com./x", "host_not_allowed"),
        ("https://web.push.apple.co/x", "host_not_allowed"),
        ("https://evilcm.googleapis.com/x", "host_not_allowed"),
        ("https://evil.fcm.googleapis.com/x", "host_not_allowed"),
        ("https://127.0.0.1:9200/x", "host_not_allowed"),
        ("https://[::1]/x", "host_not_allowed"),
        ("https://169.254.169.254/latest", "host_not_allowed"),
    ],
)
async def test_an_endpoint_that_is_no_push_service_is_not_called(endpoint: str, why: str) -> None:
    message = push(Browser().subscription(endpoint))
    assert await send(message) == ([], [Rejected(f"endpoint_refused:{why}")])


@pytest.mark.parametrize(
    ("endpoint", "host", "target"),
    [
        (FCM, "fcm.googleapis.com", "/fcm/send/abc"),
        ("https://fcm.googleapis.com/fcm/send/a-b:c_d%2F%3D", "fcm.googleapis.com", "/fcm/send/a-b:c_d%2F%3D"),
        (
            "https://wns2-par02p.notify.windows.com/w/?token=BQYA%2b%2f%3d%3d",
            "wns2-par02p.notify.windows.com",
            "/w/?token=BQYA%2b%2f%3d%3d",
        ),
        ("https://a.b.push.apple.com/x//y", "a.b.push.apple.com", "/x//y"),
        ("HTTPS://FCM.googleapis.com/X", "fcm.googleapis.com", "/X"),
        ("https://web.push.apple.com/x#fragment", "web.push.apple.com", "/x"),
    ],
)
async def test_push_services_are_called_as_their_endpoints_say(endpoint: str, host: str, target: str) -> None:
    (request,), _ = await send(push(Browser().subscription(endpoint)))
    assert (request.headers["host"], request.url.raw_path.decode()) == (host, target)
    assert claims(request.headers["authorization"])["aud"] == f"https://{host}"


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080"),
        ("https://[::1]:8443/x", "https://[::1]:8443"),
        ("https://push.test:443/x", "https://push.test"),
    ],
)
async def test_a_test_set_up_may_use_any_scheme_and_port_of_an_allowed_host(endpoint: str, origin: str) -> None:
    (request,), outcomes = await send(push(Browser().subscription(endpoint)), settings=TRIAL)
    assert outcomes == [Delivered()]
    assert claims(request.headers["authorization"])["aud"] == origin


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://127.0.0.2:8080/x", "host_not_allowed"),
        ("http://a:b@127.0.0.1:8080/x", "userinfo"),
        ("http://fcm.googleapis.com/x", "host_not_allowed"),
    ],
)
async def test_a_test_set_up_may_not_use_any_host(endpoint: str, why: str) -> None:
    message = push(Browser().subscription(endpoint))
    assert await send(message, settings=TRIAL) == ([], [Rejected(f"endpoint_refused:{why}")])


async def test_a_refusal_is_of_us_unless_the_service_takes_what_goes_to_others() -> None:
    """Told by what passes: from five offices in a row on it is us; one message that passes ends that.

    However many devices of one office are refused, they count once. Before anything has passed nobody knows.
    """
    statuses = [403, 201, 403, 401, 403, 403, 403, 403, 403, 201, 403, 403]
    offices = [0, 1, 0, 2, 2, 3, 4, 5, 0, 5, 0, 6]
    answers = iter(statuses)
    async with open_client(width=1, transport=httpx.MockTransport(lambda _: httpx.Response(next(answers)))) as client:
        sender = WebPush(client, SETTINGS, subject=SUBJECT, now=lambda: NOW)
        told = []
        for number in offices:
            message = push(Browser().subscription(FCM), office_id=UUID(int=number))
            told += await sender.send([message], message.payload, "")
    us = Blocked("blocked:403")
    nobody_knows = Deferred("device_refused:403", blame=Blame.UNCLEAR)
    them, in_401 = (Deferred(f"device_refused:{status}", blame=Blame.MESSAGE) for status in (403, 401))
    assert told == [nobody_knows, Delivered(), them, in_401, them, them, them, us, us, Delivered(), them, them]


async def test_a_service_that_refuses_us_says_nothing_of_another() -> None:
    urls = (FCM, *[WINDOWS] * 5, FCM)
    answers = iter([201, *[403] * 6])
    async with open_client(width=1, transport=httpx.MockTransport(lambda _: httpx.Response(next(answers)))) as client:
        sender = WebPush(client, SETTINGS, subject=SUBJECT, now=lambda: NOW)
        told = [
            outcome
            for n, url in enumerate(urls)
            for outcome in await sender.send([push(Browser().subscription(url), office_id=UUID(int=n))], b"{}", "")
        ]
    assert told[0] == Delivered()
    assert told[-2:] == [Blocked("blocked:403"), Deferred("device_refused:403", blame=Blame.MESSAGE)]


GOOD = Browser().subscription(FCM)


@pytest.mark.parametrize(
    "device",
    [
        evolve(GOOD, p256dh=""),
        evolve(GOOD, p256dh="not base64!"),
        evolve(GOOD, auth=f"{GOOD.auth[:5]} !{GOOD.auth[5:]}"),
        evolve(GOOD, auth=f"{GOOD.auth}X"),
        evolve(GOOD, p256dh=GOOD.p256dh[:-4]),
        evolve(GOOD, p256dh=base64url(b"\4" + bytes(64))),
        evolve(GOOD, p256dh="\udcff"),
        evolve(GOOD, auth=""),
        evolve(GOOD, auth="short"),
        evolve(GOOD, auth="ü" * 22),
    ],
)
async def test_keys_that_are_none_are_not_sent_to(device: Device) -> None:
    assert await send(push(device)) == ([], [Rejected("bad_subscription", asked=False)])


async def test_keys_in_plain_base64_do_as_well() -> None:
    """Applications write ``btoa(...)`` of a key as often as base64url."""
    browser = Browser()
    device = browser.subscription(FCM)
    plain = evolve(device, p256dh=device.p256dh.replace("-", "+").replace("_", "/") + "=", auth=device.auth + "==")
    (request,), _ = await send(push(plain))
    assert json.loads(http_ece.decrypt(request.content, private_key=browser.key, auth_secret=AUTH, version="aes128gcm"))


async def test_a_destination_is_an_origin() -> None:
    async with open_client(width=1, transport=httpx.MockTransport(lambda _: httpx.Response(201))) as client:
        sender = WebPush(client, SETTINGS, subject=SUBJECT, now=lambda: NOW)
        destinations = [
            sender.destination(push(Browser().subscription(url))) for url in (FCM, WINDOWS, "https://evil.example", "")
        ]
    assert destinations == [
        "https://fcm.googleapis.com",
        "https://wns2-par02p.notify.windows.com",
        "endpoint_refused",
        "endpoint_refused",
    ]
