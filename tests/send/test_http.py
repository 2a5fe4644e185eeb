"""What the end of a request means: certainly not sent, answered, or in doubt."""

import gzip
import logging
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpcore
import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from notifierd.model.outcome import Blame, Deferred, Unknown
from notifierd.send._answers import Answer
from notifierd.send._http import BODY_BYTES, BODY_SECONDS, open_client, parse_url
from notifierd.send._network import PublicNetwork, is_public
from notifierd.send.route.exchange import Transport, _url
from notifierd.send.route.trust import trusted
from tests.send.test_senders import KINDS
from tests.support.loopback import OK, answering, read_request, receive, serving

PRIVATE = Deferred("endpoint_refused:private_address", blame=Blame.MESSAGE)


def gz(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


async def post(port: int, *, scheme: str = "http", host: str = "127.0.0.1", width: int = 2) -> object:
    async with open_client(width=width) as client:
        return await client.post(f"{scheme}://{host}:{port}/emails", b"hello", {})


async def test_nobody_listening_is_certainly_not_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await post(unused.getsockname()[1]) == Deferred("connection_failed", blame=Blame.PROVIDER)


@pytest.mark.parametrize("host", ["unknown.example", "a" * 64 + ".example", "a..example"])
async def test_a_host_without_address_is_certainly_not_sent(host: str) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    assert await post(80, host=host) == Deferred("connection_failed", blame=Blame.PROVIDER)


async def test_tls_that_fails_is_certainly_not_sent() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await receive(stream)
        await stream.send_all(b"this is no TLS")

    async with serving(handler) as port:
        assert await post(port, scheme="https") == Deferred("connection_failed", blame=Blame.PROVIDER)


async def test_a_handshake_that_is_cancelled_leaves_no_connection_open() -> None:
    closed, shaking = trio.Event(), trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        await receive(stream)
        shaking.set()
        while await stream.receive_some():
            pass
        closed.set()

    async with serving(handler) as port, open_client(width=1) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.post, f"https://127.0.0.1:{port}/", b"", {})
            await shaking.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            await closed.wait()


async def test_a_request_leaves_in_one_piece() -> None:
    """Head and body together, for each request of a connection."""
    pieces: list[bytes] = []

    async def handler(stream: trio.SocketStream) -> None:
        while piece := await stream.receive_some():
            pieces.append(piece)
            await stream.send_all(OK)

    async with serving(handler) as port, open_client(width=1) as client:
        for body in (b"the first", b"the second"):
            assert isinstance(await client.post(f"http://127.0.0.1:{port}/", body, {}), Answer)
    assert [(piece[:6], piece.partition(b"\r\n\r\n")[2]) for piece in pieces] == [
        (b"POST /", b"the first"),
        (b"POST /", b"the second"),
    ]


async def test_a_get_has_no_body() -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(OK, seen)) as port, open_client(width=1) as client:
        for _ in range(2):
            assert await client.get(f"http://127.0.0.1:{port}/emails?limit=1&after=a%2Fb", {"X-Key": "1"}) == Answer(
                200, {"content-length": "2"}, b"{}"
            )
    for head, body in seen:
        assert head.startswith(b"GET /emails?limit=1&after=a%2Fb HTTP/1.1\r\n")
        assert b"\r\nX-Key: 1" in head
        assert b"content-length" not in head.lower()
        assert body == b""


async def test_only_connecting_has_a_time_of_its_own() -> None:
    """A call given up before the connection stands was certainly not made; for the rest the caller's time counts."""
    times: list[object] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        times.append(request.extensions["timeout"])
        raise httpx.ConnectTimeout("")

    async with open_client(width=1, transport=httpx.MockTransport(handler)) as client:
        outcome = await client.post("https://api.example/", b"", {})
    assert outcome == Deferred("connection_failed", blame=Blame.PROVIDER)
    assert times == [{"connect": 10.0}]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH\r\n"])
async def test_a_cut_after_the_request_is_in_doubt(answer: bytes) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(answer)

    async with serving(handler) as port:
        assert await post(port) == Unknown("connection_lost")


async def test_a_reset_in_mid_request_is_in_doubt() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await receive(stream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with serving(handler) as port, open_client(width=1) as client:
        assert await client.post(f"http://127.0.0.1:{port}/", b"x" * 20_000_000, {}) == Unknown("connection_lost")


async def test_an_early_refusal_is_read_although_the_request_was_cut() -> None:
    """A server that answers 413 and closes before it took the whole body has answered."""

    async def handler(stream: trio.SocketStream) -> None:
        await receive(stream)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await stream.send_eof()
        while True:
            await receive(stream)

    async with serving(handler) as port, open_client(width=1) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/", b"x" * 2_000_000, {})
    assert isinstance(answer, Answer)
    assert answer.status == 413


async def test_a_status_stands_although_its_body_is_cut() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b'HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"id": "')

    async with serving(handler) as port:
        answer = await post(port)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body, answer.json()) == (201, b'{"id": "', None)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gz(b'{"id": "1"}')),
        ("gzip", gz(b'{"id": "1"}')[:-8]),
        ("gzip, gzip", gz(gz(b'{"id": "1"}'))),
        ("deflate", zlib.compress(b'{"id": "1"}')),
    ],
    ids=["whole", "cut", "twice", "deflate"],
)
async def test_a_compressed_answer_is_read_although_nobody_asked_for_it(
    coding: str, packed: bytes, chunked: bool
) -> None:
    """Middle boxes compress whatever a request says; what is not understood is sent again."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n"
    if chunked:
        body = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
        answer = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body
    else:
        answer = f"{head}Content-Length: {len(packed)}\r\n\r\n".encode() + packed
    async with serving(answering(answer)) as port:
        found = await post(port)
    assert isinstance(found, Answer)
    assert found.json() == {"id": "1"}


async def test_a_compressed_bomb_is_read_to_its_bound() -> None:
    bomb = gz(bytes(100 * BODY_BYTES))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    async with serving(answering(head.encode() + bomb)) as port:
        answer = await post(port)
    assert isinstance(answer, Answer)
    assert answer.body == bytes(BODY_BYTES)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n{}", 200, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", 205, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, b"{}"),
        (b"HTTP/1.1 302 \r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302, b""),
        (
            b"HTTP/1.1 200 \xff\xfe\r\nX-\x41: \xe3\x81\x82\xff\r\nRetry-After: 5\r\nRetry-After: 5\r\n\r\n{}",
            200,
            b"{}",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    ],
)
async def test_odd_answers_are_answers(answer: bytes, status: int, body: bytes) -> None:
    """HTTP/1.0, interim answers, no body, header bytes beyond ASCII, a header twice."""

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(answer)

    async with serving(handler) as port:
        found = await post(port)
    assert isinstance(found, Answer)
    assert (found.status, found.body) == (status, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    ],
)
async def test_what_is_no_answer_to_a_request_is_in_doubt(answer: bytes) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(answer)

    async with serving(handler) as port, open_client(width=1) as client:
        for name in ("resend", "webpush"):
            kind = KINDS[name]
            base = f"http://127.0.0.1:{port}"
            messages, sender = kind.messages(1, base), kind.make(client, base)
            (outcome,) = await sender.send(messages, sender.encode(messages), "key")
            assert isinstance(outcome, Unknown)


async def test_a_hanging_call_that_is_cancelled_costs_no_connection() -> None:
    """More hanging calls than the pool is wide, one after the other; then the client still works."""

    async def handler(stream: trio.SocketStream) -> None:
        head, _ = await read_request(stream)
        if b"/hang" in head:
            await trio.sleep_forever()
        await stream.send_all(OK)

    async with serving(handler) as port, open_client(width=2) as client:
        for _ in range(5):
            with trio.move_on_after(0.05) as scope:
                await client.post(f"http://127.0.0.1:{port}/hang", b"", {})
            assert scope.cancelled_caught
        with trio.fail_after(60):
            answer = await client.post(f"http://127.0.0.1:{port}/", b"", {})
    assert answer == Answer(200, {"content-length": "2"}, b"{}")


async def test_an_endless_body_is_read_to_its_bound() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)

    async with serving(handler) as port, open_client(width=1) as client:
        for _ in range(3):
            with trio.fail_after(60):
                answer = await client.post(f"http://127.0.0.1:{port}/", b"", {})
            assert isinstance(answer, Answer)
            assert answer.body == b"x" * BODY_BYTES


async def test_a_body_that_never_ends_takes_nothing_from_its_status(autojump_clock: MockClock) -> None:
    """What a push service took is not sent again because it drips: 10 s for the body, whatever the caller allows."""

    class Dripping(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b"."
                await trio.sleep(3)

    transport = httpx.MockTransport(lambda _: httpx.Response(201, stream=Dripping()))
    async with open_client(width=1, transport=transport) as client:
        with trio.fail_after(30):
            answer = await client.post("https://push.example/", b"", {})
    assert answer == Answer(201, {}, b"....")
    assert trio.current_time() == BODY_SECONDS == 10


async def test_endless_headers_are_given_up() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"X-Header: " + b"x" * 1000 + b"\r\n")

    async with serving(handler) as port:
        with trio.fail_after(10):
            assert await post(port) == Unknown("connection_lost")


async def test_endless_interim_answers_are_over_when_the_caller_says_so() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        while True:
            await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    async with serving(handler) as port, open_client(width=1) as client:
        with trio.move_on_after(0.2) as scope:
            await client.post(f"http://127.0.0.1:{port}/", b"", {})
    assert scope.cancelled_caught


async def test_as_many_calls_as_the_client_is_wide_are_made_at_once() -> None:
    """Nobody is answered before all four are there."""
    waiting, everyone = [], trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        waiting.append(stream)
        if len(waiting) == 4:
            everyone.set()
        await everyone.wait()
        await stream.send_all(OK)

    async with serving(handler) as port, open_client(width=4) as client:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(client.post, f"http://127.0.0.1:{port}/", b"", {})


class Wires(httpcore.AsyncMockBackend):
    """A network that answers each request with OK, and knows which of its connections are open.

    To close one takes *closing* seconds.
    """

    def __init__(self, closing: float = 0.0) -> None:
        self.made, self.open, self.closing = 0, 0, closing

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        wires = self

        class Wire(httpcore.AsyncMockStream):
            async def read(self, *_: Any, **__: Any) -> bytes:
                await trio.sleep(0.1)
                return OK

            def get_extra_info(self, info: str) -> None:
                """Nothing has arrived, and there is no TLS."""

            async def aclose(self) -> None:
                wires.open -= 1
                await trio.sleep(wires.closing)

        self.made, self.open = self.made + 1, self.open + 1
        return Wire([])


async def test_a_connection_is_kept_for_the_next_request_for_a_while(autojump_clock: MockClock) -> None:
    """Of three, to two places, as many as the client is wide; those that nobody needs for 5 s are closed."""
    wires = Wires()
    async with open_client(width=2, transport=Transport(2, wires, partial(trusted, ""))) as client:
        post = partial(client.post, body=b"", headers={})
        async with trio.open_nursery() as nursery:
            for url in ("http://one.example/", "http://one.example/", "http://other.example/"):
                nursery.start_soon(post, url)
                await trio.sleep(0.02)  # so that they come back in this order
        assert (wires.made, wires.open) == (3, 2)
        await trio.sleep(4.9)
        for _ in range(2):
            await post("http://other.example/")
        assert (wires.made, wires.open) == (3, 1)  # the one to one.example has waited for 5.0 s
        await trio.sleep(5.1)
        await post("http://other.example/")
        assert (wires.made, wires.open) == (4, 1)
    assert wires.open == 0


async def test_old_connections_are_closed_once_by_whoever_comes_first(autojump_clock: MockClock) -> None:
    """Four are old when four new requests come at once."""
    wires = Wires()
    async with open_client(width=4, transport=Transport(4, wires, partial(trusted, ""))) as client:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(client.post, "http://one.example/", b"", {})
            await trio.sleep(5.1)
        assert (wires.made, wires.open) == (8, 4)


async def test_a_call_that_ends_while_all_connections_are_closed_leaves_none_open(autojump_clock: MockClock) -> None:
    """The idle ones take 0.3 s to close; the call ends after 0.1 s."""
    wires = Wires(closing=0.15)
    transport = Transport(4, wires, partial(trusted, ""))
    async with open_client(width=4, transport=transport) as client:
        for name in ("one", "two"):
            await client.post(f"http://{name}.example/", b"", {})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.post, "http://three.example/", b"", {})
            await wait_all_tasks_blocked()
            await transport.aclose()
    assert (wires.made, wires.open) == (3, 0)


@pytest.mark.parametrize("headers", [{"X-Key": "a\nb"}, {"X-Key": "ａ"}, {"X Key": "a"}])
async def test_a_request_that_http_does_not_have_was_certainly_not_sent(headers: dict[str, str]) -> None:
    seen: list[tuple[bytes, bytes]] = []
    not_sent = Deferred("connection_failed:request")
    async with serving(answering(OK, seen)) as port, open_client(width=1) as client:
        for _ in range(2):
            assert await client.post(f"http://127.0.0.1:{port}/", b"1", headers) == not_sent
            assert isinstance(await client.post(f"http://127.0.0.1:{port}/", b"2", {}), Answer)
        assert await client.post("http://host:x/", b"3", {}) == not_sent
    assert [body for _, body in seen] == [b"2", b"2"]


async def test_a_connection_that_the_other_end_closed_meanwhile_is_not_used() -> None:
    """A request over it would be in doubt."""
    closed = trio.Semaphore(0)

    async def handler(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(OK)
        await stream.aclose()
        closed.release()

    async with serving(handler) as port, open_client(width=1) as client:
        for _ in range(3):
            assert isinstance(await client.post(f"http://127.0.0.1:{port}/", b"", {}), Answer)
            await closed.acquire()


@pytest.mark.parametrize("head", [OK, b"HTTP/1.1 204 No Content\r\n\r\n"])
@pytest.mark.parametrize("surplus", [b"HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n", b"{}"])
async def test_what_follows_an_answer_is_not_read_as_the_answer_to_the_next_request(
    head: bytes, surplus: bytes
) -> None:
    connections = 0

    async def handler(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(stream)
            await stream.send_all(head + surplus)

    async with serving(handler) as port, open_client(width=1) as client:
        for made in range(1, 4):
            answer = await client.post(f"http://127.0.0.1:{port}/", b"", {})
            assert isinstance(answer, Answer)
            assert answer.status == int(head.split()[1])
            assert connections == made


async def test_redirects_cookies_and_proxies_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    elsewhere: list[Any] = []
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(OK, elsewhere)) as other:
        answer = (
            f"HTTP/1.1 307 -\r\nLocation: http://127.0.0.1:{other}/\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
        )
        async with serving(answering(answer.encode(), seen)) as port, open_client(width=1) as client:
            for _ in range(2):
                redirect = await client.post(f"http://127.0.0.1:{port}/", b"", {})
                assert isinstance(redirect, Answer)
                assert redirect.status == 307
    assert elsewhere == []
    head = seen[1][0].lower()
    assert b"cookie" not in head
    assert b"accept-encoding: identity" in head
    assert b"user-agent: notifierd" in head


async def test_no_url_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(answering(OK)) as port:
        await post(port)
    assert "emails" not in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_no_url_is_remembered_once_the_client_is_closed() -> None:
    """An endpoint is a secret, and thousands of them are two megabytes."""
    url = "https://push.example/secret"
    async with open_client(width=1, transport=httpx.MockTransport(lambda _: httpx.Response(201))) as client:
        assert parse_url(url)
        assert await client.post(url, b"", {}) == Answer(201, {})
    assert parse_url.cache_info().currsize == _url.cache_info().currsize == 0


class Resolver(trio.abc.HostnameResolver):
    """Says what it is told of a host, and nothing of any other."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = hosts
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        self.asked += 1
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        families = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in self.hosts[name]]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in families]

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("host", ["unknown.example", "a" * 64 + ".example"])
async def test_a_name_that_does_not_exist_is_no_trouble_of_its_push_service(host: str) -> None:
    """Names come from browsers: one that nobody has must not keep a run going until its window ends."""
    trio.socket.set_custom_hostname_resolver(Resolver())
    async with open_client(width=1, public_only=True) as client:
        outcome = await client.post(f"https://{host}/", b"", {})
    assert outcome == Deferred("host_not_found", blame=Blame.MESSAGE)


@pytest.mark.parametrize("error", [socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM])
async def test_a_resolver_in_trouble_says_nothing_of_the_name(error: int) -> None:
    class Troubled(Resolver):
        async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
            raise socket.gaierror(error, "trouble")

    trio.socket.set_custom_hostname_resolver(Troubled())
    async with open_client(width=1, public_only=True) as client:
        outcome = await client.post("https://push.example/", b"", {})
    assert outcome == Deferred("connection_failed", blame=Blame.PROVIDER)


class Anywhere(PublicNetwork):
    """The public network, of which loopback is a part for a test."""

    def permits(self, address: str) -> bool:
        return True


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["8.8.8.8", "127.0.0.1"]]
)
async def test_a_name_that_leads_inside_is_not_called(addresses: list[str]) -> None:
    connected = []

    async def handler(stream: trio.SocketStream) -> None:
        connected.append(stream)

    trio.socket.set_custom_hostname_resolver(Resolver(push=addresses))
    async with serving(handler) as port, open_client(width=1, public_only=True) as client:
        outcome = await client.post(f"http://push:{port}/", b"", {})
    assert outcome == PRIVATE
    assert connected == []


async def test_an_address_itself_that_leads_inside_is_not_called() -> None:
    async with serving(answering(OK)) as port, open_client(width=1, public_only=True) as client:
        outcome = await client.post(f"http://127.0.0.1:{port}/", b"", {})
    assert outcome == PRIVATE


async def test_the_checked_address_is_the_one_connected_to() -> None:
    """The name is asked for once, an address where nobody listens is passed over, the Host header keeps the name."""
    resolver, seen = Resolver(push=["127.0.0.2", "127.0.0.1"]), list[tuple[bytes, bytes]]()
    trio.socket.set_custom_hostname_resolver(resolver)
    async with (
        serving(answering(OK, seen)) as port,
        open_client(width=1, transport=Transport(1, Anywhere(), partial(trusted, ""))) as client,
    ):
        answer = await client.post(f"http://push:{port}/", b"", {})
    assert isinstance(answer, Answer)
    assert resolver.asked == 1
    assert f"Host: push:{port}".encode() in seen[0][0]


@pytest.mark.parametrize("host", ["push.example", "push.example."])
async def test_tls_names_the_host_and_not_its_address_nor_the_dot_of_the_root(host: str) -> None:
    """RFC 6066, section 3."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    async def handler(stream: trio.SocketStream) -> None:
        await trio.SSLStream(stream, context, server_side=True).do_handshake()

    trio.socket.set_custom_hostname_resolver(Resolver(**{host: ["127.0.0.1"]}))
    transport = Transport(1, Anywhere(), partial(trusted, ""))
    async with serving(handler) as port, open_client(width=1, transport=transport) as client:
        outcome = await client.post(f"https://{host}:{port}/", b"", {})
    assert outcome == Deferred("connection_failed", blame=Blame.PROVIDER)
    assert names == ["push.example"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("168.63.129.15", True),
        ("168.63.129.16", False),
        ("168.63.129.17", True),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.0.0.192", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("198.51.100.1", False),
        ("203.0.113.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::8.8.8.8", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::a83f:8110", False),
        ("64:ff9b::e000:1", False),
        ("64:ff9b:1::808:808", False),
        ("100::1", False),
        ("2001::1", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
        ("2002:a00:1::", False),
        ("2002:808:808::", False),
        ("3fff::1", False),
        ("4000::1", False),
        ("5f00::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    ("text", "origin", "port"),
    [
        ("https://fcm.googleapis.com/fcm/send/x", "https://fcm.googleapis.com", 443),
        ("HTTPS://FCM.googleapis.com:443/x", "https://fcm.googleapis.com", 443),
        ("https://push.example:00443/x", "https://push.example", 443),
        ("https://push.example", "https://push.example", 443),
        ("https://push.example:/", "https://push.example", 443),
        ("https://push.example.?x#y", "https://push.example.", 443),
        (f"https://{'x.' * 123}example./", f"https://{'x.' * 123}example.", 443),
        (f"https://{'x' * 63}.example/", f"https://{'x' * 63}.example", 443),
        ("https://push.example:8443/x", "https://push.example:8443", 8443),
        ("HTTP://[::1]:80/x", "http://[::1]", 80),
        ("https://[2001:DB8::1]/", "https://[2001:db8::1]", 443),
        ("http://push.example:443/x", "http://push.example:443", 443),
        ("https://user:secret@push.example/", "https://push.example", 443),
    ],
)
def test_origins_leave_out_what_goes_without_saying(text: str, origin: str, port: int) -> None:
    url = parse_url(text)
    assert url is not None
    assert (url.origin, url.port) == (origin, port)


@pytest.mark.parametrize(
    ("authority", "has_userinfo"),
    [
        ("push.example", False),
        ("user@push.example", True),
        ("user:secret@push.example", True),
        ("@push.example", True),
        (":@push.example", True),
        ("push.example\\@other.example", True),
    ],
)
@pytest.mark.parametrize("rest", ["", "/x@y", "?x@y", "#x@y"])
def test_userinfo_is_what_stands_before_the_host(authority: str, rest: str, has_userinfo: bool) -> None:
    url = parse_url(f"https://{authority}{rest}")
    assert url is not None
    assert url.has_userinfo == has_userinfo


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/path",
        "push.example",
        "//push.example/",
        "ftp://push.example",
        "https://",
        "https:push.example",
        "https:///push.example",
        " https://push.example",
        "https://push.example /",
        "https://push.example/a b",
        "https://push.example/a\tb",
        "https://a\nb/",
        "https://push.example/\x00",
        "https://push.example/\x7f",
        "https://push.example\\.other.example/",
        "https://.push.example/",
        "https://push..example/",
        "https://push.example../",
        "https://./",
        "https://push%2eexample/",
        "https://push.example%00.other/",
        "https://push\u3002example/",
        "https://ｐush.example/",
        "https://push.exampl\u0435/",
        "https://xn--a.example/",
        "https://push.example/é",
        "https://１２７.0.0.1/",
        "https://0177.0.0.1/",
        "https://256.0.0.1/",
        "https://[::1%25lo]/",
        "https://[::1%lo]/",
        "https://[::g]/",
        "https://[push.example]/",
        "https://::1/",
        f"https://{'x' * 64}.example/",
        f"https://{'x.' * 124}example/",
        "https://push.example:443:443/",
        "https://push.example:x/",
        "https://push.example:+443/",
        "https://push.example:4_43/",
        "https://push.example:４４３/",
        "https://push.example:0/",
        "https://push.example:65536/",
        f"https://push.example/{'x' * 70_000}",
        "\udcff",
        "https://push.example/\udcff",
    ],
)
def test_what_is_no_web_address_is_none(text: str) -> None:
    assert parse_url(text) is None


@given(st.text() | st.text().map("https://".__add__))
def test_any_text_can_be_asked_whether_it_is_an_address(text: str) -> None:
    parse_url(text)
