"""Mails through a real Postfix, as a mail server of one's own."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
import trio
from attrs import evolve

from bench.application import Size, running_applications
from bench.servers import running_servers
from bench.smtp.rates import MailRates
from bench.smtp.relay import relaying
from notifierd.config.providers import SmtpSettings
from notifierd.config.settings import NetworkSettings
from notifierd.model.address import Address
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected
from notifierd.send.route.connection import Connector
from notifierd.send.smtp.sender import Smtp
from tests.support.messages import mail
from tests.support.processes import until
from tests.system.mail_servers import (
    BANNED,
    BUSY,
    MOST_BYTES,
    PASSWORD,
    UNKNOWN,
    USERNAME,
    Postfix,
    running_postfix,
)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with running_postfix() as running:
        yield running


def sender_to(postfix: Postfix, security: Literal["none", "starttls", "tls"]) -> Smtp:
    port = postfix.tls_port if security == "tls" else postfix.port
    return sender_by(postfix, SmtpSettings("127.0.0.1", port, security))


def sender_by(postfix: Postfix, table: SmtpSettings) -> Smtp:
    network = NetworkSettings(ca_file=str(postfix.certificate))
    return Smtp(Connector.of(network), table, domain="example.jp", now=lambda: datetime.now(UTC))


async def send(sender: Smtp, message: Mail) -> Outcome:
    (outcome,) = await sender.send([message], sender.encode([message]), "key")
    return outcome


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
async def test_what_it_refuses_leaves_its_session_usable(
    postfix: Postfix, security: Literal["none", "starttls", "tls"]
) -> None:
    """One session for all, by its own count of commands."""
    messages: list[tuple[Mail, type | Outcome]] = [
        (mail(1), Delivered),
        (evolve(mail(2), to=Address(UNKNOWN)), Rejected("rejected:550:5.1.1")),
        (evolve(mail(3), to=Address(BUSY)), Deferred("refused:450:4.2.1")),
        (mail(4, sender=BANNED), Blocked("blocked:553:5.7.1")),
        (mail(5, text="x" * MOST_BYTES), Rejected("rejected:552:5.3.4")),
        (mail(6), Delivered),
    ]
    before = postfix.log().count(" mail=5/6 ")
    sender = sender_to(postfix, security)
    for message, wanted in messages:
        outcome = await send(sender, message)
        assert type(outcome) is wanted if isinstance(wanted, type) else outcome == wanted
    assert (await sender.probe()).outcome == Delivered()
    await sender.aclose()
    await trio.to_thread.run_sync(until, lambda: postfix.log().count(" mail=5/6 ") > before, "its count")


@pytest.mark.parametrize(("old", "method"), [(False, "PLAIN"), (True, "LOGIN")])
async def test_a_login_over_starttls(postfix: Postfix, old: bool, method: str) -> None:
    """The port accepts nothing without a login, and offers none without TLS."""
    table = SmtpSettings(
        "127.0.0.1", postfix.old_login_port if old else postfix.login_port, "starttls", USERNAME, PASSWORD
    )
    message = mail(50 + old)
    for given, outcome, probed in (
        (table, Delivered, Delivered()),
        (evolve(table, password="another"), Blocked("blocked:535:5.7.8"), Blocked("blocked:535:5.7.8")),
        (evolve(table, username="", password=""), Rejected("rejected:554:5.7.1", Blame.UNCLEAR), Delivered()),
        (evolve(table, security="none"), Blocked("not_offered:auth"), Blocked("not_offered:auth")),
    ):
        sender = sender_by(postfix, given)
        found = await send(sender, message)
        assert type(found) is outcome if isinstance(outcome, type) else found == outcome
        assert (await sender.probe()).outcome == probed
        await sender.aclose()
    wanted = f"sasl_method={method}, sasl_username={USERNAME}@mail.example.jp"
    await trio.to_thread.run_sync(until, lambda: wanted in postfix.log(), "its log")
    await trio.to_thread.run_sync(until, lambda: message.headers["Message-ID"] in postfix.sent(), "the mail")
    assert postfix.sent().count(message.headers["Message-ID"]) == 1


async def test_each_mail_is_queued_once_under_the_id_that_the_ledger_keeps(postfix: Postfix) -> None:
    sender, messages = sender_to(postfix, "starttls"), [mail(n) for n in range(100, 400)]
    wanted = sorted(message.headers["Message-ID"] for message in messages)
    ids: list[str | None] = []

    async def send_some() -> None:
        while messages:
            outcome = await send(sender, messages.pop())
            assert isinstance(outcome, Delivered)
            ids.append(outcome.provider_message_id)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(send_some)
    await sender.aclose()
    await trio.to_thread.run_sync(until, lambda: {*wanted} <= {*postfix.sent()}, "the last mail")
    assert sorted(one for one in postfix.sent() if one in wanted) == wanted
    assert len(set(ids)) == len(wanted)
    assert all(f": {queued}: client=" in postfix.log() for queued in ids)


def test_the_bench_sends_the_same_through_it_by_both(postfix: Postfix, tmp_path: Path) -> None:
    size, folder = Size(offices=3), tmp_path / "smtp"
    folder.mkdir()
    with (
        running_servers() as servers,
        running_applications(tmp_path, servers) as applications,
        applications.of(size) as application,
        relaying(postfix.port, 0.02) as relay,
    ):
        rates = MailRates(application, servers, postfix, folder)
        rows = [rates.notifierd(relay, 0.02), rates.bare(relay, 0.02)]
    assert [row.deliveries for row in rows] == [30, 30]
    assert all(row.sending > 0.02 * 6 and row.cpu > 0 for row in rows)  # six times five mails at once
