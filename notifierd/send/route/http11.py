"""One HTTP/1.1 connection to a server: h11 over a network stream of httpcore.

httpcore's own connection is made for callers that share it: it takes three locks, traces six steps, and converts each
request and answer twice. Here a connection has one request at a time, which leaves in one piece.
"""

import ssl
from typing import NamedTuple

import h11
import httpcore
import trio

from notifierd.config.network import plain_name
from notifierd.send._network import has_arrived, start_tls

HEAD_BYTES = 100 * 1024
"""How long the head of an answer may be, as in httpcore."""

READ_BYTES = 64 * 1024
"""How much is read at once, as in httpcore."""

CUT = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, h11.ProtocolError)
"""The errors of a request over a connection that stands: the request may have arrived."""


class NotHttp(Exception):
    """HTTP has no request as the one that was to be made: a header has a line end, for example."""


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


class HttpConnection:
    """A connection that stands."""

    def __init__(self, origin: Origin, stream: httpcore.AsyncNetworkStream) -> None:
        self.origin = origin
        self._stream = stream
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)

    async def request(
        self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> h11.Response:
        """Make a request, and return the head of its answer. Interim answers are skipped.

        Raises:
            NotHttp: nothing was written.
            errors of CUT: there was no answer, or none that follows HTTP.
        """
        send = self._state.send
        try:
            request = h11.Request(method=method, target=target, headers=headers)
            pieces = [send(request), send(h11.Data(data=body)) if body else b"", send(h11.EndOfMessage())]
        except h11.LocalProtocolError as error:
            raise NotHttp from error
        try:
            await self._stream.write(b"".join(pieces))
        except httpcore.WriteError:
            self._state.send_failed()  # a server that stops reading may have answered; no other request may follow
        while not isinstance(event := await self._next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise httpcore.RemoteProtocolError("no answer")
        return event

    async def read(self) -> bytes | None:
        """Return the next piece of the answer's body; None at its end.

        Raises:
            errors of CUT: the body was cut.
        """
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def _next(self) -> object:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            self._state.receive_data(await self._stream.read(READ_BYTES))
        return event

    def reset(self) -> bool:
        """Make the connection ready for another request; return False if it cannot carry one.

        What follows an answer, unasked, would be read as the answer to the next request.
        """
        both_done = self._state.our_state is h11.DONE and self._state.their_state is h11.DONE
        if not both_done or any(self._state.trailing_data):
            return False
        self._state.start_next_cycle()
        return True

    def was_closed(self) -> bool:
        """Whether the server closed the connection while no request was made, or said something unasked."""
        return has_arrived(self._stream)

    async def aclose(self) -> None:
        """Close it, even if the task is cancelled."""
        with trio.CancelScope(shield=True):
            await self._stream.aclose()


async def connect(
    origin: Origin, network: httpcore.AsyncNetworkBackend, tls: ssl.SSLContext | None, seconds: float
) -> HttpConnection:
    """Connect to *origin*, with *tls* unless it is None; TCP and TLS may take so many *seconds* each.

    Raises:
        httpcore.ConnectError, httpcore.ConnectTimeout: there is no connection, so nothing was sent.
    """
    stream = await network.connect_tcp(origin.host, origin.port, timeout=seconds)
    if tls:  # RFC 6066, section 3: no dot at the end of the name
        stream = await start_tls(stream, tls, plain_name(origin.host), seconds)
    return HttpConnection(origin, stream)
