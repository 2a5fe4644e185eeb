"""The daemon's role: it can do what it must, and nothing else."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from notifierd.demo.postgres import Cluster
from notifierd.model.errors import StatementRefused
from notifierd.store.connection.guards import ROLE_DEFAULTS
from notifierd.store.contract import (
    RIGHTS,
    VIEWS,
    grants,
    missing_rights,
    needless_rights,
    revocations,
    system_identifier,
    view_problems,
)
from notifierd.store.database import open_database
from notifierd.store.migrations.versions import require_current
from notifierd.store.rights import Narrowed, limit, missing_limits, narrow
from notifierd.store.schema import init, status
from tests.support.application import OwnPath
from tests.support.checked_database import Place, open_place

MANUAL = Path(__file__).parents[2] / "docs"


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
    "insert into notifierd.feedback_looks values ('resend', null, now(), '') on conflict (provider) do nothing",
    "update notifierd.feedback_looks set result = ''",
    "update notifierd.look_lease set holder = 'me' returning lease_until",
    *(f"delete from notifierd.{name}" for name in ("feedback", "holds", "lifts")),
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
    "insert into notifierd.look_lease default values",
    "delete from notifierd.look_lease",
    "update notifierd.address_pads set inner_pad = outer_pad",
    "delete from notifierd.address_pads",
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
                refused[statement] = error.sqlstate
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
    """Also on what is not notifierd's; and whatever else it was given before is taken from it."""
    await place.sql(f"grant all on notifierd.audit_log, notifierd.runs to {place.role}")
    await init(place.admin, role=place.role)
    assert await rights_of(place) == IN_THE_MANUAL


async def rights_of(place: Place, role: str = "") -> set[tuple[str, str | None, str]]:
    """Relation, column and privilege of each right that *role* (or the daemon's) itself has, from the catalogue."""
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
        role or place.role,
    )
    return {(row["name"].removeprefix("notifierd."), row["part"], row["privilege"]) for row in rows}


def listed_in_the_manual() -> list[tuple[list[str], list[str]]]:
    """The rows of the table of rights in docs/operations.md: names, and rights without what is said of them."""
    table = (
        (MANUAL / "operations.md")
        .read_text(encoding="utf-8")
        .partition("| object | privileges |\n")[2]
        .partition("\n\n")[0]
    )
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    words = re.compile(r"\b(select|insert|update|delete|usage|execute)\b")
    return [(re.findall(r"`(\w+)`", names), words.findall(rights.partition(" on ")[0])) for names, rights in rows]


IN_THE_MANUAL = {
    (name, column, right)
    for names, rights in listed_in_the_manual()
    for name in names
    for right in rights
    for column in (VIEWS["audit_log"] if name == "audit_log" else [None])
}


# ------------------------------------------------------------------------------------------------ what an upgrade takes


AS_BEFORE = "revoke all on notifierd.audit_log from {0}; grant select, insert on notifierd.audit_log to {0}"
"""What `db init` of an earlier version gave."""


async def may_read(place: Place) -> bool:
    (row,) = await place.admin.fetch(
        "select has_table_privilege($1::text, 'notifierd.audit_log', 'select') as may", place.role
    )
    return bool(row["may"])


async def test_an_upgrade_takes_what_an_earlier_version_gave_without_need(place: Place) -> None:
    await place.sql(AS_BEFORE.format(place.role))
    line = f"role {place.role}: has no more right on notifierd.audit_log than to insert what notifierd writes"
    assert await narrow(place.admin) == Narrowed((line,), ())
    assert await rights_of(place) == IN_THE_MANUAL
    assert await narrow(place.admin) == Narrowed((), ())


@pytest.mark.parametrize("given", ["select", "select (action)", "insert", "insert (target_type), select"])
async def test_whatever_part_of_it_is_there_goes(place: Place, given: str) -> None:
    await place.sql(f"grant {given} on notifierd.audit_log to {place.role}")
    assert (await narrow(place.admin)).left == ()
    assert await rights_of(place) == IN_THE_MANUAL


async def test_a_role_that_the_daemons_role_is_a_member_of_is_the_one_that_loses_it(place: Place, group: str) -> None:
    await init(place.admin, role=group)
    await place.sql(AS_BEFORE.format(group) + f"; revoke all on all tables in schema notifierd from {place.role}")
    await place.sql(f"grant {group} to {place.role}")
    assert len((await narrow(place.admin)).taken) == 1
    assert await rights_of(place, group) == IN_THE_MANUAL
    async with open_database(place.settings.database.dsn) as daemon:
        assert await missing_rights(daemon) == await needless_rights(daemon) == []


async def test_who_has_more_than_any_version_gave_keeps_it_and_is_named(place: Place, group: str) -> None:
    """An administrator of the ledger, say."""
    await place.sql(f"grant all on all tables in schema notifierd to {group}")
    before = await rights_of(place, group)
    narrowed = await narrow(place.admin)
    assert narrowed.taken == ()
    (line,) = narrowed.left
    assert line.startswith(f"role {group}: may read notifierd.audit_log")
    assert "if the daemon connects as this role" in line
    assert await rights_of(place, group) == before


WAYS = {
    "as everybody may": "grant select on notifierd.audit_log to public",
    "as a member of {group}": "grant select on notifierd.audit_log to {group}; grant {group} to {role}",
    "as a member of pg_read_all_data": "grant pg_read_all_data to {role}",
    "as a member of postgres": "grant postgres to {role}",
    "by a grant of {group}": """
        grant usage on schema notifierd to {group}; grant select on notifierd.audit_log to {group} with grant option;
        set role {group}; grant select on notifierd.audit_log to {role}; reset role
    """,
}


@pytest.mark.parametrize(("way", "script"), WAYS.items(), ids=WAYS)
async def test_another_way_to_read_is_named_with_the_statement_that_closes_it(
    place: Place, group: str, way: str, script: str
) -> None:
    names = {"role": place.role, "group": group}
    await place.sql(script.format(**names))
    narrowed = await narrow(place.admin)
    assert narrowed.taken == ()
    (line,) = narrowed.left
    assert line.startswith(f"role {place.role}: may read notifierd.audit_log, which the daemon does not need, ")
    assert way.format(**names) in line
    assert await may_read(place)
    as_whom = f"set role {group};" if "by a grant" in way else ""
    await place.sql(f"{as_whom} {line.rpartition(': ')[2]}; reset role")
    assert not await may_read(place)
    assert await narrow(place.admin) == Narrowed((), ())


async def test_who_may_not_take_it_says_who_can_and_how(place: Place) -> None:
    """As `db migrate` without --dsn does, which connects as the daemon's own role."""
    await place.sql(AS_BEFORE.format(place.role))
    async with open_database(place.settings.database.dsn) as daemon:
        narrowed = await narrow(daemon)
    assert narrowed.taken == ()
    (line,) = narrowed.left
    assert "by a grant that the view's owner postgres can take: revoke all on notifierd.audit_log" in line
    await place.sql(line.rpartition(": ")[2])
    assert await rights_of(place) == IN_THE_MANUAL


REFUSING = """
create function no_revoke() returns event_trigger language plpgsql as $$ begin raise 'no'; end $$;
create event trigger no_revoke on ddl_command_start when tag in ('REVOKE') execute function no_revoke()
"""


async def test_a_refusal_is_told_and_is_no_failure(place: Place) -> None:
    await place.sql(AS_BEFORE.format(place.role))
    await place.sql(REFUSING)
    try:
        narrowed = await narrow(place.admin)
    finally:
        await place.sql("drop event trigger no_revoke")
    assert narrowed.taken == ()
    (line,) = narrowed.left
    assert "(SQLSTATE P0001): revoke all on notifierd.audit_log" in line


async def test_nobody_is_named_where_the_view_or_the_ledger_is_not_there(place: Place) -> None:
    await place.sql("drop view notifierd.audit_log")
    assert await narrow(place.admin) == Narrowed((), ())
    await place.sql("drop schema notifierd cascade")
    assert await narrow(place.admin) == Narrowed((), ())


@pytest.fixture
async def group(place: Place) -> AsyncIterator[str]:
    """Another role."""
    name = f"group_{uuid4().hex[:8]}"
    await place.sql(f"create role {name}")
    yield name
    await place.sql(f"drop owned by {name} cascade; drop role {name}")


# ---------------------------------------------------------------------------------------------------------- its limits

ALL_LIMITS = ", ".join(f"{name} = {value}" for name, value in ROLE_DEFAULTS.items())


async def settings_of(place: Place) -> list[str]:
    rows = await place.admin.fetch(
        "select unnest(s.setconfig) as setting from pg_db_role_setting s join pg_roles r on r.oid = s.setrole"
        " join pg_database d on d.oid = s.setdatabase and d.datname = current_database()"
        " where r.rolname = $1::text",
        place.role,
    )
    return [row["setting"] for row in rows]


async def limits_in_force(place: Place) -> list[str]:
    """What is not as it should be in a session of the role that sets nothing itself, as a pooler's."""
    async with open_database(place.settings.database.dsn, pooler=True) as pooled:
        return await missing_limits(pooled)


async def test_a_role_of_its_own_is_limited_in_this_database(place: Place) -> None:
    assert await limits_in_force(place) == [
        "lock_timeout is 0ms and should be 2s",
        "idle_in_transaction_session_timeout is 0ms and should be 10s",
        "statement_timeout is 0ms and should be 30s",
        'search_path is "$user", public and should be pg_catalog',
    ]
    (row,) = await place.admin.fetch("select current_database()::text as name")
    told = f"role {place.role}: has these limits in the database {row['name']}: {ALL_LIMITS}"
    assert [await limit(place.admin, place.role) for _ in range(2)] == [told, told]
    assert await settings_of(place) == [f"{name}={value}" for name, value in ROLE_DEFAULTS.items()]
    assert await limits_in_force(place) == []
    await place.sql(f"alter role {place.role} in database {row['name']} set lock_timeout = '1min'")
    assert await limits_in_force(place) == ["lock_timeout is 60000ms and should be 2s"]


@pytest.mark.parametrize(
    "shared",
    [
        "create table mine (); alter table mine owner to {role}",
        "alter table notifierd.alarms owner to {role}",
        "grant select on staffs to {role}",
        "grant select (email) on staffs to {role}",
        "create role {role}_group; grant {role}_group to {role}; grant select on staffs to {role}_group",
        "alter role {role} superuser",
    ],
)
async def test_a_role_that_others_use_too_keeps_its_limits(place: Place, shared: str) -> None:
    await place.sql(shared.format(role=place.role))
    try:
        assert await limit(place.admin, place.role) == (
            f"role {place.role}: keeps its own limits, because it has privileges on other tables than notifierd's"
        )
        assert await settings_of(place) == []
        assert await limits_in_force(place) == []
    finally:
        if "group" in shared:
            await place.sql(f"drop owned by {place.role}_group; drop role {place.role}_group")


async def test_an_administrator_who_may_not_alter_the_role_says_which_statements_do(
    cluster: Cluster, place: Place
) -> None:
    helper = f"helper_{place.role}"
    await place.sql(f"create role {helper} login; grant usage on schema notifierd to {helper}")
    (row,) = await place.admin.fetch("select current_database()::text as name")
    try:
        async with open_database(cluster.dsn(row["name"], helper)) as db:
            told = await limit(db, place.role)
        beginning, _, statements = told.partition("; as a role that may alter it, run: ")
        assert beginning == f"role {place.role}: its limits could not be set (SQLSTATE 42501)"
        await place.sql(statements)
        assert await limits_in_force(place) == []
    finally:
        await place.sql(f"drop owned by {helper}; drop role {helper}")
