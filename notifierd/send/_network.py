"""How connections are made: by Trio, and where a URL came from a browser, to public addresses only."""

import ipaddress
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import zip_longest

import httpcore
import trio

from notifierd.model.reasons import Reason

"""What the reasons begin with for which a URL from a browser is not called; also the lane of such endpoints."""

ATTEMPT_SECONDS = 0.25
"""How long an address has before the next one is tried beside it (RFC 8305, section 5: recommended)."""

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


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
        """Connect to the first address of *host* that answers, within *timeout* seconds."""
        began, left = trio.current_time(), math.inf if timeout is None else timeout
        addresses = await self.addresses(host, port, timeout)

        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            try:
                return await httpcore.TrioBackend().connect_tcp(address, port, None, local_address, socket_options)
            except UnicodeError:  # a host that cannot be looked up, such as one with a label of 64 characters
                raise httpcore.ConnectError("not a host name") from None

        try:
            with trio.fail_at(began + left):
                return _Stream(await race(interleaved(addresses), connect))
        except trio.TooSlowError:
            raise httpcore.ConnectTimeout from None

    async def addresses(self, host: str, port: int, timeout: float | None) -> Collection[str]:  # noqa: ARG002, ASYNC109 - of others
        """Where to connect to for *host*: here to itself, as Trio looks it up, and tries what it finds."""
        return (host,)


async def race(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[httpcore.AsyncNetworkStream]]
) -> httpcore.AsyncNetworkStream:
    """Try one address after the other, the next one when the last has failed or ATTEMPT_SECONDS are over.

    The first connection wins; all others are closed (RFC 8305, section 5, "Happy Eyeballs").

    Raises:
        httpcore.ConnectError: none could be made.
    """
    if len(addresses) == 1:  # or a name, for Trio to look up; its errors are to come as they are, and not in a group
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
        else:  # two at the same moment
            await connected.aclose()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(ATTEMPT_SECONDS):
                    await failed.wait()
    except BaseException:
        if won is not None:  # and whoever wanted it was cancelled meanwhile
            await won.aclose()
        raise
    if won is None:
        raise failure
    return won


def interleaved(addresses: Iterable[str]) -> Sequence[str]:
    """*addresses*, the families in turn, each in its order, the first one's first (RFC 8305, section 4)."""
    families: dict[bool, list[str]] = {}
    for address in addresses:
        families.setdefault(":" in address, []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address is not None]


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
                raise HostUnfit(Reason.HOST_NOT_FOUND) from error
            raise httpcore.ConnectError("not resolved") from error
        addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        if not all(map(self.permits, addresses)):
            raise HostUnfit(Reason.ENDPOINT_REFUSED.of("private_address"))
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

_SPECIAL = tuple(
    map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2002::/16", "3fff::/20"))
)
"""What Python's ipaddress, or older ones of it, take for public: Azure's service for its own machines
(https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16), protocols' own addresses
(RFC 6890; a cloud has its metadata there), 6to4 and its relays (RFC 7526), and documentation (RFC 9637)."""
