"""The shape of the batch that notifierd replaces, written anew from the report on it.

``python -m bench.old_batch`` tells the offices of ``./config.toml`` as that batch did, repaired so that it works, and
prints the seconds on a processor that it took after its start.

What is in, as it was: five queries at the start; offices gathered, 10 at once, and their members one after the other;
a mail rendered by Jinja and posted in a request of its own, through a limiter of 5 that pauses for 0.1 s with its slot
in hand; pushes that block the event loop; an audit row for each mail and for each member pushed to, by a statement
each, in the one session that all offices share, a lock around it.

What is not, all in its favour: SQLAlchemy between it and the session (here it is asyncpg); the thresholds of odd
preferences, which the views' SQL works out here; SMTP, as the mail API is asked over connections that are kept; tries
again, as nothing fails. What it had not: a text beside the HTML (`Renderer` makes both, the text is thrown away), and
recipients who are overdue, so that its mails say as much as ours.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
from attrs import frozen
from pywebpush import webpush

from notifierd.choose import Rules, chosen
from notifierd.config import load_for_sending
from notifierd.model import Alert, Channel, Delivery, Device, Kind, Notice, Staff
from notifierd.render import Renderer
from notifierd.settings import Settings
from tests.processes import DAY

OFFICES, MAILS, PAUSE = 10, 5, 0.1

OFFICE = "select id, name from notifierd.offices"
STAFF = "select * from notifierd.staff where office_id = any ($1)"
RENEWALS = "select * from notifierd.alerts where kind = 'renewal' and office_id = any ($1) and due_on <= $2::date + 30"
ASSESSMENTS = "select * from notifierd.alerts where kind = 'assessment' and office_id = any ($1)"
DEVICES = "select * from notifierd.devices where staff_id = any ($1)"
AUDIT = """
insert into notifierd.audit_log (action, target_type, target_id, office_id, details) values ($1, $2, $3, $4, $5::jsonb)
"""

Audit = Callable[[str, str, Notice], Awaitable[None]]


@frozen
class Told:
    """All that there is to tell, by office or staff member."""

    offices: Mapping[UUID, str]
    staff: Mapping[UUID, list[Staff]]
    alerts: Mapping[UUID, list[Alert]]
    devices: Mapping[UUID, list[Device]]


async def read(session: asyncpg.Connection) -> Told:
    """Read everything, in five queries."""
    offices = {row["id"]: row["name"] for row in await session.fetch(OFFICE)}
    told = Told(offices, {office: [] for office in offices}, {office: [] for office in offices}, {})
    for row in await session.fetch(STAFF, list(offices)):
        office, *columns = row.values()
        told.staff[office].append(Staff(*columns))
    for row in [*await session.fetch(RENEWALS, list(offices), DAY), *await session.fetch(ASSESSMENTS, list(offices))]:
        office, recipient, name, kind, due_on, cycle = row.values()
        told.alerts[office].append(Alert(recipient, name, Kind(kind), due_on, cycle))
    members = [one.id for group in told.staff.values() for one in group]
    devices = {member: list[Device]() for member in members}
    for row in await session.fetch(DEVICES, members):
        devices[row["staff_id"]].append(Device(*row.values()))
    return Told(told.offices, told.staff, told.alerts, devices)


@frozen
class Batch:
    """What all offices share."""

    settings: Settings
    renderer: Renderer
    client: httpx.AsyncClient
    mails: asyncio.Semaphore
    audit: Audit

    async def tell_office(self, office: UUID, told: Told) -> None:
        """Each member, one after the other: a mail, then a push to each device."""
        rules = Rules.of(self.settings)
        for member in told.staff[office]:
            notices = {
                channel: Notice(
                    DAY,
                    office,
                    told.offices[office],
                    member,
                    channel,
                    chosen(member, channel, told.alerts[office], DAY, rules),
                )
                for channel in Channel
            }
            if notices[Channel.EMAIL].alerts:
                await self._mail(notices[Channel.EMAIL])
                await self.audit("deadline_notification_sent", "email_notification", notices[Channel.EMAIL])
            if notices[Channel.PUSH].alerts and told.devices[member.id]:
                for device in told.devices[member.id]:
                    self._push(notices[Channel.PUSH], device)
                await self.audit("push_notification_sent", "push_notification", notices[Channel.PUSH])

    async def _mail(self, notice: Notice) -> None:
        mail = self.renderer.mail(notice, Delivery(notice.staff.id, notice.office_id, notice.staff.id, Channel.EMAIL))
        item = {
            "from": mail.sender.quoted(),
            "to": [mail.to],
            "subject": mail.subject,
            "html": mail.html,
            "headers": mail.headers,
        }
        resend = self.settings.email.resend
        headers = {"Authorization": f"Bearer {resend.api_key}", "Content-Type": "application/json"}
        async with self.mails:
            answer = await self.client.post(f"{resend.base_url}/emails", content=json.dumps(item), headers=headers)
            answer.raise_for_status()
            await asyncio.sleep(PAUSE)

    def _push(self, notice: Notice, device: Device) -> None:
        delivery = Delivery(device.id, notice.office_id, notice.staff.id, Channel.PUSH, device.id)
        webpush(
            {"endpoint": device.endpoint, "keys": {"p256dh": device.p256dh, "auth": device.auth}},
            self.renderer.push(notice, delivery, device, ttl=0).payload,
            vapid_private_key=self.settings.push.vapid_private_key,
            vapid_claims={"sub": "mailto:notice@mail.example.jp"},
        )


async def run(settings: Settings) -> None:
    """The whole of it."""
    at_once, lock, renderer = asyncio.Semaphore(OFFICES), asyncio.Lock(), Renderer(settings)
    session = await asyncpg.connect(settings.database.dsn)
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client, session.transaction():
        told = await read(session)

        async def audit(action: str, target: str, notice: Notice) -> None:
            details = json.dumps(renderer.audit(notice))
            async with lock:
                await session.execute(AUDIT, action, target, notice.staff.id, notice.office_id, details)

        batch = Batch(settings, renderer, client, asyncio.Semaphore(MAILS), audit)

        async def guarded(office: UUID) -> None:
            async with at_once:
                await batch.tell_office(office, told)

        await asyncio.gather(*map(guarded, told.offices))
    await session.close()


if __name__ == "__main__":
    given = load_for_sending(Path("config.toml"))
    before = time.process_time()
    asyncio.run(run(given))
    print(time.process_time() - before)
