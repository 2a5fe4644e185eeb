"""The application of a bench: an embedded PostgreSQL full of offices, with notifierd's schema beside it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from bench.servers import Servers
from notifierd.demo.application import ADMINISTRATOR
from notifierd.demo.postgres import Cluster, running_postgres
from tests.support.processes import API_KEY, DAY, DOMAIN, PHONE_PUBLIC, VAPID_KEY, running_template, write_config

STAFF = 10
"""Members of each office, if nothing else is said. All of them are due."""

DEADLINES = (-3, 4, 11, 25, 45, 60, 90, 120, 150, 170)
"""Days until the plan of each of an office's recipients is due: one of them is overdue, and three are near. The last
one's assessment is missing, so that a mail tells of five alerts."""

TODAY = "(now() at time zone 'Asia/Tokyo')::date"
"""Today, in the time zone of the configuration."""

PHONE_AUTH = "AAECAwQFBgcICQoLDA0ODw"


@frozen
class Size:
    """How much there is to tell.

    Attributes:
        devices: how many members of an office have a device.
        mails: whether anybody wants mails.
        staff: members of each office.
        more: recipients of each office beyond those of DEADLINES, all of them near their deadline.
    """

    offices: int
    devices: int = 0
    mails: bool = True
    staff: int = STAFF
    more: int = 0

    @property
    def mail_count(self) -> int:
        """How many mails are due."""
        return self.offices * self.staff if self.mails else 0

    @property
    def push_count(self) -> int:
        """How many pushes are due."""
        return self.offices * self.devices


@frozen
class Application:
    """A database that is filled, and a folder with a ``config.toml`` for it."""

    folder: Path
    size: Size
    _cluster: Cluster
    _database: str
    role: str
    _config: Mapping[str, Mapping[str, object]]

    def configure(self, folder: Path, tables: Mapping[str, Mapping[str, object]]) -> None:
        """Write a ``config.toml`` for it into *folder*, with the keys of *tables* beside or instead of its own."""
        names = self._config.keys() | tables.keys()
        write_config(folder, {name: {**self._config.get(name, {}), **tables.get(name, {})} for name in sorted(names)})

    def accept_all(self, provider: str) -> str:
        """Let *provider* have accepted a mail to everybody, in a run that ended today; a line for each, for psql."""
        self.sql(f"""
            insert into notifierd.runs (day, state, started_at, finished_at, untold)
            values ({TODAY}, 'completed', now() - interval '3 h', now() - interval '2 h', '[]');
            insert into notifierd.deliveries
                (id, day, office_id, staff_id, channel, state, provider, provider_message_id, try)
            select gen_random_uuid(), {TODAY}, office_id, id, 'email', 'sent', '{provider}', 'sent-' || id, 1
            from notifierd.staff where email_enabled;
            analyze notifierd.deliveries;
        """)
        return self._cluster.psql(
            "select d.id, d.provider_message_id, s.email from notifierd.deliveries d"
            " join notifierd.staff s on s.office_id = d.office_id and s.id = d.staff_id",
            self._database,
        )

    def forget(self) -> None:
        """Let the day be one that nothing was done on."""
        days = ("runs", "run_members", "run_offices", "offices_to_plan", "deliveries", "late_outcomes", "alarms")
        ledger = (*days, "feedback", "feedback_looks", "holds")
        self.sql(f"truncate audit_logs, {', '.join(f'notifierd.{name}' for name in ledger)}; checkpoint")
        self._cluster.psql("select pg_stat_statements_reset()")

    def finish(self, share: float) -> None:
        """Let *share* of the offices of DAY, which was planned, be done: the most urgent ones, with all deliveries."""
        self.sql(f"""
            with done as (
                update notifierd.run_offices r set state = 'done' from (
                    select office_id, percent_rank() over (order by urgency, office_id) as place
                    from notifierd.run_offices where day = '{DAY}'
                ) ranked
                where r.day = '{DAY}' and r.office_id = ranked.office_id and ranked.place < {share}
                returning r.office_id
            )
            update notifierd.deliveries d set state = 'sent', try = 1, provider = 'resend', provider_message_id = d.id
            from done where d.day = '{DAY}' and d.office_id = done.office_id;
            vacuum analyze notifierd.run_offices, notifierd.deliveries;
        """)

    def statements(self) -> tuple[int, int]:
        """How many that read and that write the server saw since ``forget``, of those that the report counts."""
        views_and_tables = "offices|staff|alerts|devices|audit_log|run_offices|offices_to_plan|deliveries|late_outcomes"
        found = self._cluster.psql(f"""
            select coalesce(sum(calls) filter (where not writes), 0), coalesce(sum(calls) filter (where writes), 0)
            from (
                select s.calls, s.query ~* '(insert into|update|delete from) notifierd\\.' as writes
                from pg_stat_statements s join pg_roles r on r.oid = s.userid
                where r.rolname = '{self.role}' and s.query ~* '\\mnotifierd\\.({views_and_tables})\\M'
            ) ours
        """)
        read, write = map(int, found.split("|"))
        return read, write

    @contextmanager
    def with_devices(self, script: str) -> Iterator[None]:
        """Have *script* add devices, for the length of the block."""
        self.sql(f"create table before as table push_subscriptions; {script}; analyze push_subscriptions")
        yield
        self.sql(
            """
            truncate push_subscriptions;
            insert into push_subscriptions select * from before;
            drop table before;
            analyze push_subscriptions;
            """
        )

    def dsn(self, role: str) -> str:
        """The database, for *role*."""
        return self._cluster.dsn(self._database, role)

    def megabytes(self) -> tuple[int, int]:
        """How much WAL the server wrote, and how large the database is, in MB."""
        wal = "((pg_current_wal_insert_lsn() - '0/0') / 1000000)::int"
        written, size = self.sql(f"select {wal}, pg_database_size(current_database()) / 1000000").split("|")
        return int(written), int(size)

    def audit_rows(self) -> int:
        """How many rows the audit log has."""
        return int(self.sql("select count(*) from audit_logs"))

    def statements_of(self, role: str) -> int:
        """How many statements of *role* the server saw since ``forget``: all that read or write rows."""
        found = self._cluster.psql(f"""
            select coalesce(sum(s.calls), 0) from pg_stat_statements s join pg_roles r on r.oid = s.userid
            where r.rolname = '{role}' and s.query ~* '^\\s*(with|select|insert|update|delete)\\M'
                  and s.query !~* 'pg_catalog|pg_type|pg_advisory|set_config'
        """)
        return int(found)

    def sql(self, script: str) -> str:
        """Run *script* as the superuser; what it printed."""
        return self._cluster.psql(script, self._database)


@frozen
class Applications:
    """Makes applications, in one PostgreSQL."""

    folder: Path
    _cluster: Cluster
    _template: str
    _role: str
    _servers: Servers

    @contextmanager
    def of(self, size: Size) -> Iterator[Application]:
        """An application of *size*, for the length of the block."""
        folder = self.folder / f"{size.offices}-{size.devices}-{size.mails:d}-{size.staff}-{size.more}"
        folder.mkdir()
        database = folder.name
        dsn = self._cluster.create_database(database, template=self._template)
        self._cluster.psql(rows_sql(size, self._servers.push_urls), database)
        config = self._config(dsn.replace("postgres@", f"{self._role}@", 1))
        write_config(folder, config)
        yield Application(folder, size, self._cluster, database, self._role, config)
        self._cluster.drop_database(database)
        shutil.rmtree(folder)

    def _config(self, dsn: str) -> Mapping[str, Mapping[str, object]]:
        return {
            "database": {"dsn": dsn},
            "email": {"sender": f"keikakun <notice@{DOMAIN}>"},
            "email.resend": {"api_key": API_KEY, "base_url": self._servers.mail_url},
            "push": {"vapid_private_key": VAPID_KEY, "allowed_hosts": ["127.0.0.1"], "allow_private_addresses": True},
            "content": {"dashboard_url": "https://keikakun.example.jp/dashboard"},
            "http": {"bind": "127.0.0.1:0"},
            "window": {"at": "00:00:00", "until": "23:59:59", "holidays": "", "closed_weekdays": []},
        }


@contextmanager
def running_applications(folder: Path, servers: Servers) -> Iterator[Applications]:
    """Run a PostgreSQL for applications whose mails and pushes go to *servers*."""
    options = {"shared_preload_libraries": "pg_stat_statements", "shared_buffers": "512MB", "max_wal_size": "4GB"}
    with running_postgres(folder / "postgres", options=options) as cluster:
        cluster.psql("create extension pg_stat_statements")
        with running_template(cluster, folder) as template:
            yield Applications(folder, cluster, template.database, template.role, servers)


def rows_sql(size: Size, push_urls: tuple[str, ...]) -> str:
    """The statements that fill the application's empty tables, for ``psql``.

    Devices are dealt out to the push services in turn, over all offices: each service may have its share of the slots
    and no more, so one with more devices than the others would hold up the run.
    """
    near = ", ".join(map(str, DEADLINES))
    recipients = len(DEADLINES) + size.more
    return f"""
begin;
create function pg_temp.id(text) returns uuid immutable return md5($1)::uuid;
create temp view office as select o, pg_temp.id('office ' || o) as id from generate_series(1, {size.offices}) o;
create temp view staff as
select office.id as office_id, o, s, pg_temp.id('staff ' || o || '.' || s) as id, 'o' || o || 's' || s as name
from office, generate_series(1, {size.staff}) s;
create temp view recipient as
select office.id as office_id, o, r, pg_temp.id('recipient ' || o || '.' || r) as id, 'o' || o || 'r' || r as name
from office, generate_series(1, {recipients}) r;

insert into staffs (id, email, hashed_password, last_name, first_name, full_name, role, is_email_verified,
    is_mfa_enabled, is_mfa_verified_by_user, mfa_backup_codes_used, failed_password_attempts, is_locked, is_deleted,
    is_test_data)
values ('{ADMINISTRATOR}', 'administrator@{DOMAIN}', '!', '管理者', '見本', '管理者 見本', 'app_admin', true, false,
    false, 0, 0, false, false, true);
insert into staffs (id, email, hashed_password, last_name, first_name, full_name, role, is_email_verified,
    is_mfa_enabled, is_mfa_verified_by_user, mfa_backup_codes_used, failed_password_attempts, is_locked, is_deleted,
    is_test_data, notification_preferences)
select id, name || '@{DOMAIN}', '!', '職員', name, '職員 ' || name, 'employee', true, false, false, 0, 0, false, false,
    false, jsonb_build_object('email_notification', {size.mails}, 'system_notification', s <= {size.devices})
from staff;
insert into offices (id, name, is_group, type, created_by, last_modified_by, is_deleted, is_test_data)
select id, '事業所 o' || o, false, 'type_B_office', '{ADMINISTRATOR}', '{ADMINISTRATOR}', false, false from office;
insert into office_staffs (staff_id, office_id, is_primary, is_test_data) select id, office_id, true, false from staff;
insert into welfare_recipients (id, first_name, last_name, first_name_furigana, last_name_furigana, birth_day, gender,
    is_test_data)
select id, name, '利用者', 'みほん', 'みほん', '1990-04-01', 'other', false from recipient;
insert into support_plan_cycles (id, welfare_recipient_id, office_id, next_renewal_deadline, is_latest_cycle,
    cycle_number, is_test_data)
select (o - 1) * {recipients} + r, id, office_id, date '{DAY}' + coalesce((array[{near}])[r], r % 20) + o % 3, true, 1,
    false
from recipient;
insert into plan_deliverables (plan_cycle_id, deliverable_type, file_path, original_filename, uploaded_by, is_test_data)
select id, 'assessment_sheet', 'plans/' || id, 'sheet.pdf', '{ADMINISTRATOR}', false
from support_plan_cycles where (id - 1) % {recipients} + 1 <> {len(DEADLINES)};
insert into push_subscriptions (staff_id, endpoint, p256dh_key, auth_key)
select id, (array['{"', '".join(push_urls)}'])[(o * {size.devices} + s) % {len(push_urls)} + 1] || '/push/' || name,
    '{PHONE_PUBLIC}', '{PHONE_AUTH}'
from staff where s <= {size.devices};
create index on office_staffs (office_id, staff_id); -- as `notifierd check` advises
create index on office_staffs (staff_id);
commit;
vacuum analyze;
"""
