"""HTTP/1.1 for a few people and programs: h11 on Trio, with a bound on everything that a client can do to us.

Hypercorn, the one ASGI server for Trio, would not do: its Trio worker writes in a shield without a deadline
(``TCPServer.protocol_send``, 0.18.0), so a single client that never reads keeps the process from ending, for ever.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qsl

import h11
import structlog
import trio
from attrs import Factory, define, field, frozen

from notifierd.errors import first_of, places

MOST_CONNECTIONS = 200
MOST_HEAD = 16_384
"""Bytes, give or take a chunk."""
MOST_BODY = 4_096
"""Bytes; all that is ever posted is a token."""

READ_SECONDS = 15.0
"""How long a request may be in coming, the wait for its first byte included."""

SEND_SECONDS = 10.0
"""How long a client may let a write wait."""

_CHUNK = 4_096
_BUFFER = 65_536
"""What the kernel may keep for a client that is slow to read."""

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.RemoteProtocolError)

log = structlog.get_logger(__name__)

Send = Callable[[bytes], Awaitable[None]]


@frozen
class Request:
    """A request, read to its end.

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
    """What is answered.

    Attributes:
        pieces: sends the body piece by piece, for as long as it likes, in place of *body*; it is cancelled when the
            client goes away.
    """

    status: int
    body: bytes = b""
    type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = Factory(dict)
    pieces: Callable[[Send], Awaitable[None]] | None = None

    @classmethod
    def text(cls, status: int, text: str = "", **headers: str) -> "Response":
        """A line of plain text; without one, the status' own words."""
        return cls(status, f"{text or HTTPStatus(status).phrase}\n".encode(), headers=headers)


Respond = Callable[[Request], Awaitable[Response]]


async def serve(
    listeners: Sequence[trio.SocketListener],
    respond: Respond,
    *,
    read_seconds: float = READ_SECONDS,
    send_seconds: float = SEND_SECONDS,
) -> None:
    """Answer requests by *respond* until cancelled. An error of it is a 500 and a line in the log."""
    slots = trio.CapacityLimiter(MOST_CONNECTIONS)

    async def connection(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                slots.acquire_on_behalf_of_nowait(stream)
            except trio.WouldBlock:
                return  # cut at once: whoever comes in good order comes again
            try:
                await _Connection(stream, read_seconds, send_seconds).serve(respond)
            except* _GONE:
                pass
            except* Exception as group:  # noqa: BLE001 - whatever it is, it ends here
                _log_failure(group)
            finally:
                slots.release_on_behalf_of(stream)

    await trio.serve_listeners(connection, list(listeners))


def _log_failure(error: BaseException) -> None:
    first = first_of(error)
    log.error("page_failed", error=type(first).__name__, where=places(first))


@define
class _Connection:
    """One client, and the requests that it makes one after the other."""

    _stream: trio.SocketStream
    _read_seconds: float
    _send_seconds: float
    _http: h11.Connection = field(factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD))

    async def serve(self, respond: Respond) -> None:
        self._stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _BUFFER)
        while True:
            try:
                with trio.fail_after(self._read_seconds):
                    request = await self._read()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return
            if request is None:
                return
            await self._answer(await _guarded(respond, request), head=request.method == "HEAD")
            if (self._http.our_state, self._http.their_state) != (h11.DONE, h11.DONE):
                return
            self._http.start_next_cycle()

    async def _read(self) -> Request | None:
        """Read a whole request; None if the client closed the connection instead.

        Raises:
            h11.RemoteProtocolError: it is none, or too large.
        """
        head: h11.Request | None = None
        body = bytearray()
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some(_CHUNK)))
                case h11.Request() as head:
                    pass
                case h11.Data() as part:
                    body += part.data
                    if len(body) > MOST_BODY:
                        raise h11.RemoteProtocolError("too large a body", error_status_hint=413)
                case h11.EndOfMessage() if head is not None:
                    return _request(head, bytes(body))
                case _:
                    return None

    async def _refuse(self, status: int) -> None:
        with suppress(h11.LocalProtocolError):  # nothing can be said any more
            await self._answer(Response.text(status, connection="close"), head=False)

    async def _answer(self, response: Response, *, head: bool) -> None:
        headers = {"date": formatdate(usegmt=True), "server": "notifierd", "content-type": response.type}
        headers |= response.headers
        if response.pieces is None:
            headers["content-length"] = str(len(response.body))
        else:
            headers["connection"] = "close"
        reason = HTTPStatus(response.status).phrase.encode()
        data = self._http.send(h11.Response(status_code=response.status, headers=list(headers.items()), reason=reason))
        assert data is not None  # noqa: S101 - None stands for a closed connection alone
        if response.pieces is not None and not head:
            await self._send(data)
            await self._stream_out(response.pieces)
        else:
            body = b"" if head else response.body
            await self._send(data + (self._http.send(h11.Data(data=body)) or b""))
        await self._send(self._http.send(h11.EndOfMessage()) or b"")

    async def _stream_out(self, pieces: Callable[[Send], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._await_hangup, nursery.cancel_scope)
            await pieces(self._send_piece)
            nursery.cancel_scope.cancel()

    async def _await_hangup(self, streaming: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(_CHUNK):
                pass
        streaming.cancel()

    async def _send_piece(self, piece: bytes) -> None:
        await self._send(self._http.send(h11.Data(data=piece)) or b"")

    async def _send(self, data: bytes) -> None:
        with trio.fail_after(self._send_seconds):
            await self._stream.send_all(data)


async def _guarded(respond: Respond, request: Request) -> Response:
    try:
        return await respond(request)
    except Exception as error:  # noqa: BLE001 - a page that fails must not cost the client its connection
        _log_failure(error)
        return Response.text(500)


def _request(head: h11.Request, body: bytes) -> Request:
    """What h11 read, in words.

    Raises:
        h11.RemoteProtocolError: its target is no path of ours (RFC 9112, section 3.2.1).
    """
    path, _, query = head.target.decode("ascii").partition("?")
    if not path.startswith("/"):
        raise h11.RemoteProtocolError("not in origin-form")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), path, dict(parse_qsl(query)), headers, body)
