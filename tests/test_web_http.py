"""The page's HTTP server over real sockets: what good clients get, and what others cannot do."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from attrs import define, field
from structlog.testing import capture_logs

from notifierd.web.http import MOST_BODY, MOST_CONNECTIONS, MOST_HEAD, Request, Response, Send, serve

HOST = b"Host: localhost\r\n"


@define
class Site:
    """Answers by path, and remembers what it was asked.

    Attributes:
        ended: is set when the stream at /stream was left.
        pieces: how many it sent.
    """

    seen: list[Request] = field(factory=list)
    ended: trio.Event = field(factory=trio.Event)
    pieces: int = 0

    async def respond(self, request: Request) -> Response:
        self.seen.append(request)
        match request.path:
            case "/bug":
                raise ValueError("someone@example.jp")
            case "/stream":
                return Response(200, pieces=self.stream)
            case "/quiet":
                return Response(200, pieces=self.wait)
        return Response.text(200, f"you asked for {request.path}")

    async def wait(self, send: Send) -> None:
        try:
            await send(b"x")
            await trio.sleep_forever()
        finally:
            self.ended.set()

    async def stream(self, send: Send) -> None:
        try:
            while True:
                await send(b"x" * 16_384)
                self.pieces += 1
                await trio.lowlevel.checkpoint()
        finally:
            self.ended.set()


@define
class Client:
    """A connection, byte by byte."""

    stream: trio.SocketStream
    _data: bytes = b""

    async def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        await self.stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return await self.answer(has_body=method != "HEAD")

    async def answer(self, *, has_body: bool = True) -> tuple[int, str]:
        """The next response: its status, and its body."""
        while b"\r\n\r\n" not in self._data:
            await self._receive()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = int(next(line[16:] for line in lines if line.startswith("content-length: "))) if has_body else 0
        while len(self._data) < length:
            await self._receive()
        body, self._data = self._data[:length], self._data[length:]
        return int(lines[0].split()[1]), body.decode()

    async def is_cut(self) -> bool:
        """Whether nothing more comes."""
        try:
            return not self._data and await self.stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True

    async def _receive(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self._data += data


@define
class Server:
    site: Site
    port: int
    scope: trio.CancelScope
    clients: AsyncExitStack = field(factory=AsyncExitStack)

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        return Client(await self.clients.enter_async_context(stream))

    async def serves(self) -> bool:
        """Whether who comes now is served."""
        client = await self.connect()
        try:
            return (await client.ask("/"))[0] == 200
        except (EOFError, trio.BrokenResourceError):
            return False


@asynccontextmanager
async def running(**seconds: float) -> AsyncIterator[Server]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    site = Site()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, listeners, site.respond, **seconds))
            server = Server(site, listeners[0].socket.getsockname()[1], nursery.cancel_scope)
            async with server.clients:
                yield server
            nursery.cancel_scope.cancel()


async def test_a_connection_serves_one_request_after_another():
    async with running() as server:
        client = await server.connect()
        assert await client.ask("/one?day=2026-11-24&day=2026-11-25&x=%E5%B1%B1") == (200, "you asked for /one\n")
        assert await client.ask("/two") == (200, "you asked for /two\n")
    first, second = server.site.seen
    assert (first.method, first.path, first.query) == ("GET", "/one", {"day": "2026-11-25", "x": "山"})
    assert (second.path, second.query, second.headers) == ("/two", {}, {"host": "localhost"})


async def test_head_is_answered_as_get_without_the_body():
    async with running() as server:
        client = await server.connect()
        assert await client.ask("/one", "HEAD") == (200, "")
        assert await client.ask("/two") == (200, "you asked for /two\n")


async def test_a_posted_body_arrives_whole_however_it_is_cut_up():
    async with running() as server:
        client = await server.connect()
        for part in (b"POST /form HTTP/1.1\r\nHo", b"st: localhost\r\nContent-Length: 7\r\n\r\nto", b"ken=t"):
            await client.stream.send_all(part)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.answer())[0] == 200
    assert server.site.seen[0].body == b"token=t"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 2 * MOST_HEAD + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (MOST_BODY + 1) + b"x" * (MOST_BODY + 1), 413),
    ],
)
async def test_what_is_no_request_or_too_large_is_refused_and_the_connection_ended(sent: bytes, status: int):
    async with running() as server:
        client = await server.connect()
        await client.stream.send_all(sent)
        assert (await client.answer())[0] == status
        assert await client.is_cut()
    assert server.site.seen == []


async def test_a_bug_is_a_500_and_a_line_in_the_log_that_quotes_nothing():
    with capture_logs() as logs:
        async with running() as server:
            client = await server.connect()
            assert await client.ask("/bug") == (500, "Internal Server Error\n")
            assert await client.ask("/after") == (200, "you asked for /after\n")
    (line,) = logs
    assert (line["event"], line["error"]) == ("page_failed", "ValueError")
    assert "someone" not in str(line)


async def test_who_never_ends_a_request_is_cut():
    async with running(read_seconds=0.2) as server:
        silent, slow = await server.connect(), await server.connect()
        await slow.stream.send_all(b"GET / HTTP/1.1\r\n")
        assert await silent.is_cut()
        assert await slow.is_cut()


async def test_who_never_reads_a_stream_is_cut_and_costs_no_more_than_the_kernels_buffers():
    async with running(send_seconds=0.5) as server:
        client = await server.connect()
        client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await client.stream.send_all(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n")
        await server.site.ended.wait()
        assert await (await server.connect()).ask("/") == (200, "you asked for /\n")
    assert server.site.pieces * 16_384 <= 8 * 1024 * 1024


async def test_who_never_reads_a_stream_does_not_keep_the_server_from_ending():
    """Cancelled while a write waits, though it might wait for an hour."""
    async with running(send_seconds=3600.0) as server:
        client = await server.connect()
        await client.stream.send_all(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n")
        sent = -1
        while sent < server.site.pieces:  # until a write has waited for a while
            sent = server.site.pieces
            await trio.sleep(0.3)
        assert sent > 0
        server.scope.cancel()


@pytest.mark.parametrize("path", [b"/stream", b"/quiet"])
async def test_a_stream_ends_when_its_client_goes_away(path: bytes):
    """Also one that has nothing to say."""
    async with running() as server:
        client = await server.connect()
        await client.stream.send_all(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.stream.receive_some(1)
        await client.stream.aclose()
        await server.site.ended.wait()


async def test_more_connections_than_there_may_be_are_cut_and_the_others_served():
    async with running() as server:
        clients = [await server.connect() for _ in range(MOST_CONNECTIONS)]
        for client in clients:
            assert (await client.ask("/"))[0] == 200
        assert await (await server.connect()).is_cut()
        assert (await clients[0].ask("/"))[0] == 200
        await clients[1].stream.aclose()
        while not await server.serves():
            pass
