"""The views taken off for a migration of the application's, and put back as they were."""

from pathlib import Path

from notifierd.demo.postgres import PostgresFailed
from tests.support.processes import Place, invent, run

# PostgreSQL writes the casts of a list in another way when it has read them once.
EVERYTHING = """
select c.relname, regexp_replace(pg_get_viewdef(c.oid), '::[a-z ]+(\\[\\])?|[()]', '', 'g'), c.relowner,
       c.reloptions, coalesce(c.relacl, acldefault('r', c.relowner))::text[] as rights,
       (select array_agg((a.attname, a.attacl::text, pg_get_expr(d.adbin, d.adrelid)) order by a.attnum)
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0),
       (select array_agg(pg_get_triggerdef(t.oid)) from pg_trigger t where t.tgrelid = c.oid)
from pg_class c where c.relnamespace = 'notifierd'::regnamespace and c.relkind = 'v' order by 1
"""


def test_views_that_were_taken_off_come_back_as_they_were(place: Place):
    place.load(invent(2))
    place.sql("alter view notifierd.staff set (security_barrier = true); grant select on notifierd.offices to public")
    place.sql(
        "create function public.gone() returns trigger language plpgsql as 'begin return old; end';"
        "create trigger gone instead of delete on notifierd.devices for each row execute function public.gone()"
    )
    before = place.sql(EVERYTHING)
    scripts = {
        which: run("db", "views", f"--{which}", "--dsn", admin(place), cwd=place.folder, code=0).out
        for which in ("drop", "create")
    }
    change = "alter table staffs alter column full_name type varchar(200)"
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


def admin(place: Place) -> str:
    return place.cluster.dsn(place.database)


def refused(place: Place, script: str) -> bool:
    try:
        place.sql(script)
    except PostgresFailed:
        return True
    return False


def test_one_of_the_scripts_has_to_be_asked_for(tmp_path: Path):
    done = run("db", "views", cwd=tmp_path, code=2)
    assert "give --drop or --create" in done.err
