"""A ledger with its source and its application, in memory or in PostgreSQL, behind one face for the contract suite."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import orjson
import trio
from attrs import define, evolve, field

from notifierd.config.settings import Audit
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.store.database import Database, open_database
from notifierd.store.feedback import Feedback
from notifierd.store.ledger import Ledger
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import PostgresSource, Source
from notifierd.store.sql import ADDRESS_KEY
from tests.support import application
from tests.support.memory import Application, Hold, MemoryLedger

ADD_HOLD = f"""
insert into notifierd.holds (staff_id, address_key, reason, since, until, seen_at)
values ($1::uuid, {ADDRESS_KEY.format("$2::text")}, $3::text, $4::date, $5::date, now())
"""


class Desk(Protocol):
    """What a test of the contract works with."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def source(self) -> Source: ...

    def with_audit(self, audit: Audit) -> Ledger:
        """The same ledger, as a process with another `content.audit` has it."""

    def in_steps(self, offices: int) -> Ledger:
        """The same ledger, which plans so many offices in a step."""

    async def load(self, app: Application) -> None:
        """Make the application hold what *app* does."""

    async def edit(self, change: Callable[[Application], None]) -> None:
        """Change the application under the plan's feet."""

    async def age(self, seconds: float) -> None:
        """Let *seconds* pass for leases, tries and waits."""

    async def states(self) -> dict[UUID, tuple[str, str | None]]:
        """Each delivery's state and reason."""

    async def audit_log(self) -> list[tuple[UUID, UUID]]:
        """The audit rows' office and staff ids, sorted."""

    async def office_rows(self) -> list[dict[str, Any]]:
        """The details of the offices' own audit rows, in the order of days and offices."""

    async def unaudited(self) -> set[UUID]:
        """The deliveries that are marked as lacking their audit row."""

    async def device_ids(self) -> set[UUID]:
        """The devices that are left."""

    async def late(self) -> list[UUID]:
        """The deliveries for which a late outcome is kept."""

    async def hold(self, hold: Hold) -> None:
        """Hold somebody's mails back."""

    async def lose(self, delivery_id: UUID) -> None:
        """Let the provider tell that a mail bounced which it had accepted."""


@define
class MemoryDesk:
    """In memory."""

    ledger: MemoryLedger
    source: MemoryLedger
    skew: list[float]

    def with_audit(self, audit: Audit) -> Ledger:
        return evolve(self.ledger, audit=audit)

    def in_steps(self, offices: int) -> Ledger:
        return evolve(self.ledger, plan_step=offices)

    async def load(self, app: Application) -> None:
        self.ledger.app = app

    async def edit(self, change: Callable[[Application], None]) -> None:
        change(self.ledger.app)

    async def age(self, seconds: float) -> None:
        self.skew[0] += seconds

    async def states(self) -> dict[UUID, tuple[str, str | None]]:
        return {key: (row.delivery.state.value, row.delivery.reason) for key, row in self.ledger.rows.items()}

    async def audit_log(self) -> list[tuple[UUID, UUID]]:
        return sorted((row["office_id"], row["target_id"]) for row in self.ledger.app.audit_log)

    async def office_rows(self) -> list[dict[str, Any]]:
        rows = [row for row in self.ledger.app.audit_log if row["target_id"] == row["office_id"]]
        return [row["details"] for row in sorted(rows, key=lambda row: (row["details"]["day"], row["office_id"]))]

    async def unaudited(self) -> set[UUID]:
        return {key for key, row in self.ledger.rows.items() if row.audit_missing}

    async def device_ids(self) -> set[UUID]:
        return set(self.ledger.app.devices)

    async def late(self) -> list[UUID]:
        return [settlement.delivery.id for settlement in self.ledger.late]

    async def hold(self, hold: Hold) -> None:
        self.ledger.holds.append(hold)

    async def lose(self, delivery_id: UUID) -> None:
        self.ledger.not_reached.add(delivery_id)


@define
class PostgresDesk:
    """In PostgreSQL."""

    db: Database
    ledger: PostgresLedger
    source: PostgresSource
    app: Application = field(factory=Application)

    def with_audit(self, audit: Audit) -> Ledger:
        return PostgresLedger(self.db, audit=audit)

    def in_steps(self, offices: int) -> Ledger:
        return PostgresLedger(self.db, plan_step=offices)

    async def load(self, app: Application) -> None:
        self.app = app
        await application.replace(self.db, app)

    async def edit(self, change: Callable[[Application], None]) -> None:
        change(self.app)
        await application.replace(self.db, self.app)

    async def age(self, seconds: float) -> None:
        past = timedelta(seconds=seconds)
        await self.db.fetch("update notifierd.runs set lease_until = lease_until - $1::interval", past)
        await self.db.fetch("update notifierd.run_members set until = until - $1::interval", past)
        await self.db.fetch(
            "update notifierd.deliveries"
            " set not_before = not_before - $1::interval, try_until = try_until - $1::interval",
            past,
        )

    async def states(self) -> dict[UUID, tuple[str, str | None]]:
        rows = await self.db.fetch("select id, state, reason from notifierd.deliveries")
        return {row["id"]: (row["state"], row["reason"]) for row in rows}

    async def audit_log(self) -> list[tuple[UUID, UUID]]:
        rows: list[Any] = await self.db.fetch("select office_id, target_id from app.audit_log order by 1, 2")
        return [tuple(row) for row in rows]

    async def office_rows(self) -> list[dict[str, Any]]:
        rows = await self.db.fetch(
            "select details::text from app.audit_log where target_type = 'office' order by details ->> 'day', office_id"
        )
        return [orjson.loads(row["details"]) for row in rows]

    async def unaudited(self) -> set[UUID]:
        return {row["id"] for row in await self.db.fetch("select id from notifierd.deliveries where audit_missing")}

    async def device_ids(self) -> set[UUID]:
        return {row["id"] for row in await self.db.fetch("select id from app.devices")}

    async def late(self) -> list[UUID]:
        return [row["delivery_id"] for row in await self.db.fetch("select delivery_id from notifierd.late_outcomes")]

    async def hold(self, hold: Hold) -> None:
        await self.db.fetch(ADD_HOLD, hold.staff_id, hold.address, hold.reason, hold.since, hold.until)

    async def lose(self, delivery_id: UUID) -> None:
        (row,) = await self.db.fetch("select provider from notifierd.deliveries where id = $1", delivery_id)
        await Feedback(self.db).keep(row["provider"], [Verdict(delivery_id, MailStatus.BOUNCED)])


@asynccontextmanager
async def open_desk(kind: str, dsn: str, chunk: int = 500) -> AsyncIterator[Desk]:
    """A desk of either kind; *dsn* names an empty database."""
    if kind == "memory":
        skew = [0.0]
        ledger = MemoryLedger(Application(), clock=lambda: trio.current_time() + skew[0], chunk=chunk)
        yield MemoryDesk(ledger, ledger, skew)
        return
    async with open_database(dsn) as db:
        await application.create(db)
        yield PostgresDesk(db, PostgresLedger(db), PostgresSource(db, chunk))
