"""Connect through Trio; for a URL that a browser supplied, to public addresses only."""

import ipaddress
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import zip_longest

import trio

from notifierd.config.network import numeric_address, plain_name
from notifierd.model.errors import certificate_reason
from notifierd.model.imports import without
from notifierd.model.outcome import Blame, Blocked, Deferred
from notifierd.model.reasons import Reason

with without("anyio"):  # only for asyncio: under Trio, httpcore uses Trio
    import httpcore

CONNECT_SECONDS = 10.0
"""Seconds to establish a connection, through a proxy or not; and as many for TLS. This limit is separate from the
caller's: a call that ends here was certainly not made, but a call that the caller cancels may have been."""

ATTEMPT_SECONDS = 0.25
"""Seconds before the next address is tried in parallel (RFC 8305, section 5: the recommended delay)."""

SocketOptions = Iterable[tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]]
"""httpcore's."""


class NotMade(httpcore.ConnectError):
    """A call was certainly not made; *outcome* says why."""

    def __init__(self, outcome: Deferred | Blocked) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class Network(httpcore.AsyncNetworkBackend):
    """Connects through Trio."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of *host* that answers, within *timeout* seconds."""
        began, left = trio.current_time(), math.inf if timeout is None else timeout
        addresses = await self.addresses(host, port, timeout)

        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            try:
                return await httpcore.TrioBackend().connect_tcp(address, port, None, local_address, socket_options)
            except UnicodeError:  # a host that cannot be looked up, as one with a label of 64 characters
                raise httpcore.ConnectError("not a host name") from None

        try:
            with trio.fail_at(began + left):
                return await race(interleaved(addresses), connect)
        except trio.TooSlowError:
            raise httpcore.ConnectTimeout from None

    async def addresses(self, host: str, port: int, timeout: float | None) -> Collection[str]:  # noqa: ARG002, ASYNC109 - for subclasses
        """Return the addresses to try for *host*: here the host itself, which Trio resolves."""
        return (host,)


async def race(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[httpcore.AsyncNetworkStream]]
) -> httpcore.AsyncNetworkStream:
    """Try the addresses in order; start the next one when the last has failed, or after ATTEMPT_SECONDS.

    The first connection wins; all others are closed (RFC 8305, section 5, "Happy Eyeballs").

    Raises:
        httpcore.ConnectError: no connection could be made.
    """
    if len(addresses) == 1:  # or a name that Trio resolves: its errors must not be wrapped in a group
        return await connect(addresses[0])
    won: httpcore.AsyncNetworkStream | None = None
    failure: Exception = httpcore.ConnectError("no address")

    async def attempt(address: str, failed: trio.Event) -> None:
        nonlocal won, failure
        try:
            connected = await connect(address)
        except httpcore.ConnectError as error:
            failure = error
            failed.set()
            return
        if won is None:
            won = connected
            nursery.cancel_scope.cancel()
        else:  # two connected at the same moment
            await connected.aclose()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(ATTEMPT_SECONDS):
                    await failed.wait()
    except BaseException:
        if won is not None:  # the task that wanted it was cancelled meanwhile
            await won.aclose()
        raise
    if won is None:
        raise failure
    return won


def interleaved(addresses: Iterable[str]) -> Sequence[str]:
    """Return *addresses* with their families alternating, beginning with the first's (RFC 8305, section 4)."""
    families: dict[bool, list[str]] = {}
    for address in addresses:
        families.setdefault(":" in address, []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address is not None]


async def start_tls(
    stream: httpcore.AsyncNetworkStream,
    context: ssl.SSLContext,
    host: str | None,
    timeout: float | None,  # noqa: ASYNC109 - httpcore's
) -> httpcore.AsyncNetworkStream:
    """Start TLS with *host* on *stream*; if that fails or is cancelled, the stream is closed."""
    try:
        return await stream.start_tls(context, host, timeout)
    except BaseException:  # cancelled: httpcore closes it only after an error
        with trio.CancelScope(shield=True):
            await stream.aclose()
        raise


def has_arrived(stream: httpcore.AsyncNetworkStream) -> bool:
    """Return whether something has arrived on *stream*, on which nothing is expected: data, or its end."""
    if stream.get_extra_info("is_readable"):
        return True
    tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object")
    if tls is None:
        return False
    try:
        tls.read(1)  # a segment may have had more than the record that was read
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def not_made(error: BaseException | None) -> Deferred | Blocked:
    """Return why there was no connection, by *error* and its causes."""
    while error is not None:
        match error:
            case NotMade():
                return error.outcome
            case ssl.SSLCertVerificationError():
                return Deferred(certificate_reason(error), blame=Blame.PROVIDER)
        error = error.__cause__
    return Deferred(Reason.CONNECTION_FAILED, blame=Blame.PROVIDER)


class PublicNetwork(Network):
    """Connects to public addresses only, and only to the addresses that were checked.

    A check of the name alone can be bypassed by DNS that answers differently the second time (DNS rebinding). TLS and
    the Host header still use the name.
    """

    async def addresses(self, host: str, port: int, timeout: float | None) -> Collection[str]:  # noqa: ASYNC109 - httpcore's
        """Return the addresses of *host*, all of which are public."""
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            if isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME):
                raise NotMade(Deferred(Reason.HOST_NOT_FOUND, blame=Blame.MESSAGE)) from error
            raise httpcore.ConnectError("not resolved") from error
        addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        if not all(map(self.permits, addresses)):
            raise NotMade(_PRIVATE)
        return addresses

    def permits(self, address: str) -> bool:
        return is_public(address)


def require_public_name(host: str) -> None:
    """Refuse *host* if it certainly leads to no public address. A name is not looked up: a proxy does that.

    Raises:
        NotMade: it is a private address, a name without a dot, or one of a private network.
    """
    address, name = numeric_address(host), plain_name(host)
    if not is_public(str(address)) if address else "." not in name or name.endswith(_PRIVATE_NAMES):
        raise NotMade(_PRIVATE)


_PRIVATE = Deferred(Reason.ENDPOINT_REFUSED.of("private_address"), blame=Blame.MESSAGE)

_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")
"""RFC 6761, section 6.3; RFC 6762, section 3; ICANN's resolution 2024.07.29.06; RFC 8375, section 3."""

_NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}
"""getaddrinfo(3): errors for which the name certainly has no address. If the network is down, the error is
EAI_AGAIN."""


def is_public(address: str) -> bool:
    """Return whether *address* belongs to one host on the public Internet; a NAT64 address counts as its IPv4 address.

    Of IPv6, only the range that IANA allocates from (2000::/3) counts as public. Addresses outside of it are for
    special purposes, or reserved.
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

_SPECIAL = tuple(
    map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20"))
)
"""Ranges that Python's ipaddress, at least in some versions, treats as public: Azure's service for its own machines
(https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16), protocol assignments (RFC 6890; a
cloud serves its metadata there), 6to4 and its relays (RFC 7526), and documentation (RFC 9637)."""
