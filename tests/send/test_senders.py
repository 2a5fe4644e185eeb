"""What every sender owes its caller: a provider joins by an entry in KINDS."""

import json
import logging
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
import trio
from attrs import evolve, frozen
from structlog.testing import capture_logs

from notifierd.config.providers import MailgunSettings, PostmarkSettings, ResendSettings, SendgridSettings, SesSettings
from notifierd.config.settings import (
    EmailSettings,
    LimitsSettings,
    NetworkSettings,
    Provider,
    PushSettings,
    SafetySettings,
    Settings,
)
from notifierd.demo.servers.smtp import Step
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery
from notifierd.model.errors import ConfigError
from notifierd.model.message import Mail, Push
from notifierd.model.office import Notice
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send import Sender
from notifierd.send._answers import Answer, NoAnswer, outcomes
from notifierd.send._http import Client, open_client
from notifierd.send.mail.gmail import Gmail
from notifierd.send.mail.mailgun import Mailgun
from notifierd.send.mail.postmark import Postmark
from notifierd.send.mail.resend import Resend
from notifierd.send.mail.sendgrid import Sendgrid
from notifierd.send.mail.ses import Ses
from notifierd.send.open import EMAIL_WIDTH, PROVIDERS, PUSH_WIDTH, open_email, open_push
from notifierd.send.route.connection import Connector
from notifierd.send.smtp.sender import Smtp
from notifierd.send.vapid import make_vapid_key
from notifierd.send.webpush import WebPush
from tests.support import providers
from tests.support.google_api import gmail_settings
from tests.support.loopback import read_request, serving
from tests.support.messages import Browser, mail, push
from tests.support.providers import Read, meant
from tests.support.samples import DAY, a_renewal, a_staff, an_id
from tests.support.smtp_servers import MailServer, smtp_settings

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
KEY = str(UUID(int=42))
VAPID, _ = make_vapid_key()
SECRET = "a-key-that-nobody-may-see"


@frozen
class Kind:
    """How to make a sender that talks to *base* (http://127.0.0.1:port), and messages for it.

    Attributes:
        answers: how the provider answers a call whose messages are good or bad.
        reads: what the provider is going to send, of a call.
        means: what it should read of a mail.
    """

    make: Callable[[Client, str], Sender[Any]]
    messages: Callable[[int, str], Sequence[Mail | Push]]
    answers: Callable[[Sequence[bool]], Any]
    reads: Callable[[Any], Sequence[Read]]
    means: Callable[[Mail], Read] = meant

    @asynccontextmanager
    async def opened(self, base: str) -> AsyncIterator[Sender[Any]]:
        """A sender that talks to *base* over one connection."""
        async with open_client(width=1) as client:
            yield self.make(client, base)

    @asynccontextmanager
    async def answered(self, answer: Callable[[Any], Any]) -> AsyncIterator[Sender[Any]]:
        """A sender whose calls *answer* answers."""
        async with open_client(width=1, transport=httpx.MockTransport(answer)) as client:
            yield self.make(client, BASE)

    async def serve(self, stream: trio.SocketStream, answer: Callable[[], Awaitable[Any]]) -> None:
        """Serve a connection: give each call the next answer, piece by piece; None cuts the connection."""
        while True:
            await read_request(stream)
            given = await answer()
            if given is None:
                return
            lines = "".join(f"{name}: {value}\r\n" for name, value in given.headers.items() if name != "content-length")
            length, half = len(given.content), len(given.content) // 2
            first = f"HTTP/1.1 {given.status_code} -\r\n".encode()
            rest = f"{lines}Content-Length: {length}\r\n\r\n".encode()
            for piece in (first, rest, given.content[:half], given.content[half:]):
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()


@frozen
class SmtpKind(Kind):
    """A sender that talks SMTP. An answer is the reply to the end of a mail, and a call is a `Submission`."""

    @asynccontextmanager
    async def opened(self, base: str) -> AsyncIterator[Sender[Any]]:
        sender = smtp_sender(base)
        try:
            yield sender
        finally:
            await sender.aclose()

    @asynccontextmanager
    async def answered(self, answer: Callable[[Any], Any]) -> AsyncIterator[Sender[Any]]:
        async def reply(step: Step) -> str:
            return str(answer(step.mail))

        async with serving(MailServer({".": reply}).serve) as port, self.opened(f"http://127.0.0.1:{port}") as sender:
            yield sender

    async def serve(self, stream: trio.SocketStream, answer: Callable[[], Awaitable[Any]]) -> None:
        async def reply(_step: Step) -> str | None:
            given = await answer()
            return None if given is None else str(given)

        await MailServer({".": reply}).serve(stream)


def smtp_sender(base: str) -> Smtp:
    settings = smtp_settings(urlsplit(base).port or 0, username="notifierd", password=SECRET)
    return Smtp(Connector.of(NetworkSettings()), settings, domain="example.jp", now=lambda: NOW)


def mails(count: int, _base: str) -> list[Mail]:
    return [mail(number) for number in range(count)]


def resend(client: Client, base: str) -> Sender[Any]:
    return Resend(client, ResendSettings(api_key=SECRET, base_url=base), now=lambda: NOW)


def postmark(client: Client, base: str) -> Sender[Any]:
    return Postmark(client, PostmarkSettings(server_token=SECRET, base_url=base), now=lambda: NOW)


def sendgrid(client: Client, base: str) -> Sender[Any]:
    return Sendgrid(client, SendgridSettings(api_key=SECRET, base_url=base), now=lambda: NOW)


def mailgun(client: Client, base: str) -> Sender[Any]:
    settings = MailgunSettings(api_key=SECRET, domain="mg.example.jp", base_url=base)
    return Mailgun(client, settings, now=lambda: NOW)


def ses(client: Client, base: str) -> Sender[Any]:
    settings = SesSettings(access_key_id="A", secret_access_key=SECRET, base_url=base)
    return Ses(client, settings, now=lambda: NOW)


class WithToken(Client):
    """Google's tokens, without a call: what these tests answer is the mail."""

    def __init__(self, client: Client) -> None:
        self.inner = client

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        if url.endswith("/token"):
            return Answer(200, {}, json.dumps({"access_token": SECRET, "expires_in": 3599}).encode())
        return await self.inner.post(url, body, headers)


def gmail(client: Client, base: str) -> Sender[Any]:
    return Gmail(WithToken(client), gmail_settings(base_url=base), now=lambda: NOW)


def webpush(client: Client, base: str) -> Sender[Any]:
    settings = PushSettings(vapid_private_key=VAPID, allowed_hosts=("127.0.0.1",), allow_private_addresses=True)
    return WebPush(client, settings, subject="mailto:ops@example.jp", now=lambda: NOW)


def pushes(count: int, base: str) -> list[Push]:
    return [push(Browser().subscription(f"{base}/device-{number}")) for number in range(count)]


def push_answers(good: Sequence[bool]) -> httpx.Response:
    (accepted,) = good
    return httpx.Response(201 if accepted else 413)


KINDS = {
    "gmail": Kind(gmail, mails, providers.gmail_answers, providers.gmail_reads, providers.gmail_means),
    "mailgun": Kind(mailgun, mails, providers.mailgun_answers, providers.mailgun_reads),
    "postmark": Kind(postmark, mails, providers.postmark_answers, providers.postmark_reads),
    "resend": Kind(resend, mails, providers.resend_answers, providers.resend_reads),
    "sendgrid": Kind(sendgrid, mails, providers.sendgrid_answers, providers.sendgrid_reads),
    "ses": Kind(ses, mails, providers.ses_answers, providers.ses_reads, providers.ses_means),
    "smtp": SmtpKind(
        lambda _client, base: smtp_sender(base),
        mails,
        providers.smtp_answers,
        providers.smtp_reads,
        providers.gmail_means,
    ),
    "webpush": Kind(webpush, pushes, push_answers, lambda _request: []),
}
BASE = "http://127.0.0.1:1"
HTTP = [name for name, kind in KINDS.items() if not isinstance(kind, SmtpKind)]
"""Those whose answers have a status. What those of a mail server mean is tested in test_smtp.py."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=HTTP)
def http_kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=PROVIDERS)
def mail_kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


async def outcomes_of(kind: Kind, answer: Any, count: int = 1) -> list[Outcome]:
    messages = kind.messages(count, BASE)
    async with kind.answered(lambda _request: answer) as sender:
        return await sender.send(messages, sender.encode(messages), KEY)


def test_every_provider_has_joined() -> None:
    assert set(KINDS) == set(PROVIDERS) | {"webpush"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (302, Deferred("not_the_provider:302", 9.0, Blame.PATH)),
        (400, Deferred("not_the_provider:400", 9.0, Blame.PATH)),
        (401, Blocked("blocked:401", 9.0)),
        (402, Blocked("blocked:402", 9.0)),
        (403, Blocked("blocked:403", 9.0)),
        (404, Deferred("not_the_provider:404", 9.0, Blame.PATH)),
        (407, Blocked("blocked:407", 9.0)),
        (408, Deferred("request_timeout:408", 9.0, Blame.PATH)),
        (413, Deferred("not_the_provider:413", 9.0, Blame.PATH)),
        (422, Deferred("not_the_provider:422", 9.0, Blame.PATH)),
        (425, Deferred("too_early:425", 9.0, Blame.PATH)),
        (429, Deferred("rate_limited:429", 9.0, Blame.PROVIDER)),
        (451, Blocked("blocked:451", 9.0)),
        (500, Deferred("server_error:500", 9.0, Blame.PATH)),
        (502, Unknown("server_error:502", 9.0)),
        (503, Deferred("server_error:503", 9.0, Blame.PATH)),
        (504, Unknown("server_error:504", 9.0)),
        (511, Deferred("not_the_provider:511", 9.0, Blame.PATH)),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>taro@example.jp", b'{"name": ["odd"]}', b"[]", b'"x"'])
@pytest.mark.parametrize("name", sorted({*HTTP} & PROVIDERS.keys()))
async def test_an_answer_that_is_not_the_providers_own_fails_nobody(
    name: str, status: int, outcome: Outcome, body: bytes
) -> None:
    answer = httpx.Response(status, content=body, headers={"Retry-After": "9"})
    assert await outcomes_of(KINDS[name], answer) == [outcome]


async def test_one_account_is_one_destination(mail_kind: Kind) -> None:
    async with mail_kind.answered(lambda _request: httpx.Response(200)) as sender:
        assert {sender.destination(message) for message in mail_kind.messages(3, BASE)} == {sender.name}


@pytest.mark.parametrize("value", ["90", "Tue, 24 Nov 2026 00:01:30 GMT"])
@pytest.mark.parametrize(
    ("status", "reason"),
    [(402, "blocked"), (429, "rate_limited"), (503, "server_error"), (504, "server_error")],
)
async def test_a_wait_is_asked_for_in_seconds_or_by_a_date(
    http_kind: Kind, status: int, reason: str, value: str
) -> None:
    (outcome,) = await outcomes_of(http_kind, httpx.Response(status, headers={"Retry-After": value}))
    assert isinstance(outcome, Blocked | Deferred | Unknown)
    assert (outcome.reason, outcome.retry_after) == (f"{reason}:{status}", 90.0)


async def test_what_is_accepted_is_delivered_each_by_its_own_id(kind: Kind) -> None:
    async with kind.answered(lambda _request: httpx.Response(503)) as sender:
        most = sender.max_batch
    for size in {1, most}:
        outcomes = await outcomes_of(kind, kind.answers([True] * size), size)
        ids = [outcome.provider_message_id for outcome in outcomes if isinstance(outcome, Delivered)]
        assert len(ids) == size
        assert len(set(ids)) == size


async def test_what_is_refused_alone_is_rejected(kind: Kind) -> None:
    (outcome,) = await outcomes_of(kind, kind.answers([False]))
    assert isinstance(outcome, Rejected)
    assert outcome.blame is Blame.MESSAGE


@pytest.mark.parametrize("name", ["postmark", "resend", "ses"])
@pytest.mark.parametrize(
    "good", [[False, True, False, False, True], [True, False], [False, True], [False] * 3, [True] * 49 + [False]]
)
async def test_a_bad_item_harms_no_other_of_its_batch(name: str, good: list[bool]) -> None:
    outcomes = await outcomes_of(KINDS[name], KINDS[name].answers(good), len(good))
    assert [type(outcome) for outcome in outcomes] == [Delivered if one else Rejected for one in good]


async def test_who_can_batch_is_tested_above() -> None:
    async with open_client(width=1) as client:
        batching = {name for name, kind in KINDS.items() if kind.make(client, BASE).max_batch > 1}
    assert batching == {"postmark", "resend", "ses"}


async def test_one_outcome_for_each_message(http_kind: Kind) -> None:
    async with http_kind.answered(lambda _request: httpx.Response(502)) as sender:
        count = sender.max_batch
    assert await outcomes_of(http_kind, httpx.Response(502), count) == [Unknown("server_error:502")] * count


@pytest.mark.parametrize("bug", [KeyError("taro@example.jp"), RecursionError(), UnicodeDecodeError("x", b"", 0, 1, "")])
async def test_a_bug_in_reading_an_answer_is_an_answer_in_doubt(http_kind: Kind, bug: Exception) -> None:
    """The call was made: an error would be its office's, and end what other calls of it do."""

    class Odd(dict[str, str]):
        def get(self, *_: Any) -> Any:
            raise bug

    class Answering(Client):
        def __init__(self) -> None: ...

        async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
            return Answer(503, Odd())

    sender = http_kind.make(Answering(), BASE)
    count = min(sender.max_batch, 3)
    messages = http_kind.messages(count, BASE)
    with capture_logs() as lines:
        assert await sender.send(messages, sender.encode(messages), KEY) == [Unknown("answer_unclear")] * count
    (line,) = lines
    assert (line["event"], line["error"]) == ("answer_unreadable", type(bug).__name__)
    assert "taro" not in str(line)


async def test_too_few_and_too_many_outcomes_leave_all_in_doubt() -> None:
    async def call() -> Answer:
        return Answer(200, {})

    for found in ([], [Delivered()], [Delivered()] * 3):
        assert await outcomes(call(), 2, lambda _answer, found=found: found) == [Unknown("answer_unclear")] * 2  # type: ignore[misc]


async def test_the_same_messages_give_the_same_bytes(kind: Kind) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200)

    async with kind.answered(answer) as one, kind.answered(answer) as two:
        messages = kind.messages(one.max_batch, BASE)
        assert one.encode(messages) == two.encode(list(messages))


async def test_headers_in_another_order_give_the_same_bytes(mail_kind: Kind) -> None:
    """What is repeated, or compared by its hash, must not depend on how a dictionary was filled."""
    async with mail_kind.answered(lambda _request: httpx.Response(200)) as sender:
        one, two = mail(1, headers={"A": "1", "B": "2"}), mail(1, headers={"B": "2", "A": "1"})
        assert sender.encode([one]) == sender.encode([two])


@pytest.mark.parametrize("excess", [0, 1])
async def test_a_call_carries_one_message_to_max_batch(kind: Kind, excess: int) -> None:
    async with kind.answered(lambda _request: httpx.Response(200)) as sender:
        with pytest.raises(ValueError):  # noqa: PT011 - what counts is that it is refused
            sender.encode(kind.messages(excess and sender.max_batch + 1, BASE))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (httpx.ConnectError, Deferred("connection_failed", blame=Blame.PROVIDER)),
        (httpx.ConnectTimeout, Deferred("connection_failed", blame=Blame.PROVIDER)),
        (httpx.WriteError, Unknown("connection_lost")),
        (httpx.ReadError, Unknown("connection_lost")),
        (httpx.RemoteProtocolError, Unknown("connection_lost")),
    ],
)
async def test_what_the_network_does_is_an_outcome(
    http_kind: Kind, error: type[httpx.TransportError], outcome: Outcome
) -> None:
    def failing(_request: httpx.Request) -> httpx.Response:
        raise error("taro@example.jp")

    messages = http_kind.messages(1, BASE)
    async with http_kind.answered(failing) as sender:
        assert await sender.send(messages, sender.encode(messages), KEY) == [outcome]


async def test_a_cut_and_a_hang_on_real_sockets(kind: Kind) -> None:
    """Cut after the request: in doubt. Hanging: the caller's cancellation passes, and the sender works on."""

    async def none() -> None:
        calls.append(trio.current_time())
        if len(calls) == 2:
            hanging.set()
            await trio.sleep_forever()

    calls, hanging = list[float](), trio.Event()
    async with (
        serving(partial(kind.serve, answer=none)) as port,
        kind.opened(base := f"http://127.0.0.1:{port}") as sender,
    ):
        messages = kind.messages(1, base)
        body = sender.encode(messages)
        assert await sender.send(messages, body, KEY) == [Unknown("connection_lost")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, messages, body, KEY)
            await hanging.wait()
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught
        assert await sender.send(messages, body, KEY) == [Unknown("connection_lost")]
    assert len(calls) == 3


async def test_a_call_may_take_as_long_as_its_caller_says(
    http_kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    """30 s: an hour-long answer is cut there, at no time of the sender's own."""

    async def slow(_request: httpx.Request) -> httpx.Response:
        await trio.sleep(3600)
        return httpx.Response(200)

    messages, before = http_kind.messages(1, BASE), trio.current_time()
    async with http_kind.answered(slow) as sender:
        with pytest.raises(trio.TooSlowError), trio.fail_after(30):
            await sender.send(messages, sender.encode(messages), KEY)
    assert trio.current_time() - before == 30


async def calls_for(kind: Kind, messages: Sequence[Mail]) -> list[Any]:
    """Have *messages* accepted, in as many calls as they need; return the calls."""
    requests: list[Any] = []

    def accept(request: Any) -> Any:
        requests.append(request)
        return kind.answers([True] * len(kind.reads(request)))

    async with kind.answered(accept) as sender:
        for start in range(0, len(messages), sender.max_batch):
            batch = messages[start : start + sender.max_batch]
            outcomes = await sender.send(batch, sender.encode(batch), KEY)
            assert [type(outcome) for outcome in outcomes] == [Delivered] * len(batch)
    return requests


TEXTS = [
    "佐藤\u3000花子様の更新期限です。",
    '"quoted" \\ back/slash \'',
    "a&b=c;d+e%20f%zz?#",
    "%recipient.name% %unsubscribe_url% {{name}} ${name} -name- <% body %> [unsubscribe]",
    "\r\n.\r\n--boundary\r\nBcc: hanako@example.jp\r\n\r\nend\n",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 ﾊﾟ \u2028 \u00a0",
    "</p><script>&amp;</script>",
]


async def test_every_mail_arrives_as_it_was_meant(mail_kind: Kind) -> None:
    """Each with its own content, whatever a name looks like to the provider, and with our headers."""
    meaning = [
        mail(
            number,
            sender="期限のお知らせ, 係 (東京) と、そのほかの長い名前の部署 <no-reply@例え.jp>",
            reply_to='"Keikakun \\"Dev\\", Inc." <ask@example.jp>',
            subject=" ".join(text.split()),
            text=text,
            html=f"<p>{text}</p>",
            headers={**mail(number).headers, "List-Unsubscribe": "<https://example.jp/?a=1&b=%20>"},
        )
        for number, text in enumerate(TEXTS)
    ]
    requests = await calls_for(mail_kind, meaning)
    assert [read for request in requests for read in mail_kind.reads(request)] == list(map(mail_kind.means, meaning))


@pytest.mark.parametrize("redirect_to", ["", "inbox@example.jp"])
async def test_nobody_gets_what_is_anothers(mail_kind: Kind, redirect_to: str) -> None:
    """Each address in the one mail that is its own; with redirect_to, in none at all.

    Neither as one more recipient, open or blind, nor in the envelope, nor anywhere else in the call.
    """
    email = EmailSettings(sender="no-reply@example.jp", reply_to="ask@example.jp")
    renderer = Renderer(Settings(email=email, safety=SafetySettings(redirect_to=redirect_to)))
    office, everyone = an_id("ひまわり"), [a_staff(f"staff-{number}") for number in range(5)]
    mails = [
        renderer.mail(
            Notice(DAY, office, "ひまわり", member, Channel.EMAIL, (a_renewal(3, "佐藤"),)),
            Delivery(an_id(f"mail to {member.name}"), office, member.id, Channel.EMAIL),
        )
        for member in everyone
    ]
    requests = await calls_for(mail_kind, mails)
    reads = [read for request in requests for read in mail_kind.reads(request)]
    addresses = [member.email or "" for member in everyone]
    assert [read.to for read in reads] == [(redirect_to or address,) for address in addresses]
    for read in reads:
        assert [address for address in addresses if address in repr(read)] == ([] if redirect_to else list(read.to))
    told = "".join(map(providers.in_clear, requests))
    assert [told.count(address) for address in addresses] == [0 if redirect_to else 1] * 5
    assert told.count("inbox@example.jp") == (5 if redirect_to else 0)


class CancelAt(trio.abc.Instrument):
    """Cancels *scope* as *task* takes its *nth* step: the next await of it is the last."""

    def __init__(self, scope: trio.CancelScope, task: trio.lowlevel.Task, nth: int) -> None:
        self.scope, self.task, self.left = scope, task, nth

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= task is self.task
        if not self.left:
            self.scope.cancel()


@contextmanager
def cancelling(scope: trio.CancelScope, nth: int) -> Iterator[None]:
    """Cancel *scope* at the current task's *nth* step from here."""
    instrument = CancelAt(scope, trio.lowlevel.current_task(), nth)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


async def test_a_cancellation_at_any_await_leaves_the_client_usable(kind: Kind) -> None:
    """One connection only: if a cancelled call kept it, the call after it would wait for ever."""

    async def answer() -> Any:
        return kind.answers([True])

    async with serving(partial(kind.serve, answer=answer)) as port:
        base = f"http://127.0.0.1:{port}"
        messages = kind.messages(1, base)
        for nth in count(1):
            async with kind.opened(base) as sender:
                body = sender.encode(messages)
                with trio.CancelScope() as scope, cancelling(scope, nth):
                    await sender.send(messages, body, KEY)
                with trio.fail_after(60):
                    (outcome,) = await sender.send(messages, body, KEY)
                assert isinstance(outcome, Delivered)
            if not scope.cancelled_caught:
                break
    assert nth > 5


async def test_nothing_private_is_told(http_kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a key nor a person stands in a log line, an outcome or an exception, however a call ends."""
    caplog.set_level(logging.DEBUG)
    ends = ["HTTP/1.1 200 -", "HTTP/1.1 400 -", "HTTP/1.1 429 -", "HTTP/1.1 502 -", "SSH-2.0", "cut", "hang"]

    async def handler(stream: trio.SocketStream) -> None:
        head, body = await read_request(stream)
        end = ends.pop(0)
        if end == "hang":
            await trio.sleep_forever()
        elif end != "cut":
            echo = head + body
            await stream.send_all(f"{end}\r\nConnection: close\r\nContent-Length: {len(echo)}\r\n\r\n".encode() + echo)

    told: list[object] = []
    async with serving(handler) as port, open_client(width=1) as client:
        base = f"http://127.0.0.1:{port}"
        sender, messages = http_kind.make(client, base), http_kind.messages(1, base)
        told += [await sender.send(messages, sender.encode(messages), KEY) for _ in ends[:-1]]
        with pytest.raises(trio.TooSlowError) as too_slow, trio.fail_after(0.1):
            await sender.send(messages, sender.encode(messages), KEY)
        with pytest.raises(ValueError) as too_many:  # noqa: PT011 - what counts is what it says
            sender.encode(http_kind.messages(sender.max_batch + 1, base))
        nobody_there = http_kind.make(client, BASE)
        messages = http_kind.messages(1, BASE)
        told.append(await nobody_there.send(messages, nobody_there.encode(messages), KEY))
    assert (len(told), ends) == (7, [])
    told += [sender, *map(traceback.format_exception, (too_slow.value, too_many.value))]
    private = [SECRET, b64encode(f"api:{SECRET}".encode()).decode(), VAPID, "device-", "taro", "本日が期限", "ひまわり"]
    assert [one for one in private if one in caplog.text + repr(told)] == []


@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() - {"gmail"}))
async def test_choosing_a_provider_is_one_key(provider: Provider) -> None:
    async with open_email(provider, Settings(email=EmailSettings(provider=provider)), now=lambda: NOW) as sender:
        assert sender.name == provider


async def test_the_configured_senders_open() -> None:
    settings = Settings(
        email=EmailSettings(sender="no-reply@example.jp", resend=ResendSettings(api_key="re_1")),
        push=PushSettings(vapid_private_key=VAPID),
    )
    async with (
        open_email(settings.email.provider, settings, now=lambda: NOW) as email,
        open_push(settings, now=lambda: NOW) as pusher,
    ):
        assert (email.name, pusher.name) == ("resend", "webpush")


async def test_an_opened_push_sender_calls_public_addresses_only() -> None:
    refused = Deferred("endpoint_refused:private_address", blame=Blame.MESSAGE)
    private = PushSettings(vapid_private_key=VAPID, allowed_hosts=("localhost",))
    message = push(Browser().subscription("https://localhost/x"))
    async with open_push(Settings(push=private), now=lambda: NOW) as sender:
        assert await sender.send([message], b"{}", KEY) == [refused]
    anywhere = evolve(private, allow_private_addresses=True)
    message = push(Browser().subscription("http://localhost:1/x"))
    async with open_push(Settings(push=anywhere), now=lambda: NOW) as sender:
        assert await sender.send([message], b"{}", KEY) == [Deferred("connection_failed", blame=Blame.PROVIDER)]


async def test_what_cannot_be_opened_is_said() -> None:
    with pytest.raises(ConfigError, match=r"push\.vapid_private_key: required"):
        async with open_push(Settings(), now=lambda: NOW):
            pass


def test_a_client_is_as_wide_as_its_limit_may_become() -> None:
    LimitsSettings(email=EMAIL_WIDTH, push=PUSH_WIDTH)
    for beyond in ({"email": EMAIL_WIDTH + 1}, {"push": PUSH_WIDTH + 1}):
        with pytest.raises(ValueError, match="out of range"):
            LimitsSettings(**beyond)
