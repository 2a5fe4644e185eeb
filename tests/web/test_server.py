"""The page's HTTP server over real sockets: what good clients get, and what others cannot do."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from attrs import define, evolve, field
from structlog.testing import capture_logs

from notifierd.config.settings import DatabaseSettings, HttpSettings, Settings
from notifierd.model.errors import LedgerUnavailable
from notifierd.run.context import Site as DaemonSite
from notifierd.web.access import Access
from notifierd.web.app import App
from notifierd.web.server.framing import MOST_LINES
from notifierd.web.server.http import MOST_BODY, MOST_HEAD, Request, Response, Send, serve
from notifierd.web.server.places import STRANGER, Kind
from tests.support.fake_daemon import Daemon
from tests.support.port_fuzz import Sent, fuzz

TOKEN = "a-token-of-the-tests"
HOST = b"Host: localhost\r\n"


@define
class Site:
    """Answers by path, and remembers what it was asked.

    Attributes:
        kinds: whose places a path takes, if not those of strangers.
        ended: is set when the stream at /stream was left.
        pieces: how many it sent.
    """

    kinds: Mapping[str, Kind] = field(factory=dict)
    seen: list[Request] = field(factory=list)
    ended: trio.Event = field(factory=trio.Event)
    pieces: int = 0

    def sort(self, request: Request) -> Kind:
        return self.kinds.get(request.path, STRANGER)

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
async def running(kinds: Mapping[str, Kind] | None = None, **seconds: Any) -> AsyncIterator[Server]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    site = Site(kinds or {})
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, listeners, site, **seconds))
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


async def test_a_head_that_is_refused_is_answered_without_a_body():
    async with running() as server:
        client = await server.connect()
        await client.stream.send_all(b"HEAD * HTTP/1.1\r\n" + HOST + b"\r\n")
        assert await client.answer(has_body=False) == (400, "")
        assert await client.is_cut()


async def test_a_posted_body_arrives_whole_however_it_is_cut_up():
    async with running() as server:
        client = await server.connect()
        for part in (b"POST /form HTTP/1.1\r\nHo", b"st: localhost\r\nContent-Length: 7\r\n\r\nto", b"ken=t"):
            await client.stream.send_all(part)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.answer())[0] == 200
    assert server.site.seen[0].body == b"token=t"


# RFC 9112, sections 2.2 (bare CR), 5.1 (a space before the colon), 5.2 (folding), 6.3 (lengths); RFC 9110, 5.5.
ODD_FIELDS = (
    *(
        b"X : x",
        b" X: x",
        b"X: x\r\n y",
        b"X: x\r\n\ty",
        b"X: x\ry",
        b"X: x\x00y",
        b"X: x\x01",
        b"X",
        b": x",
        b"X\xff: x",
    ),
    *(
        b"Content-Length: 0\r\nContent-Length: 0",
        b"Content-Length: 0, 0",
        b"Content-Length: +0",
        b"Content-Length: 0x0",
    ),
    *(b"Content-Length: -1", b"Content-Length: ", b"Content-Length: \xb2", b"Content-Length: " + b"9" * 19),
)

# RFC 9112, section 6.1.
TWO_FRAMINGS = (
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"transfer-encoding:gzip\r\ncontent-length:5",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        *((b"GET / HTTP/1.1\r\n" + HOST + field + b"\r\n\r\n", 400) for field in ODD_FIELDS),
        *((b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n\r\n0\r\n\r\n", 400) for fields in TWO_FRAMINGS),
        (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\n\n", 400),
        (b"CONNECT /one HTTP/1.1\r\n" + HOST + b"\r\n", 501),
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: x\r\n" * MOST_LINES + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 4097\r\n\r\n", 413),
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


async def test_a_bug_is_a_500_and_once_a_line_in_the_log_that_quotes_nothing():
    with capture_logs() as logs:
        async with running() as server:
            client = await server.connect()
            for _ in range(3):
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


async def test_who_says_nothing_goes_for_who_comes_and_costs_no_one_else():
    """Three times as many connections as strangers may have, of which each says nothing, or half of a request."""
    async with running() as server:
        quiet = [await server.connect() for _ in range(3 * STRANGER.waiting)]
        for client in quiet[::2]:
            with suppress(trio.BrokenResourceError):
                await client.stream.send_all(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nto")
        assert await (await server.connect()).ask("/") == (200, "you asked for /\n")
        assert await quiet[0].is_cut()
        assert not server.site.seen[1:]


async def test_a_connection_that_is_known_is_not_cut_for_strangers():
    known = Kind("known", waiting=1, answered=1, per_second=100.0, burst=100)
    async with running({"/known": known}) as server:
        client = await server.connect()
        assert await client.ask("/known") == (200, "you asked for /known\n")
        for _ in range(2 * STRANGER.waiting):
            await server.connect()
        assert await (await server.connect()).ask("/") == (200, "you asked for /\n")
        assert await client.ask("/known") == (200, "you asked for /known\n")


async def test_who_finds_no_place_to_be_answered_is_told_to_come_again_and_cut():
    """A stream has the one place."""
    one = Kind("one", waiting=10, answered=1, per_second=100.0, burst=100)
    async with running({"/": one, "/quiet": one}) as server:
        stream, late = await server.connect(), await server.connect()
        await stream.stream.send_all(b"GET /quiet HTTP/1.1\r\n" + HOST + b"\r\n")
        await stream.stream.receive_some(1)
        assert await late.ask("/") == (503, "Service Unavailable\n")
        assert await late.is_cut()
        await stream.stream.aclose()
        await server.site.ended.wait()
        assert await server.serves()


async def test_a_body_is_asked_for_where_the_client_waits_for_that():
    """RFC 9110, section 10.1.1."""
    async with running() as server:
        client = await server.connect()
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: "
        await client.stream.send_all(head + b"7\r\n\r\n")
        assert await client.answer(has_body=False) == (100, "")
        await client.stream.send_all(b"token=t")
        assert await client.answer() == (200, "you asked for /\n")
        assert server.site.seen[0].body == b"token=t"
        await client.stream.send_all(head + b"4097\r\n\r\n")
        assert (await client.answer())[0] == 413
        assert await client.is_cut()


async def test_a_stream_whose_client_says_more_is_ended():
    async with running() as server:
        client = await server.connect()
        await client.stream.send_all(b"GET /quiet HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.stream.receive_some(1)
        await client.stream.send_all(b"x")
        await server.site.ended.wait()


# Fuzzed --------------------------------------------------------------------------------------------------------------


@define
class NoDatabase(Daemon):
    """A daemon whose database is out of reach."""

    def open_site(self, settings: Settings) -> AbstractAsyncContextManager[DaemonSite]:
        raise LedgerUnavailable("database_unavailable:08006")


async def _ask_all(port: int, requests: Sequence[Sent], statuses: Counter[bytes]) -> None:
    for sent in requests:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        with suppress(trio.BrokenResourceError), trio.move_on_after(0.5):  # of a request cut short, there is no answer
            await stream.send_all(sent.data)
            answer = bytes(await stream.receive_some()) if sent.waits else b""
            statuses.update(re.findall(rb"(?m)^HTTP/1\.1 ([0-9]{3}) ", answer))
        await trio.aclose_forcefully(stream)


@define
class Hurried:
    """An application for which nobody waits."""

    app: App

    def sort(self, request: Request) -> Kind:
        return hurried(self.app.sort(request))

    async def respond(self, request: Request) -> Response:
        return await self.app.respond(request)


def hurried(kind: Kind) -> Kind:
    return evolve(kind, per_second=1e6, burst=1000)


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_no_request_makes_an_error_and_none_leaves_anything_behind(token: str):
    """2,000 of them, broken and good, by twenty clients."""
    http = HttpSettings(token=token)
    settings = Settings(http=http, database=DatabaseSettings(dsn="postgresql://x@/x?host=/nowhere"))
    app = App(NoDatabase(settings), Access(http))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    statuses: Counter[bytes] = Counter()
    requests = fuzz(16, 2_000, [f"Authorization: Bearer {TOKEN}"])
    with capture_logs() as logs, trio.fail_after(40):
        async with trio.open_nursery() as serving:
            serving.start_soon(partial(serve, listeners, Hurried(app), stranger=hurried(STRANGER)))
            await trio.testing.wait_all_tasks_blocked()
            tasks = trio.lowlevel.current_statistics().tasks_living
            async with trio.open_nursery() as asking:
                for n in range(20):
                    asking.start_soon(_ask_all, port, requests[n::20], statuses)
            while trio.lowlevel.current_statistics().tasks_living > tasks:  # noqa: ASYNC110 - the server's own
                await trio.sleep(0.01)
            serving.cancel_scope.cancel()
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert b"500" not in statuses
    assert {b"200", b"400", b"404", b"405", b"413", b"421", b"431", b"505"} <= statuses.keys()
