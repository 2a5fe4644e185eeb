"""From every schema that a program ever made, with rows in every table, to this program's, and back by a backup."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import frozen

from notifierd.demo.postgres import Cluster
from notifierd.store.migrations.versions import migrations
from tests.support.processes import run, write_config

NEWEST = len(migrations())

ROWS: Mapping[int, str] = {
    1: """
    insert into notifierd.runs (day, state, started_at, finished_at)
    values ('2026-01-05', 'completed', '2026-01-05 09:00+09', '2026-01-05 09:01+09'),
           ('2026-01-06', 'running', null, null);
    insert into notifierd.run_offices (day, office_id, urgency, state, reason)
    values ('2026-01-05', '00000000-0000-4000-8000-000000000001', -3, 'failed', 'unexpected');
    insert into notifierd.deliveries
        (id, day, office_id, staff_id, channel, device_id, state, attempts, try, reason)
    select notifierd.delivery_id(day, office, staff, channel, device), day, office, staff, channel, device, state, 1, 2,
           case state when 'failed' then 'rejected:item' end
    from (values ('planned'), ('sending'), ('sent'), ('failed'), ('unknown'), ('expired')) as states (state),
         (values ('email', null::uuid), ('push', '00000000-0000-4000-8000-000000000003')) as channels (channel, device),
         (values ('00000000-0000-4000-8000-000000000001'::uuid, '2026-01-05'::date)) as offices (office, day),
         lateral (select md5(state)::uuid) as staff (staff);
    insert into notifierd.late_outcomes (delivery_id, try, state, provider_message_id)
    select id, 1, 'sent', 'message-1' from notifierd.deliveries limit 1;
    """,
    2: """
    update notifierd.runs set
        counts = '{"states": [{"channel": "email", "state": "sent", "n": 1}], "offices": 1, "offices_failed": 1}',
        untold = '[{"office_id": "00000000-0000-4000-8000-000000000001", "alerts": 2, "overdue": 1}]'
    where day = '2026-01-05';
    """,
    3: "insert into notifierd.alarms (day, cause) values ('2026-01-05', 'failures');",
    4: "update notifierd.deliveries set put_back = 1 where state = 'planned';",
    5: "update notifierd.run_offices set audit_owed = true;",
    6: """
    insert into notifierd.feedback (delivery_id, day, provider, status, code, address_key, seen_at, grounds)
    select id, day, 'resend', 'bounced', '5.1.1', decode(repeat('ab', 16), 'hex'), now(), true
    from notifierd.deliveries where state = 'sent' and channel = 'email';
    insert into notifierd.feedback_looks (provider, complete_until, looked_at, result)
    values ('resend', now(), now(), '');
    insert into notifierd.holds (staff_id, address_key, reason, since, until, seen_at)
    select d.staff_id, f.address_key, 'suppressed', f.day, f.day, f.seen_at
    from notifierd.feedback f join notifierd.deliveries d on d.id = f.delivery_id;
    insert into notifierd.lifts (staff_id, lifted_at) select staff_id, now() from notifierd.holds;
    """,
    7: """
    insert into notifierd.run_members (
        day, name, host, version, config_hash, shares, epoch, joined_at, renewed_at, until,
        email, push, per_destination, per_second
    )
    values ('2026-01-06', 'host:1:2', 'host', '0.1.0', 'ab', true, 1, now(), now(), now(), 5, 20, 5, 0);
    update notifierd.runs set epoch = 1, plan = '{"offices": 1, "email": 1, "push": 0}', limits = '{"email": 5}',
        mails_room = 10
    where day = '2026-01-06';
    update notifierd.run_offices set claimed_by = 'host:1:2';
    update notifierd.deliveries set try_by = 7 where state = 'sending';
    """,
    8: """
    insert into notifierd.offices_to_plan (day, urgency, office_id)
    values ('2026-01-06', 3, '00000000-0000-4000-8000-000000000009');
    """,
    9: """
    update notifierd.run_members set
        tallies = '{"settled": {"email": {"sent": 1}}, "offices_done": 1, "offices_in_hand": 2, "rate": 0.5}',
        interim = '{"at": 1.5, "offices": 1, "offices_failed": 0, "offices_done": 0, "states": [], "reasons": []}';
    """,
}
"""What a program of each schema version had written, beyond the version before it. A migration needs its line here."""


@frozen
class Ledger:
    """A database of the application with a ledger in it."""

    cluster: Cluster
    dsn: str

    def sql(self, script: str) -> list[str]:
        """The lines that it prints."""
        return self.cluster.psql(script, self.dsn).splitlines()

    def make(self, version: int) -> None:
        """Make the schema as the program of that version did, with its rows."""
        self.sql(
            "create schema notifierd; create table notifierd.migrations (version integer primary key, "
            "name text not null, applied_at timestamptz not null default now())"
        )
        for step in migrations()[:version]:
            self.sql(f"{step.sql}; insert into notifierd.migrations values ({step.version}, '{step.name}')")
            self.sql(ROWS[step.version])

    def tables(self) -> list[str]:
        """The ledger's tables by name."""
        return self.sql(
            "select relname from pg_class where relnamespace = 'notifierd'::regnamespace and relkind = 'r' order by 1"
        )

    def rows(self) -> dict[str, list[dict[str, object]]]:
        """Every row of every table."""
        return {
            table: [
                json.loads(line) for line in self.sql(f"select to_json(t) from notifierd.{table} t order by t::text")
            ]
            for table in self.tables()
        }


@pytest.fixture
def ledger(cluster: Cluster, database: str) -> Ledger:
    return Ledger(cluster, database)


def test_every_migration_has_its_rows():
    assert [*ROWS] == [step.version for step in migrations()]


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_an_upgrade_keeps_every_row_and_the_backup_leads_back(version: int, ledger: Ledger, tmp_path: Path):
    ledger.make(version)
    before = ledger.rows()
    assert [table for table, rows in before.items() if not rows] == []
    backup = tmp_path / "ledger.sql"
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    dump: list[str | Path] = [ledger.cluster.bin_dir / "pg_dump", ledger.dsn, "--schema=notifierd", f"--file={backup}"]
    subprocess.run(dump, check=True, env=environ)

    write_config(tmp_path, {"database": {"dsn": ledger.dsn}})
    run("db", "migrate", "--dsn", ledger.dsn, cwd=tmp_path, code=0)
    run("db", "init", "--preset", "keikakun", "--dsn", ledger.dsn, cwd=tmp_path, code=0)
    after = ledger.rows()
    for table, rows in before.items():
        left = [{name: row[name] for name in rows[0]} for row in after[table]]  # without the columns that came since
        if table == "migrations":
            assert [row["version"] for row in left] == [*range(1, NEWEST + 1)]
        else:
            assert sorted(left, key=repr) == sorted(rows, key=repr), table
    run("db", "status", "--dsn", ledger.dsn, cwd=tmp_path, code=0)
    days = json.loads(run("history", "--json", cwd=tmp_path, code=0).out)
    assert {"2026-01-05", "2026-01-06"} <= {day["day"] for day in days}

    ledger.sql(f"drop schema notifierd cascade;\n{backup.read_text(encoding='utf-8')}")
    assert ledger.rows() == before
