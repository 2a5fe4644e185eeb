"""The views taken off for a migration of the application's, and put back as they were."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from notifierd.demo.postgres import PostgresFailed
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import until
from tests.support.processes import PATIENCE, Place, invent, run

UNSEEN = "\x07\x1b[31m\r\x9b\u202e"
"""A bell, red letters, a carriage return, the C1 form of an escape, and a mark that reverses what follows."""

FITTING = "alter table staffs alter column full_name type varchar(300)"
RENAMED = "alter table staffs rename column full_name to display_name"
MIGRATIONS = [
    (FITTING, "cannot alter type of a column used by a view", "", ""),
    (
        "alter table support_plan_cycles alter column cycle_number type bigint",
        "cannot alter type of a column used by a view",
        "",
        "notifierd.alerts: column cycle is bigint and must be int",
    ),
    (
        "alter table push_subscriptions drop column created_at",
        "cannot drop column created_at of table push_subscriptions because other objects depend on it",
        'column "created_at" does not exist',
        "notifierd.offices: the view is missing",
    ),
    (
        "alter table staffs drop column notification_preferences",
        "cannot drop column notification_preferences of table staffs because other objects depend on it",
        "column s.notification_preferences does not exist",
        "notifierd.offices: the view is missing",
    ),
]
"""A migration of keikakun's, how PostgreSQL refuses it, how it refuses the views as they were after it, and what a run
then says; "" for no complaint."""

# PostgreSQL writes the casts of a list in another way when it has read them once.
EVERYTHING = """
select c.relname, regexp_replace(pg_get_viewdef(c.oid), '::[a-z ]+(\\[\\])?|[()]', '', 'g'), c.relowner,
       c.reloptions, coalesce(c.relacl, acldefault('r', c.relowner))::text[] as rights,
       (select array_agg((a.attname, a.attacl::text, pg_get_expr(d.adbin, d.adrelid)) order by a.attnum)
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0),
       (select array_agg(pg_get_triggerdef(t.oid)) from pg_trigger t where t.tgrelid = c.oid)
       , (select array_agg((objsubid, description) order by objsubid) from pg_description where objoid = c.oid),
       (select array_agg(pg_get_ruledef(oid)) from pg_rewrite where ev_class = c.oid and rulename <> '_RETURN')
from pg_class c where c.relnamespace = 'notifierd'::regnamespace and c.relkind = 'v' order by 1
"""


def test_views_that_were_taken_off_come_back_as_they_were(place: Place):
    place.load(invent(2))
    place.sql("alter view notifierd.staff set (security_barrier = true); grant select on notifierd.offices to public")
    place.sql(
        "create function public.gone() returns trigger language plpgsql as 'begin return old; end';"
        "create trigger gone instead of delete on notifierd.devices for each row execute function public.gone();"
        "create rule noted as on update to notifierd.devices do instead nothing;"
        f"grant select (name), insert (name) on notifierd.staff to {place.role} with grant option;"
        f"grant delete on notifierd.devices to {place.role} with grant option;"
        "comment on view notifierd.staff is 'it''s \\ ours'; comment on column notifierd.staff.name is '氏名'"
    )
    before = place.sql(EVERYTHING)
    scripts = scripts_of(place)
    change = FITTING
    assert refused(place, change)
    place.sql(scripts["drop"])
    assert place.sql(EVERYTHING) == ""
    done = run("once", cwd=place.folder, code=2)
    assert "notifierd.staff: the view is missing" in done.err
    done = run("db", "views", "--create", "--dsn", admin(place), cwd=place.folder, code=2)
    assert done.err == "notifierd: there are no views in the schema notifierd: run `notifierd db init --preset NAME`\n"
    place.sql(change)
    place.sql(scripts["create"])
    assert place.sql(EVERYTHING) == before
    assert place.once().report["email"]["sent"] == 4


def test_what_a_terminal_would_obey_is_escaped_and_means_the_same(place: Place):
    hostile = f"it's \\ {UNSEEN}"
    literal, name = hostile.replace("'", "''"), f'"a""\\{UNSEEN}"'
    place.sql(
        f"create or replace view notifierd.offices as select id, name::text as name, '{literal}'::text as {name},"
        f" E'\\\\{UNSEEN}' as escaped, '日本語' as words from public.offices;"
        f"alter view notifierd.offices alter column name set default '{literal}';"
        f"comment on view notifierd.offices is '{literal}'"
    )
    before, odd = place.sql(EVERYTHING), f"select {name}, escaped, words from notifierd.offices"
    place.load(invent(1))
    told = place.sql(odd)
    for environ in ({}, {"PYTHONIOENCODING": "ascii"}):
        scripts = scripts_of(place, environ)
        shown = "".join(scripts.values())
        assert not re.findall(r"[^\n\t -~\u3000-\u9fff]", shown)
        assert shown.isascii() == bool(environ)
        place.sql(scripts["drop"])
        place.sql(f"set client_encoding = 'LATIN1'; {scripts['create']}")
        assert place.sql(EVERYTHING) == before
        assert place.sql(odd) == told


@pytest.mark.parametrize(
    ("migration", "at_first", "afterwards", "complaint"), MIGRATIONS, ids=[migration for migration, *_ in MIGRATIONS]
)
def test_a_migration_that_postgresql_refuses_passes_without_the_views(
    place: Place, migration: str, at_first: str, afterwards: str, complaint: str
):
    place.load(invent(1))
    assert at_first in refused(place, migration)
    scripts = scripts_of(place)
    place.sql(scripts["drop"])
    place.sql(migration)
    assert re.search(afterwards, refused(place, scripts["create"]))
    assert (place.sql(EVERYTHING) == "") == bool(afterwards), "all of the script, or nothing"
    if complaint:
        assert complaint in run("once", cwd=place.folder, code=2).err
    else:
        assert place.once().report["email"]["sent"] == 2


def test_a_renamed_column_needs_no_script(place: Place):
    """PostgreSQL changes the views along; but a script that was printed before has the old name."""
    place.load(invent(1))
    old = scripts_of(place)
    place.sql(RENAMED)
    assert place.once().report["email"]["sent"] == 2
    new = scripts_of(place)
    place.sql(new["drop"])
    assert "column s.full_name does not exist" in refused(place, old["create"])
    place.sql(new["create"])
    assert refused(place, FITTING.replace("full_name", "display_name"))


async def test_a_daemon_sleeps_through_a_migration_outside_its_window(place: Place):
    place.load(invent(1, day=TODAY))
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await service.ready()
        await until(lambda: service.shows("sleeping until"), "the daemon's sleep")
        scripts = scripts_of(place)
        place.sql(scripts["drop"])
        unready = await readiness(service, 503)
        place.sql(f"{FITTING}; {scripts['create']}")
        await readiness(service, 200)
        service.process.terminate()
        await service.ended(0)
    assert "notifierd.offices: the view is missing" in unready
    assert {line["level"] for line in service.lines} == {"info"}
    assert "bad" not in run("check", cwd=place.folder, code=0).out


async def test_a_window_that_is_open_without_the_views_waits_for_them(place: Place):
    place.load(invent(3, day=TODAY))
    place.configure(window=OPEN)
    place.sql(
        "insert into notifierd.runs (day, state, holder, lease_until)"
        f"values ('{TODAY}', 'running', 'another', now() + interval '1 hour')"
    )
    async with running_service(place) as service:
        await until(lambda: service.said("standing_by"), "the wait for the lease")
        scripts = scripts_of(place)
        place.sql(f"{scripts['drop']} update notifierd.runs set lease_until = now()")
        await until(lambda: service.said("cannot_run"), "the line")
        place.sql(f"{FITTING}; {scripts['create']}")
        await until(lambda: service.shows("sleeping until"), "the end of the run")
        service.process.terminate()
        await service.ended(0)
    (line,) = [line for line in service.lines if line["event"] == "cannot_run"]
    assert line["reason"].startswith("notifierd.offices: the view is missing")
    assert dict(place.states()) == {"sent": 6}


async def test_a_run_that_loses_the_views_goes_on_when_they_are_back(place: Place):
    """Nobody is lost, nobody is told twice, and the log has one line for the trouble and one for its end."""
    place.load(invent(20, day=TODAY))
    place.configure(window=OPEN, limits={"email": 1, "email_per_second": 4.0})
    scripts = scripts_of(place)
    async with running_service(place) as service:
        await service.ready()
        await until(lambda: bool(place.mails()), "the first mail")
        place.sql(scripts["drop"])
        await until(lambda: service.said("waiting_for_database"), "the line")
        place.sql(f"{FITTING}; {scripts['create']}")
        await until(lambda: service.shows("sleeping until"), "the end of the run")
        service.process.terminate()
        await service.ended(0)
    assert dict(place.states()) == {"sent": 40}
    assert len({mail.delivery_id for mail in place.mails()}) == len(place.mails()) == 40
    assert place.sql("select count(*) from audit_logs") == "40"
    reasons = {line["reason"] for line in service.lines if line["event"] == "waiting_for_database"}
    assert reasons == {"database_refused:42P01"}


async def readiness(service: Service, code: int) -> str:
    """Wait for an answer with *code*; the daemon looks at its database every few seconds."""
    with trio.fail_after(PATIENCE):
        while (answer := await service.get("/readyz")).status_code != code:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.2)
    return answer.text


def scripts_of(place: Place, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    return {
        which: run("db", "views", f"--{which}", "--dsn", admin(place), cwd=place.folder, environ=environ, code=0).out
        for which in ("drop", "create")
    }


def admin(place: Place) -> str:
    return place.cluster.dsn(place.database)


def refused(place: Place, script: str) -> str:
    """How PostgreSQL refuses *script*; "" where it does not."""
    try:
        place.sql(script)
    except PostgresFailed as error:
        return str(error)
    return ""


def test_one_of_the_scripts_has_to_be_asked_for(tmp_path: Path):
    done = run("db", "views", cwd=tmp_path, code=2)
    assert "give --drop or --create" in done.err
