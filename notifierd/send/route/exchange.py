"""One HTTP request over one connection, and the parser of its URL: by httpx and httpcore.

The only module that imports httpx. It is imported for the first request, or ahead of it: see `_http.load`.
"""

import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import cached_property, lru_cache

import trio

from notifierd.config.network import Route
from notifierd.model.imports import without
from notifierd.model.outcome import Deferred, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, NoAnswer
from notifierd.send._http import BODY_BYTES, BODY_SECONDS, URLS, Url
from notifierd.send._network import CONNECT_SECONDS, not_made
from notifierd.send._unpack import unpack
from notifierd.send.route.http11 import CUT, HttpConnection, NotHttp, Origin, connect
from notifierd.send.route.tunnel import routed

# The first two are only for httpx' command line, which saves 25 ms and 2 MB.
with without("pygments", "rich"):
    import httpcore
    import httpx

_url = lru_cache(URLS)(httpx.URL)


def parse(text: str) -> Url | None:
    """Parse a URL as `_http.parse_url` does."""
    found = _WEB_URL.fullmatch(text)
    if found is None or not (text.isascii() and text.isprintable()):
        return None
    try:
        url = _url(text)
        url.host  # noqa: B018 - decodes labels that begin with xn--, as a request does
    except (httpx.InvalidURL, UnicodeError):
        return None
    host, default = url.raw_host.decode("ascii").lower(), 443 if url.scheme == "https" else 80
    host, port = f"[{host}]" if ":" in host else host, default if url.port is None else url.port
    if not 0 < port <= 65535 or len(host) > LONGEST_HOST:  # noqa: PLR2004 - the highest port there is
        return None
    origin = f"{url.scheme}://{host}" + f":{port}" * (port != default)
    return Url(url.scheme, host, port, origin, has_userinfo=found["userinfo"] is not None)


LONGEST_HOST = 254
"""RFC 1035, section 3.1, plus a dot at the end. The limit is needed because a host comes from a browser and is logged
as its destination."""

_WEB_URL = re.compile(
    r"https?://(?P<userinfo>[^/?#\s]*@)?(\[[0-9a-f:.]+\]|[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?)(:\d*)?([/?#]\S*)?",
    re.ASCII | re.IGNORECASE,
)
"""Stricter than httpx, which accepts a backslash in a host, where other parsers end the host, and reads U+3002 as a
dot."""


HEADERS = {b"User-Agent": b"notifierd", b"Accept": b"application/json", b"Accept-Encoding": b"identity"}
"""``identity``, because answers are short. Resend rejects requests without a User-Agent."""

TIMES = {"timeout": {"connect": CONNECT_SECONDS}}


class Exchange:
    """Makes requests over *transport*.

    It uses httpx' transport, not its client: it needs no redirects, cookies, proxies, netrc or compression, and without
    them a call costs a quarter less.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        """Make a request; return the answer, or what its absence means."""
        try:
            request = _made(method, _url(url), body, headers)
        except (httpx.InvalidURL, UnicodeError):
            return _NO_REQUEST
        try:
            async with aclosing(await self._transport.handle_async_request(request)) as response:
                return await _answer(response)
        except httpx.LocalProtocolError:
            return _NO_REQUEST
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return not_made(error)
        except httpx.RequestError:
            # Even after a failed write, the request may have arrived: httpcore goes on to read, and raises the error
            # of the read.
            return Unknown(Reason.CONNECTION_LOST)

    async def aclose(self) -> None:
        """Close the connections, and forget the URLs."""
        await self._transport.aclose()
        _url.cache_clear()


_NO_REQUEST = Deferred(Reason.CONNECTION_FAILED.of("request"))
"""Nothing was sent, because HTTP has no such request. Whether other messages pass decides what prevented it."""


def _made(method: str, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> httpx.Request:
    """Return the request, with its own Host and Content-Length: what httpx does to find them takes 20 us."""
    length = {} if method == "GET" else {b"Content-Length": b"%d" % len(body)}  # RFC 9110, section 8.6
    own = {name.encode("ascii"): value.encode("ascii") for name, value in headers.items()}
    whole = {b"Host": url.netloc, **length, **HEADERS, **own}
    return httpx.Request(method, url, headers=list(whole.items()), stream=_Body(body), extensions=TIMES)


class _Body(httpx.AsyncByteStream):
    """A request's body in one piece.

    httpx' own is a generator, which a failed write would leave to the garbage collector.
    """

    def __init__(self, body: bytes) -> None:
        self._pieces = [body] if body else []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


async def _answer(response: httpx.Response) -> Answer:
    headers = dict(response.headers.items())  # `dict(response.headers)` looks each name up among all of them
    body = unpack(await _read(response), headers.get("content-encoding", ""), BODY_BYTES)
    return Answer(response.status_code, headers, body)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    # The raw stream: httpx' aiter_bytes would decompress a body without a limit.
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - to mypy: an async client's is
    # The status is valid whatever happens to the body, and a reader of the body notices that it is cut.
    with trio.move_on_after(BODY_SECONDS) as scope, suppress(httpx.TransportError):
        async for chunk in response.stream:
            body += chunk
            if len(body) > BODY_BYTES:
                scope.cancel()  # not `break`, which would leave httpcore's generators to the garbage collector
    return bytes(body[:BODY_BYTES])


def over(width: int, way: Route, tls: Callable[[], ssl.SSLContext], *, public_only: bool) -> httpx.AsyncBaseTransport:
    """Return the transport over connections that go that *way*; see `_http.open_client`."""
    return Transport(width, routed(way, public_only=public_only), tls)


class Transport(httpx.AsyncBaseTransport):
    """One connection for each request in flight: an idle one, or a new one.

    The caller holds a limiter's slot, so nothing waits for a connection here. httpcore's pool, made for callers that
    may have to wait, scans all of its connections, with a system call for each, at the beginning and the end of each
    request.
    """

    def __init__(self, width: int, network: httpcore.AsyncNetworkBackend, tls: Callable[[], ssl.SSLContext]) -> None:
        self._width, self._network, self._make_context = width, network, tls
        self._idle: dict[HttpConnection, float] = {}
        """Since when each has been idle, by Trio's clock; the longest first."""

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The context of all connections with TLS. The first of them has it made: to load certificates takes 13 ms."""
        context = self._make_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        origin = Origin(url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80))
        connection = await self._connection_to(origin, request.extensions["timeout"]["connect"])
        try:
            assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - to mypy: an async client's is
            body = b"".join([piece async for piece in request.stream])
            head = await connection.request(request.method, url.raw_path, request.headers.raw, body)
        except NotHttp as error:
            await connection.aclose()
            raise httpx.LocalProtocolError("") from error
        except CUT as error:
            await connection.aclose()
            raise httpx.TransportError("") from error
        except BaseException:
            await connection.aclose()
            raise
        headers = head.headers.raw_items()
        return httpx.Response(head.status_code, headers=headers, stream=_AnswerBody(connection, self._keep))

    async def _connection_to(self, origin: Origin, seconds: float) -> HttpConnection:
        """Return the most recently used idle connection to *origin* that is still open, else a new one."""
        await self._close_old()
        while fitting := [one for one in self._idle if one.origin == origin]:
            connection = fitting[-1]
            del self._idle[connection]
            if not connection.was_closed():
                return connection
            await connection.aclose()
        try:
            tls = self._tls if origin.scheme == "https" else None
            return await connect(origin, self._network, tls, seconds)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise httpx.ConnectError("") from error

    async def _keep(self, connection: HttpConnection) -> None:
        """Keep *connection*, which is open and idle, for another request."""
        self._idle[connection] = trio.current_time()
        await self._close_old()

    async def _close_old(self) -> None:
        """Close connections that have been idle for too long, and those beyond the limit."""
        while self._idle:
            connection, since = next(iter(self._idle.items()))  # again each time: others take connections
            if trio.current_time() - since <= KEPT_SECONDS and len(self._idle) <= self._width:
                break
            del self._idle[connection]
            await connection.aclose()

    async def aclose(self) -> None:
        while self._idle:  # a call that ends meanwhile adds its connection
            connection, _ = self._idle.popitem()
            await connection.aclose()


KEPT_SECONDS = 5.0
"""Seconds for which an idle connection is kept, as in httpx. Most servers keep theirs longer."""


class _AnswerBody(httpx.AsyncByteStream):
    """The raw body of an answer. Closing it keeps its connection if the body was read to the end."""

    def __init__(self, connection: HttpConnection, keep: Callable[[HttpConnection], Awaitable[None]]) -> None:
        self._connection, self._keep = connection, keep

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._connection.read()
        except CUT as error:
            raise httpx.ReadError("") from error
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        await (self._keep(self._connection) if self._connection.reset() else self._connection.aclose())
