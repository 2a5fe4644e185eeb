"""What the fakes of several providers share: they note requests, and cut answers."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import httpx
import trio
from attrs import define, field

from notifierd.model.feedback import MailStatus
from tests.support.loopback import receive, serving

Response = tuple[int, Mapping[str, str], bytes]


@define
class Fake(ABC):
    """A provider that remembers what became of mails, and tells it by its API.

    Attributes:
        torn: whether a cut answer comes by half; else the connection ends without one.
        seen: the requests so far.
    """

    torn: bool = False
    seen: list[tuple[str, str, bytes]] = field(factory=list)
    _left: int | None = None

    @abstractmethod
    def add(
        self, delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
    ) -> None:
        """Let *status* become known *at* that time, of a mail that was accepted as *message_id*."""

    @abstractmethod
    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Answer one request; *headers* by lower-case names."""

    def cut_after(self, requests: int | None) -> None:
        """Answer that many requests, and cut the answers after them; None cuts none."""
        self._left = requests

    def handler(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response | None:
        """Answer one request; None cuts its connection."""
        self.seen.append((method, target, body))
        status, sent, answer = self.answer(method, target, headers, body)
        if self._left == 0:
            return (status, sent, answer[: len(answer) // 2]) if self.torn else None
        if self._left is not None:
            self._left -= 1
        return status, sent, answer


def transport(fake: Fake) -> httpx.MockTransport:
    """Answer by *fake* without a socket, so that virtual time can be used."""

    def handle(request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        target = request.url.raw_path.decode("ascii")
        answer = fake.handler(request.method, target, headers, request.content)
        if answer is None:
            raise httpx.ReadError("")
        status, sent, body = answer
        return httpx.Response(status, headers=sent, content=body)

    return httpx.MockTransport(handle)


@asynccontextmanager
async def served(fake: Fake) -> AsyncIterator[str]:
    """Serve *fake* on loopback; yield its URL."""

    async def handle(stream: trio.SocketStream) -> None:
        while True:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await receive(stream)
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            while len(body) < int(headers.get("content-length", "0")):
                body += await receive(stream)
            method, target, _ = first.split(" ")
            answer = fake.handler(method, target, headers, body)
            if answer is None:
                return
            status, sent, found = answer
            told = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            start = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(found)}\r\n{told}\r\n"
            await stream.send_all(start.encode() + found)

    async with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"
