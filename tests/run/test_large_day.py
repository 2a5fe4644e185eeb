"""A large day: its first messages leave before its last offices are planned. In virtual time, two offices in a step."""

from collections.abc import Awaitable, Callable
from datetime import date

import trio
from attrs import define, evolve
from structlog.testing import capture_logs

from notifierd.model.counts import Capacity, DayCounts, Planned
from notifierd.model.delivery import State
from notifierd.model.errors import LedgerUnavailable, StatementRefused
from notifierd.rules.cluster.membership import ALONE, Terms
from notifierd.rules.due import Rules
from notifierd.run.day import run_day
from notifierd.store.ledger import LEASE_SECONDS, UNLIMITED
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, a_run, limited

SHARED = Terms(shares=True, config_hash="same")
STEP_SECONDS = 10.0


@define
class SlowPlan(ShakyLedger):
    """Each step of a plan takes STEP_SECONDS."""

    plan_step: int = 2
    plans: int = 0
    steps: int = 0

    async def plan(self, day: object, rules: Rules, capacity: Capacity = UNLIMITED) -> Planned:
        await trio.sleep(STEP_SECONDS)
        self.plans += 1
        return await super().plan(DAY, rules, capacity)

    async def plan_next(self, day: object, rules: Rules, capacity: Capacity) -> Planned:
        await trio.sleep(STEP_SECONDS)
        self.steps += 1
        return await super().plan_next(DAY, rules, capacity)


async def test_the_first_messages_leave_before_the_last_offices_are_planned(autojump_clock):
    ledger, sender = SlowPlan(some_offices(7, staff=2)), ScriptedSender(max_batch=1)
    with capture_logs() as logs, trio.fail_after(3600):
        result = await run_day(DAY, a_run(ledger, sender))
    assert ledger.states() == {State.SENT: 14}
    assert result.state == "completed"
    assert result.counts is not None
    assert (result.counts.email.sent, result.counts.offices) == (14, 7)
    assert min(call.began for call in sender.calls) < STEP_SECONDS + 1.0
    assert (ledger.plans, ledger.steps) == (1, 3)
    plans = [line for line in logs if line["event"] == "planned"]
    assert [(line["offices"], line["email"], line["offices_later"]) for line in plans] == [
        (2, 4, 5),
        (4, 8, 3),
        (6, 12, 1),
        (7, 14, 0),
    ]


async def test_a_quota_holds_over_all_steps(autojump_clock):
    for terms in (ALONE, SHARED):
        ledger, sender = SlowPlan(some_offices(7, staff=2)), ScriptedSender(max_batch=1)
        with trio.fail_after(3600):
            await run_day(DAY, a_run(ledger, sender, email_per_day=9, window_left=200.0, terms=terms))
        assert ledger.states() == {State.SENT: 9, State.EXPIRED: 5}
        assert ledger.reasons()[State.EXPIRED, "window_ended (email_per_day)"] == 5


async def test_a_window_that_ends_before_all_is_planned_interrupts_the_run(autojump_clock):
    ledger, sender = SlowPlan(some_offices(7, staff=2)), ScriptedSender(max_batch=1)
    with trio.fail_after(3600):
        result = await run_day(DAY, a_run(ledger, sender, window_left=15.0))
    assert (result.state, result.reason, result.will_be_resumed) == ("interrupted", "plan_incomplete", False)
    assert (ledger.runs[DAY].state, ledger.states()) == ("interrupted", {State.SENT: 4})
    assert result.counts is not None
    assert {untold.office_id for untold in result.counts.untold} == {
        office for office in ledger.app.offices if (DAY, office) not in ledger.offices
    }


async def test_a_signal_in_the_middle_of_the_plan_leaves_the_rest_to_the_next_run(autojump_clock):
    ledger, sender = SlowPlan(some_offices(7, staff=2)), ScriptedSender(max_batch=1)
    context = a_run(ledger, sender)

    async def terminate() -> None:
        await trio.sleep(15.0)
        context.stop.set("signal", 5.0)

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminate)
            result = await run_day(DAY, context)
        assert (result.state, result.reason) == ("interrupted", "signal")
        assert ledger.runs[DAY].state == "interrupted"
        again = ScriptedSender(max_batch=1)
        assert (await run_day(DAY, a_run(ledger, again))).state == "completed"
    assert ledger.states() == {State.SENT: 14}
    assert len(sender.told) + len(again.told) == 14


async def test_a_large_day_that_was_planned_before_is_resumed_at_once(autojump_clock):
    """Its process died when all was planned. Somebody came since then, and is told by the plan beside it."""
    ledger, sender = SlowPlan(some_offices(7, staff=2), plan_step=100), ScriptedSender(max_batch=1, seconds=0.5)
    with trio.move_on_after(STEP_SECONDS + 1.0):
        await run_day(DAY, a_run(ledger, sender))
    sent = len(sender.told)
    assert 0 < sent < 14
    ledger.plan_step = 2
    ledger.app = evolve(some_offices(7, staff=3), audit_log=ledger.app.audit_log)
    await trio.sleep(60.0)
    began, again = trio.current_time(), ScriptedSender(max_batch=1, seconds=0.5)
    with trio.fail_after(3600):
        assert (await run_day(DAY, a_run(ledger, again))).state == "completed"
    assert min(call.began for call in again.calls) < began + 1.0
    assert ledger.states() == {State.SENT: 21}


async def test_who_leads_next_goes_on_with_the_plan(autojump_clock):
    ledger = SlowPlan(some_offices(9, staff=2))
    senders = {name: ScriptedSender(max_batch=1) for name in "ab"}
    scopes = {name: trio.CancelScope() for name in "ab"}
    results = {}

    def member(name: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            with scopes[name]:
                results[name] = await run_day(DAY, a_run(ledger, senders[name], holder=name, terms=SHARED))

        return work

    async def kill() -> None:
        await trio.sleep(2.5 * STEP_SECONDS)
        assert ledger.steps == 1
        scopes["a"].cancel()

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member("a"))
            await trio.sleep(0.1)
            nursery.start_soon(member("b"))
            nursery.start_soon(kill)
    assert ledger.states() == {State.SENT: 18}
    assert results["b"].state == ledger.runs[DAY].state == "completed"
    assert trio.current_time() < 2.5 * STEP_SECONDS + LEASE_SECONDS + 4 * STEP_SECONDS


async def test_what_is_planned_while_the_day_is_counted_is_sent(autojump_clock):
    """A count takes longer than the rest of the plan, and does not see it."""

    class SlowCount(SlowPlan):
        async def counts(self, day: date, rules: Rules, *, interim: bool = False) -> DayCounts:
            counted = await super().counts(day, rules, interim=interim)
            await trio.sleep(1.5 * STEP_SECONDS)
            return counted

    ledger, sender = SlowCount(some_offices(5, staff=2)), ScriptedSender(max_batch=1)
    with trio.fail_after(3600):
        result = await run_day(DAY, a_run(ledger, sender, email_per_day=100))
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 10})


async def test_a_step_whose_answer_was_lost_is_counted_all_the_same(autojump_clock):
    class Deaf(SlowPlan):
        async def plan_next(self, day: object, rules: Rules, capacity: Capacity) -> Planned:
            planned = await super().plan_next(day, rules, capacity)
            if self.steps == 1:
                raise LedgerUnavailable("database_unavailable:08006")
            return planned

    ledger, sender = Deaf(some_offices(5, staff=2)), ScriptedSender(max_batch=1)
    context = a_run(ledger, sender)
    with trio.fail_after(3600):
        assert (await run_day(DAY, context)).state == "completed"
    assert ledger.states() == {State.SENT: 10}
    assert context.progress.planned is not None
    assert (context.progress.planned.email, context.progress.planned.later) == (10, 0)


async def test_a_plan_that_could_not_be_noted_is_noted_later(autojump_clock):
    class Refusing(SlowPlan):
        refused = 0

        async def note_plan(self, day: date, holder: str, planned: Planned) -> int:
            if planned.is_complete and not self.refused:
                self.refused += 1
                return 0
            return await super().note_plan(day, holder, planned)

    ledger, sender = Refusing(some_offices(5, staff=2)), ScriptedSender(max_batch=1)
    with trio.fail_after(3600):
        assert (await run_day(DAY, a_run(ledger, sender))).state == "completed"
    assert trio.current_time() < 5 * STEP_SECONDS


async def test_who_closes_the_day_knows_what_a_later_step_exceeded(autojump_clock):
    """One call a second for 60 s: the first steps fit, the last ones do not. The leader ends after its last step."""
    ledger = SlowPlan(some_offices(40, staff=2), plan_step=10)
    senders = {name: ScriptedSender(max_batch=1) for name in "ab"}
    contexts = {
        name: a_run(ledger, limited(senders[name], 4, per_second=1.0), holder=name, terms=SHARED, window_left=60.0)
        for name in "ab"
    }

    async def terminate() -> None:
        await trio.sleep(4.5 * STEP_SECONDS)
        contexts["a"].stop.set("signal", 5.0)

    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_day, DAY, contexts["a"])
            await trio.sleep(0.1)
            nursery.start_soon(run_day, DAY, contexts["b"])
            nursery.start_soon(terminate)
    late = {reason for state, reason in ledger.reasons() if state is State.EXPIRED}
    assert "window_ended (email_per_second)" in late
    assert "window_ended" not in late


async def test_a_step_that_the_database_does_not_carry_out_is_tried_again(autojump_clock):
    class Away(SlowPlan):
        async def plan_next(self, day: object, rules: Rules, capacity: Capacity) -> Planned:
            if trio.current_time() < 3 * STEP_SECONDS:
                raise StatementRefused("database_refused:55P03")
            return await super().plan_next(day, rules, capacity)

    ledger, sender = Away(some_offices(5, staff=2)), ScriptedSender(max_batch=1)
    with capture_logs() as logs, trio.fail_after(3600):
        assert (await run_day(DAY, a_run(ledger, sender))).state == "completed"
    assert ledger.states() == {State.SENT: 10}
    assert [line["event"] for line in logs].count("waiting_for_database") == 1
