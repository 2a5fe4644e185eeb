"""SES' requests against programs that others wrote to stand in for it: aws-ses-v2-local (npm) and moto (PyPI).

Neither checks the signature (tests/send/test_sigv4.py does), and moto knows no SendBulkEmail. moto's SNS and SQS carry
the events that SES would publish.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from notifierd.config.providers import SesSettings
from notifierd.demo.servers.feedback.ses import event_of
from notifierd.model.feedback import MailStatus
from notifierd.model.message import Mail
from notifierd.model.outcome import Blocked, Deferred, Delivered, Outcome
from notifierd.send._answers import Answer, NoAnswer
from notifierd.send._http import Client, open_client
from notifierd.send.feedback import Look, Looked
from notifierd.send.feedback.ses import SET_UP, SesFeedback
from notifierd.send.mail.ses import BULK_BYTES, Ses
from tests.support.feedback import Kept
from tests.support.messages import mail
from tests.support.processes import Place, invent
from tests.system.programs import installed, serving

PROGRAM, VERSION = "aws-ses-v2-local", "2.10.2"
# The program's own command wants a newer node than Debian 12 has; what it starts does not.
START = f'require("{PROGRAM}").default({{host: "127.0.0.1", port: 0}}).then(s => console.log("port", s.address().port))'

SECRET = "secret-of-the-tests"


@pytest.fixture(scope="module")
def ses_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = installed(PROGRAM, VERSION)
    with serving(["node", "-e", START], r"port (\d+)", folder, tmp_path_factory.mktemp("ses") / "log") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("moto")
    server = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", "0"]
    with serving(server, r"http://127\.0\.0\.1:(\d+)", folder, folder / "log") as port:
        yield f"http://127.0.0.1:{port}"


async def send(base_url: str, *messages: Mail) -> list[Outcome]:
    settings = SesSettings(access_key_id="AKIA1", secret_access_key=SECRET, base_url=base_url)
    async with open_client(width=1) as client:
        sender = Ses(client, settings, now=lambda: datetime.now(UTC))
        return await sender.send(messages, sender.encode(messages), "")


def stored(ses_local: str) -> list[dict[str, Any]]:
    """The mails that aws-ses-v2-local took since it was asked last."""
    with httpx.Client(base_url=ses_local, trust_env=False) as client:
        emails: list[dict[str, Any]] = client.get("/store").raise_for_status().json()["emails"]
        client.post("/clear-store").raise_for_status()
    return emails


def ids(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [outcome.provider_message_id for outcome in outcomes if isinstance(outcome, Delivered)]


# aws-ses-v2-local ---------------------------------------------------------------------------------------------------


async def test_a_single_mail_arrives_whole(ses_local: str) -> None:
    stored(ses_local)
    sent = mail(
        1, sender="けいかくん <no-reply@example.jp>", reply_to="ask@example.jp", text='本日が期限\n{{x}} \\ "\n'
    )
    outcomes = await send(ses_local, sent)
    (found,) = stored(ses_local)
    assert ids(outcomes) == [found["messageId"]]
    assert found["from"] == "=?utf-8?b?44GR44GE44GL44GP44KT?= <no-reply@example.jp>"
    assert (found["replyTo"], found["destination"]["to"]) == (["ask@example.jp"], ["taro1@example.jp"])
    assert (found["subject"], found["body"]) == (sent.subject, {"text": sent.text, "html": sent.html})
    assert found["headers"] == [{"name": "Auto-Submitted", "value": "auto-generated"}]


async def test_a_bad_entry_of_a_bulk_call_harms_no_other(ses_local: str) -> None:
    """And each of the others says what its own mail says, whatever that is."""
    stored(ses_local)
    sent = [
        mail(1, subject="件名 {{text}}", text="一\n\\ \" ' & {{", html="<p>&lt;一&gt; {{{html}}} {{#if x}}</p>"),
        mail(2, to="nobody"),
        mail(3, subject="件名三", text="三", html="<style>a{b{c}}</style>", headers={"X-Entity-Ref-ID": "3"}),
    ]
    outcomes = await send(ses_local, *sent)
    assert outcomes[1] == Deferred("refused:item")
    found = stored(ses_local)
    assert ids(outcomes) == [each["messageId"] for each in found]
    for message, each in zip((sent[0], sent[2]), found, strict=True):
        assert each["destination"]["to"] == [message.to]
        shown = {"subject": each["subject"], **each["body"]}
        assert {name: value.replace("\u2060", "") for name, value in shown.items()} == {
            "subject": message.subject,
            "text": message.text,
            "html": message.html,
        }
    assert [each["headers"] for each in found] == [
        [{"name": "Auto-Submitted", "value": "auto-generated"}],
        [{"name": "X-Entity-Ref-ID", "value": "3"}],
    ]


async def test_fifty_mails_of_a_megabyte_in_one_call(ses_local: str) -> None:
    stored(ses_local)
    sent = [mail(n, html=f"<p>{n}</p>{'期' * 6300}") for n in range(50)]
    outcomes = await send(ses_local, *sent)
    found = stored(ses_local)
    assert ids(outcomes) == [each["messageId"] for each in found]
    assert [each["body"]["html"] for each in found] == [message.html for message in sent]
    assert sum(len(message.html.encode()) for message in sent) > 0.94 * BULK_BYTES


def test_a_run_sends_each_mail_once(ses_local: str, place: Place) -> None:
    """Offices with 51 staff: SendBulkEmail for 50 of them, SendEmail for the last."""
    stored(ses_local)
    rows = invent(2, staff=51)
    place.load(rows)
    ses = {"access_key_id": "AKIA1", "secret_access_key": SECRET, "base_url": ses_local}
    place.configure(email={"provider": "ses"}, **{"email.ses": ses})
    done = place.once()
    assert done.report["email"]["sent"] == len(rows.staff) == 102
    assert SECRET not in done.out + done.err
    found = Counter(address for each in stored(ses_local) for address in each["destination"]["to"])
    assert found == Counter(member.email for member in rows.staff)


# moto ---------------------------------------------------------------------------------------------------------------


async def test_moto_takes_mails_of_a_verified_sender_only(moto: str) -> None:
    assert await send(moto, mail()) == [Blocked("not_verified:400")]
    verify(moto, "example.jp")
    outcomes = await send(moto, mail(1))
    (found,) = messages(moto)
    assert ids(outcomes) == [found["id"]]
    assert found == {
        "id": found["id"],
        "source": "keikakun <no-reply@example.jp>",
        "destinations": {"ToAddresses": ["taro1@example.jp"]},
        "subject": "【期限アラート】ひまわり",
        "body": "<p>本日が期限</p>",
    }


def verify(moto: str, identity: str) -> None:
    url, headers = f"{moto}/v2/email/identities", {"Authorization": signature("ses")}
    httpx.post(url, json={"EmailIdentity": identity}, headers=headers, trust_env=False).raise_for_status()


def signature(service: str) -> str:
    """What moto reads of a signature: for which service it is, and where."""
    return f"AWS4-HMAC-SHA256 Credential=AKIA1/20261124/ap-northeast-1/{service}/aws4_request"


def messages(moto: str) -> list[dict[str, Any]]:
    found = httpx.get(f"{moto}/moto-api/data.json", trust_env=False).raise_for_status().json()
    taken: list[dict[str, Any]] = found["ses"]["Message"]
    return taken


# What became of mails: SES' events by moto's SNS and SQS --------------------------------------------------------------


def sns(moto: str, action: str, says: str, **parameters: str) -> str:
    form = {"Action": action, "Version": "2010-03-31", **parameters}
    answer = httpx.post(moto, data=form, headers={"Authorization": signature("sns")}, trust_env=False)
    found = re.search(f"<{says}>(.*)</{says}>", answer.raise_for_status().text)
    assert found, answer.text
    return found[1]


def sqs(moto: str, action: str, **parameters: Any) -> dict[str, Any]:
    headers = {
        "Authorization": signature("sqs"),
        "X-Amz-Target": f"AmazonSQS.{action}",
        "Content-Type": "application/x-amz-json-1.0",
    }
    answer = httpx.post(moto, json=parameters, headers=headers, trust_env=False).raise_for_status()
    found: dict[str, Any] = answer.json() if answer.content else {}
    return found


def a_queue(moto: str, name: str) -> tuple[str, list[str]]:
    """A queue with two topics in front of it, one that delivers events as they are, and one that wraps them."""
    queue = moto + urlsplit(sqs(moto, "CreateQueue", QueueName=name)["QueueUrl"]).path
    topics = []
    for raw in ("true", "false"):
        topic = sns(moto, "CreateTopic", "TopicArn", Name=f"{name}-{raw}")
        raw_delivery = {"Attributes.entry.1.key": "RawMessageDelivery", "Attributes.entry.1.value": raw}
        endpoint = f"arn:aws:sqs:ap-northeast-1:123456789012:{name}"
        sns(moto, "Subscribe", "SubscriptionArn", TopicArn=topic, Protocol="sqs", Endpoint=endpoint, **raw_delivery)
        topics.append(topic)
    return queue, topics


def remaining(moto: str, queue: str) -> list[str]:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs(moto, "GetQueueAttributes", QueueUrl=queue, AttributeNames=names)["Attributes"]
    return [found[name] for name in names]


class Noting(Client):
    """Notes the receipts of the messages that were received."""

    def __init__(self, client: Client) -> None:
        self.inner, self.receipts = client, list[str]()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer | NoAnswer:
        answer = await self.inner.post(url, body, headers)
        if isinstance(answer, Answer) and headers["X-Amz-Target"].endswith("ReceiveMessage"):
            self.receipts += [one["ReceiptHandle"] for one in json.loads(answer.body).get("Messages", [])]
        return answer

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer | NoAnswer:
        return await self.inner.get(url, headers)


class Stopped(Exception):
    pass


async def test_events_are_read_until_the_queue_is_empty_however_often_they_are_handed_out(moto: str) -> None:
    """Twice the process ends after it has received some of them, and they come again."""
    queue, topics = a_queue(moto, "feedback")
    now, sent, expected = datetime.now(UTC), dict[str, UUID](), dict[UUID, MailStatus]()
    for topic in topics:
        sns(moto, "Publish", "MessageId", TopicArn=topic, Message=SET_UP)
    for number in range(24):
        status = list(MailStatus)[number % 6]
        delivery_id, sent_id = UUID(int=number), f"010601-{number}-000000"
        sent[sent_id], expected[delivery_id] = delivery_id, status
        event = event_of(delivery_id, sent_id, "taro@example.jp", status, "", now)
        for topic in topics:
            sns(moto, "Publish", "MessageId", TopicArn=topic, Message=json.dumps(event))
    assert remaining(moto, queue) == ["50", "0"]

    async def stops(_verdicts: object) -> None:
        raise Stopped

    kept = Kept()
    look = Look(now - timedelta(hours=1), now + timedelta(minutes=1), sent)
    async with open_client(width=1) as client:
        noting = Noting(client)
        settings = SesSettings(access_key_id="AKIA1", secret_access_key=SECRET, base_url=moto, feedback_queue=queue)
        reader = SesFeedback(noting, settings, now=lambda: datetime.now(UTC))
        for _ in range(2):
            noting.receipts.clear()
            with pytest.raises(Stopped):
                await reader.look(look, stops)
            for receipt in noting.receipts:
                sqs(moto, "ChangeMessageVisibility", QueueUrl=queue, ReceiptHandle=receipt, VisibilityTimeout=0)
        assert await reader.look(look, kept.keep) == Looked()
    assert kept.statuses == expected
    assert remaining(moto, queue) == ["0", "0"]


async def test_a_queue_that_does_not_exist_is_named_by_the_probe(moto: str) -> None:
    async with open_client(width=1) as client:
        queue = f"{moto}/123456789012/not-there"
        settings = SesSettings(access_key_id="AKIA1", secret_access_key=SECRET, base_url=moto, feedback_queue=queue)
        assert await SesFeedback(client, settings, now=lambda: datetime.now(UTC)).probe() == "not_found:400"
