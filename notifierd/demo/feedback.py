"""What became of the demo's mails: some are lost after the mail API accepted them, and notifierd asks it afterwards."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

from notifierd.config.load import load
from notifierd.demo.sample import Sample
from notifierd.model.feedback import MailStatus
from notifierd.rules.due import Rules
from notifierd.send._http import open_client
from notifierd.send.feedback import Look
from notifierd.send.feedback.resend import ResendFeedback
from notifierd.service.site import open_site, utc_now
from notifierd.store.feedback import Asked, FeedbackDay

PROVIDER = "resend"
LOST = (MailStatus.BOUNCED, MailStatus.SUPPRESSED, MailStatus.COMPLAINED)
"""What becomes of one mail each; all others are delivered."""


def became(sample: Sample) -> Mapping[str, MailStatus]:
    """Return what becomes of the mails to some addresses, each of which gets one mail that the provider accepts."""
    mails = [mail for mail in sample.expected().mails if mail.office_id != sample.poisoned_office]
    number = Counter(mail.address for mail in mails)
    once = [
        each for each, n in number.items() if n == 1 and each not in {sample.rejected_address, sample.deferred_address}
    ]
    return dict(zip(once, LOST, strict=False))


async def ask_afterwards(config: Path, sample: Sample) -> FeedbackDay | None:
    """Ask the mail API what became of the day's mails; return what the ledger has then, None if there were no mails.

    The local API has no rate limit, so nothing is paused between two requests.
    """
    settings = load(config, {})
    async with open_site(settings) as site, open_client(width=1, network=settings.network) as client:
        reader = ResendFeedback(client, settings.email.resend, now=utc_now, pace=0.0)
        asked = (await site.feedback.sent([sample.day])).by_provider.get(PROVIDER, Asked())
        now = utc_now()
        look = Look(now - timedelta(days=1), now, asked.sent, asked.unknown)
        looked = await reader.look(look, partial(site.feedback.keep, PROVIDER))
        await site.feedback.note_look(PROVIDER, None if looked.incomplete else now, looked.incomplete)
        await site.feedback.hold_again(sample.day)
        await site.feedback.recount(sample.day, Rules.of(settings))
        return next(iter(await site.feedback.days(sample.day, 1)), None)


def surprises(mails: int, found: FeedbackDay | None) -> tuple[str, ...]:
    """Return a line for each number that is not as it should be; *mails* is how many the mail API accepted."""
    wanted = {MailStatus.DELIVERED: mails - len(LOST), **dict.fromkeys(LOST, 1)}
    is_ = {status: getattr(found, status) if found else 0 for status in MailStatus}
    should = {status: wanted.get(status, 0) for status in MailStatus}
    return tuple(f"mails {one}: {is_[one]} and not {should[one]}" for one in MailStatus if is_[one] != should[one])
