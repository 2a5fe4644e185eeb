"""What the tests of the readers share: providers' APIs, with or without a socket, and a place for verdicts."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from uuid import UUID

import httpx
import trio
from attrs import define, field, frozen

from notifierd.config.providers import (
    GmailSettings,
    MailgunSettings,
    PostmarkSettings,
    ResendSettings,
    SendgridSettings,
    SesSettings,
)
from notifierd.demo.servers.feedback.fake import Fake
from notifierd.demo.servers.feedback.postmark import FakePostmark
from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.demo.servers.feedback.ses import QUEUE, FakeSes
from notifierd.demo.servers.http11 import Answer, Request, serve_connection
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import Client, open_client
from notifierd.send.feedback import FeedbackReader, Look, Looked
from notifierd.send.feedback.gmail import GmailFeedback
from notifierd.send.feedback.mailgun import MailgunFeedback
from notifierd.send.feedback.postmark import PostmarkFeedback
from notifierd.send.feedback.resend import ResendFeedback
from notifierd.send.feedback.sendgrid import SendgridFeedback
from notifierd.send.feedback.ses import SesFeedback
from tests.support.feedback_servers.fake import transport
from tests.support.feedback_servers.gmail import FakeGmail
from tests.support.feedback_servers.mailgun import DOMAIN, FakeMailgun
from tests.support.feedback_servers.sendgrid import FakeSendgrid
from tests.support.google_api import ACCOUNT, account_json, gmail_settings
from tests.support.loopback import serving

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
SINCE = NOW - timedelta(days=3)


def postmark(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    return PostmarkFeedback(client, PostmarkSettings(server_token=key, base_url=url), now=lambda: NOW)


def resend(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    settings = ResendSettings(api_key="sending-key", feedback_key=key, base_url=url)
    return ResendFeedback(client, settings, now=lambda: NOW, pace=0)


def ses_settings(url: str, key: str = Fake.key) -> SesSettings:
    return SesSettings(
        access_key_id=key, secret_access_key="a-key-that-nobody-may-see", base_url=url, feedback_queue=url + QUEUE
    )


def ses_queue(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    return SesFeedback(client, ses_settings(url, key), now=lambda: NOW, pace=0)


def ses_insights(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    settings = SesSettings(
        access_key_id=key, secret_access_key="a-key-that-nobody-may-see", base_url=url, feedback_insights=True
    )
    return SesFeedback(client, settings, now=lambda: NOW, pace=0)


def mailgun(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    settings = MailgunSettings(api_key="sending-key", feedback_key=key, domain=DOMAIN, base_url=url)
    return MailgunFeedback(client, settings, now=lambda: NOW, pace=0)


def sendgrid(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    settings = SendgridSettings(api_key="sending-key", feedback_key=key, base_url=url)
    return SendgridFeedback(client, settings, now=lambda: NOW, pace=0)


def gmail(client: Client, url: str, key: str = Fake.key) -> FeedbackReader:
    return GmailFeedback(client, _gmail_settings(url, key), now=lambda: NOW, pace=0)


@cache
def _gmail_settings(url: str, key: str) -> GmailSettings:
    account = account_json(client_email=ACCOUNT if key == Fake.key else f"{key}@example.com")
    return gmail_settings(service_account=account, base_url=url, token_url=f"{url}/token", feedback=True)


@frozen
class Provider:
    """A provider's API, and how to make its reader with a client, the API's URL, and a key.

    Attributes:
        gives_codes: whether it tells the enhanced status code of a bounce.
    """

    fake: Callable[[], Fake]
    make: Callable[..., FeedbackReader]
    gives_codes: bool = True


PROVIDERS = {
    "postmark": Provider(FakePostmark, postmark),
    "resend": Provider(FakeResend, resend, gives_codes=False),
    "ses, queue": Provider(FakeSes, ses_queue),
    "ses, insights": Provider(FakeSes, ses_insights),
    "mailgun": Provider(FakeMailgun, mailgun),
    "sendgrid": Provider(FakeSendgrid, sendgrid),
    "gmail": Provider(FakeGmail, gmail),
}

LOG_ENDS = {
    "mailgun, whose last page names no next one": Provider(partial(FakeMailgun, last="none"), mailgun),
    "mailgun, whose last page names itself": Provider(partial(FakeMailgun, last="itself"), mailgun),
}
"""How Mailgun's logs end is not documented; its other lists end in each of these ways."""


@define
class Kept:
    """Verdicts as the ledger keeps them: of each mail, the gravest."""

    verdicts: dict[UUID, Verdict] = field(factory=dict)

    async def keep(self, verdicts: Sequence[Verdict]) -> None:
        assert verdicts
        await trio.lowlevel.checkpoint()
        for one in verdicts:
            known = self.verdicts.get(one.delivery_id)
            if known is None or one.status.severity > known.status.severity:
                self.verdicts[one.delivery_id] = one

    @property
    def statuses(self) -> dict[UUID, MailStatus]:
        return {one.delivery_id: one.status for one in self.verdicts.values()}


@asynccontextmanager
async def serving_fake(fake: Fake, seen: list[Request] | None = None) -> AsyncIterator[str]:
    """Serve *fake* on loopback, noting its requests in *seen*; yield its URL."""

    async def answer(request: Request) -> Answer | None:
        if seen is not None:
            seen.append(request)
        found = fake.handler(request.method, request.target, request.headers, request.body)
        return None if found is None else Answer(found[0], found[2], found[1])

    async def handle(stream: trio.SocketStream) -> None:
        await serve_connection(stream, answer)

    async with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def reading(
    provider: Provider, fake: Fake, key: str = Fake.key, seen: list[Request] | None = None
) -> AsyncIterator[FeedbackReader]:
    """Serve *fake*, and yield a reader that asks it with *key*."""
    async with serving_fake(fake, seen) as url, open_client(width=1) as client:
        yield provider.make(client, url, key)


@asynccontextmanager
async def reading_directly(
    provider: Provider, fake: Fake, key: str = Fake.key, *, torn: bool = False
) -> AsyncIterator[FeedbackReader]:
    """Yield a reader that asks *fake* with *key*, without a socket; for *torn* see `transport`."""
    async with open_client(width=1, transport=transport(fake, torn=torn)) as client:
        yield provider.make(client, "https://api.example", key)


async def looked_at(provider: Provider, fake: Fake, look: Look, kept: Kept) -> Looked:
    """Look once, by a reader of its own, without a socket."""
    async with reading_directly(provider, fake) as reader:
        return await reader.look(look, kept.keep)


Respond = Callable[[httpx.Request], httpx.Response] | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


async def looked_through(provider: Provider, respond: Respond, look: Look, kept: Kept) -> Looked:
    """Look once, without a socket."""
    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        return await provider.make(client, "https://api.example").look(look, kept.keep)


def a_look(sent: Mapping[str, UUID], unknown: frozenset[UUID] = frozenset()) -> Look:
    return Look(SINCE, NOW, sent, unknown)
