"""The schema ``notifierd``: create it, migrate it, and report its state.

Only ``db init`` and ``db migrate`` change the schema, and need the privilege for DDL. If two of them run at once, the
second waits for the first.
"""

import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, get_args

from attrs import frozen

from notifierd.config.settings import Audit
from notifierd.model.errors import NotifierdError, SchemaMissing, StatementRefused
from notifierd.store.connection.advice import absent_column, advice
from notifierd.store.connection.guards import SEARCH_PATH
from notifierd.store.contract import (
    RIGHTS,
    VIEWS,
    grants,
    missing_rights,
    problems_by_view,
    quoted,
    revocations,
    uses,
)
from notifierd.store.database import Connection, Database
from notifierd.store.migrations.versions import Migration, applied, pending, relations, schema_exists

_HERE: Final = Path(__file__).parent

_NOT_PERMITTED: Final = "42501"
_OTHER_COLUMNS: Final = "42P16"
_LOCKED: Final = "55P03"
_NO_SUCH_COLUMN: Final = "42703"

_OWNERSHIP: Final = "to own the schema notifierd and all that is in it"

# Serialize the transactions: two at once would conflict on rows of the catalogue. A migration may take long, so it
# waits longer for a lock than the settlement of an outcome does.
ALONE: Final = """
set local lock_timeout = '60s';
set local statement_timeout = 0;
select pg_advisory_xact_lock(x'6e6f746966696572'::bigint);
"""

_OWNER: Final = """
select pg_get_userbyid(nspowner)::text as owner, pg_get_userbyid(nspowner) = current_user as ours
from pg_namespace where nspname = 'notifierd'
"""

_APPLICATION_PATH: Final = "select pg_catalog.current_schemas(false)::pg_catalog.text[] as path"
"""All names are qualified: this is the one statement that runs with the role's own search_path."""

# The schemas of the application's tables, found by the role's own search_path. The schema notifierd is left out: a
# role of the same name has it first on its path, and a second run would then define the views by themselves.
_APPLICATION_TABLES: Final = """
select distinct on (c.relname) c.relname::text as name, n.nspname::text as schema
from unnest($1::text[]) with ordinality as p (schema, place)
join pg_namespace n on n.nspname = p.schema and n.nspname <> 'notifierd'
join pg_class c on c.relnamespace = n.oid and c.relname = any ($2::text[]) and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by c.relname, p.place
"""

_APPLICATION_TABLE: Final = re.compile(r"\bapplication\.(\w+)")

_ROLES_WITH_THE_LEDGER: Final = """
select distinct r.rolname::text as role
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
cross join aclexplode(c.relacl) as given
join pg_roles r on r.oid = given.grantee
where n.nspname = 'notifierd' and c.relname = 'deliveries' and given.privilege_type = 'INSERT'
  and given.grantee <> c.relowner
"""


class SetupFailed(NotifierdError):
    """The schema could not be created or changed; the message says what to do."""


def presets() -> tuple[str, ...]:
    """Return the names of the applications for which this program has views."""
    names = (file.name for file in (_HERE / "presets").iterdir())
    return tuple(sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql")))


async def init(db: Database, preset: str | None = None, role: str | None = None) -> list[str]:
    """Create the schema, the views of *preset* and the privileges of *role*; return what was done, a line each.

    What exists already stays as it is. Without *preset*, the application has to create the views.

    Raises:
        SetupFailed: a privilege is missing, there is no such preset or role, or the application's tables do not exist.
        SchemaNewer: a newer program made this schema.
        LedgerUnavailable: no answer.
    """
    views = _preset(preset)
    await _require_role(db, role)
    with _explained("creating the schema notifierd", "CREATE on the database, or a schema notifierd that is its own"):
        await db.unit(_make_schema, patience=math.inf)
    lines = [f"migration {step}: applied" for step in await migrate(db)]
    if views:
        right = (
            "CREATE on the schema notifierd and, as the views run with their owner's privileges, SELECT on the "
            "application's tables, INSERT on its audit log and DELETE on its push subscriptions"
        )
        script = await db.unit(_on_the_applications_tables(views))
        with _explained(f"creating the views for {preset}", right, script):
            await db.unit(_views_made_by(script), patience=math.inf)
        lines.append(f"views for {preset}: in place")
    if role:
        lines.append(await _grant(db, role))
    return [*lines, "schema notifierd: ready"]


async def migrate(db: Database, steps: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """Apply those of *steps* (None: `migrations`) that are pending, each in its own transaction; return them.

    A role with privileges on the ledger is granted those on its new relations.

    Raises:
        SetupFailed: a privilege is missing, or another program held a lock for too long.
        SchemaMissing: there is no schema to migrate.
        SchemaNewer: a newer program made it.
        LedgerUnavailable: no answer.
    """
    if not await schema_exists(db):
        raise SchemaMissing("the schema notifierd is not in this database: run `notifierd db init`")
    waiting = await pending(db, steps)
    with _explained("migrating the schema notifierd", _OWNERSHIP):
        return tuple([step for step in waiting if await _apply(db, step)])


@frozen
class Status:
    """The result of ``db status``.

    Attributes:
        version: the newest migration that was applied; 0 without a schema.
        views: each view with what is wrong with its columns.
        missing_rights: the privileges that *role*, the connected role, lacks.
    """

    version: int
    pending: tuple[Migration, ...]
    views: Mapping[str, Sequence[str]]
    role: str
    missing_rights: Sequence[str]

    @property
    def good(self) -> bool:
        """Whether the schema allows a run to start."""
        return not (self.pending or self.missing_rights or any(self.views.values()))

    def lines(self) -> list[str]:
        """Return the status as lines for people."""
        lines = [f"schema notifierd: version {self.version}" if self.version else "schema notifierd: not there"]
        lines += [f"migration {step}: pending" for step in self.pending]
        lines += [f"view notifierd.{view}: {'; '.join(wrong) or 'good'}" for view, wrong in self.views.items()]
        lacking = f"lacks {', '.join(self.missing_rights)}" if self.missing_rights else "has every privilege it needs"
        return [*lines, f"role {self.role}: {lacking}"]


async def status(db: Database) -> Status:
    """Return the state of the schema, as the connected role sees it.

    Raises:
        SchemaNewer: a newer program made this schema.
        SchemaMissing: the role may not read it.
        LedgerUnavailable: no answer.
    """
    return Status(
        version=max(await applied(db), default=0),
        pending=await pending(db),
        views=await problems_by_view(db),
        role=(await db.fetch("select current_user::text as role"))[0]["role"],
        missing_rights=await missing_rights(db),
    )


def _preset(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in presets():
        raise SetupFailed(f"there is no preset {name}; the presets are: {', '.join(presets())}")
    return (_HERE / "presets" / f"{name}.sql").read_text(encoding="utf-8")


async def _require_role(db: Database, role: str | None) -> None:
    # The check also rejects "public": no role can have that name, and GRANT reads it as every role, even in quotes.
    if role is not None and not await db.fetch("select from pg_roles where rolname = $1::text", role):
        raise SetupFailed(f"there is no role {role} on this server: create it first (create role ... login)")


async def _make_schema(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute(ALONE)
        # Checked first, because "if not exists" needs the privilege to create even where the schema exists.
        if not await connection.fetch(_OWNER):
            await connection.execute("create schema notifierd")
        await _require_own(connection)
        if "migrations" not in await relations(connection):
            await connection.execute(
                "create table notifierd.migrations ("
                "version integer primary key, name text not null, applied_at timestamptz not null default now())"
            )


async def _require_own(connection: Connection) -> None:
    """Check that no other role can put an object into the schema, which would run with the connected role's rights."""
    (schema,) = await connection.fetch(_OWNER)
    if not schema["ours"]:
        raise SetupFailed(
            f"the schema notifierd belongs to the role {schema['owner']}: connect as that role (--dsn), or, if you "
            "trust all that is in it, take it over (alter schema notifierd owner to current_user)"
        )


async def _apply(db: Database, step: Migration) -> bool:
    """Apply *step* unless another process has just done so; return whether this one did."""

    async def unit(connection: Connection) -> bool:
        async with connection.transaction():
            await connection.execute(ALONE)
            await _require_own(connection)
            if await connection.fetch("select from notifierd.migrations where version = $1", step.version):
                return False
            await connection.execute(step.sql)
            await connection.execute(
                "insert into notifierd.migrations (version, name) values ($1, $2)", step.version, step.name
            )
            if step.since:
                await connection.execute(
                    "update notifierd.migrations set since = $2 where version = $1", step.version, step.since
                )
            tables = await relations(connection) - VIEWS.keys()
            for row in await connection.fetch(_ROLES_WITH_THE_LEDGER):
                await connection.execute(";".join(grants(row["role"], tables)))
            return True

    return await db.unit(unit, patience=math.inf)


def _views_made_by(script: str) -> Callable[[Connection], Awaitable[None]]:
    async def unit(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(ALONE)
            await connection.execute(script)
            for _view, _what, use in uses(*get_args(Audit)):
                await connection.execute(f"explain {use}")

    return unit


def _on_the_applications_tables(script: str) -> Callable[[Connection], Awaitable[str]]:
    """Make a unit that returns *script* with ``application`` replaced by the schema of each application table."""

    async def unit(connection: Connection) -> str:
        async with connection.transaction():
            await connection.execute("set local search_path to default")
            (path,) = await connection.fetch(_APPLICATION_PATH)
            await connection.execute(f"set local search_path = {SEARCH_PATH}")
            names = sorted(set(_APPLICATION_TABLE.findall(script)))
            rows = await connection.fetch(_APPLICATION_TABLES, path["path"], names)
        found = {row["name"]: row["schema"] for row in rows}
        if absent := [name for name in names if name not in found]:
            there = "in this database, or not on the role's search_path"
            raise SetupFailed(f"the application's tables are not {there}: {', '.join(absent)}")
        return _APPLICATION_TABLE.sub(lambda name: f"{quoted(found[name[1]])}.{quoted(name[1])}", script)

    return unit


async def _grant(db: Database, role: str) -> str:
    """Grant *role* exactly what the daemon needs on the relations that exist; return a line that says so."""

    async def unit(connection: Connection) -> set[str]:
        async with connection.transaction():
            await connection.execute(ALONE)
            there = await relations(connection)
            await connection.execute(";".join([*revocations(role, there), *grants(role, there)]))
            return there

    with _explained(f"granting privileges to {role}", _OWNERSHIP):
        there = await db.unit(unit, patience=math.inf)
    # PostgreSQL only warns a grantor who has a privilege on the table but no grant option.
    if lacking := await missing_rights(db, role):
        raise SetupFailed(f"granting privileges to {role} had no effect ({', '.join(lacking)}): {_needed(_OWNERSHIP)}")
    absent = ", ".join(f"notifierd.{name}" for name in RIGHTS if name not in there)
    later = f", except on {absent}: run this again when the application has created them" if absent else ""
    return f"role {role}: has the privileges that the daemon needs{later}"


def _needed(right: str) -> str:
    return f"the connected role needs {right}. Name a role that has it: notifierd db init --dsn ADMIN"


@contextmanager
def _explained(doing: str, right: str, script: str = "") -> Iterator[None]:
    """Add to a refused statement what it was for, which *right* may be missing, and which column of *script* is."""
    try:
        yield
    except StatementRefused as error:
        state = error.sqlstate
        hint = {
            _NOT_PERMITTED: _needed(right),
            _OTHER_COLUMNS: "a view of that name has other columns: drop the five views in notifierd and try again",
            _LOCKED: "another program held a lock for a minute: try again",
            _NO_SUCH_COLUMN: absent_column(script, error.position),
        }.get(state, advice(state))
        raise SetupFailed(f"{doing} was refused (SQLSTATE {state}): {hint}") from None
