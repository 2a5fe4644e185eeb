"""The schema: made once, migrated in step, told of in words; and the ids that its function derives."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from notifierd.demo.postgres import Cluster
from notifierd.model.delivery import Channel, delivery_id
from notifierd.model.errors import LedgerUnavailable, SchemaMissing, SchemaNewer
from notifierd.store.contract import RIGHTS, VIEWS, missing_rights, view_problems
from notifierd.store.database import Database, open_database
from notifierd.store.migrations.versions import Migration, migrations, pending, require_current
from notifierd.store.schema import SetupFailed, init, migrate, status
from tests.support.application import OwnPath

NEXT = max(step.version for step in migrations()) + 1
ALL_THERE = [f"view notifierd.{view}: good" for view in VIEWS]
_numbers = count(1)

MakeLogin = Callable[[], tuple[str, str]]


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    async with open_database(database) as db:
        yield db


@pytest.fixture
def make_login(cluster: Cluster, database: str) -> Iterator[MakeLogin]:
    """Make roles that may log in and have no right of their own: name and DSN."""
    made: list[str] = []
    name_of_database = database.partition("?")[0].rpartition("/")[2]

    def make() -> tuple[str, str]:
        made.append(f"teller_{next(_numbers)}")
        cluster.psql(f"create role {made[-1]} login")
        return made[-1], cluster.dsn(name_of_database, made[-1])

    yield make
    for role in made:
        cluster.psql(f"drop owned by {role} cascade; drop role {role}", name_of_database)


async def catalogue(db: Database) -> list[tuple[Any, ...]]:
    """All that an init could change, and when each row of it was last written."""
    rows = await db.fetch(
        """
        select c.relname, c.relkind, c.relacl::text, case c.relkind when 'v' then pg_get_viewdef(c.oid) end,
               array(select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = c.oid order by adnum),
               (select nspacl::text from pg_namespace where oid = c.relnamespace)
        from pg_class c where c.relnamespace = 'notifierd'::regnamespace
        union all
        select proname, 'f', proacl::text, prosrc, '{}', '' from pg_proc where pronamespace = 'notifierd'::regnamespace
        union all
        select name, 'm', version::text, applied_at::text, '{}', '' from notifierd.migrations
        order by 1, 2
        """
    )
    return [tuple(row) for row in rows]


async def run(db: Database, script: str) -> None:
    await OwnPath(db).execute(script)


# ------------------------------------------------------------------------------------------------------- making it


async def test_init_makes_everything_and_then_nothing(db: Database, make_login: MakeLogin) -> None:
    role, _ = make_login()
    first = await init(db, "keikakun", role)
    assert first == [
        *(f"migration {step}: applied" for step in migrations()),
        "views for keikakun: in place",
        f"role {role}: has the privileges that the daemon needs",
        "schema notifierd: ready",
    ]
    await require_current(db)
    assert await view_problems(db) == []
    made = await catalogue(db)
    second = await init(db, "keikakun", role)
    assert not [line for line in second if "applied" in line]
    assert await catalogue(db) == made


async def test_four_runners_at_once(database: str) -> None:
    """Each with its own connection, all from nothing: they wait for each other, and one of them does the work."""
    done: list[str] = []

    async def runner(shared: Database) -> None:
        done.extend(await init(shared, "keikakun"))

    async with open_database(database, pool_size=4) as four:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(runner, four)
        assert sum("applied" in line for line in done) == len(migrations())
        assert sum("ready" in line for line in done) == 4


async def test_every_table_of_the_schema_has_its_rights(db: Database) -> None:
    """A migration that adds a table has to say who may use it."""
    await init(db, "keikakun")
    rows = await db.fetch(
        "select relname from pg_class where relnamespace = 'notifierd'::regnamespace and relkind in ('r', 'v', 'S')"
    )
    identities = {"late_outcomes_id_seq"}  # of "generated always as identity": needs no right
    assert {row["relname"] for row in rows} - identities == set(RIGHTS)


async def test_a_role_named_like_the_schema(cluster: Cluster, database: str) -> None:
    """Its search_path begins with "$user", our schema: the second run must not build the views on themselves."""
    name = database.partition("?")[0].rpartition("/")[2]
    cluster.psql("create role notifierd login superuser")
    try:
        async with open_database(cluster.dsn(name, "notifierd")) as db:
            await init(db, "keikakun")
            made = await catalogue(db)
            await init(db, "keikakun")
            assert await catalogue(db) == made
    finally:
        cluster.psql("drop owned by notifierd cascade", name)
        cluster.psql("drop role notifierd")


async def test_application_in_a_schema_of_its_own(cluster: Cluster, database: str) -> None:
    """The preset finds the tables wherever the database's search_path says."""
    name = database.partition("?")[0].rpartition("/")[2]
    cluster.psql(
        f'alter schema public rename to "Care Plan"; alter database {name} set search_path = "Care Plan", pg_catalog',
        name,
    )
    async with open_database(database) as db:
        await init(db, "keikakun")
        assert await view_problems(db) == []


async def test_without_the_applications_tables(cluster: Cluster) -> None:
    """A mistyped database is told from a broken preset, and gets no views."""
    dsn = cluster.create_database("no_application")
    async with open_database(dsn) as db:
        with pytest.raises(
            SetupFailed, match=r"tables are not in this database, .*: audit_logs, office_staffs, offices,"
        ):
            await init(db, "keikakun")
        assert len(await view_problems(db)) == len(VIEWS)
    cluster.drop_database("no_application")


async def test_views_of_another_shape_are_left_alone(db: Database) -> None:
    await init(db)
    await run(db, "create view notifierd.offices as select 1 as one")
    with pytest.raises(SetupFailed, match=r"42P16.*drop the five views"):
        await init(db, "keikakun")
    assert await view_problems(db) == [
        "notifierd.offices: column id (uuid) is missing",
        "notifierd.offices: column name (text) is missing",
        *(
            f"notifierd.{view}: the view is missing (run `notifierd db init --preset NAME`, or create it)"
            for view in ("staff", "alerts", "devices", "audit_log")
        ),
    ]


async def test_unknown_preset_and_role_change_nothing(db: Database) -> None:
    """GRANT takes public for everybody, even in quotes: it is no role."""
    for preset, role, words in [
        ("keikaku", None, "no preset keikaku; the presets are: keikakun"),
        ("keikakun", "nobody at all", "no role nobody at all"),
        ("keikakun", "public", "no role public"),
        ("keikakun", "x" * 70, "no role x"),
    ]:
        with pytest.raises(SetupFailed, match=words):
            await init(db, preset, role)
    assert await db.fetch("select from pg_namespace where nspname = 'notifierd'") == []


# ------------------------------------------------------------------------------------------------------ without rights


async def test_init_without_the_right_to_create(db: Database, make_login: MakeLogin) -> None:
    role, dsn = make_login()
    async with open_database(dsn) as poor:
        with pytest.raises(SetupFailed, match=r"42501\).* needs CREATE on the database.* --dsn ADMIN"):
            await init(poor, "keikakun")
    await run(db, f"create schema notifierd authorization {role}")
    async with open_database(dsn) as poor:
        assert await init(poor), "a schema made by somebody else is enough"
        assert await init(poor), "and stays enough"
        with pytest.raises(SetupFailed, match=r"42501\).* SELECT on the application's tables.* --dsn ADMIN"):
            await init(poor, "keikakun")
    assert len(await view_problems(db)) == len(VIEWS), "views that nobody could read would be worse than none"


async def test_migrating_and_granting_without_rights(db: Database, make_login: MakeLogin) -> None:
    (role, dsn), (other, _) = make_login(), make_login()
    await init(db, "keikakun", role)
    later = Migration(NEXT, "later", "alter table notifierd.runs add column later int")
    async with open_database(dsn) as poor:
        with pytest.raises(SetupFailed, match=r"belongs to the role postgres: connect as that role"):
            await migrate(poor, [*migrations(), later])
        with pytest.raises(SetupFailed, match=r"belongs to the role postgres"):
            await init(poor, role=other)


async def test_granting_on_what_is_somebody_elses(db: Database, make_login: MakeLogin) -> None:
    """PostgreSQL only warns who has a right on a view, and none to pass on."""
    (role, dsn), (other, _) = make_login(), make_login()
    await run(db, f"create schema notifierd authorization {role}")
    async with open_database(dsn) as owner:
        await init(owner)
        view = "create view notifierd.offices as select null::uuid as id, ''::text as name"
        await run(db, f"{view}; grant select on notifierd.offices to {role}")
        with pytest.raises(SetupFailed, match=f"privileges to {other} had no effect.* needs to own the schema"):
            await init(owner, role=other)


async def test_a_role_that_may_not_look(db: Database, make_login: MakeLogin) -> None:
    _, dsn = make_login()
    await init(db, "keikakun")
    async with open_database(dsn) as poor:
        with pytest.raises(SchemaMissing, match=r"may not use it.* --role NAME"):
            await require_current(poor)


# ------------------------------------------------------------------------------------------------------------ versions


async def test_what_is_wrong_with_the_version(db: Database) -> None:
    """Nothing there, an empty schema, an older and a newer one: each says what to do."""
    later = Migration(NEXT, "later", "create table notifierd.later ()")
    with pytest.raises(SchemaMissing, match="run `notifierd db init`"):
        await require_current(db)
    with pytest.raises(SchemaMissing, match="run `notifierd db init`"):
        await migrate(db)
    await run(db, "create schema notifierd")
    with pytest.raises(SchemaMissing, match="run `notifierd db init`"):
        await require_current(db)
    await init(db)
    with pytest.raises(SchemaMissing, match=rf"run `notifierd db migrate` \({NEXT:04d}_later\)"):
        await require_current(db, [*migrations(), later])
    assert await pending(db, [*migrations(), later]) == (later,)
    assert await migrate(db, [*migrations(), later]) == (later,)
    await require_current(db, [*migrations(), later])
    for refused in (require_current, pending, migrate, init, status):
        with pytest.raises(SchemaMissing, match=rf"version {NEXT}, this program knows {NEXT - 1}\): upgrade notifierd"):
            await refused(db)


@pytest.mark.parametrize(
    ("since", "program", "may"),
    [
        ("0.9.0", "0.9.0", True),
        ("0.9.0", "0.10.0.dev1", True),
        ("0.10", "0.9.5", False),
        (None, "9.0.0", False),
    ],
)
async def test_a_newer_schema_says_from_which_program_on_it_may_be_used(
    since: str | None, program: str, may: bool, db: Database
) -> None:
    """Only to be used: what the older program would make of it is left to the newer one."""
    await init(db)
    note = f"-- Since: {since}\n" if since else ""
    later = Migration(NEXT, "later", f"{note}create table notifierd.later ()")
    await migrate(db, [*migrations(), later])
    if may:
        await require_current(db, program=program)
    else:
        with pytest.raises(SchemaNewer, match="upgrade notifierd"):
            await require_current(db, program=program)
    with pytest.raises(SchemaNewer):
        await migrate(db)


async def test_a_newest_migration_that_allows_no_older_program_counts(db: Database) -> None:
    await init(db)
    steps = [
        Migration(NEXT, "later", "-- Since: 0.1.0\ncreate table notifierd.later ()"),
        Migration(NEXT + 1, "last", "create table notifierd.last ()"),
    ]
    await migrate(db, [*migrations(), *steps])
    with pytest.raises(SchemaNewer):
        await require_current(db, program="0.1.0")


async def test_a_step_counts_whole_or_not_at_all(db: Database) -> None:
    await init(db)
    broken = Migration(NEXT, "broken", "create table notifierd.half (); select 1 / 0;")
    with pytest.raises(SetupFailed, match="22012"):
        await migrate(db, [*migrations(), broken])
    await require_current(db)
    assert await db.fetch("select from pg_class where relname = 'half'") == []


async def test_migrating_keeps_the_roles_working(db: Database, make_login: MakeLogin) -> None:
    """What a step made anew (here: the same table again) is given to those who had the ledger, and to no other."""
    (role, dsn), (_, dsn_of_other) = make_login(), make_login()
    await init(db, "keikakun", role)
    again = Migration(NEXT, "again", "drop table notifierd.runs; create table notifierd.runs (day date)")
    await migrate(db, [*migrations(), again])
    async with open_database(dsn) as daemon:
        assert await missing_rights(daemon) == []
    async with open_database(dsn_of_other) as other:
        assert "usage on schema notifierd" in await missing_rights(other)


async def test_migrating_takes_no_right_away(db: Database, make_login: MakeLogin) -> None:
    """Who else works with the ledger, as an administrator does, keeps what the daemon's role does not need."""
    role, _ = make_login()
    await init(db, "keikakun")
    await run(db, f"grant all on all tables in schema notifierd to {role}")
    await migrate(db, [*migrations(), Migration(NEXT, "later", "create table notifierd.later ()")])
    (row,) = await db.fetch("select has_table_privilege($1::text, 'notifierd.runs', 'truncate') as kept", role)
    assert row["kept"]


async def test_status_before_and_after(db: Database) -> None:
    assert not (await status(db)).good
    before = (await status(db)).lines()
    pending = [f"migration {step}: pending" for step in migrations()]
    assert before[: 1 + len(pending)] == ["schema notifierd: not there", *pending]
    assert sum("the view is missing" in line for line in before) == len(VIEWS)
    await init(db, "keikakun")
    assert (await status(db)).good
    assert (await status(db)).lines() == [
        f"schema notifierd: version {NEXT - 1}",
        *ALL_THERE,
        "role postgres: has every privilege it needs",
    ]


async def test_a_role_before_its_views(db: Database, make_login: MakeLogin) -> None:
    """An application that makes its own views later: what is there is granted, and the rest is named."""
    role, dsn = make_login()
    lines = await init(db, role=role)
    assert (
        f"role {role}: has the privileges that the daemon needs, except on notifierd.offices, notifierd.staff, "
        in lines[-2]
    )
    await init(db, "keikakun")
    async with open_database(dsn) as daemon:
        assert sorted(await missing_rights(daemon)) == sorted(
            [
                *(f"select on notifierd.{view}" for view in ("offices", "staff", "alerts")),
                *(f"{right} on notifierd.devices" for right in ("select", "delete")),
                "insert on notifierd.audit_log",
            ]
        )
        await init(db, role=role)
        assert await missing_rights(daemon) == []


# ------------------------------------------------------------------------------------------------ what it is made of


names = st.tuples(
    st.dates(date(1900, 1, 1), date(2200, 1, 1)),
    st.uuids(),
    st.uuids(),
    st.uuids(),
    st.sampled_from(Channel),
)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_delivery_ids_are_the_same_in_sql(cluster: Cluster, data: st.DataObject) -> None:
    """Ten times a hundred and two random deliveries: the ids that SQL derives are those that Python does."""
    wanted = data.draw(st.lists(names, min_size=100, max_size=100))
    edge = UUID(int=0), UUID(int=2**128 - 1)
    wanted += [(date(2000, 1, 1), *edge, edge[0], Channel.PUSH), (date(1999, 12, 31), *edge, edge[1], Channel.EMAIL)]

    async def ids() -> list[UUID]:
        async with open_database(cluster.dsn("delivery_ids")) as db:
            rows = await db.fetch(
                """
                select notifierd.delivery_id(d, o, s, c, case c when 'push' then v end) as id
                from unnest($1::date[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[]) with ordinality
                    as t (d, o, s, v, c, n) order by n
                """,
                *map(list, zip(*wanted, strict=True)),
            )
        return [row["id"] for row in rows]

    if "delivery_ids" not in cluster.psql("select datname from pg_database"):
        cluster.create_database("delivery_ids")
        trio.run(_init, cluster.dsn("delivery_ids"))
    assert trio.run(ids) == [
        delivery_id(day, office, staff, channel, device if channel is Channel.PUSH else None)
        for day, office, staff, device, channel in wanted
    ]


async def _init(dsn: str) -> None:
    async with open_database(dsn) as db:
        await init(db)


async def test_delivery_ids_cost_no_function_call(db: Database) -> None:
    """Inlined into the statement that plans; a call for each row would take six times as long."""
    await init(db)
    rows = await db.fetch(
        """
        explain (verbose, costs off)
        select notifierd.delivery_id(day, office_id, staff_id, channel, device_id) from notifierd.deliveries
        """
    )
    plan = "\n".join(row[0] for row in rows)
    assert "sha256" in plan
    assert "delivery_id(" not in plan


async def test_the_database_raises_what_was_raised(database: str, cluster: Cluster) -> None:
    """Neither the block's own error nor that of the connection comes in groups of the asyncio loop's nurseries."""
    error = SchemaMissing(str(uuid4()))
    with pytest.raises(SchemaMissing) as caught:
        async with open_database(database):
            raise error
    assert caught.value is error
    for dsn, reason in [
        (cluster.dsn("nowhere"), "database_unavailable:3D000"),
        (cluster.dsn(user="nobody_at_all"), "database_unavailable:28000"),
        ("postgresql:///?host=/nonexistent", "database_unavailable:FileNotFoundError"),
    ]:
        with pytest.raises(LedgerUnavailable) as away:
            async with open_database(dsn):
                pytest.fail("a connection was made")
        assert away.value.reason == reason
