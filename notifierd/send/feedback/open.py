"""Open the readers that the configuration sets up. Only the module of the provider is imported."""

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import MappingProxyType

from attrs import frozen

from notifierd.config.settings import Settings
from notifierd.model.feedback import MailStatus
from notifierd.send._http import open_client
from notifierd.send.feedback import FeedbackReader

READERS: Mapping[str, tuple[str, str, tuple[str, ...]]] = MappingProxyType(
    {
        "mailgun": ("notifierd.send.feedback.mailgun", "MailgunFeedback", ("feedback_key",)),
        "postmark": ("notifierd.send.feedback.postmark", "PostmarkFeedback", ("feedback_key", "server_token")),
        "resend": ("notifierd.send.feedback.resend", "ResendFeedback", ("feedback_key",)),
        "sendgrid": ("notifierd.send.feedback.sendgrid", "SendgridFeedback", ("feedback_key",)),
        "ses": ("notifierd.send.feedback.ses", "SesFeedback", ("feedback_queue", "feedback_insights")),
        "gmail": ("notifierd.send.feedback.gmail", "GmailFeedback", ("feedback",)),
    }
)
"""The module and class of each provider's reader, and the keys of its table of which one sets it up. The class takes a
client, that table, and ``now``."""


@frozen
class Reach:
    """How far back a provider is asked.

    Attributes:
        kept: for how long it keeps what it tells.
        days: for how many days before today mails are asked about.
        most: about how many mails at most, those of the newest days. 100,000 of them take 26 MB of memory.
    """

    kept: timedelta
    days: int
    most: int = 100_000


REACHES: Mapping[str, Reach] = MappingProxyType(
    {
        "mailgun": Reach(timedelta(days=3), 30),
        "postmark": Reach(timedelta(days=30), 30),
        "resend": Reach(timedelta(days=3), 4, 50_000),
        "sendgrid": Reach(timedelta(days=30), 30),
        "ses": Reach(timedelta(days=14), 30),
        "gmail": Reach(timedelta(days=14), 14),
    }
)
"""Complaints come up to a month after the mail, and an event of a mail that is not asked about is lost at Amazon SES,
since it is deleted from the queue. Mailgun keeps events for at least three days, and a queue keeps its messages for 14
days at most (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html). At
Resend each mail that is asked about costs a part of a page, and a final failure is known after four days."""

INSIGHTS_REACH = Reach(timedelta(days=4), 4)
"""Amazon SES with `feedback_insights`, where each mail costs a request."""


def reach_of(provider: str, settings: Settings) -> Reach:
    """Return how far back *provider* is asked."""
    return INSIGHTS_REACH if provider == "ses" and settings.email.ses.feedback_insights else REACHES[provider]


def is_set_up(provider: str, settings: Settings) -> bool:
    """Return whether the provider's table has a key of those that set its reader up."""
    table = getattr(settings.email, provider)
    return any(getattr(table, key) for key in keys_of_reader(provider))


def keys_of_reader(provider: str) -> tuple[str, ...]:
    """Return the keys of which one sets the provider's reader up; none for a provider that cannot be asked."""
    return READERS[provider][2] if provider in READERS else ()


@asynccontextmanager
async def open_feedback(
    provider: str, settings: Settings, *, now: Callable[[], datetime]
) -> AsyncIterator[FeedbackReader | None]:
    """Open the reader of *provider*; None if the provider's table does not set it up."""
    if not is_set_up(provider, settings):
        yield None
        return
    module, name, _ = READERS[provider]
    table = getattr(settings.email, provider)
    make = getattr(importlib.import_module(module), name)
    async with open_client(width=1, network=settings.network) as client:
        reader: FeedbackReader = make(client, table, now=now)
        yield reader


def told_by(provider: str) -> AbstractSet[MailStatus]:
    """Return the statuses that *provider* can report at all; none for a provider that cannot be asked."""
    if provider not in READERS:
        return frozenset()
    module, name, _ = READERS[provider]
    tells: AbstractSet[MailStatus] = getattr(importlib.import_module(module), name).tells
    return tells
