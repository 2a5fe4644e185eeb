"""The command line: arguments in, exit code out. Results go to stdout, messages for people to stderr."""

import os
import sys
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click
from rich.console import Console

from notifierd import __version__, logs
from notifierd.config import load, load_for_sending
from notifierd.db import Database, open_database
from notifierd.errors import DatabaseError, LeaseHeld, LedgerUnavailable
from notifierd.report import EXIT_OK, EXIT_TROUBLE, EXIT_USAGE, RunReport, RunResult
from notifierd.settings import Settings
from notifierd.terminal import complain, exit_codes, out, run_async, say_json

T = TypeVar("T")

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The configuration; without it ./config.toml, then /etc/notifierd/config.toml.",
)
@click.version_option(__version__, prog_name="notifierd")
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """Tell the staff of every office what is due: each business day, once, and nobody is lost.

    \b
    A first run, against the configuration in ./config.toml:
      notifierd db init --preset keikakun --dsn postgresql://admin@/app   the schema and the views
      notifierd check                                                     is everything there?
      notifierd once --dry-run                                            what would be sent
      notifierd once                                                      send it
    """  # noqa: D301 - click's mark for a paragraph that is not rewrapped
    context.obj = config_path


def main() -> None:
    """Run the command line, and exit."""
    with exit_codes():
        try:
            cli(standalone_mode=False)
        finally:
            sys.stdout.flush()
    sys.exit(0)


def settings_of(context: click.Context) -> Settings:
    """The configuration that the command line names; log lines go where it says."""
    settings = load(context.obj)
    logs.set_up(settings.log.level, settings.log.format)
    return settings


def day_of(moment: datetime | None, settings: Settings) -> date:
    """The day that the command line names, or today."""
    from notifierd.assemble import utc_now
    from notifierd.schedule import Calendar

    return moment.date() if moment else Calendar(settings.window).today(utc_now())


DAY = click.DateTime(["%Y-%m-%d"])
SECONDS = click.FloatRange(min=0, min_open=True)
as_json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON, alone on stdout.")


@cli.command()
@click.pass_context
def run(context: click.Context) -> None:
    """The daemon: sleeps until the window opens, runs the day, sleeps again. systemd starts it.

    SIGHUP loads the configuration anew, SIGTERM and Ctrl-C end it when what is in flight has landed (a second Ctrl-C
    at once), SIGUSR1 logs what is going on. Exits 0 if it was told to stop, 4 if that cut a run: the next start goes
    on with it.
    """
    from notifierd.assemble import open_site, utc_now
    from notifierd.daemon import Daemon
    from notifierd.notify import Notifier

    daemon = Daemon(
        load=partial(load_for_sending, context.obj),
        open_site=open_site,
        now=utc_now,
        notifier=Notifier.of(os.environ),
        in_force=lambda settings: logs.set_up(settings.log.level, settings.log.format),
    )
    sys.exit(run_async(daemon.run))


@cli.command()
@click.option("--day", "moment", type=DAY, metavar="D", help="With --force: as if today were D; --dry-run: any day.")
@click.option("--force", is_flag=True, help="Also on a closed day, or another one.")
@click.option("--for", "seconds", type=SECONDS, default=900.0, show_default=True, help="What is open then expires.")
@click.option("--dry-run", is_flag=True, help="Only count what would be sent: writes no row, makes no call.")
@as_json_option
@click.pass_context
def once(
    context: click.Context, moment: datetime | None, seconds: float, *, force: bool, dry_run: bool, as_json: bool
) -> None:
    """One run now, whatever the window's hours.

    Exits 0 if all is well, 1 if something failed, 4 if it was interrupted: the next run goes on.
    """
    from notifierd.display import live_progress, print_report
    from notifierd.once import Once, Options

    options = Options(moment.date() if moment else None, force, seconds, dry_run)
    one = Once(settings_of(context), options)

    async def watched() -> RunReport:
        async with live_progress(one.progress, Console(stderr=True)):
            return await one.run()

    try:
        report = run_async(watched)
    except (DatabaseError, LeaseHeld) as error:
        if as_json:
            report = failed_report(one.day, error)
            say_json(report.as_json())
        raise
    if as_json:
        say_json(report.as_json())
    else:
        print_report(report, out())
    sys.exit(report.exit_code)


def failed_report(day: date, error: DatabaseError | LeaseHeld) -> RunReport:
    """The report of a run that could not be made, or whose end is not known."""
    result = RunResult("interrupted" if isinstance(error, LeaseHeld) else "failed", str(error), None)
    return RunReport(str(day), result, 0, 0, 0.0)


@cli.command()
@click.option("--day", "moment", type=DAY, metavar="D", help="Any day; without it today.")
@click.option("--explain", "staff_id", type=click.UUID, metavar="STAFF_ID", help="Why they are told, or are not.")
@as_json_option
@click.pass_context
def plan(context: click.Context, moment: datetime | None, staff_id: UUID | None, *, as_json: bool) -> None:
    """What a run would send now, office by office, the most urgent first. Writes nothing, sends nothing.

    What is sent already is left out. With --explain: why each alert is in or out for one staff member, on each channel.

    \b
      notifierd plan                            today
      notifierd plan --day 2026-11-24 --json    that day, for programs
      notifierd plan --explain 3f0e9d3e-...     why somebody is told, or is not
    """  # noqa: D301
    from notifierd import plan as plans
    from notifierd.tables import print_explanation, print_plan

    settings = settings_of(context)
    day = day_of(moment, settings)
    if staff_id:
        explanation = run_async(partial(plans.explain, settings, day, staff_id))
        say_json(explanation.as_json()) if as_json else print_explanation(explanation, out())
    else:
        found = run_async(partial(plans.plan, settings, day))
        say_json(found.as_json()) if as_json else print_plan(found, out())


@cli.command()
@click.option("--day", "moment", type=DAY, metavar="D", help="Any day; without it today.")
@click.option("--office", "office_id", type=click.UUID, metavar="ID", help="Only this office's.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="Where to.")
@click.pass_context
def preview(context: click.Context, moment: datetime | None, office_id: UUID | None, out: Path) -> None:
    """Render the messages of the plan into DIR, to be opened in a browser from its index.html. Sends nothing.

    DIR is made for you alone: what is in it names people. One that is there has to be empty, or an earlier preview,
    which is replaced. Exits 1 if an office's messages cannot be made.

    \b
      notifierd preview --out /tmp/preview
      notifierd preview --day 2026-11-24 --office 18072e8c-... --out /tmp/preview
    """  # noqa: D301
    from notifierd.assemble import utc_now
    from notifierd.preview import Wanted
    from notifierd.preview import preview as render

    settings = settings_of(context)
    wanted = Wanted(day_of(moment, settings), out, office_id)
    made = run_async(partial(render, settings, wanted, utc_now(), Console(stderr=True)))
    click.echo(f"{made.messages} messages to the staff of {len(made.offices)} offices: {out / 'index.html'}")
    complain(*(f"office {office.id}: its messages cannot be made ({office.error})" for office in made.poisoned))
    sys.exit(EXIT_TROUBLE if made.poisoned else EXIT_OK)


@cli.command()
@as_json_option
@click.pass_context
def status(context: click.Context, *, as_json: bool) -> None:
    """How things stand: the last run, what is open in the ledger, who holds the day, the next window.

    Exits 3 if the database is out of reach; the next window is told all the same.

    \b
      notifierd status
      notifierd status --json | jq .last_run.untold
    """  # noqa: D301
    from notifierd.assemble import utc_now
    from notifierd.standing import standing
    from notifierd.tables import print_standing

    settings = settings_of(context)
    found = run_async(partial(standing, settings, utc_now()))
    say_json(found.as_json()) if as_json else print_standing(found, settings.window.zone, out())
    if found.database:
        raise LedgerUnavailable(found.database)


@cli.command()
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, metavar="N", help="How many.")
@as_json_option
@click.pass_context
def history(context: click.Context, days: int, *, as_json: bool) -> None:
    """One line a day, the newest first: how it went, what was sent, who was not told.

    \b
      notifierd history --days 7
      notifierd history --json | jq '.[] | select(.untold.overdue > 0) | .day'
    """  # noqa: D301
    from notifierd.assemble import utc_now
    from notifierd.standing import history as look_back
    from notifierd.tables import print_history

    settings = settings_of(context)
    found = run_async(partial(look_back, settings, utc_now(), days))
    say_json([day.as_json() for day in found]) if as_json else print_history(found, settings.window.zone, out())


@cli.command()
@click.option("--failed", is_flag=True, help="Those that were refused for good.")
@click.option("--unknown", is_flag=True, help="Those whose answer was lost: whoever got the message gets it again.")
@click.option("--expired", is_flag=True, help="Those that the window's end left unsent.")
@as_json_option
@click.pass_context
def retry(context: click.Context, *, failed: bool, unknown: bool, expired: bool, as_json: bool) -> None:
    """Plan today's failed, unknown or expired deliveries again, each for a new call.

    A run in progress sends them, or the daemon while the window is open, or `once`. Another day's are not planned
    again: today's plan tells what is still due.

    \b
      notifierd retry --failed --expired   after the provider's trouble is over
      notifierd once                       send them now
    """  # noqa: D301
    from notifierd.assemble import utc_now
    from notifierd.model import State
    from notifierd.retry import retry as plan_again

    wanted = {State.FAILED: failed, State.UNKNOWN: unknown, State.EXPIRED: expired}
    states = [state for state, is_wanted in wanted.items() if is_wanted]
    if not states:
        raise click.UsageError("say which: --failed, --unknown, --expired (more than one is fine)")
    done = run_async(partial(plan_again, settings_of(context), states, utc_now()))
    if as_json:
        say_json(done.as_json())
    elif done.reason:
        click.echo(f"nothing is planned again: {done.reason} ({done.advice})")
    else:
        again = done.again
        click.echo(
            f"{done.day}: {again.email} mails and {again.push} pushes of {again.offices} offices are planned again"
        )
        click.echo(done.advice)


@cli.command()
@as_json_option
@click.pass_context
def check(context: click.Context, *, as_json: bool) -> None:
    """Look at everything that a run needs: one line each, good or what to mend. Sends nothing.

    Exits 0 if all is good, 2 if something is to be mended, 3 if the database is out of reach.
    """
    from notifierd import check as checks
    from notifierd.tables import print_findings

    findings = run_async(partial(checks.check, settings_of(context)))
    if as_json:
        say_json([{"subject": f.subject, "level": f.level.value, "text": f.text} for f in findings])
    else:
        print_findings(findings, out())
    sys.exit(checks.exit_code(findings))


@cli.group()
def db() -> None:
    """Make, migrate and look at the schema notifierd. `run` and `once` never need DDL."""


@db.command()
@click.option("--preset", metavar="NAME", help="Also create the five views, for this application (keikakun).")
@click.option("--dsn", metavar="ADMIN", help="Connect as somebody who may create a schema; else database.dsn.")
@click.option("--role", metavar="NAME", help="Grant this role what `run` and `once` need, and nothing else.")
@click.pass_context
def init(context: click.Context, preset: str | None, dsn: str | None, role: str | None) -> None:
    """Create the schema, bring it up to date, and make the views and grants that are asked for.

    Running it again changes nothing.
    """
    from notifierd import schema

    for line in with_database(context, dsn, lambda db: schema.init(db, preset, role)):
        click.echo(line)


@db.command()
@click.option("--dsn", metavar="ADMIN", help="Connect as the schema's owner; else database.dsn.")
@click.pass_context
def migrate(context: click.Context, dsn: str | None) -> None:
    """Bring the schema up to this program's version."""
    from notifierd import schema

    done = with_database(context, dsn, schema.migrate)
    for migration in done:
        click.echo(f"{migration}: applied")
    if not done:
        click.echo("up to date")


@db.command("status")
@click.option("--dsn", metavar="DSN", help="Look as somebody else than database.dsn names.")
@click.pass_context
def db_status(context: click.Context, dsn: str | None) -> None:
    """The schema's version, what is pending, the views, and the role's rights."""
    from notifierd import schema

    found = with_database(context, dsn, schema.status)
    for line in found.lines():
        click.echo(line)


def with_database(context: click.Context, dsn: str | None, work: Callable[[Database], Awaitable[T]]) -> T:
    """Connect to *dsn*, or to where the configuration says, and do *work*."""
    where = dsn if dsn is not None else settings_of(context).database.dsn

    async def connected() -> T:
        async with open_database(where, pool_size=1) as database:
            return await work(database)

    return run_async(connected)


@cli.command()
def vapid() -> None:
    """Make a VAPID key pair (RFC 8292), and say what goes where."""
    from notifierd.send.vapid import make_vapid_key

    private, public = make_vapid_key()
    click.echo(f"private: {private}")
    click.echo(f"public:  {public}")
    click.echo(
        "\nThe private key is a secret of notifierd's: keep it in a file that only notifierd can read, and name that\n"
        'file as push.vapid_private_key_file (or give it as the systemd credential "push.vapid_private_key").\n'
        "The public key goes into the application, as the applicationServerKey of PushManager.subscribe().\n"
        "Browsers bind a subscription to the key it was made with: a new pair ends all subscriptions of the old one.",
        err=True,
    )


@cli.command()
@click.option("--offices", type=click.IntRange(3, 5000), default=50, show_default=True, help="How many offices.")
@click.option("--keep", is_flag=True, help="Leave the database and what was sent until Ctrl-C.")
def demo(offices: int, *, keep: bool) -> None:
    """One full run on this machine with no set-up: a PostgreSQL, a mail API and a push service of its own.

    Some trouble is built in. Exits 0 when what happened is exactly what that trouble should cause.
    """
    try:
        from notifierd.demo.show import show
    except ModuleNotFoundError as error:
        complain(f"the demo needs {error.name}: pip install 'notifierd[demo]'")
        sys.exit(EXIT_USAGE)
    sys.exit(show(offices, keep=keep))
