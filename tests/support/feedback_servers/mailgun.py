"""Mailgun's logs (https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/logs)."""

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Literal
from uuid import UUID

from attrs import define, field

from notifierd.demo.servers.feedback.fake import Reply
from notifierd.model.feedback import MailStatus
from tests.support.feedback_servers.fake import Fake

DOMAIN = "mg.example.jp"
MOST = 100

KINDS: Mapping[MailStatus, Mapping[str, Any]] = {
    MailStatus.DELAYED: {
        "event": "failed",
        "severity": "temporary",
        "reason": "generic",
        "delivery-status": {"code": 451, "retry-seconds": 600, "attempt-no": 1},
    },
    MailStatus.DELIVERED: {"event": "delivered", "delivery-status": {"code": 250, "message": "OK"}},
    MailStatus.REFUSED: {
        "event": "failed",
        "severity": "permanent",
        "reason": "generic",
        "delivery-status": {"code": 552, "bounce-type": "soft"},
    },
    MailStatus.BOUNCED: {
        "event": "failed",
        "severity": "permanent",
        "reason": "bounce",
        "delivery-status": {"code": 550, "bounce-type": "hard"},
    },
    MailStatus.SUPPRESSED: {
        "event": "failed",
        "severity": "permanent",
        "reason": "suppress-bounce",
        "delivery-status": {"code": 605, "message": "Not delivering to previously bounced address"},
    },
    MailStatus.COMPLAINED: {"event": "complained"},
}


@define
class FakeMailgun(Fake):
    """A domain's events, by pages.

    Attributes:
        page: the most events of a page, at most `MOST`.
        last: what the last page names as the next one: one without events, none, or itself.
    """

    page: int = MOST
    last: Literal["empty", "none", "itself"] = "empty"
    events: list[dict[str, Any]] = field(factory=list)

    def add(
        self, delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
    ) -> None:
        kind = json.loads(json.dumps(KINDS[status]))
        if code:
            kind.setdefault("delivery-status", {})["enhanced-code"] = code
        headers = {
            "to": address,
            "message-id": message_id.strip("<>"),
            "from": "no-reply@example.jp",
            "subject": "期限",
        }
        self.events.append(
            {
                "id": f"event-{len(self.events)}",
                "@timestamp": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "domain": {"name": DOMAIN},
                "recipient": address,
                "recipient-domain": str(address).partition("@")[2],
                "message": {"headers": headers, "size": 1234},
                "log-level": "info",
                **kind,
            }
        )

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if headers.get("authorization") != f"Basic {b64encode(f'api:{self.key}'.encode()).decode()}":
            return 401, {"Content-Type": "text/plain"}, b"Forbidden"
        if (method, target) != ("POST", "/v1/analytics/logs"):
            return 404, {}, b'{"message": "Not Found"}'
        asked = json.loads(body)
        paging = asked["pagination"]
        if not 1 <= paging["limit"] <= MOST or paging["sort"] != "timestamp:asc":
            return 400, {}, b'{"message": "bad pagination"}'
        start, end = (parsedate_to_datetime(asked[name]) for name in ("start", "end"))
        (condition,) = asked["filter"]["AND"]
        domains = {value["value"] for value in condition["values"]}
        assert (condition["attribute"], condition["comparator"]) == ("domain", "=")
        found = [
            event
            for event in sorted(self.events, key=lambda event: str(event["@timestamp"]))
            if start <= datetime.fromisoformat(event["@timestamp"]) <= end
            and event["event"] in asked["events"]
            and event["domain"]["name"] in domains
        ]
        size = min(paging["limit"], self.page)
        offset = int(paging.get("token", "at-0").removeprefix("at-"))
        final = max(len(found) - 1, 0) // size * size
        pages = {"first": "at-0", "last": f"at-{final}", "total": len(found)}
        if offset < final or self.last == "empty":
            pages["next"] = f"at-{offset + size}"
        elif self.last == "itself":
            pages["next"] = f"at-{final}"
        told = {
            "start": format_datetime(start),
            "end": format_datetime(end),
            "items": found[offset : offset + size],
            "pagination": pages,
            "aggregates": {},
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()
