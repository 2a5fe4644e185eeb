"""Opening the senders that the configuration names. A provider's module is imported only if it is the chosen one."""

import importlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from types import MappingProxyType
from typing import Any

from notifierd.config.settings import Settings
from notifierd.model.counts import Room
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
    }
)
"""The module and class of each provider: a class takes a client, its own table of the settings, and ``now``."""

EMAIL_WIDTH, PUSH_WIDTH = 100, 500
"""Connections that a client keeps: the highest that limits.email and limits.push may be set to while it is open."""


def honouring_keys() -> list[str]:
    """Return the names of the providers that carry a call out once for its idempotency key."""
    return [name for name in PROVIDERS if _class(name).honours_keys]


def room_for_mails(settings: Settings, seconds: float) -> Room:
    """What the limits leave a day for mails that is run in *seconds*, through the provider that is preferred."""
    batch: int = _class(settings.email.provider).max_batch
    limits = settings.limits
    return Room.of(seconds, per_day=limits.email_per_day, per_second=limits.email_per_second, batch=batch)


@asynccontextmanager
async def open_email(provider: str, settings: Settings, *, now: Callable[[], datetime]) -> AsyncIterator[Sender[Mail]]:
    """Open the sender of mails through *provider*.

    Raises:
        ConfigError: it cannot be made of its table.
    """
    make = _class(provider)
    async with open_client(width=EMAIL_WIDTH) as client:
        sender: Sender[Mail] = make(client, getattr(settings.email, provider), now=now)
        yield sender


def _class(provider: str) -> Any:  # noqa: ANN401 - each takes a table of its own
    module, name = PROVIDERS[provider]
    return getattr(importlib.import_module(module), name)


def _import_pywebpush() -> None:
    with suppress(ImportError):  # which the first push will meet
        importlib.import_module("pywebpush")


@asynccontextmanager
async def open_push(settings: Settings, *, now: Callable[[], datetime]) -> AsyncIterator[Sender[Push]]:
    """Open the sender of pushes.

    Raises:
        ConfigError: ``push.vapid_private_key`` is missing.
    """
    # It brings requests and aiohttp, which takes 0.15 s: the day is planned meanwhile.
    threading.Thread(target=_import_pywebpush, name="import pywebpush").start()
    if not settings.push.vapid_private_key:
        raise ConfigError(("push.vapid_private_key: required for push (`notifierd vapid` makes one)",))
    async with open_client(width=PUSH_WIDTH, public_only=not settings.push.allow_private_addresses) as client:
        yield WebPush(client, settings.push, subject=settings.push_subject, now=now)
