"""What every sender owes its caller: a provider joins by an entry in KINDS."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
import trio
from attrs import evolve, frozen

from notifierd.errors import ConfigError
from notifierd.model import Blame, Blocked, Deferred, Mail, Outcome, Push, Rejected, Unknown
from notifierd.send import Sender
from notifierd.send._http import Client, open_client
from notifierd.send.open import EMAIL_WIDTH, PROVIDERS, PUSH_WIDTH, open_email, open_push
from notifierd.send.resend import Resend
from notifierd.send.vapid import make_vapid_key
from notifierd.send.webpush import WebPush
from notifierd.settings import EmailSettings, LimitsSettings, PushSettings, ResendSettings, Settings
from tests.loopback import read_request, serving
from tests.messages import Browser, mail, push

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
KEY = str(UUID(int=42))
VAPID, _ = make_vapid_key()


@frozen
class Kind:
    """How to make a sender that talks to *base* (http://127.0.0.1:port), and messages for it."""

    make: Callable[[Client, str], Sender[Any]]
    messages: Callable[[int, str], Sequence[Mail | Push]]


def resend(client: Client, base: str) -> Sender[Any]:
    return Resend(client, ResendSettings(api_key="re_1", base_url=base), now=lambda: NOW)


def webpush(client: Client, base: str) -> Sender[Any]:
    settings = PushSettings(vapid_private_key=VAPID, allowed_hosts=("127.0.0.1",), allow_private_addresses=True)
    return WebPush(client, settings, subject="mailto:ops@example.jp", now=lambda: NOW)


KINDS = {
    "resend": Kind(resend, lambda count, _base: [mail(number) for number in range(count)]),
    "webpush": Kind(webpush, lambda count, base: [push(Browser().subscription(f"{base}/{n}")) for n in range(count)]),
}
BASE = "http://127.0.0.1:1"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@asynccontextmanager
async def answered(kind: Kind, answer: Callable[[httpx.Request], httpx.Response]) -> AsyncIterator[Sender[Any]]:
    async with open_client(width=1, transport=httpx.MockTransport(answer)) as client:
        yield kind.make(client, BASE)


async def outcomes_of(kind: Kind, answer: httpx.Response, count: int = 1) -> list[Outcome]:
    messages = kind.messages(count, BASE)
    async with answered(kind, lambda _request: answer) as sender:
        return await sender.send(messages, sender.encode(messages), KEY)


def test_every_provider_has_joined() -> None:
    assert set(KINDS) == set(PROVIDERS) | {"webpush"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (302, Rejected("rejected:302")),
        (400, Rejected("rejected:400")),
        (401, Blocked("blocked:401", 9.0)),
        (403, Blocked("blocked:403", 9.0)),
        (408, Deferred("request_timeout:408", 9.0)),
        (413, Rejected("rejected:413")),
        (422, Rejected("rejected:422")),
        (425, Deferred("too_early:425", 9.0)),
        (429, Deferred("rate_limited:429", 9.0, Blame.PROVIDER)),
        (500, Deferred("server_error:500", 9.0)),
        (502, Unknown("server_error:502", 9.0)),
        (503, Deferred("server_error:503", 9.0)),
        (504, Unknown("server_error:504", 9.0)),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>taro@example.jp", b'{"name": ["odd"]}', b"[]", b'"x"'])
async def test_a_status_means_the_same_for_all(kind: Kind, status: int, outcome: Outcome, body: bytes) -> None:
    answer = httpx.Response(status, content=body, headers={"Retry-After": "9"})
    assert await outcomes_of(kind, answer) == [outcome]


async def test_one_outcome_for_each_message(kind: Kind) -> None:
    async with answered(kind, lambda _request: httpx.Response(503)) as sender:
        count = sender.max_batch
    assert await outcomes_of(kind, httpx.Response(503), count) == [Deferred("server_error:503")] * count


async def test_the_same_messages_give_the_same_bytes(kind: Kind) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200)

    async with answered(kind, answer) as one, answered(kind, answer) as two:
        messages = kind.messages(one.max_batch, BASE)
        assert one.encode(messages) == two.encode(list(messages))


@pytest.mark.parametrize("excess", [0, 1])
async def test_a_call_carries_one_message_to_max_batch(kind: Kind, excess: int) -> None:
    async with answered(kind, lambda _request: httpx.Response(200)) as sender:
        with pytest.raises(ValueError):  # noqa: PT011 - what counts is that it is refused
            sender.encode(kind.messages(excess and sender.max_batch + 1, BASE))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (httpx.ConnectError, Deferred("connection_failed", blame=Blame.PROVIDER)),
        (httpx.ConnectTimeout, Deferred("connection_failed", blame=Blame.PROVIDER)),
        (httpx.WriteError, Unknown("connection_lost")),
        (httpx.ReadError, Unknown("connection_lost")),
        (httpx.RemoteProtocolError, Unknown("connection_lost")),
    ],
)
async def test_what_the_network_does_is_an_outcome(
    kind: Kind, error: type[httpx.TransportError], outcome: Outcome
) -> None:
    def failing(_request: httpx.Request) -> httpx.Response:
        raise error("taro@example.jp")

    messages = kind.messages(1, BASE)
    async with answered(kind, failing) as sender:
        assert await sender.send(messages, sender.encode(messages), KEY) == [outcome]


async def test_a_cut_and_a_hang_on_real_sockets(kind: Kind) -> None:
    """Cut after the request: in doubt. Hanging: the caller's cancellation passes, and the sender works on."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        calls.append(stream)
        if len(calls) == 2:
            await trio.sleep_forever()

    calls: list[trio.SocketStream] = []
    async with serving(handler) as port, open_client(width=1) as client:
        base = f"http://127.0.0.1:{port}"
        sender, messages = kind.make(client, base), kind.messages(1, base)
        body = sender.encode(messages)
        assert await sender.send(messages, body, KEY) == [Unknown("connection_lost")]
        with trio.move_on_after(0.2) as scope:
            await sender.send(messages, body, KEY)
        assert scope.cancelled_caught
        assert await sender.send(messages, body, KEY) == [Unknown("connection_lost")]
    assert len(calls) == 3


async def test_a_call_may_take_as_long_as_its_caller_says(kind: Kind, autojump_clock: trio.testing.MockClock) -> None:
    """30 s: an hour-long answer is cut there, at no time of the sender's own."""

    async def slow(_request: httpx.Request) -> httpx.Response:
        await trio.sleep(3600)
        return httpx.Response(200)

    messages, before = kind.messages(1, BASE), trio.current_time()
    async with open_client(width=1, transport=httpx.MockTransport(slow)) as client:
        sender = kind.make(client, BASE)
        with pytest.raises(trio.TooSlowError), trio.fail_after(30):
            await sender.send(messages, sender.encode(messages), KEY)
    assert trio.current_time() - before == 30


async def test_the_configured_senders_open() -> None:
    settings = Settings(
        email=EmailSettings(sender="no-reply@example.jp", resend=ResendSettings(api_key="re_1")),
        push=PushSettings(vapid_private_key=VAPID),
    )
    async with open_email(settings, now=lambda: NOW) as email, open_push(settings, now=lambda: NOW) as pusher:
        assert (email.name, pusher.name) == ("resend", "webpush")


async def test_an_opened_push_sender_calls_public_addresses_only() -> None:
    private = PushSettings(vapid_private_key=VAPID, allowed_hosts=("localhost",))
    message = push(Browser().subscription("https://localhost/x"))
    async with open_push(Settings(push=private), now=lambda: NOW) as sender:
        assert await sender.send([message], b"{}", KEY) == [Deferred("address_not_public", blame=Blame.PROVIDER)]
    anywhere = evolve(private, allow_private_addresses=True)
    message = push(Browser().subscription("http://localhost:1/x"))
    async with open_push(Settings(push=anywhere), now=lambda: NOW) as sender:
        assert await sender.send([message], b"{}", KEY) == [Deferred("connection_failed", blame=Blame.PROVIDER)]


async def test_what_cannot_be_opened_is_said() -> None:
    with pytest.raises(ConfigError, match=r'email\.provider: "ses" is not built yet'):
        async with open_email(Settings(email=EmailSettings(provider="ses")), now=lambda: NOW):
            pass
    with pytest.raises(ConfigError, match=r"push\.vapid_private_key: required"):
        async with open_push(Settings(), now=lambda: NOW):
            pass


def test_a_client_is_as_wide_as_its_limit_may_become() -> None:
    LimitsSettings(email=EMAIL_WIDTH, push=PUSH_WIDTH)
    for beyond in ({"email": EMAIL_WIDTH + 1}, {"push": PUSH_WIDTH + 1}):
        with pytest.raises(ValueError, match="out of range"):
            LimitsSettings(**beyond)
