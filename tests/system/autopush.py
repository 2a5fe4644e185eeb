"""A push service as Firefox knows Mozilla's, autopush: a WebSocket to the browser, endpoints (RFC 8030) to senders.

What they say over the WebSocket is in Firefox's dom/push/PushServiceWebSocket.sys.mjs:
https://searchfox.org/firefox-main/source/dom/push/PushServiceWebSocket.sys.mjs
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import uuid4

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from notifierd.demo.servers.http11 import Answer, Request, serve_connection
from notifierd.demo.servers.push_service import Head, Refused, read_head

DELIVERED = 100
"""What the browser acknowledges a message with that it has decrypted, and woken the service worker for."""

_PATH = "/wpush/v2/token-"  # tests/support/faults.py demands that no run shows a "token-" to anybody


@define
class Message:
    """A push that was accepted.

    Attributes:
        version: the browser's name for it.
        code: what the browser acknowledged it with.
    """

    head: Head
    version: str = field(factory=lambda: uuid4().hex)
    code: int = 0
    acknowledged: trio.Event = field(factory=trio.Event)


@define
class Autopush:
    """The service, with one browser.

    Attributes:
        origin: of the endpoints.
        browser_url: where the browser connects to.
        hello: is set once the browser has.
        keys: the public key that each subscription is restricted to (RFC 8292, section 4), by channel.
        gone: the channels that the browser has unregistered.
        accepted: the pushes that went on to the browser.
    """

    origin: str
    browser_url: str
    hello: trio.Event = field(factory=trio.Event)
    keys: dict[str, str] = field(factory=dict)
    gone: set[str] = field(factory=set)
    accepted: list[Message] = field(factory=list)
    _browser: WebSocketConnection | None = None

    # To the browser -------------------------------------------------------------------------------------------------

    async def converse(self, request: WebSocketRequest) -> None:
        """Serve a browser's connection."""
        browser = self._browser = await request.accept(subprotocol="push-notification")
        with suppress(ConnectionClosed):
            while True:
                message = json.loads(await browser.get_message())
                if reply := self._reply(message):
                    await browser.send_message(json.dumps(reply))
                if message.get("messageType") == "hello":
                    self.hello.set()

    def _reply(self, message: dict[str, Any]) -> dict[str, Any] | None:
        match message:
            case {"messageType": "hello"}:
                return message | {"status": 200, "uaid": message.get("uaid") or uuid4().hex}
            case {"messageType": "register", "channelID": channel, "key": key}:  # perhaps again, with the same channel
                self.keys[channel] = key.rstrip("=")
                return message | {"status": 200, "pushEndpoint": f"{self.origin}{_PATH}{channel}"}
            case {"messageType": "unregister", "channelID": channel}:
                self.gone.add(channel)
                return message | {"status": 200}
            case {"messageType": "ack", "updates": updates}:
                for update in updates:
                    (known,) = (each for each in self.accepted if each.version == update["version"])
                    known.code = update["code"]
                    known.acknowledged.set()
        return None

    # To senders -----------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Answer:
        """Answer a sender."""
        channel = request.path.removeprefix(_PATH)
        if channel in self.gone:
            return Answer(410)
        if channel not in self.keys or self._browser is None:
            return Answer(404)
        try:
            head = read_head(request, self.origin)
        except Refused as refused:
            return Answer(refused.status, {"reason": str(refused)})
        if head.key != self.keys[channel]:
            return Answer(403, {"reason": "not the key that the browser subscribed with"})  # RFC 8292, section 4.2
        message = Message(head)
        self.accepted.append(message)
        notification = {
            "messageType": "notification",
            "channelID": channel,
            "version": message.version,
            "data": urlsafe_b64encode(request.body).decode(),
            "headers": {"encoding": request.headers["content-encoding"]},
        }
        await self._browser.send_message(json.dumps(notification))
        return Answer(201, headers={"location": f"{self.origin}/m/{message.version}", "ttl": str(head.ttl)})


@asynccontextmanager
async def running_autopush() -> AsyncIterator[Autopush]:
    """Serve on loopback for the length of the block."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        autopush = Autopush(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", "")
        senders = partial(serve_connection, handle=autopush.handle)
        nursery.start_soon(trio.serve_listeners, senders, [listener])
        browsers = partial(serve_websocket, autopush.converse, "127.0.0.1", 0, ssl_context=None)
        server = await nursery.start(browsers)
        autopush.browser_url = f"ws://127.0.0.1:{server.port}"
        yield autopush
        nursery.cancel_scope.cancel()
