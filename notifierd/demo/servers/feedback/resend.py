"""Resend's list of sent mails, and its metrics.

https://resend.com/docs/api-reference/emails/list-emails and https://github.com/resend/resend-openapi.
"""
# ruff: noqa: PLR0913, PLR0917 - what happened to a mail has this many parts

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from attrs import define

from notifierd.demo.servers.feedback.fake import Fake, Reply, query_of, reply
from notifierd.model.feedback import MailStatus

_MOST: Final = 100
_DEFAULT: Final = 20

_EVENTS: Final = {
    MailStatus.DELAYED: "delivery_delayed",
    MailStatus.DELIVERED: "delivered",
    MailStatus.REFUSED: "bounced",
    MailStatus.BOUNCED: "bounced",
    MailStatus.SUPPRESSED: "suppressed",
    MailStatus.COMPLAINED: "complained",
}


@define
class _Mail:
    id: str
    address: str
    at: datetime
    status: MailStatus
    event: str


class FakeResend(Fake):
    """The mails of a team, each with the gravest thing that happened to it.

    Attributes:
        refuses_metrics: the status of the metrics' answer, if the plan does not have them.
    """

    refuses_metrics: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._mails: dict[str, _Mail] = {}

    def add(
        self,
        delivery_id: UUID,  # noqa: ARG002 - Resend knows its own id only
        message_id: str,
        address: str,
        status: MailStatus,
        code: str,  # noqa: ARG002 - Resend tells none
        at: datetime,
    ) -> None:
        known = self._mails.get(message_id)
        if known is None:
            self._mails[message_id] = _Mail(message_id, address, at, status, _EVENTS[status])
        elif status.severity > known.status.severity:
            known.status, known.event = status, _EVENTS[status]

    def add_event(self, message_id: str, address: str, event: str, at: datetime) -> None:
        """Note a mail with any last event."""
        self._mails[message_id] = _Mail(message_id, address, at, MailStatus.DELAYED, event)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:  # noqa: ARG002 - GET
        if headers.get("authorization") == "Bearer sending-key":
            return _error(401, "restricted_api_key", "This API key is restricted to only send emails")
        if headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "validation_error", "API key is invalid")
        match method, urlsplit(target).path:
            case "GET", "/emails":
                return self._list(query_of(target))
            case "GET", "/emails/metrics":
                return self._metrics(query_of(target))
        return _error(404, "not_found", "The requested endpoint does not exist.")

    def _list(self, query: Mapping[str, str]) -> Reply:
        limit = int(query.get("limit", _DEFAULT))
        if not 1 <= limit <= _MOST:
            return _error(422, "validation_error", "The limit must be between 1 and 100.")
        mails = sorted(self._mails.values(), key=lambda mail: (mail.at, mail.id), reverse=True)
        if "after" in query:
            places = {mail.id: place for place, mail in enumerate(mails)}
            if query["after"] not in places:
                return _error(422, "validation_error", "The cursor does not exist.")
            mails = mails[places[query["after"]] + 1 :]
        page = [_item(mail) for mail in mails[:limit]]
        return reply(200, {"object": "list", "has_more": len(mails) > limit, "data": page})

    def _metrics(self, query: Mapping[str, str]) -> Reply:
        if self.refuses_metrics is not None:
            return _error(self.refuses_metrics, "not_found", "The requested endpoint does not exist.")
        ids, metrics = query["email_id"].split(","), query["metrics"].split(",")
        if len(ids) > _MOST or query["dimensions"] != "email":
            return _error(422, "validation_error", "At most 100 ids.")
        counts = {one: self._counts(one, metrics) for one in ids}
        now = datetime.now(UTC).isoformat()
        start = query.get("start_date", now)
        totals = {name: sum(count[name] for count in counts.values()) for name in metrics}
        found = {"start_date": start, "end_date": now, "metrics": metrics, "dimensions": ["email"], "totals": totals}
        rows = [{"email_id": one, **count} for one, count in counts.items()]
        return reply(200, {"object": "metrics", "granularity": "daily", **found, "data": rows})

    def _counts(self, message_id: str, metrics: Sequence[str]) -> dict[str, int]:
        status = self._mails[message_id].status if message_id in self._mails else None
        told = {MailStatus.BOUNCED: "bounced_permanent", MailStatus.REFUSED: "bounced_transient"}
        return {name: int(status is not None and told.get(status) == name) for name in metrics}


def _item(mail: _Mail) -> dict[str, Any]:
    return {
        "id": mail.id,
        "message_id": f"<{mail.id}@resend.example>",
        "to": [mail.address],
        "from": "keikakun <no-reply@example.jp>",
        "created_at": mail.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"),
        "subject": "Reminder",
        "bcc": [],
        "cc": [],
        "reply_to": [],
        "last_event": mail.event,
        "scheduled_at": None,
    }


def _error(status: int, name: str, message: str) -> Reply:
    return reply(status, {"statusCode": status, "name": name, "message": message})
