"""The daemon's role: it can do what it must, and nothing else."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from notifierd.contract import (
    RIGHTS,
    VIEWS,
    grants,
    missing_rights,
    revocations,
    sqlstate,
    system_identifier,
    view_problems,
)
from notifierd.db import open_database
from notifierd.demo.postgres import Cluster
from notifierd.errors import StatementRefused
from notifierd.schema import init, require_current, status
from tests.application import OwnPath
from tests.place import Place, open_place

MANUAL = Path(__file__).parent.parent / "docs"


@pytest.fixture
async def place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    async with open_place(cluster, database) as place:
        yield place


ALLOWED = (
    *(f"select count(*) from notifierd.{name}" for name in RIGHTS if name != "audit_log"),
    *(f"select * from notifierd.{view} where false" for view in VIEWS if view != "audit_log"),
    "delete from notifierd.devices where id = gen_random_uuid() returning staff_id",
    "insert into notifierd.audit_log (action, details) values ('push_notification_sent', '{}')",
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
    "select from notifierd.audit_log",
    "insert into notifierd.audit_log (action, details) values ('push_notification_sent', '{}') returning target_id",
    "insert into notifierd.audit_log (action, actor_role) values ('push_notification_sent', 'owner')",
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
            await OwnPath(daemon).fetch(statement)
        refused = dict.fromkeys(FORBIDDEN, "")
        for statement in FORBIDDEN:
            try:
                await OwnPath(daemon).fetch(statement)
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
        statements = [*grants(name), *revocations(name, RIGHTS)]
        assert all(statement.endswith(' "Teller""; drop table notifierd.runs; --"') for statement in statements)
    finally:
        await place.sql(f"drop owned by {quoted}; drop role {quoted}")


async def test_the_role_has_exactly_the_rights_that_the_manual_lists(place: Place) -> None:
    """From the catalogue, also on what is not notifierd's; and whatever else it was given before is taken from it."""
    await place.sql(f"grant all on notifierd.audit_log, notifierd.runs to {place.role}")
    await init(place.admin, role=place.role)
    rows = await place.admin.fetch(
        """
        with mine as (select oid from pg_roles where rolname = $1::text), acl as (
            select n.nspname || '.' || c.relname as name, null as part, x.privilege_type, x.grantee
            from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) x
            union all
            select n.nspname || '.' || c.relname, a.attname, x.privilege_type, x.grantee
            from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace,
                 aclexplode(a.attacl) x
            union all
            select n.nspname::text, null, x.privilege_type, x.grantee from pg_namespace n, aclexplode(n.nspacl) x
            union all
            select n.nspname || '.' || p.proname, null, x.privilege_type, x.grantee
            from pg_proc p join pg_namespace n on n.oid = p.pronamespace, aclexplode(p.proacl) x
        )
        select acl.name, acl.part, lower(acl.privilege_type) as privilege from acl join mine on mine.oid = acl.grantee
        """,
        place.role,
    )
    found = {(row["name"].removeprefix("notifierd."), row["part"], row["privilege"]) for row in rows}
    assert found == {
        (name, column, right)
        for names, rights in listed_in_the_manual()
        for name in names
        for right in rights
        for column in (VIEWS["audit_log"] if name == "audit_log" else [None])
    }


def listed_in_the_manual() -> list[tuple[list[str], list[str]]]:
    """The rows of the table of rights in docs/operations.md: names, and rights without what is said of them."""
    table = (
        (MANUAL / "operations.md").read_text(encoding="utf-8").partition("| on | rights |\n")[2].partition("\n\n")[0]
    )
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    words = re.compile(r"\b(select|insert|update|delete|usage|execute)\b")
    return [(re.findall(r"`(\w+)`", names), words.findall(rights.partition(" on ")[0])) for names, rights in rows]
