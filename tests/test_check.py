"""``notifierd check``: one line for each thing to mend, named; nothing sent, nothing written, no secret shown."""

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from attrs import define, evolve

from notifierd.check import Finding, Level, check, exit_code
from notifierd.contract import view_problems
from notifierd.db import Connection, Database, open_database
from notifierd.demo.postgres import Cluster
from notifierd.errors import StatementRefused
from notifierd.schema import init
from notifierd.send.vapid import Vapid, make_vapid_key
from notifierd.settings import (
    DatabaseSettings,
    EmailSettings,
    PushSettings,
    ResendSettings,
    SafetySettings,
    Settings,
)

PRIVATE_KEY, PUBLIC_KEY = make_vapid_key()
SECRETS = (PRIVATE_KEY, "re_secret", "inbox@example.jp", "desk@example.jp", "/secret-path", "user:pass")
ADVISED = "create index on support_plan_cycles (office_id) where is_latest_cycle"


@define
class Place:
    """A database with keikakun's views, looked at as the daemon's own role."""

    admin: Database
    role: str
    settings: Settings

    async def sql(self, script: str) -> None:
        async def unit(connection: Connection) -> None:
            await connection.execute(script)

        await self.admin.unit(unit)

    async def trouble(self) -> list[tuple[str, str, str]]:
        """Check; return what is not good as (subject, level, text)."""
        findings = await check(self.settings)
        assert not [secret for secret in SECRETS for finding in findings if secret in finding.text]
        return [(f.subject, f.level.value, f.text) for f in findings if f.level is not Level.OK]


def settings_for(dsn: str) -> Settings:
    return Settings(
        database=DatabaseSettings(dsn=dsn),
        email=EmailSettings(sender="keikakun <desk@example.jp>", resend=ResendSettings(api_key="re_secret")),
        push=PushSettings(vapid_private_key=PRIVATE_KEY),
    )


@pytest.fixture
async def place(cluster: Cluster, database: str) -> AsyncIterator[Place]:
    role, name = f"clerk_{uuid4().hex[:8]}", database.partition("?")[0].rpartition("/")[2]
    cluster.psql(f"create role {role} login")
    async with open_database(database) as admin:
        await init(admin, "keikakun", role)
        there = Place(admin, role, settings_for(cluster.dsn(name, role)))
        await there.sql(ADVISED)
        yield there
        await there.sql(f"drop owned by {role} cascade; drop role {role}")


async def test_all_is_good(place: Place) -> None:
    """Every subject has its line, and none is to be mended."""
    findings = await check(place.settings)
    assert [finding for finding in findings if finding.level is not Level.OK] == []
    assert exit_code(findings) == 0
    assert list(dict.fromkeys(finding.subject for finding in findings)) == [
        "config",
        "push.vapid_private_key",
        "email.resend",
        "database",
        "safety.database_id",
        "schema",
        "rights",
        "index",
        "notifierd.offices",
        "notifierd.staff",
        "notifierd.alerts",
        "notifierd.devices",
        "notifierd.audit_log",
        "push.allowed_hosts",
    ]
    assert any(PUBLIC_KEY in finding.text for finding in findings)
    assert Vapid(PRIVATE_KEY, "mailto:x@example.jp").public_key == PUBLIC_KEY


async def test_nothing_is_written(place: Place) -> None:
    """Not a row, not a number of a sequence, not a transaction id."""
    await place.sql("create sequence numbers; alter table audit_logs add column n int default nextval('numbers')")

    async def traces() -> list[object]:
        (row,) = await place.admin.fetch(
            """
            select (select count(*) from audit_logs), (select is_called from numbers),
                   pg_snapshot_xmax(pg_current_snapshot())::text
            """
        )
        return list(row)

    before = await traces()
    assert await place.trouble() == []
    assert await traces() == before


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
        "notifierd.alerts: column kind is character and has to be text",
        "notifierd.alerts: column due_on is timestamp with time zone and has to be date",
        "notifierd.alerts: column cycle is bigint and has to be int",
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
REFUSED = "insert would be refused: "
EMPTY = "insert would fail: audit_logs.{} must not be null, and gets no value ({})".format(
    "{}", "give it a default in the table, or in the view as a further column"
)
TRIGGER = """
create function fill() returns trigger language plpgsql as 'begin return new; end';
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
            [("warn", "audit_logs.later must not be null, and gets no value, unless a trigger gives it one", "")],
        ),
        (
            "drop view notifierd.audit_log; alter table audit_logs alter column action type varchar(24);"
            + AUDIT.format(COLUMNS)
            + "; alter view notifierd.audit_log alter column is_test_data set default false",
            [("bad", "insert would be refused: a column is too narrow for what is written", "22001")],
        ),
        (
            "drop view notifierd.audit_log;" + AUDIT.format(f"distinct {COLUMNS}"),
            [("bad", "insert would be refused: it has to be a view of one table", "55000")],
        ),
        (  # the same view, with a trigger instead of the insert
            "drop view notifierd.audit_log;"
            + AUDIT.format(f"distinct {COLUMNS}")
            + """;
            create function instead() returns trigger language plpgsql as 'begin return null; end';
            create trigger instead instead of insert on notifierd.audit_log
            for each row execute function instead();
            """,
            [],
        ),
    ],
)
async def test_the_audit_log_has_to_be_insertable(place: Place, script: str, found: list[tuple[str, str, str]]) -> None:
    """What is said of the view is what a real insert then does."""
    await place.sql(script + f"; grant select, insert on notifierd.audit_log to {place.role}")
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
        select p.id, p.staff_id, p.endpoint, p.p256dh_key as p256dh, p.auth_key as auth
        from push_subscriptions p join staffs s on s.id = p.staff_id;
        grant select, delete on notifierd.devices to {place.role}
        """
    )
    ((subject, level, text),) = await place.trouble()
    assert (subject, level) == ("notifierd.devices", "bad")
    assert text.startswith("delete would be refused: it has to be a view of one table")


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
        why = "the view's owner lacks that right on the tables behind it (SQLSTATE 42501)"
        assert await place.trouble() == [
            ("notifierd.offices", "bad", f"select would be refused: {why}"),
            ("notifierd.audit_log", "bad", f"insert would be refused: {why}"),
        ]
    finally:
        await place.sql(f"reassign owned by {place.role}_owner to postgres")
        await place.sql(f"drop owned by {place.role}_owner; drop role {place.role}_owner")


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


async def test_a_role_without_any_right(place: Place) -> None:
    """Told in full, and nothing about the views stays unsaid."""
    await place.sql(f"drop owned by {place.role}")
    trouble = await place.trouble()
    assert [text.partition(":")[0] for subject, _, text in trouble if subject == "schema"] == [
        "the schema notifierd is there, but the connected role may not use it"
    ]
    assert {subject for subject, _, _ in trouble} >= {"rights", "notifierd.offices", "notifierd.audit_log"}


async def test_a_database_without_schema(place: Place) -> None:
    await place.sql("drop schema notifierd cascade")
    trouble = await place.trouble()
    assert trouble[0] == ("schema", "bad", "the schema notifierd is not in this database: run `notifierd db init`")
    assert len(trouble) == 6
    assert exit_code([Finding(subject, Level(level), text) for subject, level, text in trouble]) == 2


async def test_indexes_are_advised(place: Place) -> None:
    """Each is missed by name; one that cannot be used does not count."""
    await place.sql(
        """
        drop index support_plan_cycles_office_id_is_latest_idx, office_staffs_office_id_idx;
        create index on support_plan_cycles (office_id) where not is_latest_cycle;
        create index on support_plan_cycles (cycle_number, office_id) where is_latest_cycle;
        create index on office_staffs (office_id) where is_primary;
        """.replace("support_plan_cycles_office_id_is_latest_idx", await _advised_index(place))
    )
    assert await place.trouble() == [
        ("index", "warn", f"advised for many offices: create index concurrently on {index}")
        for index in ("support_plan_cycles (office_id) where is_latest_cycle", "office_staffs (office_id)")
    ]
    assert exit_code(await check(place.settings)) == 0


async def _advised_index(place: Place) -> str:
    (row,) = await place.admin.fetch("select indexname from pg_indexes where indexdef like '%WHERE is_latest_cycle'")
    return str(row["indexname"])


async def test_another_application_gets_no_advice(place: Place) -> None:
    """Tables of the same names that no view is made of."""
    await place.sql("drop view notifierd.alerts; alter table push_subscriptions rename to subscriptions")
    findings = await check(place.settings)
    assert [finding.text for finding in findings if finding.subject == "index"] == ["on office_staffs (office_id)"]


async def test_the_database_has_to_be_the_right_one(place: Place) -> None:
    """A staging copy never mails: another identifier is bad, and the right one is told."""
    (row,) = await place.admin.fetch("select system_identifier::text as id from pg_control_system()")
    found = {finding.subject: finding for finding in await check(place.settings)}["safety.database_id"]
    assert (found.level, found.text) == (Level.OK, f"not set; this cluster's is {row['id']}")
    place.settings = evolve(place.settings, safety=SafetySettings(database_id=row["id"]))
    assert await place.trouble() == []
    place.settings = evolve(place.settings, safety=SafetySettings(database_id="7"))
    assert await place.trouble() == [
        ("safety.database_id", "bad", f"is 7, and this cluster's is {row['id']}: nothing will be sent")
    ]
    await place.sql("revoke execute on function pg_control_system from public")
    trouble = "the role may not read the cluster's identifier (database_refused:42501): "
    remedy = "grant execute on pg_control_system()"
    assert await place.trouble() == [("safety.database_id", "bad", trouble + remedy)]
    place.settings = evolve(place.settings, safety=SafetySettings())
    assert await place.trouble() == [("safety.database_id", "warn", trouble + remedy)]


async def test_what_is_meant_for_trying_out_is_told(place: Place) -> None:
    rows = await place.admin.fetch(
        """
        with author as (
            insert into staffs (email, hashed_password, full_name, role, is_email_verified, is_mfa_enabled,
                is_mfa_verified_by_user, mfa_backup_codes_used, failed_password_attempts, is_locked, is_deleted,
                is_test_data)
            values ('a@example.jp', '', '', 'owner', true, false, false, 0, 0, false, false, false) returning id
        )
        insert into offices (name, is_group, type, created_by, last_modified_by, is_deleted, is_test_data)
        select '', false, 'type_A_office', id, id, false, false from author returning id
        """
    )
    absent = uuid4()
    place.settings = evolve(
        place.settings,
        safety=SafetySettings(redirect_to="inbox@example.jp", only_offices=(rows[0]["id"], absent)),
        push=evolve(place.settings.push, allow_private_addresses=True),
    )
    assert await place.trouble() == [
        ("safety.redirect_to", "warn", "all mail goes to one address"),
        ("push.allow_private_addresses", "warn", "pushes go to private addresses and over http too"),
        ("safety.only_offices", "warn", "1 offices are told, and no other"),
        ("safety.only_offices", "bad", f"there is no {absent} in notifierd.offices"),
    ]


async def test_devices_that_will_not_be_pushed_to_are_counted(place: Place) -> None:
    """By origin, the commonest first; an endpoint is a secret, and a password in one too."""
    await place.sql(
        """
        drop view notifierd.devices;
        create table devices (id uuid, staff_id uuid, endpoint text, p256dh text, auth text);
        create view notifierd.devices as select * from devices;
        """
        f"grant select, delete on notifierd.devices to {place.role}"
    )
    endpoints = {
        "https://fcm.googleapis.com/secret-path/{}": 3,
        "https://FCM.googleapis.com:443/secret-path/{}": 2,
        "https://eu.push.apple.com/secret-path/{}": 1,
        "https://push.apple.com/secret-path/{}": 4,
        "http://fcm.googleapis.com/secret-path/{}": 3,
        "https://fcm.googleapis.com:8443/secret-path/{}": 2,
        "https://user:pass@fcm.googleapis.com/secret-path/{}": 2,
        "https://fcm.googleapis.com@evil.example/secret-path/{}": 1,
        "/secret-path/{}": 5,
        "": 1,
        "https://10.0.0.1/secret-path": 1,
    }
    for endpoint, number in endpoints.items():
        for n in range(number):
            await place.admin.fetch("insert into devices (endpoint) values ($1)", endpoint.format(n))
    ((subject, level, text),) = await place.trouble()
    assert (subject, level) == ("push.allowed_hosts", "warn")
    assert text == (
        "19 of 25 devices will not be pushed to, at no URL (6), https://push.apple.com (4), "
        "http://fcm.googleapis.com (3), https://fcm.googleapis.com (2), https://fcm.googleapis.com:8443 (2) and 2 more"
    )
    await place.sql("delete from devices where endpoint not like 'https://fcm.googleapis.com/%'")
    findings = {finding.subject: finding for finding in await check(place.settings)}
    assert findings["push.allowed_hosts"].text == "covers all devices (3)"
    off = evolve(place.settings, push=PushSettings(enabled=False))
    findings = {finding.subject: finding for finding in await check(off)}
    assert findings["push"].text == "switched off"
    assert "push.allowed_hosts" not in findings


async def test_a_superuser_is_advised_against(place: Place, database: str) -> None:
    place.settings = settings_for(database)
    remedy = "`notifierd db init --role NAME` gives another what it needs"
    assert await place.trouble() == [("role", "warn", f"postgres is a superuser: {remedy}")]


@pytest.mark.parametrize(
    ("dsn", "level", "subject", "text"),
    [
        ("{nowhere}", "away", "database", "out of reach (3D000): there is no such database on that server"),
        ("{nobody}", "away", "database", "out of reach (28000): the role was refused"),
        ("postgresql://user:pass@127.0.0.1:1/x", "away", "database", "out of reach (ConnectionRefusedError)"),
        (
            "postgres://user:pass@host:port/",
            "bad",
            "database.dsn",
            "cannot be read: postgresql://user:password@host:5432/database",
        ),
    ],
)
async def test_a_database_out_of_reach(cluster: Cluster, dsn: str, level: str, subject: str, text: str) -> None:
    where = dsn.format(nowhere=cluster.dsn("nowhere"), nobody=cluster.dsn(user="nobody_there"))
    findings = await check(settings_for(where))
    assert [f for f in findings if f.level is not Level.OK] == [Finding(subject, Level(level), text)]
    assert exit_code(findings) == (3 if level == "away" else 2)
    # What is wrong besides is told too, and weighs more.
    findings = await check(Settings(database=DatabaseSettings(dsn=where)))
    assert {finding.subject for finding in findings} == {"config", subject}
    assert exit_code(findings) == 2


async def test_a_role_that_may_not_connect(place: Place) -> None:
    name = place.settings.database.dsn.partition("?")[0].rpartition("/")[2]
    await place.sql(f"revoke connect on database {name} from public")
    assert await place.trouble() == [
        ("database", "away", "out of reach (42501): the role may not connect to that database")
    ]


def resend(url: str) -> Callable[[Settings], Settings]:
    return lambda s: evolve(s, email=evolve(s.email, resend=ResendSettings(api_key="re_secret", base_url=url)))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (resend("http://mail.example"), [("email.resend", "warn", "the key and all mails go to http://mail.example")]),
        (resend("http://127.0.0.1:8025"), []),
        (
            lambda s: evolve(s, email=EmailSettings(sender="desk@example.jp")),
            [("config", "bad", "email.resend.api_key: required for sending through resend")],
        ),
        (
            lambda s: evolve(s, email=evolve(s.email, fallback="mailgun")),
            [
                ("config", "bad", "email.mailgun.api_key: required"),
                ("config", "bad", "email.mailgun.domain: required"),
                ("config", "bad", "email.fallback: this version has no fallback yet"),
            ],
        ),
        (
            lambda s: evolve(s, push=PushSettings()),
            [("config", "bad", "push.vapid_private_key: required for push")],
        ),
    ],
)
async def test_settings_are_looked_at(
    place: Place, change: Callable[[Settings], Settings], found: list[tuple[str, str, str]]
) -> None:
    place.settings = change(place.settings)
    trouble = await place.trouble()
    assert [(subject, level) for subject, level, _ in trouble] == [(subject, level) for subject, level, _ in found]
    assert all(text.startswith(start) for (_, _, text), (_, _, start) in zip(trouble, found, strict=True)), trouble
