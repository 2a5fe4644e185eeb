"""Open the readers that the configuration sets up. Only the module of the provider is imported."""

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType

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


@asynccontextmanager
async def open_feedback(
    provider: str, settings: Settings, *, now: Callable[[], datetime]
) -> AsyncIterator[FeedbackReader | None]:
    """Open the reader of *provider*; None if the provider's table does not set it up."""
    module, name, keys = READERS[provider]
    table = getattr(settings.email, provider)
    if not any(getattr(table, key) for key in keys):
        yield None
        return
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
