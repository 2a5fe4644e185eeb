"""A mail server for tests, as http11 is a web server: it answers as it is told, and can hang or cut a connection."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import define, field, frozen

_CHUNK: Final = 65536

EXTENSIONS: Final = ("PIPELINING", "SIZE 10485760", "8BITMIME", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN")


@frozen
class Step:
    """What the client did, and now waits for the reply to.

    Attributes:
        verb: "CONNECT", a command's first word in upper case, "ANSWER" to a 334, or "." for the end of a mail.
        argument: the rest of the command's line.
        mail: what is known of the mail by then.
        secure: whether the connection has TLS.
        hung_up: waits until the client has closed the connection.
    """

    verb: str
    argument: str
    mail: "Submission"
    secure: bool
    hung_up: Callable[[], Awaitable[None]]


@frozen
class Submission:
    """A mail: the arguments of MAIL and RCPT, and the content without transparency dots."""

    sender: str = ""
    recipients: tuple[str, ...] = ()
    content: bytes = b""


async def good(step: Step, extensions: tuple[str, ...] = EXTENSIONS) -> str | None:
    """Reply as a server does that accepts everything."""
    match step.verb:
        case "CONNECT":
            return "220 mail.example.jp ESMTP"
        case "EHLO":
            lines = ["mail.example.jp", *extensions]
            return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])
        case "STARTTLS":
            return "220 2.0.0 Ready to start TLS"
        case "AUTH" if step.argument.upper() in {"PLAIN", "LOGIN"}:
            return "334 "
        case "AUTH" | "ANSWER":
            return "235 2.7.0 Authentication successful"
        case "DATA":
            return "354 End data with <CR><LF>.<CR><LF>"
        case "QUIT":
            return "221 2.0.0 Bye"
        case _:
            return "250 2.0.0 Ok"


async def serve_session(
    stream: trio.abc.Stream,
    handle: Callable[[Step], Awaitable[str | None]],
    *,
    tls: ssl.SSLContext | None = None,
    secure: bool = False,
) -> None:
    """Serve one connection: *handle* gives the reply to each step; None cuts the connection.

    Args:
        tls: what STARTTLS begins TLS with.
        secure: whether *stream* has TLS already.
    """
    dialogue = _Dialogue(stream, secure)
    try:
        await _serve(dialogue, handle, tls)
    except (trio.BrokenResourceError, EOFError):
        return  # the client went away
    finally:
        await trio.aclose_forcefully(dialogue.stream)


async def _serve(
    dialogue: "_Dialogue", handle: Callable[[Step], Awaitable[str | None]], tls: ssl.SSLContext | None
) -> None:
    mail, verb, argument, answering = Submission(), "CONNECT", "", False
    while True:
        step = Step(verb, argument, mail, dialogue.secure, dialogue.hung_up)
        reply = await handle(step)
        if reply is None:
            return
        await dialogue.stream.send_all(f"{reply}\r\n".encode())
        code = reply[:3]
        match verb, code:
            case "QUIT", _:
                return
            case "STARTTLS", "220" if tls is not None:
                await dialogue.start_tls(tls)
            case "MAIL", "250":
                mail = Submission(argument)
            case "RCPT", "250":
                mail = Submission(mail.sender, (*mail.recipients, argument))
            case (("." | "RSET" | "EHLO"), _):
                mail = Submission()
        answering = code == "334"
        if verb == "DATA" and code == "354":
            mail = Submission(mail.sender, mail.recipients, await dialogue.content())
            verb, argument = ".", ""
            continue
        line = (await dialogue.line()).decode("utf-8", "replace")
        verb, _, argument = line.partition(" ")
        verb, argument = ("ANSWER", line) if answering else (verb.upper(), argument)


@define
class _Dialogue:
    stream: trio.abc.Stream
    secure: bool
    _buffer: bytearray = field(factory=bytearray, init=False)

    async def line(self) -> bytes:
        return await self._until(b"\r\n")

    async def content(self) -> bytes:
        """Return a mail up to the line with a dot (RFC 5321, section 4.5.2)."""
        lines = []
        while (line := await self._until(b"\r\n")) != b".":
            lines.append(line.removeprefix(b"."))
        return b"".join(line + b"\r\n" for line in lines)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        self.stream = trio.SSLStream(self.stream, context, server_side=True, https_compatible=True)
        self.secure = True
        self._buffer.clear()

    async def hung_up(self) -> None:
        while await self.stream.receive_some(_CHUNK):
            pass

    async def _until(self, end: bytes) -> bytes:
        start = 0
        while (found := self._buffer.find(end, start)) < 0:
            start = max(0, len(self._buffer) - len(end) + 1)
            data = await self.stream.receive_some(_CHUNK)
            if not data:
                raise EOFError
            self._buffer += data
        piece = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return piece
