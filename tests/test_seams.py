"""Two troubles at once: what one leaves behind does not make the other worse."""

import pytest
import trio

from notifierd.deps import EXIT_SLACK
from notifierd.errors import LedgerUnavailable
from notifierd.model import State
from notifierd.once import Once, Options
from notifierd.run import run_day
from tests.people import DAY, some_offices
from tests.place import settings_for
from tests.senders import ScriptedSender, ShakyLedger, a_run


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
        deps = a_run(ledger, email, stop=once.stop, progress=once.progress)
        result = await once.run_with(deps)
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 60})
    assert len(email.told) == len(set(email.told)) == 60
    assert max(at for at, *_ in email.accepted) < 120.0


async def test_a_stop_is_bounded_though_a_call_is_being_reserved_by_a_database_that_hangs(autojump_clock):
    """Hanging from 1.5 s, so that the next reservations get no answer; stopped at 3 s with 10 s of grace."""
    ledger = ShakyLedger(some_offices(60, staff=1))
    deps = a_run(ledger, ScriptedSender(seconds=2.0))

    async def hang_and_stop() -> None:
        await trio.sleep_until(1.5)
        ledger.latency = 1000.0
        await trio.sleep_until(3.0)
        deps.stop.set("signal", 10.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_and_stop)
        with pytest.raises(LedgerUnavailable):
            await run_day(DAY, deps)
    assert trio.current_time() <= 3.0 + 10.0 + EXIT_SLACK
