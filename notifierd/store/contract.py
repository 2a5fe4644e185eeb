"""The contract with an application: the five views, how notifierd uses them, and the privileges that this needs.

This module only reads the catalogue and the answers of EXPLAIN. None of its statements count in the statistics.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from notifierd.config.settings import Audit
from notifierd.store.database import Database

VIEWS: Final[Mapping[str, Mapping[str, str]]] = {
    "offices": {"id": "uuid", "name": "text"},
    "staff": {
        "office_id": "uuid",
        "id": "uuid",
        "name": "text",
        "email": "text",
        "email_enabled": "bool",
        "email_days": "int",
        "push_enabled": "bool",
        "push_days": "int",
    },
    "alerts": {
        "office_id": "uuid",
        "recipient_id": "uuid",
        "recipient_name": "text",
        "kind": "text",
        "due_on": "date",
        "cycle": "int",
    },
    "devices": {"id": "uuid", "staff_id": "uuid", "endpoint": "text", "p256dh": "text", "auth": "text"},
    "audit_log": {
        "action": "text",
        "target_type": "text",
        "target_id": "uuid",
        "office_id": "uuid",
        "details": "jsonb",
    },
}
"""The views and their columns. A view may have more; ``varchar`` counts as ``text``."""

OPTIONAL: Final[Mapping[str, Mapping[str, str]]] = {"devices": {"created_at": "timestamptz"}}
"""Optional columns: used where a view has them, ignored if they have another type."""

RIGHTS: Final[Mapping[str, str]] = {
    "offices": "select",
    "staff": "select",
    "alerts": "select",
    "devices": "select, delete",
    "audit_log": "insert",
    "migrations": "select",
    "runs": "select, insert, update, delete",
    "run_members": "select, insert, update, delete",
    "run_offices": "select, insert, update, delete",
    "offices_to_plan": "select, insert, delete",
    "deliveries": "select, insert, update, delete",
    "late_outcomes": "select, insert, update, delete",
    "alarms": "select, insert, delete",
    "feedback": "select, insert, update, delete",
    "feedback_looks": "select, insert, update",
    "look_lease": "select, update",
    "holds": "select, insert, update, delete",
    "lifts": "select, insert, update, delete",
    "address_pads": "select",
}
"""The privileges of the daemon's role on each view and table. An identity column needs no privilege of its own."""

COLUMN_RIGHTS: Final = frozenset({"audit_log"})
"""Views on which the role gets column privileges only, on the columns of the contract: it can set no other column."""

_AUDIT: Final = "insert into notifierd.audit_log (action, target_type, target_id, office_id, details)"

_AUDIT_ROWS: Final[Mapping[Audit, Sequence[str]]] = {
    "each": (
        "'deadline_notification_sent', 'email_notification'",
        "'push_notification_sent', 'push_notification'",
    ),
    "office": ("'deadline_notification_sent', 'office'",),
    "none": (),
}
"""The action and the target_type of the audit rows, by `content.audit`."""

_USES: Final[Sequence[tuple[str, str, str]]] = (
    *(
        (view, "select", f"select {', '.join(names)} from notifierd.{view}")  # noqa: S608 - the names above
        for view, names in VIEWS.items()
        if "select" in RIGHTS[view]
    ),
    ("devices", "delete", "delete from notifierd.devices where id = gen_random_uuid() and endpoint = ''"),
)


def uses(*audits: Audit) -> list[tuple[str, str, str]]:
    """Return view, privilege, and a statement that needs the privilege, for each use of a view.

    EXPLAIN checks the privileges of a statement without running it.

    Args:
        audits: the values of `content.audit` whose audit rows count.
    """
    rows = [words for audit in audits for words in _AUDIT_ROWS[audit]]
    inserts = [f"{_AUDIT} values ({words}, gen_random_uuid(), gen_random_uuid(), '{{}}')" for words in rows]
    return [*_USES, *(("audit_log", "insert", statement) for statement in inserts)]


def needed_views(audit: Audit) -> list[str]:
    """Return the views that a run with that `content.audit` uses."""
    used = {view for view, _right, _statement in uses(audit)}
    return [view for view in VIEWS if view in used]


_FUNCTION = "delivery_id"
_FUNCTION_ARGUMENTS = "date, uuid, uuid, text, uuid"

_SPELLINGS: Final[Mapping[str, Collection[str]]] = {
    "text": ("text", "character varying"),
    "bool": ("boolean",),
    "int": ("integer",),
    "timestamptz": ("timestamp with time zone", "timestamp without time zone"),
}
"""The names that ``format_type`` returns for a type of the contract, where they differ from the contract's."""


def grants(role: str, there: Collection[str] = tuple(RIGHTS)) -> list[str]:
    """Return the statements that grant *role* what the daemon needs on *there*.

    *role* is a name as in ``pg_roles``, unquoted; *there* are the views and tables that exist.
    """
    name = quoted(role)
    return [
        f"grant usage on schema notifierd to {name}",
        *(_grant(relation, name) for relation in RIGHTS if relation in there),
        f"grant execute on function notifierd.{_FUNCTION}({_FUNCTION_ARGUMENTS}) to {name}",
    ]


def revocations(role: str, there: Collection[str]) -> list[str]:
    """Return the statements that revoke every privilege of *role* on *there*."""
    return [f"revoke all on notifierd.{relation} from {quoted(role)}" for relation in RIGHTS if relation in there]


def narrowing(role: str, relation: str) -> list[str]:
    """Return the statements that leave *role* exactly the privileges that the daemon needs on *relation*."""
    return [*revocations(role, [relation]), _grant(relation, quoted(role))]


def quoted(name: str) -> str:
    """Return *name* as a quoted identifier, so that SQL can read it as nothing else (PostgreSQL, 4.1.1)."""
    return '"' + name.replace('"', '""') + '"'


def _grant(relation: str, name: str) -> str:
    columns = f" ({', '.join(VIEWS[relation])})" if relation in COLUMN_RIGHTS else ""
    return f"grant {RIGHTS[relation]}{columns} on notifierd.{relation} to {name}"


async def missing_rights(db: Database, role: str | None = None, *, audit: Audit = "each") -> list[str]:
    """Return the privileges of `RIGHTS` that *role* (None: the connected role) lacks.

    Each reads as ``delete on notifierd.devices``. Views and tables that do not exist, or that *audit* does not need,
    are left out.
    """
    needless = VIEWS.keys() - needed_views(audit)
    asked = [
        (relation, right, column)
        for relation, rights in RIGHTS.items()
        if relation not in needless
        for right in rights.split(", ")
        for column in (VIEWS[relation] if relation in COLUMN_RIGHTS else [None])
    ]
    rows = await db.fetch(
        """
        with asked as (select coalesce($5::text, current_user)::name as role)
        select 'usage on schema notifierd' as lacking, 0 as place
        from asked, pg_namespace n where n.nspname = 'notifierd' and not has_schema_privilege(role, n.oid, 'usage')
        union all
        select w.privilege || ' on notifierd.' || w.name, min(w.place)
        from asked, unnest($1::text[], $2::text[], $3::text[]) with ordinality as w (name, privilege, attribute, place)
        join pg_class c on c.relname = w.name
        join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'notifierd'
        left join pg_attribute a on a.attrelid = c.oid and a.attname = w.attribute and not a.attisdropped
        where case when w.attribute is null then not has_table_privilege(role, c.oid, w.privilege)
                   else not has_column_privilege(role, c.oid, a.attnum, w.privilege) end
        group by w.privilege, w.name
        union all
        select 'execute on function notifierd.' || p.proname, 1000
        from asked, pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'notifierd' and p.proname = $4::text and not has_function_privilege(role, p.oid, 'execute')
        order by place
        """,
        *map(list, zip(*asked, strict=True)),
        _FUNCTION,
        role,
    )
    return [row["lacking"] for row in rows]


async def needless_rights(db: Database) -> list[str]:
    """Return the connected role's privileges beyond `RIGHTS`, as ``select on notifierd.audit_log``.

    A privilege on a whole view exceeds one on its columns. Relations that the role owns are left out.
    """
    rows = await db.fetch(
        """
        select w.privilege || ' on notifierd.' || c.relname as needless
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'notifierd'
        join unnest($1::text[]) with ordinality as r (name, place) on r.name = c.relname
        cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate'])
            with ordinality as w (privilege, place)
        where has_table_privilege(c.oid, w.privilege) and not pg_has_role(c.relowner, 'usage')
          and not c.relname || ' ' || w.privilege = any ($2::text[])
        order by r.place, w.place
        """,
        list(RIGHTS),
        [
            f"{relation} {right}"
            for relation, rights in RIGHTS.items()
            if relation not in COLUMN_RIGHTS
            for right in rights.split(", ")
        ],
    )
    return [row["needless"] for row in rows]


async def missing_tables(db: Database) -> list[str]:
    """Return which of the ledger's tables do not exist."""
    tables = [name for name in RIGHTS if name not in VIEWS]
    missing = "select name from unnest($1::text[]) as name where to_regclass('notifierd.' || name) is null"
    return [row["name"] for row in await db.fetch(missing, tables)]


async def problems_by_view(db: Database, audit: Audit = "each") -> dict[str, list[str]]:
    """Return for each view that *audit* needs what is wrong with its columns; an empty list means nothing is.

    Runs one statement.
    """
    found = await _columns(db)
    return {view: _column_problems(VIEWS[view], found.get(view)) for view in needed_views(audit)}


async def passed_over(db: Database, view: str) -> list[str]:
    """Return which OPTIONAL columns of *view* are ignored, and why."""
    found = (await _columns(db)).get(view, {})
    columns = {column: wanted for column, wanted in OPTIONAL.get(view, {}).items() if column in found}
    return [f"{problem}: notifierd ignores it" for problem in _column_problems(columns, found)]


async def _columns(db: Database) -> dict[str, dict[str, str]]:
    """Return the columns that the views have, with their types. Runs one statement."""
    rows = await db.fetch(
        """
        select c.relname as view, a.attname as column, format_type(a.atttypid, null) as type
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where n.nspname = 'notifierd' and c.relname = any ($1::text[]) and c.relkind in ('v', 'r', 'm', 'p', 'f')
        """,
        list(VIEWS),
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["view"], {})[row["column"]] = row["type"]
    return found


async def functions_called(db: Database, view: str) -> list[str]:
    """Return the functions called by a write to *view* that resolve names through the connection's search_path.

    These are the functions of its table's triggers and, for an insert, of defaults and check constraints, if they are
    written in SQL or PL/pgSQL. A function with a search_path of its own is left out, and so is one whose body was bound
    when it was created (PostgreSQL, CREATE FUNCTION, sql_body).
    """
    inserts = "insert" in RIGHTS[view]
    rows = await db.fetch(
        """
        with behind as (
            select v.oid from pg_class v join pg_namespace n on n.oid = v.relnamespace
            where n.nspname = 'notifierd' and v.relname = $1::text
            union
            select d.refobjid from pg_class v join pg_namespace n on n.oid = v.relnamespace
            join pg_rewrite r on r.ev_class = v.oid
            join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                and d.refclassid = 'pg_class'::regclass
            where n.nspname = 'notifierd' and v.relname = $1::text
        ), called as (
            select t.tgfoid as oid from behind b join pg_trigger t on t.tgrelid = b.oid
            where not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & $2::int <> 0
            union
            select d.refobjid from behind b join pg_attrdef a on a.adrelid = b.oid
            join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = a.oid
            where $3::bool and d.refclassid = 'pg_proc'::regclass
            union
            select d.refobjid from behind b join pg_constraint c on c.conrelid = b.oid and c.contype = 'c'
            join pg_depend d on d.classid = 'pg_constraint'::regclass and d.objid = c.oid
            where $3::bool and d.refclassid = 'pg_proc'::regclass
        )
        select p.oid::regprocedure::text as function
        from called join pg_proc p using (oid) join pg_language l on l.oid = p.prolang
        where l.lanname in ('sql', 'plpgsql') and p.prosqlbody is null
          and not exists (select from unnest(p.proconfig) setting where setting like 'search\\_path=%')
        order by 1
        """,
        view,
        _TRIGGERED_BY_INSERT if inserts else _TRIGGERED_BY_DELETE,
        inserts,
    )
    return [row["function"] for row in rows]


_TRIGGERED_BY_INSERT, _TRIGGERED_BY_DELETE = 1 << 2, 1 << 3
"""Bits of pg_trigger.tgtype: PostgreSQL's src/include/catalog/pg_trigger.h."""


async def view_problems(db: Database, audit: Audit = "each") -> list[str]:
    """Return what is wrong with the columns of the views that *audit* needs, one line each; empty: nothing is.

    Runs one statement.
    """
    found = await problems_by_view(db, audit)
    return [f"notifierd.{view}: {line}" for view, lines in found.items() for line in lines]


async def is_read_only(db: Database) -> bool:
    """Tell whether a transaction may not write: on a standby, or as the server, the database or the role is set."""
    return bool(await db.fetch("select where current_setting('transaction_read_only') = 'on'"))


async def system_identifier(db: Database) -> str:
    """Return the identifier of this database cluster, which ``safety.database_id`` is compared with.

    A dump that is restored into another cluster has another identifier. A copy of the cluster's files (a snapshot, a
    standby) has the same one.

    Raises:
        StatementRefused: the role lacks EXECUTE on ``pg_control_system()``, which somebody revoked.
    """
    rows = await db.fetch("select system_identifier::text as id from pg_control_system()")
    identifier: str = rows[0]["id"]
    return identifier


def _column_problems(columns: Mapping[str, str], found: Mapping[str, str] | None) -> list[str]:
    if found is None:
        return ["the view is missing (run `notifierd db init --preset NAME`, or create it)"]
    problems = []
    for column, wanted in columns.items():
        if column not in found:
            problems.append(f"column {column} ({wanted}) is missing")
        elif found[column] not in _SPELLINGS.get(wanted, (wanted,)):
            problems.append(f"column {column} is {found[column]} and must be {wanted}")
    return problems
