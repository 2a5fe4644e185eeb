"""Resend's list of mails: its events, its cursor, and the metrics that tell hard bounces from soft ones."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
import resend
import trio
from pydantic import TypeAdapter
from trio.testing import MockClock

from notifierd.config.providers import ResendSettings
from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.demo.servers.http11 import Request
from notifierd.model.feedback import MailStatus
from notifierd.send._http import open_client
from notifierd.send.feedback import Looked
from notifierd.send.feedback.resend import MOST_PAGES, ResendFeedback
from tests.support.feedback import NOW, PROVIDERS, Kept, a_look, looked_at, looked_through, reading
from tests.support.providers import made_by

PROVIDER = PROVIDERS["resend"]
OURS = {"id-1": UUID(int=1)}
AT = NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ("delivery_delayed", MailStatus.DELAYED),
        ("delivered", MailStatus.DELIVERED),
        ("opened", MailStatus.DELIVERED),
        ("clicked", MailStatus.DELIVERED),
        ("bounced", MailStatus.REFUSED),
        ("failed", MailStatus.REFUSED),
        ("suppressed", MailStatus.SUPPRESSED),
        ("complained", MailStatus.COMPLAINED),
        ("queued", None),
        ("sent", None),
        ("scheduled", None),
        ("canceled", None),
        ("something_new", None),
    ],
)
async def test_what_an_event_means(event: str, status: MailStatus | None) -> None:
    fake, kept = FakeResend(), Kept()
    fake.add_event("id-1", "taro@example.jp", event, AT)
    assert await looked_at(PROVIDER, fake, a_look(OURS), kept) == Looked()
    assert kept.statuses == ({UUID(int=1): status} if status else {})


@pytest.mark.parametrize("status", [400, 403, 404, 405, 422])
async def test_without_metrics_a_bounce_is_a_refusal(status: int) -> None:
    fake, kept = FakeResend(), Kept()
    fake.refuses_metrics = status
    fake.add(UUID(int=1), "id-1", "taro@example.jp", MailStatus.BOUNCED, "", AT)
    found = await looked_at(PROVIDER, fake, a_look(OURS), kept)
    assert found == Looked("blocked:403" if status == 403 else "")
    assert kept.statuses == {UUID(int=1): MailStatus.REFUSED}


@pytest.mark.parametrize("status", [429, 500])
async def test_metrics_that_fail_make_the_look_incomplete(status: int) -> None:
    """What is known already is kept: a bounce becomes graver by the next look."""
    fake, kept = FakeResend(), Kept()
    fake.refuses_metrics = status
    fake.add(UUID(int=1), "id-1", "taro@example.jp", MailStatus.BOUNCED, "", AT)
    assert (await looked_at(PROVIDER, fake, a_look(OURS), kept)).incomplete in {"rate_limited:429", "server_error:500"}
    assert kept.statuses == {UUID(int=1): MailStatus.REFUSED}
    fake.refuses_metrics = None
    assert await looked_at(PROVIDER, fake, a_look(OURS), kept) == Looked()
    assert kept.statuses == {UUID(int=1): MailStatus.BOUNCED}


async def test_only_as_many_pages_are_read_as_have_mails_of_ours() -> None:
    fake, seen = FakeResend(), list[Request]()
    for number in range(1000):
        fake.add_event(f"id-{number}", "taro@example.jp", "delivered", AT - timedelta(minutes=number))
    async with reading(PROVIDER, fake, seen=seen) as reader:
        assert await reader.look(a_look({"id-150": UUID(int=1)}), Kept().keep) == Looked()
    assert [parse_qs(urlsplit(one.target).query) for one in seen] == [
        {"limit": ["100"]},
        {"limit": ["100"], "after": ["id-99"]},
    ]


async def test_metrics_are_asked_from_the_day_of_the_oldest_bounce() -> None:
    fake, seen = FakeResend(), list[Request]()
    sent = {f"id-{number}": UUID(int=number) for number in range(3)}
    for number, sent_id in enumerate(sent):
        at = AT - timedelta(days=number)
        fake.add(UUID(int=number), sent_id, "taro@example.jp", MailStatus.BOUNCED, "", at)
    async with reading(PROVIDER, fake, seen=seen) as reader:
        await reader.look(a_look(sent), Kept().keep)
    assert parse_qs(urlsplit(seen[1].target).query) == {
        "dimensions": ["email"],
        "metrics": ["bounced_permanent,bounced_transient,bounced_undetermined"],
        "email_id": ["id-0,id-1,id-2"],
        "start_date": ["2026-11-22"],
    }


async def test_metrics_are_asked_for_a_hundred_bounces_at_a_time() -> None:
    """However few of them are on a page. Until then they are refusals, so that a look that is cut keeps them."""
    fake, kept, calls = FakeResend(), Kept(), list[str]()
    sent = {f"id-{number}": UUID(int=number) for number in range(500)}
    for number, sent_id in enumerate(sent):
        status = MailStatus.DELIVERED if number % 2 else MailStatus.BOUNCED
        fake.add(UUID(int=number), sent_id, "taro@example.jp", status, "", AT - timedelta(minutes=number))

    def respond(request: httpx.Request) -> httpx.Response:
        statuses = kept.statuses.values()
        bounced = sum(status is MailStatus.BOUNCED for status in statuses)
        refused = sum(status is MailStatus.REFUSED for status in statuses)
        calls.append(f"{request.url.path.rpartition('/')[2]} {bounced} {refused}")
        target = request.url.raw_path.decode()
        status, headers, body = fake.answer("GET", target, dict(request.headers), b"")
        return httpx.Response(status, headers=headers, content=body)

    assert await looked_through(PROVIDER, respond, a_look(sent), kept) == Looked()
    assert calls == [
        *("emails 0 0", "emails 0 50", "metrics 0 100"),
        *("emails 100 0", "emails 100 50", "metrics 100 100"),
        *("emails 200 0", "metrics 200 50"),
    ]
    assert sum(status is MailStatus.BOUNCED for status in kept.statuses.values()) == 250


def page(*ids: object, has_more: object = True) -> dict[str, Any]:
    return {"object": "list", "has_more": has_more, "data": [{"id": one, "last_event": "delivered"} for one in ids]}


@pytest.mark.parametrize(
    "found",
    [page("id-9"), page("id-8", "id-9"), page(), page("id 9"), page(None), page("id-9", has_more="no")],
    ids=["one", "two", "none", "space", "null", "text"],
)
async def test_a_cursor_that_leads_nowhere_makes_the_look_incomplete(found: object) -> None:
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(200, json=found)

    assert await looked_through(PROVIDER, respond, a_look(OURS), Kept()) == Looked("unreadable")
    assert len(calls) <= 2


async def test_a_list_without_end_is_given_up() -> None:
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(200, json=page(f"foreign-{len(calls)}"))

    assert await looked_through(PROVIDER, respond, a_look(OURS), Kept()) == Looked("too_many")
    assert len(calls) == MOST_PAGES


async def test_a_key_that_may_only_send_is_named() -> None:
    async with reading(PROVIDER, FakeResend(), key="sending-key") as reader:
        assert await reader.probe() == "no_right:401:full_access"
        assert await reader.look(a_look(OURS), Kept().keep) == Looked("no_right:401:full_access")


async def test_two_requests_a_second_are_made(autojump_clock: MockClock) -> None:
    """Resend counts those of a team together."""
    fake, times = FakeResend(), list[float]()
    for number in range(250):
        fake.add_event(f"id-{number}", "taro@example.jp", "delivered", AT - timedelta(minutes=number))

    def respond(request: httpx.Request) -> httpx.Response:
        times.append(trio.current_time())
        target = request.url.raw_path.decode()
        status, headers, body = fake.answer("GET", target, dict(request.headers), b"")
        return httpx.Response(status, headers=headers, content=body)

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        reader = ResendFeedback(client, ResendSettings(feedback_key=FakeResend.key), now=lambda: NOW)
        assert await reader.look(a_look({"id-249": UUID(int=1)}), Kept().keep) == Looked()
    assert [one - times[0] for one in times] == pytest.approx([0, 0.5, 1.0])


# Resend's own client --------------------------------------------------------------------------------------------------


def with_resend(url: str, call: Callable[[], object]) -> None:
    """Make *call* by Resend's client, whose settings are global."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resend, "api_url", url)
        patch.setattr(resend, "api_key", FakeResend.key)
        call()


async def test_the_calls_are_those_that_resends_client_makes() -> None:
    """And it knows the shape of what the tests answer."""
    fake, seen = FakeResend(), list[Request]()
    ids = [str(UUID(int=number)) for number in range(200)]
    for number, sent_id in enumerate(ids):
        at = AT - timedelta(minutes=number)
        fake.add(UUID(int=number), sent_id, "taro@example.jp", MailStatus(list(MailStatus)[number % 6]), "", at)
    async with reading(PROVIDER, fake, seen=seen) as reader:
        await reader.look(a_look(dict.fromkeys(ids, UUID(int=1))), Kept().keep)
    bounced = [sent_id for number, sent_id in enumerate(ids) if list(MailStatus)[number % 6] in KINDS]
    metrics: resend.Emails.MetricsParams = {
        "dimensions": ["email"],
        "metrics": ["bounced_permanent", "bounced_transient", "bounced_undetermined"],
        "email_id": bounced,
        "start_date": "2026-11-23",  # the day of the oldest one
    }
    calls: list[Callable[[], object]] = [
        lambda: resend.Emails.list({"limit": 100}),
        lambda: resend.Emails.list({"limit": 100, "after": ids[99]}),
        lambda: resend.Emails.metrics(metrics),
    ]
    for call, request in zip(calls, seen, strict=True):
        made = await made_by(lambda url, call=call: with_resend(url, call), {}, ["authorization"], str)  # type: ignore[misc]
        assert urlsplit(request.target).path == urlsplit(made.path).path
        assert parse_qs(urlsplit(request.target).query) == parse_qs(urlsplit(made.path).query)
        assert request.headers["authorization"] == made.headers["authorization"]
        assert (request.method, request.body) == ("GET", b"")
    for request in seen:
        _, _, body = fake.answer("GET", request.target, request.headers, b"")
        found = json.loads(body)
        if "/metrics" in request.target:
            TypeAdapter(resend.Emails.MetricsResponse).validate_python(found)
        else:
            found["data"] = [{**one, "html": "", "text": ""} for one in found["data"]]  # a list leaves these two out
            TypeAdapter(resend.Emails.ListResponse).validate_python(found)


KINDS = {MailStatus.BOUNCED, MailStatus.REFUSED}
