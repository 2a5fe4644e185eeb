"""CVE-2018-1058: who may create objects in a schema of the application's database has none of them used by notifierd.

PostgreSQL prefers a function or an operator for the exact argument types over its own for wider ones, wherever on the
search path it stands. Each of those here raises an error, so that a statement which resolves one of them fails.
"""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from notifierd.demo.postgres import Cluster
from notifierd.model.errors import StatementRefused
from notifierd.store.connection.guards import SEARCH_PATH
from notifierd.store.database import open_database
from notifierd.store.migrations.versions import Migration, migrations
from notifierd.store.schema import SetupFailed, init, migrate
from tests.support.application import OwnPath
from tests.support.processes import DAY, Place, invent, run

TYPES = (
    *("uuid", "uuid[]", "text", "text[]", "varchar", "name", "name[]", "integer", "integer[]", "bigint", "smallint"),
    *("boolean", "date", "timestamptz", "interval", "jsonb", "bytea", "double precision", "numeric", "oid", "regclass"),
)
"""Those that the statements work with."""

OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "->", "->>", "~", "&")

BODY = "language plpgsql as 'begin raise exception ''hostile''; end';"

PACKAGE = Path(str(files("notifierd")))


def called() -> list[str]:
    """The names that are called as functions anywhere in the package: those of its statements are among them."""
    texts = [path.read_text(encoding="utf-8") for kind in ("*.py", "*.sql") for path in PACKAGE.rglob(kind)]
    return sorted({name for text in texts for name in re.findall(r"\b([a-z_]\w+)\(", text)})


def hostile_objects(known: set[str]) -> str:
    """A script that makes them, for the functions that the server knows."""
    functions = [
        f'create function "{name}"({argument}) returns {argument} {BODY}'
        for name in [*called(), "quote_ident"]
        if name in known
        for argument in TYPES
    ]
    operators = [
        f"create operator {operator} (leftarg = {left}, rightarg = {right}, function = hostile);"
        for operator in OPERATORS
        for left in TYPES
        for right in TYPES
    ]
    pairs = [f"create function hostile({left}, {right}) returns boolean {BODY}" for left in TYPES for right in TYPES]
    tables = [
        f"create table {name} (mine int);" for name in ("runs", "deliveries", "run_offices", "migrations", "staff")
    ]
    types = [f"create domain {name} as integer;" for name in ("uuid", "date", "jsonb", "timestamptz")]
    return "\n".join([*pairs, *operators, *functions, *tables, *types])


def plant(cluster: Cluster, database: str) -> None:
    """Make them in schema public, as a role that may do nothing else."""
    known = set(cluster.psql("select distinct proname from pg_proc", database).split())
    assert {"cardinality", "unnest", "make_interval", "json_agg"} <= set(called()) & known
    cluster.psql("grant create on schema public to mallory", database)
    cluster.psql(f"set role mallory; set client_min_messages = error; {hostile_objects(known)}", database)


@pytest.fixture
def mallory(cluster: Cluster) -> str:
    """Make the role that may create objects in the application's schema."""
    if "mallory" not in cluster.psql("select rolname from pg_roles"):
        cluster.psql("create role mallory")
    return "mallory"


async def test_the_objects_would_be_used_by_a_careless_program(cluster: Cluster, database: str, mallory: str) -> None:
    """So that the other tests can fail: with the application's path, such a statement calls one of them."""
    plant(cluster, database.partition("?")[0].rpartition("/")[2])
    async with open_database(database) as careful, open_database(database) as careless:
        statement = "select quote_ident(nspname) from pg_namespace"
        await careful.fetch(statement)
        with pytest.raises(StatementRefused, match="P0001"):
            await OwnPath(careless).fetch(statement)


async def test_making_and_migrating_the_schema_use_none(cluster: Cluster, database: str, mallory: str) -> None:
    name = database.partition("?")[0].rpartition("/")[2]
    cluster.psql(f"create role {name}_daemon login")
    plant(cluster, name)
    later = Migration(migrations()[-1].version + 1, "later", "alter table notifierd.runs add column later int")
    async with open_database(database) as db:
        for _ in range(2):
            await init(db, "keikakun", f"{name}_daemon")
        await migrate(db, [*migrations(), later])
    cluster.psql(f"drop owned by {name}_daemon; drop role {name}_daemon", name)


@pytest.mark.usefixtures("_forked_commands")
def test_no_command_uses_one(place: Place, mallory: str) -> None:
    rows = invent(6, push_url=place.servers.push_url)
    place.load(rows)
    plant(place.cluster, place.database)
    for command in (
        ("check",),
        ("plan", "--json"),
        ("plan", "--explain", str(rows.staff[0].id), "--json"),
        ("preview", "--out", "out"),
        ("once", "--force", "--day", str(DAY), "--dry-run", "--json"),
        ("once", "--force", "--day", str(DAY), "--json"),
        ("status", "--json"),
        ("history", "--json"),
        ("retry", "--failed", "--unknown", "--expired"),
        ("db", "status"),
    ):
        run(*command, cwd=place.folder, code=0)
    assert place.states() == {"sent": len(place.mails()) + len(place.pushes())}


async def test_every_connection_looks_in_the_catalogue_only(database: str) -> None:
    async with open_database(database) as db:
        (row,) = await db.fetch("select current_schemas(true)::text[] as path")
    assert row["path"] == [SEARCH_PATH]


async def test_a_schema_of_somebody_else_is_not_used(cluster: Cluster, database: str, mallory: str) -> None:
    """Its owner could put a function or a trigger there, for the admin to run."""
    cluster.psql("create schema notifierd authorization mallory", database.partition("?")[0].rpartition("/")[2])
    async with open_database(database) as db:
        with pytest.raises(SetupFailed, match=r"belongs to the role mallory: connect as that role"):
            await init(db, "keikakun")
