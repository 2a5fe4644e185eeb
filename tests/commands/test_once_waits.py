"""``once`` whose database is in trouble for longer than its lease, in virtual time."""

from contextlib import suppress
from uuid import UUID

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs

from notifierd.commands.once import Once, Options
from notifierd.config.settings import Settings
from notifierd.model.delivery import State
from notifierd.model.errors import LeaseHeld, LedgerUnavailable, StatementRefused
from notifierd.rules.report import RunResult
from notifierd.store.ledger import LEASE_SECONDS
from tests.support.checked_database import settings_for
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, a_run, between


def an_once(seconds: float = 900.0) -> Once:
    """To be run with what a test hands it: nothing is opened."""
    settings: Settings = settings_for("postgresql:///nowhere")
    return Once(settings, Options(day=DAY, force=True, seconds=seconds))


async def run(one: Once, ledger: ShakyLedger, email: ScriptedSender) -> RunResult:
    context = a_run(ledger, email, stop=one.stop, progress=one.progress)
    return await one.run_with(context)


async def test_a_run_whose_lease_was_lost_to_the_databases_trouble_goes_on_when_it_is_back(autojump_clock):
    """Away from 6 s to 66 s: its calls are cut before the lease ends, and made again under their keys."""
    ledger = ShakyLedger(some_offices(60, staff=1), down=between((6.0, 66.0)))
    email = ScriptedSender(honours_keys=True, seconds=1.5)
    with capture_logs() as logs:
        result = await run(an_once(), ledger, email)
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 60})
    assert len(email.told) == len(set(email.told)) == 60
    assert (len(ledger.app.audit_log), ledger.late) == (60, [])
    about = [line for line in logs if line["event"] not in {"planned", "ended", "call_in_trouble"}]
    assert [line["event"] for line in about] == ["waiting_for_database", "lease_lost", "database_back"]


async def test_a_run_whose_lease_the_database_forgot_goes_on_if_nobody_has_it(autojump_clock):
    """At 7 s a replica takes over that lacks the last renewals, so that the lease has run out there."""
    ledger = ShakyLedger(some_offices(60, staff=1))
    email = ScriptedSender(honours_keys=True, seconds=1.5)

    async def forget() -> None:
        await trio.sleep_until(7.0)
        ledger.runs[DAY].lease_until = 6.5

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forget)
        result = await run(an_once(), ledger, email)
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 60})
    assert len(email.told) == len(set(email.told)) == 60
    assert trio.current_time() < 60.0


async def test_a_run_waits_for_the_database_no_longer_than_it_may_take(autojump_clock):
    """Ended at 100 s, whatever the trouble is: with what tells that the database was out of reach."""
    ledger = ShakyLedger(some_offices(20, staff=1), down=lambda: trio.current_time() >= 2.5)
    with pytest.raises(LedgerUnavailable, match="08006"):
        await run(an_once(100.0), ledger, ScriptedSender())
    assert 100.0 <= trio.current_time() <= 111.0


async def test_a_database_that_refuses_the_lease_in_mid_run_is_waited_for_likewise(autojump_clock):
    class ReadOnly(ShakyLedger):
        def _refuse(self) -> None:
            if 2.5 <= trio.current_time() < 50.0:
                raise StatementRefused("database_refused:25006")

        async def take_lease(self, *args):
            self._refuse()
            return await ShakyLedger.take_lease(self, *args)

        async def renew_lease(self, *args):
            self._refuse()
            return await ShakyLedger.renew_lease(self, *args)

        async def reserve(self, day, holder, reservations) -> set[UUID]:
            self._refuse()
            return await ShakyLedger.reserve(self, day, holder, reservations)

    ledger = ReadOnly(some_offices(20, staff=1))
    result = await run(an_once(), ledger, ScriptedSender())
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 20})
    assert 50.0 < trio.current_time() < 60.0


async def test_a_database_that_is_away_before_the_plan_ends_it_at_once(autojump_clock):
    ledger = ShakyLedger(some_offices(3, staff=1), down=lambda: True)
    with pytest.raises(LedgerUnavailable):
        await run(an_once(), ledger, ScriptedSender())
    assert trio.current_time() == 0.0


async def test_a_signal_ends_the_waiting(autojump_clock):
    ledger = ShakyLedger(some_offices(20, staff=1), down=lambda: trio.current_time() >= 2.5)
    one = an_once()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def interrupt() -> None:
            await trio.sleep_until(40.0)
            one.stop.set("signal", 5.0)

        with pytest.raises(LedgerUnavailable):
            await run(one, ledger, ScriptedSender())
    assert 40.0 < trio.current_time() <= 52.0


async def test_a_day_that_another_process_took_over_meanwhile_is_left_to_it(autojump_clock):
    ledger = ShakyLedger(some_offices(60, staff=1))

    async def keep_lease() -> None:
        while True:
            await trio.sleep(1.0)
            with suppress(LeaseHeld):
                await ledger.take_lease(DAY, "other")

    async def run_cut_off() -> None:
        await run(an_once(), evolve(ledger, down=between((6.0, 66.0))), ScriptedSender())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_lease)
        with pytest.raises(LeaseHeld, match="other"):
            await run_cut_off()
        nursery.cancel_scope.cancel()
    assert 66.0 < trio.current_time() < 66.0 + 2 * LEASE_SECONDS + 5.0
