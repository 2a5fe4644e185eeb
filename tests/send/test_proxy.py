"""Calls through an HTTP proxy: what goes there, and what the proxy's own words mean."""

import ast
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trio
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

import notifierd
from notifierd.config.network import read_route
from notifierd.config.providers import ResendSettings
from notifierd.config.settings import EmailSettings, NetworkSettings, PushSettings, Settings
from notifierd.model.errors import ConfigError
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._answers import Answer
from notifierd.send._http import open_client
from notifierd.send._network import Network, NotMade
from notifierd.send.open import open_email, open_push
from notifierd.send.route.tunnel import HEAD_BYTES, Routed
from notifierd.send.vapid import make_vapid_key
from notifierd.service.watch import one_client
from tests.support.certificates import certificate, over_tls
from tests.support.connect_proxy import Asked, ConnectProxy, proxying
from tests.support.google_api import gmail_settings
from tests.support.hostile import PRIVATE_HOSTS
from tests.support.loopback import Handler, join, read_request, receive, serving
from tests.support.messages import Browser, mail, push

NOW = datetime(2026, 11, 24, tzinfo=UTC)
VAPID, _ = make_vapid_key()
PUSH = PushSettings(vapid_private_key=VAPID)
NAMES = ("*.example.jp", "*.push.apple.com")
USER = "http://hushuser:hush%3Aword@"
BASIC = "Basic aHVzaHVzZXI6aHVzaDp3b3Jk"


def refused(status: int) -> Deferred:
    return Deferred(f"proxy_refused:{status}", blame=Blame.PATH)


FAILED = Deferred("proxy_failed", blame=Blame.PATH)
PRIVATE = Deferred("endpoint_refused:private_address", blame=Blame.MESSAGE)


@define
class NoNames(trio.abc.HostnameResolver):
    """A machine behind a proxy: it can look up nothing."""

    asked: list[str] = field(factory=list)

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        self.asked.append(host.decode())
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


@define
class Servers:
    """All servers there are, behind one port with TLS.

    Attributes:
        connections: how many arrived.
        requests: the host and the target of each request.
    """

    connections: int = 0
    requests: list[str] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        while True:
            head, _ = await read_request(stream)
            first, *lines = head.decode().split("\r\n")
            host = next(line[6:] for line in lines if line.lower().startswith("host: "))
            self.requests.append(f"{host}{first.split()[1]}")
            body = json.dumps({"id": "id-1", "access_token": "t1", "expires_in": 3599}).encode()
            await stream.send_all(b"HTTP/1.1 201 -\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@define
class World:
    """A proxy, and what is behind it.

    Attributes:
        network: the configuration that names the proxy.
    """

    proxy: ConnectProxy
    servers: Servers
    names: NoNames
    network: NetworkSettings

    def lead(self, *targets: str) -> None:
        """Have the proxy reach the servers at these."""
        (port,) = set(self.proxy.ports.values())
        self.proxy.ports = dict.fromkeys(targets, port)

    async def post(self, url: str) -> object:
        async with open_client(width=1, network=self.network) as client:
            return await client.post(url, b"hello", {})


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An authority, and a server's certificate of it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = certificate(folder / "authority.pem")
    return authority, certificate(folder / "server.pem", names=NAMES, authority=authority)


@asynccontextmanager
async def a_world(shown: tuple[Path, Path], servers: Handler | None = None) -> AsyncIterator[World]:
    names, everything = NoNames(), Servers()
    trio.socket.set_custom_hostname_resolver(names)
    async with serving(over_tls(servers or everything.serve, shown[1])) as port:
        proxy = ConnectProxy({"api.example.jp:443": port})
        async with proxying(proxy) as url:
            yield World(proxy, everything, names, NetworkSettings(proxy=url, ca_file=str(shown[0])))


@pytest.fixture
async def world(shown: tuple[Path, Path]) -> AsyncIterator[World]:
    async with a_world(shown) as made:
        yield made


def with_proxy(network: NetworkSettings, proxy: str) -> NetworkSettings:
    return evolve(network, proxy=proxy)


# ------------------------------------------------------------------------------------------ what goes through the proxy


async def test_mails_tokens_pushes_alarms_and_pings_go_through_the_proxy(world: World) -> None:
    """Counted at both ends, and nothing is even looked up here."""
    world.proxy.authorization = BASIC
    network = with_proxy(world.network, world.network.proxy.replace("http://", USER))
    api = "https://api.example.jp"
    both = Settings(
        network=network,
        email=EmailSettings(
            resend=ResendSettings(api_key="re_1", base_url=api),
            gmail=gmail_settings(base_url=api, token_url="https://oauth2.example.jp/token"),
        ),
        push=PUSH,
    )
    targets = ["api.example.jp:443", "oauth2.example.jp:443", "web.push.apple.com:443", "hooks.example.jp:443"]
    world.lead(*targets)
    outcomes: list[Outcome] = []
    for provider in ("resend", "gmail"):
        async with open_email(provider, both, now=lambda: NOW) as sender:
            outcomes += await sender.send([mail()], sender.encode([mail()]), "key")
    async with open_push(both, now=lambda: NOW) as pusher:
        message = push(Browser().subscription("https://web.push.apple.com/x"))
        outcomes += await pusher.send([message], message.payload, "key")
    for path in ("hook", "ping"):
        async with one_client(network) as client:
            assert isinstance(await client.post(f"https://hooks.example.jp/{path}", b"", {}), Answer)
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 3
    assert world.servers.requests == [
        "api.example.jp/emails",
        "oauth2.example.jp/token",
        "api.example.jp/gmail/v1/users/me/messages/send",
        "web.push.apple.com/x",
        "hooks.example.jp/hook",
        "hooks.example.jp/ping",
    ]
    assert world.servers.connections == world.proxy.connections == len(world.proxy.asked) == 6
    assert {asked.authorization for asked in world.proxy.asked} == {BASIC}
    assert world.names.asked == []


def test_every_client_of_the_program_is_told_the_way() -> None:
    """A call that is made without [network] would go around the proxy."""
    package = Path(notifierd.__file__).parent
    calls = [
        (file.name, {keyword.arg for keyword in node.keywords})
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open_client"
    ]
    assert len(calls) >= 3
    assert [name for name, given in calls if "network" not in given] == []


async def test_a_tunnel_is_kept_for_the_next_request(world: World) -> None:
    async with open_client(width=1, network=world.network) as client:
        for _ in range(3):
            assert isinstance(await client.post("https://api.example.jp/emails", b"", {}), Answer)
    assert world.proxy.asked == [Asked("api.example.jp:443")]
    assert world.servers.connections == 1


async def test_an_unencrypted_call_goes_through_a_tunnel_too(world: World) -> None:
    """A proxy that forwarded it could answer in the server's place."""
    everything = Servers()
    async with serving(everything.serve) as port:
        world.proxy.ports = {"hooks.example.jp:8025": port, "[2001:db8::1]:80": port}
        for url in ("http://hooks.example.jp:8025/x", "http://[2001:db8::1]/x"):
            answer = await world.post(url)
            assert isinstance(answer, Answer)
            assert answer.status == 201
    assert world.proxy.targets == ["hooks.example.jp:8025", "[2001:db8::1]:80"]
    assert everything.requests == ["hooks.example.jp:8025/x", "[2001:db8::1]/x"]


async def test_loopback_and_what_no_proxy_names_are_called_directly(world: World) -> None:
    everything = Servers()
    async with serving(everything.serve) as port:
        assert isinstance(await world.post(f"http://127.0.0.1:{port}/x"), Answer)
        world.network = evolve(world.network, no_proxy=(".example.jp",))
        outcome = await world.post("https://api.example.jp/emails")
    assert outcome == Deferred("connection_failed", blame=Blame.PROVIDER)
    assert world.names.asked == ["api.example.jp"]
    assert (world.proxy.connections, everything.connections) == (0, 1)


async def test_the_environment_is_honoured_only_if_the_key_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", world.network.proxy)
    for proxy, asked in (("", 0), ("environment", 1)):
        world.network = with_proxy(world.network, proxy)
        await world.post("https://api.example.jp/emails")
        assert world.proxy.connections == asked
    monkeypatch.setenv("HTTPS_PROXY", "https://proxy.example.jp:1")
    with pytest.raises(ConfigError, match="only http:// is supported"):
        await world.post("https://api.example.jp/emails")


# -------------------------------------------------------------------------------------------- what a proxy's words mean


@pytest.mark.parametrize("url", ["https://api.example.jp/emails", "http://api.example.jp:443/emails"])
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Blocked("proxy_auth_required")) for status in (401, 407)),
        *((status, refused(status)) for status in (300, 302, 400, 403, 404, 405, 410, 413, 422, 429, 451)),
        *((status, refused(status)) for status in (500, 502, 503, 504, 511, 599, 999)),
    ],
)
async def test_what_a_proxy_answers_is_never_taken_for_the_providers(
    world: World, url: str, status: int, outcome: Outcome
) -> None:
    """Though it speaks as the provider would, and asks to wait."""
    body = b'{"statusCode": 422, "name": "validation_error", "message": "Invalid `to` field. taro1@example.jp"}'
    world.proxy.answer = b"HTTP/1.1 %d -\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    assert await world.post(url) == outcome
    base_url = url.removesuffix("/emails")
    email = EmailSettings(resend=ResendSettings(api_key="re_1", base_url=base_url))
    async with open_email("resend", Settings(network=world.network, email=email), now=lambda: NOW) as sender:
        messages = [mail(1), mail(2)]
        assert await sender.send(messages, sender.encode(messages), "key") == [outcome] * 2
    assert world.servers.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nVia: x\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Le",
        b"<html>Please log in",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x05\xff",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * HEAD_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 -\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_no_answer_or_one_that_is_none_is_the_proxys_failure(world: World, answer: bytes) -> None:
    world.proxy.answer = answer
    for url in ("https://api.example.jp/emails", "http://api.example.jp/emails"):
        assert await world.post(url) == FAILED
    assert world.servers.connections == 0


async def test_interim_answers_and_odd_headers_do_not_hinder_a_tunnel(world: World) -> None:
    """RFC 9110, section 9.3.6: Content-Length and Transfer-Encoding of a 2xx to CONNECT are ignored."""
    (port,) = world.proxy.ports.values()

    async def odd(client: trio.SocketStream) -> None:
        await receive(client)
        await client.send_all(b"HTTP/1.1 100 -\r\n\r\nHTTP/1.1 204 \xff\r\nX: \xe3\x81\r\nContent-Length: 9\r\n\r\n")
        async with await trio.open_tcp_stream("127.0.0.1", port) as server:
            await join(client, server)

    async with serving(odd) as other:
        world.network = with_proxy(world.network, f"http://127.0.0.1:{other}")
        assert isinstance(await world.post("https://api.example.jp/emails"), Answer)


LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 407 x", b"HTTP/1.1 503 x", b"HTTP/1.1 100 x", b"HTTP/1.1 999 x"]
)
HEADERS = st.sampled_from(
    [b"Content-Length: 3", b"Content-Length: x", b"Transfer-Encoding: chunked", b"Retry-After: 9", b": ", b"X", b"X:"]
)
ANSWERS = st.tuples(LINES, st.lists(HEADERS | st.binary(max_size=20), max_size=3), st.binary(max_size=30)).map(
    lambda parts: b"\r\n".join([parts[0], *parts[1], b"", parts[2]])
) | st.binary(max_size=200)


@settings(max_examples=300)
@given(st.lists(ANSWERS, max_size=2), st.integers(0, 300), st.sampled_from(["https", "http"]))
def test_whatever_a_proxy_says_no_call_was_made(answers: list[bytes], cut: int, scheme: str) -> None:
    """Nothing raises; unless it opens a tunnel, nothing is delivered, rejected or in doubt."""
    said = b"".join(answers)[:cut]

    async def call() -> object:
        proxy = ConnectProxy(answer=said)
        async with proxying(proxy) as url, open_client(width=1, network=NetworkSettings(proxy=url)) as client:
            return await client.post(f"{scheme}://api.example.jp/emails", b"hello", {})

    outcome = trio.run(call)
    if outcome in {Deferred("connection_failed", blame=Blame.PROVIDER), Unknown("connection_lost")}:
        assert said.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2", b"HTTP/1.1 100"))  # a tunnel, and an end of it
        assert (scheme == "http") == isinstance(outcome, Unknown)
        return
    assert isinstance(outcome, Deferred | Blocked)
    assert outcome.reason.startswith("proxy_")


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 -\r\n\r\n"], ids=["silent", "endless"])
async def test_a_proxy_that_hangs_is_given_up_in_the_time_for_connecting(interim: bytes) -> None:
    closed = trio.Event()

    async def hang(stream: trio.SocketStream) -> None:
        await receive(stream)
        try:
            while interim:
                await stream.send_all(interim)
            await stream.receive_some()
        finally:
            closed.set()

    async with serving(hang) as port:
        routed = Routed(read_route(f"http://127.0.0.1:{port}", (), {}), Network())
        with pytest.raises(NotMade) as caught:
            await routed.connect_tcp("api.example.jp", 443, timeout=0.3)
        assert caught.value.outcome == FAILED
        with trio.fail_after(60):
            await closed.wait()


async def test_a_call_that_is_cancelled_while_the_proxy_is_asked_leaves_no_connection() -> None:
    asked, closed = trio.Event(), trio.Event()

    async def hang(stream: trio.SocketStream) -> None:
        await receive(stream)
        asked.set()
        await stream.receive_some()
        closed.set()

    async with serving(hang) as port, trio.open_nursery() as nursery:
        network = NetworkSettings(proxy=f"http://127.0.0.1:{port}")
        async with open_client(width=1, network=network) as client:
            async with trio.open_nursery() as calls:
                calls.start_soon(client.post, "https://api.example.jp/", b"", {})
                await asked.wait()
                calls.cancel_scope.cancel()
            with trio.fail_after(60):
                await closed.wait()
        nursery.cancel_scope.cancel()


async def test_a_proxy_that_is_down_or_unknown_is_no_trouble_of_the_providers(world: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for proxy in (f"http://127.0.0.1:{unused.getsockname()[1]}", "http://proxy.example.jp:3128"):
            world.network = with_proxy(world.network, proxy)
            outcome = await world.post("https://api.example.jp/")
            assert outcome == Deferred("proxy_unreachable", blame=Blame.PATH)
    assert world.names.asked == ["proxy.example.jp"]


async def test_wrong_credentials_block_until_they_are_corrected(world: World) -> None:
    world.proxy.authorization = BASIC
    for user in ("http://", "http://hushuser:wrong@"):
        world.network = with_proxy(world.network, f"{user}{world.network.proxy.rpartition('/')[2].rpartition('@')[2]}")
        assert await world.post("https://api.example.jp/emails") == Blocked("proxy_auth_required")
    world.network = with_proxy(world.network, f"{USER}{world.network.proxy.rpartition('@')[2]}")
    assert isinstance(await world.post("https://api.example.jp/emails"), Answer)


async def test_what_is_cut_in_an_open_tunnel_is_in_doubt_as_without_a_proxy(shown: tuple[Path, Path]) -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await read_request(stream)

    async with a_world(shown, cut) as world:
        assert await world.post("https://api.example.jp/emails") == Unknown("connection_lost")


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
async def test_a_host_that_cannot_be_is_not_asked_for(world: World, host: str) -> None:
    """TLS, too, would raise an error for it."""
    assert await world.post(f"https://{host}/") == Deferred("connection_failed", blame=Blame.PROVIDER)
    assert world.proxy.connections == 0


# --------------------------------------------------------------------------------------------------------------- pushes


async def pushed(network: NetworkSettings, endpoint: str, *allowed_hosts: str) -> list[Outcome]:
    tables = Settings(push=evolve(PUSH, allowed_hosts=allowed_hosts or PUSH.allowed_hosts), network=network)
    message = push(Browser().subscription(endpoint))
    async with open_push(tables, now=lambda: NOW) as sender:
        return await sender.send([message], message.payload, "key")


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("https://evil.example/x", "host_not_allowed"),
        ("https://web.push.apple.com:8443/x", "port_not_443"),
        ("http://web.push.apple.com/x", "not_https"),
    ],
)
async def test_an_endpoint_is_checked_before_a_proxy_hears_of_it(world: World, endpoint: str, why: str) -> None:
    assert await pushed(world.network, endpoint) == [Rejected(f"endpoint_refused:{why}")]
    assert world.proxy.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        *PRIVATE_HOSTS,
        *("localhost", "intranet", "printer.local", "vault.internal", "nas.home.arpa"),
    ],
)
async def test_a_private_host_is_not_asked_for_even_where_it_is_allowed(world: World, host: str) -> None:
    trio.socket.set_custom_hostname_resolver(None)  # localhost is looked up, and refused for its address
    assert await pushed(world.network, f"https://{host}/x", host.lower()) == [PRIVATE]
    assert world.proxy.connections == 0


async def test_a_public_address_may_be_asked_for(world: World) -> None:
    for host in ("17.0.0.1", "[2620:149::1]"):
        assert await pushed(world.network, f"https://{host}/x", host) == [refused(502)]
    assert world.proxy.targets == ["17.0.0.1:443", "[2620:149::1]:443"]


async def test_a_push_service_that_is_called_directly_is_guarded_as_ever(world: World) -> None:
    network = evolve(world.network, no_proxy=("*.push.apple.com",))
    assert await pushed(network, "https://web.push.apple.com/x") == [
        Deferred("host_not_found", blame=Blame.MESSAGE),
    ]
    assert (world.names.asked, world.proxy.connections) == (["web.push.apple.com"], 0)


# -------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 407 -\r\n\r\n", b"HTTP/1.1 403 -\r\n\r\n", b"garbage", b""])
async def test_no_credential_of_the_proxy_is_told(
    world: World, caplog: pytest.LogCaptureFixture, answer: bytes | None
) -> None:
    caplog.set_level(logging.DEBUG)
    world.proxy.answer = answer
    network = with_proxy(world.network, world.network.proxy.replace("http://", USER))
    world.lead("web.push.apple.com:443")
    with capture_logs() as logs:
        told: list[object] = [network, await pushed(network, "https://web.push.apple.com/x"), logs]
        routed = Routed(read_route(network.proxy, (), {}), Network())
        told.append(routed)
        try:
            stream = await routed.connect_tcp("api.example.jp", 443)
        except httpcore.ConnectError as error:
            told += [error, error.__cause__]
        else:
            await stream.aclose()
    text = caplog.text + repr(told) + "".join(map(str, told))
    secrets: Mapping[str, str] = {"user": "hushuser", "password": "hush", "header": BASIC[6:]}
    assert [name for name, secret in secrets.items() if secret in text] == []
    assert {asked.authorization for asked in world.proxy.asked} == {BASIC}
