"""How PostgreSQL carries out the statement that plans a day."""

from notifierd.rules.due import Rules
from notifierd.store.database import Connection, Database, Row, open_database
from notifierd.store.sql.plans import PLAN
from tests.support import application
from tests.support.samples import DAY

RULES = Rules()
MANY = """
insert into app.offices select gen_random_uuid(), 'office' from generate_series(1, 5000);
insert into app.staff
select o.id, gen_random_uuid(), 'staff', n || '@example.jp', true, 30, true, 30
from app.offices o, generate_series(1, 4) n;
insert into app.alerts select id, gen_random_uuid(), 'recipient', 'renewal', date '2026-11-26', 1 from app.offices;
analyze app.offices, app.staff, app.alerts;
"""


async def explained(db: Database) -> list[str]:
    """The lines of PostgreSQL's plan for PLAN where a hash table may have 64 kB."""

    async def unit(connection: Connection) -> list[Row]:
        async with connection.transaction():
            await connection.execute("set local work_mem = '64kB'; set local hash_mem_multiplier = 1")
            due = DAY, RULES.horizon_days, RULES.overdue, RULES.push
            return await connection.fetch(
                f"explain (costs off) {PLAN[False]}", *due, [], RULES.devices_per_person, None, None, 1
            )

    return [row[0] for row in await db.unit(unit)]


async def test_no_step_is_done_again_for_each_office_where_its_rows_exceed_work_mem(database: str) -> None:
    """A subplan that is not hashed reads all mails once for each office."""
    async with open_database(database) as db:
        await application.create(db)

        async def load(connection: Connection) -> None:
            await connection.execute(MANY)

        await db.unit(load)
        plan = await explained(db)
    filters = [line.strip() for line in plan if "Filter:" in line]
    assert filters
    assert [line for line in filters if "SubPlan" in line.replace("hashed SubPlan", "")] == []
