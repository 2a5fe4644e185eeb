"""An HTTP/1.1 server for tests: silent, with keep-alive, and able to hang or to cut a connection."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import h11
import trio
from attrs import Factory, frozen

_CHUNK: Final = 65536


@frozen
class Request:
    """A complete request.

    Attributes:
        target: the path with its query.
        headers: by lower-case name.
        hung_up: waits until the client has closed the connection.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    hung_up: Callable[[], Awaitable[None]]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@frozen
class Answer:
    """A response; a *body* of bytes is sent as it is, any other but None as JSON."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = Factory(dict)


async def serve_connection(stream: trio.abc.Stream, handle: Callable[[Request], Awaitable[Answer | None]]) -> None:
    """Answer the requests of one connection by *handle*; if it returns None, cut the connection."""
    connection = h11.Connection(h11.SERVER)
    async with stream:
        try:
            while (request := await _read(stream, connection)) is not None:
                answer = await handle(request)
                if answer is None:
                    return
                await stream.send_all(_write(connection, answer))
                if connection.our_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            return  # the client notices it


async def _read(stream: trio.abc.Stream, connection: h11.Connection) -> Request | None:
    """Read a complete request; None if the client closed the connection instead."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
            case h11.Request() as head:
                pass
            case h11.Data() as part:
                body += part.data
            case h11.EndOfMessage():
                break
            case _:
                return None
    if head is None:
        return None

    async def hung_up() -> None:
        while await stream.receive_some(_CHUNK):
            pass

    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), head.target.decode("ascii"), headers, bytes(body), hung_up)


def _write(connection: h11.Connection, answer: Answer) -> bytes:
    body = answer.body
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    headers = [("content-length", str(len(data))), *answer.headers.items()]
    if data and not isinstance(body, bytes):
        headers.append(("content-type", "application/json"))
    parts = (
        connection.send(h11.Response(status_code=answer.status, headers=headers, reason=b"")),
        connection.send(h11.Data(data=data)),
        connection.send(h11.EndOfMessage()),
    )
    return b"".join(part for part in parts if part)
