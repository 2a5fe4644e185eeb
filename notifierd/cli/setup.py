"""The commands that set notifierd up and check the set-up."""

import codecs
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import click

from notifierd.cli.terminal import as_json_option, complain, say, say_json
from notifierd.model.errors import ConfigError
from notifierd.rules.exits import EXIT_USAGE

if TYPE_CHECKING:
    from notifierd.store.database import Database
    from notifierd.store.migrations.versions import Migration
    from notifierd.store.rights import Narrowed

T = TypeVar("T")


@click.command()
@click.option("--connect", is_flag=True, help="Also call each provider once, to prove the key; no message is sent.")
@as_json_option
@click.pass_context
def check(context: click.Context, *, connect: bool, as_json: bool) -> None:
    """Check whether everything that a run needs is ready.

    One line for each check: good, or what to fix. Sends no message. Exits 0 if all is good, 2 if something has to be
    fixed, 3 if the database or, with --connect, a provider is unreachable.

    \b
      notifierd check
      notifierd check --connect                  before the first run, and after a change of a key
      notifierd check --json | jq -r '.[] | select(.level == "bad") | .subject'
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands import check as checks
    from notifierd.commands.finding import Finding, Level, exit_code
    from notifierd.config.sources import find_config, origin

    settings = settings_of(context)
    comes_from = origin(find_config(context.obj, Path.cwd(), os.environ), os.environ)
    checked = run_async(partial(checks.check, settings, connect=connect))
    findings = [Finding("config", Level.OK, comes_from), *checked]
    if as_json:
        say_json([{"subject": f.subject, "level": f.level.value, "text": f.text} for f in findings])
    else:
        from notifierd.cli.tables import out, print_findings

        print_findings(findings, out())
    sys.exit(exit_code(findings))


@click.command("test")
@click.option("--to", "address", metavar="ADDRESS", help="Send a mail to this address. Needs no database.")
@click.option("--staff", "staff_id", type=click.UUID, metavar="ID", help="Send it to this staff member.")
@click.option("--push", is_flag=True, help="With --staff: a push to each of their devices, instead of a mail.")
@click.pass_context
def trial(context: click.Context, address: str | None, staff_id: UUID | None, *, push: bool) -> None:
    """Send one message that says it is a trial, and show what the provider answered.

    The message has the layout of a real one, and alerts of invented people. Nothing is written into the ledger or the
    application, and nothing is tried again. [safety] applies. Exits 0 if the provider accepted the message, 1 if it did
    not, 3 if the provider or the database is unreachable.

    \b
      notifierd test --to me@example.jp
      notifierd test --staff 3f0e9d3e-...           to their mail address
      notifierd test --staff 3f0e9d3e-... --push    to their devices
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.providers.trial import try_address, try_staff

    if address is None and staff_id is not None:
        work = partial(try_staff, settings_of(context), staff_id, push=push)
    elif address is not None and staff_id is None:
        if push:
            raise click.UsageError("--push needs --staff")
        work = partial(try_address, settings_of(context), address)
    else:
        raise click.UsageError("give either --to or --staff")
    done = run_async(work)
    say(*done.notes, *(answer.line for answer in done.answers))
    sys.exit(done.exit_code)


@click.group()
def db() -> None:
    """Create, migrate and inspect the schema notifierd. `run` and `once` never need DDL."""


@db.command()
@click.option("--preset", metavar="NAME", help="Also create the five views, for this application (keikakun).")
@click.option("--dsn", metavar="ADMIN", help="Connect as a role that may create a schema; default: database.dsn.")
@click.option(
    "--role", metavar="NAME", help="Grant this role the privileges that `run` and `once` need, and no others."
)
@click.pass_context
def init(context: click.Context, preset: str | None, dsn: str | None, role: str | None) -> None:
    """Create the schema, and the views and grants that the options name.

    Run it again after an upgrade: it brings the views and grants up to date. With --role, it also limits how long a
    statement, a lock and an idle transaction of the role may last in this database, unless the role has privileges on
    other tables than notifierd's.

    \b
      createuser notifierd
      notifierd db init --preset keikakun --dsn postgresql://admin@/app --role notifierd
    """  # noqa: D301
    from notifierd.store import rights, schema

    async def work(db: "Database") -> list[str]:
        done = await schema.init(db, preset, role)
        return [*done, await rights.limit(db, role)] if role else done

    say(*with_database(context, dsn, work))


@db.command()
@click.option("--dsn", metavar="ADMIN", help="Connect as the schema's owner; default: database.dsn.")
@click.pass_context
def migrate(context: click.Context, dsn: str | None) -> None:
    """Bring the schema up to this program's version.

    It also revokes privileges that an earlier version granted to the daemon's role and that the role does not need. If
    it cannot revoke one, it prints the statement that does.

    \b
      notifierd db migrate --dsn postgresql://admin@/app    after an upgrade, while the daemon is stopped
    """  # noqa: D301
    from notifierd.store import rights, schema

    async def work(db: "Database") -> "tuple[tuple[Migration, ...], Narrowed]":
        return await schema.migrate(db), await rights.narrow(db)

    done, narrowed = with_database(context, dsn, work)
    say(*(f"{migration}: applied" for migration in done), *narrowed.taken)
    if not (done or narrowed.taken):
        say("up to date")
    complain(*narrowed.left)


@db.command("status")
@click.option("--dsn", metavar="DSN", help="Connect as this role; default: database.dsn.")
@click.pass_context
def db_status(context: click.Context, dsn: str | None) -> None:
    """Show the state of the schema, the views and the role's privileges.

    \b
      notifierd db status
      notifierd db status --dsn postgresql://notifierd@/app    as another role sees it
    """  # noqa: D301
    from notifierd.store import schema

    say(*with_database(context, dsn, schema.status).lines())


@db.command("views")
@click.option("--drop", "which", flag_value="drop", help="Print the script that drops the views.")
@click.option(
    "--create", "which", flag_value="create", help="Print the script that creates them again as they are now."
)
@click.option("--dsn", metavar="DSN", help="Connect with this DSN instead of database.dsn.")
@click.pass_context
def db_views(context: click.Context, which: str | None, dsn: str | None) -> None:
    """Print the SQL that drops the five views, or creates them again.

    Use the scripts if a migration of the application changes columns that the views use. Print both scripts before you
    run the first. This command changes nothing.

    \b
      notifierd db views --drop >off.sql; notifierd db views --create >on.sql
      psql -v ON_ERROR_STOP=1 -f off.sql "$ADMIN"    then migrate, then run on.sql
    """  # noqa: D301
    from notifierd.store import views

    if which is None:
        raise click.UsageError("give --drop or --create")
    script = views.drop_script if which == "drop" else views.create_script
    is_ascii = codecs.lookup(sys.stdout.encoding).name != "utf-8"
    click.echo(views.printable(with_database(context, dsn, script), is_ascii=is_ascii), nl=False)


def with_database(context: click.Context, dsn: str | None, work: Callable[["Database"], Awaitable[T]]) -> T:
    """Connect to *dsn*, or to the configured database, and run *work*.

    The connection is used as if a pooler were between: this works without one too, and *dsn* has no key that says so.
    """
    from notifierd.cli.work import run_async, settings_of
    from notifierd.config import checks
    from notifierd.store.database import open_database

    if dsn and (problem := checks.DSN.problem(dsn, secret=True)):
        raise ConfigError((f"--dsn: {problem}",))
    where = dsn if dsn is not None else settings_of(context).database.dsn

    async def connected() -> T:
        async with open_database(where, pool_size=1, pooler=True) as database:
            return await work(database)

    return run_async(connected)


@click.command()
def vapid() -> None:
    """Create a VAPID key pair (RFC 8292), and say where each key goes.

    \b
      notifierd vapid
      notifierd vapid | sed -n 's/^private: //p' > /etc/credstore/notifierd.push.vapid_private_key
    """  # noqa: D301
    from notifierd.send.vapid import make_vapid_key

    private, public = make_vapid_key()
    click.echo(f"private: {private}")
    click.echo(f"public:  {public}")
    click.echo(
        "\nThe private key is a secret: keep it in a file that only notifierd can read, and name that file\n"
        'as push.vapid_private_key_file (or pass it as the systemd credential "push.vapid_private_key").\n'
        "The public key goes into the application, as the applicationServerKey of PushManager.subscribe().\n"
        "Browsers bind each subscription to its key: a new pair ends all subscriptions of the old one.",
        err=True,
    )


@click.command()
@click.option("--offices", type=click.IntRange(5, 5000), default=50, show_default=True, help="How many offices.")
@click.option("--keep", is_flag=True, help="Keep the database, the servers and the page until Ctrl-C.")
@click.option("--trial", metavar="ADDRESS", help="Only print the SQL of an application with one office, for psql.")
def demo(offices: int, trial: str | None, *, keep: bool) -> None:
    """One full run on this machine, with no set-up.

    It starts its own PostgreSQL, mail API and push service, and injects some faults. Exits 0 if the result is exactly
    what these faults should cause. With --keep, it then serves the page, and opens it in your browser.

    With --trial, it starts nothing, and prints the SQL of a sample application, for a database of your own: one office,
    whose only member of staff has the address.

    \b
      notifierd demo
      notifierd demo --offices 500 --keep    look at the page, and try the other commands
      notifierd demo --trial me@example.jp | psql -q -d trial
    """  # noqa: D301
    if trial is not None:
        _print_trial(trial)
        return
    from notifierd.model.counts import counted

    say(f"notifierd demo: {counted(offices, 'office')}")  # before the imports, which take a second
    try:
        from notifierd.demo.show import show
    except ModuleNotFoundError as error:
        complain(f"the demo needs {error.name}: pip install 'notifierd[demo]'")
        sys.exit(EXIT_USAGE)
    sys.exit(show(offices, keep=keep))


def _print_trial(address: str) -> None:
    from notifierd.demo.trial import trial_sql
    from notifierd.model.address import BadAddress

    try:
        say(*trial_sql(address).splitlines())
    except BadAddress as error:
        complain(f"--trial: no mail can be sent to this address: {error}")
        sys.exit(EXIT_USAGE)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete commands with Tab.

    \b
      notifierd completion bash > /etc/bash_completion.d/notifierd
      notifierd completion zsh  > ~/.zfunc/_notifierd    (in a folder of your fpath)
      notifierd completion fish > ~/.config/fish/completions/notifierd.fish
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind, shell  # noqa: S101 - of the three that are offered
    click.echo(kind(context.find_root().command, {}, "notifierd", "_NOTIFIERD_COMPLETE").source())
