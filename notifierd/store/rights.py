"""Revoke in ``db migrate`` the privileges that an earlier version granted to the daemon's role without need.

``db init --role`` used to grant select and insert on the whole view audit_log. A role with privileges that no version
granted keeps them: an administrator may have granted them on purpose.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from attrs import frozen

from notifierd.model.errors import StatementRefused
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
