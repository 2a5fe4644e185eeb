"""Resend: the calls it gets, and what its answers mean (https://resend.com/docs)."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config.providers import ResendSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send.mail.resend import Resend, _of_items
from tests.support.messages import mail

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)


async def call(messages: list[Mail], answer: httpx.Response) -> tuple[httpx.Request, list[Outcome]]:
    """Send *messages* in one call; return the request as it left, and the outcomes."""
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with open_client(width=1, transport=httpx.MockTransport(transport)) as client:
        sender = Resend(client, ResendSettings(api_key="re_1"), now=lambda: NOW)
        outcomes = await sender.send(messages, sender.encode(messages), "key-1")
    (request,) = seen
    return request, outcomes


def error(status: int, name: str) -> httpx.Response:
    return httpx.Response(status, json={"statusCode": status, "name": name, "message": "taro1@example.jp is odd"})


async def test_a_single_mail() -> None:
    request, outcomes = await call([mail(1, reply_to="ask@example.jp")], httpx.Response(200, json={"id": "49a3"}))
    assert (request.method, str(request.url)) == ("POST", "https://api.resend.com/emails")
    assert request.headers["authorization"] == "Bearer re_1"
    assert request.headers["idempotency-key"] == "key-1"
    assert request.headers["content-type"] == "application/json"
    assert "x-batch-validation" not in request.headers
    assert json.loads(request.content) == {
        "from": "keikakun <no-reply@example.jp>",
        "to": ["taro1@example.jp"],
        "subject": "【期限アラート】ひまわり",
        "html": "<p>本日が期限</p>",
        "text": "本日が期限",
        "headers": dict(mail(1).headers),
        "reply_to": "ask@example.jp",
    }
    assert outcomes == [Delivered("49a3")]


@pytest.mark.parametrize("count", [2, 3])
async def test_several_mails_go_in_permissive_mode(count: int) -> None:
    answer = httpx.Response(200, json={"data": [{"id": f"id-{n}"} for n in range(1, count + 1)]})
    request, outcomes = await call([mail(n) for n in range(1, count + 1)], answer)
    assert str(request.url) == "https://api.resend.com/emails/batch"
    assert request.headers["x-batch-validation"] == "permissive"
    assert request.headers["idempotency-key"] == "key-1"
    items = json.loads(request.content)
    assert [item["to"] for item in items] == [[f"taro{n}@example.jp"] for n in range(1, count + 1)]
    assert not any("reply_to" in item for item in items), "there is none"
    assert outcomes == [Delivered(f"id-{n}") for n in range(1, count + 1)]


async def test_ids_belong_in_order_to_the_items_without_error() -> None:
    found = {"data": [{"id": "b"}, {"id": "d"}], "errors": [{"index": 2, "message": "x"}, {"index": 0, "message": "y"}]}
    _, outcomes = await call([mail(n) for n in range(4)], httpx.Response(200, json=found))
    bad = Rejected("rejected:item", Blame.UNCLEAR)
    assert outcomes == [bad, Delivered("b"), bad, Delivered("d")]


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("Invalid `to` field.", Rejected("rejected:item")),
        ("Invalid `from` field.", Blocked("blocked:item")),
        ("The example.jp domain is not verified.", Blocked("blocked:item")),
        ("You have reached your daily email sending quota.", Blocked("quota:item")),
        ("Invalid `headers` field.", Rejected("rejected:item", Blame.UNCLEAR)),
        (None, Rejected("rejected:item", Blame.UNCLEAR)),
    ],
)
async def test_an_item_is_refused_for_its_address_or_for_us(message: str | None, outcome: Outcome) -> None:
    """Permissive mode answers 200, whatever is wrong with each item: our sender is wrong in all of them."""
    found = {"data": [{"id": "a"}], "errors": [{"index": 1, "message": message}]}
    _, outcomes = await call([mail(1), mail(2)], httpx.Response(200, json=found))
    assert outcomes == [Delivered("a"), outcome]


async def test_two_errors_of_one_item_are_one_rejection() -> None:
    found = {"data": [{"id": "b"}], "errors": [{"index": 0, "message": "x"}, {"index": 0, "message": "y"}]}
    _, outcomes = await call([mail(1), mail(2)], httpx.Response(200, json=found))
    assert outcomes == [Rejected("rejected:item", Blame.UNCLEAR), Delivered("b")]


@given(st.lists(st.booleans(), min_size=2, max_size=100))
def test_any_mix_of_good_and_bad_items_finds_its_ids(good: list[bool]) -> None:
    data = [{"id": f"id-{index}"} for index, accepted in enumerate(good) if accepted]
    errors = [{"index": index, "message": ""} for index, accepted in enumerate(good) if not accepted]
    expected = [
        Delivered(f"id-{index}") if accepted else Rejected("rejected:item", Blame.UNCLEAR)
        for index, accepted in enumerate(good)
    ]
    assert _of_items({"data": data, "errors": errors}, len(good)) == expected


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"data": None},
        {"data": [{"id": "a"}]},
        {"data": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
        {"data": [{"id": "a"}, {"id": 5}]},
        {"data": [{"id": "a"}, "b"]},
        {"data": [{"id": "a"}], "errors": {"index": 1}},
        {"data": [{"id": "a"}], "errors": [{"index": 7}]},
        {"data": [{"id": "a"}], "errors": [{"message": "which?"}]},
        {"data": [{"id": "a"}], "errors": ["1"]},
        {"data": [{"id": "a"}], "errors": [{"index": [1]}]},
        {"data": [], "errors": [{"index": 1}]},
        {"data": [{"id": "a"}, {"id": "b"}], "errors": [{"index": 1}]},
    ],
)
async def test_an_answer_that_does_not_add_up_tells_nothing(found: Any) -> None:
    _, outcomes = await call([mail(1), mail(2)], httpx.Response(200, json=found))
    assert outcomes == [Unknown("answer_unclear")] * 2


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"<html>welcome to our wifi</html>", b"{}", b'{"id": null}', b'{"id": "\\u0000"}', b'["id"]']
)
async def test_a_200_that_names_no_mail_tells_nothing(body: bytes) -> None:
    _, outcomes = await call([mail()], httpx.Response(200, content=body))
    assert outcomes == [Unknown("answer_unclear")]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (error(429, "daily_quota_exceeded"), Blocked("quota:429")),
        (error(429, "monthly_quota_exceeded"), Blocked("quota:429")),
        (error(429, "rate_limit_exceeded"), Deferred("rate_limited:429", blame=Blame.PROVIDER)),
        (error(409, "concurrent_idempotent_requests"), Unknown("in_progress:409", retry_after=2.0)),
        (error(409, "invalid_idempotent_request"), Unknown("key_conflict:409", key_usable=False)),
        (error(401, "restricted_api_key"), Blocked("blocked:401")),
        (error(403, "validation_error"), Blocked("blocked:403")),
        (error(422, "invalid_from_address"), Blocked("blocked:422")),
        (error(404, "not_found"), Blocked("blocked:404")),
        (error(400, "invalid_from_address"), Blocked("blocked:400")),
        (error(500, "not_found"), Deferred("server_error:500")),
        (error(409, "resource_locked"), Deferred("unexpected:409", blame=Blame.PATH)),
        (error(422, "missing_required_field"), Rejected("rejected:422", Blame.UNCLEAR)),
        (error(400, "validation_error"), Rejected("rejected:400", Blame.UNCLEAR)),
        (error(451, "security_error"), Blocked("blocked:451")),
        (error(500, "application_error"), Deferred("server_error:500")),
    ],
)
async def test_documented_errors(answer: httpx.Response, outcome: Outcome) -> None:
    assert (await call([mail()], answer))[1] == [outcome]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (error(429, "daily_quota_exceeded"), Blocked("quota:429", 90.0)),
        (error(422, "invalid_from_address"), Blocked("blocked:422", 90.0)),
        (error(409, "concurrent_idempotent_requests"), Unknown("in_progress:409", 90.0)),
        (error(503, "service_unavailable"), Deferred("server_error:503", 90.0)),
    ],
)
@pytest.mark.parametrize("value", ["90", "Tue, 24 Nov 2026 00:01:30 GMT"])
async def test_whatever_the_trouble_a_wait_that_is_asked_for_is_kept(
    value: str, answer: httpx.Response, outcome: Outcome
) -> None:
    answer.headers["Retry-After"] = value
    assert (await call([mail()], answer))[1] == [outcome]


def test_the_same_mail_always_makes_the_same_bytes() -> None:
    """A key belongs to a body: headers in another order must not make another one."""
    one = mail(1, headers={"A": "1", "B": "2"})
    sender = Resend(None, ResendSettings(api_key="re_1"), now=lambda: NOW)  # type: ignore[arg-type]
    assert sender.encode([one]) == sender.encode([mail(1, headers={"B": "2", "A": "1"})])
    assert "本日が期限".encode() in sender.encode([one]), "as it is, and half as long as escaped"


async def test_a_batch_refused_as_a_whole_condemns_nobody() -> None:
    """Which item is to blame is not said, if it is one at all, so each gets another call."""
    _, outcomes = await call([mail(1), mail(2)], error(422, "validation_error"))
    assert outcomes == [Deferred("batch_rejected:422")] * 2


async def test_a_hundred_mails_in_one_call_and_no_more() -> None:
    answer = httpx.Response(200, json={"data": [{"id": str(n)} for n in range(100)]})
    _, outcomes = await call([mail(n) for n in range(100)], answer)
    assert outcomes == [Delivered(str(n)) for n in range(100)]
    with pytest.raises(ValueError, match="101 mails"):
        await call([mail(n) for n in range(101)], answer)
