"""keikakun's production: its tables, indexes and odd values, its provider's roles, and the way to the first run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from notifierd.demo.application import tables_sql
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.process import Servers
from tests.support.processes import DAY, Place, invent, run

NULLABLE = """
audit_logs: actor_role details ip_address new_value office_id old_value staff_id target_id target_type user_agent
offices: deactivated_at deleted_at
push_subscriptions: user_agent
staffs: deleted_at first_name last_name
support_plan_cycles: cycle_number final_plan_signed_date next_renewal_deadline plan_cycle_start_date
welfare_recipients: first_name_furigana last_name_furigana
"""
INDEXES = """
audit_logs: action | office_id
office_staffs: is_test_data
plan_deliverables: plan_cycle_id, deliverable_type
push_subscriptions: endpoint | staff_id
staffs: email
support_plan_cycles: office_id | office_id, is_latest_cycle, next_renewal_deadline
"""
"""Without the primary keys."""

ODD = """
update support_plan_cycles set cycle_number = null where id % 2 = 0;
update welfare_recipients set first_name_furigana = null, last_name_furigana = null;
update staffs set full_name = '', last_name = null, first_name = null where email like 'o0s0@%';
update staffs set notification_preferences = 'null' where email like 'o1s0@%';
update staffs set notification_preferences = '{"email_notification": null, "email_threshold_days": "30"}'
where email like 'o1s1@%';
update staffs set notification_preferences = '[1e400]' where email like 'o2s0@%';
update staffs set notification_preferences = '{"system_notification": "yes", "push_threshold_days": 1e9}'
where email like 'o2s1@%';
insert into office_staffs (staff_id, office_id, is_primary, is_test_data)
select staff_id, office_id, false, false from office_staffs limit 1;
update support_plan_cycles set next_renewal_deadline = '-infinity' where id = 1;
update push_subscriptions set user_agent = null;
"""


@pytest.fixture
def production(cluster: Cluster, servers: Servers, tmp_path: Path) -> Iterator[Place]:
    """Set up the database as its provider does: its owner is no superuser, and may create roles."""
    owner, role, name = "keikakun_owner", "keikakun_notifierd", "keikakun_production"
    cluster.psql(f"create role {owner} login createrole; create database {name} owner {owner}")
    cluster.psql(f"{tables_sql()}; create role {role} login", cluster.dsn(name, owner))
    place = Place(tmp_path, cluster, name, role, servers, (len(servers.mails()), len(servers.pushes())))
    place.configure()
    yield place
    cluster.drop_database(name)
    cluster.psql(f"drop role {role}, {owner}")


def test_the_tables_are_as_in_production(production: Place):
    columns = production.sql(
        "select table_name || ': ' || string_agg(column_name, ' ' order by column_name)"
        " from information_schema.columns where table_schema = 'public' and is_nullable = 'YES'"
        " group by table_name order by 1"
    )
    assert columns == NULLABLE.strip()
    indexes = production.sql(
        "select tablename || ': ' || string_agg(columns, ' | ' order by columns) from (select tablename,"
        " substring(indexdef from '\\((.*)\\)') as columns from pg_indexes"
        " where schemaname = 'public' and indexname !~ 'pkey') i group by tablename order by 1"
    )
    assert indexes == INDEXES.strip()


def test_from_the_tables_as_they_are_to_the_first_run(production: Place):
    production.load(invent(4, staff=3, recipients=4, push_url=production.servers.push_url))
    production.sql(ODD)
    owner = production.cluster.dsn(production.database, "keikakun_owner")
    init = run("db", "init", "--preset", "keikakun", "--role", production.role, "--dsn", owner, cwd=production.folder)
    assert (init.code, init.err) == (0, "")
    assert f"role {production.role}: has these limits in the database {production.database}: " in init.out

    checked = run("check", "--json", cwd=production.folder, code=0)
    trouble = [(found["subject"], found["text"]) for found in json.loads(checked.out) if found["level"] != "ok"]
    assert [text for subject, text in trouble if subject == "index"] == [
        f"advised for many offices: create index concurrently on public.office_staffs ({column})"
        for column in ("office_id, staff_id", "staff_id")
    ]
    assert {subject for subject, _ in trouble} == {"index", "push.allow_private_addresses"}

    planned = json.loads(run("plan", "--json", "--day", str(DAY), cwd=production.folder, code=0).out)
    report = production.once().report
    assert (planned["email"], planned["push"]) == (report["email"]["planned"], report["push"]["planned"])
    assert report["email"]["sent"] == report["email"]["planned"] == 12
    assert report["push"]["sent"] == report["push"]["planned"] > 0
    assert (report["status"], report["offices"]["failed"]) == ("completed", 0)
    assert len(production.mails()) == 12
    people = "select count(distinct (office_id, staff_id)) from notifierd.deliveries where channel = 'push'"
    rows = "select count(*) from audit_logs where actor_role = 'system' and not is_test_data"
    assert int(production.sql(rows)) == report["email"]["sent"] + int(production.sql(people))
