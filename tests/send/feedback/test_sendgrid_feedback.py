"""SendGrid's email logs: slices of time, complaints, and what a status means."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from trio.testing import MockClock

from notifierd.config.providers import SendgridSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback.sendgrid import SendgridFeedback
from tests.support.feedback_servers.fake import transport
from tests.support.feedback_servers.sendgrid import FakeSendgrid

NINE = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)
LATER = NINE + timedelta(hours=1)
SETTINGS = SendgridSettings(api_key="SG.sending", feedback_key=FakeSendgrid.key)
ONE, TWO = UUID(int=1), UUID(int=2)
SENT = {"Xj5LmNkWSOqRbdvOpR34BA": ONE, "14c5d75ce93.dfd.64b469": TWO}


async def look(answer: httpx.MockTransport, sent: Mapping[str, UUID] = SENT) -> tuple[Looked, list[Verdict]]:
    kept: list[Verdict] = []

    async def keep(verdicts: Sequence[Verdict]) -> None:
        kept.extend(verdicts)

    async with open_client(width=1, transport=answer) as client:
        reader = SendgridFeedback(client, SETTINGS, now=lambda: LATER)
        return await reader.look(Look(NINE, LATER, sent), keep), kept


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "from_email": "no-reply@example.jp",
        "sg_message_id": "Xj5LmNkWSOqRbdvOpR34BA.recvd-85abf8d92c-3qfgp-2-7890E356-43C.1",
        "subject": "期限",
        "to_email": "taro1@example.jp",
        "status": "bounced",
        "sg_message_id_created_at": "2026-11-24T00:10:00Z",
    } | changes


def logs(*entries: object) -> httpx.MockTransport:
    """Answer the first query with *entries*; nobody complained."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"messages": entries} if request.method == "POST" else [])

    return httpx.MockTransport(answer)


async def test_the_requests(autojump_clock: MockClock) -> None:
    """Mails of four days before, because a mail may fail as late as that."""
    fake = FakeSendgrid()
    assert await look(transport(fake)) == (Looked(), [])
    (logs, reports) = fake.seen
    assert logs[:2] == ("POST", "/v3/logs")
    assert json.loads(logs[2]) == {
        "query": "status IN ('bounced', 'blocked', 'dropped')"
        ' AND sg_message_id_created_at >= TIMESTAMP "2026-11-20T00:00:00Z"'
        ' AND sg_message_id_created_at < TIMESTAMP "2026-11-24T01:00:01Z"',
        "limit": 500,
    }
    assert reports[:2] == (
        "GET",
        "/v3/suppression/spam_reports?start_time=1795478400&end_time=1795482001&limit=200",
    )


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({}, MailStatus.BOUNCED, ""),
        ({"reason": "550 5.1.1 taro1@example.jp is unknown"}, MailStatus.BOUNCED, "5.1.1"),
        ({"reason": "550-5.1.10 recipient not found"}, MailStatus.BOUNCED, "5.1.10"),
        ({"reason": "554 5.7.1 from 10.5.1.1 refused"}, MailStatus.REFUSED, "5.7.1"),
        ({"reason": "550 no such user at 5.1.1.1"}, MailStatus.BOUNCED, ""),
        ({"reason": "5.0.0 odd"}, MailStatus.BOUNCED, "5.0.0"),
        ({"reason": ["550 5.7.1"]}, MailStatus.BOUNCED, ""),
        ({"status": "blocked"}, MailStatus.REFUSED, ""),
        ({"status": "blocked", "reason": "452 4.2.2 full"}, MailStatus.REFUSED, "4.2.2"),
        ({"status": "blocked", "reason": "550 5.1.1 unknown"}, MailStatus.BOUNCED, "5.1.1"),
        ({"status": "dropped", "reason": "Bounced Address"}, MailStatus.SUPPRESSED, ""),
        ({"status": "dropped", "reason": "spam reporting address "}, MailStatus.SUPPRESSED, ""),
        ({"status": "dropped", "reason": "Unsubscribed Address"}, MailStatus.SUPPRESSED, ""),
        ({"status": "dropped", "reason": "Invalid"}, MailStatus.SUPPRESSED, ""),
        ({"status": "dropped", "reason": "Invalid SMTPAPI header"}, MailStatus.REFUSED, ""),
        ({"status": "dropped", "reason": "Spam Content"}, MailStatus.REFUSED, ""),
        ({"status": "dropped"}, MailStatus.REFUSED, ""),
    ],
)
async def test_what_a_status_means(
    changes: dict[str, Any], status: MailStatus, code: str, autojump_clock: MockClock
) -> None:
    assert await look(logs(entry(**changes))) == (Looked(), [Verdict(ONE, status, code, "taro1@example.jp")])


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "delivered"},
        {"status": "processed"},
        {"status": "of tomorrow"},
        {"status": None},
        {"sg_message_id": "another.recvd-1.0"},
        {"sg_message_id": "Xj5LmNkWSOqRbdvOpR34BAA.recvd-1.0"},
        {"sg_message_id": "x" * 1000},
        {"sg_message_id": 7},
    ],
)
async def test_an_entry_that_tells_nothing_of_our_mails_is_skipped(
    changes: dict[str, Any], autojump_clock: MockClock
) -> None:
    assert await look(logs(entry(**changes))) == (Looked(), [])


@pytest.mark.parametrize("named", ["14c5d75ce93.dfd.64b469", "14c5d75ce93.dfd.64b469.filter-147.22649.52A663508.0"])
async def test_the_id_of_an_answer_may_have_dots(named: str, autojump_clock: MockClock) -> None:
    (verdict,) = (await look(logs(entry(sg_message_id=named))))[1]
    assert verdict.delivery_id == TWO


async def test_a_slice_with_more_than_an_answer_holds_is_halved(autojump_clock: MockClock) -> None:
    """1,700 failures within 20 minutes."""
    fake = FakeSendgrid()
    sent = {f"m{number}": UUID(int=number) for number in range(1700)}
    for named, delivery_id in sent.items():
        at = NINE + timedelta(seconds=delivery_id.int * 0.7)
        fake.add(delivery_id, named, f"taro{named}@example.jp", MailStatus.BOUNCED, "5.1.1", at)
    looked, kept = await look(transport(fake), sent)
    assert looked == Looked()
    assert {verdict.delivery_id for verdict in kept} == set(sent.values())
    assert len(fake.seen) < 40


async def test_an_answer_that_is_too_long_is_asked_for_in_halves(autojump_clock: MockClock) -> None:
    """400 entries of 6 kB each are more than a megabyte."""
    fake = FakeSendgrid()
    sent = {f"m{number}": UUID(int=number) for number in range(400)}
    for named, delivery_id in sent.items():
        at = NINE + timedelta(seconds=delivery_id.int)
        fake.add(delivery_id, named, f"taro{named}@example.jp", MailStatus.BOUNCED, "5.1.1 " + "x" * 6000, at)
    looked, kept = await look(transport(fake), sent)
    assert looked == Looked()
    assert {verdict.delivery_id for verdict in kept} == set(sent.values())


async def test_answers_that_stay_too_long_end_the_look(autojump_clock: MockClock) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, content=b" " * 1_100_000)

    assert await look(httpx.MockTransport(answer)) == (Looked("unreadable"), [])
    assert len(requests) == 21


async def test_a_second_with_more_than_an_answer_holds_makes_the_look_incomplete(autojump_clock: MockClock) -> None:
    """What an answer holds is kept, and so are the failures of other seconds."""
    fake = FakeSendgrid()
    sent = {f"m{number}": UUID(int=number) for number in range(702)}
    for named, delivery_id in sent.items():
        at = NINE + timedelta(seconds={700: 600, 701: 1200}.get(delivery_id.int, 900))
        fake.add(delivery_id, named, f"taro{named}@example.jp", MailStatus.BOUNCED, "5.1.1", at)
    looked, kept = await look(transport(fake), sent)
    assert looked == Looked("too_many")
    found = {verdict.delivery_id.int for verdict in kept}
    assert {700, 701} <= found
    assert len(found) >= 502
    assert len(fake.seen) < 60


async def test_a_complaint_is_found_by_its_address(autojump_clock: MockClock) -> None:
    """Of two mails to the address, one was reported; a third one is of another application."""
    fake = FakeSendgrid()
    sent = {"m1": ONE, "m2": TWO}
    for number, named in enumerate(("m1", "m2", "m3"), 1):
        fake.add(UUID(int=number), named, "taro@example.jp", MailStatus.DELIVERED, "", NINE - timedelta(days=9))
    fake.add(TWO, "m2", "taro@example.jp", MailStatus.COMPLAINED, "", NINE + timedelta(minutes=1))
    assert await look(transport(fake), sent) == (
        Looked(),
        [Verdict(TWO, MailStatus.COMPLAINED, "", "taro@example.jp")],
    )
    details = [target for method, target, _ in fake.seen if method == "GET" and target.startswith("/v3/logs/")]
    assert len(details) == 2


@pytest.mark.parametrize("email", ['"@example.jp', "a' OR 1=1@x\"y", "taro", 7, "taro\\@example.jp"])
async def test_an_address_that_cannot_stand_in_a_query_is_skipped(email: object, autojump_clock: MockClock) -> None:
    queries: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            queries.append(json.loads(request.content)["query"])
            return httpx.Response(200, json={"messages": []})
        return httpx.Response(200, json=[{"created": 1795478401, "email": email}])

    assert await look(httpx.MockTransport(answer)) == (Looked(), [])
    assert len(queries) == 1


async def test_more_complaints_than_a_look_reads_make_it_incomplete(autojump_clock: MockClock) -> None:
    fake = FakeSendgrid()
    for number in range(205):
        fake.add(UUID(int=number), f"m{number}", f"taro{number}@example.jp", MailStatus.COMPLAINED, "", NINE)
    looked, kept = await look(transport(fake), {"m3": UUID(int=3)})
    assert looked == Looked("too_many")
    assert [verdict.delivery_id for verdict in kept] == [UUID(int=3)]


@pytest.mark.parametrize(
    ("answer", "incomplete"),
    [
        (httpx.Response(401, json={"errors": [{"message": "invalid"}]}), "blocked:401"),
        (httpx.Response(403, json={"errors": [{"message": "access forbidden"}]}), "no_right:403:email_activity"),
        (httpx.Response(400, json={"errors": [{"message": "bad query"}]}), "unexpected:400"),
        (httpx.Response(404, json={"errors": [{"message": "not found"}]}), "unexpected:404"),
        (httpx.Response(429, json={"errors": [{"message": "too many requests"}]}), "rate_limited:429"),
        (httpx.Response(200, json={"messages": None}), "unreadable:200"),
        (httpx.Response(200, json={"messages": [7]}), "unreadable:200"),
    ],
)
async def test_an_answer_that_is_no_list(answer: httpx.Response, incomplete: str) -> None:
    assert await look(httpx.MockTransport(lambda _request: answer)) == (Looked(incomplete), [])


async def test_a_key_that_may_not_read_complaints_still_tells_failures(autojump_clock: MockClock) -> None:
    """Which right is missing is said by the look and by the probe."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"messages": [entry()]})
        return httpx.Response(403, json={"errors": [{"message": "access forbidden"}]})

    looked, kept = await look(httpx.MockTransport(answer))
    assert looked == Looked("no_right:403:suppressions")
    assert [verdict.status for verdict in kept] == [MailStatus.BOUNCED]
    async with open_client(width=1, transport=httpx.MockTransport(answer)) as client:
        assert await SendgridFeedback(client, SETTINGS, now=lambda: LATER).probe() == "no_right:403:suppressions"
