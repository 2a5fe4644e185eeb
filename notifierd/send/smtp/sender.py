"""The sender of `email.smtp`: mails by any mail server that accepts submissions."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import trio

from notifierd.config.providers import SmtpSettings
from notifierd.config.settings import Settings
from notifierd.model.message import Mail
from notifierd.model.outcome import Delivered, Outcome, Probe, Unknown
from notifierd.model.reasons import Reason
from notifierd.send._answers import guarded
from notifierd.send.mail.mime import dated, undated
from notifierd.send.route.connection import Connector
from notifierd.send.smtp.session import Envelope, NotSent, Session

KEPT_SECONDS = 30.0
"""Seconds for which an idle session is kept. Servers keep one for five minutes (RFC 5321, section 4.5.3.2.7), but some
for 10 s only when they are busy: a session that has ended meanwhile costs no mail."""


class Smtp:
    """One mail for each call; a session serves one call at a time, and then the next.

    SMTP has no idempotency keys. The Message-ID carries the delivery's id, as in all mails, so a mail that was repeated
    after a lost reply can be recognized. The mail is 7-bit text, and its addresses are in ASCII, so 8BITMIME and
    SMTPUTF8 are not needed.
    """

    name = "smtp"
    max_batch = 1
    honours_keys = False

    def __init__(
        self, connector: Connector, settings: SmtpSettings, *, domain: str, now: Callable[[], datetime]
    ) -> None:
        """Make a sender that names itself *domain* in EHLO."""
        self._connector, self._settings, self._domain, self._now = connector, settings, domain, now
        self._idle: list[tuple[Session, float]] = []
        """Since when each has been idle, by Trio's clock; the longest first."""

    def destination(self, message: Mail) -> str:  # noqa: ARG002 - one server, one destination
        return self.name

    def encode(self, messages: Sequence[Mail]) -> bytes:
        """Return the message without its Date, which `send` adds."""
        (mail,) = messages
        return undated(mail)

    async def send(self, messages: Sequence[Mail], body: bytes, idempotency_key: str) -> list[Outcome]:  # noqa: ARG002 - SMTP knows no keys
        (mail,) = messages
        envelope, content = Envelope(mail.sender.address, mail.to), dated(body, self._now())
        return [await guarded(self._deliver(envelope, content), Unknown(Reason.ANSWER_UNCLEAR))]

    async def probe(self) -> Probe:
        """Log in, and send nothing."""
        call = "a login" if self._settings.username else "EHLO"
        notes = () if self._settings.username else ("no username is set, so no login was tried",)
        outcome = await guarded(self._prove(), Unknown(Reason.ANSWER_UNCLEAR))
        return Probe(call, outcome, notes if isinstance(outcome, Delivered) else ())

    async def aclose(self) -> None:
        """End all sessions."""
        sessions, self._idle = [session for session, _ in self._idle], []
        with trio.CancelScope(shield=True):  # each takes a limited time
            await _quit(sessions)

    async def _deliver(self, envelope: Envelope, content: bytes) -> Outcome:
        """Send a mail in a session that is kept; in a new one if there is none, or if the server has ended it."""
        session = await self._kept()
        if session is not None:
            outcome = await self._send(session, envelope, content)
            if not session.was_over:
                return outcome
        try:
            session = await self._open()
        except NotSent as error:
            return error.outcome
        return await self._send(session, envelope, content)

    async def _prove(self) -> Outcome:
        try:
            session = await self._open()
        except NotSent as error:
            return error.outcome
        await session.quit()
        return Delivered()

    async def _open(self) -> Session:
        return await Session.open(self._connector, self._settings, self._domain, self._now)

    async def _send(self, session: Session, envelope: Envelope, content: bytes) -> Outcome:
        """Send a mail; keep the session for the next one, or close it."""
        try:
            outcome = await session.send(envelope, content)
        except BaseException:
            await session.aclose()
            raise
        if session.is_usable:
            self._idle.append((session, trio.current_time()))
        else:
            await session.aclose()
        return outcome

    async def _kept(self) -> Session | None:
        """Return the session that was used last, if there is one; end those that have been idle for too long."""
        oldest = trio.current_time() - KEPT_SECONDS
        old = [session for session, since in self._idle if since < oldest]
        self._idle = [(session, since) for session, since in self._idle if since >= oldest]
        if old:
            await _quit(old)
        while self._idle:
            session, _ = self._idle.pop()
            if not session.is_over:
                return session
            await session.aclose()
        return None


async def _quit(sessions: Sequence[Session]) -> None:
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(session.quit)


@asynccontextmanager
async def open_smtp(settings: Settings, *, now: Callable[[], datetime]) -> AsyncIterator[Smtp]:
    """Open the sender, without a connection yet.

    In EHLO it names the domain of `email.sender`: a name that the server can look up, which this machine's own name
    often is not (RFC 5321, section 4.1.1.1), and that says nothing about our network.

    Raises:
        ConfigError: [network] cannot be used.
    """
    domain = settings.email.sender_mailbox.address.rpartition("@")[2]
    sender = Smtp(Connector.of(settings.network), settings.email.smtp, domain=domain, now=now)
    try:
        yield sender
    finally:
        await sender.aclose()
