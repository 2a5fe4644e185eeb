"""Postmark's list of bounces: https://postmarkapp.com/developer/api/bounce-api#bounces."""
# ruff: noqa: PLR0913, PLR0917 - what happened to a mail has this many parts

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo

from notifierd.demo.servers.feedback.fake import Fake, Reply, query_of, reply
from notifierd.model.feedback import MailStatus

_EASTERN: Final = ZoneInfo("America/New_York")
_MOST: Final = 500
_FURTHEST: Final = 10_000
_STREAM: Final = "outbound"

_TYPES: Final = {
    MailStatus.DELAYED: ("Transient", 2),
    MailStatus.REFUSED: ("SoftBounce", 4096),
    MailStatus.BOUNCED: ("HardBounce", 1),
    MailStatus.SUPPRESSED: ("ManuallyDeactivated", 100002),
    MailStatus.COMPLAINED: ("SpamComplaint", 100001),
}


class FakePostmark(Fake):
    """The bounces of one server, in one stream.

    Attributes:
        bounces: all of them, in the order of their addition.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bounces: list[dict[str, Any]] = []

    def add(
        self,
        delivery_id: UUID,  # noqa: ARG002 - the list has no Message-ID
        message_id: str,
        address: str,
        status: MailStatus,
        code: str,
        at: datetime,
    ) -> None:
        if status is not MailStatus.DELIVERED:
            self.add_bounce(message_id, address, *_TYPES[status], code, at)

    def add_bounce(self, message_id: str, address: str, kind: str, number: int, code: str, at: datetime) -> None:
        """Note a bounce of any type."""
        self.bounces.append(
            {
                "RecordType": "Bounce",
                "ID": len(self.bounces) + 1,
                "Type": kind,
                "TypeCode": number,
                "Name": kind,
                "Tag": "",
                "MessageID": message_id,
                "ServerID": 1,
                "MessageStream": _STREAM,
                "Description": "What became of it.",
                "Details": f"smtp;550 {code} as ordered".replace("  ", " "),
                "Email": address,
                "From": "no-reply@example.jp",
                "BouncedAt": at.astimezone(_EASTERN).isoformat(timespec="microseconds"),
                "DumpAvailable": False,
                "Inactive": kind == "HardBounce",
                "CanActivate": kind == "HardBounce",
                "Subject": "Reminder",
            }
        )

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:  # noqa: ARG002 - GET
        query = query_of(target)
        if headers.get("x-postmark-server-token") != self.key:
            return _error(401, 10, "Bad or missing Server API token.")
        if (method, urlsplit(target).path) != ("GET", "/bounces"):
            return _error(404, 404, "Not found.")
        count, offset = int(query["count"]), int(query["offset"])
        if not 0 < count <= _MOST or offset < 0 or count + offset > _FURTHEST:
            return _error(422, 700, "Count and offset are out of range.")
        found = [bounce for bounce in self.bounces if _matches(bounce, query)]
        found.sort(key=lambda bounce: datetime.fromisoformat(bounce["BouncedAt"]), reverse=True)
        return reply(200, {"TotalCount": len(found), "Bounces": found[offset : offset + count]})


def _matches(bounce: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    at = datetime.fromisoformat(bounce["BouncedAt"])
    since, until = (
        datetime.fromisoformat(query[name]).replace(tzinfo=_EASTERN) if name in query else at
        for name in ("fromdate", "todate")
    )
    return query.get("messagestream", _STREAM) == _STREAM and since <= at <= until + timedelta(microseconds=999_999)


def _error(status: int, code: int, message: str) -> Reply:
    return reply(status, {"ErrorCode": code, "Message": message})
