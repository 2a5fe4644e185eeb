"""Gmail's bounce mails: the search, the scope, and what the API's errors mean."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs
from uuid import UUID

import httpx
import pytest
from trio.testing import MockClock

from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback.gmail import SCOPE, GmailFeedback
from tests.support.feedback_servers.fake import transport
from tests.support.feedback_servers.gmail import FakeGmail
from tests.support.google_api import gmail_settings, google_error

NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
LATER = NINE + timedelta(hours=1)
ONE, TWO = UUID(int=1), UUID(int=2)
BASE = "https://gmail.example"


async def look(
    answer: httpx.MockTransport, unknown: frozenset[UUID] = frozenset()
) -> tuple[Looked, list[Verdict], str]:
    kept: list[Verdict] = []

    async def keep(verdicts: Sequence[Verdict]) -> None:
        kept.extend(verdicts)

    config = gmail_settings(base_url=BASE, token_url=f"{BASE}/token", feedback=True)
    async with open_client(width=1, transport=answer) as client:
        reader = GmailFeedback(client, config, now=lambda: LATER)
        looked = await reader.look(Look(NINE, LATER, {"19a": ONE}, unknown), keep)
        return looked, kept, await reader.probe()


async def test_the_requests(autojump_clock: MockClock) -> None:
    fake = FakeGmail()
    fake.add(ONE, "19a", "taro1@example.jp", MailStatus.BOUNCED, "", LATER)
    assert await look(transport(fake)) == (
        Looked(),
        [Verdict(ONE, MailStatus.BOUNCED, "5.1.1", "taro1@example.jp")],
        "",
    )
    token, search, mail, _probe = fake.seen
    assert token[:2] == ("POST", "/token")
    query = parse_qs(search[1].removeprefix("/gmail/v1/users/me/messages?"))
    assert search[0] == "GET"
    assert query == {
        "q": ["{from:mailer-daemon from:postmaster} after:1795478399 before:1795482001 smaller:700000"],
        "maxResults": ["100"],
        "includeSpamTrash": ["true"],
    }
    assert mail[:2] == ("GET", "/gmail/v1/users/me/messages/m0?format=raw")


async def test_a_lost_answer_of_a_mail_that_bounced_is_settled_by_its_bounce(autojump_clock: MockClock) -> None:
    fake = FakeGmail()
    fake.add(TWO, "", "taro2@example.jp", MailStatus.REFUSED, "5.2.2", LATER)
    fake.add(UUID(int=3), "", "taro3@example.jp", MailStatus.BOUNCED, "", LATER)
    _, kept, _ = await look(transport(fake), frozenset({TWO}))
    assert kept == [Verdict(TWO, MailStatus.REFUSED, "5.2.2", "taro2@example.jp")]


async def test_a_delegation_without_the_scope_is_named(autojump_clock: MockClock) -> None:
    fake = FakeGmail(scope_granted=False)
    assert await look(transport(fake)) == (Looked("token_blocked:401"), [], "token_blocked:401")


async def test_the_token_is_for_reading_alone(autojump_clock: MockClock) -> None:
    fake = FakeGmail()
    await look(transport(fake))
    (assertion,) = parse_qs(fake.seen[0][2].decode())["assertion"]
    claims = httpx.Response(200, content=_unpadded(assertion.split(".")[1])).json()
    assert claims["scope"] == SCOPE == "https://www.googleapis.com/auth/gmail.readonly"


def _unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_a_mail_that_was_deleted_meanwhile_is_skipped(autojump_clock: MockClock) -> None:
    fake = FakeGmail()
    fake.add(ONE, "19a", "taro1@example.jp", MailStatus.BOUNCED, "", LATER)
    fake.add(ONE, "19a", "taro1@example.jp", MailStatus.DELAYED, "", NINE)
    inner = transport(fake).handler

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/m0"):
            return google_error(404, "notFound")
        found = inner(request)
        assert isinstance(found, httpx.Response)
        return found

    looked, kept, _ = await look(httpx.MockTransport(answer))
    assert looked == Looked()
    assert [verdict.status for verdict in kept] == [MailStatus.DELAYED]


async def test_a_mail_from_a_stranger_changes_nothing(autojump_clock: MockClock) -> None:
    """Neither one that is no notification, nor one that was made to confuse."""
    fake = FakeGmail()
    fake.receive(b"From: mailer-daemon@example.com\r\n\r\nOut of office", LATER)
    fake.receive(b"Content-Type: multipart/report; report-type=delivery-status; boundary*" + b"9" * 5000, LATER)
    fake.receive(b"\xff\xfe\x00" * 100, LATER)
    fake.add(ONE, "19a", "taro1@example.jp", MailStatus.BOUNCED, "", NINE)
    looked, kept, _ = await look(transport(fake))
    assert looked == Looked()
    assert [verdict.delivery_id for verdict in kept] == [ONE]


async def test_what_was_read_before_a_failure_is_kept(autojump_clock: MockClock) -> None:
    fake = FakeGmail()
    fake.add(ONE, "19a", "taro1@example.jp", MailStatus.BOUNCED, "", LATER)
    fake.add(TWO, "", "taro2@example.jp", MailStatus.BOUNCED, "", NINE)
    fake.cut_after(3)
    looked, kept, _ = await look(transport(fake), frozenset({TWO}))
    assert looked == Looked("connection_lost")
    assert [verdict.delivery_id for verdict in kept] == [ONE]


@pytest.mark.parametrize(
    ("answer", "incomplete"),
    [
        (google_error(401, "authError"), "blocked:401"),
        (google_error(403, "insufficientPermissions"), "no_right:403:gmail.readonly"),
        (google_error(403, "rateLimitExceeded"), "rate_limited:403"),
        (google_error(429, "userRateLimitExceeded"), "rate_limited:429"),
        (google_error(403, "dailyLimitExceeded"), "quota:403"),
        (google_error(400, "invalidArgument"), "unexpected:400"),
        (google_error(404, "notFound"), "unexpected:404"),
        (google_error(500, "backendError"), "server_error:500"),
        (httpx.Response(200, json={}), "unreadable:200"),
        (httpx.Response(200, json={"messages": 7}), "unreadable:200"),
        (httpx.Response(200, json={"messages": [{}]}), "unreadable:200"),
        (httpx.Response(200, json={"messages": [{"id": "../../other"}]}), "unreadable:200"),
        (httpx.Response(200, json={"messages": [], "nextPageToken": 7}), "unreadable:200"),
    ],
)
async def test_an_answer_that_is_no_page(answer: httpx.Response, incomplete: str) -> None:
    def give(request: httpx.Request) -> httpx.Response:
        token = {"access_token": "t1", "expires_in": 3599}
        return httpx.Response(200, json=token) if request.url.path == "/token" else answer

    assert await look(httpx.MockTransport(give)) == (Looked(incomplete), [], incomplete)


@pytest.mark.parametrize("raw", ["", "x", "é", None, 7])
async def test_a_mail_that_cannot_be_decoded_makes_the_look_incomplete(raw: object, autojump_clock: MockClock) -> None:
    def give(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json={"access_token": "t1", "expires_in": 3599})
        return httpx.Response(200, json={"messages": [{"id": "m1"}], "raw": raw})

    looked, kept, _ = await look(httpx.MockTransport(give))
    assert (looked, kept) == (Looked("unreadable:200"), [])


async def test_a_token_that_was_turned_away_is_replaced_by_the_next_request(autojump_clock: MockClock) -> None:
    tokens: list[int] = []

    def give(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            tokens.append(1)
            return httpx.Response(200, json={"access_token": f"t{len(tokens)}", "expires_in": 3599})
        is_good = request.headers["authorization"] == "Bearer t2"
        return httpx.Response(200, json={"resultSizeEstimate": 0}) if is_good else google_error(401, "authError")

    assert await look(httpx.MockTransport(give)) == (Looked("blocked:401"), [], "")
