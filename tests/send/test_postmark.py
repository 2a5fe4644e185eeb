"""Postmark: the calls it gets, and what its answers mean (https://postmarkapp.com/developer)."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from postmark import ServerClient

from notifierd.config.providers import PostmarkSettings
from notifierd.model.message import Mail
from notifierd.model.outcome import Blame, Blocked, Deferred, Delivered, Outcome, Rejected, Unknown
from notifierd.send._http import open_client
from notifierd.send.mail.postmark import Postmark, _of_items
from tests.support.messages import mail
from tests.support.providers import made_by, made_here, postmark_answers

NOW = datetime(2026, 11, 24, 0, 0, tzinfo=UTC)


async def call(messages: list[Mail], answer: httpx.Response) -> tuple[list[httpx.Request], list[Outcome]]:
    """Send *messages* in one call; return the requests as they left, and the outcomes."""
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async with open_client(width=1, transport=httpx.MockTransport(transport)) as client:
        settings = PostmarkSettings(server_token="token-1", message_stream="alerts")
        sender = Postmark(client, settings, now=lambda: NOW)
        outcomes = await sender.send(messages, sender.encode(messages), "key-1")
    return seen, outcomes


def refused(code: int, status: int = 422) -> httpx.Response:
    return httpx.Response(status, json={"ErrorCode": code, "Message": "taro1@example.jp is odd"})


async def test_a_call() -> None:
    answer = postmark_answers([True, True])
    (request,), outcomes = await call([mail(1, reply_to="ask@example.jp"), mail(2)], answer)
    assert (request.method, str(request.url)) == ("POST", "https://api.postmarkapp.com/email/batch")
    assert request.headers["x-postmark-server-token"] == "token-1"
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    one, two = json.loads(request.content)
    assert one == {
        "From": "keikakun <no-reply@example.jp>",
        "To": "taro1@example.jp",
        "Subject": "【期限アラート】ひまわり",
        "HtmlBody": "<p>本日が期限</p>",
        "TextBody": "本日が期限",
        "Headers": [
            {"Name": "Auto-Submitted", "Value": "auto-generated"},
            {"Name": "Message-ID", "Value": "<00000000-0000-0000-0000-000000000001@example.jp>"},
        ],
        "MessageStream": "alerts",
        "ReplyTo": "ask@example.jp",
    }
    assert "ReplyTo" not in two, "there is none"
    assert "本日が期限".encode() in request.content, "as it is, and half as long as escaped"
    assert outcomes == [Delivered("id-0"), Delivered("id-1")]


async def test_the_call_is_the_one_that_postmarks_own_client_makes() -> None:
    """It sends the same fields and headers, but for empty ones, and reads our idea of an answer."""
    mails = [mail(1, reply_to="相談窓口 <ask@example.jp>", sender="期限 <no-reply@example.jp>"), mail(2)]
    read: list[Any] = []

    async def send(base: str) -> None:
        async with ServerClient("token-1", retries=0, base_url=base) as client:
            read.extend(
                await client.outbound.send_batch(
                    [
                        {
                            "sender": one.sender.quoted(),
                            "to": one.to,
                            "subject": one.subject,
                            "text_body": one.text,
                            "html_body": one.html,
                            "reply_to": one.reply_to.quoted() if one.reply_to else None,
                            "headers": [{"name": n, "value": v} for n, v in sorted(one.headers.items())],
                            "message_stream": "alerts",
                        }
                        for one in mails
                    ]
                )
            )

    def parse(body: str) -> object:
        return [{name: value for name, value in item.items() if value not in ([], {})} for item in json.loads(body)]

    answer = postmark_answers([True, True])
    keep = ("x-postmark-server-token", "content-type", "accept")
    theirs = await made_by(lambda base: asyncio.run(send(base)), answer.json(), keep, parse)
    (request,), outcomes = await call(mails, answer)
    assert made_here(request, keep, parse) == theirs
    assert [Delivered(one.message_id) for one in read if one.success] == outcomes


async def test_five_hundred_mails_in_one_call_and_no_more() -> None:
    mails = [mail(number) for number in range(500)]
    requests, outcomes = await call(mails, postmark_answers([True] * 500))
    assert len(requests) == 1
    assert outcomes == [Delivered(f"id-{number}") for number in range(500)]
    for wrong in (mails + mails[:1], []):
        with pytest.raises(ValueError, match=f"{len(wrong)} mails"):
            await call(wrong, httpx.Response(200))


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (300, Rejected("rejected:item:300", Blame.UNCLEAR)),
        (406, Rejected("rejected:item:406")),
        (100, Deferred("maintenance:item:100", blame=Blame.PROVIDER)),
        (429, Deferred("rate_limited:item:429", blame=Blame.PROVIDER)),
        (10, Blocked("blocked:item:10")),
        (400, Blocked("blocked:item:400")),
        (401, Blocked("blocked:item:401")),
        (405, Blocked("blocked:item:405")),
        (412, Blocked("blocked:item:412")),
        (413, Blocked("blocked:item:413")),
        (422, Blocked("blocked:item:422")),
        (1235, Blocked("blocked:item:1235")),
        (1236, Blocked("blocked:item:1236")),
        (1480, Blocked("blocked:item:1480")),
        (9999, Deferred("refused:item:9999")),
        (-1, Deferred("refused:item:-1")),
        (10**30, Unknown("answer_unclear")),
    ],
)
async def test_each_message_has_its_own_error_code(code: int, outcome: Outcome) -> None:
    good = {"ErrorCode": 0, "MessageID": "b7bc2f4a-e38e-4336-af7d-e6c392c2f817"}
    items = [good, {"ErrorCode": code, "Message": "taro2@example.jp", "MessageID": "b7bc2f4a"}, good]
    _, outcomes = await call([mail(1), mail(2), mail(3)], httpx.Response(200, json=items))
    accepted = Delivered("b7bc2f4a-e38e-4336-af7d-e6c392c2f817")
    assert outcomes == [accepted, outcome, accepted]


@given(st.lists(st.sampled_from([0, 300, 406, 100, 10]), min_size=1, max_size=500))
def test_answers_come_in_the_order_of_the_messages(codes: list[int]) -> None:
    outcomes = _of_items([{"ErrorCode": code, "MessageID": f"id-{n}"} for n, code in enumerate(codes)], len(codes))
    assert [isinstance(outcome, Delivered) for outcome in outcomes] == [code == 0 for code in codes]
    assert [outcome for outcome in outcomes if isinstance(outcome, Delivered)] == [
        Delivered(f"id-{number}") for number, code in enumerate(codes) if code == 0
    ]


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        [],
        "OK",
        {"ErrorCode": 0, "MessageID": "id-0"},
        [{"ErrorCode": 0, "MessageID": "id-0"}],
        [{"ErrorCode": 0, "MessageID": "id-0"}] * 3,
    ],
)
async def test_an_answer_that_does_not_add_up_tells_nothing(found: object) -> None:
    _, outcomes = await call([mail(1), mail(2)], httpx.Response(200, json=found))
    assert outcomes == [Unknown("answer_unclear")] * 2


@pytest.mark.parametrize(
    "item",
    [
        None,
        "OK",
        {},
        {"ErrorCode": "0", "MessageID": "id"},
        {"ErrorCode": False, "MessageID": "id"},
        {"ErrorCode": 0.0, "MessageID": "id"},
        {"ErrorCode": 0},
        {"ErrorCode": 0, "MessageID": "two words"},
    ],
)
async def test_one_unclear_item_leaves_the_others_clear(item: object) -> None:
    found = [{"ErrorCode": 0, "MessageID": "id-0"}, item]
    _, outcomes = await call([mail(1), mail(2)], httpx.Response(200, json=found))
    assert outcomes == [Delivered("id-0"), Unknown("answer_unclear")]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (refused(300), Rejected("rejected:422:300", Blame.UNCLEAR)),
        (refused(406), Rejected("rejected:422:406")),
        (refused(403), Deferred("refused:422:403")),
        (refused(412), Blocked("blocked:422:412")),
        (refused(1235), Blocked("blocked:422:1235")),
        (refused(0), Rejected("rejected:422", Blame.UNCLEAR)),
        (refused(10, 401), Blocked("blocked:401")),
        (refused(100, 503), Deferred("server_error:503")),
        (refused(0, 404), Blocked("blocked:404")),
        (refused(0, 405), Blocked("blocked:405")),
        (refused(0, 413), Rejected("rejected:413", Blame.UNCLEAR)),
        (refused(0, 415), Blocked("blocked:415")),
        (refused(0, 500), Deferred("server_error:500")),
        (httpx.Response(404), Deferred("not_the_provider:404", blame=Blame.PATH)),
    ],
)
async def test_documented_answers_to_a_whole_call(answer: httpx.Response, outcome: Outcome) -> None:
    assert (await call([mail()], answer))[1] == [outcome]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (refused(300), Deferred("batch_rejected:422:300")),
        (refused(406), Deferred("batch_rejected:422:406", blame=Blame.MESSAGE)),
        (refused(413), Blocked("blocked:422:413")),
        (refused(0, 413), Deferred("batch_rejected:413")),
    ],
)
async def test_a_batch_refused_as_a_whole_condemns_nobody(answer: httpx.Response, outcome: Outcome) -> None:
    """A 413 too: alone, each mail is small enough."""
    assert (await call([mail(1), mail(2)], answer))[1] == [outcome] * 2
