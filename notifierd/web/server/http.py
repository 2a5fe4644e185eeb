"""HTTP/1.1 for a few people and programs: h11 on Trio, with a limit on everything that a client can cause.

Hypercorn, the one ASGI server for Trio, is not usable here: its Trio worker writes in a shield without a deadline
(``TCPServer.protocol_send``, 0.18.0), so a single client that never reads keeps the process from ever ending.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl

import h11
import structlog
import trio
from attrs import Factory, define, field, frozen

from notifierd.model.errors import first_of, frame_locations
from notifierd.web.server.framing import check
from notifierd.web.server.places import STRANGER, Kind, Pace, Places

MOST_HEAD = 16_384
"""The most bytes of a head; one chunk more may be read."""
MOST_BODY = 4_096
"""The most bytes of a body: the only body that is ever posted is a token."""

READ_SECONDS = 15.0
"""Seconds for a request to arrive, including the wait for its first byte."""

SEND_SECONDS = 10.0
"""Seconds for a client to accept a write."""

CONNECTIONS_PER_SECOND = 500.0
CONNECTIONS_AT_ONCE = 300
"""Rule: accept 500 connections per second, and 300 in a burst. Others wait in the kernel's queue, because even
accepting a connection takes time."""

QUEUE = 256
"""The length of that queue, which is thus gone through in half a second. Whoever finds it full tries again after a
second (RFC 6298, section 2); in the kernel's own queue of 4,096, everybody would wait for eight."""

_CHUNK = 4_096
_BUFFER = 65_536
"""Bytes that the kernel may buffer for a slow client."""

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.RemoteProtocolError)

log = structlog.get_logger(__name__)

Send = Callable[[bytes], Awaitable[None]]


@frozen
class Request:
    """A complete request.

    Attributes:
        path: as it was sent, from the slash on.
        query: the last value of each name.
        headers: by lower-case name.
    """

    method: str
    path: str
    query: Mapping[str, str] = Factory(dict)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@frozen
class Response:
    """An answer.

    Attributes:
        pieces: sends the body piece by piece, in place of *body*, for as long as it likes; it is cancelled when the
            client disconnects.
    """

    status: int
    body: bytes = b""
    type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = Factory(dict)
    pieces: Callable[[Send], Awaitable[None]] | None = None

    @classmethod
    def text(cls, status: int, text: str = "", **headers: str) -> "Response":
        """Return a line of plain text; if *text* is empty, the phrase of the status."""
        return cls(status, f"{text or HTTPStatus(status).phrase}\n".encode(), headers=headers)


class Site(Protocol):
    """The application that is served."""

    def sort(self, request: Request) -> Kind:
        """Return the kind of a request, which decides its quota."""

    async def respond(self, request: Request) -> Response:
        """Return the answer to a request."""


async def serve(
    listeners: Sequence[trio.SocketListener],
    site: Site,
    *,
    stranger: Kind = STRANGER,
    read_seconds: float = READ_SECONDS,
    send_seconds: float = SEND_SECONDS,
) -> None:
    """Serve *site* until cancelled. An error in *site* is answered with 500; the first of its kind is logged.

    Args:
        stranger: the kind of a connection before its first request, and of an invalid request.
    """
    shared = _Shared(site, stranger, read_seconds, send_seconds)

    async def connection(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await _Connection(stream, shared, stranger).serve()
            except* _GONE:
                pass
            except* Exception as group:  # noqa: BLE001 - no error of a connection goes further
                shared.log_failure(group)

    pace = Pace(CONNECTIONS_PER_SECOND, CONNECTIONS_AT_ONCE)
    await trio.serve_listeners(connection, [_PacedListener(listener, pace) for listener in listeners])


@define
class _PacedListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts connections at a limited pace."""

    _listener: trio.SocketListener
    _pace: Pace

    async def accept(self) -> trio.SocketStream:
        await self._pace.turn()
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


@define
class _Shared:
    """The state that all connections share."""

    site: Site
    stranger: Kind
    read_seconds: float
    send_seconds: float
    places: Places = field(factory=Places)
    _logged: set[str] = field(factory=set)
    """The places in the code whose errors were logged already."""

    async def guarded(self, request: Request) -> Response:
        """Return the answer; an error while making it becomes a 500, and does not close the connection."""
        try:
            return await self.site.respond(request)
        except Exception as error:  # noqa: BLE001 - the guard around every page
            self.log_failure(error)
            return Response.text(500)

    def log_failure(self, error: BaseException) -> None:
        """Log an error once for each place in the code: a client could cause it a thousand times."""
        first = first_of(error)
        name, where = type(first).__name__, frame_locations(first)
        if (cause := f"{name} {where}") not in self._logged:
            self._logged.add(cause)
            log.error("page_failed", error=name, where=where)


@define
class _Connection:
    """One client connection, and its requests in turn."""

    _stream: trio.SocketStream
    _shared: _Shared
    _kind: Kind
    """The kind of the last request."""
    _without_body: bool = False
    """Whether to answer without a body: the last request was a HEAD, even if it was invalid otherwise."""
    _http: h11.Connection = field(factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD))

    async def serve(self) -> None:
        """Answer requests in turn until the client or the server closes the connection."""
        self._stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _BUFFER)
        while request := await self._next():
            self._kind = self._shared.site.sort(request)
            async with self._shared.places.answered(self._kind) as placed:
                if not placed:
                    await self._refuse(503)
                    return
                await self._answer(await self._shared.guarded(request))
            if (self._http.our_state, self._http.their_state) != (h11.DONE, h11.DONE):
                return
            self._http.start_next_cycle()

    async def _next(self) -> Request | None:
        """Return the next request; None if none came in time, or an invalid one, which is then answered."""
        try:
            with self._shared.places.waiting(self._kind, self._shared.read_seconds):
                return await self._read()
        except h11.RemoteProtocolError as error:
            async with self._shared.places.answered(self._shared.stranger) as placed:
                if placed:
                    await self._refuse(error.error_status_hint)
        return None

    async def _read(self) -> Request | None:
        """Read a complete request; None if the client closed the connection instead.

        Raises:
            h11.RemoteProtocolError: the request is invalid or too large.
        """
        head: h11.Request | None = None
        body = bytearray()
        self._without_body = False
        while True:
            if head is None:
                check(self._http.trailing_data[0])
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some(_CHUNK)))
                case h11.Request() as head:
                    await self._go_on_with(head)
                case h11.Data() as part:
                    body += part.data
                    if len(body) > MOST_BODY:
                        raise h11.RemoteProtocolError("too large a body", error_status_hint=413)
                case h11.EndOfMessage() if head is not None:
                    return _request(head, bytes(body))
                case _:
                    return None

    async def _go_on_with(self, head: h11.Request) -> None:
        """Ask for the body if its length is acceptable (RFC 9110, section 10.1.1).

        Raises:
            h11.RemoteProtocolError: it is too long.
        """
        self._without_body = head.method == b"HEAD"
        if int(dict(head.headers).get(b"content-length", 0)) > MOST_BODY:
            raise h11.RemoteProtocolError("too large a body", error_status_hint=413)
        if self._http.they_are_waiting_for_100_continue:
            await self._send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")

    async def _refuse(self, status: int) -> None:
        with suppress(h11.LocalProtocolError):  # the connection is in no state to answer
            await self._answer(Response.text(status, connection="close"))

    async def _answer(self, response: Response) -> None:
        headers = {"date": formatdate(usegmt=True), "server": "notifierd", "content-type": response.type}
        headers |= response.headers
        if response.pieces is None:
            headers["content-length"] = str(len(response.body))
        else:
            headers["connection"] = "close"
        reason = HTTPStatus(response.status).phrase.encode()
        data = self._http.send(h11.Response(status_code=response.status, headers=list(headers.items()), reason=reason))
        assert data is not None  # noqa: S101 - None stands only for a closed connection
        if response.pieces is not None and not self._without_body:
            await self._send(data)
            await self._stream_out(response.pieces)
        else:
            body = b"" if self._without_body else response.body
            await self._send(data + (self._http.send(h11.Data(data=body)) or b""))
        await self._send(self._http.send(h11.EndOfMessage()) or b"")

    async def _stream_out(self, pieces: Callable[[Send], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._await_hangup, nursery.cancel_scope)
            await pieces(self._send_piece)
            nursery.cancel_scope.cancel()

    async def _await_hangup(self, streaming: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            await self._stream.receive_some(1)  # the client's end; further data would violate our "close"
        streaming.cancel()

    async def _send_piece(self, piece: bytes) -> None:
        await self._send(self._http.send(h11.Data(data=piece)) or b"")

    async def _send(self, data: bytes) -> None:
        with trio.fail_after(self._shared.send_seconds):
            await self._stream.send_all(data)


def _request(head: h11.Request, body: bytes) -> Request:
    """Return the request that h11 read.

    Raises:
        h11.RemoteProtocolError: its target is not a path (RFC 9112, section 3.2.1).
    """
    path, _, query = head.target.decode("ascii").partition("?")
    if not path.startswith("/"):
        raise h11.RemoteProtocolError("not in origin-form")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), path, dict(parse_qsl(query)), headers, body)
