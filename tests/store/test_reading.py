"""Rows that cannot be read cost their own office at most: the others are told, and the report names it."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from attrs import evolve, field, frozen
from structlog.testing import capture_logs

from notifierd.demo.application import tables_sql
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.process import Servers
from notifierd.model.counts import Capacity, Planned
from notifierd.rules.due import Rules
from notifierd.rules.report import RunResult
from notifierd.run.day import run_day
from notifierd.store.database import Database, open_database
from notifierd.store.ledger import UNLIMITED
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import PostgresSource
from tests.support import application
from tests.support.memory import Application, MemoryLedger
from tests.support.processes import DAY as TODAY
from tests.support.processes import Place, Template, invent, run
from tests.support.processes import an_id as an_invented_id
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_id
from tests.support.scripted_senders import ScriptedSender, a_run

OFFICES = 5
ODD = an_id("office 2")


def five_offices() -> Application:
    """Five offices of two members, who are all due a mail and a push."""
    app = Application()
    for number in range(OFFICES):
        office = an_id(f"office {number}")
        app.offices[office] = f"Office {number}"
        app.alerts.append((office, a_renewal(number, f"recipient {number}")))
        for name in ("a", "b"):
            member = a_staff(f"{name}{number}", push_enabled=True, push_days=30)
            app.staff.append((office, member))
            phone = a_device(member)
            app.devices[phone.id] = phone
    return app


_STAFF = (
    "select office_id, id, {name} as name, email, email_enabled, email_days, push_enabled, push_days from app.staff"
)
_ALERTS = "select office_id, recipient_id, recipient_name, kind, due_on, {cycle} as cycle from app.alerts"

VIEWS = {
    "22012": [
        (
            "alerts",
            _ALERTS.format(cycle=f"case office_id when '{ODD}' then 1 / (cycle - 1) else cycle end"),
        ),
        (
            "devices",
            (
                f"select id, staff_id, case staff_id when '{an_id('a2')}' then (1 / (length(auth) - 4))::text"
                " else endpoint end as endpoint, p256dh, auth from app.devices"
            ),
        ),
    ],
    "22P02": [
        (
            "staff",
            _STAFF.format(name=f"case office_id when '{ODD}' then name::int::text else name end"),
        ),
    ],
    "54000": [
        (
            "offices",
            f"select id, case id when '{ODD}' then repeat(name, 400000000) else name end as name from app.offices",
        ),
    ],
}
"""By what the odd office's deliveries fail of: a view, and what it says from the moment on when the day is planned."""


@frozen
class Turning(PostgresLedger):
    """A ledger whose *view* becomes *said* once a day is planned."""

    view: str = field(kw_only=True)
    said: str = field(kw_only=True)

    async def plan(self, day: date, rules: Rules, capacity: Capacity = UNLIMITED) -> Planned:
        planned = await super().plan(day, rules, capacity)
        await self._db.fetch(f"create or replace view notifierd.{self.view} as {self.said}")
        return planned


async def told(db: Database, email: ScriptedSender, push: ScriptedSender, view: str, said: str) -> RunResult:
    """Run the day over five offices, with a view that says odd things once it is planned."""
    await application.create(db)
    await application.replace(db, five_offices())
    context = a_run(MemoryLedger(Application()), email, push, window_left=60.0)
    context = evolve(context, ledger=Turning(db, view=view, said=said), source=PostgresSource(db))
    return await run_day(DAY, context)


@pytest.mark.parametrize(("reason", "view", "said"), [(key, *view) for key, views in VIEWS.items() for view in views])
async def test_an_office_that_cannot_be_read_fails_alone_and_is_named(reason: str, view: str, said: str, database: str):
    """Of five offices in a chunk, one cannot be read. Four are told of by mail and by push."""
    email, push = ScriptedSender(max_batch=100, seconds=0.0), ScriptedSender(seconds=0.0)
    async with open_database(database) as db:
        with capture_logs() as logs:
            result = await told(db, email, push, view, said)
    assert result.state == "completed"
    assert result.counts is not None
    assert (result.counts.offices, result.counts.offices_failed) == (OFFICES, 1)
    assert (len(email.told), len(push.told)) == (8, 8)
    assert not [name for name in email.told if "2" in name]
    assert {(f.office_id, f.reason) for f in result.counts.failures} == {(ODD, f"office_error:{reason}")}
    failed = [line for line in logs if line["event"] not in {"planned", "ended"}]
    assert [(line["event"], line["office"]) for line in failed] == [("office_failed", str(ODD))]
    assert "office 2" not in json.dumps(logs, default=str).lower()


# A database that knows no encoding -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ascii_template(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """A template in SQL_ASCII: its copies store whatever bytes they get."""
    database, role = "in_sql_ascii", "clerk_in_ascii"
    cluster.psql(
        f"create database {database} encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0;"
        f" create role {role} login"
    )
    cluster.psql(tables_sql(), database)
    folder = tmp_path_factory.mktemp("ascii")
    run("db", "init", "--preset", "keikakun", "--role", role, "--dsn", cluster.dsn(database), cwd=folder, code=0)
    yield Template(cluster, database, role)
    cluster.drop_database(database)
    cluster.psql(f"drop role {role}")


@pytest.fixture
def ascii_place(ascii_template: Template, servers: Servers, tmp_path: Path) -> Iterator[Place]:
    with ascii_template.place(tmp_path, servers) as place:
        yield place


ODD_INVENTED = str(an_invented_id("o2"))
IN_EUC = r"convert_from('\xc7c0'::bytea, 'SQL_ASCII')"
"""A character in EUC-JP, whose bytes are none in UTF-8."""


@pytest.mark.parametrize(
    "statement",
    [
        f"update offices set name = {IN_EUC} where id = '{an_invented_id('o2')}'",
        f"update staffs set full_name = {IN_EUC} where id = '{an_invented_id('o2s1')}'",
        f"update welfare_recipients set last_name = {IN_EUC} where id = '{an_invented_id('o2r0')}'",
    ],
    ids=["office", "staff", "recipient"],
)
def test_a_name_in_other_bytes_than_utf_8_costs_its_office_at_most(statement: str, ascii_place: Place):
    """One of five offices has it; eight mails go, and the report names the office."""
    rows = invent(OFFICES)
    ascii_place.load(rows)
    ascii_place.sql(statement)
    done = ascii_place.once(code=1)
    report = done.report
    assert report["status"] == "completed"
    assert report["offices"] == {"total": OFFICES, "ok": OFFICES - 1, "failed": 1}
    assert report["failures"] == [{"office_id": ODD_INVENTED, "channel": "email", "reason": "office_error:22021"}] * 2
    assert len(ascii_place.mails()) == 8
    logged = [json.loads(line) for line in done.err.splitlines()]
    assert [line["office"] for line in logged if line["event"] == "office_failed"] == [ODD_INVENTED]


def test_commands_name_the_office_that_cannot_be_read_and_show_the_others(ascii_place: Place):
    rows = invent(OFFICES)
    ascii_place.load(rows)
    ascii_place.sql(f"update offices set name = {IN_EUC} where id = '{ODD_INVENTED}'")
    day, folder = ("--day", str(TODAY)), ascii_place.folder
    plan = run("plan", *day, "--json", cwd=folder, code=0).report
    assert (plan["email"], plan["expiring"]) == (8, [])
    assert plan["unreadable"] == [{"office_id": ODD_INVENTED, "reason": "office_error:22021"}]
    assert f"office {ODD_INVENTED} cannot be read (office_error:22021)" in run("plan", *day, cwd=folder, code=0).out
    made = run("preview", *day, "--out", "shown", cwd=folder, code=1)
    assert f"office {ODD_INVENTED}: its messages cannot be rendered (office_error:22021)" in made.err
    assert len(list((folder / "shown").glob("*/*.eml"))) == 8
    explained = run("plan", *day, "--explain", str(rows.staff[0].id), "--json", cwd=folder, code=0).report
    assert explained["offices"][0]["ways"][0]["targets"][0]["included"]
    odd = run("plan", *day, "--explain", str(rows.staff[5].id), cwd=folder)
    assert "22021" in odd.err, (odd.code, odd.out, odd.err)
