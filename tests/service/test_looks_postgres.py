"""A look with a real database, and with the API of a provider on loopback."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import trio
from attrs import evolve, frozen

from notifierd.config.providers import PostmarkSettings, ResendSettings, SesSettings
from notifierd.config.settings import DatabaseSettings, EmailSettings, Settings, WatchSettings
from notifierd.demo.postgres import Cluster
from notifierd.demo.servers.feedback.postmark import FakePostmark
from notifierd.demo.servers.feedback.resend import FakeResend
from notifierd.model.delivery import Channel, delivery_id
from notifierd.model.errors import LedgerUnavailable, unwrap_groups
from notifierd.model.feedback import MailStatus
from notifierd.model.message import Alarm
from notifierd.rules.due import Rules
from notifierd.service.feedback.effects import Effects
from notifierd.service.feedback.look import OpenReader, ask_all, hold_look_lease
from notifierd.service.feedback.schedule import Looks
from notifierd.service.site import claim_alarm, open_site, utc_now
from notifierd.service.watch import open_watch
from notifierd.store.database import Database, open_database
from notifierd.store.feedback import Feedback
from notifierd.store.postgres import PostgresLedger
from tests.support import application
from tests.support.cutting import cut_after, written
from tests.support.feedback import serving_fake
from tests.support.memory_feedback import ScriptedProvider
from tests.support.receivers import Receivers
from tests.support.samples import DAY, an_id, some_offices

ENDED = datetime(2026, 11, 24, 0, 5, tzinfo=UTC)
LATER = ENDED + timedelta(hours=1, minutes=1)


@frozen
class Place:
    """A database with three offices of two people each, all of whose mails of DAY Resend accepted."""

    db: Database
    settings: Settings

    @staticmethod
    def mail(office: int, member: int) -> UUID:
        return delivery_id(DAY, an_id(f"office {office}"), an_id(f"staff-{office}-{member}"), Channel.EMAIL)


@pytest.fixture(scope="module")
def template(cluster: Cluster) -> Iterator[str]:
    async def create() -> None:
        async with open_database(cluster.dsn("looks")) as db:
            await application.create(db)

    cluster.create_database("looks")
    trio.run(create)
    yield "looks"
    cluster.drop_database("looks")


@pytest.fixture
async def place(cluster: Cluster, template: str) -> AsyncIterator[Place]:
    name = f"looks_{uuid4().hex[:12]}"
    dsn = cluster.create_database(name, template=template)
    async with open_database(dsn) as db:
        app = some_offices(3)
        app.staff[2:4] = [(office, evolve(one, email=f"{one.name}@another.example")) for office, one in app.staff[2:4]]
        await application.replace(db, app)  # too many mails of one domain bounce for a hold there
        ledger = PostgresLedger(db)
        await ledger.take_lease(DAY, "run")
        await ledger.plan(DAY, Rules())
        await db.fetch(
            "update notifierd.deliveries set state = 'sent', provider = 'resend', provider_message_id = 're_' || id"
        )
        await ledger.finish(DAY, "run", "completed", None, ())
        await db.fetch("update notifierd.runs set finished_at = $1", ENDED)
        yield Place(
            db, Settings(database=DatabaseSettings(dsn=dsn), watch=WatchSettings(webhook_url="https://a.example"))
        )
    cluster.drop_database(name)


async def test_what_providers_tell_is_kept_and_followed_by_holds_counts_and_alarms(place: Place) -> None:
    """Both people of an office bounced, one of another complained; Postmark, the fallback, is out."""
    fake, broken, receivers = FakeResend(), FakePostmark(), Receivers()
    broken.cut_after(0)
    now = LATER
    for office in range(3):
        for member in range(2):
            status = MailStatus.BOUNCED if office == 0 else MailStatus.DELIVERED
            address = f"staff-{office}-{member}@{'another.example' if office == 1 else 'example.jp'}"
            fake.add(place.mail(office, member), f"re_{place.mail(office, member)}", address, status, "", ENDED)
    complained = place.mail(1, 0)
    fake.add(complained, f"re_{complained}", "staff-1-0@another.example", MailStatus.COMPLAINED, "", ENDED)
    async with (
        serving_fake(fake) as url,
        serving_fake(broken) as broken_url,
        open_watch(lambda: settings, claim_alarm, receivers.client) as watch,
        trio.open_nursery() as nursery,
    ):
        email = EmailSettings(
            fallback="postmark",
            resend=ResendSettings(feedback_key=FakeResend.key, base_url=url),
            postmark=PostmarkSettings(feedback_key=FakePostmark.key, base_url=broken_url),
        )
        settings = evolve(place.settings, email=email)
        looks = Looks(open_site, lambda: settings, lambda: now, watch, lambda: now + timedelta(hours=3), 0.05)
        nursery.start_soon(looks.run)
        with trio.fail_after(60):
            while not await place.db.fetch("select from notifierd.alarms where cause = 'untold_later'"):  # noqa: ASYNC110
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    found = {row["delivery_id"]: row["status"] for row in await place.db.fetch("select * from notifierd.feedback")}
    assert [found[place.mail(0, member)] for member in range(2)] == ["bounced", "bounced"]
    assert (found[complained], found[place.mail(2, 0)]) == ("complained", "delivered")
    results = {state.provider: state for state in await Feedback(place.db).looks()}
    assert (results["resend"].complete_until, results["resend"].result) == (now, "")
    assert (results["postmark"].complete_until, results["postmark"].result) == (None, "connection_lost")
    assert [held.staff_id for held in await Feedback(place.db).held(DAY + timedelta(days=1))] == [an_id("staff-1-0")]
    (run,) = await place.db.fetch("select untold from notifierd.runs")
    assert str(an_id("office 0")) in run["untold"]
    assert sorted(receivers.causes) == ["complaint", "untold_later"]
    assert await place.db.fetch("select holder from notifierd.look_lease where holder is not null") == []


async def test_a_provider_without_a_key_is_not_asked_and_one_that_sent_the_mails_is(place: Place) -> None:
    """Amazon SES sends now, and has no queue; Resend sent the mails of these days."""
    provider = ScriptedProvider(utc_now, seconds=0)
    email = EmailSettings(provider="ses", ses=SesSettings(), resend=ResendSettings(feedback_key="re_reads"))
    feedback = Feedback(place.db)
    looked = await ask_all(
        feedback, evolve(place.settings, email=email), await feedback.runs(DAY), provider.open, lambda: LATER
    )
    assert list(looked) == ["resend"]
    email = evolve(email, postmark=PostmarkSettings(server_token="pm_sends"))
    looked = await ask_all(
        feedback, evolve(place.settings, email=email), await feedback.runs(DAY), provider.open, lambda: LATER
    )
    assert list(looked) == ["resend"]


async def a_look(db: Database, settings: Settings, open_reader: OpenReader) -> Sequence[Alarm]:
    feedback, alarms = Feedback(db), list[Alarm]()
    with unwrap_groups():
        async with hold_look_lease(feedback, "me", lambda: False) as is_ours:
            assert is_ours
            runs = await feedback.runs(DAY)
            looked = await ask_all(feedback, settings, runs, open_reader, lambda: LATER)
            assert not looked["resend"].incomplete.startswith("unreadable")
            alarms = await Effects().apply(feedback, settings, runs, looked, LATER)
    return alarms


async def test_a_look_that_dies_at_any_statement_is_made_up_for_by_the_next(place: Place) -> None:
    """The connection is cut after its first statement, its second, and so on; then it is made whole."""
    settings = evolve(place.settings, email=EmailSettings(resend=ResendSettings(feedback_key="re_reads")))
    fates = {place.mail(0, 0): MailStatus.BOUNCED, place.mail(0, 1): MailStatus.REFUSED}
    fates[place.mail(1, 0)] = MailStatus.COMPLAINED
    provider = ScriptedProvider(utc_now, lambda key: fates.get(key, MailStatus.DELIVERED), seconds=0, page=2)
    (fresh,) = await place.db.fetch("select counts, untold from notifierd.runs")
    alarms = await a_look(place.db, settings, provider.open)
    assert sorted(alarm.cause for alarm in alarms) == ["complaint", "untold_later"]
    expected, cuts = await written(place.db), 0
    assert {name for name, *_ in expected} >= {"feedback", "holds", "feedback_looks"}
    while True:
        for table in ("feedback", "holds", "feedback_looks"):
            await place.db.fetch(f"delete from notifierd.{table}")
        await place.db.fetch("update notifierd.runs set counts = $1, untold = $2", *fresh)
        async with open_database(place.settings.database.dsn) as db:
            cutting = cut_after(db, cuts + 1)
            with suppress(LedgerUnavailable):
                await a_look(cutting, settings, provider.open)
        if cutting.left > 0:
            break
        cuts += 1
        await place.db.fetch("update notifierd.look_lease set holder = null")
        assert await a_look(place.db, settings, provider.open) == alarms
        assert await written(place.db) == expected, f"cut after statement {cuts}"
    assert cuts > 12
