"""``notifierd check``: check whether a run can succeed. Sends no message and writes nothing."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio

from notifierd.commands.check_database import look_at_database
from notifierd.commands.check_server import EXPIRES_SOON
from notifierd.commands.finding import Finding, Level
from notifierd.commands.providers.connect import look_at_providers
from notifierd.config.checks import is_loopback
from notifierd.config.load import missing_for_sending
from notifierd.config.network import ENVIRONMENT, proxy_variable, read_route
from notifierd.config.placeholders import placeholders
from notifierd.config.providers import endpoint
from notifierd.config.settings import HttpSettings, NetworkSettings, Settings, WatchSettings
from notifierd.model.errors import ConfigError
from notifierd.send.feedback.open import is_set_up, keys_of_reader
from notifierd.send.open import open_email
from notifierd.send.route.trust import system_store
from notifierd.send.vapid import Vapid
from notifierd.send.webhooks import mismatch

PAGE_SECONDS: Final = 3.0


async def check(settings: Settings, *, connect: bool = False) -> list[Finding]:
    """Check everything that a run needs: *settings* first, with *connect* the providers, then the database."""
    findings = [*_config(settings), *_safety(settings), *_vapid(settings), *await _providers(settings)]
    findings += [*_watch(settings.watch), _proxy(settings.network), *_certificates(settings.network.ca_file, _now())]
    findings.append(await _page(settings.http))
    if connect:
        findings += await look_at_providers(settings)
    return [*findings, *await look_at_database(settings)]


def _config(settings: Settings) -> list[Finding]:
    findings = [Finding("config", Level.BAD, line) for line in missing_for_sending(settings)]
    findings += [
        Finding(found.key, Level.BAD if found.stops else Level.WARN, f"{found.why}: set your own")
        for found in placeholders(settings)
    ]
    if all(finding.ok for finding in findings):
        findings.insert(0, Finding("config", Level.OK, "has everything that sending needs"))
    return findings


async def _page(http: HttpSettings) -> Finding:
    """Check whether the page can be served. While the daemon runs, it occupies the port itself."""
    if not http.enabled:
        return Finding("http", Level.OK, "switched off")
    host, port = http.address
    try:
        for listener in await trio.open_tcp_listeners(port, host=host):
            await listener.aclose()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and await _is_notifierd(host, port):
            return Finding("http.bind", Level.OK, f"a daemon serves its page at {http.bind}")
        why = errno.errorcode.get(error.errno or 0, "no such address")
        return Finding(
            "http.bind", Level.WARN, f"the page cannot be served at {http.bind} ({why}); runs are not affected"
        )
    return Finding("http.bind", Level.OK, f"the page can be served at {http.bind}")


async def _is_notifierd(host: str, port: int) -> bool:
    answer = b""
    with trio.move_on_after(PAGE_SECONDS), suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
            async for part in stream:
                answer += part
    return b"\r\nserver: notifierd\r\n" in answer.lower()


def _safety(settings: Settings) -> Iterator[Finding]:
    if settings.safety.redirect_to:
        yield Finding("safety.redirect_to", Level.WARN, "all mail goes to one address")
    if settings.push.enabled and settings.push.allow_private_addresses:
        yield Finding("push.allow_private_addresses", Level.WARN, "pushes may go to private addresses, and over http")


def _vapid(settings: Settings) -> Iterator[Finding]:
    if not settings.push.enabled:
        yield Finding("push", Level.OK, "switched off")
    elif settings.push.vapid_private_key:
        public = Vapid(settings.push.vapid_private_key, settings.push_subject).public_key
        yield Finding("push.vapid_private_key", Level.OK, f"browsers must subscribe with its public key {public}")


def _watch(watch: WatchSettings) -> Iterator[Finding]:
    """Report who is notified of runs. The URLs are secrets, so only their host is shown."""
    for key, url in (("webhook_url", watch.webhook_url), ("ping_url", watch.ping_url)):
        where = f"is at {urlsplit(url).hostname}" + (", unencrypted" if _is_open(url) else "") if url else "not set"
        yield Finding(f"watch.{key}", Level.WARN if _is_open(url) else Level.OK, where)
    if wrong := mismatch(watch):
        yield Finding("watch.format", Level.WARN, f"{urlsplit(watch.webhook_url).hostname} {wrong}")


def _proxy(network: NetworkSettings) -> Finding:
    """Report which way calls go. The proxy's user and password are secrets."""
    route = read_route(network.proxy, network.no_proxy, os.environ)
    if route.proxy:
        named = f" (from {route.origin})" if network.proxy == ENVIRONMENT else ""
        user = "with a user and a password" if route.proxy.authorization else "without a user"
        text = f"calls go through {route.proxy}{named}, {user}"
    elif (unused := proxy_variable(os.environ)) and not network.proxy:
        text = f'calls are made directly, although {unused} is set ("{ENVIRONMENT}" would honour it)'
    else:
        text = "calls are made directly"
    return Finding("network.proxy", Level.OK, text)


def _certificates(ca_file: str, now: datetime) -> Iterator[Finding]:
    """Report which certificates are trusted, and when the ones in *ca_file* expire."""
    subject = "network.ca_file"
    if store := system_store():
        yield Finding(subject, Level.OK, f"the certificates of {store} are trusted" + " as well" * bool(ca_file))
    else:
        text = "this system has no certificates, so those of the Python package certifi are trusted"
        yield Finding(subject, Level.WARN, f"{text}: install the package ca-certificates")
    if ca_file:
        from cryptography import x509  # noqa: PLC0415 - many checks need no certificate

        try:
            own = x509.load_pem_x509_certificates(Path(ca_file).read_bytes())
        except (OSError, ValueError):
            yield Finding(subject, Level.WARN, f"when the certificates in {ca_file} expire could not be read")
            return
        until = min(each.not_valid_after_utc for each in own)
        if until - now < EXPIRES_SOON:
            ends = "expired" if until <= now else "expires"
            yield Finding(subject, Level.WARN, f"a certificate in {ca_file} {ends} on {until:%Y-%m-%d}: replace it")
        else:
            text = f"{len(own)} certificates in {ca_file} are trusted; the first one expires on {until:%Y-%m-%d}"
            yield Finding(subject, Level.OK, text)


async def _providers(settings: Settings) -> list[Finding]:
    email = settings.email
    findings = []
    for name in email.providers:
        subject = f"email.{name}"
        if any(line.startswith(f"{subject}.") for line in missing_for_sending(settings)):
            continue  # reported already
        try:
            async with open_email(name, settings, now=_now):
                pass
        except ConfigError as error:
            findings += [Finding(subject, Level.BAD, line) for line in error.problems]
            continue
        table = getattr(email, name)
        url = endpoint(table)
        if _is_open(url):
            findings.append(Finding(subject, Level.WARN, f"the key and all mails go to {url} unencrypted"))
        else:
            findings.append(Finding(subject, Level.OK, f"sends through {url}"))
        if not is_set_up(name, settings):
            keys = " or ".join(f"{subject}.{key}" for key in keys_of_reader(name))
            how = f"; {keys} would have it asked" if keys else ", because SMTP has no way to ask"
            text = f"is not asked what became of mails{how}"
            findings.append(Finding(f"{subject}.feedback", Level.OK, text))
    return findings


def _is_open(url: str) -> bool:
    """Return whether others on the way can read what is sent to *url*."""
    return urlsplit(url).scheme == "http" and not is_loopback(urlsplit(url).hostname or "")


def _now() -> datetime:
    return datetime.now(UTC)
