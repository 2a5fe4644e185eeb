"""How PostgreSQL carries out the statement that plans a day."""

from itertools import pairwise

from notifierd.rules.due import Rules
from notifierd.store.database import Connection, Database, Row, open_database
from notifierd.store.ledger import PLAN_STEP
from notifierd.store.sql.plans import PLAN, PLAN_NEXT
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


ALERTS_BY_KIND = """
create or replace view notifierd.alerts as
select * from app.alerts where kind = 'renewal' union all select * from app.alerts where kind = 'assessment'
"""


async def explained(db: Database, option: str, statement: str = PLAN[False]) -> list[str]:
    """The lines of PostgreSQL's plan for *statement* where a hash table may have 64 kB."""

    async def unit(connection: Connection) -> list[Row]:
        async with connection.transaction():
            await connection.execute("set local work_mem = '64kB'; set local hash_mem_multiplier = 1")
            due = DAY, RULES.horizon_days, RULES.overdue, RULES.push
            return await connection.fetch(
                f"explain ({option}) {statement}", *due, [], RULES.devices_per_person, None, None, 1, PLAN_STEP
            )

    return [row[0] for row in await db.unit(unit)]


async def load(db: Database, script: str) -> None:
    async def unit(connection: Connection) -> None:
        await connection.execute(script)

    await db.unit(unit)


async def test_no_step_is_done_again_for_each_office_where_its_rows_exceed_work_mem(database: str) -> None:
    """A subplan that is not hashed reads all mails once for each office."""
    async with open_database(database) as db:
        await application.create(db)
        await load(db, MANY)
        plan = await explained(db, "costs off")
    filters = [line.strip() for line in plan if "Filter:" in line]
    assert filters
    assert [line for line in filters if "SubPlan" in line.replace("hashed SubPlan", "")] == []


async def test_postgresql_knows_of_how_many_offices_it_reads_the_staff(database: str) -> None:
    """Of a view with a UNION, as keikakun's alerts, it knows no number of offices, and assumes 200."""
    async with open_database(database) as db:
        await application.create(db)
        await load(db, MANY + ALERTS_BY_KIND)
        plan = await explained(db, "costs on")
    step = next(line for before, line in pairwise(plan) if before.strip() == "CTE scope")
    assert " rows=5000 " in step


async def test_a_delivery_is_looked_for_by_its_id_alone(database: str) -> None:
    """Without a name, ON CONFLICT looks into each unique index for each row."""
    async with open_database(database) as db:
        await application.create(db)
        plan = await explained(db, "costs off")
    assert [line.strip() for line in plan if "Conflict Arbiter" in line] == [
        "Conflict Arbiter Indexes: deliveries_pkey",
    ]


async def test_a_step_finds_its_offices_by_one_look_at_those_that_are_left(database: str) -> None:
    """Statistics that name only an earlier day let PostgreSQL expect one row of today's: a join would be a loop."""
    async with open_database(database) as db:
        await application.create(db)
        await load(db, MANY)
        await load(db, "insert into notifierd.offices_to_plan select '2026-11-20', 3, id from app.offices")
        await load(db, "analyze notifierd.offices_to_plan")
        await load(db, f"insert into notifierd.offices_to_plan select '{DAY}', 3, id from app.offices")
        plan = [line.strip() for line in await explained(db, "costs off", PLAN_NEXT[False])]
    step = plan[plan.index("CTE step") :]
    step = step[: 1 + next(n for n, line in enumerate(step[1:]) if line.startswith("CTE "))]
    assert any("Delete on offices_to_plan" in line for line in step)
    assert [line for line in step if "Join" in line or "Nested Loop" in line] == []
