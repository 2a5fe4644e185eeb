"""Keep the daemon's role to what it needs: the privileges that ``db migrate`` revokes, the limits of ``db init``.

``db init --role`` used to grant select and insert on the whole view audit_log. A role with privileges that no version
granted keeps them: an administrator may have granted them on purpose.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from attrs import frozen

from notifierd.model.errors import StatementRefused
from notifierd.store.connection.guards import ROLE_DEFAULTS
from notifierd.store.contract import RIGHTS, narrowing, quoted
from notifierd.store.database import Connection, Database, Row
from notifierd.store.schema import ALONE

_NAME: Final = "audit_log"
_VIEW: Final = f"notifierd.{_NAME}"

_ONCE_GIVEN: Final = frozenset({f"{_NAME} select"})
"""What an earlier version granted beyond `RIGHTS`, besides insert on all columns of the same view."""

_GIVEN: Final = """
select c.oid, c.relname, c.relowner, null::name as part, x.* from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'notifierd'
cross join aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
union all
select c.oid, c.relname, c.relowner, a.attname, x.* from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'notifierd'
join pg_attribute a on a.attrelid = c.oid
cross join aclexplode(a.attacl) x
"""
"""Every privilege on a view or table of the schema, or on a column of one (then *part*)."""

# The roles that may insert into the ledger, without its owner.
_ROLES: Final = f"""
with given as ({_GIVEN})
select r.rolname::text as role, pg_get_userbyid(v.relowner)::text as owner, pg_has_role(v.relowner, 'usage') as ours,
       not exists (
           select from given g where g.grantee = r.oid and g.relname::text = any ($1::text[])
           and (g.is_grantable or not g.relname || ' ' || lower(g.privilege_type) = any ($2::text[]))
       ) as daemon,
       exists (
           select from given g where g.grantee = r.oid and g.oid = v.oid and g.grantor = v.relowner
           and (g.privilege_type = 'SELECT' or g.part is null)
       ) as more
from pg_roles r
join pg_class v on v.oid = to_regclass('{_VIEW}')
where exists (
    select from given g where g.grantee = r.oid and g.relname = 'deliveries' and g.privilege_type = 'INSERT'
    and g.grantee <> g.relowner
)
order by r.rolname
"""  # noqa: S608 - made of the constants above

# The grants by which these roles may read the view. A superuser needs none.
_READERS: Final = f"""
with given as ({_GIVEN}), way as (
    select distinct g.grantee, g.grantor from given g
    where g.oid = to_regclass('{_VIEW}') and g.privilege_type = 'SELECT'
    union all
    select oid, null from pg_roles where rolname = 'pg_read_all_data'
)
select r.rolname::text as role, h.rolname::text as holder, pg_get_userbyid(w.grantor)::text as grantor
from pg_roles r cross join way w left join pg_roles h on h.oid = w.grantee
where r.rolname = any ($1::text[]) and not r.rolsuper
  and case when w.grantee = 0 then true else pg_has_role(r.oid, w.grantee, 'member') end
order by r.rolname, h.rolname, 3
"""  # noqa: S608 - made of the constants above

# A role is notifierd's own if neither the role nor one that it is a member of owns a relation of this database, or was
# granted a privilege on one outside of the schema.
_OWN: Final = """
select current_database()::text as database, not r.rolsuper and not exists (
    select from pg_shdepend d
    join pg_database here on here.oid = d.dbid and here.datname = current_database()
    join pg_class c on c.oid = d.objid
    join pg_namespace n on n.oid = c.relnamespace
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_authid'::regclass
      and pg_has_role(r.oid, d.refobjid, 'member') and (d.deptype = 'o' or n.nspname <> 'notifierd')
) as own
from pg_roles r where r.rolname = $1::text
"""


async def limit(db: Database, role: str) -> str:
    """Set ROLE_DEFAULTS for *role* in this database, if it is notifierd's own; return a line that says what was done.

    A refusal of PostgreSQL is part of the line, and not an error.

    Raises:
        LedgerUnavailable: no answer.
    """
    (row,) = await db.fetch(_OWN, role)
    if not row["own"]:
        return f"role {role}: keeps its own limits, because it has privileges on other tables than notifierd's"
    where = f"{quoted(role)} in database {quoted(row['database'])}"
    statements = [f"alter role {where} set {name} = '{value}'" for name, value in ROLE_DEFAULTS.items()]

    async def unit(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(";".join(statements))

    try:
        await db.unit(unit)
    except StatementRefused as error:
        remedy = f"as a role that may alter it, run: {'; '.join(statements)}"
        return f"role {role}: its limits could not be set (SQLSTATE {error.sqlstate}); {remedy}"
    limits = ", ".join(f"{name} = {value}" for name, value in ROLE_DEFAULTS.items())
    return f"role {role}: has these limits in the database {row['database']}: {limits}"


async def missing_limits(db: Database) -> list[str]:
    """Return those of ROLE_DEFAULTS that are not the connected role's, if the role is notifierd's own.

    Each reads as ``lock_timeout is 0 and should be 2s``.
    """
    (me,) = await db.fetch("select current_user::text as role")
    (row,) = await db.fetch(_OWN, me["role"])
    if not row["own"]:
        return []
    rows = await db.fetch(
        """
        select s.name, s.reset_val || coalesce(s.unit, '') as found, w.value as wanted
        from unnest($1::text[], $2::text[]) with ordinality as w (name, value, place) join pg_settings s using (name)
        where case when s.unit is null then s.reset_val <> w.value
                   else (s.reset_val || s.unit)::interval <> w.value::interval end
        order by w.place
        """,
        list(ROLE_DEFAULTS),
        list(ROLE_DEFAULTS.values()),
    )
    return [f"{row['name']} is {row['found']} and should be {row['wanted']}" for row in rows]


@frozen
class Narrowed:
    """What was done about needless privileges.

    Attributes:
        taken: the privileges that were revoked, a line each.
        left: the roles that may still read the audit log, each with the statement that would end it, a line each.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]


async def narrow(db: Database) -> Narrowed:
    """Revoke from the daemon's roles what an earlier version granted on the audit log.

    A refusal of PostgreSQL is part of the result, and not an error.

    Raises:
        LedgerUnavailable: no answer.
    """
    given = [f"{relation} {right}" for relation, rights in RIGHTS.items() for right in rights.split(", ")]
    roles = {row["role"]: row for row in await db.fetch(_ROLES, list(RIGHTS), [*given, *_ONCE_GIVEN])}
    taken, refused = [], {}
    for role, row in roles.items():
        if not (row["daemon"] and row["more"] and row["ours"]):
            continue
        try:
            await db.unit(_unit(role))
        except StatementRefused as error:
            refused[role] = error.sqlstate
        else:
            taken.append(f"role {role}: has no more right on {_VIEW} than to insert what notifierd writes")
    readers = await db.fetch(_READERS, list(roles))
    return Narrowed(tuple(taken), tuple(_left(reader, roles[reader["role"]], refused) for reader in readers))


def _unit(role: str) -> Callable[[Connection], Awaitable[None]]:
    async def unit(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(ALONE)
            await connection.execute(";".join(narrowing(role, _NAME)))

    return unit


def _left(reader: Row, row: Row, refused: Mapping[str, str]) -> str:
    """Return a line that says why a role may still read the audit log, and which statement would end it."""
    role, holder, owner = reader["role"], reader["holder"], row["owner"]
    revoke = f"revoke select on {_VIEW} from {quoted(holder) if holder else 'public'}"  # noqa: S608 - shown, not run
    match holder:
        case None:
            way, remedy = "as everybody may", revoke
        case _ if holder in {owner, "pg_read_all_data"}:
            way, remedy = f"as a member of {holder}", f"revoke {quoted(holder)} from {quoted(role)}"
        case _ if holder != role:
            way, remedy = f"as a member of {holder}", revoke
        case _ if not row["daemon"]:
            way, remedy = "having rights that `db init` never gave; if the daemon connects as this role", revoke
        case _ if reader["grantor"] != owner:
            way, remedy = f"by a grant of {reader['grantor']}'s, who can take it", revoke
        case _:
            why = f" (SQLSTATE {refused[role]})" if role in refused else ""
            way, remedy = f"by a grant that the view's owner {owner} can take{why}", "; ".join(narrowing(role, _NAME))
    return f"role {role}: may read {_VIEW}, which the daemon does not need, {way}: {remedy}"
