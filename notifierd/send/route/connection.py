"""Connections to servers that do not speak HTTP, on the way that [network] names."""

import ssl
from typing import Self

import httpcore
import trio
from attrs import define, frozen

from notifierd.config.network import plain_name
from notifierd.config.settings import NetworkSettings
from notifierd.send._network import CONNECT_SECONDS, NotMade, has_arrived, not_made, start_tls
from notifierd.send.route.trust import trusted
from notifierd.send.route.tunnel import Routed, routed
from notifierd.send.route.way import way_of


class ConnectionLost(Exception):
    """The other end closed the connection, or the network did."""


@define
class Connection:
    """An open connection. After an error it can only be closed."""

    _host: str
    _tls: ssl.SSLContext
    _stream: httpcore.AsyncNetworkStream

    @property
    def is_over(self) -> bool:
        """Whether something has arrived while nothing was expected: the end of the connection, or a farewell."""
        return has_arrived(self._stream)

    async def read(self) -> bytes:
        """Return what arrives, at least one byte.

        Raises:
            ConnectionLost: nothing will arrive any more.
        """
        try:
            data = await self._stream.read(READ_BYTES)
        except httpcore.NetworkError as error:
            raise ConnectionLost from error
        if not data:
            raise ConnectionLost
        return data

    async def write(self, data: bytes) -> None:
        """Send *data*.

        Raises:
            ConnectionLost: the other end has not got all of it.
        """
        try:
            await self._stream.write(data)
        except httpcore.NetworkError as error:
            raise ConnectionLost from error

    async def secure(self) -> None:
        """Start TLS, and verify that the certificate is the host's.

        Raises:
            NotMade: that failed; the connection is closed.
        """
        try:
            self._stream = await start_tls(self._stream, self._tls, plain_name(self._host), CONNECT_SECONDS)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise NotMade(not_made(error)) from error

    async def aclose(self) -> None:
        """Close it, without waiting for the other end."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._stream.aclose()


READ_BYTES = 65536

CLOSE_SECONDS = 1.0
"""The longest time that closing may take: the end of TLS has to fit into what the network has not yet carried."""


@frozen
class Connector:
    """Makes connections."""

    _network: Routed
    _tls: ssl.SSLContext

    @classmethod
    def of(cls, network: NetworkSettings) -> Self:
        """Return the connector that goes the way that *network* names.

        Raises:
            ConfigError: the proxy or the file of certificates cannot be used.
        """
        return cls(routed(way_of(network)), trusted(network.ca_file, http=False))

    async def connect(self, host: str, port: int) -> Connection:
        """Connect to *host*, without TLS.

        Raises:
            NotMade: no connection could be made.
        """
        try:
            stream = await self._network.connect_tcp(host, port, CONNECT_SECONDS)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise NotMade(not_made(error)) from error
        return Connection(host, self._tls, stream)
