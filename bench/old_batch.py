"""The shape of the batch that notifierd replaces, written anew from the report on it.

``python -m bench.old_batch PORT`` tells the offices of ``./config.toml`` as that batch did, repaired so that it works,
its mails by SMTP to PORT; prints the seconds on a processor that it took after its start.

What is in, as it was: five queries at the start; offices gathered, 10 at once, and their members one after the other; a
mail for each through a limiter of 5, by the library that was used for it, which compiles the template anew and opens an
SMTP connection each time; its audit row, and then a pause of 0.1 s, with the slot in hand; pushes that block the event
loop, and an audit row for each member pushed to; each row added to the one session that all offices share, and flushed.
The lock around that is the repair.

What is not, all in its favour: thresholds of odd preferences, which the views' SQL works out here; the ORM's objects
for what is read; TLS and a password for SMTP; tries again, as nothing fails. What it had not: recipients who are
overdue, so that its mails tell of the same people as ours.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from uuid import UUID

import asyncpg
from attrs import frozen
from fastapi_mail import ConnectionConfig, FastMail, MessageSchema, MessageType
from pydantic import NameEmail, SecretStr
from pywebpush import webpush
from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from notifierd.config.load import load_for_sending
from notifierd.config.settings import Settings
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery, delivery_id
from notifierd.model.office import Alert, Device, Kind, Notice, Staff
from notifierd.rules.due import Rules, chosen
from tests.support.processes import DAY

OFFICES, MAILS, PAUSE = 10, 5, 0.1
TEMPLATE = Path(__file__).with_suffix(".html")

OFFICE = "select id, name from notifierd.offices"
STAFF = "select * from notifierd.staff where office_id = any ($1)"
RENEWALS = "select * from notifierd.alerts where kind = 'renewal' and office_id = any ($1) and due_on <= $2::date + 30"
ASSESSMENTS = "select * from notifierd.alerts where kind = 'assessment' and office_id = any ($1)"
DEVICES = "select id, staff_id, endpoint, p256dh, auth from notifierd.devices where staff_id = any ($1)"

Audit = Callable[[str, str, Notice], Awaitable[None]]


class Base(DeclarativeBase):
    """Of SQLAlchemy's."""


class AuditRow(Base):
    """A row of the audit log. Of what tells it from others the ORM is only to know that it does."""

    __tablename__ = "audit_log"
    __table_args__ = {"schema": "notifierd"}  # noqa: RUF012 - SQLAlchemy's way

    action: Mapped[str] = mapped_column(Text, primary_key=True)
    target_type: Mapped[str] = mapped_column(Text)
    target_id: Mapped[UUID] = mapped_column(primary_key=True)
    office_id: Mapped[UUID] = mapped_column(primary_key=True)
    details: Mapped[dict[str, object]] = mapped_column(JSONB)


@frozen
class Told:
    """All that there is to tell, by office or staff member."""

    offices: Mapping[UUID, str]
    staff: Mapping[UUID, list[Staff]]
    alerts: Mapping[UUID, list[Alert]]
    devices: Mapping[UUID, list[Device]]


async def read(dsn: str) -> Told:
    """Read everything, in five queries."""
    connection = await asyncpg.connect(dsn)
    offices = {row["id"]: row["name"] for row in await connection.fetch(OFFICE)}
    told = Told(offices, {office: [] for office in offices}, {office: [] for office in offices}, {})
    for row in await connection.fetch(STAFF, list(offices)):
        office, *columns = row.values()
        told.staff[office].append(Staff(*columns))
    renewals, assessments = (
        await connection.fetch(RENEWALS, list(offices), DAY),
        await connection.fetch(ASSESSMENTS, list(offices)),
    )
    for row in [*renewals, *assessments]:
        office, recipient, name, kind, due_on, cycle = row.values()
        told.alerts[office].append(Alert(recipient, name, Kind(kind), due_on, cycle))
    members = [one.id for group in told.staff.values() for one in group]
    devices = {member: list[Device]() for member in members}
    for row in await connection.fetch(DEVICES, members):
        devices[row["staff_id"]].append(Device(*row.values()))
    await connection.close()
    return Told(told.offices, told.staff, told.alerts, devices)


@frozen
class Batch:
    """What all offices share."""

    settings: Settings
    renderer: Renderer
    post: FastMail
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
                async with self.mails:
                    await asyncio.wait_for(self._mail(notices[Channel.EMAIL]), timeout=30.0)
                    await self.audit("deadline_notification_sent", "email_notification", notices[Channel.EMAIL])
                    await asyncio.sleep(PAUSE)
            if notices[Channel.PUSH].alerts and told.devices[member.id]:
                for device in told.devices[member.id]:
                    self._push(notices[Channel.PUSH], device)
                await self.audit("push_notification_sent", "push_notification", notices[Channel.PUSH])

    async def _mail(self, notice: Notice) -> None:
        delivery = delivery_id(DAY, notice.office_id, notice.staff.id, Channel.EMAIL)
        alerts = {kind: [alert for alert in notice.alerts if alert.kind is kind] for kind in Kind}
        message = MessageSchema(
            subject=f"{notice.office_name}の期限アラート",
            recipients=[NameEmail("", notice.staff.email or "")],
            template_body={
                "office": notice.office_name,
                "staff": notice.staff.name,
                "day": DAY,
                "renewals": alerts[Kind.RENEWAL],
                "assessments": alerts[Kind.ASSESSMENT],
            },
            subtype=MessageType.html,
            headers={"X-Entity-Ref-ID": str(delivery)},
        )
        await self.post.send_message(message, TEMPLATE.name)

    def _push(self, notice: Notice, device: Device) -> None:
        delivery = Delivery(device.id, notice.office_id, notice.staff.id, Channel.PUSH, device.id)
        webpush(
            {"endpoint": device.endpoint, "keys": {"p256dh": device.p256dh, "auth": device.auth}},
            self.renderer.push(notice, delivery, device, ttl=0).payload,
            vapid_private_key=self.settings.push.vapid_private_key,
            vapid_claims={"sub": "mailto:notice@mail.example.jp"},
        )


def mail_server(port: int) -> FastMail:
    """The library that was used, and its settings."""
    return FastMail(
        ConnectionConfig(
            MAIL_USERNAME="",
            MAIL_PASSWORD=SecretStr(""),
            MAIL_FROM="notice@mail.example.jp",
            MAIL_SERVER="127.0.0.1",
            MAIL_PORT=port,
            TEMPLATE_FOLDER=TEMPLATE.parent,
            MAIL_STARTTLS=False,
            MAIL_SSL_TLS=False,
            USE_CREDENTIALS=False,
        )
    )


async def run(settings: Settings, port: int) -> None:
    """The whole of it."""
    at_once, lock, renderer = asyncio.Semaphore(OFFICES), asyncio.Lock(), Renderer(settings)
    told = await read(settings.database.dsn)
    engine = create_async_engine(settings.database.dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with AsyncSession(engine) as session:

        async def audit(action: str, target: str, notice: Notice) -> None:
            async with lock:
                session.add(
                    AuditRow(
                        action=action,
                        target_type=target,
                        target_id=notice.staff.id,
                        office_id=notice.office_id,
                        details=dict(renderer.audit(notice)),
                    )
                )
                await session.flush()

        batch = Batch(settings, renderer, mail_server(port), asyncio.Semaphore(MAILS), audit)

        async def guarded(office: UUID) -> None:
            async with at_once:
                await batch.tell_office(office, told)

        await asyncio.gather(*map(guarded, told.offices))
        await session.commit()
    await engine.dispose()


if __name__ == "__main__":
    given = load_for_sending(Path("config.toml"))
    before = time.process_time()
    asyncio.run(run(given, int(sys.argv[1])))
    print(time.process_time() - before)
