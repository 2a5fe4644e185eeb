"""A look at a day's mails: what it costs to ask a provider what became of them.

``python -m bench.look PROVIDER MAILS`` is the provider's API on loopback. MAILS is a file with a line for each mail
that it accepted. The first line on stdout has the port; once stdin ends, the next one has the number of requests.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from uuid import UUID

import trio
from attrs import frozen

from bench.application import Application
from bench.measure import measured
from notifierd.demo.servers.feedback.fake import Fake
from notifierd.demo.servers.feedback.postmark import FakePostmark
from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.demo.servers.feedback.ses import QUEUE, FakeSes, event_of
from notifierd.demo.servers.http11 import Answer, Request, serve_connection
from notifierd.model.feedback import MailStatus
from notifierd.send.feedback import postmark, resend
from notifierd.send.feedback._aws import BATCH


def fate(number: int) -> MailStatus:
    """What became of a mail: of a hundred, two bounced and one was suppressed; of all, two were complained of."""
    if number in {10, 11}:
        return MailStatus.COMPLAINED
    return {0: MailStatus.BOUNCED, 1: MailStatus.BOUNCED, 2: MailStatus.SUPPRESSED}.get(
        number % 100, MailStatus.DELIVERED
    )


def fates(mails: int) -> Counter[MailStatus]:
    """How many of so many *mails* ended how."""
    return Counter(map(fate, range(mails)))


@frozen
class Provider:
    """A provider that can be asked.

    Attributes:
        fake: its API.
        table: its table in the configuration, for an API at a URL.
        calls: how many calls a look needs for so many mails.
    """

    fake: Callable[[], Fake]
    table: Callable[[str], Mapping[str, object]]
    calls: Callable[[int], int]


def _postmark_calls(mails: int) -> int:
    """Pages of what failed; the last one is not full."""
    return (mails - fates(mails)[MailStatus.DELIVERED]) // postmark.PAGE + 1


def _resend_calls(mails: int) -> int:
    """Pages of all mails, and of those that bounced."""
    return ceil(mails / resend.PAGE) + ceil(fates(mails)[MailStatus.BOUNCED] / resend.PAGE)


def _ses_calls(mails: int) -> int:
    """Events are received and then deleted; at last the queue is empty. One call asks for the account."""
    return 2 * ceil(mails / BATCH) + 1 + 1


PROVIDERS: Mapping[str, Provider] = {
    "postmark": Provider(
        FakePostmark, lambda url: {"base_url": url, "server_token": "sends", "feedback_key": Fake.key}, _postmark_calls
    ),
    "resend": Provider(
        FakeResend, lambda url: {"base_url": url, "api_key": "sends", "feedback_key": Fake.key}, _resend_calls
    ),
    "ses": Provider(
        FakeSes,
        lambda url: {
            "base_url": url,
            "access_key_id": Fake.key,
            "secret_access_key": "signs",
            "feedback_queue": url + QUEUE,
        },
        _ses_calls,
    ),
}


@frozen
class Look:
    """What one look took.

    Attributes:
        cpu: seconds on a processor, for the whole process.
        peak: the most memory that it had, in MiB.
        calls: how many calls it made.
    """

    seconds: float
    cpu: float
    peak: float
    calls: int


def look(application: Application, name: str) -> Look:
    """Ask the provider *name* about all mails of *application*, and see that all are known afterwards."""
    application.forget()
    folder = application.folder / f"look-{name}"
    folder.mkdir()
    (folder / "mails").write_text(application.accept_all(name))
    with _running(name, folder / "mails") as (url, requests):
        application.configure(folder, {"email": {"provider": name}, f"email.{name}": PROVIDERS[name].table(url)})
        process = measured("notifierd", "feedback", "--now", "--json", folder=folder)
        calls = requests()
    (look_state,), (day,) = (json.loads(process.out)[key] for key in ("looks", "days"))
    assert look_state["result"] == "", look_state
    expected = fates(application.size.mail_count)
    if name == "postmark":  # which does not tell of deliveries
        expected[MailStatus.DELIVERED] = 0
    assert {status: day[status] for status in MailStatus} == {status: expected[status] for status in MailStatus}, day
    return Look(process.seconds, process.cpu, process.peak, calls)


@contextmanager
def _running(name: str, mails: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run the API for the length of the block; yield its URL, and what ends it and returns its number of requests."""
    command = [sys.executable, "-m", "bench.look", name, str(mails)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def requests() -> int:
            stdin.close()
            return int(stdout.readline())

        yield f"http://127.0.0.1:{int(stdout.readline())}", requests


async def _serve(name: str, mails: Path) -> None:
    fake, at, count = PROVIDERS[name].fake(), datetime.now(UTC) - timedelta(hours=2), 0
    for number, line in enumerate(mails.read_text().splitlines()):
        key, message_id, address = line.split("|")
        what = UUID(key), message_id, address, fate(number), "", at + timedelta(milliseconds=number)
        if isinstance(fake, FakeSes):
            fake.put(json.dumps(event_of(*what)))  # once, and not in an envelope as well
        else:
            fake.add(*what)

    async def answer(request: Request) -> Answer | None:
        nonlocal count
        count += 1
        found = fake.handler(request.method, request.target, request.headers, request.body)
        return None if found is None else Answer(found[0], found[2], found[1])

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(serve_connection, handle=answer), 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        _say(listener.socket.getsockname()[1])
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    _say(count)


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1], Path(sys.argv[2]))
