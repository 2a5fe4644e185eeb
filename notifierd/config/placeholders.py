"""Recognize values that were copied from an example and never replaced: keys, passwords, and domains nobody owns."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import attrs
from attrs import frozen

from notifierd.config.checks import is_loopback
from notifierd.config.dsn import read_dsn
from notifierd.config.keys import key_of
from notifierd.config.providers import endpoint
from notifierd.config.settings import Settings

_SECRET: Final = re.compile(
    r"([a-z]{0,4}[_.:-])?"
    r"(x{3,}|\.{3,}|…|\*{3,}|(change|replace)[-_ ]?(me|this)|placeholder"
    r"|(your|my)[-_ ]?([a-z]+[-_ ])*(key|token|secret|password|domain|id)([-_ ]here)?)"
    r"|<[^>]*>|\$\{.*\}|\{\{.*\}\}"
    r"|[a-z0-9/+]*example(key)?",  # https://docs.aws.amazon.com/IAM/latest/UserGuide/security-creds.html
    re.IGNORECASE,
)
"""Placeholders of this manual and of the providers' pages, and variables that a template did not replace."""

_DOMAIN: Final = re.compile(
    r"(.*\.)?(test|example|invalid|localhost"  # RFC 2606, section 2; RFC 6761, section 6
    r"|example\.(com|net|org)"  # RFC 2606, section 3
    r"|example\.((ac|ad|co|ed|go|gr|lg|ne|or)\.)?jp)\.?",  # https://jprs.jp/info/document/reserved.html
    re.IGNORECASE,
)


@frozen
class Placeholder:
    """A key whose value is a placeholder.

    Attributes:
        stops: whether nothing can be sent with it.
    """

    key: str
    why: str
    stops: bool


def placeholders(settings: Settings) -> Iterator[Placeholder]:
    """Yield the keys that still have an example's value. Those of a provider on a stand-in's URL may be anything."""
    email = settings.email
    in_use = [name for name in email.providers if not _is_stand_in(_endpoint(settings, name))]
    for provider in in_use:
        table = getattr(email, provider)
        for field in attrs.fields(type(table)):
            about, value = key_of(field), getattr(table, field.name)
            if about.required and (_SECRET.fullmatch(value) or (not about.secret and _is_documentation(value))):
                yield Placeholder(f"email.{provider}.{field.name}", "is the placeholder of an example", stops=True)
    smtp = email.smtp.host if "smtp" in email.providers else ""
    if _is_documentation(smtp) and not is_loopback(smtp):
        yield Placeholder("email.smtp.host", "is the placeholder of an example", stops=True)
    addresses = {
        "email.sender": email.sender if in_use else "",
        "email.reply_to": email.reply_to if in_use else "",
        "email.list_unsubscribe": email.list_unsubscribe,
        "content.dashboard_url": settings.content.dashboard_url,
        "safety.redirect_to": settings.safety.redirect_to,
        "watch.webhook_url": settings.watch.webhook_url,
        "watch.ping_url": settings.watch.ping_url,
    }
    for key, value in addresses.items():
        if _is_documentation(value):
            yield Placeholder(key, "is in a domain that is reserved for examples", stops=key == "email.sender")
    password = read_dsn(settings.database.dsn, {}).password
    if password and _SECRET.fullmatch(password):
        yield Placeholder("database.dsn", "has the password of an example", stops=False)


def _endpoint(settings: Settings, provider: str) -> str:
    return endpoint(getattr(settings.email, provider))


def _is_stand_in(url: str) -> bool:
    """Return whether *url* leads to a program of one's own in place of a provider.

    A mail server at a private address or name may well be the one that sends an organization's mails.
    """
    parts = urlsplit(url)
    host, is_http = parts.hostname or "", parts.scheme.startswith("http")
    if is_loopback(host) or _DOMAIN.fullmatch(host):
        return True
    try:
        return is_http and ipaddress.ip_address(host).is_private
    except ValueError:
        return is_http and "." not in host


def _is_documentation(text: str) -> bool:
    """Return whether a domain, an address, a mailbox or a URL belongs to nobody."""
    if re.match(r"https?://", text):
        return _DOMAIN.fullmatch(urlsplit(text).hostname or "") is not None
    return _DOMAIN.fullmatch(text.partition("?")[0].rpartition("@")[2].rstrip("> ")) is not None
