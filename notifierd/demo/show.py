"""``notifierd demo``: one full run on this machine, without set-up, with injected failures."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path

import trio
from attrs import evolve, frozen
from rich.console import Console

from notifierd.commands.once import Once, Options
from notifierd.commands.run_display import live_progress, print_report
from notifierd.config.load import load
from notifierd.config.settings import WindowSettings
from notifierd.demo.application import tables_sql
from notifierd.demo.feedback import ask_afterwards, became, surprises
from notifierd.demo.keep import HOST, free_port, keep_running
from notifierd.demo.postgres import Cluster, running_postgres
from notifierd.demo.sample import Sample
from notifierd.demo.sample import load as load_rows
from notifierd.demo.sample import sample as invent
from notifierd.demo.servers.process import Servers, running_servers
from notifierd.model.delivery import Channel, delivery_id
from notifierd.rules.calendar import Calendar
from notifierd.rules.exits import EXIT_INTERRUPTED, EXIT_OK, EXIT_TROUBLE
from notifierd.rules.report import RunReport
from notifierd.send.vapid import make_vapid_key
from notifierd.service import logs
from notifierd.service.site import utc_now
from notifierd.store import schema
from notifierd.store.database import open_database

DATABASE = "keikakun"
ROLE = "notifierd"
LATENCY_MS = 20.0

CONFIG = """\
# The demo's own configuration. While the demo is kept running, every command works with it:
#   notifierd --config {directory}/config.toml check
[database]
dsn = "{dsn}"
[email]
sender = "keikakun <notice@keikakun.example.jp>"
[email.resend]
api_key = "re_demo"
feedback_key = "re_demo_full_access"
base_url = "{mail_url}"
[push]
vapid_private_key = "{vapid_key}"
subject = "mailto:operator@keikakun.example.jp"
allowed_hosts = ["127.0.0.1"]
allow_private_addresses = true
[http]
bind = "{page}"
[content]
dashboard_url = "https://keikakun.example.jp/dashboard"
templates = "{directory}/templates"
"""


@frozen
class Verdict:
    """Whether the result is what the data and the injected failures should cause.

    Attributes:
        surprises: one line for each difference.
    """

    surprises: tuple[str, ...]
    mails: int
    pushes: int


def show(offices: int, *, keep: bool) -> int:
    """Run the demo; return its exit code."""
    logs.set_up("critical", "text")  # the injected faults are errors, and the summary shows them all
    console = Console(highlight=False, soft_wrap=True)
    out = Path(tempfile.mkdtemp(prefix="notifierd-demo-"))
    day = Calendar(WindowSettings()).today(utc_now())
    page = free_port()
    with stage(offices, day, out, page, console) as (cluster, servers, sample):
        one = Once(load(out / "config.toml", {}), Options(day, force=True, seconds=120.0))
        report = trio.run(partial(watched, one))
        if report.exit_code == EXIT_INTERRUPTED:
            console.print("interrupted: what was not begun stays planned, and the next run would resume")
            return EXIT_INTERRUPTED
        (out / "report.json").write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
        verdict = judge(sample, servers, report)
        feedback = trio.run(partial(ask_afterwards, out / "config.toml", sample))
        verdict = evolve(verdict, surprises=verdict.surprises + surprises(verdict.mails, feedback))
        tell(report, verdict, sample, console)
        where_to_look(out, cluster, page if keep else None, console)
        if keep:
            console.print("\nCtrl-C ends the daemon and the servers, and removes the database.")
            keep_running(out / "config.toml", page)
            console.print("")
    return EXIT_TROUBLE if verdict.surprises else EXIT_OK


@contextmanager
def stage(offices: int, day: date, out: Path, page: int, console: Console) -> Iterator[tuple[Cluster, Servers, Sample]]:
    """Set up the database with the application's data, the servers and the configuration; stop them at the end."""
    console.print(f"{day}: starting PostgreSQL, a mail API and a push service ...")
    with (
        tempfile.TemporaryDirectory(prefix="notifierd-demo-db-") as directory,
        running_postgres(Path(directory)) as cluster,
        running_servers(out) as servers,
    ):
        console.print("inventing offices, staff and the people in their care ...")
        sample = invent(offices, day, servers.push_url)
        trouble = sample.servers(latency_ms=LATENCY_MS)
        servers.configure(evolve(trouble, mail=evolve(trouble.mail, became=became(sample))))
        dsn = cluster.create_database(DATABASE)
        cluster.psql(f"create role {ROLE} login")
        cluster.psql(tables_sql(), DATABASE)
        load_rows(cluster, DATABASE, sample)
        trio.run(prepare, dsn)
        configure(out, cluster.dsn(DATABASE, ROLE), servers, sample, page)
        console.print(
            f"ready: PostgreSQL, the application's tables with {len(sample.rows.staff):,} staff, two servers\n"
        )
        yield cluster, servers, sample


async def prepare(dsn: str) -> None:
    """Do what `notifierd db init --preset keikakun --role notifierd` does."""
    async with open_database(dsn, pool_size=1) as db:
        await schema.init(db, "keikakun", ROLE)


def configure(out: Path, dsn: str, servers: Servers, sample: Sample, page: int) -> None:
    """Write the configuration, and the poison: a custom template that fails for one office."""
    templates = out / "templates"
    templates.mkdir()
    shipped = (files("notifierd.messages") / "templates" / "mail.ja.subject.txt").read_text(encoding="utf-8")
    (poisoned,) = (office.name for office in sample.rows.offices if office.id == sample.poisoned_office)
    poison = f'{{% if office == "{poisoned}" %}}{{{{ office.no_such_thing }}}}{{% endif %}}'
    (templates / "mail.ja.subject.txt").write_text(poison + shipped, encoding="utf-8")
    private, _ = make_vapid_key()
    config = CONFIG.format(directory=out, dsn=dsn, mail_url=servers.mail_url, vapid_key=private, page=f"{HOST}:{page}")
    (out / "config.toml").write_text(config, encoding="utf-8")


async def watched(one: Once) -> RunReport:
    """Run, and show the progress on the terminal."""
    async with live_progress(one.progress, Console(stderr=True)):
        return await one.run()


def judge(sample: Sample, servers: Servers, report: RunReport) -> Verdict:
    """Compare what the servers received, message by message, with what the data and the failures should cause."""
    expected = sample.expected()
    mails = {
        str(delivery_id(sample.day, mail.office_id, mail.staff_id, Channel.EMAIL)): mail.address
        for mail in expected.mails
        if mail.office_id != sample.poisoned_office and mail.address != sample.rejected_address
    }
    pushes = Counter(
        (str(push.device_id), str(push.office_id), push.renewals, push.assessments)
        for push in expected.pushes
        if push.office_id != sample.poisoned_office and push.device_id != sample.gone_device
    )
    accepted = servers.mails()
    told = {mail.delivery_id: mail.to for mail in accepted}
    pushed = Counter(
        (
            p.device_id,
            p.payload["data"]["office_id"],
            p.payload["data"]["renewal_count"],
            p.payload["data"]["assessment_count"],
        )
        for p in servers.pushes()
    )
    counts = report.as_json()
    rejected = sum(mail.address == sample.rejected_address for mail in expected.mails)
    poisoned = [
        sum(one.office_id == sample.poisoned_office for one in channel) for channel in (expected.mails, expected.pushes)
    ]
    gone = sum(push.device_id == sample.gone_device for push in expected.pushes)
    wanted = {
        "mails sent": (counts["email"]["sent"], len(mails)),
        "mails failed": (counts["email"]["failed"], rejected + poisoned[0]),
        "pushes sent": (counts["push"]["sent"], pushes.total()),
        "pushes failed": (counts["push"]["failed"], poisoned[1]),
        "devices gone": (counts["push"]["gone"], gone),
        "offices failed": (counts["offices"]["failed"], 1),
        "deliveries open": (counts["email"]["open"] + counts["push"]["open"], 0),
    }
    surprises = [f"{what}: {is_} and not {should}" for what, (is_, should) in wanted.items() if is_ != should]
    if len(told) != len(accepted):
        surprises.append(f"{Channel.EMAIL.counted(len(accepted) - len(told))} accepted twice")
    if told != {key: (address,) for key, address in mails.items()}:
        surprises.append("the mail API received other mails than the data require")
    if pushed != pushes:
        surprises.append("the push service received other pushes than the data require")
    return Verdict(tuple(surprises), len(accepted), pushed.total())


def tell(report: RunReport, verdict: Verdict, sample: Sample, console: Console) -> None:
    """Print the summary, and what each failure was meant to show."""
    print_report(report, console)
    console.print(
        f"\nThe mail API received [bold]{Channel.EMAIL.counted(verdict.mails)}[/], "
        f"the push service [bold]{Channel.PUSH.counted(verdict.pushes)}[/]."
    )
    if verdict.surprises:
        for surprise in verdict.surprises:
            console.print(f"[bold red]not as expected:[/] {surprise}")
        return
    console.print("[bold green]Everything as expected[/], message for message. The injected faults:")
    console.print(
        f"  an address that the provider rejects: that mail failed, the rest of its batch went out\n"
        f"  a 429 with Retry-After: waited for, then sent; no attempt was used up\n"
        f"  a device that is gone: its row was deleted with the outcome, in one transaction\n"
        f"  a poisoned office ({sample.poisoned_office}): failed alone, with its name in the report\n"
        f"  an office where all opted out and one without staff: their alerts are reported as untold\n"
        f"Asked what became of the mails, the mail API told of three that it had accepted:\n"
        f"  one bounced, and one was suppressed: they count as having reached nobody\n"
        f"  one was reported as spam: mails to that address are held back from tomorrow on"
    )


def where_to_look(out: Path, cluster: Cluster, page: int | None, console: Console) -> None:
    """Print where everything is; *page* is the port of the page, None if nothing is kept."""
    console.print(f"\nWhat was sent: [bold]{out}[/]: mails/*.eml, pushes/; the report: report.json")
    if page:
        console.print(
            f"The page:      [bold]http://{HOST}:{page}/[/]\n"
            f"The database:  psql '{cluster.dsn(DATABASE)}'   (schema notifierd: runs, deliveries)\n"
            f"More commands: notifierd --config {out}/config.toml check"
        )
    else:
        (out / "config.toml").unlink()  # it names a database that is about to be removed
        shutil.rmtree(out / "templates")
        console.print("To see the page and the database, too: notifierd demo --keep")
