"""What every reader owes its caller: all verdicts in the end, wherever a look was cut, and none from a stranger."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal
from uuid import UUID

import httpx
import pytest
import trio
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from notifierd.config.providers import MailgunSettings, SendgridSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import Client, open_client
from notifierd.send.feedback import FeedbackReader, Look, Looked
from notifierd.send.feedback import gmail as gmail_module
from notifierd.send.feedback import mailgun as mailgun_module
from notifierd.send.feedback import sendgrid as sendgrid_module
from tests.support.feedback_servers import gmail, mailgun, sendgrid
from tests.support.feedback_servers.fake import Fake, served, transport
from tests.support.google_api import gmail_settings

NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
LATER = NINE + timedelta(hours=2)
OVERLAP = timedelta(minutes=35)
BASE = "http://127.0.0.1:1"


@frozen
class Provider:
    """A provider's fake, its reader, and what shows that an answer is the provider's own.

    Attributes:
        message_id: how the provider names the mail of a delivery when it accepts it.
    """

    fake: Callable[[], Fake]
    reader: Callable[..., FeedbackReader]
    message_id: Callable[[UUID], str]


def mailgun_reader(client: Client, url: str, **pace: float) -> FeedbackReader:
    config = MailgunSettings(api_key="key", feedback_key=mailgun.KEY, domain=mailgun.DOMAIN, base_url=url)
    return mailgun_module.MailgunFeedback(client, config, now=lambda: LATER, **pace)


def sendgrid_reader(client: Client, url: str, **pace: float) -> FeedbackReader:
    config = SendgridSettings(api_key="key", feedback_key=sendgrid.KEY, base_url=url)
    return sendgrid_module.SendgridFeedback(client, config, now=lambda: LATER, **pace)


def gmail_reader(client: Client, url: str, **pace: float) -> FeedbackReader:
    config = gmail_settings(base_url=url, token_url=f"{url}/token", feedback=True)
    return gmail_module.GmailFeedback(client, config, now=lambda: LATER, **pace)


def mailgun_id(delivery_id: UUID) -> str:
    return f"<{delivery_id}@example.jp>"


def logs_that_end(last: Literal["empty", "none", "itself"]) -> Provider:
    return Provider(partial(mailgun.FakeMailgun, page=2, last=last), mailgun_reader, mailgun_id)


PROVIDERS = {
    "mailgun": logs_that_end("empty"),
    "sendgrid": Provider(sendgrid.FakeSendgrid, sendgrid_reader, lambda one: f"Xj5LmNkW_{one.hex[-8:]}"),
    "gmail": Provider(partial(gmail.FakeGmail, page=2), gmail_reader, lambda one: f"19a{one.hex[-8:]}"),
}
CURSORS = PROVIDERS | {
    "mailgun, whose last page names no next one": logs_that_end("none"),
    "mailgun, whose last page names itself": logs_that_end("itself"),
}
"""How Mailgun's logs end is not documented; its other lists end in each of these ways."""


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return PROVIDERS[request.param]


class Kept:
    """The ledger's side: the worst verdict of each delivery, whatever order they come in."""

    def __init__(self) -> None:
        self.verdicts: dict[UUID, Verdict] = {}

    async def __call__(self, verdicts: Sequence[Verdict]) -> None:
        assert verdicts, "nothing is kept for nothing"
        ids = [verdict.delivery_id for verdict in verdicts]
        assert len(ids) == len(set(ids)), "one statement cannot write a row twice"
        for verdict in verdicts:
            known = self.verdicts.get(verdict.delivery_id)
            if known is None or known.status.severity < verdict.status.severity:
                self.verdicts[verdict.delivery_id] = verdict

    @property
    def statuses(self) -> dict[UUID, MailStatus]:
        return {delivery_id: verdict.status for delivery_id, verdict in self.verdicts.items()}


@frozen
class Event:
    """What becomes of the mail of *delivery*, a number of minutes after nine; known before the first look or later."""

    delivery: int
    status: MailStatus
    minutes: int
    early: bool


EVENTS = st.lists(
    st.builds(Event, st.integers(1, 6), st.sampled_from(MailStatus), st.integers(0, 100), st.booleans()), max_size=9
)


def sent(provider: Provider, numbers: Sequence[int]) -> Mapping[str, UUID]:
    return {provider.message_id(UUID(int=number)): UUID(int=number) for number in numbers}


def add(fake: Fake, provider: Provider, event: Event) -> None:
    delivery_id = UUID(int=event.delivery)
    address = f"taro{event.delivery}@example.jp"
    at = NINE + timedelta(minutes=event.minutes)
    fake.add(delivery_id, provider.message_id(delivery_id), address, event.status, "", at)


@pytest.mark.parametrize("name", CURSORS)
@settings(max_examples=15)
@given(events=EVENTS, cut=st.integers(0, 8), torn=st.booleans())
def test_a_look_that_was_cut_anywhere_loses_and_doubles_nothing(
    name: str, events: list[Event], cut: int, torn: bool
) -> None:
    """Deliveries 5 and 6 are not of this application: an account may be shared."""
    provider = CURSORS[name]
    fake, kept = provider.fake(), Kept()
    fake.torn = torn
    ours = sent(provider, range(1, 5))
    tells: set[MailStatus] = set()

    async def main() -> None:
        async with open_client(width=1, transport=transport(fake)) as client:
            reader = provider.reader(client, BASE)
            tells.update(reader.tells)
            for event in events:
                if event.early:
                    add(fake, provider, event)
            fake.cut_after(cut)
            first = await reader.look(Look(NINE - OVERLAP, LATER, ours), kept)
            for event in events:
                if not event.early:
                    add(fake, provider, event)
            fake.cut_after(None)
            since = NINE - OVERLAP  # what was added late is as old as the rest
            second = await reader.look(Look(since, LATER, ours), kept)
            assert second == Looked()
            if first == Looked():
                assert await reader.look(Look(since, LATER, ours), kept) == Looked()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sendgrid_module, "PAGE_SIZE", 3)
        trio.run(main, clock=MockClock(autojump_threshold=0))
    expected: dict[UUID, MailStatus] = {}
    for event in events:
        if event.delivery <= 4 and event.status in tells:
            known = expected.get(UUID(int=event.delivery))
            if known is None or known.severity < event.status.severity:
                expected[UUID(int=event.delivery)] = event.status
    assert kept.statuses == expected
    for delivery_id, verdict in kept.verdicts.items():
        assert verdict.address == f"taro{delivery_id.int}@example.jp"


async def test_a_look_over_a_socket(provider: Provider) -> None:
    fake, kept = provider.fake(), Kept()
    for number in range(1, 8):
        add(fake, provider, Event(number, MailStatus.BOUNCED, number, early=True))
    async with served(fake) as url, open_client(width=1) as client:
        reader = provider.reader(client, url, pace=0)
        assert await reader.probe() == ""
        assert await reader.look(Look(NINE, LATER, sent(provider, range(1, 7))), kept) == Looked()
    assert kept.statuses == {UUID(int=number): MailStatus.BOUNCED for number in range(1, 7)}


async def test_a_page_is_kept_before_the_next_one_is_asked_for(
    provider: Provider, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what was read is not lost if the process dies, and an error of the ledger ends the look."""
    monkeypatch.setattr(sendgrid_module, "PAGE_SIZE", 2)
    fake = provider.fake()
    for number in range(1, 5):
        add(fake, provider, Event(number, MailStatus.BOUNCED, number, early=True))
    requests: list[int] = []

    async def keep(_verdicts: Sequence[Verdict]) -> None:
        requests.append(len(fake.seen))
        if len(requests) == 2:
            raise OSError("the database is gone")

    async with open_client(width=1, transport=transport(fake)) as client:
        with pytest.raises(OSError, match="gone"):
            await provider.reader(client, BASE).look(Look(NINE, LATER, sent(provider, range(1, 5))), keep)
    assert 0 < requests[0] < requests[1] == len(fake.seen)


async def test_nothing_that_happened_outside_of_the_time_is_needed(
    provider: Provider, autojump_clock: MockClock
) -> None:
    """Two looks that touch see each event."""
    fake, kept = provider.fake(), Kept()
    for number in range(1, 5):
        add(fake, provider, Event(number, MailStatus.REFUSED, number * 20, early=True))
    ours = sent(provider, range(1, 5))
    middle = NINE + timedelta(minutes=40)
    async with open_client(width=1, transport=transport(fake)) as client:
        reader = provider.reader(client, BASE)
        assert await reader.look(Look(NINE, middle, ours), kept) == Looked()
        assert await reader.look(Look(middle, LATER, ours), kept) == Looked()
    assert set(kept.statuses) == {UUID(int=number) for number in range(1, 5)}


# Answers that are not what was asked for ------------------------------------------------------------------------------

TOKEN = {"access_token": "t1", "expires_in": 3599}


async def look_at(provider: Provider, answer: Callable[[httpx.Request], httpx.Response]) -> tuple[Looked, str]:
    """Answer all requests of a look, and of a probe, but for Google's tokens."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=TOKEN) if request.url.path == "/token" else answer(request)

    async with open_client(width=1, transport=httpx.MockTransport(handle)) as client:
        reader = provider.reader(client, BASE)
        return await reader.look(Look(NINE, LATER, sent(provider, range(1, 3))), Kept()), await reader.probe()


@pytest.mark.parametrize(
    ("status", "incomplete"),
    [
        (200, "unreadable:200"),
        (204, "unreadable:204"),
        (302, "not_the_provider:302"),
        (400, "not_the_provider:400"),
        (402, "blocked:402"),
        (403, "blocked:403"),
        (404, "not_the_provider:404"),
        (407, "blocked:407"),
        (429, "rate_limited:429"),
        (500, "server_error:500"),
        (502, "server_error:502"),
        (503, "server_error:503"),
        (511, "not_the_provider:511"),
    ],
)
@pytest.mark.parametrize("body", [b"<html>taro@example.jp", b'{"message": 1}', b"[1]"])
async def test_an_answer_that_is_not_the_providers_own_makes_the_look_incomplete(
    provider: Provider, status: int, incomplete: str, body: bytes, autojump_clock: MockClock
) -> None:
    looked, probed = await look_at(provider, lambda _request: httpx.Response(status, content=body))
    assert looked == Looked(incomplete)
    assert probed == incomplete


async def test_a_request_without_an_answer_ends(provider: Provider, autojump_clock: MockClock) -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json=TOKEN)
        await trio.sleep_forever()
        raise AssertionError

    async with open_client(width=1, transport=httpx.MockTransport(hang)) as client:
        looked = await provider.reader(client, BASE).look(Look(NINE, LATER), Kept())
    assert looked == Looked("timeout")


async def test_a_cancelled_look_ends_at_once(provider: Provider, autojump_clock: MockClock) -> None:
    async def hang(_request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError

    async with open_client(width=1, transport=httpx.MockTransport(hang)) as client:
        with trio.move_on_after(1) as scope:
            await provider.reader(client, BASE).look(Look(NINE, LATER), Kept())
    assert scope.cancelled_caught
    assert trio.current_time() == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
WORDS = (
    *("items", "pagination", "next", "last", "event", "message", "headers", "message-id", "delivery-status", "code"),
    *("messages", "sg_message_id", "status", "reason", "to_email", "errors", "error", "severity", "enhanced-code"),
    *("id", "nextPageToken", "resultSizeEstimate", "raw", "events", "email", "recipient", "bounce-type"),
)
SHAPED = st.recursive(
    JSON | st.sampled_from(["failed", "permanent", "bounced", "dropped", "spamreport", "delivered", "complained"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=25,
)


@pytest.mark.parametrize("name", PROVIDERS)
@settings(max_examples=25)
@given(
    answers=st.lists(st.tuples(st.sampled_from([200, 200, 200, 400, 401, 403, 404, 429, 500]), SHAPED), min_size=1),
    headers=st.dictionaries(st.sampled_from(["retry-after", "content-type", "content-encoding"]), st.just("odd")),
)
def test_no_answer_raises(name: str, answers: list[tuple[int, object]], headers: dict[str, str]) -> None:
    """Whatever comes, and in whatever order: a reason, or verdicts of our own mails."""
    left = list(answers)

    def answer(_request: httpx.Request) -> httpx.Response:
        status, found = left.pop(0) if left else (500, {})
        return httpx.Response(status, content=json.dumps(found).encode(), headers=headers)

    async def main() -> None:
        with capture_logs() as logs:
            looked, probed = await look_at(PROVIDERS[name], answer)
        assert "\n" not in looked.incomplete + probed
        assert not any("answer_unreadable" in entry["event"] for entry in logs), "the reader saw it coming"

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("name", PROVIDERS)
@settings(max_examples=25)
@given(status=st.integers(100, 599), body=st.binary(max_size=60))
def test_no_body_raises(name: str, status: int, body: bytes) -> None:
    async def main() -> None:
        looked, probed = await look_at(PROVIDERS[name], lambda _request: httpx.Response(status, content=body))
        assert looked.incomplete
        assert probed

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"items":' * 50_000, b" " * 2_000_000, b'{"a": "' + b"x" * 2_000_000]
)
async def test_a_page_that_is_nested_or_long_makes_the_look_incomplete(
    provider: Provider, body: bytes, autojump_clock: MockClock
) -> None:
    looked, _probed = await look_at(provider, lambda _request: httpx.Response(200, content=body))
    assert looked.incomplete.partition(":")[0] in {"unreadable", "too_many"}


async def test_a_cursor_that_never_ends_ends(provider: Provider, autojump_clock: MockClock) -> None:
    """Each page has news, and names a next one; or is full, however short its slice of time is."""
    count = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        event = {"id": f"e{count}", "event": "delivered"}
        entry = {"sg_message_id": f"m{count}", "status": "bounced"}
        page = {"messages": [entry] * 500} if "/v3/logs" in str(request.url) else {"messages": [{"id": f"m{count}"}]}
        found = page | {"items": [event], "pagination": {"next": f"t{count}"}, "nextPageToken": f"t{count}"}
        raw = {"raw": "Zm9v"}
        return httpx.Response(200, json=raw if "format=raw" in str(request.url) else found)

    assert (await look_at(provider, answer))[0] == Looked("too_many")
    assert count < 6000


async def test_a_cursor_that_repeats_ends(provider: Provider, autojump_clock: MockClock) -> None:
    pages = {
        "items": [{"id": "e1", "event": "delivered"}],
        "pagination": {"next": "again", "last": "at the end"},
        "messages": [],
        "nextPageToken": "again",
    }
    looked, _probed = await look_at(provider, lambda _request: httpx.Response(200, json=pages))
    assert looked.incomplete.partition(":")[0] == "unreadable"
