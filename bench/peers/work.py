"""The work that all peers share: who is due, what the messages say, what the audit log gets.

It is the same data, the same templates and the same calls as notifierd's, by the shortest way that we found: a mail's
text is rendered once for an office, and each member's name is put in. What a peer adds is how the work is handed out.
``peer.json`` in the working directory says where everything is.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import jinja2
import orjson
from markupsafe import escape

MAIL_SLOTS, PUSH_SLOTS = 5, 20
"""As many calls at once as notifierd makes by default."""

OFFICES = """
with members as (
    select s.office_id, json_agg(json_build_array(s.id, s.name, s.email) order by s.id) as members
    from notifierd.staff s where s.email_enabled group by 1
), alerts as (
    select a.office_id, min(a.due_on) as first,
           json_agg(json_build_array(a.recipient_name, a.due_on - {0}::date, a.due_on, a.cycle)
                    order by a.due_on, a.recipient_name) as alerts
    from notifierd.alerts a where a.due_on is null or a.due_on <= {0}::date + 30 group by 1
)
select o.id::text as office, o.name, m.members::text, a.alerts::text
from notifierd.offices o join members m on m.office_id = o.id join alerts a on a.office_id = o.id
order by a.first
"""
"""The offices with mails to send, the most urgent first: their members who want mails, and what is due in 30 days."""

DEVICES = """
with members as (
    select s.office_id, json_agg(json_build_array(s.id, d.id, d.endpoint, d.p256dh, d.auth) order by d.id) as members
    from notifierd.staff s join notifierd.devices d on d.staff_id = s.id where s.push_enabled group by 1
), alerts as (
    select a.office_id, count(a.due_on) as renewals, count(*) - count(a.due_on) as missing
    from notifierd.alerts a where a.due_on is null or a.due_on <= {0}::date + 10 group by 1
)
select o.id::text as office, o.name, m.members::text, json_build_array(a.renewals, a.missing)::text as alerts
from notifierd.offices o join members m on m.office_id = o.id join alerts a on a.office_id = o.id
"""
"""The offices with pushes to send: their members' devices, and how much is due in 10 days."""

MAIL_AUDIT = """
insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
select 'deadline_notification_sent', 'email_notification', unnest({}::uuid[]), {}::uuid, {}::jsonb
"""
PUSH_AUDIT = MAIL_AUDIT.replace("deadline_notification", "push_notification").replace("email_", "push_")

Member = Sequence[str]
"""Of a mail: id, name, address. Of a push: id, the device's id, its endpoint and its two keys."""

Office = Mapping[str, str]
"""A row of OFFICES or DEVICES."""


class Peer:
    """Where everything is, and the templates."""

    def __init__(self) -> None:
        found: dict[str, Any] = json.loads(Path("peer.json").read_text())
        self.dsn: str = found["dsn"]
        self.redis_url: str = found["redis_url"]
        self.mail_url: str = found["mail_url"]
        self.vapid_key: str = found["vapid_key"]
        self.push, self.single = bool(found["push"]), bool(found["single"])
        self.day = date.fromisoformat(found["day"])
        self.mail_headers = {"Authorization": f"Bearer {found['api_key']}", "Content-Type": "application/json"}
        self._sender: str = found["sender"]
        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(found["templates"]),
            autoescape=jinja2.select_autoescape(["html"]),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        templates.filters["pad"] = lambda text, among: text.rjust(max(map(len, among)))
        self._templates = [] if self.push else [templates.get_template(f"mail.ja.{part}") for part in _PARTS]

    def calls(self, members: Sequence[Member]) -> Iterator[Sequence[Member]]:
        """*members* by call: all of an office in one, or each alone."""
        return ([member] for member in members) if self.single or self.push else iter([members])

    def texts(self, office: Office) -> list[str]:
        """Subject, text and HTML of an office's mails, with a mark for the member's name."""
        context = self._context(office["name"], json.loads(office["alerts"]))
        return [template.render(context) for template in self._templates]

    def mail_call(
        self, office: str, texts: Sequence[str], members: Sequence[Member]
    ) -> tuple[str, bytes, dict[str, str]]:
        """URL, body and headers of the call that mails *members*."""
        items = [self._mail(office, texts, member) for member in members]
        body = orjson.dumps(items if len(items) > 1 else items[0])
        headers = {
            **self.mail_headers,
            "Idempotency-Key": str(uuid5(NAMESPACE_OID, f"{self.day}{office}{members[0][0]}")),
        }
        return f"{self.mail_url}/emails{'/batch' * (len(items) > 1)}", body, headers

    def payload(self, office: Office) -> bytes:
        """What an office's pushes say."""
        renewals, missing = json.loads(office["alerts"])
        body = f"更新期限: {renewals}件、アセスメント未完了: {missing}件"
        data = {"type": "deadline_alert", "office_id": office["office"], "office_name": office["name"]}
        return orjson.dumps({"title": f"期限アラート（{office['name']}）", "body": body, "data": data}).ljust(512)

    def _mail(self, office: str, texts: Sequence[str], member: Member) -> dict[str, object]:
        staff, name, address = member
        key = str(uuid5(NAMESPACE_OID, f"{self.day}{office}{staff}"))
        subject, text, html = texts
        return {
            "from": self._sender,
            "to": [address],
            "subject": subject,
            "html": html.replace(NAME, escape(name)),
            "text": text.replace(NAME, name),
            "headers": {"X-Entity-Ref-ID": key, "Message-ID": f"<{key}@mail.example.jp>"},
        }

    def _context(self, office: str, alerts: Sequence[tuple[str, int | None, str | None, int]]) -> dict[str, object]:
        """What the templates may use."""
        overdue = [alert for alert in alerts if alert[1] is not None and alert[1] <= 0]
        soon = [alert for alert in alerts if alert[1] is not None and alert[1] > 0]
        missing = [alert for alert in alerts if alert[1] is None]
        groups = [
            {"tone": tone, "title": title, "total": len(found), "rows": [_row(*alert) for alert in found]}
            for tone, title, found in (
                ("overdue", "期限超過・本日期限", overdue),
                ("soon", "期限間近", soon),
                ("missing", "アセスメント未完了", missing),
            )
            if found
        ]
        return {
            "office": office,
            "staff": NAME,
            "day": f"{self.day:%Y年%m月%d日}",
            "parts": [f"{group['title']}{group['total']}件" for group in groups],
            "groups": groups,
            "threshold": 30,
            "product": "notifierd",
            "dashboard_url": "https://keikakun.example.jp/dashboard",
        }


NAME = "\ufdd0"
_PARTS = ("subject.txt", "txt", "html")


def audit(office: Office) -> str:
    """The details of an audit row."""
    return json.dumps({"office_name": office["name"], "threshold_days": 30})


def _row(name: str, left: int | None, when: str | None, cycle: int) -> dict[str, str]:
    words = "" if left is None else f"あと{left}日" if left > 0 else f"{-left}日超過"
    return {"name": name, "when": when or "", "left": words, "cycle": f"第{cycle}期"}


def tasks(peer: Peer, offices: Iterable[Office]) -> Iterator[tuple[Office, list[Member]]]:
    """What a queue is given: a task for each call, with all that its mails are made from."""
    for office in offices:
        facts = {key: office[key] for key in ("office", "name", "alerts")}
        for members in peer.calls(json.loads(office["members"])):
            yield facts, list(members)
