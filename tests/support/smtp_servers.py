"""Mail servers on loopback that accept, refuse, cut and hang as they are told."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field

from notifierd.config.providers import SmtpSettings
from notifierd.demo.servers.smtp import EXTENSIONS, Step, good, serve_session
from tests.support.loopback import serving

QUEUED = "250 2.0.0 Ok: queued as 4Fg7Zk0"
PLAIN_ONLY = ("SIZE 10485760", "AUTH PLAIN LOGIN")
"""Extensions without PIPELINING: each command waits for its reply."""

Scripted = str | None | Callable[[Step], Awaitable[str | None]]


@define
class MailServer:
    """A mail server that accepts everything, except for what *replies* has another reply to.

    Attributes:
        replies: the reply to a verb (see `Step`), None to cut the connection, or a function that gives either.
        steps: all that clients did.
        connections: how many were made.
    """

    replies: Mapping[str, Scripted] = field(factory=dict)
    extensions: tuple[str, ...] = EXTENSIONS
    tls: ssl.SSLContext | None = None
    implicit: bool = False
    steps: list[Step] = field(factory=list)
    connections: int = 0

    @property
    def verbs(self) -> list[str]:
        return [step.verb for step in self.steps]

    async def handle(self, step: Step) -> str | None:
        self.steps.append(step)
        reply = self.replies.get(step.verb, QUEUED if step.verb == "." else await good(step, self._offered(step)))
        return await reply(step) if callable(reply) else reply

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        if self.implicit and self.tls:
            stream = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
        await serve_session(stream, self.handle, tls=self.tls, secure=self.implicit)

    def _offered(self, step: Step) -> tuple[str, ...]:
        return (*self.extensions, *(("STARTTLS",) if self.tls and not step.secure else ()))


@asynccontextmanager
async def running(server: MailServer) -> AsyncIterator[SmtpSettings]:
    """Run *server* for the block; yield the settings that lead to it."""
    async with serving(server.serve) as port:
        yield smtp_settings(port, security=("tls" if server.implicit else "starttls") if server.tls else "none")


def smtp_settings(port: int, **changes: Any) -> SmtpSettings:
    return SmtpSettings(**{"host": "127.0.0.1", "port": port, "security": "none", **changes})


async def hang(step: Step) -> str | None:
    """Reply nothing until the client gives up."""
    await step.hung_up()
    return None
