"""SES' events in a queue: what they mean, when they are deleted, and how the envelope looks; and SES' insights."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import trio
from attrs import evolve
from botocore.model import OperationModel
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from notifierd.config.providers import SesSettings
from notifierd.demo.servers.feedback.ses import FakeSes, enveloped, event_of
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import open_client
from notifierd.send.feedback import Looked
from notifierd.send.feedback import ses as reader_module
from notifierd.send.feedback.ses import SET_UP, Other, SesFeedback, read_event
from notifierd.send.mail.sigv4 import Signer
from tests.support.aws import answer_problems, botocore_signs, operation, schema_problems, sqs
from tests.support.feedback import (
    NOW,
    PROVIDERS,
    Kept,
    a_look,
    looked_at,
    looked_through,
    reading,
    serving_fake,
    ses_settings,
)

QUEUED, ASKED = PROVIDERS["ses, queue"], PROVIDERS["ses, insights"]
OURS = {"id-1": UUID(int=1)}
AT = NOW - timedelta(hours=1)


def event(kind: str, name: str = "", **details: Any) -> dict[str, Any]:
    found = event_of(UUID(int=1), "id-1", "taro@example.jp", MailStatus.DELIVERED, "", AT)
    del found["delivery"]
    return {**found, "eventType": kind, **({name: details} if name else {})}


def bounce(kind: str, subtype: str, **who: str) -> dict[str, Any]:
    recipients = [{"emailAddress": "taro@example.jp", **who}]
    return event("Bounce", "bounce", bounceType=kind, bounceSubType=subtype, bouncedRecipients=recipients)


def complaint(subtype: str | None, feedback: str | None) -> dict[str, Any]:
    who = [{"emailAddress": "taro@example.jp"}]
    found = {"complaintSubType": subtype, "complaintFeedbackType": feedback}
    return event("Complaint", "complaint", complainedRecipients=who, **found)


FAILED = {"action": "failed", "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 user unknown"}

MEANT: list[tuple[dict[str, Any], MailStatus | None, str]] = [
    (bounce("Permanent", "General", **FAILED), MailStatus.BOUNCED, "5.1.1"),
    (bounce("Permanent", "General"), MailStatus.BOUNCED, ""),
    (bounce("Permanent", "General", action="failed", status="5.7.1"), MailStatus.REFUSED, "5.7.1"),
    (bounce("Permanent", "General", diagnosticCode="smtp; 550 5.4.1 denied"), MailStatus.REFUSED, "5.4.1"),
    (bounce("Permanent", "NoEmail", action="failed", status="5.0.0"), MailStatus.BOUNCED, "5.0.0"),
    (bounce("Permanent", "Suppressed", **FAILED), MailStatus.SUPPRESSED, "5.1.1"),
    (bounce("Permanent", "OnAccountSuppressionList", **FAILED), MailStatus.SUPPRESSED, "5.1.1"),
    (bounce("Permanent", "General", status="5.0.0", diagnosticCode="550 5.7.1"), MailStatus.REFUSED, "5.7.1"),
    (bounce("Transient", "MailboxFull", action="failed", status="5.2.2"), MailStatus.REFUSED, "5.2.2"),
    (bounce("Transient", "General", action="failed", status="4.4.7"), MailStatus.REFUSED, "4.4.7"),
    (bounce("Transient", "ContentRejected"), MailStatus.REFUSED, ""),
    (bounce("Transient", "General", **FAILED), MailStatus.BOUNCED, "5.1.1"),
    (bounce("Transient", "General"), None, ""),  # out of the office
    (bounce("Undetermined", "Undetermined"), MailStatus.REFUSED, ""),
    (bounce("SomethingNew", "General"), None, ""),
    (complaint(None, "abuse"), MailStatus.COMPLAINED, ""),
    (complaint(None, None), MailStatus.COMPLAINED, ""),
    (complaint("OnAccountSuppressionList", None), MailStatus.SUPPRESSED, ""),
    (complaint(None, "not-spam"), None, ""),
    (event("Delivery", "delivery", recipients=["taro@example.jp"]), MailStatus.DELIVERED, ""),
    (event("Open", "open"), MailStatus.DELIVERED, ""),
    (event("Click", "click"), MailStatus.DELIVERED, ""),
    (event("DeliveryDelay", "deliveryDelay", delayedRecipients=[{"status": "4.4.1"}]), MailStatus.DELAYED, "4.4.1"),
    (event("Reject", "reject", reason="Bad content"), MailStatus.REFUSED, ""),
    (event("Rendering Failure", "failure", errorMessage="x"), MailStatus.REFUSED, ""),
    (event("Send", "send"), None, ""),
    (event("Subscription", "subscription"), None, ""),
    (event("SomethingNew"), None, ""),
]


@pytest.mark.parametrize("wrapped", [False, True], ids=["raw", "wrapped"])
@pytest.mark.parametrize(("found", "status", "code"), MEANT)
def test_what_an_event_means(found: dict[str, Any], status: MailStatus | None, code: str, wrapped: bool) -> None:
    read = read_event(json.dumps(enveloped(found) if wrapped else found), a_look(OURS))
    assert (read.status, read.code) == (status, code) if isinstance(read, Verdict) else read is Other.NOTHING
    assert isinstance(read, Verdict) == (status is not None)


def test_a_notification_of_an_identity_reads_like_an_event() -> None:
    found = bounce("Permanent", "General", **FAILED)
    found["notificationType"] = found.pop("eventType")
    assert read_event(json.dumps(found), a_look(OURS)) == Verdict(
        UUID(int=1), MailStatus.BOUNCED, "5.1.1", "taro@example.jp"
    )


@pytest.mark.parametrize(
    "body", [SET_UP, f"{SET_UP}\n", '{"notificationType":"AmazonSnsSubscriptionSucceeded","message":"Successfully"}']
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_ses_says_when_it_is_set_up_is_no_event(body: str, wrapped: bool) -> None:
    envelope = json.dumps({"Type": "Notification", "Message": body})
    assert read_event(envelope if wrapped else body, a_look(OURS)) is Other.NOTHING


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "hello",
        "{}",
        "[" * 5000,
        '{"mail": {}}',
        '{"eventType": "Bounce", "mail": {"messageId": "two words"}}',
        '{"mail": {"messageId": "id-1"}}',
        '{"eventType": 1, "mail": {"messageId": "id-1"}}',
        '{"Type": "Notification", "Message": null}',
        '{"Type": "SubscriptionConfirmation", "Message": "You have chosen to subscribe"}',
    ],
)
async def test_a_message_that_is_no_event_stays_and_makes_the_look_incomplete(body: str) -> None:
    """The queue may be somebody else's."""
    fake, kept = FakeSes(), Kept()
    fake.put(body)
    fake.put(json.dumps(bounce("Permanent", "General", **FAILED)))
    assert await looked_at(QUEUED, fake, a_look(OURS), kept) == Looked("unreadable")
    assert [message.body for message in fake.messages.values()] == [body]
    assert len(kept.verdicts) == 1


async def test_a_message_is_deleted_only_once_its_verdict_is_kept() -> None:
    fake, kept = FakeSes(), Kept()
    fake.put(json.dumps(bounce("Permanent", "General", **FAILED)))
    there: list[int] = []

    async def keep(verdicts: Any) -> None:
        there.append(len(fake.messages))
        await kept.keep(verdicts)

    async with reading(QUEUED, fake) as reader:
        assert await reader.look(a_look(OURS), keep) == Looked()
    assert (there, fake.messages) == ([1], {})


async def test_events_of_other_mails_are_deleted_too() -> None:
    fake, kept = FakeSes(), Kept()
    fake.add(UUID(int=9), "foreign", "hanako@example.jp", MailStatus.BOUNCED, "5.1.1", AT)
    assert await looked_at(QUEUED, fake, a_look(OURS), kept) == Looked()
    assert (fake.messages, kept.verdicts) == ({}, {})


async def test_an_event_of_a_mail_that_was_sent_after_the_look_began_waits_for_the_next_look() -> None:
    fake, kept = FakeSes(), Kept()
    fake.add(UUID(int=2), "id-2", "taro@example.jp", MailStatus.BOUNCED, "5.1.1", NOW + timedelta(seconds=1))
    assert await looked_at(QUEUED, fake, a_look(OURS), kept) == Looked()
    assert (len(fake.messages), kept.verdicts) == (2, {})


async def test_a_mail_whose_answer_was_lost_is_found_by_its_header() -> None:
    fake, kept = FakeSes(), Kept()
    for number in (7, 8):
        fake.add(UUID(int=number), f"id-{number}", "taro@example.jp", MailStatus.DELIVERED, "", AT)
    assert await looked_at(QUEUED, fake, a_look(OURS, unknown=frozenset({UUID(int=7)})), kept) == Looked()
    assert kept.verdicts == {
        UUID(int=7): Verdict(UUID(int=7), MailStatus.DELIVERED, address="taro@example.jp", message_id="id-7")
    }


@given(st.lists(st.text() | st.none() | st.dictionaries(st.sampled_from(["name", "value"]), st.text()), max_size=5))
def test_any_headers_can_be_there(headers: list[Any]) -> None:
    found = bounce("Permanent", "General", **FAILED)
    found["mail"].update(messageId="id-7", headers=[*headers, {"name": "X-Entity-Ref-ID", "value": "no id"}])
    look = a_look(OURS, unknown=frozenset({UUID(int=7)}))
    assert read_event(json.dumps(found), look) is Other.NOTHING


@pytest.mark.parametrize("stamp", ["", "soon", "0001-01-01T00:00:00+14:00", "2026-11-24T03:00:01", 5, None])
def test_any_time_can_be_there(stamp: object) -> None:
    found = bounce("Permanent", "General", **FAILED)
    found["mail"].update(messageId="id-7", timestamp=stamp)
    assert read_event(json.dumps(found), a_look(OURS)) is Other.NOTHING


async def test_messages_that_are_too_long_together_are_received_in_smaller_batches() -> None:
    """The client reads a megabyte: ten of 150 kB do not fit. Those ten come again once they are visible."""
    fake, kept = FakeSes(), Kept()
    for number in range(12):
        found = bounce("Permanent", "General", **FAILED)
        found["mail"].update(messageId=f"id-{number}", subject="x" * 150_000)
        fake.put(json.dumps(found))
    sent = {f"id-{number}": UUID(int=number) for number in range(12)}
    async with reading(QUEUED, fake) as reader:
        assert await reader.look(a_look(sent), kept.keep) == Looked("unreadable")
        assert len(kept.verdicts) == 2
        fake.later()
        assert await reader.look(a_look(sent), kept.keep) == Looked()
    assert len(kept.verdicts) == 12


@pytest.mark.parametrize(
    ("action", "probed", "looked"),
    [
        ("ReceiveMessage", "", "no_right:403:sqs:ReceiveMessage"),
        ("DeleteMessageBatch", "", "no_right:403:sqs:DeleteMessage"),
        ("GetQueueAttributes", "no_right:403:sqs:GetQueueAttributes", ""),
        ("GetAccount", "no_right:403:ses:GetAccount", ""),
    ],
)
async def test_a_missing_permission_is_named(action: str, probed: str, looked: str) -> None:
    fake = FakeSes()
    fake.denied.add(action)
    fake.add(UUID(int=1), "id-1", "taro@example.jp", MailStatus.BOUNCED, "5.1.1", AT)
    async with reading(QUEUED, fake) as reader:
        assert await reader.probe() == probed
        assert await reader.look(a_look(OURS), Kept().keep) == Looked(looked)


async def test_a_queue_that_does_not_exist_is_named() -> None:
    async with serving_fake(FakeSes()) as url, open_client(width=1) as client:
        settings = evolve(ses_settings(url), feedback_queue=f"{url}/123456789012/another")
        reader = SesFeedback(client, settings, now=lambda: NOW)
        assert await reader.probe() == "not_found:400"
        assert await reader.look(a_look(OURS), Kept().keep) == Looked("not_found:400")


@pytest.mark.parametrize(
    ("status", "enforcement"),
    [("HEALTHY", ""), ("PROBATION", "probation"), ("SHUTDOWN", "shutdown"), ("<b>taro</b>", "")],
)
@pytest.mark.parametrize("provider", [QUEUED, ASKED])
async def test_a_look_tells_whether_ses_restricts_the_account(provider: Any, status: str, enforcement: str) -> None:
    fake = FakeSes()
    fake.enforcement = status
    assert await looked_at(provider, fake, a_look(OURS), Kept()) == Looked("", enforcement)


async def test_messages_that_cannot_be_deleted_make_the_look_incomplete() -> None:
    fake, kept = FakeSes(), Kept()
    fake.add(UUID(int=1), "id-1", "taro@example.jp", MailStatus.BOUNCED, "5.1.1", AT)

    def respond(request: httpx.Request) -> httpx.Response:
        headers = dict(request.headers)
        status, answered, body = fake.answer(request.method, request.url.raw_path.decode(), headers, request.content)
        if headers.get("x-amz-target", "").endswith("DeleteMessageBatch"):
            failed = {"Successful": [], "Failed": [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}]}
            body = json.dumps(failed).encode()
        return httpx.Response(status, headers=answered, content=body)

    assert await looked_through(QUEUED, respond, a_look(OURS), kept) == Looked("unexpected:200")
    assert len(kept.verdicts) == 1


# Insights -------------------------------------------------------------------------------------------------------------


def insight(*events: Mapping[str, Any]) -> dict[str, Any]:
    return {"MessageId": "id-1", "Insights": [{"Destination": "taro@example.jp", "Events": list(events)}]}


def insight_bounce(kind: str, subtype: str, said: str | None = None) -> dict[str, Any]:
    found = {"BounceType": kind, "BounceSubType": subtype, "DiagnosticCode": said}
    return {"Type": "BOUNCE", "Details": {"Bounce": found}}


@pytest.mark.parametrize(
    ("events", "status", "code"),
    [
        ([], None, ""),
        ([{"Type": "SEND"}], None, ""),
        ([{"Type": "SEND"}, {"Type": "DELIVERY_DELAY"}], MailStatus.DELAYED, ""),
        ([{"Type": "DELIVERY"}, {"Type": "DELIVERY_DELAY"}], MailStatus.DELIVERED, ""),
        ([{"Type": "CLICK"}], MailStatus.DELIVERED, ""),
        ([{"Type": "REJECT"}], MailStatus.REFUSED, ""),
        ([{"Type": "RENDERING_FAILURE"}], MailStatus.REFUSED, ""),
        ([insight_bounce("PERMANENT", "General", "smtp; 550 5.1.1 x")], MailStatus.BOUNCED, "5.1.1"),
        ([insight_bounce("PERMANENT", "General", "smtp; 550 5.7.1 x")], MailStatus.REFUSED, "5.7.1"),
        ([insight_bounce("PERMANENT", "OnAccountSuppressionList")], MailStatus.SUPPRESSED, ""),
        ([insight_bounce("TRANSIENT", "MailboxFull")], MailStatus.REFUSED, ""),
        ([insight_bounce("TRANSIENT", "General")], None, ""),
        ([insight_bounce("UNDETERMINED", "Undetermined")], MailStatus.REFUSED, ""),
        ([{"Type": "COMPLAINT", "Details": {"Complaint": {}}}, {"Type": "OPEN"}], MailStatus.COMPLAINED, ""),
        ([{"Type": "SOMETHING_NEW"}, None, 5], None, ""),
    ],
)
async def test_what_an_insight_means(events: list[Any], status: MailStatus | None, code: str) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.url.path in {"/v2/email/account", "/v2/email/insights/id-1/"}
        account = {"EnforcementStatus": "HEALTHY"}
        return httpx.Response(200, json=account if request.url.path.endswith("account") else insight(*events))

    kept = Kept()
    assert await looked_through(ASKED, respond, a_look(OURS), kept) == Looked()
    assert [(one.status, one.code, one.address) for one in kept.verdicts.values()] == (
        [(status, code, "taro@example.jp")] if status else []
    )


@pytest.mark.parametrize(("vdm", "probed"), [("ENABLED", ""), ("DISABLED", "no_right:VirtualDeliverabilityManager")])
async def test_insights_need_virtual_deliverability_manager(vdm: str, probed: str) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("account"):
            found = {"EnforcementStatus": "HEALTHY", "VdmAttributes": {"VdmEnabled": vdm}}
            return httpx.Response(200, json=found)
        return httpx.Response(404, json={"message": "x"}, headers={"x-amzn-ErrorType": "NotFoundException"})

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        assert await ASKED.make(client, "https://api.example").probe() == probed


async def test_one_insight_a_second_is_asked_for(autojump_clock: MockClock) -> None:
    fake, times = FakeSes(), list[float]()

    def respond(request: httpx.Request) -> httpx.Response:
        times.append(trio.current_time())
        status, headers, body = fake.answer("GET", request.url.raw_path.decode(), dict(request.headers), b"")
        return httpx.Response(status, headers=headers, content=body)

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        settings = SesSettings(access_key_id=FakeSes.key, secret_access_key="s", feedback_insights=True)
        reader = SesFeedback(client, settings, now=lambda: NOW)
        sent = {f"id-{number}": UUID(int=number) for number in range(3)}
        assert await reader.look(a_look(sent), Kept().keep) == Looked()
    *insights, _account = times
    assert [one - times[0] for one in insights] == pytest.approx([0, 1, 2])


async def test_more_mails_than_an_hour_has_turns_make_the_look_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer turns here: what is asked for is counted, and no time passes."""
    monkeypatch.setattr(reader_module, "MOST_INSIGHTS", 30)
    sent = {f"id-{number}": UUID(int=number) for number in range(31)}
    calls: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(404, json={"message": "x"}, headers={"x-amzn-ErrorType": "NotFoundException"})

    assert await looked_through(ASKED, respond, a_look(sent), Kept()) == Looked("too_many")
    assert len(calls) == 31


# Amazon's own descriptions, and its signature -------------------------------------------------------------------------


async def test_every_call_and_every_answer_of_the_tests_is_as_amazon_describes_it() -> None:
    fake, kept, checked = FakeSes(), Kept(), set[str]()
    for number, status in enumerate(MailStatus):
        fake.add(UUID(int=number), f"id-{number}", "taro@example.jp", status, "5.1.1", AT)
    seen: list[tuple[OperationModel, Any, Any]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        headers, target = dict(request.headers), request.url.raw_path.decode()
        status, answered, body = fake.answer(request.method, target, headers, request.content)
        if action := headers.get("x-amz-target"):
            assert (request.method, target, headers["content-type"]) == ("POST", "/", "application/x-amz-json-1.0")
            service, _, name = action.partition(".")
            assert service == sqs().metadata["targetPrefix"]
            called, found = sqs().operation_model(name), json.loads(request.content)
        elif target.startswith("/v2/email/insights/"):
            called = operation("GET", "/v2/email/insights/{MessageId}/")
            found = {"MessageId": target.split("/")[4]}
        else:
            called, found = operation(request.method, target), {}
        if status == 200:
            seen.append((called, found, json.loads(body)))
        return httpx.Response(status, headers=answered, content=body)

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        settings = evolve(ses_settings("https://api.example"), feedback_insights=True)
        reader = SesFeedback(client, settings, now=lambda: NOW, pace=0)
        assert await reader.probe() == ""
        sent = {f"id-{number}": UUID(int=number) for number in range(6)}
        assert await reader.look(a_look(sent), kept.keep) == Looked()
    for called, found, answer in seen:
        checked.add(called.name)
        assert schema_problems(called, found) == ""
        assert answer_problems(called, answer) == ""
    actions = {"GetQueueAttributes", "ReceiveMessage", "DeleteMessageBatch"}
    assert checked == {*actions, "GetAccount", "GetMessageInsights"}


@pytest.mark.parametrize("token", ["", "a-session-token"])
async def test_every_call_is_signed_as_botocore_signs_it(token: str) -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(500)

    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/feedback"
        settings = SesSettings(access_key_id="A", secret_access_key="s", session_token=token, feedback_queue=queue)
        await SesFeedback(client, settings, now=lambda: NOW).look(a_look(OURS), Kept().keep)
        settings = evolve(settings, feedback_queue="", feedback_insights=True)
        await SesFeedback(client, settings, now=lambda: NOW, pace=0).look(a_look({"a/b c": UUID(int=1)}), Kept().keep)
    assert [str(one.url) for one in requests] == [
        "https://sqs.eu-west-1.amazonaws.com/",
        "https://email.ap-northeast-1.amazonaws.com/v2/email/account",
        "https://email.ap-northeast-1.amazonaws.com/v2/email/insights/a%2Fb%20c/",
        "https://email.ap-northeast-1.amazonaws.com/v2/email/account",
    ]
    for one in requests:
        region, service = ("eu-west-1", "sqs") if "sqs" in one.url.host else ("ap-northeast-1", "ses")
        signed = one.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        unsigned = {name: one.headers[name] for name in signed if name not in {"x-amz-date", "x-amz-security-token"}}
        theirs = botocore_signs(
            Signer("A", "s", token, region, service), one.method, str(one.url), unsigned, one.content, NOW
        )
        assert theirs["Authorization"] == one.headers["authorization"]
