"""A page that is open and live: the client's side of server-sent events."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import h11
import trio
from attrs import define, field


@define
class Events:
    """What the live part is told.

    Attributes:
        heard: how many events came.
    """

    _stream: trio.SocketStream
    _http: h11.Connection = field(factory=lambda: h11.Connection(h11.CLIENT))
    heard: int = 0
    _text: str = ""

    async def ask(self, host: str, **more: str) -> None:
        headers = [("host", host), ("accept-language", "en"), *more.items()]
        request = h11.Request(method="GET", target="/events", headers=headers)
        for event in (request, h11.EndOfMessage()):
            await self._stream.send_all(self._http.send(event) or b"")

    async def next(self) -> dict[str, Any]:
        """The next event.

        Raises:
            EOFError: the stream was ended in good order.
        """
        while "\n\n" not in self._text:
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(await self._stream.receive_some())
                case h11.Response() as answer:
                    assert (answer.status_code, dict(answer.headers)[b"content-type"]) == (200, b"text/event-stream")
                case h11.Data() as part:
                    self._text += part.data.decode()
                case h11.EndOfMessage():
                    raise EOFError
        event, _, self._text = self._text.partition("\n\n")
        if event == ":":
            return await self.next()
        self.heard += 1
        name, data = event.split("\n")
        assert name == "event: now"
        found = json.loads(data.removeprefix("data: "))
        assert isinstance(found, dict)
        return found

    async def to_the_end(self) -> list[dict[str, Any]]:
        """All that comes, until the stream is ended."""
        found = []
        with suppress(EOFError):
            while True:
                found.append(await self.next())
        return found


@asynccontextmanager
async def listening(url: str, **headers: str) -> AsyncIterator[Events]:
    """Have a page open for the block."""
    host = urlsplit(url).netloc
    name, _, port = host.partition(":")
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        events = Events(stream)
        await events.ask(host, **headers)
        yield events
