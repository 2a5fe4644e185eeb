"""Servers on loopback that answer, cut and hang as they are told: for what only a real socket shows."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Run *handler* for each connection; yield the port."""

    async def closing(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, EOFError):  # the client went away
                await handler(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, closing, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """Return one request's head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await receive(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = (line[15:] for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    length = int(next(lengths, 0))
    while len(body) < length:
        body += await receive(stream)
    return head, body


async def receive(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise EOFError
    return data


async def join(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Pass on what either says to the other, until one of them is at its end."""
    async with trio.open_nursery() as nursery:

        async def pass_on(source: trio.abc.ReceiveStream, to: trio.abc.SendStream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some():
                    await to.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(pass_on, one, other)
        nursery.start_soon(pass_on, other, one)


def answering(answer: bytes, seen: list[tuple[bytes, bytes]] | None = None) -> Handler:
    """Answer every request of a connection with *answer*, noting it in *seen*."""

    async def handler(stream: trio.SocketStream) -> None:
        while True:
            request = await read_request(stream)
            if seen is not None:
                seen.append(request)
            await stream.send_all(answer)

    return handler
