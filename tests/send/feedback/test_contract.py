"""What every reader owes its caller: a provider joins by an entry in PROVIDERS."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import trio
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notifierd.demo.servers.feedback.fake import Fake
from notifierd.demo.servers.feedback.ses import FakeSes
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send.feedback import Looked
from tests.support.feedback import NOW, PROVIDERS, SINCE, Kept, a_look, looked_at, looked_through, reading

CODES = {MailStatus.REFUSED: "4.2.2", MailStatus.BOUNCED: "5.1.1"}

ADDRESS = "taro@example.jp"


def sent_id(number: int) -> str:
    return f"sent-{number:05}"


def sent(count: int) -> dict[str, UUID]:
    return {sent_id(number): UUID(int=number + 1) for number in range(count)}


@frozen
class Event:
    """What happened to a mail of ours, so many minutes after the beginning of the look."""

    number: int
    status: MailStatus
    minutes: int

    def happen(self, fake: Fake) -> None:
        at = SINCE + timedelta(minutes=self.minutes)
        code = CODES.get(self.status, "")
        fake.add(UUID(int=self.number + 1), sent_id(self.number), ADDRESS, self.status, code, at)


def fill(fake: Fake, count: int) -> None:
    """Let the account have mails that are not ours, more than fit on a page."""
    for number in range(count):
        at = SINCE + timedelta(minutes=number * 7 % 4000)
        fake.add(UUID(int=10**6 + number), f"foreign-{number}", "hanako@example.jp", MailStatus.BOUNCED, "5.1.1", at)


def gravest(events: Iterable[Event], tells: Iterable[MailStatus]) -> dict[UUID, MailStatus]:
    found: dict[UUID, MailStatus] = {}
    for event in events:
        known = found.get(UUID(int=event.number + 1))
        if event.status in tells and (known is None or event.status.severity > known.severity):
            found[UUID(int=event.number + 1)] = event.status
    return found


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_look_tells_what_became_of_each_of_our_mails(name: str) -> None:
    """On several pages, among mails that are not ours and mails of which nothing is known."""
    provider = PROVIDERS[name]
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
        assert all(one.code == CODES.get(one.status, "") for one in kept.verdicts.values())


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_look_at_nothing_is_complete(name: str) -> None:
    kept = Kept()
    assert await looked_at(PROVIDERS[name], PROVIDERS[name].fake(), a_look({}), kept) == Looked()
    assert await looked_at(PROVIDERS[name], PROVIDERS[name].fake(), a_look(sent(3)), kept) == Looked()
    assert kept.verdicts == {}


EVENTS = st.lists(st.builds(Event, st.integers(0, 8), st.sampled_from(MailStatus), st.integers(0, 4000)), max_size=12)


@pytest.mark.parametrize("name", PROVIDERS)
def test_looks_that_are_cut_anywhere_lose_nothing_and_double_nothing(name: str) -> None:
    """Whatever happens between two looks: in the end, the gravest status of each mail is known."""
    provider = PROVIDERS[name]

    @settings(max_examples=15)
    @given(EVENTS, EVENTS, EVENTS, st.lists(st.integers(0, 14), max_size=2))
    def cut_anywhere(first: list[Event], second: list[Event], third: list[Event], cuts: list[int]) -> None:
        async def looks() -> tuple[Kept, frozenset[MailStatus]]:
            fake, kept = provider.fake(), Kept()
            fill(fake, 20 if isinstance(fake, FakeSes) else 250)
            async with reading(provider, fake) as reader:
                for events, cut in zip((first, second, third), [*cuts, None, None, None], strict=False):
                    for event in events:
                        event.happen(fake)
                    fake.later()
                    fake.cut_after(cut)
                    found = await reader.look(a_look(sent(9)), kept.keep)
                    assert found == Looked() or (cut is not None and found.incomplete == "connection_lost")
                return kept, frozenset(reader.tells)

        kept, tells = trio.run(looks)
        assert kept.statuses == gravest([*first, *second, *third], tells)

    cut_anywhere()


class DiskFull(Exception):
    pass


@pytest.mark.parametrize("name", PROVIDERS)
async def test_what_could_not_be_kept_is_told_again(name: str) -> None:
    """An error of the ledger passes through, and so does a cancellation."""
    provider = PROVIDERS[name]
    fake, kept = provider.fake(), Kept()
    events = [Event(number, MailStatus.BOUNCED, number) for number in range(5)]
    for event in events:
        event.happen(fake)

    async def fails(_verdicts: object) -> None:
        raise DiskFull

    async with reading(provider, fake) as reader:
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


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_probe_changes_nothing(name: str) -> None:
    provider = PROVIDERS[name]
    fake, kept = provider.fake(), Kept()
    Event(0, MailStatus.BOUNCED, 0).happen(fake)
    async with reading(provider, fake) as reader:
        assert await reader.probe() == ""
        assert await reader.look(a_look(sent(1)), kept.keep) == Looked()
    assert len(kept.verdicts) == 1


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_wrong_key_is_named_by_the_probe_and_the_look(name: str) -> None:
    async with reading(PROVIDERS[name], PROVIDERS[name].fake(), key="wrong") as reader:
        found = await reader.probe()
        assert found.startswith("blocked:40")
        assert (await reader.look(a_look(sent(1)), Kept().keep)).incomplete == found


@pytest.mark.parametrize("name", PROVIDERS)
async def test_nobody_who_answers_makes_a_look_incomplete(name: str) -> None:
    fake = PROVIDERS[name].fake()
    fake.cut_after(0)
    async with reading(PROVIDERS[name], fake) as reader:
        assert (await reader.look(a_look(sent(1)), Kept().keep)).incomplete == "connection_lost"
        assert await reader.probe() == "connection_lost"


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_provider_that_hangs_is_given_up(name: str, autojump_clock: object) -> None:
    async def hangs(_request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError

    found = await looked_through(PROVIDERS[name], hangs, a_look(sent(1)), Kept())
    assert found.incomplete == "timeout"


@pytest.mark.parametrize(
    ("status", "incomplete"),
    [
        (200, "unreadable:200"),
        (204, "unreadable:204"),
        (302, "not_the_provider:302"),
        (403, "blocked:403"),
        (404, "not_the_provider:404"),
        (429, "rate_limited:429"),
        (500, "server_error:500"),
        (502, "server_error:502"),
        (511, "not_the_provider:511"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>Log in, please</html>", b"[]", b"{}", b'{"message": 1}'])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_whoever_answers_in_the_providers_place_tells_nothing(
    name: str, status: int, body: bytes, incomplete: str
) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body, headers={"Content-Type": "text/html", "Retry-After": "7200"})

    kept = Kept()
    assert await looked_through(PROVIDERS[name], respond, a_look(sent(1)), kept) == Looked(incomplete)
    assert kept.verdicts == {}


# Anything at all ------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("Bounces", "TotalCount", "MessageID", "Type", "Email", "BouncedAt", "Details", "ErrorCode", "Message"),
        *("data", "has_more", "id", "last_event", "to", "created_at", "email_id", "bounced_permanent", "name"),
        *("Messages", "Body", "ReceiptHandle", "mail", "messageId", "eventType", "headers", "bounce", "Successful"),
        *("Insights", "Events", "Details", "Bounce", "EnforcementStatus", "__type", "bouncedRecipients", "status"),
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
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda found: json.dumps(found).encode()),
    st.fixed_dictionaries({"TotalCount": JSON, "Bounces": JSON}).map(lambda found: json.dumps(found).encode()),
    st.fixed_dictionaries({"data": JSON, "has_more": JSON}).map(lambda found: json.dumps(found).encode()),
    st.fixed_dictionaries({"Insights": JSON}).map(lambda found: json.dumps(found).encode()),
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
    """Whether an answer has the shape of the provider's."""
    if status != 200 or not isinstance(found, dict):
        return status == 404 and headers.get("x-amzn-errortype") == "NotFoundException"
    match name:
        case "postmark":
            return isinstance(found.get("Bounces"), list) and isinstance(found.get("TotalCount"), int)
        case "resend":
            return isinstance(found.get("data"), list) and isinstance(found.get("has_more"), bool)
        case "ses, queue":
            return "application/x-amz-json-1.0" in headers.get("content-type", "")
        case _:
            return isinstance(found.get("Insights"), list)


@pytest.mark.parametrize("name", PROVIDERS)
def test_no_answer_raises_and_only_the_providers_own_completes_a_look(name: str) -> None:
    """Nor does the one reader of answers have anything to catch."""

    @settings(max_examples=40)
    @given(st.lists(st.tuples(STATUSES, HEADERS, BODIES), min_size=1, max_size=3))
    def any_answers(answers: list[tuple[int, list[tuple[str, str]], bytes]]) -> None:
        turns = iter(answers)
        own: list[bool] = []

        def respond(request: httpx.Request) -> httpx.Response:
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

    @given(st.integers(0, 3000))
    def cut(length: int) -> None:
        kept, cuts = Kept(), []

        def respond(request: httpx.Request) -> httpx.Response:
            fake.later()
            status, headers, body = fake.answer(
                request.method, request.url.raw_path.decode(), dict(request.headers), request.content
            )
            is_page = request.url.path not in {"/v2/email/account", "/emails/metrics"}
            cuts.append(is_page and length < len(body))
            return httpx.Response(status, headers=headers, content=body[:length] if is_page else body)

        found = trio.run(looked_through, provider, respond, a_look(sent(1)), kept)
        if any(cuts[:1]):
            assert found.incomplete == "unreadable:200"
            assert kept.verdicts == {}

    cut()


ODD = st.sampled_from(["x@", "a" * 318 + "@b", "a" * 330 + "@b", "taro", "taro@exa\nmple.jp", 5, None, ["a@b"]])


@pytest.mark.parametrize("name", PROVIDERS)
@given(address=st.text(max_size=400) | ODD)
def test_an_address_is_kept_only_if_it_is_one(name: str, address: Any) -> None:
    provider = PROVIDERS[name]
    fake, kept = provider.fake(), Kept()
    fake.add(UUID(int=1), sent_id(0), address, MailStatus.BOUNCED, "5.1.1", NOW - timedelta(hours=1))

    def respond(request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        status, headers, body = fake.answer(request.method, target, dict(request.headers), request.content)
        return httpx.Response(status, headers=headers, content=body)

    assert trio.run(looked_through, provider, respond, a_look(sent(1)), kept) == Looked()
    fits = isinstance(address, str) and "@" in address and len(address) <= 320 and address.isprintable()
    assert kept.verdicts == {
        UUID(int=1): Verdict(
            UUID(int=1), MailStatus.BOUNCED, "5.1.1" if provider.gives_codes else "", address if fits else ""
        )
    }


@pytest.mark.parametrize("name", PROVIDERS)
async def test_nothing_personal_shows_in_a_verdict_or_a_look(name: str) -> None:
    provider = PROVIDERS[name]
    fake, kept = provider.fake(), Kept()
    Event(0, MailStatus.BOUNCED, 0).happen(fake)
    look = a_look(sent(1))
    with capture_logs() as lines:
        await looked_at(provider, fake, look, kept)
    assert ADDRESS not in f"{look} {kept.verdicts} {lines}"
