"""A database that forgets its last commits, by a failover or a restore: nobody is told twice, and nobody is lost."""

from copy import deepcopy

import pytest
import trio
from structlog.testing import capture_logs

from notifierd.model.delivery import Channel, Delivery, Settlement, State
from notifierd.model.errors import LedgerUnavailable
from notifierd.model.outcome import Deferred, Delivered
from notifierd.run.day import run_day
from notifierd.run.progress import MOST_REMEMBERED, Progress, Sent
from tests.support.samples import DAY, an_id, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, a_run

PEOPLE = 60


async def forgets(ledger: ShakyLedger, since: float, at: float) -> None:
    """At the moment *at*, have the ledger stand as it did at the moment *since*."""
    await trio.sleep_until(since)
    rows, audit_log = deepcopy(ledger.rows), deepcopy(ledger.app.audit_log)
    await trio.sleep_until(at)
    ledger.rows, ledger.app.audit_log = rows, audit_log


@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "without keys"])
@pytest.mark.parametrize("batch", [1, 4])
async def test_what_the_database_forgets_the_living_process_knows(batch: int, keys: bool, autojump_clock):
    """Calls of 2 s, five at a time: from 3 s to 5.5 s the ledger forgets ten calls, five of them in flight."""
    ledger = ShakyLedger(some_offices(15, staff=4))
    email = ScriptedSender(max_batch=batch, honours_keys=keys, seconds=2.0)
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forgets, ledger, 3.0, 5.5)
            result = await run_day(DAY, a_run(ledger, email))
    assert result.state == "completed"
    assert len(email.told) == len(set(email.told)) == PEOPLE
    assert ledger.states() == {State.SENT: PEOPLE}
    assert len(ledger.app.audit_log) == PEOPLE
    (line,) = [line for line in lines if line["event"] == "ledger_forgot"]
    assert (line["log_level"], 1 <= line["deliveries"] <= 25) == ("error", True)


@pytest.mark.parametrize("batch", [1, 3])
async def test_what_database_and_process_forgot_is_sent_once_where_keys_are_honoured(batch: int, autojump_clock):
    """The process is killed at 5.5 s, and the ledger forgets all since 3 s; another process goes on."""
    ledger = ShakyLedger(some_offices(15, staff=4))
    email = ScriptedSender(max_batch=batch, honours_keys=True, seconds=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forgets, ledger, 3.0, 6.5)
        with trio.move_on_after(5.5):  # what is in flight is cut, and whatever the process still writes is forgotten
            await run_day(DAY, a_run(ledger, email))
    assert ledger.states()[State.PLANNED] > PEOPLE // 2
    ledger.runs[DAY].lease_until = 0.0
    for call in [call for call in email.calls if call.cut]:
        email.take(call)
    before = len(email.accepted)
    result = await run_day(DAY, a_run(ledger, email, holder="next"))
    assert result.state == "completed"
    assert 0 < before < PEOPLE
    assert len(email.told) == len(set(email.told)) == PEOPLE
    assert ledger.states() == {State.SENT: PEOPLE}


async def test_what_was_sent_and_is_forgotten_needs_no_room_in_the_days_quota(autojump_clock):
    """Four of six mails a day. The first is deferred until four are sent and forgotten, and has room itself then."""
    ledger = ShakyLedger(some_offices(6, staff=1))
    late = ledger.app.staff[0][1].email
    email = ScriptedSender(
        script=lambda seen: Deferred("deferred:503") if seen.to == late and seen.at < 20.0 else Delivered()
    )

    async def forget_four() -> None:
        await trio.sleep_until(20.0)
        for row in ledger.rows.values():
            if row.delivery.state is State.SENT:
                row.delivery = Delivery(row.delivery.id, row.delivery.office_id, row.delivery.staff_id, Channel.EMAIL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forget_four)
        context = a_run(ledger, email, email_per_day=4, offices=1, window_left=600.0)
        await run_day(DAY, context)
    states = {row.delivery.id: row.delivery.state for row in ledger.rows.values()}
    assert len(email.told) == len(set(email.told))
    assert {states[delivery] for _, delivery, _ in email.accepted} == {State.SENT}


async def test_a_run_whose_ledger_forgets_nothing_says_nothing_of_it(autojump_clock):
    with capture_logs() as lines:
        await run_day(DAY, a_run(ShakyLedger(some_offices(3, staff=2)), ScriptedSender()))
    assert not [line for line in lines if line["event"] == "ledger_forgot"]


async def test_an_outcome_that_was_never_written_is_known_to_the_next_run_of_the_process(autojump_clock):
    """The row of one of two mails is locked for 100 s; the run is stopped after 5 s."""
    ledger, email = ShakyLedger(some_offices(1, staff=2), refusal="database_refused:55P03"), ScriptedSender()
    one = ledger.app.staff[0][1].id
    ledger.refuses = lambda settlements, _: (
        trio.current_time() < 100.0 and one in {settlement.delivery.staff_id for settlement in settlements}
    )
    first = a_run(ledger, email)

    async def stop() -> None:
        await trio.sleep_until(5.0)
        first.stop.set("signal", 5.0)

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with pytest.raises(LedgerUnavailable):  # it cannot write how it ended, either: its time is up
                await run_day(DAY, first)
        await trio.sleep_until(150.0)
        second = a_run(ledger, email, progress=Progress(metrics=first.progress.metrics))
        assert (await run_day(DAY, second)).state == "completed"
    assert ledger.states() == {State.SENT: 2}
    assert len(email.told) == 2


def test_what_a_process_remembers_is_bounded_and_the_newest():
    ids = [an_id(f"delivery {number}") for number in range(MOST_REMEMBERED + 2)]
    settlements = [Settlement(Delivery(key, key, key, Channel.EMAIL), 1, State.SENT) for key in ids]
    sent = Sent()
    for settlement in [*settlements, settlements[2]]:
        sent.add(settlement)
    known = [number for number, each in enumerate(settlements) if sent.again(each.delivery)]
    assert known == list(range(2, MOST_REMEMBERED + 2))
