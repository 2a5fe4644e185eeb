"""The command line. Results go to stdout, messages for people to stderr."""

import os
import sys
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from notifierd import full_version
from notifierd.cli import feedback, setup
from notifierd.cli.terminal import (
    abandon_stdout,
    as_json_option,
    complain,
    exit_codes,
    install_streams,
    may_be_terminal,
    say,
    say_json,
)
from notifierd.model.errors import DatabaseError, LeaseHeld, LedgerUnavailable
from notifierd.rules.exits import EXIT_OK, EXIT_TROUBLE
from notifierd.service import memory

if TYPE_CHECKING:
    from notifierd.config.settings import Settings
    from notifierd.rules.report import RunReport

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class InOrder(click.Group):
    """Lists the commands in the order of their definition: the daily ones first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return their names."""
        return list(self.commands)


@click.group(cls=InOrder, context_settings=CONTEXT)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The configuration file; default: ./config.toml, else /etc/notifierd/config.toml, else the environment alone.",
)
@click.version_option(full_version(), prog_name="notifierd")
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """Remind the staff of every office of its deadlines: once every business day, without missing anybody.

    \b
    A first run, against the configuration in ./config.toml:
      notifierd db init --preset keikakun --dsn postgresql://admin@/app   the schema and the views
      notifierd check                                                     is everything ready?
      notifierd plan                                                      what would be sent
      notifierd preview --out /tmp/preview                                and how it would look
      notifierd once                                                      send it
    From then on, systemd runs `notifierd run`. These commands show how it goes:
      notifierd status                                                    the last run, and the next window
      notifierd history                                                   one line a day
    `notifierd COMMAND --help` has examples for each.
    """  # noqa: D301 - click's mark for a paragraph that is not rewrapped
    context.obj = config_path


def main() -> None:
    """Run the command line, and exit."""
    install_streams()
    memory.collect_seldom()
    with exit_codes():
        try:
            cli(standalone_mode=False)
        finally:
            sys.stdout.flush()
    sys.exit(0)


def day_of(moment: datetime | None, settings: "Settings") -> date:
    """Return the day that the command line names, or today."""
    from notifierd.rules.calendar import Calendar
    from notifierd.service.site import utc_now

    return moment.date() if moment else Calendar(settings.window).today(utc_now())


DAY = click.DateTime(["%Y-%m-%d"])
SECONDS = click.FloatRange(min=0, min_open=True)


@cli.command()
@click.pass_context
def run(context: click.Context) -> None:
    """The daemon: runs each day in its window.

    It sleeps until the window opens, runs the day, and sleeps again. systemd starts it. SIGHUP reloads the
    configuration. SIGTERM and Ctrl-C stop it after the calls in flight finish; a second Ctrl-C stops it at once.
    SIGUSR1 logs what it is doing. Exits 0 after a stop, 4 if the stop interrupted a run: the next start resumes it.

    \b
      notifierd run                              as systemd runs it; the log goes to stderr
      systemctl reload notifierd                 after a change of config.toml
    """  # noqa: D301
    from notifierd.cli.work import run_async
    from notifierd.config.load import load_for_sending
    from notifierd.config.sources import find_config
    from notifierd.service import logs
    from notifierd.service.daemon import Daemon
    from notifierd.service.site import claim_alarm, open_site, utc_now
    from notifierd.service.systemd import Notifier

    async def keep_serving(daemon: Daemon) -> None:
        from notifierd.web.service import keep_serving as serve  # a daemon without the page does not need these imports

        await serve(daemon)

    place = find_config(context.obj, Path.cwd(), os.environ)  # a reload does not read another file, or none
    daemon = Daemon(
        load=partial(load_for_sending, place),
        open_site=open_site,
        now=utc_now,
        notifier=Notifier.of(os.environ),
        in_force=lambda settings: logs.set_up(settings.log.level, settings.log.format),
        claim_alarm=claim_alarm,
        keep_serving=keep_serving,
    )
    sys.exit(run_async(daemon.run))


@cli.command()
@click.option(
    "--day", "moment", type=DAY, metavar="D", help="With --force, run as if today were D; with --dry-run, any day."
)
@click.option("--force", is_flag=True, help="Run on a closed day too, or on another day with --day.")
@click.option(
    "--for",
    "seconds",
    type=SECONDS,
    default=900.0,
    show_default=True,
    help="The longest time in seconds; deliveries that are open then expire.",
)
@click.option("--dry-run", is_flag=True, help="Only count what would be sent: write no row, make no call.")
@as_json_option
@click.pass_context
def once(
    context: click.Context, moment: datetime | None, seconds: float, *, force: bool, dry_run: bool, as_json: bool
) -> None:
    """One run now, at any hour. Messages that were already sent are not sent again.

    Exits 0 if all is well or if nothing was left to do, 1 if something failed, 3 if the database is unreachable, 4 if
    the run was interrupted or another process is active: the next run resumes.

    \b
      notifierd once                             today's run, with a bar for offices, mails and pushes
      notifierd once --for 60 --json             at most a minute; the report as JSON
      notifierd once --force --day 2026-11-23    a holiday, as if it were today
      notifierd once --dry-run --day 2026-11-30  how much would be sent
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.once import Once, Options, failed_report

    options = Options(moment.date() if moment else None, force, seconds, dry_run)
    one = Once(settings_of(context), options)

    async def watched() -> "RunReport":
        if not may_be_terminal():
            return await one.run()
        from rich.console import Console

        from notifierd.commands.run_display import live_progress

        async with live_progress(one.progress, Console(stderr=True)):
            return await one.run()

    try:
        report = run_async(watched)
    except (DatabaseError, LeaseHeld) as error:
        if as_json:
            report = failed_report(one.day, error)
            say_json(report.as_json())
        raise
    try:
        if as_json:
            say_json(report.as_json())
        else:
            from notifierd.cli.tables import out
            from notifierd.commands.run_display import print_report

            print_report(report, out())
    except BrokenPipeError:  # nobody reads stdout; the exit code still tells the result
        abandon_stdout()
    sys.exit(report.exit_code)


@cli.command()
@click.option("--day", "moment", type=DAY, metavar="D", help="Any day; default: today.")
@click.option(
    "--explain",
    "staff_id",
    type=click.UUID,
    metavar="STAFF_ID",
    help="Say why this staff member is notified, or is not.",
)
@as_json_option
@click.pass_context
def plan(context: click.Context, moment: datetime | None, staff_id: UUID | None, *, as_json: bool) -> None:
    """Show what a run would send now, or why it notifies one person.

    Lists the offices, the most urgent first, without the messages that were already sent. With --explain: says for each
    alert and channel whether the staff member is notified, and why. Writes nothing and sends nothing.

    \b
      notifierd plan                            today
      notifierd plan --day 2026-11-24 --json    that day, as JSON
      notifierd plan --explain 3f0e9d3e-...     why somebody is notified, or is not
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands import plan as plans

    settings = settings_of(context)
    day = day_of(moment, settings)
    if staff_id:
        explanation = run_async(partial(plans.explain, settings, day, staff_id))
        if as_json:
            say_json(explanation.as_json())
        else:
            from notifierd.cli.tables import out, print_explanation

            print_explanation(explanation, out())
    else:
        found = run_async(partial(plans.plan, settings, day))
        if as_json:
            say_json(found.as_json())
        else:
            from notifierd.cli.tables import out, print_plan

            print_plan(found, out())


@cli.command()
@click.option("--day", "moment", type=DAY, metavar="D", help="Any day; default: today.")
@click.option("--office", "office_id", type=click.UUID, metavar="ID", help="Only the messages of this office.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The folder to write to.",
)
@click.pass_context
def preview(context: click.Context, moment: datetime | None, office_id: UUID | None, out: Path) -> None:
    """Render the messages of the plan into a folder, for a browser.

    Open its index.html. Nothing is sent, and no row is written. DIR is created for you alone, because its files
    name people. An existing DIR must be empty, or an earlier preview, which is replaced. Exits 1 if an office's
    messages cannot be rendered.

    \b
      notifierd preview --out /tmp/preview
      notifierd preview --day 2026-11-24 --office 18072e8c-... --out /tmp/preview
    """  # noqa: D301
    from rich.console import Console

    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.preview import Wanted
    from notifierd.commands.preview import preview as render
    from notifierd.model.counts import counted
    from notifierd.service.site import utc_now

    settings = settings_of(context)
    wanted = Wanted(day_of(moment, settings), out, office_id)
    made = run_async(partial(render, settings, wanted, utc_now(), Console(stderr=True)))
    messages = counted(made.messages, "message")
    say(f"{messages} to the staff of {counted(len(made.offices), 'office')}: {out / 'index.html'}")
    complain(*(f"office {office.id}: its messages cannot be rendered ({office.error})" for office in made.poisoned))
    sys.exit(EXIT_TROUBLE if made.poisoned else EXIT_OK)


@cli.command()
@as_json_option
@click.pass_context
def status(context: click.Context, *, as_json: bool) -> None:
    """The last run, what is open, and the next window.

    If a run is in progress, the active process is shown, too. Exits 3 if the database is unreachable; the next window
    is shown even then.

    \b
      notifierd status
      notifierd status --json | jq .last_run.untold
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.status import status_report
    from notifierd.service.site import utc_now

    settings = settings_of(context)
    found = run_async(partial(status_report, settings, utc_now()))
    if as_json:
        say_json(found.as_json())
    else:
        from notifierd.cli.tables import out, print_status

        print_status(found, settings.window.zone, out())
    if found.database:
        raise LedgerUnavailable(found.database)


@cli.command()
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, metavar="N", help="How many days.")
@as_json_option
@click.pass_context
def history(context: click.Context, days: int, *, as_json: bool) -> None:
    """The past days, one line each.

    The newest day comes first. Each line has the day's result, what was sent, how many deliveries were lost, how many
    alerts reached nobody, and how many mails came back after they were accepted.

    \b
      notifierd history --days 7
      notifierd history --json | jq '.[] | select(.untold.overdue > 0) | .day'
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.status import history as look_back
    from notifierd.service.site import utc_now

    settings = settings_of(context)
    found = run_async(partial(look_back, settings, utc_now(), days))
    if as_json:
        say_json([day.as_json() for day in found])
    else:
        from notifierd.cli.tables import out, print_history

        print_history(found, settings.window.zone, out())


@cli.command()
@click.option("--failed", is_flag=True, help="Deliveries that failed.")
@click.option(
    "--unknown",
    is_flag=True,
    help="Deliveries whose answer was lost; without idempotency keys the message may arrive twice.",
)
@click.option("--expired", is_flag=True, help="Deliveries that were not sent before the window ended.")
@as_json_option
@click.pass_context
def retry(context: click.Context, *, failed: bool, unknown: bool, expired: bool, as_json: bool) -> None:
    """Plan today's failed, unknown or expired deliveries again.

    A run in progress sends them, or the daemon while the window is open, or `once`. Deliveries of other days are
    not planned again: today's plan has what is still due.

    \b
      notifierd retry --failed --expired   after the provider has recovered
      notifierd once                       send them now
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.retry import retry as plan_again
    from notifierd.model.counts import counted
    from notifierd.model.delivery import Channel, State
    from notifierd.service.site import utc_now

    wanted = {State.FAILED: failed, State.UNKNOWN: unknown, State.EXPIRED: expired}
    states = [state for state, is_wanted in wanted.items() if is_wanted]
    if not states:
        raise click.UsageError("name at least one of --failed, --unknown and --expired")
    done = run_async(partial(plan_again, settings_of(context), states, utc_now()))
    if as_json:
        say_json(done.as_json())
    elif done.reason:
        say(f"nothing is planned again: {done.reason} ({done.advice})")
    else:
        again = done.again
        say(
            f"{done.day}: {Channel.EMAIL.counted(again.email)} and {Channel.PUSH.counted(again.push)} of "
            f"{counted(again.offices, 'office')} planned again",
            done.advice,
        )


for command in (
    feedback.feedback,
    feedback.lift,
    setup.check,
    setup.trial,
    setup.db,
    setup.vapid,
    setup.demo,
    setup.completion,
):
    cli.add_command(command)
