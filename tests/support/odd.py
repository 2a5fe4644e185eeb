"""Odd values for the columns that the views read, by their types; the columns come from the catalogue."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from notifierd.demo.postgres import Cluster
from notifierd.store.contract import VIEWS, grants
from tests.support.application import SQL

NULL = "null"
HUGE = "repeat('長', 3500000)"
"""10 MB."""

TEXTS = (
    NULL,
    "''",
    "' '",
    "chr(1)",
    "repeat(chr(1), 200)",
    "'太郎' || chr(13) || chr(10) || 'Bcc: all@example.jp'",
    "'a' || chr(8238) || chr(8232) || chr(155) || chr(769) || chr(65279)",
    "repeat(chr(769), 60)",
    "repeat('W', 250)",
    "'%s %(name)s {{ name }} {% raw %} ${x} {0.__class__} [/red]'",
    "'<script>alert(1)</script>'",
    "'😀' || chr(8205) || '🏽' || chr(65534) || chr(1114109)",
    HUGE,
)
NUMBERS = (NULL, "0", "-1", "-2147483648", "2147483647")
ODD: Mapping[str, Sequence[str]] = {
    "text": TEXTS,
    "character varying": TEXTS,
    "boolean": (NULL,),
    "integer": NUMBERS,
    "uuid": (NULL, "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
    "date": (
        NULL,
        *("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'0044-03-15 BC'", "'0001-01-01'", "'9999-12-31'"),
        *("'10000-01-01'", "'5874897-12-31'"),
    ),
    "timestamp with time zone": (NULL, "'infinity'", "'-infinity'", "'4714-11-24 BC'", "'294276-12-31'"),
    "jsonb": (
        NULL,
        *("'null'", "'[]'", "'{}'", "'\"x\"'", "'1e400'", "('\"' || repeat('x', 10000000) || '\"')::jsonb"),
        "(repeat('[', 5000) || repeat(']', 5000))::jsonb",
        *(
            f"""'{{"email_notification": {one}, "system_notification": {one}, "email_threshold_days": {one},
            "push_threshold_days": {one}}}'"""
            for one in ("null", '"30"', "-1", "1e400", "15.5", "[15]", "{}")
        ),
    ),
    "enum": (NULL,),
}
"""Expressions of SQL. PostgreSQL refuses some of them for some columns: too long, or not null."""


@frozen
class Column:
    """A column of a table behind a view.

    Attributes:
        type: as `ODD` has it.
    """

    table: str
    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


def columns_read(cluster: Cluster, database: str) -> tuple[Column, ...]:
    """The columns of tables that the four views which are read use, by the catalogue."""
    found = cluster.psql(
        """
        select distinct c.oid::regclass::text, a.attname,
               case t.typtype when 'e' then 'enum' else format_type(a.atttypid, null) end
        from pg_class v
        join pg_namespace n on n.oid = v.relnamespace and n.nspname = 'notifierd'
        join pg_rewrite r on r.ev_class = v.oid
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjid <> v.oid
        join pg_class c on c.oid = d.refobjid and c.relkind = 'r'
        join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
        join pg_type t on t.oid = a.atttypid
        where v.relname in ('offices', 'staff', 'alerts', 'devices')
        order by 1, 2
        """,
        database,
    )
    return tuple(Column(*line.split("|")) for line in found.strip().splitlines())


def relax(columns: Sequence[Column]) -> str:
    """The statements that let *columns* be null, but those of primary keys."""
    return "".join(
        f"""
        do $$ begin alter table {column.table} alter column "{column.name}" drop not null;
        exception when others then null; end $$;
        """
        for column in columns
    )


@frozen
class Case:
    """One odd value in one column of one row.

    Attributes:
        row: the condition that finds the row.
    """

    number: int
    column: Column
    value: str
    row: str

    def __str__(self) -> str:
        return f"{self.column} = {self.value[:60]}"

    @property
    def sql(self) -> str:
        """The statement that writes the value, and what it is refused with into ``refused``."""
        return f"""
        do $$ begin update {self.column.table} set "{self.column.name}" = {self.value} where {self.row};
        exception when others then insert into refused values ({self.number}, sqlstate); end $$;
        """


def other_application(role: str) -> str:
    """The statements that give keikakun's rows to another application, whose tables forbid nothing."""
    columns = {"devices": "id, staff_id, endpoint, p256dh, auth"}
    return f"""
        {"".join(f"alter view notifierd.{view} rename to old_{view};" for view in VIEWS)}
        {SQL.read_text()}
        {
        "".join(
            f"insert into app.{view} select {columns.get(view, '*')} from notifierd.old_{view};"
            for view in ("offices", "staff", "alerts", "devices")
        )
    }
        {"".join(f"drop view notifierd.old_{view};" for view in VIEWS)}
        alter table app.offices drop constraint offices_pkey cascade;
        alter table app.staff drop constraint staff_pkey;
        alter table app.devices drop constraint devices_pkey;
        {";".join(grants(role))}
    """
