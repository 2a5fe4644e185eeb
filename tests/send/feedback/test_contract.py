"""What every reader owes its caller: a provider joins by an entry in PROVIDERS."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID

import httpx
import pytest
import trio
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from notifierd.demo.servers.feedback.fake import Fake
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback import gmail as gmail_module
from notifierd.send.feedback import mailgun as mailgun_module
from notifierd.send.feedback import postmark as postmark_module
from notifierd.send.feedback import resend as resend_module
from notifierd.send.feedback import sendgrid as sendgrid_module
from tests.support.feedback import (
    LOG_ENDS,
    NOW,
    PROVIDERS,
    SINCE,
    Kept,
    Provider,
    a_look,
    looked_at,
    looked_through,
    reading,
    reading_directly,
)

CODES = {MailStatus.REFUSED: "4.2.2", MailStatus.BOUNCED: "5.1.1"}

ADDRESS = "taro@example.jp"
STRANGER = "hanako@example.jp"

TOKEN = {"access_token": "t1", "expires_in": 3599}


def sent_id(number: int) -> str:
    return f"sent-{number:05}"


def sent(count: int) -> dict[str, UUID]:
    return {sent_id(number): UUID(int=number + 1) for number in range(count)}


@frozen
class Event:
    """What happened to a mail of ours, so many minutes after the beginning of the look.

    No two mails are of one second, because SendGrid's logs cannot be halved further.
    """

    number: int
    status: MailStatus
    minutes: int

    def happen(self, fake: Fake) -> None:
        at = SINCE + timedelta(minutes=self.minutes, seconds=2 * self.number)
        code = CODES.get(self.status, "")
        fake.add(UUID(int=self.number + 1), sent_id(self.number), ADDRESS, self.status, code, at)


def fill(fake: Fake, count: int) -> None:
    """Let the account have mails that are not ours."""
    for number in range(count):
        at = SINCE + timedelta(minutes=number * 7 % 4000, seconds=1)
        fake.add(UUID(int=10**6 + number), f"foreign-{number}", STRANGER, MailStatus.BOUNCED, "5.1.1", at)


def gravest(events: Iterable[Event], tells: Iterable[MailStatus]) -> dict[UUID, MailStatus]:
    found: dict[UUID, MailStatus] = {}
    for event in events:
        known = found.get(UUID(int=event.number + 1))
        if event.status in tells and (known is None or event.status.severity > known.severity):
            found[UUID(int=event.number + 1)] = event.status
    return found


CUT = frozenset({"connection_lost", "unreadable", "unclear"})
"""Why a look is not complete whose answers were cut; "unclear" is said of a token."""


def why(looked: Looked) -> str:
    """Why a look is not complete, whether it was about the token or what it is for."""
    return looked.incomplete.removeprefix("token_").partition(":")[0]


@contextmanager
def short_pages() -> Iterator[None]:
    """Let the readers ask for few entries at once, so that few of them make several pages. A queue gives ten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gmail_module, "PAGE_SIZE", 2)
        patch.setattr(mailgun_module, "PAGE_SIZES", (2,))
        patch.setattr(postmark_module, "PAGE", 2)
        patch.setattr(resend_module, "PAGE", 2)
        patch.setattr(sendgrid_module, "PAGE_SIZE", 7)  # all six mails to ADDRESS have to fit into one answer
        yield


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return PROVIDERS[request.param]


async def test_a_look_tells_what_became_of_each_of_our_mails(provider: Provider) -> None:
    """Over HTTP, on several pages, among mails that are not ours and mails of which nothing is known."""
    fake, kept = provider.fake(), Kept()
    statuses = list(MailStatus)
    events = [Event(number, statuses[number % len(statuses)], number) for number in range(250)]
    fill(fake, 250)
    for event in events:
        event.happen(fake)
    async with reading(provider, fake) as reader:
        assert await reader.look(a_look(sent(260)), kept.keep) == Looked()
        assert kept.statuses == gravest(events, reader.tells)
    assert {one.address for one in kept.verdicts.values()} == {ADDRESS}
    if provider.gives_codes:
        assert all(one.code == CODES.get(one.status, one.code) for one in kept.verdicts.values())


async def test_a_look_at_nothing_is_complete(provider: Provider) -> None:
    kept = Kept()
    assert await looked_at(provider, provider.fake(), a_look({}), kept) == Looked()
    assert await looked_at(provider, provider.fake(), a_look(sent(3)), kept) == Looked()
    assert kept.verdicts == {}


EVENTS = st.lists(st.builds(Event, st.integers(0, 5), st.sampled_from(MailStatus), st.integers(0, 4000)), max_size=9)


@pytest.mark.parametrize("name", PROVIDERS | LOG_ENDS)
def test_looks_that_are_cut_anywhere_lose_nothing_and_double_nothing(name: str) -> None:
    """Whatever happens between two looks: in the end, the gravest status of each mail is known.

    Mails 4 and 5 are not of this application: an account may be shared.
    """
    provider = (PROVIDERS | LOG_ENDS)[name]
    most = 12 if name == "ses, insights" else 8  # requests of a look, and some more

    @settings(max_examples=15)
    @given(EVENTS, EVENTS, EVENTS, st.lists(st.integers(0, most), max_size=2), st.booleans())
    def cut_anywhere(first: list[Event], second: list[Event], third: list[Event], cuts: list[int], torn: bool) -> None:
        async def looks() -> tuple[Kept, frozenset[MailStatus]]:
            fake, kept = provider.fake(), Kept()
            fill(fake, 4)
            async with reading_directly(provider, fake, torn=torn) as reader:
                for events, cut in zip((first, second, third), [*cuts, None, None, None], strict=False):
                    for event in events:
                        event.happen(fake)
                    fake.later()
                    fake.cut_after(cut)
                    found = await reader.look(a_look(sent(4)), kept.keep)
                    assert found == Looked() or (cut is not None and why(found) in CUT)
                return kept, frozenset(reader.tells)

        with short_pages():
            kept, tells = trio.run(looks)
        assert kept.statuses == gravest((one for one in (*first, *second, *third) if one.number < 4), tells)

    cut_anywhere()


class DiskFull(Exception):
    pass


async def test_what_could_not_be_kept_is_told_again(provider: Provider) -> None:
    """An error of the ledger passes through, and so does a cancellation."""
    fake, kept = provider.fake(), Kept()
    events = [Event(number, MailStatus.BOUNCED, number) for number in range(5)]
    for event in events:
        event.happen(fake)

    async def fails(_verdicts: object) -> None:
        raise DiskFull

    async with reading_directly(provider, fake) as reader:
        with pytest.raises(DiskFull):
            await reader.look(a_look(sent(5)), fails)
        fake.later()
        with trio.CancelScope() as scope:

            async def hangs(_verdicts: object) -> None:
                scope.cancel()
                await trio.sleep_forever()

            await reader.look(a_look(sent(5)), hangs)
        assert scope.cancelled_caught
        fake.later()
        assert await reader.look(a_look(sent(5)), kept.keep) == Looked()
        assert kept.statuses == gravest(events, reader.tells)


async def test_a_page_is_kept_before_the_next_one_is_asked_for(provider: Provider) -> None:
    """So what was read is not lost if the process dies."""
    fake, kept = provider.fake(), Kept()
    for number in range(12):  # of which a queue gives ten
        Event(number, MailStatus.BOUNCED, number * 60).happen(fake)
    asked: list[int] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(len(kept.verdicts))
        status, headers, body = fake.answer(
            request.method, request.url.raw_path.decode(), dict(request.headers), request.content
        )
        return httpx.Response(status, headers=headers, content=body)

    with short_pages():
        assert await looked_through(provider, respond, a_look(sent(12)), kept) == Looked()
    assert any(0 < verdicts < 12 for verdicts in asked)


async def test_two_looks_that_touch_see_everything(provider: Provider) -> None:
    fake, kept = provider.fake(), Kept()
    events = [Event(number, MailStatus.BOUNCED, number * 20) for number in range(4)]
    for event in events:
        event.happen(fake)
    middle = SINCE + timedelta(minutes=40)
    async with reading_directly(provider, fake) as reader:
        for since, until in ((SINCE, middle), (middle, NOW)):
            fake.later()
            assert await reader.look(Look(since, until, sent(4)), kept.keep) == Looked()
        assert kept.statuses == gravest(events, reader.tells)


async def test_a_probe_changes_nothing(provider: Provider) -> None:
    fake, kept = provider.fake(), Kept()
    Event(0, MailStatus.BOUNCED, 0).happen(fake)
    async with reading_directly(provider, fake) as reader:
        assert await reader.probe() == ""
        assert await reader.look(a_look(sent(1)), kept.keep) == Looked()
    assert len(kept.verdicts) == 1


async def test_a_wrong_key_is_named_by_the_probe_and_the_look(provider: Provider) -> None:
    async with reading_directly(provider, provider.fake(), key="wrong") as reader:
        found = await reader.probe()
        assert found.removeprefix("token_").startswith("blocked:40")
        assert (await reader.look(a_look(sent(1)), Kept().keep)).incomplete == found


async def test_nobody_who_answers_makes_a_look_incomplete(provider: Provider) -> None:
    fake = provider.fake()
    fake.cut_after(0)
    async with reading(provider, fake) as reader:
        assert why(await reader.look(a_look(sent(1)), Kept().keep)) == "connection_lost"
        assert (await reader.probe()).removeprefix("token_") == "connection_lost"


async def test_a_provider_that_hangs_is_given_up_and_a_cancellation_ends_a_look_at_once(
    provider: Provider, autojump_clock: MockClock
) -> None:
    async def hangs(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/token":
            await trio.sleep_forever()
        return httpx.Response(200, json=TOKEN)

    with trio.move_on_after(1) as scope:
        await looked_through(provider, hangs, a_look(sent(1)), Kept())
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert (await looked_through(provider, hangs, a_look(sent(1)), Kept())).incomplete == "timeout"


# Answers that are not what was asked for ------------------------------------------------------------------------------

OF_STRANGERS = {
    200: "unreadable:200",
    204: "unreadable:204",
    302: "not_the_provider:302",
    400: "not_the_provider:400",
    402: "blocked:402",
    403: "blocked:403",
    404: "not_the_provider:404",
    407: "blocked:407",
    429: "rate_limited:429",
    500: "server_error:500",
    502: "server_error:502",
    503: "server_error:503",
    511: "not_the_provider:511",
}
BODIES_OF_STRANGERS = (b"", b"<html>taro@example.jp", b"[1]", b"{}", b'{"message": 1}')


async def test_whoever_answers_in_the_providers_place_tells_nothing(provider: Provider) -> None:
    headers, kept, status, body = {"Content-Type": "text/html", "Retry-After": "7200"}, Kept(), 0, b""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json=TOKEN)
        return httpx.Response(status, content=body, headers=headers)

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        reader = provider.make(client, "https://api.example")
        for (status, incomplete), body in product(OF_STRANGERS.items(), BODIES_OF_STRANGERS):
            found = await reader.look(a_look(sent(1)), kept.keep)
            assert (status, body, found) == (status, body, Looked(incomplete))
    assert kept.verdicts == {}


async def test_an_answer_that_is_nested_or_long_makes_a_look_incomplete(provider: Provider) -> None:
    long = b'{"a": "' + b"x" * 1_100_000
    for body in (b"[" * 50_000, b'{"items":' * 50_000, long):

        def respond(request: httpx.Request, body: bytes = body) -> httpx.Response:
            is_token = request.url.path == "/token"
            return httpx.Response(200, json=TOKEN) if is_token else httpx.Response(200, content=body)

        found = await looked_through(provider, respond, a_look(sent(1)), Kept())
        assert found.incomplete.partition(":")[0] in {"unreadable", "too_many"}, body[:9]


@pytest.mark.parametrize("name", ["mailgun", "sendgrid", "gmail"])
async def test_a_cursor_that_never_ends_or_repeats_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page has news, and names a next one; or is full, however short its slice of time is."""
    monkeypatch.setattr(mailgun_module, "PAGES", 30)
    monkeypatch.setattr(sendgrid_module, "REQUESTS", 30)
    monkeypatch.setattr(gmail_module, "PAGES", 30)
    count = 0

    def without_end(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        event = {"id": f"e{count}", "event": "delivered"}
        entry = {"sg_message_id": f"m{count}", "status": "bounced"}
        page = {"messages": [entry] * 500} if "/v3/logs" in str(request.url) else {"messages": [{"id": f"m{count}"}]}
        found = page | {"items": [event], "pagination": {"next": f"t{count}"}, "nextPageToken": f"t{count}"}
        raw = {"raw": "Zm9v"}
        token = TOKEN if request.url.path == "/token" else None
        return httpx.Response(200, json=token or (raw if "format=raw" in str(request.url) else found))

    def repeating(request: httpx.Request) -> httpx.Response:
        found = {
            "items": [{"id": "e1", "event": "delivered"}],
            "pagination": {"next": "again", "last": "at the end"},
            "messages": [],
            "nextPageToken": "again",
        }
        return httpx.Response(200, json=TOKEN if request.url.path == "/token" else found)

    provider = PROVIDERS[name]
    assert await looked_through(provider, without_end, a_look(sent(1)), Kept()) == Looked("too_many")
    assert 30 <= count < 70
    found = await looked_through(provider, repeating, a_look(sent(1)), Kept())
    assert found.incomplete.partition(":")[0] == "unreadable"


# Anything at all ------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("Bounces", "TotalCount", "MessageID", "Type", "Email", "BouncedAt", "Details", "ErrorCode", "Message"),
        *("data", "has_more", "id", "last_event", "to", "created_at", "email_id", "bounced_permanent", "name"),
        *("Messages", "Body", "ReceiptHandle", "mail", "messageId", "eventType", "headers", "bounce", "Successful"),
        *("Insights", "Events", "Details", "Bounce", "EnforcementStatus", "__type", "bouncedRecipients", "status"),
        *("items", "pagination", "next", "last", "event", "message", "message-id", "delivery-status", "code", "failed"),
        *("messages", "sg_message_id", "reason", "to_email", "errors", "error", "severity", "enhanced-code", "events"),
        *("nextPageToken", "resultSizeEstimate", "raw", "email", "recipient", "bounce-type", "spamreport", "dropped"),
        *("HardBounce", "bounced", "Permanent", "5.1.1", "X-Entity-Ref-ID", sent_id(0), ADDRESS, "\x00", "\ud800"),
        *("2026-11-24T00:00:00-05:00", "0001-01-01T00:00:00+14:00", "PROBATION", "9" * 400),
    ]
)
NUMBERS = st.integers(-3, 500) | st.sampled_from([10**400, -(10**40), float("nan"), float("inf"), 0.0])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=25,
)
PAGES = (
    {"TotalCount": JSON, "Bounces": JSON},
    {"data": JSON, "has_more": JSON},
    {"Insights": JSON},
    {"items": JSON, "pagination": JSON},
    {"messages": JSON},
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda found: json.dumps(found).encode()),
    *(st.fixed_dictionaries(page).map(lambda found: json.dumps(found).encode()) for page in PAGES),
    JSON.map(lambda found: json.dumps({"Messages": [{"ReceiptHandle": "r", "Body": json.dumps(found)}]}).encode()),
    st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b'{"Bounces": [' + b" " * 2**20 + b"]}"]),
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Content-Type", "x-amzn-ErrorType", "Retry-After", "Content-Encoding"]),
        st.sampled_from(["application/x-amz-json-1.0", "AccessDeniedException", "9" * 999, "nan"]),
    ),
    max_size=3,
)
STATUSES = st.just(200) | st.integers(100, 599)


def is_own(name: str, status: int, headers: Mapping[str, str], found: Any) -> bool:
    """Whether an answer has the shape of the provider's, as far as a look could not be complete without it."""
    if status == 404:
        return headers.get("x-amzn-errortype") == "NotFoundException" or name == "gmail"  # a mail that was deleted
    if status != 200 or not isinstance(found, dict):
        return name == "sendgrid" and isinstance(found, list)  # the complaints
    match name:
        case "postmark":
            return isinstance(found.get("Bounces"), list) and isinstance(found.get("TotalCount"), int)
        case "resend":
            return isinstance(found.get("data"), list) and isinstance(found.get("has_more"), bool)
        case "ses, queue":
            return "application/x-amz-json-1.0" in headers.get("content-type", "")
        case "ses, insights":
            return isinstance(found.get("Insights"), list)
        case "mailgun":
            return "items" in found and isinstance(found.get("pagination"), dict)
        case "sendgrid":
            return isinstance(found.get("messages", found.get("events")), list)
        case _:
            return bool(found.keys() & {"messages", "resultSizeEstimate", "raw"})


@pytest.mark.parametrize("name", PROVIDERS)
def test_no_answer_raises_and_only_the_providers_own_completes_a_look(name: str) -> None:
    """Nor does the one reader of answers have anything to catch."""

    @settings(max_examples=40)
    @given(st.lists(st.tuples(STATUSES, HEADERS, BODIES), min_size=1, max_size=3))
    def any_answers(answers: Sequence[tuple[int, list[tuple[str, str]], bytes]]) -> None:
        turns = iter(answers)
        own: list[bool] = []

        def respond(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/token":
                return httpx.Response(200, json=TOKEN)
            status, headers, body = next(turns, answers[-1])
            response = httpx.Response(status, headers=headers, content=body)
            if not request.url.path.endswith("/account"):
                with suppress(ValueError, RecursionError):
                    own.append(is_own(name, status, response.headers, json.loads(body)))
                    return response
                own.append(False)
            return response

        with capture_logs() as lines:
            found = trio.run(looked_through, PROVIDERS[name], respond, a_look(sent(2)), Kept())
        assert lines == []
        assert found.incomplete or all(own)
        assert len(found.incomplete) < 60
        assert found.incomplete.isascii()
        assert found.enforcement in {"", "probation", "shutdown"}

    any_answers()


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_page_that_is_cut_anywhere_is_no_page(name: str) -> None:
    provider = PROVIDERS[name]
    fake = provider.fake()
    Event(0, MailStatus.BOUNCED, 0).happen(fake)

    @settings(max_examples=30)
    @given(st.integers(0, 3000))
    def cut(length: int) -> None:
        kept, cuts = Kept(), []

        def respond(request: httpx.Request) -> httpx.Response:
            fake.later()
            status, headers, body = fake.answer(
                request.method, request.url.raw_path.decode(), dict(request.headers), request.content
            )
            if request.url.path not in {"/v2/email/account", "/emails/metrics", "/token"}:
                cuts.append(length < len(body))
                body = body[:length]
            return httpx.Response(status, headers=headers, content=body)

        found = trio.run(looked_through, provider, respond, a_look(sent(1)), kept)
        if cuts[0]:
            assert found.incomplete == "unreadable:200"
            assert kept.verdicts == {}

    cut()


ODD = st.sampled_from(["x@", "a" * 318 + "@b", "a" * 330 + "@b", "taro", "taro@exa\nmple.jp", 5, None, ["a@b"]])


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "gmail"])  # whose bounce mails have no JSON
@settings(max_examples=40)
@given(address=st.text(max_size=400) | ODD)
def test_an_address_is_kept_only_if_it_is_one(name: str, address: Any) -> None:
    provider = PROVIDERS[name]
    fake, kept = provider.fake(), Kept()
    fake.add(UUID(int=1), sent_id(0), address, MailStatus.BOUNCED, "5.1.1", NOW - timedelta(hours=1))
    assert trio.run(looked_at, provider, fake, a_look(sent(1)), kept) == Looked()
    fits = isinstance(address, str) and "@" in address and len(address) <= 320 and address.isprintable()
    assert kept.verdicts == {
        UUID(int=1): Verdict(
            UUID(int=1), MailStatus.BOUNCED, "5.1.1" if provider.gives_codes else "", address if fits else ""
        )
    }


async def test_nothing_personal_shows_in_a_verdict_or_a_look(provider: Provider) -> None:
    fake, kept = provider.fake(), Kept()
    Event(0, MailStatus.BOUNCED, 0).happen(fake)
    look = a_look(sent(1))
    with capture_logs() as lines:
        await looked_at(provider, fake, look, kept)
    assert ADDRESS not in f"{look} {kept.verdicts} {lines}"
