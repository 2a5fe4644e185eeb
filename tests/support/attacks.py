"""What somebody without a token does to the page's port, from many connections at once; also as a process of its own.

python -m tests.support.attacks URL NAME [SEED NUMBER]
"""

import re
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import chain
from urllib.parse import urlsplit

import trio

from tests.support.port_fuzz import Sent, fuzz

CLIENTS = 40
VISITS_PER_SECOND = 400.0
HELD = 200
"""Connections that say little or nothing, of all attacks together."""

HOST = b" HTTP/1.1\r\nHost: localhost\r\n"
TOGETHER = (
    ("idle", "slow head", "slow body"),
    ("wrong tokens", "wrong forms", "pages"),
    ("health",),
    ("readiness",),
    ("connections",),
)
"""The attacks; those stand together that share a quota of the server, and so cost no more at once than one of them."""

ATTACKS = tuple(chain(*TOGETHER))


async def open_to(url: str) -> trio.SocketStream:
    address = urlsplit(url)
    stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    reset = struct.pack("ii", 1, 0)  # as it closes: thousands in TIME_WAIT would use up the machine's ports
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, reset)
    return stream


async def _say(url: str, first: bytes, then: bytes) -> None:
    """Say something, and more of it each second; whoever is cut comes again."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            async with await open_to(url) as stream:
                await stream.send_all(first)
                while True:
                    with trio.move_on_after(1.0):
                        while await stream.receive_some():
                            pass
                        break
                    await stream.send_all(then)


async def _ask(url: str, request: bytes, every: float = 0.0) -> None:
    """Ask for one thing again and again, over one connection if it is kept."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            async with await open_to(url) as stream:
                while True:
                    await stream.send_all(request)
                    if not await stream.receive_some():
                        break
                    await trio.sleep(every)


async def _connect(url: str) -> None:
    """Come and go."""
    while True:
        with suppress(OSError):
            await (await open_to(url)).aclose()
        await trio.sleep(CLIENTS / VISITS_PER_SECOND)


@asynccontextmanager
async def attack(url: str, *names: str) -> AsyncIterator[None]:
    """Have the attacks *names* go on for the block, all at once."""
    held = HELD // len(names)
    async with trio.open_nursery() as nursery:
        for name in names:
            work, number = _attack(url, name, held)
            for _ in range(number):
                nursery.start_soon(work)
        await trio.sleep(1.0)
        yield
        nursery.cancel_scope.cancel()


def _attack(url: str, name: str, held: int) -> tuple[Callable[[], Awaitable[None]], int]:
    """What each client of an attack does, and how many clients it has: *held*, if they only occupy connections."""
    match name:
        case "idle":
            return partial(_say, url, b"", b""), held
        case "slow head":
            return partial(_say, url, b"GET /" + HOST + b"X: ", b"x"), held
        case "slow body":
            return partial(_say, url, b"POST /login" + HOST + b"Content-Length: 4000\r\n\r\n", b"x"), held
        case "wrong tokens":
            bearer = b"Authorization: Bearer wrong\r\n\r\n"
            return partial(_ask, url, b"GET /metrics" + HOST + bearer, 1.0), CLIENTS
        case "wrong forms":
            form = b"Content-Length: 11\r\n\r\ntoken=wrong"
            return partial(_ask, url, b"POST /login" + HOST + form), CLIENTS
        case "pages":
            return partial(_ask, url, b"GET /" + HOST + b"\r\n"), CLIENTS
        case "health":
            return partial(_ask, url, b"GET /healthz" + HOST + b"\r\n"), CLIENTS
        case "readiness":
            return partial(_ask, url, b"GET /readyz" + HOST + b"\r\n"), CLIENTS
        case "connections":
            return partial(_connect, url), CLIENTS
        case _:
            raise ValueError(name)


async def fuzzing(url: str, requests: Sequence[Sent], statuses: Counter[bytes]) -> None:
    """Send all *requests*, and count what is answered."""
    async with trio.open_nursery() as nursery:
        for n in range(CLIENTS):
            nursery.start_soon(_send_all, url, requests[n::CLIENTS], statuses)


async def _send_all(url: str, requests: Sequence[Sent], statuses: Counter[bytes]) -> None:
    for sent in requests:
        with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(1.0):
            async with await open_to(url) as stream:
                await stream.send_all(sent.data)
                answer = bytes(await stream.receive_some()) if sent.waits else b""
                statuses.update(re.findall(rb"(?m)^HTTP/1\.1 ([0-9]{3}) ", answer))


async def _main(url: str, name: str, seed: int = 0, number: int = 0) -> None:
    if name == "fuzz":
        statuses: Counter[bytes] = Counter()
        print("begun", flush=True)
        await fuzzing(url, fuzz(seed, number), statuses)
        print(*(f"{status.decode()}:{times}" for status, times in sorted(statuses.items())))
    else:
        async with attack(url, name):
            print("begun", flush=True)
            await trio.sleep_forever()


if __name__ == "__main__":
    url, name, *numbers = sys.argv[1:]
    trio.run(partial(_main, url, name, *map(int, numbers)))
