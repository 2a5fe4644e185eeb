"""Two troubles at once: what one leaves behind does not make the other worse."""

import trio

from notifierd.model import State
from notifierd.once import Once, Options
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
