"""Connect through an HTTP proxy, which opens a tunnel to the server: CONNECT of RFC 9110, section 9.3.6.

Calls to http:// URLs go through a tunnel, too. A proxy that forwards a request (RFC 9112, section 3.2.2) may answer it
itself, by a page that looks like the server's. Before a tunnel stands, every word is the proxy's, and the call was
certainly not made.
"""

import math
from contextlib import suppress

import h11
import httpcore
import trio
from attrs import frozen

from notifierd.config.network import Proxy, Route, authority
from notifierd.model.outcome import Blame, Blocked, Deferred
from notifierd.model.reasons import Reason
from notifierd.send._network import Network, NotMade, PublicNetwork, SocketOptions, require_public_name

_NO_ANSWER = Deferred(Reason.PROXY_FAILED, blame=Blame.PATH)

HEAD_BYTES = 16 * 1024
"""How long the head of a proxy's answer may be. Its body is not read."""


@frozen
class Routed(httpcore.AsyncNetworkBackend):
    """Connects directly, or through the proxy, as *route* says.

    A proxy decides itself which address it connects to.

    Attributes:
        direct: makes the connections to servers that are called directly.
        public_only: whether to refuse hosts that are certainly not public, before the proxy is asked.
    """

    route: Route
    direct: Network
    public_only: bool = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to *host* within *timeout* seconds, in which the proxy's answer is included.

        Raises:
            httpcore.ConnectError, httpcore.ConnectTimeout: no connection could be made.
        """
        proxy = self.route.proxy_for(host, port)
        if proxy is None:
            return await self.direct.connect_tcp(host, port, timeout, local_address, socket_options)
        _require_name(host)
        if self.public_only:
            require_public_name(host)
        deadline = trio.current_time() + (math.inf if timeout is None else timeout)
        try:
            stream = await Network().connect_tcp(proxy.host, proxy.port, timeout, local_address, socket_options)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise NotMade(Deferred(Reason.PROXY_UNREACHABLE, blame=Blame.PATH)) from error
        refusal: Deferred | Blocked | None = _NO_ANSWER
        try:
            refusal = await _refusal(stream, authority(host, port), proxy, deadline)
        finally:
            if refusal:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
        if refusal:
            raise NotMade(refusal)
        return stream


def routed(way: Route, *, public_only: bool = False) -> Routed:
    """Return what connects on that *way*; with *public_only*, to public addresses only."""
    return Routed(way, PublicNetwork() if public_only else Network(), public_only=public_only)


def _require_name(host: str) -> None:
    """Refuse a host that could not be looked up, as one with a label of 64 characters: TLS does not take it either."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise httpcore.ConnectError("not a host name") from None


async def _refusal(
    stream: httpcore.AsyncNetworkStream, target: str, proxy: Proxy, deadline: float
) -> Deferred | Blocked | None:
    """Have the proxy at the other end of *stream* connect to *target*; return why it does not, or None if it did."""
    try:
        with trio.fail_at(deadline):
            return _meaning(await _status(stream, target, proxy))
    except (trio.TooSlowError, httpcore.NetworkError, h11.ProtocolError):
        return _NO_ANSWER


async def _status(stream: httpcore.AsyncNetworkStream, target: str, proxy: Proxy) -> int:
    """Ask the proxy for a tunnel to *target*, and return the status of its answer.

    Raises:
        httpcore.NetworkError, h11.ProtocolError: there was no answer, or none that follows HTTP.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    headers = [("Host", target), ("User-Agent", "notifierd")]
    if proxy.authorization:  # RFC 7617
        headers.append(("Proxy-Authorization", proxy.authorization))
    request = connection.send(h11.Request(method="CONNECT", target=target, headers=headers))
    end = connection.send(h11.EndOfMessage())
    with suppress(httpcore.WriteError):  # a proxy that stops reading may have answered
        await stream.write((request or b"") + (end or b""))
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.read(4096))
        elif isinstance(event, h11.Response):
            break
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("no answer")
    if 200 <= event.status_code < 300 and any(connection.trailing_data):  # noqa: PLR2004 - RFC 9110, section 15.3
        raise h11.RemoteProtocolError("more than an answer")  # nothing was sent yet that the server could answer
    return event.status_code


def _meaning(status: int) -> Deferred | Blocked | None:
    """Return what a proxy's answer means; None if the tunnel stands."""
    if 200 <= status < 300:  # noqa: PLR2004 - any 2xx: RFC 9110, section 9.3.6
        return None
    if status in _UNAUTHORIZED:  # every call will fail until the configuration changes
        return Blocked(Reason.PROXY_AUTH_REQUIRED)
    return Deferred(Reason.PROXY_REFUSED.of(status), blame=Blame.PATH)


_UNAUTHORIZED = {401, 407}
"""RFC 9110, section 15.5.8. tinyproxy answers wrong credentials by 401 (src/reqs.c of 1.11)."""
