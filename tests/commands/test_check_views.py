"""What ``notifierd check`` says of the views: columns, what can be done with them, rights, and indexes behind them."""

from collections.abc import AsyncIterator

import pytest
from attrs import evolve

from notifierd.commands.check import check
from notifierd.commands.finding import exit_code
from notifierd.config.settings import Audit, ContentSettings
from notifierd.demo.postgres import Cluster
from notifierd.model.errors import StatementRefused
from notifierd.store.contract import VIEWS, view_problems
from notifierd.store.database import open_database
from notifierd.store.schema import init
from tests.support.checked_database import Place, open_place


@pytest.fixture
async def place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    async with open_place(cluster, database) as place:
        yield place


async def test_a_missing_column_is_named(place: Place) -> None:
    """The line names view and column, and so does what `once` refuses with."""
    await place.sql("alter view notifierd.staff rename column push_days to days_of_push")
    told = "column push_days (int) is missing"
    assert await place.trouble() == [("notifierd.staff", "bad", told)]
    assert await view_problems(place.admin) == [f"notifierd.staff: {told}"]


async def test_types_are_the_contracts(place: Place) -> None:
    """varchar is text, further columns are welcome; bigint is not int, and char(n), which pads, is not text."""
    await place.sql(
        """
        drop view notifierd.alerts;
        create view notifierd.alerts as
        select 1 as extra, null::uuid as office_id, null::uuid as recipient_id, null::varchar(9) as recipient_name,
               null::char(9) as kind, null::timestamptz as due_on, null::bigint as cycle
        """
    )
    assert await view_problems(place.admin) == [
        "notifierd.alerts: column kind is character and must be text",
        "notifierd.alerts: column due_on is timestamp with time zone and must be date",
        "notifierd.alerts: column cycle is bigint and must be int",
    ]


async def test_a_missing_view_and_a_materialized_one(place: Place) -> None:
    await place.sql(
        """
        drop view notifierd.alerts;
        create materialized view notifierd.alerts as
        select null::uuid as office_id, null::uuid as recipient_id, null::text as recipient_name,
               null::text as kind, null::date as due_on, null::int as cycle;
        """
        f"grant select on notifierd.alerts to {place.role}; drop view notifierd.offices"
    )
    assert await place.trouble() == [
        ("notifierd.offices", "bad", "the view is missing (run `notifierd db init --preset NAME`, or create it)")
    ]


AUDIT = "create or replace view notifierd.audit_log as select {} from audit_logs"
COLUMNS = "action, target_type, target_id, office_id, details, actor_role, is_test_data"
CONTRACT = ", ".join(VIEWS["audit_log"])
REFUSED = "insert would be refused: "
EMPTY = "insert would fail: public.audit_logs.{} must not be null, but gets no value ({})".format(
    "{}", "give it a default in the table, or in the view as a further column"
)
TRIGGER = """
create function fill() returns trigger language plpgsql set search_path = public as 'begin return new; end';
create trigger fill before insert on audit_logs for each row execute function fill();
"""


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (  # a cast makes the column an expression
            "drop view notifierd.audit_log;" + AUDIT.format(COLUMNS.replace("action,", "action::text as action,", 1)),
            [("bad", "insert would be refused: a column of the contract is an expression", "0A000")],
        ),
        (  # what the table demands, and the view does not give
            "alter view notifierd.audit_log alter column is_test_data drop default",
            [("bad", EMPTY.format("is_test_data"), "")],
        ),
        (
            "drop view notifierd.audit_log;" + AUDIT.format(COLUMNS.removesuffix(", is_test_data")),
            [("bad", EMPTY.format("is_test_data"), "")],
        ),
        ("alter table audit_logs add column at_last int not null", [("bad", EMPTY.format("at_last"), "")]),
        (  # columns that PostgreSQL fills, and those of days gone by
            """
            alter table audit_logs add column a int not null generated always as identity,
                add column b int not null default 7, add column c int not null generated always as (7) stored,
                add column d int not null;
            alter table audit_logs drop column d;
            """,
            [],
        ),
        (
            "alter table audit_logs add column later int not null;" + TRIGGER,
            [
                (
                    "warn",
                    "public.audit_logs.later must not be null, but gets no value, unless a trigger gives it one",
                    "",
                )
            ],
        ),
        (
            "drop view notifierd.audit_log; alter table audit_logs alter column action type varchar(24);"
            + AUDIT.format(COLUMNS)
            + "; alter view notifierd.audit_log alter column is_test_data set default false",
            [("bad", "insert would be refused: a column is too narrow for the values that are written", "22001")],
        ),
        (
            "drop view notifierd.audit_log;" + AUDIT.format(f"distinct {COLUMNS}"),
            [("bad", "insert would be refused: the view must read one table", "55000")],
        ),
        (  # the same view, with a trigger instead of the insert
            "drop view notifierd.audit_log;"
            + AUDIT.format(f"distinct {COLUMNS}")
            + """;
            create function instead() returns trigger language plpgsql set search_path = public
            as 'begin return null; end';
            create trigger instead instead of insert on notifierd.audit_log
            for each row execute function instead();
            """,
            [],
        ),
    ],
)
async def test_the_audit_log_has_to_be_insertable(place: Place, script: str, found: list[tuple[str, str, str]]) -> None:
    """What is said of the view is what a real insert then does."""
    await place.sql(script + f"; grant insert ({CONTRACT}) on notifierd.audit_log to {place.role}")
    trouble = await place.trouble()
    assert [subject for subject, _, _ in trouble] == ["notifierd.audit_log"] * len(found)
    for (_, level, text), (wanted_level, start, end) in zip(trouble, found, strict=True):
        assert (level, text.startswith(start), end in text) == (wanted_level, True, True), text
    insert = """
        insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
        values ('deadline_notification_sent', 'email_notification', null, null, '{}')
    """
    async with open_database(place.settings.database.dsn) as daemon:
        if found:
            with pytest.raises(StatementRefused):
                await daemon.fetch(insert)
        else:
            await daemon.fetch(insert)


async def test_devices_have_to_be_deletable(place: Place) -> None:
    await place.sql(
        f"""
        create or replace view notifierd.devices as
        select p.id, p.staff_id, p.endpoint, p.p256dh_key as p256dh, p.auth_key as auth, p.created_at
        from push_subscriptions p join staffs s on s.id = p.staff_id;
        grant select, delete on notifierd.devices to {place.role}
        """
    )
    ((subject, level, text),) = await place.trouble()
    assert (subject, level) == ("notifierd.devices", "bad")
    assert text.startswith("delete would be refused: the view must read one table")


async def test_views_of_an_owner_without_rights(place: Place) -> None:
    """The role has its rights on the view, but the view has none on the tables."""
    await place.sql(f"create role {place.role}_owner")
    try:
        await place.sql(
            f"""
            grant usage, create on schema notifierd to {place.role}_owner;
            grant select on audit_logs to {place.role}_owner;
            alter view notifierd.audit_log owner to {place.role}_owner;
            alter view notifierd.offices owner to {place.role}_owner;
            """
        )
        why = "the view's owner lacks that privilege on the tables behind it (SQLSTATE 42501)"
        assert await place.trouble() == [
            ("notifierd.offices", "bad", f"select would be refused: {why}"),
            ("notifierd.audit_log", "bad", f"insert would be refused: {why}"),
        ]
    finally:
        await place.sql(f"reassign owned by {place.role}_owner to postgres")
        await place.sql(f"drop owned by {place.role}_owner; drop role {place.role}_owner")


async def test_a_function_that_names_a_table_without_its_schema_is_found(place: Place) -> None:
    """By reading a row of the view: an explanation calls nothing."""
    await place.sql(
        """
        create table holidays (day date);
        grant select on holidays to public;
        create function counts(day date) returns boolean language sql stable
        as 'select not exists (select from holidays h where h.day = $1)';
        create or replace view notifierd.alerts as
        select null::uuid as office_id, null::uuid as recipient_id, ''::text as recipient_name, ''::text as kind,
               day as due_on, 1 as cycle
        from (select current_date as day) today where counts(day)
        """
    )
    ((subject, level, text),) = await place.trouble()
    assert (subject, level) == ("notifierd.alerts", "bad")
    assert "a function that it calls names an object without its schema" in text
    await place.sql("alter function counts(date) set search_path = public")
    assert await place.trouble() == []


async def test_functions_that_a_write_calls_and_that_have_no_path_of_their_own_are_named(place: Place) -> None:
    """Of triggers for what is written, defaults and checks; not with a path, nor with a body that is bound already."""
    await place.sql(
        """
        create function note() returns trigger language plpgsql as 'begin return new; end';
        create function other() returns trigger language plpgsql as 'begin return new; end';
        create function pathed() returns trigger language plpgsql set search_path = public as 'begin return new; end';
        create function number() returns integer language sql as 'select 1';
        create function fixed() returns integer language sql return 1;
        create function fits(text) returns boolean language sql as 'select true';
        create trigger note after insert on audit_logs for each row execute function note();
        create trigger pathed after insert on audit_logs for each row execute function pathed();
        create trigger other after update or delete on audit_logs for each row execute function other();
        create trigger other after insert or update on push_subscriptions for each row execute function other();
        create trigger note before delete on push_subscriptions for each row execute function note();
        alter table audit_logs add column number int default number(), add column fixed int default fixed();
        alter table audit_logs add check (fits(action));
        alter table push_subscriptions add check (fits(endpoint));
        """
    )
    text = (
        "a write calls {}, which runs with search_path = pg_catalog: "
        "name tables in it with their schema, or give it a path (alter function ... set search_path = ...)"
    )
    assert await place.trouble() == [
        ("notifierd.devices", "warn", text.format("public.note()")),
        *(
            ("notifierd.audit_log", "warn", text.format(function))
            for function in ("public.fits(text)", "public.note()", "public.number()")
        ),
    ]


async def test_rights_that_the_role_lacks(place: Place) -> None:
    await place.sql(
        f"revoke delete on notifierd.devices from {place.role}; revoke update on notifierd.runs from {place.role}"
    )
    remedy = "(`notifierd db init --dsn ADMIN --role NAME`)"
    assert sorted(await place.trouble()) == [
        ("notifierd.devices", "bad", "the role may not delete"),
        ("rights", "bad", f"the role lacks delete on notifierd.devices {remedy}"),
        ("rights", "bad", f"the role lacks update on notifierd.runs {remedy}"),
    ]


def audit_of(place: Place, audit: Audit) -> None:
    place.settings = evolve(place.settings, content=ContentSettings(audit=audit))


async def test_only_the_rows_that_are_written_have_to_fit(place: Place) -> None:
    """A column of six characters has room for the target type of an office's row."""
    await place.sql(
        "drop view notifierd.audit_log; alter table audit_logs alter column target_type type varchar(6);"
        + AUDIT.format(COLUMNS)
        + "; alter view notifierd.audit_log alter column is_test_data set default false;"
        + f"grant insert ({CONTRACT}) on notifierd.audit_log to {place.role}"
    )
    assert [subject for subject, _, _ in await place.trouble()] == ["notifierd.audit_log"]
    audit_of(place, "office")
    assert await place.trouble() == []


async def test_who_writes_no_audit_rows_needs_neither_the_right_nor_the_view(place: Place) -> None:
    await place.sql(f"revoke insert ({CONTRACT}) on notifierd.audit_log from {place.role}")
    audit_of(place, "office")
    assert ("notifierd.audit_log", "bad", "the role may not insert") in await place.trouble()
    audit_of(place, "none")
    assert await place.trouble() == []
    await place.sql("drop view notifierd.audit_log")
    assert await place.trouble() == []


async def test_rights_beyond_what_the_role_needs_are_named(place: Place) -> None:
    """As a release before this one gave them on the audit log; a migration takes nothing away."""
    await place.sql(f"grant select, insert on notifierd.audit_log to {place.role}")
    await place.sql(f"grant truncate on notifierd.runs to {place.role}; grant update on notifierd.migrations to public")
    remedy = "(`notifierd db init --dsn ADMIN --role NAME`)"
    assert await place.trouble() == [
        ("rights", "warn", f"the role has select on notifierd.audit_log and does not need it {remedy}"),
        ("rights", "warn", f"the role has insert on notifierd.audit_log and does not need it {remedy}"),
        ("rights", "warn", f"the role has update on notifierd.migrations and does not need it {remedy}"),
        ("rights", "warn", f"the role has truncate on notifierd.runs and does not need it {remedy}"),
    ]
    await place.sql("revoke update on notifierd.migrations from public")
    await init(place.admin, role=place.role)
    assert await place.trouble() == []


async def test_a_role_without_any_right(place: Place) -> None:
    """Told in full, and nothing about the views stays unsaid."""
    await place.sql(f"drop owned by {place.role}")
    trouble = await place.trouble()
    assert [text.partition(":")[0] for subject, _, text in trouble if subject == "schema"] == [
        "the schema notifierd exists, but the connected role may not use it"
    ]
    assert {subject for subject, _, _ in trouble} >= {"rights", "notifierd.offices", "notifierd.audit_log"}


async def test_indexes_are_advised(place: Place) -> None:
    """Each is missed by name; one that cannot be used does not count, and the advice is a statement that ends it."""
    await place.sql(
        """
        do $$ declare fitting text; begin
            select indexrelid::regclass into fitting from pg_index
            where indrelid = 'support_plan_cycles'::regclass and indnatts = 3;
            execute 'drop index office_staffs_office_id_staff_id_idx, ' || fitting;
        end $$;
        create index on support_plan_cycles (office_id) where not is_latest_cycle;
        create index on support_plan_cycles (cycle_number, office_id) where is_latest_cycle;
        create index on support_plan_cycles (is_latest_cycle, office_id);
        create index on office_staffs (office_id);
        create index on office_staffs (office_id, staff_id) where is_primary;
        """
    )
    trouble = await place.trouble()
    advice = "advised for many offices: "
    assert trouble == [
        ("index", "warn", f"{advice}create index concurrently on public.{index}")
        for index in ("support_plan_cycles (office_id) where is_latest_cycle", "office_staffs (office_id, staff_id)")
    ]
    assert exit_code(await check(place.settings)) == 0
    for _, _, text in trouble:
        await place.admin.fetch(text.removeprefix(advice))
    assert await place.trouble() == []


async def test_the_applications_tables_as_they_are_in_production_lack_two(place: Place) -> None:
    await place.sql("drop index office_staffs_office_id_staff_id_idx, office_staffs_staff_id_idx")
    assert await place.trouble() == [
        ("index", "warn", f"advised for many offices: create index concurrently on public.office_staffs ({column})")
        for column in ("office_id, staff_id", "staff_id")
    ]


async def test_another_application_gets_no_advice(place: Place) -> None:
    """Tables of the same names that no view is made of."""
    await place.sql("drop view notifierd.alerts; alter table push_subscriptions rename to subscriptions")
    findings = await check(place.settings)
    assert [finding.text for finding in findings if finding.subject == "index"] == [
        "on public.office_staffs (office_id, staff_id)",
        "on public.office_staffs (staff_id)",
    ]
