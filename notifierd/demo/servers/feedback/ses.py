"""A queue of Amazon SQS with SES' events, SES' insights, and its account.

https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-examples.html and
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/.
"""
# ruff: noqa: PLR0913, PLR0917 - what happened to a mail has this many parts

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from attrs import define

from notifierd.demo.servers.feedback.fake import Fake, Reply, reply
from notifierd.model.feedback import MailStatus

QUEUE: Final = "/123456789012/notifierd-feedback"
_MOST: Final = 10

_INSIGHTS: Final = {
    MailStatus.DELAYED: "DELIVERY_DELAY",
    MailStatus.DELIVERED: "DELIVERY",
    MailStatus.COMPLAINED: "COMPLAINT",
}


@define
class _Message:
    """A message of the queue: its body, and whether it is hidden because it was handed out."""

    body: str
    hidden: bool = False


class FakeSes(Fake):
    """Events in a queue, each there twice: as it is, and inside SNS' envelope.

    Attributes:
        messages: what is in the queue, by receipt.
        enforcement: EnforcementStatus of the account.
        denied: actions for which the user has no permission, such as ``GetAccount``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, _Message] = {}
        self.enforcement = "HEALTHY"
        self.denied: set[str] = set()
        self._insights: dict[str, dict[str, Any]] = {}
        self._numbers = count(1)

    def add(
        self, delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
    ) -> None:
        event = event_of(delivery_id, message_id, address, status, code, at)
        self.put(json.dumps(event))
        self.put(json.dumps(enveloped(event)))
        known = self._insights.setdefault(message_id, {"Destination": address, "Events": []})
        known["Events"].append(_insight(status, code, at))

    def put(self, body: str) -> None:
        """Put a message into the queue."""
        self.messages[f"receipt-{next(self._numbers)}"] = _Message(body)

    def later(self) -> None:
        for message in self.messages.values():
            message.hidden = False

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if f"Credential={self.key}/" not in headers.get("authorization", ""):
            return _error(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        path = urlsplit(target).path
        if action := headers.get("x-amz-target", "").removeprefix("AmazonSQS."):
            return self._sqs(action, json.loads(body))
        action = "GetAccount" if path == "/v2/email/account" else "GetMessageInsights"
        if method != "GET" or not path.startswith("/v2/email/"):
            return _error(404, "UnknownOperationException", "")
        if action in self.denied:
            return _error(403, "AccessDeniedException", f"User is not authorized to perform: ses:{action}")
        if action == "GetAccount":
            found = {"EnforcementStatus": self.enforcement, "VdmAttributes": {"VdmEnabled": "ENABLED"}}
            return reply(200, {**found, "SendingEnabled": True, "ProductionAccessEnabled": True})
        message_id = path.removeprefix("/v2/email/insights/").rstrip("/")
        if message_id not in self._insights:
            return _error(404, "NotFoundException", "Message not found.")
        insight = self._insights[message_id]
        return reply(200, {"MessageId": message_id, "Subject": "Reminder", "Insights": [insight]})

    def _sqs(self, action: str, found: Mapping[str, Any]) -> Reply:
        if action in self.denied:
            return _sqs_error(403, "com.amazon.coral.service#AccessDeniedException")
        if urlsplit(found["QueueUrl"]).path != QUEUE:
            return _sqs_error(400, "com.amazonaws.sqs#QueueDoesNotExist")
        match action:
            case "GetQueueAttributes":
                return _sqs_reply(200, {"Attributes": {"QueueArn": "arn:aws:sqs:ap-northeast-1:123456789012:queue"}})
            case "ReceiveMessage":
                return self._receive(found["MaxNumberOfMessages"])
            case "DeleteMessageBatch":
                for entry in found["Entries"]:
                    self.messages.pop(entry["ReceiptHandle"], None)
                done = [{"Id": entry["Id"]} for entry in found["Entries"]]
                return _sqs_reply(200, {"Successful": done, "Failed": []})
        return _sqs_error(400, "com.amazonaws.sqs#UnsupportedOperation")

    def _receive(self, most: int) -> Reply:
        if not 1 <= most <= _MOST:
            return _sqs_error(400, "com.amazonaws.sqs#InvalidParameterValue")
        given: list[dict[str, str]] = []
        for receipt, message in self.messages.items():
            if not message.hidden and len(given) < most:
                message.hidden = True
                digest = hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest()
                given.append(
                    {"MessageId": str(uuid4()), "ReceiptHandle": receipt, "MD5OfBody": digest, "Body": message.body}
                )
        return _sqs_reply(200, {"Messages": given} if given else {})


def event_of(
    delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
) -> dict[str, Any]:
    """Return the event that SES publishes."""
    stamp = _stamp(at)
    who = {"emailAddress": address, **({"action": "failed", "status": code} if code else {})}
    complaint = {"complainedRecipients": [{"emailAddress": address}], "timestamp": stamp, "feedbackId": "f"}
    kind, name, details = {
        MailStatus.DELAYED: ("DeliveryDelay", "deliveryDelay", {"delayType": "General", "delayedRecipients": [who]}),
        MailStatus.DELIVERED: ("Delivery", "delivery", {"recipients": [address], "smtpResponse": "250 ok"}),
        MailStatus.REFUSED: ("Bounce", "bounce", _bounce("Transient", "MailboxFull", who, stamp)),
        MailStatus.BOUNCED: ("Bounce", "bounce", _bounce("Permanent", "General", who, stamp)),
        MailStatus.SUPPRESSED: ("Bounce", "bounce", _bounce("Permanent", "OnAccountSuppressionList", who, stamp)),
        MailStatus.COMPLAINED: ("Complaint", "complaint", {**complaint, "complaintFeedbackType": "abuse"}),
    }[status]
    mail = {
        "timestamp": stamp,
        "messageId": message_id,
        "source": "no-reply@example.jp",
        "sendingAccountId": "123456789012",
        "destination": [address],
        "headersTruncated": False,
        "headers": [
            {"name": "Subject", "value": "Reminder"},
            {"name": "X-Entity-Ref-ID", "value": str(delivery_id)},
        ],
    }
    return {"eventType": kind, "mail": mail, name: details}


def enveloped(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return SNS' notification of an event, as it comes without raw delivery."""
    return {
        "Type": "Notification",
        "MessageId": str(uuid4()),
        "TopicArn": "arn:aws:sns:ap-northeast-1:123456789012:ses-events",
        "Message": json.dumps(event),
        "Timestamp": event["mail"]["timestamp"],
        "SignatureVersion": "1",
    }


def _bounce(kind: str, subtype: str, who: Mapping[str, str], stamp: str) -> dict[str, Any]:
    return {
        "bounceType": kind,
        "bounceSubType": subtype,
        "bouncedRecipients": [who],
        "timestamp": stamp,
        "feedbackId": "f",
    }


def _insight(status: MailStatus, code: str, at: datetime) -> dict[str, Any]:
    event: dict[str, Any] = {"Timestamp": at.timestamp(), "Type": _INSIGHTS.get(status, "BOUNCE")}
    kind, subtype = {
        MailStatus.REFUSED: ("TRANSIENT", "MailboxFull"),
        MailStatus.BOUNCED: ("PERMANENT", "General"),
        MailStatus.SUPPRESSED: ("PERMANENT", "OnAccountSuppressionList"),
    }.get(status, ("", ""))
    if kind:
        said = f"smtp; 550 {code} as ordered"
        event["Details"] = {"Bounce": {"BounceType": kind, "BounceSubType": subtype, "DiagnosticCode": said}}
    return event


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(status: int, kind: str, message: str) -> Reply:
    return reply(status, {"message": message}, x_amzn_ErrorType=kind)


def _sqs_error(status: int, kind: str) -> Reply:
    return _sqs_reply(status, {"__type": kind, "message": "As ordered."})


def _sqs_reply(status: int, found: object) -> Reply:
    return reply(status, found, Content_Type="application/x-amz-json-1.0", x_amzn_RequestId=str(uuid4()))
