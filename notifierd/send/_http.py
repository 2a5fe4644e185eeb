"""HTTP for senders and readers: make one request, and say what a missing answer means.

The only module that imports httpx.

The caller limits the time of a call and the number of calls at once: nothing here waits for a connection.
"""

import logging
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import lru_cache

import httpcore
import trio
from attrs import frozen

from notifierd.config.settings import NetworkSettings
from notifierd.model.imports import without
from notifierd.model.outcome import Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import Answer, NoAnswer
from notifierd.send._network import CONNECT_SECONDS, Buffered, not_made
from notifierd.send._unpack import unpack
from notifierd.send.route.trust import trusted
from notifierd.send.route.tunnel import routed

with without("pygments", "rich"):  # only for httpx' command line: this saves 25 ms and 2 MB
    import httpx

BODY_BYTES, BODY_SECONDS = 1024 * 1024, 10.0
"""How much of an answer's body is read, before and after decompression, and for how long. The status is known by
then."""


@frozen
class Url:
    """The parts of a URL that a guard needs, read by the same parser as the request's."""

    scheme: str
    host: str
    """In ASCII and lower case; an IPv6 address in brackets."""
    port: int
    origin: str
    """The origin of RFC 6454, without the default port."""
    has_userinfo: bool


URLS = 1000
"""How many parsed URLs are kept: each step of a call asks again where it goes."""

_url = lru_cache(URLS)(httpx.URL)


@lru_cache(URLS)
def parse_url(text: str) -> Url | None:
    """Parse an absolute http or https URL in visible ASCII, as browsers write it (RFC 3986); return None for others."""
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


HEADERS = {"User-Agent": "notifierd", "Accept": "application/json", "Accept-Encoding": "identity"}
"""``identity``, because answers are short. Resend rejects requests without a User-Agent."""

TIMES = {"timeout": {"connect": CONNECT_SECONDS}}


class Client:
    """Make GETs and POSTs, and distinguish those that were certainly not sent from those that may have been.

    The client uses httpx' transport, not its client: it needs no redirects, cookies, proxies, netrc or compression, and
    without them a call costs a quarter less.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        """Send *body*; return the answer, or what its absence means. A cancellation passes through."""
        return await self._request("POST", url, body, headers)

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer | NoAnswer:
        """Ask for *url*; return the answer, or what its absence means. A cancellation passes through."""
        return await self._request("GET", url, b"", headers)

    async def _request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        try:
            request = _made(method, _url(url), body, headers)
            async with aclosing(await self._transport.handle_async_request(request)) as response:
                return await _answer(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return not_made(error)
        except httpx.RequestError:
            # Even after a failed write, the request may have arrived: httpcore goes on to read, and raises the error
            # of the read.
            return Unknown(Reason.CONNECTION_LOST)


def _made(method: str, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> httpx.Request:
    """Return the request, with its own Host and Content-Length: what httpx does to find them takes 20 us."""
    length = {} if method == "GET" else {"Content-Length": str(len(body))}  # RFC 9110, section 8.6
    whole = {"Host": url.netloc.decode("ascii"), **length, **HEADERS, **headers}
    return httpx.Request(method, url, headers=whole, stream=_Body(body), extensions=TIMES)


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


@asynccontextmanager
async def open_client(
    *,
    width: int,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008 - it is frozen
    public_only: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Client]:
    """Open a client that keeps up to *width* connections alive, and goes the way that *network* names.

    It uses HTTP/1.1 only, because httpcore miscounts HTTP/2 streams (encode/httpcore#1022). With *public_only*, it
    connects to public addresses only.

    Raises:
        ConfigError: the proxy or the file of certificates cannot be used.
    """
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # these loggers write URLs, and a push endpoint is a secret
    if transport is None:
        transport = _Transport(width, routed(network, public_only=public_only), trusted(network.ca_file))
    async with transport as opened:
        yield Client(opened)


class _Transport(httpx.AsyncBaseTransport):
    """One connection for each request in flight: an idle one, or a new one.

    The caller holds a limiter's slot, so nothing waits for a connection here. httpcore's pool, made for callers that
    may have to wait, scans all of its connections, with a system call for each, at the beginning and the end of each
    request.
    """

    def __init__(self, width: int, network: httpcore.AsyncNetworkBackend, tls: ssl.SSLContext) -> None:
        self._width, self._network, self._tls = width, Buffered(network), tls
        self._idle: dict[httpcore.AsyncHTTPConnection, float] = {}
        """Since when each has been idle, by Trio's clock; the longest first."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        connection = await self._connection_to(url.origin)
        try:
            answer = await connection.handle_async_request(
                httpcore.Request(
                    request.method,
                    url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise httpx.ConnectError("") from error
        except _CUT as error:
            raise httpx.TransportError("") from error
        except BaseException:  # cancelled before httpcore would close it
            with trio.CancelScope(shield=True):
                await connection.aclose()
            raise
        return httpx.Response(answer.status, headers=answer.headers, stream=_AnswerBody(answer, connection, self._keep))

    async def _connection_to(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        """Return the most recently used idle connection to *origin* that is still open, else a new one."""
        await self._close_old()
        while fitting := [one for one in self._idle if one.can_handle_request(origin)]:
            connection = fitting[-1]
            del self._idle[connection]
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(origin, self._tls, network_backend=self._network)

    async def _keep(self, connection: httpcore.AsyncHTTPConnection) -> None:
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
        with trio.CancelScope(shield=True):
            for connection in self._idle:
                await connection.aclose()
        self._idle.clear()


KEPT_SECONDS = 5.0
"""Seconds for which an idle connection is kept, as in httpx. Most servers keep theirs longer."""

_CUT = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


class _AnswerBody(httpx.AsyncByteStream):
    """The raw body of an answer. Closing it keeps its connection if the body was read to the end."""

    def __init__(
        self,
        answer: httpcore.Response,
        connection: httpcore.AsyncHTTPConnection,
        keep: Callable[[httpcore.AsyncHTTPConnection], Awaitable[None]],
    ) -> None:
        self._answer, self._connection, self._keep = answer, connection, keep

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            assert isinstance(self._answer.stream, AsyncIterable)  # noqa: S101 - to mypy: an async connection's is
            async for piece in self._answer.stream:
                yield piece
        except _CUT as error:
            raise httpx.ReadError("") from error

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # nothing in here waits
            await self._answer.aclose()
            if self._connection.is_idle():
                await self._keep(self._connection)
