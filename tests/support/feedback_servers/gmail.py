"""The mailbox of a Gmail user, with the bounce mails that Google and other servers send."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from attrs import define, field

from notifierd.demo.servers.feedback.fake import Reply
from notifierd.model.feedback import MailStatus
from tests.support.feedback_servers.fake import Fake
from tests.support.google_api import ACCOUNT

ACTIONS = {
    MailStatus.DELAYED: ("delayed", "4.4.1"),
    MailStatus.REFUSED: ("failed", "5.7.1"),
    MailStatus.BOUNCED: ("failed", "5.1.1"),
}

QUERY = re.compile(r"\{from:mailer-daemon from:postmaster\} after:(\d+) before:(\d+) smaller:(\d+)")

BOUNCE = """\
Delivered-To: no-reply@example.jp
From: Mail Delivery Subsystem <mailer-daemon@googlemail.com>
To: no-reply@example.jp
Auto-Submitted: auto-replied
Subject: Delivery Status Notification
In-Reply-To: <{message_id}>
Message-ID: <{number}.bounce@mx.google.com>
Date: {date}
MIME-Version: 1.0
Content-Type: multipart/report; boundary="0000000000{number}"; report-type=delivery-status

--0000000000{number}
Content-Type: multipart/related; boundary="inner"

--inner
Content-Type: text/plain; charset="UTF-8"

** Address not found **

--inner--
--0000000000{number}
Content-Type: message/delivery-status

Reporting-MTA: dns; googlemail.com
Received-From-MTA: dns; no-reply@example.jp
Arrival-Date: {date}
X-Original-Message-ID: <{message_id}>

Final-Recipient: rfc822; {address}
Action: {action}
Status: {code}
Remote-MTA: dns; mx.example.com. (192.0.2.1, the server for the domain example.com.)
Diagnostic-Code: smtp; 550 {code} as ordered
Last-Attempt-Date: {date}

--0000000000{number}
Content-Type: message/rfc822

From: keikakun <no-reply@example.jp>
To: {address}
Subject: =?utf-8?b?5pyf6ZmQ?=
Message-ID: <{message_id}>
X-Entity-Ref-ID: {delivery_id}
MIME-Version: 1.0
Content-Type: text/plain; charset="utf-8"

Action: failed

--0000000000{number}--
"""


@define
class FakeGmail(Fake):
    """A mailbox, the newest mail first.

    Attributes:
        mails: by id: when each came, and its text.
        page: the most mails of a page.
        scope_granted: whether the delegation has the scope that reads mails.
    """

    mails: dict[str, tuple[datetime, bytes]] = field(factory=dict)
    page: int = 500
    scope_granted: bool = True

    def add(
        self, delivery_id: UUID, message_id: str, address: str, status: MailStatus, code: str, at: datetime
    ) -> None:
        """Let a bounce mail come, if that is how *status* becomes known. Gmail's *message_id* is not in it."""
        if status not in ACTIONS:
            return
        action, usual = ACTIONS[status]
        text = BOUNCE.format(
            number=len(self.mails),
            message_id=f"{delivery_id}@example.jp",
            delivery_id=delivery_id,
            address=address,
            action=action,
            code=code or usual,
            date=format_datetime(at),
        )
        self.receive(text.replace("\n", "\r\n").encode(), at)

    def receive(self, raw: bytes, at: datetime) -> None:
        self.mails[f"m{len(self.mails)}"] = (at, raw)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        url = urlsplit(target)
        if (method, url.path) == ("POST", "/token"):
            (assertion,) = parse_qs(body.decode())["assertion"]
            claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
            if claims["iss"] != ACCOUNT:
                return told(401, {"error": "invalid_client", "error_description": "The account does not exist."})
            if not self.scope_granted:
                return told(401, {"error": "unauthorized_client", "error_description": "not authorized for a scope"})
            return told(200, {"access_token": "t1", "expires_in": 3599, "token_type": "Bearer"})
        if headers.get("authorization") != "Bearer t1":
            return problem(401, "authError")
        query = {name: value for name, (value,) in parse_qs(url.query).items()}
        if url.path == "/gmail/v1/users/me/messages":
            return self._list(query)
        found = self.mails.get(url.path.removeprefix("/gmail/v1/users/me/messages/"))
        if found is None:
            return problem(404, "notFound")
        assert query == {"format": "raw"}
        raw = base64.urlsafe_b64encode(found[1]).decode()
        return told(200, {"id": url.path.rpartition("/")[2], "threadId": "t", "labelIds": ["INBOX"], "raw": raw})

    def _list(self, query: Mapping[str, str]) -> Reply:
        search = QUERY.fullmatch(query["q"])
        assert search, query["q"]
        after, before, smaller = map(int, search.groups())
        found = [
            mail_id
            for mail_id, (at, raw) in sorted(self.mails.items(), key=lambda pair: pair[1][0], reverse=True)
            if after < at.timestamp() < before and len(raw) < smaller
        ]
        size, offset = min(int(query["maxResults"]), self.page), int(query.get("pageToken", "0"))
        page = {
            "messages": [{"id": mail_id, "threadId": mail_id} for mail_id in found[offset : offset + size]],
            "resultSizeEstimate": len(found),
        }
        if not page["messages"]:
            del page["messages"]
        if offset + size < len(found):
            page["nextPageToken"] = str(offset + size)
        return told(200, page)


def told(status: int, found: Any) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(found).encode()


def problem(status: int, reason: str) -> Reply:
    error = {"code": status, "message": "as ordered", "errors": [{"reason": reason, "message": "as ordered"}]}
    return told(status, {"error": error})
