"""Promise 6: a daemon that meets every kind of trouble, with a mark on all that nobody may see, and a search for it."""

import json
import signal
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path

from attrs import evolve

from notifierd.demo.application import Rows
from notifierd.demo.postgres import running_postgres
from notifierd.demo.servers.process import Servers
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, ServersConfig
from tests.support.daemon_process import OPEN, TODAY, Service, running_service
from tests.support.events import listening
from tests.support.faults import Turnstile, counting, response, until
from tests.support.processes import DOMAIN, Place, Tables, an_id, invent, running_template
from tests.support.receivers import Receivers, receiving

MARK = "kumquat"
"""Part of every name, address, endpoint and secret here, and of what providers and PostgreSQL say of them."""

OFFICE_MARK = "mandarin"
"""Part of every office's name, which only the audit rows and the page may show."""

API_KEY = f"re_{MARK}"
VAPID_KEY = f"{MARK * 6}A"  # 32 bytes in base64url, below the curve's order: a private key like any other
AUTH = f"{MARK * 3}A"  # 16 bytes
SENDER = f"{MARK}@{DOMAIN}"

VIEWS = (
    files("notifierd.store")
    .joinpath("presets/keikakun.sql")
    .read_text(encoding="utf-8")
    .replace("application.", "public.")
)

BAD_ROW = """
create or replace view notifierd.alerts as
select c.office_id, r.id as recipient_id, r.first_name::text as recipient_name, 'renewal'::text as kind,
       r.first_name::date as due_on, c.cycle_number as cycle
from support_plan_cycles c join welfare_recipients r on r.id = c.welfare_recipient_id;
"""
"""PostgreSQL's error quotes the value: invalid input syntax for type date."""

BAD_AUDIT = f"""
create function refuse() returns trigger language plpgsql security definer as $$ begin
    if new.target_id = '{an_id("o5s0")}' then
        raise check_violation using message = 'no row for ' || (
            select email from public.staffs where id = new.target_id
        );
    end if;
    return new;
end $$;
create trigger refuse before insert on audit_logs for each row execute function refuse();
"""

POISON = '{% if "o6" in office %}{{ {}[office] }}{% endif %}'
"""Jinja's error quotes the key: 'dict object' has no attribute."""

BAD_FILES: tuple[Mapping[str, Mapping[str, object]], ...] = (
    {"email.resend": {"api_key": f"{MARK} {MARK}"}},
    {"email.resend": {"api_key": [MARK]}},
    {"push": {"vapid_private_key": MARK}},
    {"push": {"subject": f"{MARK}@{DOMAIN}"}},
    {"email": {"sender": f"{MARK}@@{DOMAIN}"}},
    {"email": {"reply_to": [f"{MARK}@{DOMAIN}"]}},
    {"safety": {"redirect_to": f"{MARK} at {DOMAIN}"}},
    {"database": {"dsn": MARK}},
    {"database": {"dsn": f"postgresql://somebody:{MARK}@127.0.0.1:1/{MARK}"}},
    {"database": {"dsn": f"postgresql://somebody:{MARK}@[/{MARK}"}},
    {"http": {"bind": "0.0.0.0:9464", "token": f"{MARK} {MARK}"}},
    {"watch": {"webhook_url": MARK}},
)


def marked(push_url: str) -> Rows:
    """Eight offices with a staff member each, who has a phone; of the phones two are gone or odd, and two hostile."""
    rows = invent(8, staff=1, push_url=push_url, day=TODAY)
    devices = [
        evolve(one, token=f"{MARK}-{one.token}", endpoint=f"{push_url}/push/{MARK}-{one.token}", auth=AUTH)
        for one in rows.devices
    ]
    devices[2] = evolve(devices[2], endpoint=f"http://{MARK}:{MARK}@169.254.169.254/{MARK}")
    devices[3] = evolve(devices[3], p256dh=MARK)
    devices[4] = evolve(devices[4], endpoint=f"https://push.example.net/{MARK}")
    return evolve(
        rows,
        offices=tuple(evolve(one, name=f"{one.name} {OFFICE_MARK}") for one in rows.offices),
        staff=tuple(evolve(one, first_name=MARK, email=f"{MARK}.{one.email}") for one in rows.staff),
        recipients=tuple(evolve(one, first_name=MARK) for one in rows.recipients),
        devices=tuple(devices),
    )


def quoting(status: str) -> bytes:
    """A provider's answer that says whom it is about."""
    said = f"Invalid `to` field: {MARK}@{DOMAIN} in {MARK}"
    return response(status, f'{{"name": "{MARK}", "message": "{said}"}}', "application/json")


def in_trouble() -> Callable[[bytes], bytes]:
    """One mail is refused; two others meet trouble once; each answer quotes."""
    answers = {
        b"o1s0@": [quoting("422 Unprocessable Entity")],
        b"o2s0@": [quoting("500 Internal Server Error")],
        b"o3s0@": [response("200 OK", f"<html>{MARK}@{DOMAIN}</html>", "text/html")],
    }
    return lambda body: next((left.pop() for whom, left in answers.items() if whom in body and left), b"")


def written(place: Place) -> dict[str, str]:
    """All that is in the tables of schema notifierd."""
    ours = place.sql("select 'notifierd.' || tablename from pg_tables where schemaname = 'notifierd'").split()
    assert len(ours) == 14
    return rows_of(place, *ours)


def rows_of(place: Place, *tables: str) -> dict[str, str]:
    return {table: place.sql(f"select t::text from {table} t") for table in tables}


def with_mark(texts: Mapping[str, str], *marks: str) -> set[str]:
    """In which of *texts* one of *marks* is."""
    return {name for name, text in texts.items() if any(mark in text.lower() for mark in marks)}


async def shown(service: Service) -> str:
    """All that the page shows, in both languages, and what programs are told."""
    offices = [f"/offices/{an_id(f'o{n}')}" for n in range(8)]
    paths = ["/", f"/days/{TODAY}", *offices, "/metrics", "/readyz", "/healthz"]
    pages = [await service.get(path, accept_language=language) for language in ("ja", "en") for path in paths]
    assert {page.status_code for page in pages} == {200}
    async with listening(service.url) as page:
        return "\n".join([*(page.text for page in pages), json.dumps(await page.next(), ensure_ascii=False)])


async def meet_refusals(service: Service, turnstile: Turnstile, tables: Tables) -> tuple[str, str]:
    """A row that cannot be read, a provider that refuses us, phones of all sorts, bad files; stderr, and the page."""
    place = service.place
    await until(lambda: service.said("cannot_run"), "a row that cannot be read")
    turnstile.instead = lambda _: quoting("401 Unauthorized")
    place.sql(VIEWS)
    await until(lambda: service.said("sender_blocked"), "a provider that refuses us")
    await until(lambda: place.states()["planned"] == 7, "all else to be settled")
    service.tell(signal.SIGUSR1)
    await until(lambda: service.said("state"), "an answer to SIGUSR1")
    for number, bad in enumerate(BAD_FILES, 1):
        place.configure(**{name: {**tables.get(name, {}), **bad.get(name, {})} for name in {**tables, **bad}})
        service.tell(signal.SIGHUP)
        await until(partial(service.heard, "READY=1", 1 + number), "a file to be refused")
    pages = await shown(service)
    assert "blocked:401" in pages
    service.tell(signal.SIGTERM)
    lines = await service.ended(4)
    assert service.count("reload_refused") == len(BAD_FILES)
    assert {"cannot_run", "sender_blocked", "office_failed", "audit_row_refused", "not_delivered"} <= service.events
    return "\n".join(lines), pages


async def meet_faults(service: Service, turnstile: Turnstile) -> tuple[str, str]:
    """A database restarted with mails in flight, a provider that makes all sorts of trouble; stderr, and the page."""
    place = service.place
    turnstile.instead = in_trouble()
    with place.frozen_servers():
        await until(lambda: place.calls_in_flight() > 0, "calls in flight")
        place.cluster.stop()
    await until(lambda: service.said("waiting_for_database"), "a settlement in vain")
    place.cluster.start()
    await until(lambda: service.shows("sleeping until"), "the run's end")
    pages = await shown(service)
    service.tell(signal.SIGTERM)
    lines = await service.ended(0)
    assert {"waiting_for_database", "call_in_trouble", "audit_row_refused", "not_delivered"} <= service.events
    return "\n".join(lines), pages


async def test_whatever_happens_no_name_address_endpoint_or_secret_is_logged_told_shown_or_written(
    servers: Servers, tmp_path: Path
):
    with (
        running_postgres(tmp_path / "postgres") as cluster,
        running_template(cluster, tmp_path) as template,
        template.place(tmp_path, servers) as place,
    ):
        rows = marked(servers.push_url)
        place.load(rows)
        place.sql(BAD_ROW + BAD_AUDIT)
        devices = tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in rows.devices)
        mail = MailConfig(API_KEY, keep_eml=False)
        servers.configure(ServersConfig(mail, PushConfig(devices=devices, gone=(devices[1].token,))))
        templates = tmp_path / "templates"
        templates.mkdir()
        shipped = files("notifierd.messages").joinpath("templates/mail.ja.subject.txt").read_text(encoding="utf-8")
        (templates / "mail.ja.subject.txt").write_text(POISON + shipped, encoding="utf-8")
        receivers = Receivers(answers=lambda got: 500 if got.is_ping else 403)
        async with (
            counting(servers.mail_url) as (turnstile, url),
            receiving(receivers, secret=MARK, said=f"{MARK}@{DOMAIN}") as watch,
        ):
            hosts = {"allowed_hosts": ["127.0.0.1", "169.254.169.254"], "allow_private_addresses": True}
            tables: Tables = {
                "window": OPEN,
                "database": {"dsn": cluster.dsn(place.database, f"{place.role}:{MARK}")},
                "email": {"sender": SENDER, "reply_to": SENDER},
                "email.resend": {"api_key": API_KEY, "base_url": url},
                "push": {"vapid_private_key": VAPID_KEY, **hosts},
                "content": {"templates": str(templates)},
                "log": {"level": "debug"},
                "watch": watch,
            }
            place.configure(**tables)
            async with running_service(place) as first:
                log, pages = await meet_refusals(first, turnstile, tables)
            place.configure(**tables)
            async with running_service(place) as second:
                more, page = await meet_faults(second, turnstile)
                log, pages = log + more, pages + page

        ends = "select channel, state, coalesce(reason, ''), count(*) from notifierd.deliveries group by 1, 2, 3"
        assert set(place.sql(ends).splitlines()) == {
            "email|sent||6",
            "email|failed|rejected:422|1",
            "email|failed|office_error:UndefinedError|1",
            "push|sent||3",
            "push|gone|gone:410|1",
            "push|failed|endpoint_refused:userinfo|1",
            "push|failed|endpoint_refused:host_not_allowed|1",
            "push|failed|bad_subscription|1",
            "push|failed|office_error:UndefinedError|1",
        }
        told = "\n".join(text for service in (first, second) for _, text in service.told)
        assert "reload refused" in told
        assert with_mark({"stderr": log, "systemd": told, **written(place)}, MARK, OFFICE_MARK) == set()
        assert with_mark({"pages": pages, **rows_of(place, "audit_logs")}, MARK) == set()
        assert with_mark({"pages": pages}, OFFICE_MARK) == {"pages"}
        posted = {
            f"{n} {got.signal if got.is_ping else got.cause}": got.body.decode() for n, got in enumerate(receivers.got)
        }
        assert {name.split(" ")[1] for name in posted} == {
            "failed",
            "blocked:resend",
            "failures",
            "untold",
            "start",
            "fail",
        }
        assert with_mark(posted, MARK, OFFICE_MARK) == set()

        accepted = (servers.out / "mails" / "accepted.jsonl").read_text(encoding="utf-8")
        config = (place.folder / "config.toml").read_text(encoding="utf-8")
        postgres = cluster.log_path.read_text(encoding="utf-8")
        theirs = {"mails": accepted, "config": config, "postgres": postgres}
        theirs |= rows_of(place, "staffs", "welfare_recipients", "push_subscriptions")
        assert with_mark(theirs, MARK) == theirs.keys()
        assert with_mark(rows_of(place, "offices", "audit_logs"), OFFICE_MARK) == {"offices", "audit_logs"}
        for quoted in (f'invalid input syntax for type date: "{MARK}"', f"no row for {MARK}.o5s0@{DOMAIN}"):
            assert quoted in postgres
        assert all(secret in config for secret in (API_KEY, VAPID_KEY))
