"""The commands about mails after a provider accepted them."""

import sys
from functools import partial
from uuid import UUID

import click

from notifierd.cli.terminal import as_json_option, say, say_json
from notifierd.rules.exits import EXIT_OK, EXIT_TROUBLE


@click.command()
@click.option("--now", "ask", is_flag=True, help="Ask the providers first, as the daemon does every hour.")
@click.option("--days", type=click.IntRange(1, 400), default=7, show_default=True, metavar="N", help="How many days.")
@as_json_option
@click.pass_context
def feedback(context: click.Context, days: int, *, ask: bool, as_json: bool) -> None:
    """What became of the mails after the providers accepted them.

    Shows until when each provider was asked, what became of each day's mails, and whose mails are held back. "Not
    known" counts the mails of which the provider has told nothing. Exits 1 if --now could not read every answer, 4 if a
    run is under way or another process is asking.

    \b
      notifierd feedback
      notifierd feedback --now --days 2
      notifierd feedback --json | jq '.held[].staff_id'
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.providers.feedback import feedback_report
    from notifierd.service.site import utc_now

    settings = settings_of(context)
    report = run_async(partial(feedback_report, settings, utc_now(), days, ask=ask))
    if as_json:
        say_json(report.as_json())
    else:
        from notifierd.cli.tables import out
        from notifierd.commands.display.feedback import print_feedback

        print_feedback(report, settings.window.zone, out())
    sys.exit(EXIT_TROUBLE if any(looked.incomplete for looked in report.asked.values()) else EXIT_OK)


@click.command()
@click.argument("staff_id", type=click.UUID)
@click.pass_context
def lift(context: click.Context, staff_id: UUID) -> None:
    """Stop holding back the mails of a staff member.

    Mails are held back for 30 days after the staff member reported one as spam, or after the provider's suppression
    list dropped them on two days in a row. What was reported before this command counts no more. The provider keeps a
    list of its own: the output says what to do there.

    \b
      notifierd lift 3f0e9d3e-...
    """  # noqa: D301
    from notifierd.cli.work import run_async, settings_of
    from notifierd.commands.providers.feedback import lift as stop_holding

    done = run_async(partial(stop_holding, settings_of(context), staff_id))
    if done.was_held:
        say(f"mails to {done.staff_id} are not held back any more; the next run sends them")
    else:
        say(f"no mails to {done.staff_id} are held back")
    say("so that the provider sends to the address again:", *(f"  {line}" for line in done.advice))
