"""What ``notifierd check --connect`` says of providers and receivers, over real HTTP on loopback."""

import socket
from collections.abc import Callable

import pytest
import trio
from attrs import evolve

from notifierd.commands.check import check
from notifierd.commands.finding import Finding, Level, exit_code
from notifierd.commands.providers.connect import look_at_providers
from notifierd.config.providers import PostmarkSettings, ResendSettings
from notifierd.config.settings import (
    DatabaseSettings,
    EmailSettings,
    LimitsSettings,
    PushSettings,
    Settings,
    WatchSettings,
)
from notifierd.model.reasons import Reason
from tests.support.loopback import OK, Handler, answering, read_request, serving
from tests.support.smtp_servers import MailServer, running

DOMAINS = b'{"object": "list", "data": [{"status": "verified"}]}'
SERVER = b'{"ID": 1, "DeliveryType": "Sandbox"}'
REFUSED = f"blocked:401: {Reason.BLOCKED.english}"
NO_RIGHT = "The key may not read what became of the mails. Add the permission that the code names, or use another key."
OUTAGE = "server_error:503: The provider has an outage or an error. See its status page."
KEY, TOKEN = "re_secret", "server-secret"


def saying(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def settings_for(url: str, **more: object) -> Settings:
    email = EmailSettings(sender="desk@example.jp", resend=ResendSettings(api_key=KEY, base_url=url))
    return Settings(email=email, push=PushSettings(enabled=False), **more)  # type: ignore[arg-type]


async def found_at(handler: Handler, change: Callable[[Settings, str], Settings] = lambda s, _url: s) -> list[Finding]:
    async with serving(handler) as port:
        url = f"http://127.0.0.1:{port}"
        findings = await look_at_providers(change(settings_for(url), url))
    assert not [finding for finding in findings if KEY in finding.text or TOKEN in finding.text]
    return findings


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (saying(200, DOMAINS), Level.OK, "accepts the key (GET /domains)"),
        (
            saying(200, b'{"data": []}'),
            Level.WARN,
            "accepts the key (GET /domains); no domain is verified, so mail goes to the account's own address only",
        ),
        (
            saying(401, b'{"statusCode": 401, "name": "validation_error", "message": "API key is invalid"}'),
            Level.BAD,
            "rejects the key or the account (GET /domains): " + REFUSED,
        ),
        (
            saying(503, b""),
            Level.AWAY,
            "could not be asked (GET /domains): " + OUTAGE,
        ),
        (saying(200, b"<html>"), Level.AWAY, "could not be asked (GET /domains): answer_unclear"),
    ],
)
async def test_a_line_says_that_the_key_is_good_or_what_is_wrong(answer: bytes, level: Level, text: str) -> None:
    assert await found_at(answering(answer)) == [Finding("email.resend", level, text)]


@pytest.mark.parametrize(
    ("login", "level", "text"),
    [
        ("235 2.7.0 Ok", Level.OK, "accepts the key (a login)"),
        (
            "535 5.7.8 no",
            Level.BAD,
            f"rejects the key or the account (a login): blocked:535:5.7.8: {Reason.BLOCKED.english}",
        ),
    ],
)
async def test_a_mail_server_is_asked_by_a_login(login: str, level: Level, text: str) -> None:
    server = MailServer({"AUTH": login})
    async with running(server) as table:
        smtp = evolve(table, username="u", password=KEY)
        email = EmailSettings(provider="smtp", sender="desk@example.jp", smtp=smtp)
        findings = await look_at_providers(Settings(email=email, push=PushSettings(enabled=False)))
    assert findings == [Finding("email.smtp", level, text)]
    assert server.verbs[:3] == ["CONNECT", "EHLO", "AUTH"]
    assert "MAIL" not in server.verbs


async def test_the_fallback_is_asked_too_and_the_order_is_that_of_the_configuration() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        while True:
            head, _ = await read_request(stream)
            paths = {b"/server": SERVER, b"/bounces": b'{"TotalCount": 0, "Bounces": []}'}
            path = head.split()[1].partition(b"?")[0]
            await stream.send_all(saying(200, paths.get(path, DOMAINS)))

    def change(settings: Settings, url: str) -> Settings:
        postmark = PostmarkSettings(server_token=TOKEN, base_url=url)
        watch = WatchSettings(webhook_url=f"{url}/services/secret", ping_url=f"{url}/ping-secret")
        return evolve(settings, email=evolve(settings.email, fallback="postmark", postmark=postmark), watch=watch)

    assert await found_at(handler, change) == [
        Finding("email.resend", Level.OK, "accepts the key (GET /domains)"),
        Finding(
            "email.postmark",
            Level.WARN,
            "accepts the key (GET /server); the server is a sandbox, which delivers no mail",
        ),
        Finding("email.postmark.feedback", Level.OK, "tells what became of mails, except: delivered"),
        Finding("watch.webhook_url", Level.OK, "127.0.0.1 can be reached"),
        Finding("watch.ping_url", Level.OK, "127.0.0.1 can be reached"),
    ]


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (saying(200, b'{"object": "list", "has_more": false, "data": []}'), Level.OK, "tells what became of mails"),
        (
            saying(401, b'{"statusCode": 401, "name": "restricted_api_key", "message": "This API key is restricted"}'),
            Level.BAD,
            "does not tell what became of mails: no_right:401:full_access: " + NO_RIGHT,
        ),
        (saying(503, b""), Level.AWAY, "could not be asked what became of mails: " + OUTAGE),
    ],
)
async def test_a_line_says_whether_the_key_that_asks_works(answer: bytes, level: Level, text: str) -> None:
    def change(settings: Settings, _url: str) -> Settings:
        return evolve(settings, email=evolve(settings.email, resend=evolve(settings.email.resend, feedback_key=TOKEN)))

    _, finding = await found_at(answering(answer), change)
    assert finding == Finding("email.resend.feedback", level, text)


async def test_a_receiver_is_neither_posted_to_nor_pinged() -> None:
    seen: list[tuple[bytes, bytes]] = []

    def change(settings: Settings, url: str) -> Settings:
        watch = WatchSettings(webhook_url=f"{url}/services/secret?x=1", ping_url=f"{url}/ping-secret")
        return evolve(settings, email=EmailSettings(), watch=watch)

    findings = await found_at(answering(saying(404, b""), seen), change)
    assert [finding.level for finding in findings] == [Level.OK] * 2
    assert [head.partition(b"\r\n")[0] for head, _ in seen] == [b"GET / HTTP/1.1"] * 2


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (saying(200, b'{"room_id": 123, "role": "member"}'), Level.OK, "accepts the key (GET of the room)"),
        (
            saying(200, b'{"room_id": 123, "role": "readonly"}'),
            Level.WARN,
            "accepts the key (GET of the room); the account may only read in this room",
        ),
        (
            saying(401, b'{"errors": ["Invalid API token"]}'),
            Level.BAD,
            f"rejects the key or the account (GET of the room): {REFUSED}",
        ),
    ],
)
async def test_chatwork_is_asked_for_the_room_with_the_token(answer: bytes, level: Level, text: str) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def change(settings: Settings, url: str) -> Settings:
        room = f"{url}/v2/rooms/123/messages"
        watch = WatchSettings(webhook_url=room, format="chatwork", webhook_token=TOKEN)
        return evolve(settings, email=EmailSettings(), watch=watch)

    assert await found_at(answering(answer, seen), change) == [Finding("watch.webhook_token", level, text)]
    ((head, _),) = seen
    assert head.startswith(b"GET /v2/rooms/123 HTTP/1.1\r\n")
    assert f"x-chatworktoken: {TOKEN}".encode() in head.lower().split(b"\r\n")


async def test_who_cannot_be_reached_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        settings = evolve(settings_for(url), watch=WatchSettings(ping_url=f"{url}/ping-secret"))
        findings = await look_at_providers(settings)
    why = "connection_failed: The provider was unreachable. Check the network and the provider's status page."
    assert findings == [
        Finding("email.resend", Level.AWAY, f"could not be asked (GET /domains): {why}"),
        Finding("watch.ping_url", Level.WARN, f"127.0.0.1 cannot be reached: {why}"),
    ]
    assert exit_code(findings) == 3


async def test_who_does_not_answer_is_given_up() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await trio.sleep_forever()

    def change(settings: Settings, _url: str) -> Settings:
        return evolve(settings, limits=LimitsSettings(send_timeout=0.2))

    assert await found_at(handler, change) == [
        Finding("email.resend", Level.AWAY, "could not be asked (the call): timeout")
    ]


async def test_push_services_are_asked_for_by_name_and_not_where_a_test_set_up_is_served() -> None:
    push = PushSettings(allowed_hosts=("push.invalid", "*.example.net"), vapid_private_key="")
    settings = Settings(email=EmailSettings(), push=push)
    (finding,) = await look_at_providers(settings)
    assert (finding.subject, finding.level) == ("push.allowed_hosts", Level.WARN)
    assert finding.text.startswith("push.invalid cannot be reached: ")
    assert await look_at_providers(evolve(settings, push=evolve(push, allow_private_addresses=True))) == []


async def test_without_the_option_nobody_is_asked() -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(OK, seen)) as port:
        url = f"http://127.0.0.1:{port}"
        nowhere = DatabaseSettings(dsn="postgresql://nobody@127.0.0.1:1/nothing")
        settings = evolve(settings_for(url, database=nowhere), watch=WatchSettings(ping_url=f"{url}/ping-secret"))
        without = await check(settings)
        assert seen == []
        with_it = await check(settings, connect=True)
    assert len(seen) == 2
    assert [one.subject for one in with_it if one not in without] == ["email.resend", "watch.ping_url"]
