"""The three that are compared: notifierd, the bare loop, and the old batch's shape. Each run is a row of the table."""

import json
from math import ceil
from pathlib import Path

from attrs import evolve, frozen

from bench.application import Application, Size
from bench.measure import Measured, measured, rss_after
from bench.servers import Accepted, Orders, Servers
from notifierd.config.settings import LimitsSettings
from tests.support.processes import DAY

LIMITS = LimitsSettings()
SECONDS = "36000"
"""More than any run takes."""


@frozen
class Row:
    """What one run came to. Times in seconds, memory in MiB.

    Attributes:
        ideal: what its calls take at least: each the set latency, through as many slots as there are.
        seconds: the whole process, from its start to its end.
        sending: from the first request to the answer to the last one.
        first: from the process's start to the first request.
        cpu: on a processor, for the whole process; of what notifierd is compared to, without its start.
        statements: how many that read and that write the server saw.
    """

    what: str
    size: Size
    latency: float
    ideal: float
    seconds: float
    sending: float
    first: float
    cpu: float
    peak: float
    statements: tuple[int, int] | None = None

    @property
    def deliveries(self) -> int:
        """How many mails and pushes there were."""
        return self.size.mail_count + self.size.push_count

    @property
    def rate(self) -> float:
        """Deliveries for each second of sending."""
        return self.deliveries / self.sending


def notifierd(
    application: Application,
    servers: Servers,
    *,
    latency: float = 0.0,
    single: bool = False,
    record: Path | None = None,
    sampled: Path | None = None,
) -> Row:
    """Run the day, and see that each delivery was accepted once, and that the report says what happened.

    Args:
        single: one mail in a call.
        record: a file for the requests.
        sampled: a file for where the time on a processor went, by `bench.where`; of single sends.
    """
    assert single or not sampled
    application.forget()
    servers.next(Orders(latency, str(record or "")))
    module = "bench.single" if single else "notifierd"
    arguments: tuple[str, ...] = ("once", "--force", "--day", str(DAY), "--for", SECONDS, "--json")
    if sampled:
        module, arguments = "bench.where", (str(sampled), *arguments)
    process = measured(module, *arguments, folder=application.folder)
    accepted, report, statements = servers.next(), json.loads(process.out), application.statements()
    check_accepted(application.size, accepted)
    for channel, count in (("email", application.size.mail_count), ("push", application.size.push_count)):
        assert report[channel]["sent"] == report[channel]["planned"] == count, report
    assert report["statements"] == dict(zip(("read", "write"), statements, strict=True)), (report, statements)
    return Row(
        what="notifierd, " + ("single" if single else "batches"),
        size=application.size,
        latency=latency,
        ideal=ideal(application.size, latency, single=single),
        seconds=process.seconds,
        sending=_sending(accepted, latency),
        first=accepted.first - process.began,
        cpu=process.cpu,
        peak=process.peak,
        statements=statements,
    )


def beside_one_person(application: Application, servers: Servers) -> float:
    """Run the day with one person's rows that are no good, and see that everybody else is told; the seconds it took."""
    application.forget()
    servers.next()
    command = ("once", "--force", "--day", str(DAY), "--for", SECONDS, "--json")
    process = measured("notifierd", *command, folder=application.folder, good=(1,))
    accepted, size = servers.next(), application.size
    # One push at most is not made: that to the person's own device, which is older than the others.
    assert (accepted.mails, accepted.again) == (size.mail_count, 0), accepted
    assert size.push_count - 1 <= accepted.pushes <= size.push_count, accepted
    return process.seconds


def bare(recorded: Path, size: Size, servers: Servers, *, latency: float = 0.0) -> Row:
    """Have `bench.bare` send what was recorded of a run of *size*, one mail in a call."""
    servers.next(Orders(latency))
    process = measured("bench.bare", str(recorded), folder=recorded.parent)
    return _compared("bare", process, size, latency, servers.next())


def old_batch(application: Application, servers: Servers, *, latency: float = 0.0, record: Path | None = None) -> Row:
    """Have `bench.old_batch` tell everybody."""
    application.forget()
    servers.next(Orders(latency, str(record or "")))
    process = measured("bench.old_batch", str(servers.smtp_port), folder=application.folder)
    row = _compared("old batch", process, application.size, latency, servers.next())
    return evolve(row, statements=application.statements())


def asleep(application: Application, servers: Servers) -> float:
    """Run the daemon until today's run is over, and it sleeps; its memory then, in MiB."""
    application.forget()
    servers.next()
    rss = rss_after("sleeping", "run", folder=application.folder)
    check_accepted(application.size, servers.next())
    return rss


def ideal(size: Size, latency: float, *, single: bool) -> float:
    """What the calls take at least; mails and pushes go at the same time."""
    mail_calls = size.mail_count if single else size.offices * size.mails
    return latency * max(ceil(mail_calls / LIMITS.email), ceil(size.push_count / LIMITS.push))


def _compared(what: str, process: Measured, size: Size, latency: float, accepted: Accepted) -> Row:
    check_accepted(size, accepted)
    return Row(
        what=what,
        size=size,
        latency=latency,
        ideal=ideal(size, latency, single=True),
        seconds=process.seconds,
        sending=_sending(accepted, latency),
        first=accepted.first - process.began,
        cpu=float(process.out),
        peak=process.peak,
    )


def check_accepted(size: Size, accepted: Accepted) -> None:
    """See that everything of *size* was accepted, and once."""
    assert (accepted.mails, accepted.pushes, accepted.again) == (size.mail_count, size.push_count, 0), accepted


def _sending(accepted: Accepted, latency: float) -> float:
    return accepted.last - accepted.first + latency
