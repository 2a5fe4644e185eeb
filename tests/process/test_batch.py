"""A batch of 100 mails with 3 bad addresses: a real process, and a mail API over real HTTP."""

import time
from collections import Counter

import pytest

from notifierd.demo.servers.trouble import MailConfig, Rule
from tests.experiments.fuzz import age
from tests.support.processes import API_KEY, DOMAIN, Done, Place, an_id, invent, until

BAD = tuple(f"o0s{number}@{DOMAIN}" for number in (0, 41, 99))
GOOD = Counter(f"o0s{number}@{DOMAIN}" for number in range(100)) - Counter(BAD)


@pytest.fixture
def place(place: Place) -> Place:
    """One office with a hundred staff."""
    place.load(invent(1, staff=100))
    return place


def mail_api(place: Place, *rules: Rule, latency_ms: float = 0.0) -> None:
    place.serve(invent(1), MailConfig(API_KEY, latency_ms, BAD, rules, keep_eml=False))


def check(place: Place, done: Done) -> None:
    """97 sent and accepted once, 3 failed with their reason; ledger, audit rows and report agree."""
    office = str(an_id("o0"))
    assert done.code == 1
    assert done.report["offices"] == {"total": 1, "ok": 1, "failed": 0}
    counts = {"planned": 100, "sent": 97, "failed": 3, "unknown": 0, "expired": 0, "open": 0}
    assert done.report["email"] == counts
    failure = {"office_id": office, "channel": "email", "reason": "rejected:item"}
    assert done.report["failures"] == [failure] * 3
    assert Counter(address for mail in place.mails() for address in mail.to) == GOOD
    failed = place.sql(
        "select s.email, d.reason from notifierd.deliveries d join staffs s on s.id = d.staff_id"
        " where d.state = 'failed'"
    ).splitlines()
    assert Counter(failed) == Counter(f"{address}|rejected:item" for address in BAD)
    ids = place.sql("select id, provider_message_id from notifierd.deliveries where state = 'sent'").splitlines()
    assert sorted(ids) == sorted(f"{mail.delivery_id}|{mail.id}" for mail in place.mails())
    assert place.sql("select count(*), count(distinct target_id) from audit_logs") == "97|97"
    assert place.sql("select sum(attempts), sum(doubts) from notifierd.deliveries") == "0|0"


def test_97_of_100_are_sent_by_one_call_and_3_fail_with_their_reason(place: Place):
    mail_api(place)
    before = place.calls()
    done = place.once(code=1)
    check(place, done)
    assert place.calls() == before + 1


def test_a_crash_after_the_batch_was_accepted_costs_one_more_call_under_its_key(place: Place):
    mail_api(place, Rule(then="hang", accept=True, times=1))
    before = place.calls()
    with place.running_once() as process:
        until(lambda: len(place.mails()) == 97, "the batch accepted")
        process.kill()
        process.wait()
    assert place.states() == {"sending": 100}
    age(place)
    check(place, place.once(code=1))
    assert place.calls() == before + 2


def test_a_crash_while_the_provider_works_on_the_batch_and_a_restart_before_it_is_done(place: Place):
    """The second process is told that the first call goes on (409), waits, and asks again under the same key."""
    before = place.calls()
    mail_api(place, latency_ms=20_000.0)
    with place.running_once() as process:
        until(lambda: place.states() == {"sending": 100}, "the batch in flight")
        time.sleep(1.0)
        process.kill()
        process.wait()
    assert not place.mails()
    age(place)
    check(place, place.once(code=1))
    assert place.calls() >= before + 3
