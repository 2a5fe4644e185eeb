"""Mails through a real mail server: notifierd, and the bare sessions that send the very mails that it made."""

import json
from collections import Counter
from pathlib import Path

from attrs import define, field

from bench.application import Application, Size
from bench.measure import Measured, measured
from bench.runs import SECONDS, Row
from bench.servers import Orders, Servers
from bench.smtp.relay import Relay
from tests.support.processes import DAY, until
from tests.system.mail_servers import Postfix

COMMAND = ("once", "--force", "--day", str(DAY), "--for", SECONDS, "--json")


@define
class MailRates:
    """One mail server, and the mails of one application.

    Attributes:
        recorded: the mails of a run of notifierd, as `bench.servers` took them.
    """

    application: Application
    servers: Servers
    postfix: Postfix
    folder: Path
    recorded: Path = field(init=False)
    _sent: Counter[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.recorded = self.folder / "mails"
        self._sent = Counter(self.postfix.sent())
        self.servers.next(Orders(record=str(self.recorded)))
        self._once(self.servers.smtp_port)
        self.servers.next()

    def notifierd(self, relay: Relay, latency: float) -> Row:
        """Run the day through *relay*, and see that the server sent each mail on once."""
        return self._row("notifierd, smtp", self._once(relay.port), relay, latency)

    def bare(self, relay: Relay, latency: float) -> Row:
        """Have `bench.smtp.bare` send the same mails, and see that the server sent each on once."""
        process = measured("bench.smtp.bare", str(self.recorded), str(relay.port), folder=self.folder)
        return self._row("bare, smtp", process, relay, latency)

    def _once(self, port: int) -> Measured:
        table = {"host": "127.0.0.1", "port": port, "security": "none"}
        self.application.forget()
        self.application.configure(self.folder, {"email": {"provider": "smtp"}, "email.smtp": table})
        process = measured("notifierd", *COMMAND, folder=self.folder)
        report = json.loads(process.out)
        assert report["email"]["sent"] == self.application.size.mail_count, report
        return process

    def _row(self, what: str, process: Measured, relay: Relay, latency: float) -> Row:
        passed, size = relay.passed(), self.application.size
        assert passed.mails == size.mail_count, passed
        self._see_each_sent_once(size)
        return Row(
            what=what,
            size=size,
            latency=latency,
            ideal=0.0,
            seconds=process.seconds,
            sending=passed.last - passed.first,
            first=passed.first - process.began,
            cpu=process.cpu,
            peak=process.peak,
        )

    def _see_each_sent_once(self, size: Size) -> None:
        before, count = self._sent, self._sent.total() + size.mail_count
        until(lambda: self.postfix.sent_count() >= count, "the last mail")
        self._sent = Counter(self.postfix.sent())
        new = self._sent - before
        assert (len(new), set(new.values())) == (size.mail_count, {1}), new.most_common(3)
