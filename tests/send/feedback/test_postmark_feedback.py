"""Postmark's bounces: their types, their times, and lists that are longer than Postmark lets anybody page through."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from postmark import ServerClient
from postmark.models.bounces.enums import BounceType
from postmark.models.bounces.schemas import BouncesListResponse

from notifierd.config.providers import PostmarkSettings
from notifierd.demo.servers.feedback import postmark as fake_module
from notifierd.demo.servers.feedback.postmark import FakePostmark
from notifierd.demo.servers.http11 import Request
from notifierd.model.feedback import MailStatus
from notifierd.send._http import open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback import postmark as reader_module
from notifierd.send.feedback.postmark import PAGE, PostmarkFeedback
from tests.support.feedback import NOW, PROVIDERS, SINCE, Kept, a_look, looked_at, looked_through, reading
from tests.support.providers import made_by

PROVIDER = PROVIDERS["postmark"]
OURS = {"id-1": UUID(int=1)}
AT = NOW - timedelta(hours=1)

NO_FAILURES = {
    *("AutoResponder", "AddressChange", "ChallengeVerification", "Subscribe", "Unsubscribe", "OpenRelayTest"),
    *("Unconfirmed", "InboundError", "SMTPApiError", "TemplateRenderingFailed", "SomethingNew"),
}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("HardBounce", MailStatus.BOUNCED),
        ("BadEmailAddress", MailStatus.BOUNCED),
        ("SoftBounce", MailStatus.REFUSED),
        ("Blocked", MailStatus.REFUSED),
        ("SpamNotification", MailStatus.REFUSED),
        ("DMARCPolicy", MailStatus.REFUSED),
        ("VirusNotification", MailStatus.REFUSED),
        ("Unknown", MailStatus.REFUSED),
        ("ManuallyDeactivated", MailStatus.SUPPRESSED),
        ("SpamComplaint", MailStatus.COMPLAINED),
        ("Transient", MailStatus.DELAYED),
        ("DnsError", MailStatus.DELAYED),
        *((kind, None) for kind in sorted(NO_FAILURES)),
    ],
)
async def test_what_a_type_means(kind: str, status: MailStatus | None) -> None:
    fake, kept = FakePostmark(), Kept()
    fake.add_bounce("id-1", "taro@example.jp", kind, 1, "", AT)
    assert await looked_at(PROVIDER, fake, a_look(OURS), kept) == Looked()
    assert kept.statuses == ({UUID(int=1): status} if status else {})


def test_every_type_that_postmarks_client_knows_has_its_row() -> None:
    (mark,) = test_what_a_type_means.pytestmark  # type: ignore[attr-defined]
    assert {one.value for one in BounceType} <= {kind for kind, _ in mark.args[1]}


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("HardBounce", "5.7.1", MailStatus.REFUSED),
        ("HardBounce", "5.2.2", MailStatus.REFUSED),
        ("SoftBounce", "5.2.2", MailStatus.REFUSED),
        ("SoftBounce", "5.1.1", MailStatus.BOUNCED),
        ("Unknown", "5.1.1", MailStatus.BOUNCED),
        ("Blocked", "5.1.1", MailStatus.REFUSED),
    ],
)
async def test_the_code_of_a_bounce_says_whether_it_is_about_the_address(
    kind: str, code: str, status: MailStatus
) -> None:
    fake, kept = FakePostmark(), Kept()
    fake.add_bounce("id-1", "taro@example.jp", kind, 1, code, AT)
    await looked_at(PROVIDER, fake, a_look(OURS), kept)
    (found,) = kept.verdicts.values()
    assert (found.status, found.code) == (status, code)


FURTHEST = 1_000
"""Instead of Postmark's 10,000, for both sides: the pages are of the same size, and there are fewer."""


@pytest.fixture
def _shorter_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "FURTHEST", FURTHEST)
    monkeypatch.setattr(fake_module, "_FURTHEST", FURTHEST)


@pytest.mark.usefixtures("_shorter_list")
async def test_a_day_of_bounces_is_read_to_its_end() -> None:
    """Postmark lets nobody page beyond FURTHEST; a bounce of the last second before is read twice, and none lost."""
    fake, kept = FakePostmark(), Kept()
    sent = {f"id-{number}": UUID(int=number) for number in range(2_100)}
    for number, sent_id in enumerate(sent):
        fake.add_bounce(sent_id, "taro@example.jp", "HardBounce", 1, "5.1.1", AT + timedelta(seconds=number // 40))
    seen: list[Request] = []
    async with reading(PROVIDER, fake, seen=seen) as reader:
        assert await reader.look(a_look(sent), kept.keep) == Looked()
    assert len(kept.verdicts) == 2_100
    assert FURTHEST / PAGE + 2 < len(seen) < 2_100 / PAGE + 4


@pytest.mark.usefixtures("_shorter_list")
async def test_more_bounces_in_one_second_than_can_be_paged_make_the_look_incomplete() -> None:
    fake, kept = FakePostmark(), Kept()
    for number in range(2 * FURTHEST + 100):
        fake.add_bounce(f"id-{number}", "taro@example.jp", "HardBounce", 1, "5.1.1", AT)
    assert await looked_at(PROVIDER, fake, a_look(OURS), kept) == Looked("too_many")


async def test_a_page_that_is_too_long_is_asked_for_again_in_parts() -> None:
    """The client reads a megabyte: 200 bounces whose details have 10 kB do not fit."""
    fake, kept = FakePostmark(), Kept()
    sent = {f"id-{number}": UUID(int=number) for number in range(300)}
    for sent_id in sent:
        fake.add_bounce(sent_id, "taro@example.jp", "HardBounce", 1, "5.1.1", AT)
        fake.bounces[-1]["Details"] += "x" * 10_000
    assert await looked_at(PROVIDER, fake, a_look(sent), kept) == Looked()
    assert len(kept.verdicts) == 300


async def test_one_bounce_that_is_too_long_makes_the_look_incomplete() -> None:
    fake, kept = FakePostmark(), Kept()
    fake.add_bounce("id-1", "taro@example.jp", "HardBounce", 1, "x" * 2**20, AT)
    assert await looked_at(PROVIDER, fake, a_look(OURS), kept) == Looked("unreadable")


async def test_a_list_without_end_is_given_up() -> None:
    fake = FakePostmark()
    fake.add_bounce("id-9", "taro@example.jp", "HardBounce", 1, "", AT)
    page = {"TotalCount": 10**9, "Bounces": fake.bounces * PAGE}
    found = await looked_through(PROVIDER, lambda _: httpx.Response(200, json=page), a_look(OURS), Kept())
    assert found == Looked("too_many")


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-23T22:00:00", "soon", None, 5]
)
async def test_a_long_list_whose_times_are_odd_makes_the_look_incomplete(at: object) -> None:
    fake = FakePostmark()
    fake.add_bounce("id-9", "taro@example.jp", "HardBounce", 1, "", AT)
    page = {"TotalCount": 20_000, "Bounces": [{**fake.bounces[0], "BouncedAt": at}] * PAGE}
    found = await looked_through(PROVIDER, lambda _: httpx.Response(200, json=page), a_look(OURS), Kept())
    assert found == Looked("too_many")


async def test_bounces_that_are_removed_meanwhile_make_the_look_incomplete() -> None:
    """Those behind them move up, past the offset of the next page."""
    fake, kept = FakePostmark(), Kept()
    for number in range(PAGE + 50):
        fake.add_bounce(f"id-{number}", "taro@example.jp", "HardBounce", 1, "", AT)

    def respond(request: httpx.Request) -> httpx.Response:
        status, headers, body = fake.answer("GET", request.url.raw_path.decode(), dict(request.headers), b"")
        del fake.bounces[:10]
        return httpx.Response(status, headers=headers, content=body)

    assert await looked_through(PROVIDER, respond, a_look(OURS), kept) == Looked("unreadable")


@given(
    st.integers(0, 730 * 24 * 60).map(lambda minutes: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
    st.timedeltas(timedelta(0), timedelta(days=2)),
    st.floats(0, 1),
)
def test_no_bounce_is_outside_the_times_that_are_asked_for(since: datetime, span: timedelta, share: float) -> None:
    """Times have no offset, and in autumn one hour occurs twice: it may be read as either."""
    fake, kept = FakePostmark(), Kept()
    fake.add_bounce("id-1", "taro@example.jp", "HardBounce", 1, "", since + share * span)
    look = Look(since, since + span, OURS)
    assert trio.run(looked_at, PROVIDER, fake, look, kept) == Looked()
    assert len(kept.verdicts) == 1


@pytest.mark.parametrize(
    ("at", "fromdate", "todate"),
    [
        (datetime(2026, 7, 1, 3, 0, tzinfo=UTC), "2026-06-30T23:00:00", "2026-06-30T23:00:01"),
        (datetime(2026, 11, 24, 3, 0, 0, 999_999, tzinfo=UTC), "2026-11-23T22:00:00", "2026-11-23T22:00:01"),
        (datetime(2026, 11, 1, 5, 30, tzinfo=UTC), "2026-11-01T00:30:00", "2026-11-01T02:30:01"),
        (datetime(2026, 11, 1, 6, 30, tzinfo=UTC), "2026-11-01T00:30:00", "2026-11-01T02:30:01"),
    ],
)
async def test_times_are_those_of_new_york(at: datetime, fromdate: str, todate: str) -> None:
    fake, seen = FakePostmark(), list[Request]()
    async with reading(PROVIDER, fake, seen=seen) as reader:
        await reader.look(Look(at, at, {}), Kept().keep)
    query = parse_qs(urlsplit(seen[0].target).query)
    assert (query["fromdate"], query["todate"]) == ([fromdate], [todate])


# Postmark's own client ------------------------------------------------------------------------------------------------


async def test_the_call_is_the_one_that_postmarks_client_makes() -> None:
    answer = {"TotalCount": 0, "Bounces": []}

    async def call(url: str) -> None:
        async with ServerClient(FakePostmark.key, retries=0, base_url=url) as client:
            await client.bounces.list(
                count=PAGE,
                offset=0,
                from_date=datetime(2026, 11, 20, 22, 0, tzinfo=UTC),  # it leaves the zone out
                to_date=datetime(2026, 11, 23, 22, 0, 1, tzinfo=UTC),
                message_stream="outbound",
            )

    keep = ("x-postmark-server-token", "accept")
    made = await made_by(lambda url: asyncio.run(call(url)), answer, keep, str)
    fake, seen = FakePostmark(), list[Request]()
    async with reading(PROVIDER, fake, seen=seen) as reader:
        await reader.look(Look(SINCE, NOW, {}), Kept().keep)
    (request,) = seen
    assert (request.method, request.body) == ("GET", b"")
    assert sorted(parse_qs(urlsplit(request.target).query).items()) == sorted(
        parse_qs(urlsplit(made.path).query).items()
    )
    assert urlsplit(request.target).path == urlsplit(made.path).path
    assert {name: request.headers[name] for name in made.headers} == made.headers


def test_postmarks_client_reads_what_the_tests_answer() -> None:
    fake = FakePostmark()
    for number, status in enumerate(MailStatus):
        fake.add(UUID(int=1), f"id-{number}", "taro@example.jp", status, "5.1.1", AT)
    headers = {"x-postmark-server-token": FakePostmark.key}
    _, _, body = fake.answer("GET", "/bounces?count=10&offset=0", headers, b"")
    found = BouncesListResponse(**json.loads(body))
    assert [one.message_id for one in found.bounces] == ["id-0", "id-2", "id-3", "id-4", "id-5"]


async def test_the_servers_token_asks_unless_there_is_another() -> None:
    tokens: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        tokens.append(request.headers["x-postmark-server-token"])
        return httpx.Response(200, json={"TotalCount": 0, "Bounces": []})

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        for key in ("", "another"):
            settings = PostmarkSettings(server_token="first", feedback_key=key, message_stream="")
            assert await PostmarkFeedback(client, settings, now=lambda: NOW).probe() == ""
    assert tokens == ["first", "another"]
