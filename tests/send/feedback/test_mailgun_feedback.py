"""Mailgun's logs: the request, and what its events mean."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from mailgun.client import Client as VendorClient
from trio.testing import MockClock

from notifierd.config.providers import MailgunSettings
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback.mailgun import MailgunFeedback
from tests.support.feedback_servers.fake import transport
from tests.support.feedback_servers.mailgun import DOMAIN, FakeMailgun
from tests.support.providers import made_by, made_here

NINE = datetime(2026, 11, 24, 0, 0, 0, 300_000, tzinfo=UTC)
LATER = NINE + timedelta(hours=1)
SETTINGS = MailgunSettings(api_key="sending-key", feedback_key=FakeMailgun.key, domain=DOMAIN)
ONE, TWO = UUID(int=1), UUID(int=2)
SENT = {"<20261124000000.abc@mg.example.jp>": ONE, f"<{TWO}@example.jp>": TWO}


async def look(
    answer: httpx.MockTransport, sent: Mapping[str, UUID] = SENT, unknown: frozenset[UUID] = frozenset()
) -> tuple[Looked, list[Verdict]]:
    kept: list[Verdict] = []

    async def keep(verdicts: Sequence[Verdict]) -> None:
        kept.extend(verdicts)

    async with open_client(width=1, transport=answer) as client:
        reader = MailgunFeedback(client, SETTINGS, now=lambda: LATER)
        return await reader.look(Look(NINE, LATER, sent, unknown), keep), kept


def event(named: str = "20261124000000.abc@mg.example.jp", **changes: Any) -> dict[str, Any]:
    return {
        "id": "e1",
        "event": "failed",
        "severity": "permanent",
        "reason": "bounce",
        "@timestamp": "2026-11-24T00:10:00.000Z",
        "domain": {"name": DOMAIN},
        "recipient": "taro1@example.jp",
        "message": {"headers": {"message-id": named}},
        "delivery-status": {"code": 550, "bounce-type": "hard", "message": "taro1@example.jp is gone"},
    } | changes


def page(*events: object, **paging: str) -> httpx.MockTransport:
    found = json.dumps({"start": "", "end": "", "items": events, "pagination": paging})
    return httpx.MockTransport(lambda _request: httpx.Response(200, content=found.encode()))


async def test_the_request_is_the_one_that_mailguns_own_client_makes() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"items": [], "pagination": {}})

    assert await look(httpx.MockTransport(answer)) == (Looked(), [])
    (request,) = seen
    assert str(request.url) == "https://api.mailgun.net/v1/analytics/logs"
    assert json.loads(request.content) == {
        "start": "Tue, 24 Nov 2026 00:00:00 +0000",
        "end": "Tue, 24 Nov 2026 01:00:01 +0000",
        "events": ["complained", "delivered", "failed", "rejected"],
        "filter": {"AND": [{"attribute": "domain", "comparator": "=", "values": [{"label": DOMAIN, "value": DOMAIN}]}]},
        "pagination": {"sort": "timestamp:asc", "limit": 100},
    }
    body = request.content.decode()

    def send(base: str) -> None:
        with VendorClient(auth=("api", FakeMailgun.key), api_url=base) as client:
            client.analytics_logs.create(data=body, headers={"Content-Type": "application/json"})

    keep = ("authorization", "content-type")
    theirs = await made_by(send, {"items": []}, keep, json.loads)
    assert made_here(request, keep, json.loads) == theirs


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({}, MailStatus.BOUNCED, ""),
        ({"delivery-status": {"code": 550, "enhanced-code": "5.1.1"}}, MailStatus.BOUNCED, "5.1.1"),
        ({"delivery-status": {"code": 550, "enhanced-code": "5.7.1"}}, MailStatus.REFUSED, "5.7.1"),
        ({"delivery-status": {"code": 550, "enhanced-code": "5.0.0"}}, MailStatus.BOUNCED, "5.0.0"),
        ({"delivery-status": {"code": 550, "message": "550 5.2.2 full"}}, MailStatus.REFUSED, "5.2.2"),
        ({"delivery-status": {"code": 550, "bounce-type": "soft"}}, MailStatus.REFUSED, ""),
        ({"delivery-status": {"code": 499}}, MailStatus.REFUSED, ""),
        ({"delivery-status": {"code": 680}}, MailStatus.REFUSED, ""),
        ({"delivery-status": {"code": 605}}, MailStatus.SUPPRESSED, ""),
        ({"delivery-status": {"code": 607}, "reason": "generic"}, MailStatus.SUPPRESSED, ""),
        ({"delivery-status": {}, "reason": "suppress-unsubscribe"}, MailStatus.SUPPRESSED, ""),
        ({"delivery-status": {"code": 550}, "reason": "generic"}, MailStatus.BOUNCED, ""),
        ({"delivery-status": {"code": 550}, "reason": "espblock"}, MailStatus.REFUSED, ""),
        ({"delivery-status": {"code": 550}, "reason": "old"}, MailStatus.REFUSED, ""),
        ({"severity": "temporary"}, MailStatus.DELAYED, ""),
        ({"event": "delivered", "delivery-status": {"code": 250}}, MailStatus.DELIVERED, ""),
        ({"event": "opened"}, MailStatus.DELIVERED, ""),
        ({"event": "complained"}, MailStatus.COMPLAINED, ""),
        ({"event": "rejected"}, MailStatus.REFUSED, ""),
    ],
)
async def test_what_an_event_means(changes: dict[str, Any], status: MailStatus, code: str) -> None:
    assert await look(page(event(**changes))) == (Looked(), [Verdict(ONE, status, code, "taro1@example.jp")])


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "accepted"},
        {"event": "unsubscribed"},
        {"event": "of tomorrow"},
        {"event": None},
        {"event": ["failed"]},
        {"severity": "unheard of"},
        {"message": {"headers": {"message-id": "another@example.com"}}},
        {"message": {"headers": {"message-id": "x" * 1000}}},
        {"message": {"headers": {"message-id": 7}}},
        {"message": {}},
        {"message": None},
    ],
)
async def test_an_event_that_tells_nothing_of_our_mails_is_skipped(changes: dict[str, Any]) -> None:
    assert await look(page(event(**changes))) == (Looked(), [])


@pytest.mark.parametrize("recipient", [None, 7, "taro1", "x" * 400 + "@example.jp", "taro@example.jp\n", "\ud800@x"])
async def test_an_address_that_is_none_is_left_out(recipient: object) -> None:
    (verdict,) = (await look(page(event(recipient=recipient))))[1]
    assert verdict.address == ""


async def test_a_mail_whose_answer_was_lost_is_found_by_its_message_id() -> None:
    """Mailgun keeps ours (https://github.com/mailgun/mailgun.js/issues/394); the ledger learns Mailgun's id for it."""
    _, kept = await look(page(event(f"{TWO}@example.jp"), event(f"{ONE}@example.jp")), {}, frozenset({TWO}))
    assert kept == [Verdict(TWO, MailStatus.BOUNCED, "", "taro1@example.jp", f"<{TWO}@example.jp>")]


async def test_a_page_names_a_delivery_once_by_the_worst() -> None:
    events = [event(severity="temporary"), event(), event(event="delivered"), event(event="delivered", message=None)]
    _, kept = await look(page(*events))
    assert [(verdict.delivery_id, verdict.status) for verdict in kept] == [(ONE, MailStatus.BOUNCED)]


async def test_pages_that_are_too_long_are_asked_for_anew_with_fewer_events(autojump_clock: MockClock) -> None:
    """300 events of 15 kB each: 100 do not fit into a megabyte, 25 do."""
    fake = FakeMailgun()
    for number in range(300):
        fake.add(UUID(int=number), f"{number}@mg", f"taro{number}@example.jp", MailStatus.DELIVERED, "", LATER)
        fake.events[-1]["delivery-status"]["message"] = "x" * 15_000
    looked, kept = await look(transport(fake), {f"<{number}@mg>": UUID(int=number) for number in range(300)})
    assert looked == Looked()
    assert {verdict.delivery_id for verdict in kept} == {UUID(int=number) for number in range(300)}
    sizes = [json.loads(body)["pagination"]["limit"] for _, _, body in fake.seen]
    assert sizes[:2] == [100, 25]
    assert len(sizes) == 1 + 300 // 25 + 1


async def test_events_that_are_too_long_by_themselves_make_the_look_incomplete(autojump_clock: MockClock) -> None:
    fake = FakeMailgun()
    fake.add(ONE, "1@mg", "taro1@example.jp", MailStatus.DELIVERED, "", LATER)
    fake.events[-1]["delivery-status"]["message"] = "x" * 2_000_000
    assert await look(transport(fake)) == (Looked("unreadable"), [])


@pytest.mark.parametrize(
    ("answer", "incomplete"),
    [
        (httpx.Response(401, text="Forbidden"), "blocked:401"),
        (httpx.Response(403, json={"message": "Forbidden"}), "no_right:403:logs"),
        (httpx.Response(404, json={"message": "Domain not found: mg.example.jp"}), "unexpected:404"),
        (httpx.Response(400, json={"message": "odd start date"}), "unexpected:400"),
        (httpx.Response(420, json={"message": "slow down"}), "rate_limited:420"),
        (httpx.Response(429, json={"message": "Too many requests"}, headers={"Retry-After": "9"}), "rate_limited:429"),
        (httpx.Response(200, json={"items": 0, "pagination": {}}), "unreadable:200"),
        (httpx.Response(200, json={"items": [], "pagination": None}), "unreadable:200"),
        (httpx.Response(200, json={"items": [7], "pagination": {}}), "unreadable:200"),
        (httpx.Response(200, json={"items": [], "pagination": {"next": 7}}), "unreadable:200"),
        (httpx.Response(200, json={"items": [{}], "pagination": {"next": "x" * 5000}}), "unreadable:200"),
    ],
)
async def test_an_answer_that_is_no_page(answer: httpx.Response, incomplete: str) -> None:
    assert await look(httpx.MockTransport(lambda _request: answer)) == (Looked(incomplete), [])


async def test_a_list_without_events_may_be_null() -> None:
    """As Go's encoder writes it."""
    found = {"items": None, "pagination": {"next": None}}
    assert await look(httpx.MockTransport(lambda _request: httpx.Response(200, json=found))) == (Looked(), [])
