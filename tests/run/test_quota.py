"""limits.email_per_day and limits.email_per_second: who goes first, what is named, and what becomes of the rest."""

from datetime import timedelta
from uuid import UUID

import trio
from attrs import evolve
from structlog.testing import capture_logs

from notifierd.model.delivery import Channel, State
from notifierd.model.outcome import Rejected
from notifierd.rules.calendar import Window
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.run.day import run_day
from notifierd.run.record.passes import QUOTA_PAUSE
from notifierd.service.state import Attempt
from tests.support.processes import Place, invent
from tests.support.samples import DAY, an_id, some_offices
from tests.support.scripted_senders import NINE_O_CLOCK, TAKEN, ScriptedSender, ShakyLedger, a_run, limited


async def run(context: RunContext) -> tuple[RunResult, list[dict[str, object]]]:
    """The run, and what its plan had no room for."""
    with capture_logs() as logs, trio.fail_after(86_400):
        result = await run_day(DAY, context)
    return result, [
        {key: line[key] for key in ("limit", "mails", "offices")}
        for line in logs
        if line["event"] == "plan_does_not_fit"
    ]


def mailed(ledger: ShakyLedger, state: State) -> set[UUID]:
    """The offices with a mail in that state."""
    rows = (row.delivery for row in ledger.rows.values())
    return {row.office_id for row in rows if row.channel is Channel.EMAIL and row.state is state}


async def test_the_quota_goes_to_the_most_urgent_and_the_rest_expires_with_it_as_the_reason(autojump_clock):
    """20 offices, 0 to 19 days from their deadline, with 5 mails and a push each; 52 mails a day."""
    ledger = ShakyLedger(some_offices(20, staff=5, devices=1))
    sender, push = ScriptedSender(max_batch=100), ScriptedSender()
    result, named = await run(a_run(ledger, sender, push, email_per_day=52, window_left=600.0))
    assert named == [{"limit": "email_per_day", "mails": 48, "offices": 10}]
    assert len(sender.told) == 52
    assert mailed(ledger, State.SENT) == {an_id(f"office {left}") for left in range(11)}
    assert ledger.states(Channel.PUSH) == {State.SENT: 100}
    assert ledger.reasons()[State.EXPIRED, "window_ended (email_per_day)"] == 48
    assert (result.state, trio.current_time()) == ("completed", 600.0)


async def test_a_refused_mail_leaves_its_room_to_the_next(autojump_clock):
    ledger = ShakyLedger(some_offices(6, staff=1))
    sender = ScriptedSender(script=lambda seen: Rejected("rejected:422") if "staff-0" in seen.to else TAKEN)
    await run(a_run(ledger, sender, email_per_day=3, window_left=600.0))
    assert mailed(ledger, State.SENT) == {an_id(f"office {left}") for left in (1, 2, 3)}


async def test_what_was_sent_before_counts_and_a_restart_gets_no_new_quota(autojump_clock):
    ledger, sender = ShakyLedger(some_offices(6, staff=1)), ScriptedSender()
    context = a_run(ledger, sender, email_per_day=4, offices=1)
    sender.meanwhile = lambda: context.stop.set("signal", 10.0) if len(sender.calls) == 2 else None
    assert (await run(context))[0].state == "interrupted"
    assert len(sender.told) == 2
    result, named = await run(a_run(ledger, sender, email_per_day=4, window_left=600.0))
    assert named == [{"limit": "email_per_day", "mails": 2, "offices": 2}]
    assert (len(sender.told), result.state) == (4, "completed")


async def test_a_quota_raised_in_the_run_is_used_in_it(autojump_clock):
    ledger, sender = ShakyLedger(some_offices(6, staff=1)), ScriptedSender()
    context = a_run(ledger, sender, email_per_day=2, window_left=600.0)

    async def raise_it() -> None:
        await trio.sleep(100.0)
        assert len(sender.told) == 2
        context.limit(evolve(context.limits, email_per_day=0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_it)
        result, _ = await run(context)
    assert len(sender.told) == 6
    assert result.state == "completed"
    assert trio.current_time() <= 100.0 + QUOTA_PAUSE + 5.0


async def test_a_rate_that_the_window_is_too_short_for_is_told_with_the_plan(autojump_clock):
    """100 calls at 0.5 a second take 198 s: in 59 s, 30 begin."""
    ledger = ShakyLedger(some_offices(100, staff=2))
    sender = ScriptedSender(max_batch=100)
    context = a_run(ledger, limited(sender, 5, per_second=0.5), window_left=59.0)
    result, named = await run(context)
    assert named == [{"limit": "email_per_second", "mails": 140, "offices": 70}]
    assert len(sender.calls) == 30
    assert set(ledger.reasons()) == {(State.SENT, None), (State.EXPIRED, "window_ended (email_per_second)")}
    assert result.state == "completed"


async def test_the_status_names_what_there_is_no_room_for(autojump_clock):
    ledger, sender = ShakyLedger(some_offices(6, staff=2)), ScriptedSender()
    context = a_run(ledger, sender, email_per_day=4, window_left=600.0)
    window = Window(DAY, NINE_O_CLOCK, NINE_O_CLOCK + timedelta(hours=3))
    attempt = Attempt(window, context.stop, context.progress, context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, context)
        await trio.sleep(100.0)
        assert attempt.words().endswith("4 mails; over the limit: 8 mails of 4 offices (limits.email_per_day)")
        nursery.cancel_scope.cancel()


# A real process ------------------------------------------------------------------------------------------------------


def test_a_plan_beyond_the_quota_is_named_by_check_by_a_dry_run_and_by_the_run(place: Place):
    rows = invent(10)
    place.load(rows)
    place.configure(limits={"email_per_day": 7})
    rehearsed = place.once("--dry-run")
    assert '"plan_does_not_fit"' in rehearsed.err
    assert '"mails": 13' in rehearsed.err
    done = place.once("--for", "4", code=1)
    assert '"limit": "email_per_day"' in done.err
    assert (done.report["email"]["sent"], done.report["email"]["expired"]) == (7, 13)
    assert {failure["reason"] for failure in done.report["failures"]} == {"window_ended (email_per_day)"}
    assert len(place.mails()) == 7
    first = place.sql("select office_id from notifierd.run_offices order by urgency, office_id limit 4").splitlines()
    sent = place.sql("select distinct office_id from notifierd.deliveries where state = 'sent'").splitlines()
    assert sorted(sent) == sorted(first)
