"""What the log says of calls in trouble: a line for an office, a lane and a set of reasons, and for a person."""

from structlog.testing import capture_logs

from notifierd.model.outcome import Deferred, Outcome
from notifierd.run.day import run_day
from notifierd.run.trouble import MOST_NAMED, CallTroubles
from tests.support.memory import Application
from tests.support.samples import DAY, an_id
from tests.support.scripted_senders import TAKEN, ScriptedSender, ShakyLedger, Try, a_member, a_run

OFFICE, OTHER, LANE, SENDER = an_id("office"), an_id("another office"), "push.example", "webpush"
ANNA, BEN = an_id("Anna"), an_id("Ben")


def test_an_office_has_a_line_for_each_lane_and_set_of_reasons():
    troubles = CallTroubles()
    assert troubles.are_new(OFFICE, LANE, SENDER, [(ANNA, "timeout")])
    assert not troubles.are_new(OFFICE, LANE, SENDER, [(ANNA, "timeout")])
    assert not troubles.are_new(OFFICE, LANE, SENDER, [(BEN, "timeout")]), "the office has its line"
    assert troubles.are_new(OFFICE, LANE, SENDER, [(BEN, "server_error:503")])
    assert troubles.are_new(OFFICE, LANE, SENDER, [(ANNA, "timeout"), (BEN, "refused:403")]), "another set of reasons"
    assert troubles.are_new(OTHER, LANE, SENDER, [(an_id("Cleo"), "timeout")])


def test_a_person_of_many_offices_with_devices_at_many_services_has_one_line():
    troubles = CallTroubles()
    calls = [(an_id(f"office {n}"), f"push-{n}.example") for n in range(300)]
    named = [call for call in calls if troubles.are_new(*call, SENDER, [(ANNA, "timeout")])]
    assert named == calls[:1]
    assert troubles.are_new(OFFICE, "resend", "resend", [(ANNA, "timeout")]), "mails are another matter"


def test_calls_in_trouble_are_forgotten_where_they_are_too_many():
    """An office and a person for each; the first of them is new again then."""
    troubles = CallTroubles()
    calls = [(an_id(f"office {n}"), LANE, SENDER, [(an_id(f"person {n}"), "timeout")]) for n in range(MOST_NAMED)]
    assert all(troubles.are_new(*call) for call in calls)
    assert troubles.are_new(*calls[0])
    assert not troubles.are_new(*calls[0])


async def test_many_devices_that_are_refused_for_a_while_make_one_line(autojump_clock):
    """30 devices of one person, each deferred three times."""

    def script(this: Try) -> Outcome:
        return Deferred("refused:403") if "/refused" in this.to else TAKEN

    app = Application()
    a_member(app, "Anna", hosts=["push.example/refused"] * 30)
    colleague = a_member(app, "Ben", hosts=["push.example"], left=1)
    push = ScriptedSender("webpush", script=script)
    context = a_run(ShakyLedger(app), ScriptedSender(), push)
    with capture_logs() as logs:
        await run_day(DAY, context)
    lines = [line for line in logs if line["event"] == "call_in_trouble"]
    assert [(line["lane"], line["reasons"]) for line in lines] == [("push.example", ["refused:403"])]
    assert context.progress.metrics.calls_in_trouble["webpush"] > 30
    assert push.told == [colleague.devices[0].endpoint]
