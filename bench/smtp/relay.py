"""A relay in front of a mail server, which makes each reply later: ``python -m bench.smtp.relay PORT SECONDS``.

The server at PORT of 127.0.0.1 has no TLS here, so the relay sees when mails come and are accepted. The first line on
stdout has the relay's own port. A line on stdin is answered by `Passed` as JSON; then it counts anew. The relay stops
when stdin ends.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO

from attrs import asdict, define, field, frozen

ACCEPTED = b"queued as"
"""Postfix says so of each mail that it accepted."""


@define
class Passed:
    """What went through.

    Attributes:
        mails: how many were accepted.
        connections: how many clients made.
        first, last: when the first connection was made, and when the last mail was accepted, by CLOCK_MONOTONIC.
    """

    mails: int = 0
    connections: int = 0
    first: float = 0.0
    last: float = 0.0


@define
class _Relay:
    port: int
    seconds: float
    passed: Passed = field(factory=Passed)


class _Client(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        passed = self._relay.passed
        passed.connections += 1
        passed.first = passed.first or time.monotonic()
        self._waiting: list[bytes] = []
        self._server: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        made = loop.create_connection(partial(_Server, self._relay, transport), "127.0.0.1", self._relay.port)
        self._connecting = loop.create_task(made)
        self._connecting.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[tuple[asyncio.Transport, asyncio.Protocol]]") -> None:
        self._server, _ = task.result()
        self._server.writelines(self._waiting)

    def data_received(self, data: bytes) -> None:
        if self._server:
            self._server.write(data)
        else:
            self._waiting.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._server:
            self._server.close()


class _Server(asyncio.Protocol):
    """The connection to the server that belongs to a client's."""

    def __init__(self, relay: _Relay, client: asyncio.Transport) -> None:
        self._relay, self._client = relay, client

    def data_received(self, data: bytes) -> None:
        if self._relay.seconds:
            asyncio.get_running_loop().call_later(self._relay.seconds, self._reply, data)
        else:
            self._reply(data)

    def _reply(self, data: bytes) -> None:
        if accepted := data.count(ACCEPTED):
            self._relay.passed.mails += accepted
            self._relay.passed.last = time.monotonic()
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self._relay.seconds, self._client.close)


async def _serve(relay: _Relay) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(_Client, relay), "127.0.0.1", 0)
    _say(server.sockets[0].getsockname()[1])
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while await stdin.readline():
        _say(asdict(relay.passed))
        relay.passed = Passed()


def _say(something: object) -> None:
    sys.stdout.write(json.dumps(something) + "\n")
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------ seen from who started it


@frozen
class Relay:
    """The relay's process, and its port."""

    port: int
    _stdin: IO[bytes] = field(repr=False)
    _stdout: IO[bytes] = field(repr=False)

    def passed(self) -> Passed:
        """What went through since the last call."""
        self._stdin.write(b"\n")
        self._stdin.flush()
        return Passed(**json.loads(self._stdout.readline()))


@contextmanager
def relaying(port: int, seconds: float) -> Iterator[Relay]:
    """Run the relay to *port* for the length of the block; each reply comes so many *seconds* later."""
    command = [sys.executable, "-m", "bench.smtp.relay", str(port), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        yield Relay(json.loads(process.stdout.readline()), process.stdin, process.stdout)


if __name__ == "__main__":
    asyncio.run(_serve(_Relay(int(sys.argv[1]), float(sys.argv[2]))))
