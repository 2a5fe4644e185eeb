"""The operator's webhook and dead man's switch, in virtual time and on loopback."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import trio
from attrs import define, field, frozen

from notifierd.config.settings import NetworkSettings
from notifierd.send._http import Client, open_client
from tests.support.loopback import read_request, serving

SECRET = "receiver-secret-of-the-tests"
"""In both URLs."""

ELSEWHERE = "/elsewhere"
"""Where a redirect leads: nobody may ever come there."""


@frozen
class Got:
    """One request; *at* is Trio's time, and *token* that of Chatwork."""

    at: float
    path: str
    query: str
    type: str
    body: bytes
    token: str = ""

    @property
    def is_ping(self) -> bool:
        return self.path.startswith("/ping")

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def cause(self) -> str:
        """What a webhook's message is about."""
        return self._field("Cause")

    @property
    def day(self) -> str:
        """Of which day a webhook's message speaks."""
        return self._field("Day")

    def _field(self, title: str) -> str:
        (attachment,) = self.json["attachments"]
        return str({field["title"]: field["value"] for field in attachment["fields"]}[title])

    @property
    def signal(self) -> str:
        """What a ping says."""
        _, _, _secret, *signal = self.path.split("/")
        return signal[0] if signal else "success"

    @property
    def rid(self) -> str:
        (rid,) = parse_qs(self.query)["rid"]
        return rid


Answer = int | None
"""A status; None: none ever comes."""


def _fine(_: Got) -> Answer:
    return 200


@define
class Receivers:
    """What came in, whatever became of it.

    Attributes:
        answers: what is answered.
        wait: what Retry-After says with it.
    """

    answers: Callable[[Got], Answer] = _fine
    wait: str = ""
    got: list[Got] = field(factory=list)

    @property
    def alarms(self) -> list[Got]:
        return [one for one in self.got if not one.is_ping]

    @property
    def pings(self) -> list[Got]:
        return [one for one in self.got if one.is_ping]

    @property
    def causes(self) -> list[str]:
        return [one.cause for one in self.alarms]

    @property
    def signals(self) -> list[str]:
        return [one.signal for one in self.pings]

    async def receive(self, target: str, kind: str, body: bytes, token: str = "") -> Answer:
        parts = urlsplit(target)
        self.got.append(Got(trio.current_time(), parts.path, parts.query, kind, body, token))
        return self.answers(self.got[-1])

    def client(self, _network: NetworkSettings) -> AbstractAsyncContextManager[Client]:
        """The client of somebody who posts to them, without a socket."""
        return open_client(width=1, transport=httpx.MockTransport(self._respond))

    async def _respond(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode("ascii")
        status = await self.receive(target, request.headers["content-type"], await request.aread())
        if status is None:
            await trio.sleep_forever()
        return httpx.Response(status or 0, headers={"location": ELSEWHERE, "retry-after": self.wait})


@asynccontextmanager
async def receiving(
    receivers: Receivers, *, secret: str = SECRET, said: str = "ok"
) -> AsyncIterator[dict[str, object]]:
    """Have them listen on loopback, and say *said* to everything; yield what [watch] says of them."""

    async def handle(stream: trio.SocketStream) -> None:
        while True:
            head, body = await read_request(stream)
            request, *lines = head.decode("ascii").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            token = headers.get("x-chatworktoken", "")
            status = await receivers.receive(request.split()[1], headers.get("content-type", ""), body, token)
            if status is None:
                await trio.sleep_forever()
            answer = f"HTTP/1.1 {status} Status\r\nLocation: {ELSEWHERE}\r\nContent-Length: {len(said)}\r\n\r\n{said}"
            await stream.send_all(answer.encode())

    async with serving(handle) as port:
        base = f"http://127.0.0.1:{port}"
        yield {"webhook_url": f"{base}/hook/{secret}", "ping_url": f"{base}/ping/{secret}"}
