"""``notifierd feedback`` and ``notifierd lift``: what became of mails, and whose mails are held back."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from attrs import field, frozen

from notifierd.config.settings import Settings
from notifierd.model.errors import ConfigError, LeaseHeld, unwrap_groups
from notifierd.rules.calendar import Calendar
from notifierd.send.feedback import Looked
from notifierd.send.feedback.open import is_set_up, keys_of_reader, open_feedback
from notifierd.service.feedback.effects import Effects
from notifierd.service.feedback.look import ask_all, hold_look_lease, providers_set_up
from notifierd.service.feedback.schedule import runs_to_ask
from notifierd.service.site import PostgresSite, holder_name, open_site, utc_now
from notifierd.store.feedback import FeedbackDay, Held, LookState

AT_THE_PROVIDER: Mapping[str, str] = MappingProxyType(
    {
        # https://resend.com/docs/dashboard/emails/email-suppressions
        "resend": "remove the address from the team's suppression list, which counts for all of its domains",
        # https://www.twilio.com/docs/sendgrid/api-reference/bounces-api and the pages beside it
        "sendgrid": "remove the address under Suppressions from bounces, blocks, spam reports and invalid addresses",
        # https://postmarkapp.com/support/article/1065
        "postmark": "reactivate the address under Suppressions of the message stream; after a spam complaint, only "
        "Postmark's support can do that",
        # https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-suppressions
        "mailgun": "remove the address under Suppressions of the domain from bounces, complaints and unsubscribes; the "
        "domain's allowlist keeps it off the list of bounces for good",
        # https://docs.aws.amazon.com/ses/latest/dg/sending-email-suppression-list.html
        "ses": "`aws sesv2 delete-suppressed-destination --email-address ADDRESS` removes the address from the "
        "account's suppression list; the global list forgets it within 14 days",
        "gmail": "there is no suppression list",
        "smtp": "ask who runs the mail server whether it holds back mails to the address",
    }
)
"""What to do at each provider, so that it sends to an address again."""


@frozen
class FeedbackReport:
    """What providers reported.

    Attributes:
        asked: how the look went that was just made, by provider; empty if none was.
        not_set_up: the providers in use that cannot be asked, with the keys of which one would change that.
    """

    looks: tuple[LookState, ...]
    days: tuple[FeedbackDay, ...]
    held: tuple[Held, ...]
    asked: Mapping[str, Looked] = field(factory=dict)
    not_set_up: Mapping[str, tuple[str, ...]] = field(factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        return {
            "looks": [look.as_json() for look in self.looks],
            "days": [day.as_json() for day in self.days],
            "held": [held.as_json() for held in self.held],
        }


async def feedback_report(settings: Settings, now: datetime, days: int, *, ask: bool) -> FeedbackReport:
    """Return what became of the mails of the last *days* runs; if *ask*, ask the providers first.

    Raises:
        LeaseHeld: with *ask*, another process asks, or a run is under way.
        ConfigError, SchemaMissing: see `open_site`.
        LedgerUnavailable, StatementRefused: the database did not answer, or refused a statement.
    """
    with unwrap_groups():
        async with open_site(settings, read_only=not ask) as site:
            asked = await _ask(site, settings, now) if ask else {}
            today = Calendar(settings.window).today(now)
            feedback = site.feedback
            return FeedbackReport(
                await feedback.looks(),
                await feedback.days(today, days),
                await feedback.held(today),
                asked,
                _lacking(settings),
            )


async def _ask(site: PostgresSite, settings: Settings, now: datetime) -> Mapping[str, Looked]:
    """Look once, and act upon it; the daemon raises the alarms at its next look."""
    if not providers_set_up(settings):
        raise ConfigError(("no provider can be asked: set email.PROVIDER.feedback_key",))
    runs = await runs_to_ask(site.feedback, settings, now)
    if any(run.running for run in runs):
        raise LeaseHeld("a run that is under way")
    asked: Mapping[str, Looked] | None = None
    async with hold_look_lease(site.feedback, holder_name(), lambda: False) as is_ours:
        if not is_ours:
            raise LeaseHeld("another process, which is asking the providers")
        asked = await ask_all(site.feedback, settings, runs, open_feedback, utc_now) if runs else {}
        if runs:
            await Effects().apply(site.feedback, settings, runs, asked, utc_now())
    if asked is None:  # cut off
        raise LeaseHeld("a run that has begun")
    return asked


def _lacking(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the providers in use that cannot be asked, with the keys of which one would change that."""
    return {
        name: tuple(f"email.{name}.{key}" for key in keys_of_reader(name))
        for name in settings.email.providers
        if not is_set_up(name, settings)
    }


@frozen
class Lifted:
    """The result of ``lift``.

    Attributes:
        was_held: whether mails to the staff member were held back.
        advice: what to do at each provider in use.
    """

    staff_id: UUID
    was_held: bool
    advice: tuple[str, ...]


async def lift(settings: Settings, staff_id: UUID) -> Lifted:
    """Stop holding back mails to a staff member.

    Raises:
        ConfigError, SchemaMissing: see `open_site`.
        LedgerUnavailable, StatementRefused: the database did not answer, or refused a statement.
    """
    async with open_site(settings) as site:
        was_held = await site.feedback.lift(staff_id)
    advice = tuple(f"{name}: {AT_THE_PROVIDER[name]}" for name in settings.email.providers)
    return Lifted(staff_id, was_held, advice)
