"""A dialogue with a mail server: from the greeting to the login, then mails, one after another.

Until the line with a dot that ends a mail has been sent, the mail was certainly not accepted. From then on, only the
server's reply tells.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Self

import trio
from attrs import define, field, frozen

from notifierd.config.providers import SmtpSettings
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._network import NotMade
from notifierd.send.route.connection import Connection, ConnectionLost, Connector
from notifierd.send.smtp.meaning import CLOSING, Refusal, Stage, refusal
from notifierd.send.smtp.replies import NotSmtp, Replies, Reply

OPENING_SECONDS = 8.0
"""The longest time from the greeting to the login. With the time to connect, the next one, and the time to end sessions
that were idle, it lies within the default of `limits.send_timeout`: a mail that the caller cancels may have been sent,
and a mail that ends here was certainly not. RFC 5321, section 4.5.3.2, recommends minutes, for a queue that can wait.
"""

ENVELOPE_SECONDS = 8.0
"""The longest time from the first command of a mail to the last byte before its end."""

LAST_BYTES = 65536
"""How much of a mail is sent together with its end, so that most mails are one packet less."""

AT_ONCE_BYTES = 16384
"""How much the kernel takes at once at least (tcp_wmem in tcp(7)). While more is sent, a reply is listened for, which
costs 0.08 ms of CPU time for each mail."""

QUIT_SECONDS = 1.0
"""The longest time to wait for the reply to QUIT."""

COMMAND_BYTES = 510
"""The longest command, without its line end: RFC 5321, section 4.5.3.1.4."""


class NotSent(Exception):
    """A mail was certainly not accepted; *outcome* says why."""

    def __init__(self, outcome: Refusal) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@frozen
class Envelope:
    """Who a mail is from, and who it is for (RFC 5321, section 2.3.1): addresses in ASCII."""

    sender: str = field(repr=False)
    recipient: str = field(repr=False)


@define
class Session:
    """A connection on which the server accepts mails.

    Attributes:
        is_usable: whether another mail may follow. If not, the session can only be closed.
        was_over: whether the server had ended the session before the last mail: another session may send it.
    """

    _connection: Connection = field(repr=False)
    _now: Callable[[], datetime] = field(repr=False)
    _extensions: Mapping[str, str] = field(factory=dict, init=False)
    _replies: Replies = field(factory=Replies, init=False, repr=False)
    _mails: int = field(default=0, init=False)
    _stage: Stage = field(default=Stage.CONNECT, init=False)
    _may_reset: bool = field(default=False, init=False)
    is_usable: bool = field(default=True, init=False)
    was_over: bool = field(default=False, init=False)

    @classmethod
    async def open(cls, connector: Connector, settings: SmtpSettings, name: str, now: Callable[[], datetime]) -> Self:
        """Connect, and log in; *name* is the domain that EHLO names.

        Raises:
            NotSent: the server cannot be reached, or does not accept us.
        """
        try:
            session = cls(await connector.connect(settings.host, settings.port), now)
        except NotMade as error:
            raise NotSent(error.outcome) from error
        try:
            with trio.fail_after(OPENING_SECONDS):
                await session._begin(settings, name)
        except trio.TooSlowError as error:
            await session.aclose()
            raise NotSent(_too_slow(session._stage)) from error
        except BaseException:
            await session.aclose()
            raise
        return session

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the session, or said something unasked."""
        return self._replies.pending or self._connection.is_over

    async def send(self, envelope: Envelope, content: bytes) -> Outcome:
        """Send a mail. *content* has lines that end in CRLF, the last one too."""
        self._mails += 1
        self.is_usable = self._may_reset = False
        body = _transparent(content)
        last = max(0, len(body) - LAST_BYTES)
        try:
            with trio.move_on_after(ENVELOPE_SECONDS) as time:
                await self._announce(envelope, len(content))
                if last:
                    await self._write_content(body[:last])
        except NotSent as error:
            if self._may_reset:
                self.is_usable = await self._reset()
            return error.outcome
        if time.cancelled_caught:
            return _too_slow(self._stage)
        try:
            await self._write_content(body[last:] + b".\r\n")
        except NotSent as error:
            return error.outcome
        try:
            reply = await self._next_reply()
        except ConnectionLost:
            return Unknown(Reason.CONNECTION_LOST)
        except NotSmtp:
            return Unknown(Reason.ANSWER_UNCLEAR)
        self.is_usable = reply.code != CLOSING
        match reply.kind:
            case 2:
                return Delivered(_queue_id(reply.text))
            case 3:  # a reply that does not tell
                self.is_usable = False
                return Unknown(Reason.ANSWER_UNCLEAR)
            case _:
                return refusal(Stage.CONTENT, reply, self._now())

    async def quit(self) -> None:
        """End the session as RFC 5321, section 4.1.1.10, asks for, and close the connection."""
        try:
            with trio.move_on_after(QUIT_SECONDS), suppress(ConnectionLost, NotSmtp):
                await self._connection.write(b"QUIT\r\n")
                await self._next_reply()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        self.is_usable = False
        await self._connection.aclose()

    async def _begin(self, settings: SmtpSettings, name: str) -> None:
        if settings.security == "tls":  # RFC 8314, section 3.3
            await self._secure()
        greeting = await self._reply(Stage.CONNECT)
        if greeting.kind != 2:  # noqa: PLR2004 - RFC 5321, section 3.1
            raise NotSent(self._meaning(Stage.CONNECT, greeting))
        await self._greet(name)
        if settings.security == "starttls":
            self._require("STARTTLS")
            await self._command("STARTTLS", 2, Stage.STARTTLS)
            if self._replies.pending:  # sent before TLS, perhaps by somebody on the way: RFC 3207, section 6
                raise NotSent(_not_smtp(Stage.STARTTLS))
            await self._secure()
            await self._greet(name)  # RFC 3207, section 4.2: what was said before TLS does not count
        if settings.username:
            await self._log_in(settings.username, settings.password)

    async def _secure(self) -> None:
        try:
            await self._connection.secure()
        except NotMade as error:
            raise NotSent(error.outcome) from error

    async def _greet(self, name: str) -> None:
        reply = await self._command(f"EHLO {name}", 2, Stage.EHLO)
        words = (line.upper().partition(" ") for line in reply.lines[1:])
        self._extensions = {keyword: parameters for keyword, _, parameters in words}

    def _require(self, extension: str) -> None:
        if extension not in self._extensions:
            raise NotSent(Blocked(Reason.NOT_OFFERED.of(extension.lower())))

    async def _log_in(self, username: str, password: str) -> None:
        """Log in by PLAIN (RFC 4616), or by LOGIN, which is all that some servers of Microsoft have."""
        self._require("AUTH")
        mechanisms = self._extensions["AUTH"].split()
        if "PLAIN" in mechanisms:
            secret = _base64(f"\0{username}\0{password}")
            if len(command := f"AUTH PLAIN {secret}") <= COMMAND_BYTES:
                await self._command(command, 2, Stage.AUTH)
                return
            answers = [secret]  # RFC 4954, section 4
        elif "LOGIN" in mechanisms:
            answers = [_base64(username), _base64(password)]
        else:
            raise NotSent(Blocked(Reason.NOT_OFFERED.of("auth")))
        await self._command("AUTH PLAIN" if len(answers) == 1 else "AUTH LOGIN", 3, Stage.AUTH)
        for nth, answer in enumerate(answers, start=1):
            await self._command(answer, 2 if nth == len(answers) else 3, Stage.AUTH)

    async def _announce(self, envelope: Envelope, size: int) -> None:
        """Send the commands before a mail's content, together if the server allows that (RFC 2920).

        Raises:
            NotSent: the server refuses the mail, or the connection is lost.
        """
        with_size = f" SIZE={size}" if "SIZE" in self._extensions else ""  # RFC 1870
        commands = {
            Stage.MAIL: f"MAIL FROM:<{envelope.sender}>{with_size}",
            Stage.RCPT: f"RCPT TO:<{envelope.recipient}>",
            Stage.DATA: "DATA",
        }
        together = "PIPELINING" in self._extensions
        refused: NotSent | None = None
        if together:
            await self._write(_lines(*commands.values()), Stage.MAIL)
        for stage, command in commands.items():
            if not together:
                await self._write(_lines(command), stage)
            try:
                reply = await self._reply(stage)
            except NotSent as lost:
                raise refused or lost from None
            if reply.kind == _WANTED[stage]:
                continue
            refused = refused or NotSent(self._meaning(stage, reply))
            if reply.code == CLOSING:
                self._note_end(stage)
                raise refused
            if not together:
                break
        if refused is None:
            return
        # RFC 2920, section 3.1: the server may wait for a content although it refused the recipient.
        self._may_reset = reply.kind in {4, 5}
        raise refused

    def _note_end(self, stage: Stage) -> None:
        """Note that the server ended the session at *stage*: a mail that follows another may find it so."""
        self.was_over = stage is Stage.MAIL and self._mails > 1

    async def _command(self, line: str, kind: int, stage: Stage) -> Reply:
        """Send one command; return its reply, which must be of *kind*."""
        await self._write(_lines(line), stage)
        reply = await self._reply(stage)
        if reply.kind != kind:
            raise NotSent(self._meaning(stage, reply))
        return reply

    def _meaning(self, stage: Stage, reply: Reply) -> Refusal:
        """Return what a reply means that is not the wanted one."""
        if reply.kind in {4, 5}:
            return refusal(stage, reply, self._now())
        return Deferred(Reason.UNEXPECTED.of(*reply.codes), blame=Blame.PATH)

    async def _write(self, data: bytes, stage: Stage) -> None:
        self._stage = stage
        if self._replies.pending:  # a reply to nothing would be taken for the reply to this
            raise NotSent(_not_smtp(stage))
        try:
            await self._connection.write(data)
        except ConnectionLost as error:
            self._note_end(stage)
            raise NotSent(_lost(stage)) from error

    async def _write_content(self, data: bytes) -> None:
        """Send a part of a mail. Some servers refuse a mail before they have all of it, and read no further.

        Raises:
            NotSent: the server replied, or the connection was lost, before all of *data* was sent.
        """
        self._stage = Stage.CONTENT
        if not self._replies.pending and await self._is_sent(data):
            return
        reply = await self._reply(Stage.CONTENT)
        raise NotSent(refusal(Stage.CONTENT, reply, self._now()) if reply.kind in {4, 5} else _not_smtp(Stage.CONTENT))

    async def _is_sent(self, data: bytes) -> bool:
        """Send *data*; return whether the server, or the network, took all of it."""
        sent = False
        if len(data) <= AT_ONCE_BYTES:
            with suppress(ConnectionLost):
                await self._connection.write(data)
                sent = True
            return sent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            with suppress(ConnectionLost):  # a reply may have come before
                await self._connection.write(data)
                sent = True
                nursery.cancel_scope.cancel()
        return sent

    async def _listen(self, writing: trio.CancelScope) -> None:
        """Wait for a reply, or for the end of the connection; then end *writing*, after which TLS cannot be read."""
        with suppress(ConnectionLost):
            while not self._replies.is_whole:
                self._replies.feed(await self._connection.read())
        writing.cancel()

    async def _reply(self, stage: Stage) -> Reply:
        self._stage = stage
        try:
            return await self._next_reply()
        except ConnectionLost as error:
            self._note_end(stage)
            raise NotSent(_lost(stage)) from error
        except NotSmtp as error:
            raise NotSent(_not_smtp(stage)) from error

    async def _next_reply(self) -> Reply:
        while (reply := self._replies.next()) is None:
            self._replies.feed(await self._connection.read())
        return reply

    async def _reset(self) -> bool:
        """End a mail that was refused; return whether the session is usable."""
        with trio.move_on_after(QUIT_SECONDS, shield=True), suppress(NotSent):  # the refusal must not be lost
            await self._command("RSET", 2, Stage.MAIL)
            return True
        self.was_over = False
        return False


_WANTED = {Stage.MAIL: 2, Stage.RCPT: 2, Stage.DATA: 3}
"""The first digit of the reply that accepts a command."""


def _lines(*commands: str) -> bytes:
    return "".join(f"{command}\r\n" for command in commands).encode("ascii")


def _transparent(content: bytes) -> bytes:
    """Double each dot that begins a line: RFC 5321, section 4.5.2."""
    return (b"." if content.startswith(b".") else b"") + content.replace(b"\n.", b"\n..")


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode("ascii")


def _lost(stage: Stage) -> Deferred:
    return Deferred(Reason.CONNECTION_FAILED.of(stage), blame=Blame.PROVIDER)


def _too_slow(stage: Stage) -> Deferred:
    return Deferred(Reason.REQUEST_TIMEOUT.of(stage), blame=Blame.PROVIDER)


def _not_smtp(stage: Stage) -> Deferred:
    return Deferred(Reason.NOT_THE_PROVIDER.of(stage), blame=Blame.PATH)


def _queue_id(text: str) -> str | None:
    """Return under which id the server keeps a mail that it accepted; None if its text has no known form.

    An operator finds the mail in the server's log by it. No other text is kept, because it may quote an address.
    """
    found = _QUEUED.search(text)
    return found["id"] if found else None


_QUEUED = re.compile(
    r"(?:\bqueued as |\bid=|^(?:2\.\d\.\d )?(?:ok )?)(?P<id>(?=[\w.-]*\d)[\w.-]{6,100})(?!\S)",
    re.IGNORECASE | re.ASCII,
)
"""Postfix: "2.0.0 Ok: queued as ID"; Exim: "OK id=ID"; Sendmail and OpenSMTPD: "2.0.0 ID Message accepted for
delivery"; Amazon SES: "Ok ID"."""
