"""SendGrid's email logs and its list of complaints (https://www.twilio.com/docs/sendgrid/api-reference/email-logs)."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from attrs import define, field

from notifierd.demo.servers.feedback.fake import Reply
from notifierd.model.feedback import MailStatus
from tests.support.feedback_servers.fake import Fake

STATUSES = {
    MailStatus.DELAYED: "deferred",
    MailStatus.DELIVERED: "delivered",
    MailStatus.REFUSED: "blocked",
    MailStatus.BOUNCED: "bounced",
    MailStatus.SUPPRESSED: "dropped",
}

TIME = re.compile(r'sg_message_id_created_at (>=|<|>|<=) TIMESTAMP "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"')
STATUS = re.compile(r"status IN \(('[a-z]+'(?:, '[a-z]+')*)\)")
TO = re.compile(r'to_email = "([^"\\]+)"')
"""Conditions as the description of the API has them."""


@define
class Message:
    """A mail as the logs show it: the worst that became of it is its status; a complaint is an event only."""

    sg_message_id: str
    address: str
    sent: datetime
    worst: MailStatus | None = None
    code: str = ""
    reported: datetime | None = None

    @property
    def status(self) -> str:
        return STATUSES[self.worst] if self.worst else "delivered"

    def told(self) -> dict[str, Any]:
        reason = "Bounced Address" if self.worst is MailStatus.SUPPRESSED else f"550 {self.code} as ordered"
        return {
            "from_email": "no-reply@example.jp",
            "sg_message_id": self.sg_message_id,
            "subject": "期限",
            "to_email": self.address,
            "reason": reason,
            "status": self.status,
            "sg_message_id_created_at": stamp(self.sent),
        }

    def detail(self) -> dict[str, Any]:
        head = {key: value for key, value in self.told().items() if key not in {"reason", "sg_message_id_created_at"}}
        event = {
            "email": self.address,
            "sg_message_id": self.sg_message_id,
            "sg_event_id": "e1",
            "timestamp": int(self.sent.timestamp()),
        }
        events: list[dict[str, Any]] = [{**event, "event": "processed", "smtp-id": "<1@ismtpd>"}]
        if self.reported:
            events.append({**event, "event": "spamreport", "timestamp": int(self.reported.timestamp())})
        return {**head, "events": events, "client_ip": "192.0.2.1", "api_key_id": "abc"}


def stamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@define
class FakeSendgrid(Fake):
    """The mails of an account, in no order."""

    messages: dict[str, Message] = field(factory=dict)

    def add(
        self, delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
    ) -> None:
        named = f"{message_id}.recvd-7d8c-1-69F0-{delivery_id.int % 100}.0"
        message = self.messages.setdefault(named, Message(named, address, at))
        if status is MailStatus.COMPLAINED:
            message.reported = at
        elif message.worst is None or message.worst.severity < status.severity:
            message.worst, message.code = status, code

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if headers.get("authorization") != f"Bearer {self.key}":
            return error(401, "The provided authorization grant is invalid, expired, or revoked")
        url = urlsplit(target)
        if (method, url.path) == ("POST", "/v3/logs"):
            return self._logs(json.loads(body))
        if method == "GET" and url.path.startswith("/v3/logs/"):
            message = self.messages.get(unquote(url.path.removeprefix("/v3/logs/")))
            return answer(message.detail()) if message else error(404, "message not found")
        if (method, url.path) == ("GET", "/v3/suppression/spam_reports"):
            query = {name: int(value) for name, (value,) in parse_qs(url.query).items()}
            return self._reports(query["start_time"], query["end_time"], query["limit"])
        return error(404, "not found")

    def _logs(self, asked: Mapping[str, Any]) -> Reply:
        if not 1 <= asked["limit"] <= 1000:
            return error(400, "limit must be between 1 and 1000")
        conditions = [condition_of(text) for text in asked["query"].split(" AND ")]
        found = [message for message in self.messages.values() if all(holds(message) for holds in conditions)]
        told = [message.told() for message in sorted(found, key=lambda message: message.sg_message_id[::-1])]
        return answer({"messages": told[: asked["limit"]]})

    def _reports(self, start: int, end: int, limit: int) -> Reply:
        if not 1 <= limit <= 500:
            return error(400, "limit must be at most 500")
        reports = [
            {"created": int(message.reported.timestamp()), "email": message.address, "ip": "192.0.2.1"}
            for message in self.messages.values()
            if message.reported and start <= int(message.reported.timestamp()) <= end
        ]
        return answer(reports[:limit])


def condition_of(text: str) -> Callable[[Message], bool]:
    if found := TIME.fullmatch(text):
        operator, time = found[1], found[2]
        return {
            ">=": lambda message: stamp(message.sent) >= time,
            ">": lambda message: stamp(message.sent) > time,
            "<=": lambda message: stamp(message.sent) <= time,
            "<": lambda message: stamp(message.sent) < time,
        }[operator]
    if found := STATUS.fullmatch(text):
        statuses = {status.strip("'") for status in found[1].split(", ")}
        return lambda message: message.status in statuses
    found = TO.fullmatch(text)
    assert found, text
    address = found[1]
    return lambda message: message.address == address


def answer(found: Any) -> Reply:
    return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


def error(status: int, message: str) -> Reply:
    found = {"errors": [{"message": message}]}
    return status, {"Content-Type": "application/json"}, json.dumps(found).encode()
