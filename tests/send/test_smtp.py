"""Mails through a mail server, over real TCP and TLS: what a reply to each command means, and what a cut means."""

import logging
import re
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trio
import trio.testing
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notifierd.config.providers import SmtpSettings
from notifierd.config.settings import EmailSettings, NetworkSettings, Settings
from notifierd.demo.servers.smtp import EXTENSIONS, Step, good
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Probe, Rejected, Unknown
from notifierd.send.mail.mime import undated
from notifierd.send.open import open_email
from notifierd.send.route.connection import Connection, Connector
from notifierd.send.route.trust import trusted
from notifierd.send.smtp.meaning import Stage, refusal
from notifierd.send.smtp.replies import Reply
from notifierd.send.smtp.sender import KEPT_SECONDS, Smtp, open_smtp
from notifierd.send.smtp.session import COMMAND_BYTES, ENVELOPE_SECONDS, OPENING_SECONDS, Envelope, Session
from tests.support.certificates import certificate, over_tls
from tests.support.connect_proxy import ConnectProxy, proxying
from tests.support.loopback import serving
from tests.support.messages import mail
from tests.support.smtp_servers import PLAIN_ONLY, QUEUED, MailServer, Scripted, hang, running, smtp_settings

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SENT = Delivered("4Fg7Zk0")
PASSWORD = "a-password-that-nobody-may-see"
CONNECTOR = Connector.of(NetworkSettings())
ENVELOPE = Envelope("no-reply@example.jp", "taro1@example.jp")
BOTH = [EXTENSIONS, PLAIN_ONLY]
"""With PIPELINING and without it."""


def sender_for(table: SmtpSettings, network: NetworkSettings | None = None) -> Smtp:
    return Smtp(Connector.of(network or NetworkSettings()), table, domain="example.jp", now=lambda: NOW)


@asynccontextmanager
async def sending(server: MailServer, **changes: Any) -> AsyncIterator[Smtp]:
    """A sender to *server*."""
    async with running(server) as table:
        sender = sender_for(evolve(table, **changes))
        try:
            yield sender
        finally:
            await sender.aclose()


async def send(sender: Smtp, number: int = 1) -> Outcome:
    message = [mail(number)]
    (outcome,) = await sender.send(message, sender.encode(message), "key")
    return outcome


async def outcome_of(
    replies: Mapping[str, Scripted], extensions: Sequence[str] = EXTENSIONS, **changes: Any
) -> Outcome:
    async with sending(MailServer(replies, tuple(extensions)), **changes) as sender:
        return await send(sender)


# ------------------------------------------------------------------------------------------------ what a refusal means

MAIL, RCPT, CONTENT = Stage.MAIL, Stage.RCPT, Stage.CONTENT


@pytest.mark.parametrize(
    ("stage", "said", "outcome"),
    [
        # the recipient's address or mailbox
        (RCPT, "550 5.1.1 <taro@example.jp>: User unknown", Rejected("rejected:550:5.1.1")),
        (RCPT, "553 5.1.3 bad address syntax", Rejected("rejected:553:5.1.3")),
        (RCPT, "556 5.1.10 Recipient address has null MX", Rejected("rejected:556:5.1.10")),
        (RCPT, "552 5.2.2 Mailbox over quota", Rejected("rejected:552:5.2.2")),
        (RCPT, "550 5.2.1 Account disabled", Rejected("rejected:550:5.2.1")),
        (CONTENT, "550 5.1.1 no such user", Rejected("rejected:550:5.1.1")),
        (RCPT, "450 4.2.1 Mailbox busy", Deferred("refused:450:4.2.1")),
        (CONTENT, "452 Mailbox over quota", Deferred("refused:452")),
        (CONTENT, "550 mailbox quota exceeded", Rejected("rejected:550", Blame.UNCLEAR)),
        (CONTENT, "550 5.7.1 sender blocked by the recipient's policy", Rejected("rejected:550:5.7.1", Blame.UNCLEAR)),
        (RCPT, "452 4.2.2 The account is over quota", Deferred("refused:452:4.2.2")),
        # the size of the mail
        (CONTENT, "452 4.3.4 too big for now", Deferred("refused:452:4.3.4")),
        (MAIL, "552 5.3.4 Message size exceeds fixed limit", Rejected("rejected:552:5.3.4")),
        (MAIL, "552 too big", Rejected("rejected:552")),
        (CONTENT, "552 5.3.4 Message too big", Rejected("rejected:552:5.3.4")),
        (CONTENT, "554 5.2.3 too long for the mailbox", Rejected("rejected:554:5.2.3")),
        # us: the sender, the login, the server's opinion of us
        (MAIL, "550 5.7.1 Sender address not owned by user", Blocked("blocked:550:5.7.1")),
        (MAIL, "553 5.1.8 Sender domain does not exist", Blocked("blocked:553:5.1.8")),
        (MAIL, "530 5.7.0 Authentication required", Blocked("blocked:530:5.7.0")),
        (RCPT, "553 5.1.7 bad sender", Blocked("blocked:553:5.1.7")),
        (RCPT, "530 5.7.0 Must issue a STARTTLS command first", Blocked("blocked:530:5.7.0")),
        (RCPT, "550 5.7.26 Unauthenticated mail", Blocked("blocked:550:5.7.26")),
        (RCPT, "550 5.7.60 no permission to send as this sender", Blocked("blocked:550:5.7.60")),
        (RCPT, "550 5.7.606 Access denied, banned sending IP", Blocked("blocked:550:5.7.606")),
        (RCPT, "553 5.7.1 <a@b.jp>: Sender address rejected: not owned by user", Blocked("blocked:553:5.7.1")),
        (RCPT, "554 5.7.1 unknown[10.0.0.1]: Client host rejected: Access denied", Blocked("blocked:554:5.7.1")),
        (RCPT, "450 4.7.1 <x>: Helo command rejected: Host not found", Deferred("refused:450:4.7.1", blame=Blame.PATH)),
        (CONTENT, "550 5.7.1 The account is suspended", Blocked("blocked:550:5.7.1")),
        (CONTENT, "554 Message rejected: Email address is not verified.", Blocked("blocked:554")),
        (CONTENT, "454 Throttling failure: Daily message quota exceeded", Blocked("quota:454")),
        (CONTENT, "550 5.4.5 Daily user sending limit exceeded", Blocked("quota:550:5.4.5")),
        (Stage.AUTH, "535 5.7.8 Authentication credentials invalid", Blocked("blocked:535:5.7.8")),
        (Stage.AUTH, "451 Authentication failed: Maximum credits exceeded", Blocked("quota:451")),
        (
            Stage.AUTH,
            "454 4.7.0 Temporary authentication failure",
            Deferred("server_error:454:4.7.0", blame=Blame.PROVIDER),
        ),
        (Stage.STARTTLS, "454 4.7.0 TLS not available", Deferred("server_error:454:4.7.0", blame=Blame.PROVIDER)),
        (Stage.CONNECT, "554 5.7.1 No SMTP service for you", Blocked("blocked:554:5.7.1")),
        (Stage.EHLO, "550 5.7.1 Helo command rejected", Blocked("blocked:550:5.7.1")),
        # not clear: final only if other mails pass, so that one recipient's rule stops nobody else's mail
        (RCPT, "554 5.7.1 <taro@example.jp>: Relay access denied", Rejected("rejected:554:5.7.1", Blame.UNCLEAR)),
        (RCPT, "550 5.4.1 Recipient address rejected: Access denied", Rejected("rejected:550:5.4.1", Blame.UNCLEAR)),
        (RCPT, "550 mailbox unavailable, quota, sender, api key", Rejected("rejected:550", Blame.UNCLEAR)),
        (CONTENT, "554 5.7.1 Spam", Rejected("rejected:554:5.7.1", Blame.UNCLEAR)),
        (CONTENT, "550 4.1.1 a class that is not the code's", Rejected("rejected:550", Blame.UNCLEAR)),
        # the server's own trouble
        (Stage.CONNECT, "421 4.3.2 Too many connections", Deferred("server_error:421:4.3.2", blame=Blame.PROVIDER)),
        (RCPT, "421 4.2.1 Shutting down", Deferred("server_error:421:4.2.1", blame=Blame.PROVIDER)),
        (RCPT, "421 4.7.0 Slow down", Deferred("rate_limited:421:4.7.0", blame=Blame.PROVIDER)),
        (MAIL, "452 4.3.1 Insufficient system storage", Deferred("server_error:452:4.3.1", blame=Blame.PROVIDER)),
        (MAIL, "451 try again in 90 seconds", Deferred("refused:451", 90.0, Blame.PROVIDER)),
        (MAIL, "450 4.7.1 Rate limit exceeded", Deferred("rate_limited:450:4.7.1", blame=Blame.PROVIDER)),
        (
            RCPT,
            "454 Throttling failure: Maximum sending rate exceeded",
            Deferred("rate_limited:454", blame=Blame.PROVIDER),
        ),
        (CONTENT, "451 4.3.0 Queue file write error", Deferred("server_error:451:4.3.0", blame=Blame.PROVIDER)),
        (CONTENT, "451 4.6.0 odd", Deferred("refused:451:4.6.0")),
        # greylisting costs no attempt
        (RCPT, "450 4.2.0 <taro@example.jp>: Greylisted", Deferred("refused:450:4.2.0", blame=Blame.PATH)),
        (RCPT, "451 4.7.1 Try again in 5 minutes", Deferred("refused:451:4.7.1", 300.0, Blame.PATH)),
    ],
)
def test_what_a_refusal_means(stage: Stage, said: str, outcome: Outcome) -> None:
    assert refusal(stage, Reply(int(said[:3]), (said[4:],)), NOW) == outcome


@pytest.mark.parametrize("extensions", BOTH, ids=["pipelining", "one by one"])
@pytest.mark.parametrize(
    ("verb", "blocks"),
    [("CONNECT", True), ("EHLO", True), ("AUTH", True), ("MAIL", True), ("RCPT", False), ("DATA", False)],
)
async def test_before_its_end_a_mail_was_certainly_not_accepted(
    verb: str, blocks: bool, extensions: tuple[str, ...]
) -> None:
    """Whatever happens at a command: a refusal, the end of the service, a cut, a reply of another kind, no SMTP."""
    stage, login = Stage(verb.lower()), {"username": "u", "password": "p"}
    odd = "250 Ok" if verb in {"DATA", "AUTH"} else "354 go on"
    # 250 is as good as 235
    unexpected = Deferred(f"unexpected:{odd[:3]}", blame=Blame.PATH) if verb != "AUTH" else SENT
    for reply, outcome in {
        "550 no": Blocked("blocked:550") if blocks else Rejected("rejected:550", Blame.UNCLEAR),
        "421 4.3.2 Bye": Deferred("server_error:421:4.3.2", blame=Blame.PROVIDER),
        odd: unexpected,
        "HTTP/1.1 400 Bad Request": Deferred(f"not_the_provider:{stage}", blame=Blame.PATH),
        None: Deferred(f"connection_failed:{stage}", blame=Blame.PROVIDER),
    }.items():
        assert await outcome_of({verb: reply}, extensions, **login) == outcome, reply


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (QUEUED, SENT),
        ("250-2.0.0 Ok\r\n250 2.0.0 of two lines", Delivered()),
        ("250 2.0.0 <taro@example.jp> is happy", Delivered()),
        ("250 OK id=1sAbCd-0001Xy-2B", Delivered("1sAbCd-0001Xy-2B")),
        ("250 2.0.0 a1b2c3d4 Message accepted for delivery", Delivered("a1b2c3d4")),
        ("250 Ok 010001890abc-1234-000000", Delivered("010001890abc-1234-000000")),
        ("550 5.1.1 no such user", Rejected("rejected:550:5.1.1")),
        ("421 4.3.2 Bye", Deferred("server_error:421:4.3.2", blame=Blame.PROVIDER)),
        ("354 go on", Unknown("answer_unclear")),
        ("nonsense", Unknown("answer_unclear")),
        ("250-2.0.0 Ok\r\n550 but no", Unknown("answer_unclear")),
        (None, Unknown("connection_lost")),
    ],
)
async def test_after_its_end_only_the_reply_tells_what_became_of_a_mail(reply: str | None, outcome: Outcome) -> None:
    assert await outcome_of({".": reply}) == outcome


async def test_a_cut_amid_a_mail_is_no_doubt() -> None:
    """The server closes the connection while more is to come than the network can hold."""

    async def cut(stream: trio.SocketStream) -> None:
        async def replies(step: Step) -> str | None:
            reply = await good(step)
            if step.verb == "DATA":
                await stream.send_all(f"{reply}\r\n".encode())
                return None
            return reply

        await MailServer({"DATA": replies}).serve(stream)

    async with serving(cut) as port:
        session = await Session.open(CONNECTOR, smtp_settings(port), "example.jp", lambda: NOW)
        outcome = await session.send(ENVELOPE, (b"x" * 998 + b"\r\n") * 16_000)
        await session.aclose()
    assert outcome == Deferred("connection_failed:content", blame=Blame.PROVIDER)


SHORT, MEDIUM, LONG = 100, 500, 160_000
"""Lines of 100 bytes: mails that leave at once, in one packet or in several, and one that is more than the network can
hold."""


@pytest.mark.parametrize("security", ["none", "tls"])
@pytest.mark.parametrize("lines", [SHORT, MEDIUM, LONG])
@pytest.mark.parametrize("then", ["close", "stay"])
@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("552 5.3.4 Message too big", Rejected("rejected:552:5.3.4")),
        ("554-5.7.1 Spam\r\n554 5.7.1 refused", Rejected("rejected:554:5.7.1", Blame.UNCLEAR)),
        ("421 4.3.2 Bye", Deferred("server_error:421:4.3.2", blame=Blame.PROVIDER)),
    ],
)
async def test_a_refusal_amid_a_mail_is_read(
    shown: tuple[Path, Path], security: str, lines: int, then: str, said: str, outcome: Outcome
) -> None:
    """The server reads a part of the mail, refuses it, and closes the connection, or reads no further."""
    assert await amid_a_mail(shown, security, lines, said, stay=then == "stay") == outcome


@pytest.mark.parametrize("security", ["none", "tls"])
async def test_a_mail_is_not_accepted_by_a_reply_that_comes_amid_it(shown: tuple[Path, Path], security: str) -> None:
    for said in ("250 2.0.0 Ok", "354 go on", "nonsense"):
        outcome = await amid_a_mail(shown, security, LONG, said, stay=True)
        assert outcome == Deferred("not_the_provider:content", blame=Blame.PATH)


async def amid_a_mail(shown: tuple[Path, Path], security: str, lines: int, said: str, *, stay: bool) -> Outcome:
    """What becomes of a mail of so many lines to a server that has *said* something before it has all of the mail."""

    async def refuse(stream: trio.abc.Stream) -> None:
        async def replies(step: Step) -> str | None:
            await stream.send_all(f"{await good(step)}\r\n".encode())
            await stream.receive_some(1000)
            for half in (said[:6], said[6:]):
                await stream.send_all(half.encode())
            await stream.send_all(b"\r\n")
            if stay:
                await trio.sleep_forever()
            return None

        await MailServer({"DATA": replies}).serve(stream)

    handler = over_tls(refuse, shown[1]) if security == "tls" else refuse
    connector = Connector.of(NetworkSettings(ca_file=str(shown[0])))
    async with serving(handler) as port:
        session = await Session.open(connector, smtp_settings(port, security=security), "example.jp", lambda: NOW)
        outcome = await session.send(ENVELOPE, (b"x" * 98 + b"\r\n") * lines)
        assert lines != LONG or not session.is_usable
        await session.aclose()
    return outcome


async def test_a_server_that_is_out_of_reach_or_unknown() -> None:
    assert await send(sender_for(smtp_settings(1))) == Deferred("connection_failed", blame=Blame.PROVIDER)
    trio.socket.set_custom_hostname_resolver(None)
    assert await send(sender_for(smtp_settings(25, host="no-such-host.invalid"))) == Deferred(
        "connection_failed", blame=Blame.PROVIDER
    )


# ----------------------------------------------------------------------------------------------------------- a session


@pytest.mark.parametrize("extensions", BOTH, ids=["pipelining", "one by one"])
async def test_one_session_serves_many_mails(extensions: tuple[str, ...]) -> None:
    server = MailServer(extensions=extensions)
    async with sending(server, username="u", password="p") as sender:
        assert [await send(sender, number) for number in range(5)] == [SENT] * 5
    assert server.connections == 1
    assert server.verbs == ["CONNECT", "EHLO", "AUTH", *["MAIL", "RCPT", "DATA", "."] * 5, "QUIT"]
    sizes = [step.argument.partition(" ")[2] for step in server.steps if step.verb == "MAIL"]
    contents = [step.mail.content for step in server.steps if step.verb == "."]
    assert sizes == [f"SIZE={len(content)}" for content in contents]
    assert [step.mail.recipients for step in server.steps if step.verb == "."] == [
        (f"TO:<taro{number}@example.jp>",) for number in range(5)
    ]
    (greeting,) = (step.argument for step in server.steps if step.verb == "EHLO")
    assert greeting == "example.jp"


async def test_as_many_sessions_as_calls_at_once() -> None:
    server = MailServer()
    async with sending(server) as sender:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(send, sender, number)
    assert server.verbs.count(".") == 12
    assert 1 <= server.connections <= 4
    assert server.verbs.count("QUIT") == server.connections


@pytest.mark.parametrize("extensions", BOTH, ids=["pipelining", "one by one"])
async def test_a_refused_mail_leaves_the_session_usable(extensions: tuple[str, ...]) -> None:
    """Each refusal is of that mail alone, and what was said of it is over when the next one begins."""
    bad = {"TO:<taro1@example.jp>", "TO:<taro2@example.jp>"}

    async def recipient(step: Step) -> str | None:
        return "550 5.1.1 no such user" if step.argument in bad else await good(step)

    async def data(step: Step) -> str | None:
        return await good(step) if step.mail.recipients else "554 5.5.1 no valid recipients"

    server = MailServer({"RCPT": recipient, "DATA": data}, extensions)
    async with sending(server) as sender:
        outcomes = [await send(sender, number) for number in range(4)]
    no = Rejected("rejected:550:5.1.1")
    assert outcomes == [SENT, no, no, SENT]
    assert server.connections == 1
    assert [step.mail.recipients for step in server.steps if step.verb == "."] == [
        ("TO:<taro0@example.jp>",),
        ("TO:<taro3@example.jp>",),
    ]


async def test_a_server_that_waits_for_a_mail_without_a_recipient_gets_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """RFC 2920, section 3.1: DATA may be accepted although RCPT was not. Then no command has a reply to wait for."""
    server = MailServer({"RCPT": "550 5.1.1 no such user"})
    async with in_memory(server) as sender:
        assert [await send(sender), await send(sender)] == [Rejected("rejected:550:5.1.1")] * 2
        assert trio.current_time() == 0
    assert server.connections == 2
    assert "." not in server.verbs


async def test_a_session_that_cannot_be_reset_is_not_used_again() -> None:
    server = MailServer({"MAIL": "451 4.3.0 later", "RSET": "502 5.5.1 what?"}, PLAIN_ONLY)
    async with sending(server) as sender:
        for _ in range(2):
            assert await send(sender) == Deferred("server_error:451:4.3.0", blame=Blame.PROVIDER)
    assert server.connections == 2


async def test_a_refusal_stands_although_the_server_ends_the_session_after_it() -> None:
    async def recipient(step: Step) -> str | None:
        return "550 5.1.1 no such user" if step.argument == "TO:<taro1@example.jp>" else await good(step)

    server = MailServer({"RCPT": recipient, "RSET": None}, PLAIN_ONLY)
    async with sending(server) as sender:
        assert [await send(sender, number) for number in range(3)] == [SENT, Rejected("rejected:550:5.1.1"), SENT]
    assert server.connections == 2
    assert server.verbs.count("RCPT") == 3


async def test_a_refusal_stands_although_the_caller_gives_up_before_the_session_is_reset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without its shield, the reset would take the caller's cancellation, and the mail would be in doubt."""
    async with in_memory(MailServer({"RCPT": "550 5.1.1 no such user", "RSET": hang}, PLAIN_ONLY)) as sender:
        outcomes = []
        with trio.move_on_after(0.5):
            outcomes.append(await send(sender))
        assert outcomes == [Rejected("rejected:550:5.1.1")]
        assert trio.current_time() == pytest.approx(1.0)


@pytest.mark.parametrize("end", ["421 4.4.2 too many mails in this session", None])
@pytest.mark.parametrize("extensions", BOTH, ids=["pipelining", "one by one"])
async def test_a_session_that_the_server_ends_between_mails_costs_none(
    end: str | None, extensions: tuple[str, ...]
) -> None:
    """At the next mail's first command, and only in a session that has sent a mail."""
    server = MailServer(extensions=extensions)

    async def sender_named(step: Step) -> str | None:
        return end if sum(verb == "MAIL" for verb in since_connected(server)) > 2 else await good(step)

    server.replies = {"MAIL": sender_named}
    async with sending(server) as sender:
        assert [await send(sender, number) for number in range(5)] == [SENT] * 5
    assert server.connections == 3
    assert server.verbs.count(".") == 5


def since_connected(server: MailServer) -> list[str]:
    """What was done on the last connection."""
    verbs = server.verbs
    return verbs[len(verbs) - verbs[::-1].index("CONNECT") :]


async def test_a_farewell_of_an_idle_session_is_noticed() -> None:
    """A server says why before it closes (RFC 5321, section 3.8): that is no reply to the next mail."""
    streams: list[trio.SocketStream] = []
    server = MailServer()

    async def serve(stream: trio.SocketStream) -> None:
        streams.append(stream)
        await server.serve(stream)

    async with serving(serve) as port:
        sender = sender_for(smtp_settings(port))
        assert await send(sender) == SENT
        await trio.testing.wait_all_tasks_blocked()
        await streams[0].send_all(b"421 4.4.2 idle for too long\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert await send(sender) == SENT
        await sender.aclose()
    assert server.connections == 2


async def test_a_reply_to_nothing_is_taken_for_no_reply_to_a_mail() -> None:
    """A second 250 after DATA would make any mail look accepted."""
    sent = await outcome_of({"DATA": "354 go on\r\n250 2.0.0 Ok"})
    assert sent == Deferred("not_the_provider:content", blame=Blame.PATH)
    server = MailServer({".": f"{QUEUED}\r\n250 once more"})
    async with sending(server) as sender:
        assert [await send(sender), await send(sender)] == [SENT] * 2
    assert server.connections == 2


async def test_dots_and_long_mails_arrive_as_they_are() -> None:
    """RFC 5321, section 4.5.2."""
    content = b".\r\n..\r\n.a\r\n\r\n" + b"x" * 998 + b"\r\n.\r\nQUIT\r\n" + b"y.\r\n" * 30_000
    server = MailServer()
    async with running(server) as table:
        session = await Session.open(CONNECTOR, table, "example.jp", lambda: NOW)
        assert await session.send(ENVELOPE, content) == SENT
        await session.quit()
    (read,) = (step.mail.content for step in server.steps if step.verb == ".")
    assert read == content


# ------------------------------------------------------------------------------------------------------ TLS and a login


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An authority, and a server's certificate of it."""
    folder = tmp_path_factory.mktemp("smtp")
    authority = certificate(folder / "authority.pem")
    return authority, certificate(folder / "server.pem", names=("mail.example.jp",), authority=authority)


def with_certificate(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
async def test_a_login_is_sent_over_tls_only(shown: tuple[Path, Path], implicit: bool) -> None:
    server = MailServer(tls=with_certificate(shown[1]), implicit=implicit)
    network = NetworkSettings(ca_file=str(shown[0]))
    async with running(server) as table:
        sender = sender_for(evolve(table, username="notifierd", password=PASSWORD), network)
        assert [await send(sender, number) for number in range(2)] == [SENT] * 2
        assert await sender.probe() == Probe("a login", Delivered())
        await sender.aclose()
    begin = ["CONNECT", "EHLO"] if implicit else ["CONNECT", "EHLO", "STARTTLS", "EHLO"]
    session = [*begin, "AUTH", *["MAIL", "RCPT", "DATA", "."] * 2]
    assert server.verbs == [*session, *begin, "AUTH", "QUIT", "QUIT"]
    assert all(step.secure for step in server.steps if step.verb in {"AUTH", "MAIL", "RCPT", "DATA", "."})


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
async def test_a_certificate_must_be_the_servers(shown: tuple[Path, Path], implicit: bool) -> None:
    server = MailServer(tls=with_certificate(shown[1]), implicit=implicit)
    async with running(server) as table:
        for network, host, reason in (
            (NetworkSettings(), "127.0.0.1", "certificate_untrusted"),
            (NetworkSettings(ca_file=str(shown[0])), "localhost", "certificate_name"),
        ):
            sender = sender_for(evolve(table, host=host, username="u", password=PASSWORD), network)
            assert await send(sender) == Deferred(reason, blame=Blame.PROVIDER)
    assert not {"AUTH", "MAIL"} & set(server.verbs)


async def test_without_starttls_nothing_is_sent(shown: tuple[Path, Path]) -> None:
    """As on a connection from which somebody removes the offer."""
    server = MailServer()
    async with running(server) as table:
        sender = sender_for(evolve(table, security="starttls", username="u", password=PASSWORD))
        assert await send(sender) == Blocked("not_offered:starttls")
    assert server.verbs == ["CONNECT", "EHLO"]


async def test_what_came_before_tls_is_not_read_as_if_it_came_within(shown: tuple[Path, Path]) -> None:
    """RFC 3207, section 6: somebody on the way could add a reply."""
    server = MailServer({"STARTTLS": "220 Go\r\n250 AUTH PLAIN"}, tls=with_certificate(shown[1]))
    async with running(server) as table:
        sender = sender_for(table, NetworkSettings(ca_file=str(shown[0])))
        assert await send(sender) == Deferred("not_the_provider:starttls", blame=Blame.PATH)


async def test_a_port_of_the_other_kind_of_tls_is_no_doubt(shown: tuple[Path, Path]) -> None:
    server = MailServer()
    async with running(server) as table:
        sender = sender_for(evolve(table, security="tls"))
        assert await send(sender) == Deferred("connection_failed", blame=Blame.PROVIDER)


async def test_no_protocol_of_http_is_offered(shown: tuple[Path, Path]) -> None:
    """Its context is not the one on which httpcore sets ALPN."""
    context = with_certificate(shown[1])
    context.set_alpn_protocols(["http/1.1"])
    network = NetworkSettings(ca_file=str(shown[0]))
    trusted(network.ca_file).set_alpn_protocols(["http/1.1"])
    chosen: list[object] = []

    async def look(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True)
        await secure.do_handshake()
        chosen.append(secure.selected_alpn_protocol())

    async with serving(look) as port:
        await send(sender_for(smtp_settings(port, security="tls"), network))
    assert chosen == [None]


@pytest.mark.parametrize(
    ("offered", "password", "said"),
    [
        ("AUTH LOGIN PLAIN", "p w あ", ["AUTH PLAIN \0us:er\0p w あ"]),
        ("AUTH login", "p w あ", ["AUTH LOGIN", "us:er", "p w あ"]),
        ("AUTH PLAIN", "p" * COMMAND_BYTES, ["AUTH PLAIN", f"\0us:er\0{'p' * COMMAND_BYTES}"]),
    ],
)
async def test_a_login_by_what_the_server_offers(offered: str, password: str, said: list[str]) -> None:
    answers = iter(["334 UGFzc3dvcmQ6"] * (len(said) - 2) + ["235 2.7.0 Ok"])

    async def answer(_step: Step) -> str | None:
        return next(answers)

    server = MailServer({"ANSWER": answer}, extensions=(offered,))
    async with sending(server, username="us:er", password=password) as sender:
        assert await send(sender) == SENT
    login = [f"{step.verb} {step.argument}" for step in server.steps if step.verb in {"AUTH", "ANSWER"}]
    assert list(map(plain, login)) == said


def plain(line: str) -> str:
    """A line of a login without base64."""
    verb, _, rest = line.partition(" ")
    mechanism, _, secret = rest.partition(" ") if verb == "AUTH" else ("", "", rest)
    said = b64decode(secret).decode()
    return " ".join(filter(None, ["AUTH" * (verb == "AUTH"), mechanism, said]))


@pytest.mark.parametrize(
    ("extensions", "replies", "outcome"),
    [
        (("AUTH CRAM-MD5 XOAUTH2",), {}, Blocked("not_offered:auth")),
        (("PIPELINING",), {}, Blocked("not_offered:auth")),
        (("AUTH PLAIN",), {"AUTH": "535 5.7.8 no"}, Blocked("blocked:535:5.7.8")),
        (("AUTH LOGIN",), {"ANSWER": "535 5.7.8 no"}, Blocked("blocked:535:5.7.8")),
        (("AUTH PLAIN",), {"AUTH": "454 4.7.0 later"}, Deferred("server_error:454:4.7.0", blame=Blame.PROVIDER)),
    ],
)
async def test_a_login_that_fails(extensions: tuple[str, ...], replies: dict[str, Scripted], outcome: Outcome) -> None:
    async with sending(MailServer(replies, extensions), username="u", password="p") as sender:
        assert await send(sender) == outcome
        assert await sender.probe() == Probe("a login", outcome)


async def test_a_probe_without_a_login_says_so() -> None:
    server = MailServer()
    async with sending(server) as sender:
        assert await sender.probe() == Probe("EHLO", Delivered(), ("no username is set, so no login was tried",))
    assert server.verbs == ["CONNECT", "EHLO", "QUIT"]


# ------------------------------------------------------------------------------------------------------- the way there


async def test_a_server_is_reached_through_the_proxy(shown: tuple[Path, Path]) -> None:
    server = MailServer(tls=with_certificate(shown[1]))
    async with serving(server.serve) as port:
        proxy = ConnectProxy({"mail.example.jp:587": port})
        async with proxying(proxy) as url:
            table = SmtpSettings(host="mail.example.jp", username="u", password="p")
            email = EmailSettings(provider="smtp", sender="no-reply@office.example.jp", smtp=table)
            network = NetworkSettings(proxy=url, ca_file=str(shown[0]))
            async with open_email("smtp", Settings(email=email, network=network), now=lambda: NOW) as sender:
                messages = [mail()]
                assert await sender.send(messages, sender.encode(messages), "key") == [SENT]
                proxy.answer = b"HTTP/1.1 407 -\r\n\r\n"
                assert isinstance(sender, Smtp)
                assert (await sender.probe()).outcome == Blocked("proxy_auth_required")
    assert proxy.targets == ["mail.example.jp:587"] * 2
    assert [step.argument for step in server.steps if step.verb == "EHLO"] == ["office.example.jp"] * 2


# ---------------------------------------------------------------------------------------------------------------- time


class Wire(httpcore.AsyncNetworkStream):
    """A connection in memory."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return bytes(await self._stream.receive_some(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> object:
        return None


class InMemory:
    """Connects to *server* in memory, so that time can be virtual."""

    def __init__(self, server: MailServer, nursery: trio.Nursery) -> None:
        self.server, self.nursery = server, nursery

    async def connect(self, host: str, _port: int) -> Connection:
        here, there = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.serve, there)
        return Connection(host, trusted("", http=False), Wire(here))


@asynccontextmanager
async def in_memory(server: MailServer) -> AsyncIterator[Smtp]:
    async with trio.open_nursery() as nursery:
        connector: Any = InMemory(server, nursery)
        sender = Smtp(connector, smtp_settings(25, username="u", password="p"), domain="x", now=lambda: NOW)
        yield sender
        await sender.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"])
async def test_a_server_that_does_not_reply_before_the_end_of_a_mail_is_given_up(
    verb: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = MailServer({verb: hang}, PLAIN_ONLY)
    async with in_memory(server) as sender:
        began = trio.current_time()
        outcome = await send(sender)
        assert outcome == Deferred(f"request_timeout:{verb.lower()}", blame=Blame.PROVIDER)
        limit = ENVELOPE_SECONDS if verb in {"MAIL", "RCPT", "DATA"} else OPENING_SECONDS
        assert trio.current_time() - began == pytest.approx(limit, abs=1.5)


async def test_after_the_end_of_a_mail_the_caller_decides_how_long_to_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = MailServer({".": hang})
    async with in_memory(server) as sender:
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(3600):
            await send(sender)
        assert trio.current_time() - began == 3600
        server.replies = {}
        assert await send(sender) == SENT


async def test_an_idle_session_is_ended_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    server = MailServer()
    async with in_memory(server) as sender:
        for pause in (0, KEPT_SECONDS - 1, KEPT_SECONDS + 1):
            await trio.sleep(pause)
            assert await send(sender) == SENT
    assert server.connections == 2
    assert server.verbs.count("QUIT") == 2


async def test_a_server_that_does_not_say_goodbye_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(MailServer({"QUIT": hang})) as sender:
        assert await send(sender) == SENT
        began = trio.current_time()
        await sender.aclose()
        assert trio.current_time() - began <= 2


# ------------------------------------------------------------------------------------------------- whatever it replies

WORDS = [
    "250 2.0.0 Ok",
    "250-a",
    "354 go",
    "550 5.1.1 no",
    "451 4.7.1 later",
    "421 bye",
    "220 x",
    "334 ",
    "235 2.7.0 Ok",
]
LINES = st.one_of(st.sampled_from(WORDS).map(str.encode), st.binary(max_size=30))
VERBS = ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", ".", "RSET"]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(VERBS), st.lists(LINES, max_size=3), min_size=1, max_size=3), st.booleans())
def test_whatever_a_server_replies_nothing_is_raised_and_no_mail_is_invented(
    said: dict[str, list[bytes]], together: bool
) -> None:
    """A mail is delivered, or in doubt, only if its end was sent; nothing but codes is in a reason."""
    script = {verb: b"\r\n".join(lines).decode("latin-1") for verb, lines in said.items()}
    server = MailServer({**script}, EXTENSIONS if together else PLAIN_ONLY)

    async def call() -> list[Outcome]:
        with trio.fail_after(30):
            async with in_memory(server) as sender:
                return [await send(sender), await send(sender)]

    with capture_logs() as lines:
        outcomes = trio.run(call, clock=trio.testing.MockClock(autojump_threshold=0))
    assert lines == []
    for outcome in outcomes:
        assert isinstance(outcome, Outcome)
        if isinstance(outcome, Delivered | Unknown):
            assert "." in server.verbs
        if not isinstance(outcome, Delivered):
            assert re.fullmatch(r"[a-z_]+(:[a-z]+|:\d{3}(:\d\.\d{1,3}\.\d{1,3})?)?", outcome.reason)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.text(max_size=200))
def test_a_mail_needs_no_extension_of_smtp(subject: str, text: str) -> None:
    """7-bit lines of at most 998 characters that end in CRLF (RFC 5321, section 2.3.8 and 4.5.3.1.6)."""
    subject = " ".join(subject.encode("utf-8", "replace").decode().split()) or "x"
    text = text.encode("utf-8", "replace").decode()
    content = undated(mail(subject=subject, text=text, html=f"<p>{text}</p>", sender="期限 <no-reply@例え.jp>"))
    assert content.isascii()
    assert content.endswith(b"\r\n")
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert max(map(len, content.split(b"\r\n"))) <= 998


async def test_nothing_private_of_a_dialogue_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A server that repeats what it was told, address and password."""
    caplog.set_level(logging.DEBUG)
    told: list[object] = []
    for verb in ("AUTH", "MAIL", "RCPT", "."):
        for code in (451, 550, 250):

            async def echo(step: Step, code: int = code) -> str:
                return f"{code} 2.0.0 queued as {step.argument} taro1@example.jp {PASSWORD}"

            server = MailServer({verb: echo})
            async with sending(server, username="hushuser", password=PASSWORD) as sender:
                told += [await send(sender), await sender.probe(), sender, server.replies]
    assert [word for word in (PASSWORD, "taro", "hushuser") if word in caplog.text + repr(told[::4] + told[1::4])] == []
    assert PASSWORD not in repr(told)


async def test_the_sender_of_the_configuration_opens() -> None:
    async with open_smtp(Settings(), now=lambda: NOW) as sender:
        assert (sender.name, sender.max_batch, sender.honours_keys) == ("smtp", 1, False)
        assert sender.destination(mail()) == "smtp"
