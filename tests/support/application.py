"""The application's side of the database; and one in PostgreSQL with the same content as one in memory."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from attrs import astuple, frozen

from notifierd.store.connection.guards import SEARCH_PATH
from notifierd.store.database import Connection, Database, Row
from notifierd.store.schema import init
from tests.support.memory import Application

T = TypeVar("T")

SQL = Path(__file__).with_name("application.sql")


@frozen
class OwnPath:
    """A database as the application sees it: names are looked for where the role's own search_path says."""

    _db: Database

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        async def unit(connection: Connection) -> list[Row]:
            return await connection.fetch(sql, *args)

        return await self.unit(unit)

    async def execute(self, script: str) -> None:
        async def unit(connection: Connection) -> None:
            await connection.execute(script)

        await self.unit(unit)

    async def unit(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def on_own_path(connection: Connection) -> T:
            await connection.execute("set search_path to default")
            try:
                return await work(connection)
            finally:
                await connection.execute(f"set search_path = {SEARCH_PATH}")

        return await self._db.unit(on_own_path)


async def create(db: Database) -> None:
    """Create the ledger's schema, an empty application and its views."""
    await init(db)

    async def unit(connection: Connection) -> None:
        await connection.execute(SQL.read_text())

    await db.unit(unit)


async def replace(db: Database, app: Application) -> None:
    """Make the application's tables hold what *app* holds; the ledger stays."""

    async def unit(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("truncate app.offices, app.staff, app.alerts, app.devices, app.audit_log")
            for table, rows in {
                "offices": list(app.offices.items()),
                "staff": [(office, *astuple(staff)) for office, staff in app.staff],
                "alerts": [
                    (office, a.recipient_id, a.recipient_name, a.kind.value, a.due_on, a.cycle)
                    for office, a in app.alerts
                ],
                "devices": [astuple(device) for device in app.devices.values()],
            }.items():
                await connection.copy_records_to_table(table, schema_name="app", records=rows)

    await db.unit(unit)
