"""The daemon's role: it can do what it must, and nothing else."""

from collections.abc import AsyncIterator

import pytest

from notifierd.contract import RIGHTS, VIEWS, grants, missing_rights, sqlstate, system_identifier, view_problems
from notifierd.db import open_database
from notifierd.demo.postgres import Cluster
from notifierd.errors import StatementRefused
from notifierd.schema import init, require_current, status
from tests.place import Place, open_place


@pytest.fixture
async def place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    async with open_place(cluster, database) as place:
        yield place


ALLOWED = (
    *(f"select count(*) from notifierd.{name}" for name in RIGHTS),
    *(f"select * from notifierd.{view} where false" for view in VIEWS),
    "delete from notifierd.devices where id = gen_random_uuid() returning staff_id",
    "insert into notifierd.audit_log (action, details) values ('x', '{}') returning target_id",
    "insert into notifierd.runs (day, state) values ('2026-11-24', 'running')",
    "update notifierd.runs set state = 'completed' returning holder",
    "insert into notifierd.run_offices (day, office_id, urgency) values ('2026-11-24', gen_random_uuid(), 1)",
    "update notifierd.run_offices set urgency = 2",
    """
    insert into notifierd.deliveries (id, day, office_id, staff_id, channel)
    select notifierd.delivery_id('2026-11-24', x, x, 'email', null), '2026-11-24', x, x, 'email'
    from gen_random_uuid() x on conflict do nothing
    """,
    "with x as materialized (select id from notifierd.deliveries for update) select from x",
    "insert into notifierd.late_outcomes (delivery_id, try, state) values (gen_random_uuid(), 1, 'sent') returning id",
    "insert into notifierd.alarms (day, cause) values ('2026-11-24', 'failed') on conflict do nothing returning day",
    *(f"delete from notifierd.{name}" for name in ("runs", "run_offices", "deliveries", "late_outcomes", "alarms")),
)

FORBIDDEN = (
    *(f"select from {table}" for table in ("offices", "staffs", "office_staffs", "support_plan_cycles")),
    *(f"select from {table}" for table in ("welfare_recipients", "push_subscriptions", "audit_logs")),
    "insert into audit_logs (action, is_test_data) values ('x', false)",
    "delete from push_subscriptions",
    "update notifierd.devices set endpoint = 'https://evil.example'",
    "insert into notifierd.devices values (gen_random_uuid(), gen_random_uuid(), '', '', '')",
    "update notifierd.audit_log set action = 'x'",
    "delete from notifierd.audit_log",
    "update notifierd.offices set id = id",
    "delete from notifierd.offices",
    "insert into notifierd.migrations values (2, 'x')",
    "delete from notifierd.migrations",
    "update notifierd.alarms set cause = 'missed'",
    "truncate notifierd.runs",
    "truncate notifierd.deliveries",
    "create table notifierd.mine ()",
    "create trigger mine before insert on notifierd.runs execute function suppress_redundant_updates_trigger()",
    "drop table notifierd.runs",
    "drop view notifierd.staff",
    "alter table notifierd.deliveries add column mine int",
    "create schema mine",
    "select setval('notifierd.late_outcomes_id_seq', 1)",
)


async def test_the_daemons_role_can_do_its_work_and_nothing_else(place: Place) -> None:
    """As that role, over a connection of its own, statement by statement."""
    async with open_database(place.settings.database.dsn) as daemon:
        await require_current(daemon)
        assert await view_problems(daemon) == []
        assert await missing_rights(daemon) == []
        assert (await system_identifier(daemon)).isdecimal()
        for statement in ALLOWED:
            await daemon.fetch(statement)
        refused = dict.fromkeys(FORBIDDEN, "")
        for statement in FORBIDDEN:
            try:
                await daemon.fetch(statement)
            except StatementRefused as error:
                refused[statement] = sqlstate(error)
        assert refused == dict.fromkeys(FORBIDDEN, "42501")


async def test_each_right_is_missed_by_name(place: Place) -> None:
    async with open_database(place.settings.database.dsn) as daemon:
        for right in ("delete on notifierd.devices", "insert on notifierd.audit_log", "update on notifierd.runs"):
            await place.sql(f"revoke {right} from {place.role}")
            assert await missing_rights(daemon) == [right]
            await init(place.admin, role=place.role)
        await place.sql("revoke execute on function notifierd.delivery_id from public")
        assert await missing_rights(daemon) == [], "granted by name, not by way of public"
        await place.sql(f"revoke execute on function notifierd.delivery_id from {place.role}")
        assert await missing_rights(daemon) == ["execute on function notifierd.delivery_id"]
        found = await status(daemon)
        assert not found.good
        assert found.lines()[-1] == f"role {place.role}: lacks execute on function notifierd.delivery_id"


async def test_role_names_are_quoted(cluster: Cluster, place: Place) -> None:
    """Nothing in a name is taken for SQL."""
    name = 'Teller"; drop table notifierd.runs; --'
    quoted = 'U&"Teller""; drop table notifierd.runs; --"'
    cluster.psql(f"create role {quoted}")
    try:
        await init(place.admin, "keikakun", name)
        (row,) = await place.admin.fetch(
            "select has_table_privilege($1::text, 'notifierd.runs', 'delete') as granted", name
        )
        assert row["granted"]
        assert all(statement.endswith(' to "Teller""; drop table notifierd.runs; --"') for statement in grants(name))
    finally:
        await place.sql(f"drop owned by {quoted}; drop role {quoted}")
