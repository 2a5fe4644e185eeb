"""``retry --unknown``: where a key can settle the doubt, it is the same call again; else a new one."""

from typing import Literal

import pytest
import trio
from attrs import evolve

from notifierd.model.delivery import State
from notifierd.run.day import run_day
from notifierd.run.record.passes import DATABASE_PAUSE
from notifierd.send.open import honouring_keys
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, Swallowed, a_run

OnUnknown = Literal["repeat", "hold"]


def a_sender(*, keys: bool) -> ScriptedSender:
    """A provider that takes what comes, and whose first answer to each call is lost."""
    return ScriptedSender(max_batch=3, honours_keys=keys, seconds=1.0, script=lambda _: Swallowed("timeout"))


async def a_day_whose_answers_were_lost(email: ScriptedSender, on_unknown: OnUnknown) -> ShakyLedger:
    """Three mails of an office in one call, whose window ends before the call's turn comes again; planned again."""
    ledger = ShakyLedger(some_offices(1, staff=3))
    await run_day(DAY, a_run(ledger, email, on_unknown=on_unknown, window_left=1.5))
    assert ledger.states() == {State.UNKNOWN: 3}
    assert (len(email.calls), len(email.accepted)) == (1, 3)
    again = await ledger.retry(DAY, [State.UNKNOWN], [email.name])
    assert (again.offices, again.email) == (1, 3)
    return ledger


@pytest.mark.parametrize("on_unknown", ["repeat", "hold"])
async def test_a_call_that_is_unknown_is_made_again_under_its_key(on_unknown: OnUnknown, autojump_clock):
    email = a_sender(keys=True)
    ledger = await a_day_whose_answers_were_lost(email, on_unknown)
    result = await run_day(DAY, a_run(ledger, email, on_unknown=on_unknown))
    first, second = email.calls
    assert (first.key, first.body) == (second.key, second.body)
    assert len(email.accepted) == 3
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 3})


async def test_a_call_that_is_partly_in_anothers_hands_is_waited_for_without_haste(autojump_clock):
    """One of its three mails is in a try of a dead process for 40 s more, and the other two are due: few passes."""
    email = a_sender(keys=True)
    ledger = await a_day_whose_answers_were_lost(email, "repeat")
    next(iter(ledger.rows.values())).try_until = trio.current_time() + 40.0
    ledger.reads.clear()
    result = await run_day(DAY, a_run(ledger, email))
    assert (result.state, len(email.accepted)) == ("completed", 3)
    assert len({call.key for call in email.calls}) == 1
    assert len(ledger.reads) <= 40 / DATABASE_PAUSE + 5


async def test_a_call_is_made_again_whole_though_the_quota_has_no_room_for_a_mail_of_it_that_failed(autojump_clock):
    """One mail of the three was put back, and the other two fill the quota: whole, the call carries it all the same."""
    email = a_sender(keys=True)
    ledger = await a_day_whose_answers_were_lost(email, "repeat")
    row = next(iter(ledger.rows.values()))
    row.delivery, row.try_until = evolve(row.delivery, state=State.PLANNED, put_back=1), None
    await run_day(DAY, a_run(ledger, email, email_per_day=2))
    assert len({call.key for call in email.calls}) == 1
    assert (ledger.states(), len(email.accepted)) == ({State.SENT: 3}, 3)


@pytest.mark.parametrize("on_unknown", ["repeat", "hold"])
async def test_a_call_that_cannot_be_made_as_it_was_becomes_a_new_one(on_unknown: OnUnknown, autojump_clock):
    email = a_sender(keys=True)
    ledger = await a_day_whose_answers_were_lost(email, on_unknown)
    (office,) = ledger.app.offices
    ledger.app.offices[office] = "renamed"
    result = await run_day(DAY, a_run(ledger, email, on_unknown=on_unknown))
    first, second, third = email.calls
    assert first.key != second.key
    assert (second.key, second.body) == (third.key, third.body), "its first answer is lost, too, and its key settles it"
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 3})


async def test_a_key_that_the_provider_knows_with_other_content_leads_to_a_new_key(autojump_clock):
    email = a_sender(keys=True)
    ledger = await a_day_whose_answers_were_lost(email, "hold")
    email.mistake(email.calls[0].key)
    result = await run_day(DAY, a_run(ledger, email, on_unknown="hold"))
    first, conflict, *new = email.calls
    assert first.key == conflict.key
    assert {call.key for call in new}.isdisjoint({first.key})
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 3})


@pytest.mark.parametrize(("on_unknown", "mails"), [("repeat", 3), ("hold", 2)])
async def test_without_keys_it_is_a_new_call(on_unknown: OnUnknown, mails: int, autojump_clock):
    """One in the first run; then two with "repeat", and one with "hold"."""
    email = a_sender(keys=False)
    ledger = ShakyLedger(some_offices(1, staff=1))
    await run_day(DAY, a_run(ledger, email, on_unknown="hold"))
    await ledger.retry(DAY, [State.UNKNOWN])
    await run_day(DAY, a_run(ledger, email, on_unknown=on_unknown))
    assert len(email.accepted) == mails
    assert ledger.states() == {State.UNKNOWN: 1}


async def test_another_provider_makes_a_new_call(autojump_clock):
    email, other = a_sender(keys=True), ScriptedSender(name="other", honours_keys=True)
    ledger = await a_day_whose_answers_were_lost(email, "hold")
    await run_day(DAY, a_run(ledger, other, on_unknown="hold"))
    assert (len(other.accepted), ledger.states()) == (3, {State.SENT: 3})


def test_resend_alone_honours_keys():
    assert honouring_keys() == ["resend"]
