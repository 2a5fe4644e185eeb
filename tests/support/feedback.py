"""What the tests of the readers share: a provider's API on loopback, and a place for verdicts."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import trio
from attrs import define, field, frozen

from notifierd.config.providers import PostmarkSettings, ResendSettings, SesSettings
from notifierd.demo.servers.feedback.fake import Fake
from notifierd.demo.servers.feedback.postmark import FakePostmark
from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.demo.servers.feedback.ses import QUEUE, FakeSes
from notifierd.demo.servers.http11 import Answer, Request, serve_connection
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.send._http import Client, open_client
from notifierd.send.feedback import FeedbackReader, Look, Looked
from notifierd.send.feedback.postmark import PostmarkFeedback
from notifierd.send.feedback.resend import ResendFeedback
from notifierd.send.feedback.ses import SesFeedback
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
}


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


async def looked_at(provider: Provider, fake: Fake, look: Look, kept: Kept) -> Looked:
    """Look once, by a reader of its own."""
    async with reading(provider, fake) as reader:
        return await reader.look(look, kept.keep)


Respond = Callable[[httpx.Request], httpx.Response] | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


async def looked_through(provider: Provider, respond: Respond, look: Look, kept: Kept) -> Looked:
    """Look once, without a socket."""
    async with open_client(width=1, transport=httpx.MockTransport(respond)) as client:
        return await provider.make(client, "https://api.example").look(look, kept.keep)


def a_look(sent: Mapping[str, UUID], unknown: frozenset[UUID] = frozenset()) -> Look:
    return Look(SINCE, NOW, sent, unknown)
