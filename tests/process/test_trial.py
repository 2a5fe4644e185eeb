"""``notifierd test``: one message that says it is a trial, over real HTTP, and nothing that is written."""

import json
import re
from pathlib import Path

import pytest

from notifierd.demo.servers.mail_api import AcceptedMail
from notifierd.demo.servers.trouble import MailConfig, Rule
from tests.support.processes import API_KEY, DOMAIN, Done, Place, an_id, invent, run, write_config

pytestmark = pytest.mark.usefixtures("_forked_commands")

ADDRESS = f"trial@{DOMAIN}"
SOMEBODY = str(an_id("o0s0"))


@pytest.fixture
def place(place: Place) -> Place:
    """Two offices whose members have a device each."""
    place.load(invent(2, push_url=place.servers.push_url))
    return place


def trial(place: Place, *args: str, code: int = 0) -> Done:
    """Run ``test``, which writes nothing wherever it may."""
    before = place.content()
    done = run("test", *args, cwd=place.folder, code=code)
    assert place.content() == before
    return done


def only_mail(place: Place) -> AcceptedMail:
    (mail,) = place.mails()
    return mail


def test_a_trial_to_an_address_needs_no_database_and_says_that_it_is_one(place: Place):
    place.configure(database={"dsn": "postgresql://nobody@127.0.0.1:1/nothing"})
    done = run("test", "--to", ADDRESS, cwd=place.folder, code=0)
    mail = only_mail(place)
    assert (mail.to, mail.subject.startswith("【試験送信】")) == ((ADDRESS,), True)
    assert "試験送信の見本事業所" in mail.subject
    assert re.fullmatch(r"a mail through resend: accepted, message id [0-9a-f-]{36} \(\d+\.\d s\)\n", done.out)
    assert mail.id in done.out
    assert done.err == ""


def test_a_trial_in_english_is_marked_in_english(place: Place):
    place.configure(content={"language": "en"})
    trial(place, "--to", ADDRESS)
    assert only_mail(place).subject.startswith("[Test] Deadlines: ")


def test_a_trial_to_a_staff_member_goes_to_their_address_and_does_not_count_as_told(place: Place):
    trial(place, "--staff", SOMEBODY)
    assert only_mail(place).to == (f"o0s0@{DOMAIN}",)
    assert place.once().report["email"]["sent"] == 4


def test_a_trial_push_goes_to_each_device_of_the_staff_member(place: Place):
    done = trial(place, "--staff", SOMEBODY, "--push")
    (push,) = place.pushes()
    assert push.payload["title"].startswith("【試験送信】")
    assert push.payload["data"]["office_id"] == str(an_id("o0"))
    assert place.mails() == []
    assert done.out.startswith(f"a push to device {push.device_id} through webpush: accepted (")


def test_a_device_that_is_gone_is_told_and_stays(place: Place):
    place.serve(invent(2))  # the push service knows no device any more
    done = trial(place, "--staff", SOMEBODY, "--push", code=1)
    assert "through webpush: the device is gone (gone:4" in done.out


def test_what_the_provider_refuses_is_explained_in_words(place: Place):
    place.serve(invent(2), MailConfig(api_key=API_KEY, keep_eml=False, rejected=(ADDRESS,)))
    done = trial(place, "--to", ADDRESS, code=1)
    assert done.out.startswith(
        "a mail through resend: rejected: rejected:422: The provider permanently rejected this message or its address. "
    )
    place.serve(invent(2), MailConfig(api_key="another", keep_eml=False))
    done = trial(place, "--to", ADDRESS, code=1)
    assert "the provider rejects our key or account: blocked:" in done.out


def test_a_provider_in_trouble_is_not_asked_again(place: Place):
    place.serve(invent(2), MailConfig(api_key=API_KEY, keep_eml=False, rules=(Rule(status=503, times=1),)))
    done = trial(place, "--to", ADDRESS, code=1)
    assert "not accepted now: server_error:503: The provider has an outage or an error." in done.out
    assert place.mails() == []


def test_a_provider_that_does_not_answer_leaves_a_doubt(place: Place):
    place.configure(limits={"send_timeout": 0.5})
    place.serve(invent(2), MailConfig(api_key=API_KEY, keep_eml=False, rules=(Rule(then="hang"),)))
    done = trial(place, "--to", ADDRESS, code=1)
    assert "no usable answer: timeout: No answer came in time. The message may have been delivered." in done.out


@pytest.mark.parametrize("args", [("--to", ADDRESS), ("--staff", SOMEBODY)])
def test_a_provider_out_of_reach_is_3(place: Place, args: tuple[str, str]):
    place.configure(**{"email.resend": {"base_url": "http://127.0.0.1:1"}})
    assert "not accepted now: connection_failed: " in trial(place, *args, code=3).out


def test_a_database_out_of_reach_is_3(place: Place):
    place.configure(database={"dsn": "postgresql://nobody@127.0.0.1:1/nothing"})
    done = run("test", "--staff", SOMEBODY, cwd=place.folder, code=3)
    assert done.err.startswith("notifierd: the database is unreachable")


def test_redirect_to_has_the_mail_and_lets_no_push_out(place: Place):
    inbox = f"inbox@{DOMAIN}"
    place.configure(safety={"redirect_to": inbox})
    done = trial(place, "--to", ADDRESS)
    assert only_mail(place).to == (inbox,)
    assert done.out.startswith("safety.redirect_to: is set, so the mail goes to that one address\n")
    done = trial(place, "--staff", SOMEBODY, "--push", code=2)
    assert done.err == "notifierd: safety.redirect_to: is set, and then no push is sent\n"
    assert place.pushes() == []


def test_only_offices_keeps_members_of_others_out(place: Place):
    place.configure(safety={"only_offices": [str(an_id("o1"))]})
    done = trial(place, "--staff", SOMEBODY, code=2)
    assert done.err == f"notifierd: safety.only_offices: has no office of {SOMEBODY}; nothing was sent\n"
    assert place.mails() == []
    trial(place, "--staff", str(an_id("o1s0")))
    assert only_mail(place).to == (f"o1s0@{DOMAIN}",)
    assert "safety.only_offices: does not apply" in trial(place, "--to", ADDRESS).out


def test_another_database_cluster_is_refused(place: Place):
    place.configure(safety={"database_id": "7"})
    done = trial(place, "--staff", SOMEBODY, code=2)
    assert done.err.startswith("notifierd: safety.database_id: this is another database cluster")
    assert "safety.database_id: not compared" in trial(place, "--to", ADDRESS).out
    assert len(place.mails()) == 1


def test_what_somebody_switched_off_is_told(place: Place):
    place.sql(
        f"update staffs set notification_preferences = '{json.dumps({'email_notification': False})}'"
        f" where id = '{SOMEBODY}'"
    )
    done = trial(place, "--staff", SOMEBODY)
    assert done.out.startswith("the staff member has mails switched off: a run sends them none\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give either --to or --staff"),
        (("--to", ADDRESS, "--staff", SOMEBODY), "give either --to or --staff"),
        (("--to", ADDRESS, "--push"), "--push needs --staff"),
        (("--to", "no address"), "--to: bad_address: The mail address is not valid."),
        (("--staff", str(an_id("nobody"))), f"--staff: {an_id('nobody')} is not in the view notifierd.staff"),
    ],
)
def test_a_mistake_is_a_line_and_2(place: Place, args: tuple[str, ...], message: str):
    done = trial(place, *args, code=2)
    assert message in done.err
    assert place.mails() == []


def test_somebody_without_a_device_gets_no_push(place: Place):
    place.sql("delete from push_subscriptions")
    assert trial(place, "--staff", SOMEBODY, "--push", code=2).err == f"notifierd: --push: {SOMEBODY} has no device\n"


def test_what_a_mail_needs_is_demanded_and_no_more(tmp_path: Path):
    """Neither a VAPID key nor the keys of the fallback."""
    write_config(tmp_path, {"email": {"fallback": "postmark"}})
    done = run("test", "--to", ADDRESS, cwd=tmp_path, code=2)
    assert [line.partition(": ")[2].partition(":")[0] for line in done.err.splitlines()] == [
        "email.sender",
        "email.resend.api_key",
    ]
