"""The limit: as many sessions as notifierd has, with no ledger, which send recorded mails one after another.

``python -m bench.smtp.bare RECORDED PORT`` prints the seconds on a processor that it took. The sessions are
notifierd's own: they send commands together, which smtplib does not, so they need half of its round trips.
"""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from email.utils import parseaddr
from pathlib import Path

import trio
from attrs import frozen

from bench.servers import requests_in
from notifierd.config.providers import SmtpSettings
from notifierd.config.settings import LimitsSettings, NetworkSettings
from notifierd.model.outcome import Delivered
from notifierd.send.route.connection import Connector
from notifierd.send.smtp.session import Envelope, Session


@frozen
class Recorded:
    """A mail as it came."""

    envelope: Envelope
    content: bytes


def mails_in(path: Path) -> list[Recorded]:
    """The mails that were recorded into *path*, without transparency dots (RFC 5321, section 4.5.2)."""
    mails = []
    for request in requests_in(path):
        content = request.body.replace(b"\r\n..", b"\r\n.") + b"\r\n"
        headers = BytesHeaderParser().parsebytes(content)
        sender, recipient = (parseaddr(headers[name])[1] for name in ("From", "To"))
        mails.append(Recorded(Envelope(sender, recipient), content))
    return mails


async def worker(table: SmtpSettings, mails: Iterator[Recorded]) -> None:
    """One session."""
    session = await Session.open(Connector.of(NetworkSettings()), table, "example.jp", lambda: datetime.now(UTC))
    for mail in mails:
        outcome = await session.send(mail.envelope, mail.content)
        assert isinstance(outcome, Delivered), outcome
    await session.quit()


async def send(mails: Iterator[Recorded], port: int) -> None:
    """Send all of them."""
    table = SmtpSettings("127.0.0.1", port, "none")
    async with trio.open_nursery() as nursery:
        for _ in range(LimitsSettings().email):
            nursery.start_soon(worker, table, mails)


if __name__ == "__main__":
    recorded = iter(mails_in(Path(sys.argv[1])))
    before = time.process_time()
    trio.run(send, recorded, int(sys.argv[2]))
    print(time.process_time() - before)
