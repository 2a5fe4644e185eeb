"""HTTP for senders and readers: make one request, and say what a missing answer means.

The caller limits the time of a call and the number of calls at once: nothing here waits for a connection.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from attrs import frozen

from notifierd.config.settings import NetworkSettings
from notifierd.send._answers import Answer, NoAnswer
from notifierd.send.route.trust import trusted
from notifierd.send.route.way import way_of

if TYPE_CHECKING:
    import httpx

    from notifierd.send.route.exchange import Exchange

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
"""How many parsed URLs are kept while a client is open, 2 MB: each step of a call asks again where it goes."""


@lru_cache(URLS)
def parse_url(text: str) -> Url | None:
    """Parse an absolute http or https URL in visible ASCII, as browsers write it (RFC 3986); return None for others."""
    from notifierd.send.route.exchange import parse  # noqa: PLC0415 - see `load`

    return parse(text)


class Client:
    """Make GETs and POSTs, and distinguish those that were certainly not sent from those that may have been.

    Args:
        open_exchange: is called for the first request.
    """

    def __init__(self, open_exchange: "Callable[[], Exchange]") -> None:
        self._open_exchange = open_exchange
        self._exchange: Exchange | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        """Send *body*; return the answer, or what its absence means. A cancellation passes through."""
        return await self._request("POST", url, body, headers)

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer | NoAnswer:
        """Ask for *url*; return the answer, or what its absence means. A cancellation passes through."""
        return await self._request("GET", url, b"", headers)

    async def _request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        if self._exchange is None:
            self._exchange = self._open_exchange()
        return await self._exchange.request(method, url, body, headers)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._exchange is not None:
            await self._exchange.aclose()


@asynccontextmanager
async def open_client(
    *,
    width: int,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008 - it is frozen
    public_only: bool = False,
    transport: "httpx.AsyncBaseTransport | None" = None,
) -> AsyncIterator[Client]:
    """Open a client that keeps up to *width* connections alive, and goes the way that *network* names.

    It uses HTTP/1.1 only, because httpcore miscounts HTTP/2 streams (encode/httpcore#1022). With *public_only*, it
    connects to public addresses only.

    Raises:
        ConfigError: the proxy or the file of certificates cannot be used.
    """
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # these loggers write URLs, and a push endpoint is a secret
    way, own = way_of(network), trusted(network.ca_file) if network.ca_file else None

    def exchange() -> "Exchange":
        from notifierd.send.route.exchange import Exchange, over  # noqa: PLC0415 - see `load`

        return Exchange(transport or over(width, way, lambda: own or trusted(""), public_only=public_only))

    client = Client(exchange)
    try:
        yield client
    finally:
        await client.aclose()
        parse_url.cache_clear()


def load() -> None:
    """Import what the first request needs: httpx and httpcore, which take 40 ms."""
    import_module("notifierd.send.route.exchange")
