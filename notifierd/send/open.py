"""Open the senders that the configuration names. Only the chosen provider's module is imported."""

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any

from notifierd.config.settings import Settings
from notifierd.model.counts import Capacity
from notifierd.model.errors import ConfigError
from notifierd.model.message import Mail, Push
from notifierd.send import Sender
from notifierd.send._http import open_client
from notifierd.send.webpush import WebPush

PROVIDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "mailgun": ("notifierd.send.mail.mailgun", "Mailgun"),
        "postmark": ("notifierd.send.mail.postmark", "Postmark"),
        "resend": ("notifierd.send.mail.resend", "Resend"),
        "sendgrid": ("notifierd.send.mail.sendgrid", "Sendgrid"),
        "ses": ("notifierd.send.mail.ses", "Ses"),
        "gmail": ("notifierd.send.mail.gmail", "Gmail"),
        "smtp": ("notifierd.send.smtp.sender", "Smtp"),
    }
)
"""The module and class of each provider. The class takes a client, its own table of the settings, and ``now``; that of
smtp, which is not called over HTTP, is opened by its own module."""

EMAIL_WIDTH, PUSH_WIDTH = 100, 500
"""Connections that a client keeps: the highest values that limits.email and limits.push can be set to by a reload."""


def honouring_keys() -> list[str]:
    """Return the names of the providers that honour idempotency keys."""
    return [name for name in PROVIDERS if _class(name).honours_keys]


def mail_capacity(settings: Settings, seconds: float) -> Capacity:
    """Return how many mails the limits allow in a day that runs for *seconds*, through the preferred provider."""
    batch: int = _class(settings.email.provider).max_batch
    limits = settings.limits
    return Capacity.of(seconds, per_day=limits.email_per_day, per_second=limits.email_per_second, batch=batch)


@asynccontextmanager
async def open_email(provider: str, settings: Settings, *, now: Callable[[], datetime]) -> AsyncIterator[Sender[Mail]]:
    """Open the mail sender of *provider*.

    Raises:
        ConfigError: the provider's table is not sufficient, or [network] cannot be used.
    """
    if provider == "smtp":
        from notifierd.send.smtp.sender import open_smtp  # noqa: PLC0415 - only the chosen provider's module is imported

        async with open_smtp(settings, now=now) as smtp:
            yield smtp
        return
    make = _class(provider)
    async with open_client(width=EMAIL_WIDTH, network=settings.network) as client:
        sender: Sender[Mail] = make(client, getattr(settings.email, provider), now=now)
        yield sender


def _class(provider: str) -> Any:  # noqa: ANN401 - each takes its own table
    module, name = PROVIDERS[provider]
    return getattr(importlib.import_module(module), name)


@asynccontextmanager
async def open_push(settings: Settings, *, now: Callable[[], datetime]) -> AsyncIterator[Sender[Push]]:
    """Open the push sender.

    Raises:
        ConfigError: ``push.vapid_private_key`` is missing, or [network] cannot be used.
    """
    if not settings.push.vapid_private_key:
        raise ConfigError(("push.vapid_private_key: required for push (`notifierd vapid` makes one)",))
    public_only = not settings.push.allow_private_addresses
    async with open_client(width=PUSH_WIDTH, network=settings.network, public_only=public_only) as client:
        yield WebPush(client, settings.push, subject=settings.push_subject, now=now)
