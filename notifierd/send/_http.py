"""HTTP for senders: one POST, and what its end means. The only module that knows httpx.

The caller owns the time of a call, and must hold a slot of a limiter no wider than the client before it opens its
cancel scope: httpcore 1.0.9 under Trio loses pool slots when a *queued* request is cancelled (encode/httpcore#1093).
"""

import ipaddress
import json
import logging
import math
import re
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

import httpcore
import httpx
import trio
from attrs import frozen

from notifierd.model import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown

CONNECT_SECONDS = 10.0
"""For a connection to stand. A time that is not the caller's: a call given up here was certainly not made, while one
that the caller gives up may have been."""

BODY_BYTES, BODY_SECONDS = 1024 * 1024, 10.0
"""As much of an answer's body as is read, and for how long: by then its status is known."""

LONGEST_WAIT = 86_400.0
"""Seconds: what a provider may ask for at most. No run lasts longer."""

REFUSED = "endpoint_refused"
"""What the reasons begin with for which a URL from a browser is not called; also the lane of such endpoints."""

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@frozen
class Url:
    """What a guard needs to know of a URL, as read by the one parser that the request goes through too."""

    scheme: str
    host: str
    """In ASCII and lower case; an IPv6 address in its brackets."""
    port: int
    origin: str
    """RFC 6454: the default port is left out."""
    has_userinfo: bool


@lru_cache(maxsize=1000)
def parse_url(text: str) -> Url | None:
    """Read an absolute http or https URL in visible ASCII, as browsers write them (RFC 3986); None for all else.

    The last ones are remembered: where a call goes is asked again at each step of its way.
    """
    found = _WEB_URL.fullmatch(text)
    if found is None or not (text.isascii() and text.isprintable()):
        return None
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    host, default = url.raw_host.decode("ascii").lower(), 443 if url.scheme == "https" else 80
    host, port = f"[{host}]" if ":" in host else host, default if url.port is None else url.port
    if not 0 < port <= 65535 or len(host) > LONGEST_HOST:  # noqa: PLR2004 - the highest port there is
        return None
    origin = f"{url.scheme}://{host}" + f":{port}" * (port != default)
    return Url(url.scheme, host, port, origin, has_userinfo=found["userinfo"] is not None)


LONGEST_HOST = 254
"""RFC 1035, section 3.1, with a dot at the end: a host stands in the log as its lane, and comes from a browser."""

_WEB_URL = re.compile(
    r"https?://(?P<userinfo>[^/?#\s]*@)?(\[[0-9a-f:.]+\]|[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?)(:\d*)?([/?#]\S*)?",
    re.ASCII | re.IGNORECASE,
)
"""httpx lets a backslash into the host, say, which other parsers take for its end, and makes U+3002 a dot."""


@frozen
class Answer:
    """What came back: the names of *headers* in lower case, at most BODY_BYTES of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> object:
        """Return the body's JSON; None if it is none (a proxy's error page, say, or cut short)."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):  # RecursionError: nested without end
            return None

    def retry_after(self, now: datetime) -> float | None:
        """Seconds that the answer asks us to wait (RFC 9110, section 10.2.3: seconds, or a date)."""
        asked = self.headers.get("retry-after")
        return parse_retry_after(asked, now) if asked else None


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Return seconds from *now*, 0 to LONGEST_WAIT; None for what is neither seconds nor a date."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def classify(answer: Answer, now: datetime) -> Outcome:
    """Return what a status means, as far as a provider documents nothing else: DESIGN.md, "Sending".

    A reason is a word of ours and the status; what the provider wrote goes nowhere.
    """
    status, wait = answer.status, answer.retry_after(now)
    match status:
        case _ if 200 <= status < 300:  # noqa: PLR2004 - the class of RFC 9110, section 15.3
            return Delivered()
        case 408:
            return Deferred("request_timeout:408", wait)
        case 425:
            return Deferred("too_early:425", wait)
        case 429:
            return Deferred("rate_limited:429", wait, Blame.PROVIDER)
        case 500 | 503:
            return Deferred(f"server_error:{status}", wait)
        case 401 | 403:
            return Blocked(f"blocked:{status}", wait)
        case _ if 300 <= status < 500:  # noqa: PLR2004 - sections 15.4 and 15.5: no redirect is followed
            return Rejected(f"rejected:{status}")
        case _:  # 502 and 504; and Cloudflare's 52x, of which some come after the origin took the request
            return Unknown(f"server_error:{status}", wait)


def message_id(found: object) -> str | None:
    """Return a provider's id of a message, if it is one that the ledger can hold: visible ASCII, 200 characters."""
    return found if isinstance(found, str) and _MESSAGE_ID.fullmatch(found) else None


_MESSAGE_ID = re.compile(r"[!-~]{1,200}")


HEADERS = {"User-Agent": "notifierd", "Accept": "application/json", "Accept-Encoding": "identity"}
"""Identity: a compressed body of a kilobyte may unfold to a gigabyte. Resend turns away who has no User-Agent."""

TIMES = {"timeout": {"connect": CONNECT_SECONDS}}


class Client:
    """Makes POSTs, and tells what was certainly not sent from what may have been.

    Over httpx' transport and not its client: redirects, cookies, proxies, netrc and compression are none of ours, and
    passing them by takes a quarter off what a call costs.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | Deferred | Unknown:
        """Send *body*; return the answer, or what its absence means. A cancellation passes through."""
        try:
            request = httpx.Request("POST", _url(url), headers={**HEADERS, **headers}, content=body, extensions=TIMES)
            request.stream = _Body(body)
            async with aclosing(await self._transport.handle_async_request(request)) as response:
                return Answer(response.status_code, dict(response.headers), await _read(response))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, UnicodeError) as error:
            # UnicodeError: a host that cannot be looked up, such as one with a label of 64 characters
            if isinstance(error.__cause__, HostUnfit):
                return Deferred(error.__cause__.args[0], blame=Blame.MESSAGE)
            return Deferred("connection_failed", blame=Blame.PROVIDER)
        except httpx.RequestError:
            # Even a failed write is in doubt: httpcore goes on to read after it, and the error is that of the read.
            return Unknown("connection_lost")


_url = lru_cache(maxsize=100)(httpx.URL)
"""A provider's URL is read once."""


class _Body(httpx.AsyncByteStream):
    """A request's body in one piece. httpx' own is a generator, which a failed write would leave to the collector."""

    def __init__(self, body: bytes) -> None:
        self._pieces = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    # As it came: httpx' aiter_bytes would unpack a body that is compressed all the same.
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - to mypy: an async client's is
    # The status stands, whatever becomes of the body: who needs it sees that it is cut.
    with trio.move_on_after(BODY_SECONDS) as scope, suppress(httpx.TransportError):
        async for chunk in response.stream:
            body += chunk
            if len(body) > BODY_BYTES:
                scope.cancel()  # and not `break`, which would leave httpcore's generators half-way, to the collector
    return bytes(body[:BODY_BYTES])


@asynccontextmanager
async def open_client(
    *, width: int, public_only: bool = False, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Client]:
    """Open a client for *width* requests at once.

    HTTP/1.1 only, since httpcore's count of HTTP/2 streams drifts (encode/httpcore#1022). With *public_only*,
    connections go to public addresses only.
    """
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they log URLs, and a push endpoint is a secret
    async with transport or _Transport(width, PublicNetwork() if public_only else Network()) as opened:
        yield Client(opened)


class _Transport(httpx.AsyncHTTPTransport):
    """httpx' own transport over a pool with our network; httpx has no public way to pass one."""

    def __init__(self, width: int, network: httpcore.AsyncNetworkBackend) -> None:
        context = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=width,
            max_keepalive_connections=width,
            keepalive_expiry=5.0,
            network_backend=network,
        )


class HostUnfit(httpcore.ConnectError):
    """A URL that comes from a browser names a host that is none to call; the argument is the reason, as a code."""


class Network(httpcore.AsyncNetworkBackend):
    """Connects by Trio."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of *host* that answers; each gets its share of *timeout* seconds."""
        addresses = await self.addresses(host, port, timeout)
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses:
            try:
                connected = await httpcore.TrioBackend().connect_tcp(
                    address, port, timeout and timeout / len(addresses), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(connected)
        raise failure

    async def addresses(self, host: str, port: int, timeout: float | None) -> Collection[str]:  # noqa: ARG002, ASYNC109 - of others
        """Where to connect to for *host*: here to itself, as Trio looks it up, and tries what it finds."""
        return (host,)


class _Stream(httpcore.AsyncNetworkStream):
    """Holds what is written until the answer is read: a request's head and body go out in one packet."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._unsent: list[bytes] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        if self._unsent:
            pieces, self._unsent = self._unsent, []
            with suppress(httpcore.WriteError):  # as httpcore does: who does not read on may have answered before
                await self._stream.write(b"".join(pieces), timeout)
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - the same
        self._unsent.append(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the same
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class PublicNetwork(Network):
    """Connects to public addresses only: the address that was checked is the one connected to.

    A check of the name alone falls to DNS that answers differently the second time. TLS and the Host header still
    carry the name.
    """

    async def addresses(self, host: str, port: int, timeout: float | None) -> Collection[str]:  # noqa: ASYNC109 - httpcore's
        """The addresses of *host*, of which all are public."""
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME):
                raise HostUnfit("host_not_found") from error
            raise httpcore.ConnectError("not resolved") from error
        addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        if not all(map(self.permits, addresses)):
            raise HostUnfit(f"{REFUSED}:private_address")
        return addresses

    def permits(self, address: str) -> bool:
        return is_public(address)


_NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}
"""getaddrinfo(3): what the name servers are sure of. A network that is down is EAI_AGAIN."""


def is_public(address: str) -> bool:
    """Tell whether *address* is one host's of the public Internet. An IPv4 address in NAT64's spelling counts as such.

    Of IPv6, only what IANA gives out counts (2000::/3): what lies beyond are special purposes, known or to come.
    """
    ip = ipaddress.ip_address(address)
    if ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    given_out = ip.version == 4 or ip in _GLOBAL_UNICAST  # noqa: PLR2004 - IPv4
    return given_out and ip.is_global and not ip.is_multicast and not any(ip in special for special in _SPECIAL)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""RFC 6052, section 2.1: the last 32 bits are an IPv4 address."""

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""https://www.iana.org/assignments/ipv6-address-space"""

_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20")))
"""What Python's ipaddress, or older ones of it, take for public: protocols' own addresses (RFC 6890; a cloud has its
metadata there), 6to4 and its relays (RFC 7526), and documentation (RFC 9637)."""
