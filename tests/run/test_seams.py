"""Two troubles at once: what one leaves behind does not make the other worse."""

from collections.abc import Sequence
from datetime import date, timedelta

import pytest
import trio
from attrs import define

from notifierd.commands.once import Once, Options
from notifierd.model.delivery import State
from notifierd.model.errors import LedgerUnavailable
from notifierd.model.message import Message
from notifierd.model.outcome import Blocked, Outcome, Unknown
from notifierd.run.day import run_day
from notifierd.run.progress import SLICE
from notifierd.run.stop import EXIT_SLACK, SETTLE_SECONDS
from tests.support.checked_database import settings_for
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import DOWN, TAKEN, ScriptedSender, ShakyLedger, a_run

KEPT = 60
"""Days that a run keeps, here."""
OLD = DAY - timedelta(days=KEPT + 1)


async def test_a_locked_row_does_not_keep_a_run_that_lost_its_lease_from_going_on(autojump_clock):
    """One row is locked from 1 s on, for 15 minutes; at 7 s the lease is lost. All others are told within two."""
    ledger = ShakyLedger(some_offices(60, staff=1), refusal="database_refused:55P03")
    email = ScriptedSender(seconds=1.5)
    one = ledger.app.staff[0][1].id
    ledger.refuses = lambda settlements, _: (
        1.0 <= trio.current_time() < 900.0 and one in {settlement.delivery.staff_id for settlement in settlements}
    )

    async def forget() -> None:
        await trio.sleep_until(7.0)
        ledger.runs[DAY].lease_until = 6.5

    once = Once(settings_for("postgresql:///nowhere"), Options(day=DAY, force=True, seconds=3600.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forget)
        context = a_run(ledger, email, stop=once.stop, progress=once.progress)
        result = await once.run_with(context)
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 60})
    assert len(email.told) == len(set(email.told)) == 60
    assert max(at for at, *_ in email.accepted) < 120.0


async def test_a_stop_is_bounded_though_a_call_is_being_reserved_by_a_database_that_hangs(autojump_clock):
    """Hanging from 1.5 s, so that the next reservations get no answer; stopped at 3 s with 10 s of grace."""
    ledger = ShakyLedger(some_offices(60, staff=1))
    context = a_run(ledger, ScriptedSender(seconds=2.0))

    async def hang_and_stop() -> None:
        await trio.sleep_until(1.5)
        ledger.latency = 1000.0
        await trio.sleep_until(3.0)
        context.stop.set("signal", 10.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_and_stop)
        with pytest.raises(LedgerUnavailable):
            await run_day(DAY, context)
    assert trio.current_time() <= 3.0 + 10.0 + EXIT_SLACK


@define
class Deafened(ScriptedSender):
    """A provider of batches whose first answer is lost, and which answers a key that it knows as it did before."""

    async def send(self, messages: Sequence[Message], body: bytes, idempotency_key: str) -> list[Outcome]:
        outcomes = await ScriptedSender.send(self, messages, body, idempotency_key)
        return outcomes if len(self.calls) > 1 else [Unknown("cut")] * len(messages)


async def test_an_item_that_an_answer_refuses_beside_others_that_it_took_gets_a_new_call(autojump_clock):
    """The call's first answer is lost. The second, under the same key, says what became of each of the three mails."""
    ledger = ShakyLedger(some_offices(1, staff=3))
    odd = ledger.app.staff[1][1].email
    refusal = Blocked("blocked:item")
    email = Deafened(
        max_batch=3, honours_keys=True, script=lambda seen: refusal if (seen.to, seen.nth) == (odd, 1) else TAKEN
    )
    await run_day(DAY, a_run(ledger, email))
    assert ledger.states() == {State.SENT: 3}
    assert len(email.told) == len(set(email.told)) == 3
    assert [len(call.to) for call in email.calls] == [3, 3, 1]


async def test_a_day_that_its_windows_end_closes_forgets_what_is_old_too(autojump_clock):
    """Where something is open at each window's end, nothing would ever be forgotten else."""
    ledger = ShakyLedger(some_offices(1, staff=1))
    await ledger.record({OLD: ("completed", ""), OLD + timedelta(days=1): ("completed", "")})
    sender = ScriptedSender(script=lambda _: DOWN)
    result = await run_day(DAY, a_run(ledger, sender, window_left=60.0, retention_days=KEPT))
    assert (result.state, ledger.states()) == ("completed", {State.EXPIRED: 1})
    assert set(ledger.runs) == {DAY, OLD + timedelta(days=1)}


async def test_a_stop_is_bounded_though_what_is_old_is_being_deleted_by_a_database_that_hangs(autojump_clock):
    class Hanging(ShakyLedger):
        async def forget(self, before: date) -> bool:
            await trio.sleep(1000.0)
            return await ShakyLedger.forget(self, before)

    context = a_run(Hanging(some_offices(1, staff=1)), ScriptedSender())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_day, DAY, context)
        await trio.sleep(5.0)
        context.stop.set("signal", 1.0)
    assert trio.current_time() <= 5.0 + SETTLE_SECONDS + SLICE
