"""An HTTP proxy on loopback that opens tunnels, and knows who asked for which."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import define, field, frozen

from tests.support.loopback import join, receive, serving


@frozen
class Asked:
    """A CONNECT that arrived.

    Attributes:
        target: host and port.
        authorization: the value of Proxy-Authorization; "" for none.
    """

    target: str
    authorization: str = ""


@define
class ConnectProxy:
    """The proxy.

    Attributes:
        ports: where each target leads: a port on 127.0.0.1. There is nothing at any other target.
        authorization: what it demands; "" for nothing.
        answer: what it says in place of opening a tunnel; None: nothing special.
        connections: how many were made to it.
    """

    ports: dict[str, int] = field(factory=dict)
    authorization: str = ""
    answer: bytes | None = None
    asked: list[Asked] = field(factory=list)
    connections: int = 0

    @property
    def targets(self) -> list[str]:
        return [asked.target for asked in self.asked]

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await receive(client)
        first, *lines = head.decode("ascii").strip().split("\r\n")
        method, target, version = first.split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1"), first
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert headers["host"] == target
        self.asked.append(Asked(target, headers.get("proxy-authorization", "")))
        if self.answer is not None:
            await client.send_all(self.answer)
        elif self.authorization and self.asked[-1].authorization != self.authorization:
            await client.send_all(b"HTTP/1.1 407 -\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
        elif target not in self.ports:
            await client.send_all(b"HTTP/1.1 502 -\r\nContent-Length: 4\r\n\r\nnone")
        else:
            async with await trio.open_tcp_stream("127.0.0.1", self.ports[target]) as server:
                await client.send_all(b"HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n")
                await join(client, server)


@asynccontextmanager
async def proxying(proxy: ConnectProxy) -> AsyncIterator[str]:
    """Have *proxy* listen for the block; yield its URL."""
    async with serving(proxy.serve) as port:
        yield f"http://127.0.0.1:{port}"
