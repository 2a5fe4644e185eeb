"""A mail API, a mail server and push services that cost as little as possible: ``python -m bench.servers``.

In one process, they accept everything after a set latency, and answer with the fixed bytes of Resend's answers, or 201
as push services do, or 250 as SMTP has it (RFC 5321; a mail as a whole has the latency, its commands have none). All
they look at is which message came, and when: so that whoever measures can see that each was accepted exactly once, and
can send the same bytes again.

The first line on stdout says on which ports they listen. A line on stdin, `Orders` as JSON, is answered by what was
accepted since the last one; then it begins anew. They stop when stdin ends.
"""

import asyncio
import gc
import json
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import asdict, define, field, frozen

ORIGINS = 4
"""Push services: as many as the browsers' vendors run, so that each may have its quarter of the slots."""

MAIL_ID = re.compile(rb'X-Entity-Ref-ID"?: ?"?([0-9a-f-]{36})')

MAIL_ANSWER = b'{"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}'
ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
CREATED = b"HTTP/1.1 201 Created\r\nTTL: 0\r\nContent-Length: 0\r\n\r\n"
QUEUED = b"250 queued\r\n"
BY_SMTP = b"DATA /smtp"
"""What stands for a request's head where a mail came by SMTP."""


@frozen
class Orders:
    """What the servers are to do from now on.

    Attributes:
        latency: seconds between a request and its answer.
        record: a file for the requests that come, to be read by `requests_in`; "" for none.
    """

    latency: float = 0.0
    record: str = ""


@frozen
class Accepted:
    """What came since the last orders.

    Attributes:
        calls: how many requests.
        mails, pushes: how many different ones.
        again: how many came more than once.
        first, last: when the first and the last request came, by CLOCK_MONOTONIC, which all processes share.
    """

    calls: int
    mails: int
    pushes: int
    again: int
    first: float
    last: float


@frozen
class Request:
    """One request as it came: the port it came to, its path, headers and body."""

    port: int
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


def requests_in(path: Path) -> list[Request]:
    """What was recorded into *path*."""
    return [_request(*raw) for raw in pickle.loads(path.read_bytes())]


def _request(port: int, head: bytes, body: bytes) -> Request:
    line, *fields = head.decode("ascii").split("\r\n")
    headers = dict(one.split(": ", 1) for one in fields)
    return Request(
        port, line.split()[1], {name: headers[name] for name in headers if name.lower() not in _NOT_SAVED}, body
    )


_NOT_SAVED = {"host", "content-length", "connection"}


# ------------------------------------------------------------------------------------------------- in their process


@define
class Desk:
    """What all connections of the process share, since the last orders."""

    orders: Orders = field(factory=Orders)
    mails: set[bytes] = field(factory=set)
    pushes: set[bytes] = field(factory=set)
    calls: int = 0
    again: int = 0
    first: float = 0.0
    last: float = 0.0
    recorded: list[tuple[int, bytes, bytes]] = field(factory=list)

    def accept(self, port: int, head: bytes, body: bytes) -> bytes:
        """Note a request, or a mail that came by SMTP; the answer to it."""
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.calls += 1
        if self.orders.record:
            self.recorded.append((port, head, body))
        if head.startswith(b"POST /push/"):
            self._note(self.pushes, [head[: head.index(b" HTTP")]])
            return CREATED
        ids = MAIL_ID.findall(body)
        self._note(self.mails, ids)
        if head == BY_SMTP:
            return QUEUED
        answer = MAIL_ANSWER if body.startswith(b"{") else b'{"data": [%s]}' % b", ".join([MAIL_ANSWER] * len(ids))
        return ACCEPTED % (len(answer), answer)

    def _note(self, known: set[bytes], ids: list[bytes]) -> None:
        self.again += sum(one in known for one in ids)
        known.update(ids)

    def end(self) -> Accepted:
        """What came."""
        if self.orders.record:
            Path(self.orders.record).write_bytes(pickle.dumps(self.recorded))
        return Accepted(self.calls, len(self.mails), len(self.pushes), self.again, self.first, self.last)


class Connection(asyncio.Protocol):
    """One connection, kept alive; HTTP/1.1 as far as httpx and requests write it."""

    desk = Desk()  # of the process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer = transport, bytearray()
        self._port: int = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            answer = self.desk.accept(self._port, head, bytes(self._buffer[end + 4 : whole]))
            del self._buffer[:whole]
            if latency := self.desk.orders.latency:
                asyncio.get_running_loop().call_later(latency, self._transport.write, answer)
            else:
                self._transport.write(answer)


_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d+)")


class MailConnection(asyncio.Protocol):
    """One connection to the mail server: a command a line, and a mail up to the line with a dot."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer, self._in_mail = transport, bytearray(), False
        self._port: int = transport.get_extra_info("sockname")[1]
        transport.write(b"220 bench\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n.\r\n" if self._in_mail else b"\r\n")) >= 0:
            piece = bytes(self._buffer[:end])
            del self._buffer[: end + (5 if self._in_mail else 2)]
            if self._in_mail:
                answer, desk = Connection.desk.accept(self._port, BY_SMTP, piece), Connection.desk
                asyncio.get_running_loop().call_later(desk.orders.latency, self._transport.write, answer)
                self._in_mail = False
            else:
                command = piece[:4].upper()
                self._in_mail = command == b"DATA"
                self._transport.write(_SMTP.get(command, b"250 ok\r\n"))
                if command == b"QUIT":
                    self._transport.close()


_SMTP = {b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}


async def serve() -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    kinds = [Connection, MailConnection, *[Connection] * ORIGINS]
    servers = [await loop.create_server(kind, "127.0.0.1", 0) for kind in kinds]
    _say([server.sockets[0].getsockname()[1] for server in servers])
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        _say(asdict(Connection.desk.end()))
        Connection.desk = Desk(Orders(**json.loads(line)))


def _say(something: object) -> None:
    sys.stdout.write(json.dumps(something) + "\n")
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------ seen from who started it


@frozen
class Servers:
    """The servers' process. *mail_url* is the mail API's origin, *push_urls* those of the push services."""

    mail_url: str
    smtp_port: int
    push_urls: tuple[str, ...]
    _stdin: IO[bytes] = field(repr=False)
    _stdout: IO[bytes] = field(repr=False)

    def next(self, orders: Orders = Orders()) -> Accepted:
        """Have them do as *orders* say; what was accepted before."""
        self._stdin.write(json.dumps(asdict(orders)).encode() + b"\n")
        self._stdin.flush()
        return Accepted(**json.loads(self._stdout.readline()))


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Run them for the length of the block."""
    command = [sys.executable, "-m", "bench.servers"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        mail, smtp, *push = json.loads(process.stdout.readline())
        urls = tuple(f"http://127.0.0.1:{port}" for port in (mail, *push))
        yield Servers(urls[0], smtp, urls[1:], process.stdin, process.stdout)


if __name__ == "__main__":
    gc.disable()
    asyncio.run(serve())
