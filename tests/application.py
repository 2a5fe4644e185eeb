"""An application in PostgreSQL with the same content as one in memory."""

from pathlib import Path

from attrs import astuple

from notifierd.db import Connection, Database
from notifierd.schema import init
from tests.memory import Application

SQL = Path(__file__).with_name("application.sql")


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
