"""What the page and the metrics show of mails after they were accepted."""

import re
import signal
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from notifierd.demo.servers.trouble import MailConfig
from notifierd.model.feedback import MailStatus
from notifierd.store.feedback import FeedbackDay, LookState, Loss
from notifierd.web.feedback import SHOWN, advice, became
from notifierd.web.words.phrases import PHRASES
from tests.support.daemon_process import OPEN, TODAY, running_service
from tests.support.fake_daemon import NINE
from tests.support.faults import until
from tests.support.processes import API_KEY, Place, an_id, invent
from tests.support.samples import DAY
from tests.web.test_pages import samples

LATER = NINE + timedelta(minutes=5)
NOTHING = dict.fromkeys(SHOWN, 0)


def a_day(provider: str = "resend", not_known: int = 0, **counts: int) -> FeedbackDay:
    return FeedbackDay(DAY, provider, **{**dict.fromkeys(map(str, SHOWN), 0), **counts}, not_known=not_known)


def a_loss(status: MailStatus, code: str = "", *, changed: bool = False, carrier: bool = False) -> Loss:
    return Loss(UUID(int=1), UUID(int=2), "Office", UUID(int=3), status, code, changed, carrier)


# Zero, or not known -------------------------------------------------------------------------------------------------


def counts(day: FeedbackDay, looks: tuple[LookState, ...] = ()) -> Mapping[MailStatus, int | None]:
    (one,) = became([day], looks, {DAY: NINE})
    return one.counts


def test_a_day_of_which_nothing_was_told_has_no_zeros() -> None:
    assert counts(a_day(not_known=3)) == dict.fromkeys(SHOWN)
    early = LookState("resend", NINE - timedelta(hours=1), LATER, "timeout")
    assert counts(a_day(not_known=3), (early,)) == dict.fromkeys(SHOWN)
    never = LookState("resend", None, LATER, "timeout")
    assert counts(a_day(not_known=3), (never,)) == dict.fromkeys(SHOWN)


def test_a_complete_look_after_the_run_makes_zeros_and_so_does_the_first_thing_told() -> None:
    complete = LookState("resend", LATER, LATER, "")
    assert counts(a_day(not_known=3), (complete,)) == NOTHING
    assert counts(a_day(not_known=2, bounced=1)) == {**NOTHING, MailStatus.BOUNCED: 1}
    (running,) = became([a_day(not_known=3)], (complete,), {DAY: None})
    assert running.counts == dict.fromkeys(SHOWN)


@pytest.mark.parametrize(
    ("provider", "unable"),
    [
        ("postmark", {"delivered"}),
        ("sendgrid", {"delivered", "delayed"}),
        ("gmail", {"delivered", "suppressed", "complained"}),
        ("smtp", set(SHOWN)),
        ("a former provider", set(SHOWN)),
    ],
)
def test_what_a_provider_cannot_tell_is_never_zero(provider: str, unable: set[str]) -> None:
    complete = LookState(provider, LATER, LATER, "")
    (one,) = became([a_day(provider, not_known=3)], (complete,), {DAY: NINE})
    assert {status for status, n in one.counts.items() if n is None} == unable
    assert (one.mails, one.is_silence) == (3, True)


def test_mails_that_a_provider_would_have_reported_are_not_called_silent() -> None:
    (one,) = became([a_day(not_known=3)], (LookState("resend", LATER, LATER, ""),), {DAY: NINE})
    assert not one.is_silence


# What to do ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        (a_loss(MailStatus.BOUNCED, "5.1.1"), "advice_bounced"),
        (a_loss(MailStatus.BOUNCED, "5.1.1", carrier=True), "advice_carrier"),
        (a_loss(MailStatus.REFUSED, carrier=True), "advice_carrier"),
        (a_loss(MailStatus.REFUSED, "5.2.2", carrier=True), "advice_full"),
        (a_loss(MailStatus.REFUSED, "4.2.2"), "advice_full"),
        (a_loss(MailStatus.REFUSED, "5.7.1"), "advice_policy"),
        (a_loss(MailStatus.REFUSED, "5.7.26"), "advice_policy"),
        (a_loss(MailStatus.REFUSED, "5.2.0"), "advice_refused"),
        (a_loss(MailStatus.REFUSED), "advice_refused"),
        (a_loss(MailStatus.SUPPRESSED, carrier=True), "advice_suppressed"),
        (a_loss(MailStatus.COMPLAINED), "advice_complained"),
        (a_loss(MailStatus.COMPLAINED, changed=True), "advice_changed"),
        (a_loss(MailStatus.BOUNCED, "5.1.1", changed=True), "advice_changed"),
    ],
)
def test_staff_are_told_what_to_do(loss: Loss, key: str) -> None:
    assert advice(loss) == key


def test_there_are_words_for_every_case() -> None:
    codes = ("", "5.1.1", "5.2.2", "5.7.1", "4.4.7")
    for status, code, changed, carrier in product(MailStatus, codes, (False, True), (False, True)):
        assert advice(a_loss(status, code, changed=changed, carrier=carrier)) in PHRASES


# End to end ---------------------------------------------------------------------------------------------------------


async def test_the_pages_say_what_became_of_mails_and_the_metrics_count_them(place: Place) -> None:
    """Six mails: one of each of five statuses, and one of which nothing was told; one address is held back."""
    rows = invent(3, staff=2, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, keep_eml=False))
    place.configure(window=OPEN)
    told = {
        "o0s0": ("bounced", "5.1.1"),
        "o0s1": ("delivered", "2.0.0"),
        "o1s0": ("suppressed", ""),
        "o1s1": ("refused", "5.7.1"),
        "o2s0": ("complained", ""),
    }
    asked = [datetime(TODAY.year, TODAY.month, TODAY.day, 1, minute, tzinfo=UTC) for minute in (30, 31)]
    shown = [f"{moment.astimezone(ZoneInfo(str(OPEN['timezone']))):%H:%M}" for moment in asked]
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        values = ", ".join(f"('{an_id(name)}'::uuid, '{what}', '{code}')" for name, (what, code) in told.items())
        place.sql(
            "insert into notifierd.feedback (delivery_id, day, provider, status, code, seen_at) "
            f"select d.id, d.day, 'resend', v.status, v.code, now() from (values {values}) as v (staff, status, code) "
            "join notifierd.deliveries d on d.staff_id = v.staff and d.channel = 'email'"
        )
        place.sql(
            "insert into notifierd.feedback_looks values "
            f"('resend', now(), '{asked[0]}', ''), ('ses', null, '{asked[1]}', 'timeout')"
        )
        pages = {
            (path, language): await service.get(path, accept_language=language)
            for language in ("en", "ja")
            for path in ("/", f"/days/{TODAY}", f"/offices/{an_id('o0')}", f"/offices/{an_id('o2')}")
        }
        scraped = samples((await service.get("/metrics")).text)
        service.tell(signal.SIGTERM)
        await service.ended(0)
    for page in pages.values():
        assert page.status_code == 200
        for body in re.findall(r"<tbody>(.*?)</tbody>", page.text, re.DOTALL):
            assert body.count("<tr") == body.count('<th scope="row">') > 0
        assert "@" not in page.text

    text = {key: re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text)) for key, page in pages.items()}
    assert "resend 6 1 0 1 1 1 1 1" in text["/", "en"]
    assert "resend: asked" in text["/", "en"]
    assert f"{shown[0]}, everything was read." in text["/", "en"]
    assert "ses: asked" in text["/", "en"]
    assert f"{shown[1]}, not everything could be read. timeout" in text["/", "en"]
    assert "resend 6 1 0 1 1 1 1 1" in text[f"/days/{TODAY}", "ja"]
    for path in ("/", f"/days/{TODAY}"):
        assert f"{shown[0]} に問い合わせ" in text[path, "ja"]
    day, office = text[f"/days/{TODAY}", "en"], text[f"/offices/{an_id('o0')}", "en"]
    for phrase in ("There is no such mailbox", "SPF, DKIM and DMARC of", "reported the mail as spam"):
        assert phrase in day
    assert f"{an_id('o0s0')} bounced 5.1.1 There is no such mailbox" in office
    assert "reported the mail as spam" not in office
    assert "迷惑メールとして報告しました" in text[f"/offices/{an_id('o2')}", "ja"]

    for status in SHOWN:
        assert scraped["notifierd_feedback_mails", "resend", status] == (0 if status == "delayed" else 1)
    assert scraped["notifierd_feedback_mails", "resend", "not_known"] == 1
    assert scraped["notifierd_feedback_complete_timestamp_seconds", "resend"] > 0
    assert ("notifierd_feedback_complete_timestamp_seconds", "ses") not in scraped
    assert scraped["notifierd_held_addresses",] == 0


async def test_without_any_look_the_page_says_that_nobody_was_asked(place: Place) -> None:
    rows = invent(1, staff=1, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, keep_eml=False))
    place.configure(window=OPEN)
    async with running_service(place) as service:
        await until(lambda: service.shows("sleeping until"), "the run's end")
        english, japanese = [await service.get("/", accept_language=language) for language in ("en", "ja")]
        service.tell(signal.SIGTERM)
        await service.ended(0)
    (card,) = re.findall(r'<section class="card" aria-labelledby="became">(.*?)</section>', english.text, re.DOTALL)
    assert card.count('<span class="note">not known</span>') == len(SHOWN)
    assert ">0<" not in card
    assert "No provider was asked yet" in card
    assert "未確認" in japanese.text
