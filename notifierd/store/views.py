"""Scripts that drop the views, and create them again as they are, whether a preset or the application made them.

PostgreSQL refuses a migration that changes or drops a column as long as a view uses it (PostgreSQL, 5.15).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from notifierd.messages.text import UNSEEN_IN_LINES
from notifierd.model.errors import SchemaMissing
from notifierd.store.contract import VIEWS, quoted
from notifierd.store.database import Database

_VIEWS = """
select c.relname::text as view, pg_get_viewdef(c.oid) as definition, pg_get_userbyid(c.relowner)::text as owner,
    coalesce((select string_agg(split_part(o, '=', 1) || ' = ' || quote_literal(substr(o, strpos(o, '=') + 1)), ', ')
              from unnest(c.reloptions) as o), '') as options,
    array(select format('alter view notifierd.%I alter column %I set default %s', c.relname, a.attname,
                        pg_get_expr(d.adbin, d.adrelid))
          from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
          where d.adrelid = c.oid order by d.adnum) as defaults,
    array(select pg_get_triggerdef(t.oid) from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal
          order by t.tgname) as triggers,
    array(select pg_get_ruledef(r.oid) from pg_rewrite r where r.ev_class = c.oid and r.rulename <> '_RETURN'
          order by r.rulename) as rules,
    array(select format('grant %s on notifierd.%I to %s%s', g.privilege_type, c.relname,
                        case g.grantee when 0 then 'public' else format('%I', pg_get_userbyid(g.grantee)) end,
                        case when g.is_grantable then ' with grant option' end)
          from aclexplode(c.relacl) as g where g.grantee <> c.relowner order by 1) as grants,
    array(select format('grant %s (%I) on notifierd.%I to %s%s', g.privilege_type, a.attname, c.relname,
                        case g.grantee when 0 then 'public' else format('%I', pg_get_userbyid(g.grantee)) end,
                        case when g.is_grantable then ' with grant option' end)
          from pg_attribute a cross join aclexplode(a.attacl) as g where a.attrelid = c.oid order by 1)
        as column_grants,
    array(select case d.objsubid when 0 then format('comment on view notifierd.%I is %L', c.relname, d.description)
                 else format('comment on column notifierd.%I.%I is %L', c.relname, a.attname, d.description) end
          from pg_description d left join pg_attribute a on a.attrelid = c.oid and a.attnum = d.objsubid
          where d.classoid = 'pg_class'::regclass and d.objoid = c.oid order by d.objsubid) as comments
from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'notifierd'
join unnest($1::text[]) with ordinality as w (name, place) on w.name = c.relname
where c.relkind = 'v'
order by w.place
"""

_QUOTED: Final = re.compile(
    r"""(?P<escaped>\bE'(?:[^'\\]|\\.|'')*')|(?P<plain>'(?:[^']|'')*')|(?P<name>"(?:[^"]|"")*")""", re.DOTALL
)
"""The quoted parts of what PostgreSQL prints of a definition, which has no comments and no dollar quotes. Any
character may stand in them; all others are ASCII (PostgreSQL, 4.1.1: other names are printed in quotes)."""

_UNSEEN_OR_NOT_ASCII: Final = re.compile(rf"{UNSEEN_IN_LINES.pattern}|[^\x00-\x7f]")


async def drop_script(db: Database) -> str:
    """Return the SQL that drops the views, in one transaction.

    Raises:
        SchemaMissing: there are none.
        LedgerUnavailable: no answer.
    """
    rows = await _views(db)
    return _in_one([f"drop view notifierd.{quoted(row['view'])}" for row in reversed(rows)])


async def create_script(db: Database) -> str:
    """Return the SQL that creates the views as they are now.

    It has their definitions, defaults, triggers, rules, owners, privileges and comments.

    Raises:
        SchemaMissing: there are none.
        LedgerUnavailable: no answer.
    """
    return _in_one([statement for row in await _views(db) for statement in _made(row)])


def printable(script: str, *, is_ascii: bool) -> str:
    """Return SQL of the same meaning, with escapes for what a terminal would obey, hide or reverse.

    A string becomes E'', a name U&"" (PostgreSQL, 4.1.2.2 and 4.1.1).

    Args:
        is_ascii: have escapes for all that is not ASCII.
    """
    unseen = _UNSEEN_OR_NOT_ASCII if is_ascii else UNSEEN_IN_LINES

    def escaped(found: re.Match[str]) -> str:
        text = found[0]
        if not unseen.search(text):
            return text
        if found.lastgroup == "name":
            return "U&" + unseen.sub(lambda one: f"\\+{ord(one[0]):06X}", text.replace("\\", "\\\\"))
        text = "E" + text.replace("\\", "\\\\") if found.lastgroup == "plain" else text
        return unseen.sub(lambda one: f"\\U{ord(one[0]):08X}", text)

    return _QUOTED.sub(escaped, script)


async def _views(db: Database) -> list[Any]:
    rows = await db.fetch(_VIEWS, list(VIEWS))
    if not rows:
        raise SchemaMissing("there are no views in the schema notifierd: run `notifierd db init --preset NAME`")
    return rows


def _made(row: Mapping[str, Any]) -> list[str]:
    view = f"notifierd.{quoted(row['view'])}"
    options = f" with ({row['options']})" if row["options"] else ""
    return [
        f"create view {view}{options} as\n{row['definition'].rstrip(';')}",
        *row["defaults"],
        *row["triggers"],
        *(rule.rstrip(";") for rule in row["rules"]),
        f"alter view {view} owner to {quoted(row['owner'])}",
        *row["grants"],
        *row["column_grants"],
        *row["comments"],
    ]


def _in_one(statements: list[str]) -> str:
    # The script is in UTF-8, whatever client_encoding psql has.
    lines = ["begin", "set local search_path = pg_catalog", "set local client_encoding = 'UTF8'", *statements, "commit"]
    return ";\n".join(lines) + ";\n"
