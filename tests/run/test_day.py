"""A day's run, whole, in virtual time: the real spine over providers that follow a script and a ledger in memory.

Times are exact. What is stated once: a run ends GATHER (50 ms) after its last call, when that call's outcome is
written; and what a provider makes wait does so from then on, so that each pause is longer by GATHER.
"""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
import trio
from attrs import define, evolve
from structlog.testing import capture_logs

from notifierd.config.settings import Settings
from notifierd.messages.render import Renderer
from notifierd.model.counts import Backlog
from notifierd.model.delivery import Channel, State
from notifierd.model.errors import LeaseHeld, LeaseLost, LedgerUnavailable, StatementRefused
from notifierd.model.outcome import Blame, Blocked, Deferred, Gone, Outcome, Rejected, Unknown
from notifierd.rules.due import Rules
from notifierd.rules.report import RunReport, RunResult
from notifierd.run.context import RunContext
from notifierd.run.day import run_day
from notifierd.run.record.lease import GIVE_BACK_SECONDS
from notifierd.run.record.recorder import GATHER
from notifierd.run.stop import SETTLE_SECONDS
from notifierd.store.ledger import LEASE_SECONDS, UNLIMITED
from notifierd.store.source import CHUNK, START, Chunk, Claim, Place
from tests.support.memory import Application
from tests.support.samples import DAY, an_id, some_offices
from tests.support.scripted_senders import (
    DOWN,
    TAKEN,
    Member,
    PlainRenderer,
    ScriptedSender,
    ShakyLedger,
    Swallowed,
    Try,
    a_member,
    a_run,
    between,
    limited,
    most_at_once,
    spans,
)

SLACK = 1e-6
"""Of virtual time: rounding, nothing else."""


async def ended(context: RunContext) -> RunResult:
    """The run of DAY, which must come to an end."""
    with trio.fail_after(86_400):
        return await run_day(DAY, context)


def exit_code(result: RunResult) -> int:
    return RunReport(str(DAY), result, 0, 0, 0.0).exit_code


async def at(seconds: float, action: Callable[[], object]) -> None:
    await trio.sleep_until(seconds)
    action()


def exactly(seconds: float) -> object:
    return pytest.approx(seconds, abs=SLACK)


def within_gather(seconds: float) -> object:
    """*seconds*, and up to GATHER more, in which earlier outcomes are written."""
    return pytest.approx(seconds + GATHER / 2, abs=GATHER / 2 + SLACK)


def a_staff_of(app: Application, number: int) -> list[Member]:
    """*number* staff members of as many offices, in the order in which their offices' turns come."""
    return [a_member(app, f"s{n}", left=n % 30) for n in range(number)]


# The headline -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parallel", "seconds"), [(10, 150.0), (1, 1500.0)])
async def test_500_offices_of_3_seconds_take_1500_seconds_divided_by_how_many_go_in_parallel(
    parallel: int, seconds: float, autojump_clock
):
    """500 x 3 s / 10 = 150 s, to the end of the last call; another GATHER until all is written."""
    ledger = ShakyLedger(some_offices(500, staff=2))
    email = ScriptedSender(max_batch=100, seconds=3.0)
    result = await ended(a_run(ledger, limited(email, 10), offices=parallel, window_left=3600.0))
    assert len(email.calls) == 500
    assert max(end for _, end in spans(email.calls)) == exactly(seconds)
    assert trio.current_time() == exactly(seconds + GATHER)
    assert most_at_once(spans(email.calls)) == parallel
    assert ledger.states() == {State.SENT: 1000}
    assert len(set(email.told)) == 1000
    assert (result.state, exit_code(result)) == ("completed", 0)


# Limits -------------------------------------------------------------------------------------------------------------


async def test_no_limit_is_ever_passed_and_each_is_used_whole(autojump_clock):
    """4 offices, 3 mails, 5 pushes, 2 of them for one origin of three, at once."""
    app = Application()
    hosts = ["a.example", "b.example", "c.example"]
    members = [a_member(app, f"s{n}-{m}", office=f"office {n}", hosts=hosts) for n in range(12) for m in range(3)]
    ledger = ShakyLedger(app)
    email = ScriptedSender(seconds=lambda to: 1.0 + len(to) % 3)
    push = ScriptedSender(seconds=lambda to: 2.0 + int(to[-1], 16) % 4)
    context = a_run(ledger, limited(email, 3), limited(push, 5, per_destination=2), offices=4)
    await ended(context)
    assert ledger.states() == {State.SENT: 12 * 3 * 4}
    assert most_at_once(spans(email.calls)) == 3
    assert most_at_once(spans(push.calls)) == 5
    for host in hosts:
        assert most_at_once(spans([call for call in push.calls if call.destination == host])) == 2
    office_of = {key: row.delivery.office_id for key, row in ledger.rows.items()}
    by_office: dict[UUID, list[tuple[float, float]]] = {}
    for call in [*email.calls, *push.calls]:
        assert call.ended is not None
        by_office.setdefault(office_of[call.deliveries[0]], []).append((call.began, call.ended))
    offices = [(min(b for b, _ in of_one), max(e for _, e in of_one)) for of_one in by_office.values()]
    assert most_at_once(offices) == 4
    assert len({member.office for member in members}) == len(offices)


async def test_a_pass_begins_behind_the_offices_that_are_done(autojump_clock):
    """The 21st of 30 offices is put off for a while, and the second pass looks at no office before it."""
    starts: list[Place] = []

    @define
    class Watched(ShakyLedger):
        async def read(self, day: date, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
            starts.append(after)
            return await super().read(day, after, rules, claim, most)

    app = Application()
    staff = a_staff_of(app, 30)
    slow = staff[20]
    email = ScriptedSender(
        script=lambda sent: (
            Deferred("rate_limited:429", 5.0, Blame.MESSAGE) if sent.to == slow.address and sent.nth == 1 else TAKEN
        )
    )
    ledger = Watched(app)
    await ended(a_run(ledger, email))
    assert ledger.states() == {State.SENT: 30}
    assert starts == [START, (24, staff[24].office), (19, staff[19].office)], (
        "the first pass reads 25 offices by themselves"
    )


async def test_an_office_that_was_done_gets_what_a_later_plan_adds_while_another_waits_for_its_provider(autojump_clock):
    app = Application()
    first = a_member(app, "a", office="first")
    ledger = ShakyLedger(app)
    await ended(a_run(ledger, ScriptedSender()))
    ledger.done.add((DAY, first.office))
    again = trio.current_time()
    a_member(app, "newcomer", office="first", hosts=["push.example"])
    a_member(app, "b", office="second")
    push = ScriptedSender(Channel.PUSH)
    await ended(a_run(ledger, ScriptedSender(script=lambda _: Blocked("blocked:401")), push, window_left=120.0))
    assert [call.began for call in push.calls] == [exactly(again)]


async def test_no_task_waits_for_an_office_that_is_not_begun(autojump_clock):
    """200 offices, 2 at a time: no more tasks than 2 need, and a chunk is read when there is a slot for its first."""
    ledger = ShakyLedger(some_offices(200, staff=1), chunk=5)
    tasks: list[int] = []
    email = ScriptedSender(meanwhile=lambda: tasks.append(trio.lowlevel.current_statistics().tasks_living))
    before = trio.lowlevel.current_statistics().tasks_living
    await ended(a_run(ledger, email, offices=2))
    run_with_its_recorder_and_counts = 8
    assert max(tasks) - before <= run_with_its_recorder_and_counts + 2 * 2
    # The 6th, 11th, 16th ... office gets its slot at 2, 5, 7 ...: only then is its chunk read.
    assert ledger.reads == [float(5 * n // 2) for n in range(40)]


async def test_calls_keep_the_interval_that_the_rate_asks_for(autojump_clock):
    """4 a second: the 20th call begins at 19 / 4 s."""
    email = ScriptedSender(seconds=0.1)
    await ended(a_run(ShakyLedger(some_offices(20, staff=1)), limited(email, 5, per_second=4.0)))
    assert [call.began for call in email.calls] == [exactly(n / 4) for n in range(20)]


async def test_the_rate_is_kept_when_slots_come_free_all_at_once(autojump_clock):
    """5 calls end together at 10 s; the five that waited for their slots do not begin together."""
    email = ScriptedSender(seconds=lambda to: 10.0 - trio.current_time() if trio.current_time() < 10 else 1.0)
    await ended(a_run(ShakyLedger(some_offices(10, staff=1)), limited(email, 5, per_second=5.0)))
    began = [call.began for call in email.calls]
    assert min(later - earlier for earlier, later in pairwise(began)) >= 0.2 - SLACK
    assert began[-1] == exactly(10.8)


# An office ----------------------------------------------------------------------------------------------------------


async def test_a_slow_mail_never_holds_up_a_push(autojump_clock):
    app = Application()
    member = a_member(app, "taro", hosts=["push.example"])
    email, push = ScriptedSender(seconds=29.0), ScriptedSender(seconds=1.0)
    ledger = ShakyLedger(app)
    await ended(a_run(ledger, email, push))
    assert push.accepted == [(exactly(1.0), member.push(), member.devices[0].endpoint)]
    assert email.accepted == [(exactly(29.0), member.mail, member.address)]
    assert ledger.written == [(exactly(1.0 + GATHER), 1), (exactly(29.0 + GATHER), 1)]


async def test_a_push_service_that_hangs_does_not_hold_up_another(autojump_clock):
    """6 slots, 2 for one origin: 8 pushes that hang for 30 s each, and 8 of 1 s that are done after 2 s."""
    app = Application()
    for n in range(8):
        a_member(app, f"s{n}", office="one", hosts=["hangs.example", "works.example"])
    push = ScriptedSender(seconds=lambda to: 1000.0 if "hangs" in to else 1.0)
    context = a_run(ShakyLedger(app), ScriptedSender(), limited(push, 6, per_destination=2), window_left=25.0)
    await ended(context)
    assert sorted(at for at, _, _ in push.accepted) == [exactly(float(1 + n // 2)) for n in range(8)]


async def test_email_and_push_decide_apart(autojump_clock):
    """A dead mail API, no address, an opted-out mailbox: no push is missed for it. And the other way round."""
    app = Application()
    members = [a_member(app, f"s{n}", hosts=["push.example"]) for n in range(3)]
    app.staff[0] = (members[0].office, evolve(members[0].staff, email=None))
    app.staff[1] = (members[1].office, evolve(members[1].staff, push_enabled=False))
    ledger = ShakyLedger(app)
    email, push = ScriptedSender(script=lambda _: DOWN), ScriptedSender()
    await ended(a_run(ledger, email, push, window_left=100.0))
    assert push.told == sorted(members[n].devices[0].endpoint for n in (0, 2))
    assert ledger.states(Channel.EMAIL) == {State.EXPIRED: 2}

    ledger, email, push = ShakyLedger(app), ScriptedSender(), ScriptedSender(script=lambda _: Gone("gone:410"))
    result = await ended(a_run(ledger, email, push, window_left=100.0))
    assert email.told == [members[1].address, members[2].address]
    assert ledger.states(Channel.PUSH) == {State.GONE: 2}
    assert set(app.devices) == {members[1].devices[0].id}, "the devices that are gone, and no other"
    assert exit_code(result) == 0, "a device that is gone is nobody's failure"


async def test_the_overdue_office_comes_first(autojump_clock):
    app = Application()
    lefts = [3, 20, -7, 0, 30, -1]
    members = {left: a_member(app, f"in {left}", left=left) for left in lefts}
    email = ScriptedSender()
    await ended(a_run(ShakyLedger(app), email, offices=1))
    assert [call.to for call in email.calls] == [(members[left].address,) for left in sorted(lefts)]


async def test_a_poisoned_office_fails_alone_and_is_named(autojump_clock):
    app = some_offices(50, staff=2, devices=1)
    bad = an_id("office 17")
    ledger = ShakyLedger(app)
    email, push = ScriptedSender(max_batch=100), ScriptedSender()
    with capture_logs() as logs:
        result = await ended(a_run(ledger, email, push, renderer=PlainRenderer({bad})))
    assert ledger.reasons() == {(State.SENT, None): 49 * 4, (State.FAILED, "office_error:ValueError"): 4}
    assert result.counts is not None
    assert {failure.office_id for failure in result.counts.failures} == {bad}
    assert (result.counts.offices, result.counts.offices_failed, result.state) == (50, 1, "completed")
    assert exit_code(result) == 1
    (line,) = [line for line in logs if line["event"] == "office_failed"]
    assert (line["office"], line["reason"]) == (str(bad), "office_error:ValueError")
    assert "staff-17" not in str(logs), "the error's text names a person"


async def test_poisoned_offices_hold_nobody_up_however_busy_the_recorder_is(autojump_clock):
    """Outcomes that keep coming, and a database that takes its time: both bad offices are settled at once anyway."""
    app = some_offices(300, staff=1)
    bad = {an_id("office 6"), an_id("office 26")}
    ledger = ShakyLedger(app, latency=0.03)
    email = ScriptedSender(seconds=0.01)
    context = a_run(ledger, email, renderer=PlainRenderer(set(bad)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ended, context)
        await trio.sleep_until(1.03)
        poisoned = [row.delivery for row in ledger.rows.values() if row.delivery.office_id in bad]
        assert {delivery.state for delivery in poisoned} == {State.FAILED}
        assert ledger.states()[State.PLANNED] > 50, "the recorder was busy all the time"
        assert context.progress.offices_failed == 2
    assert context.progress.settled == {(Channel.EMAIL, State.SENT): 298, (Channel.EMAIL, State.FAILED): 2}


async def test_a_sender_with_a_bug_costs_its_office_alone(autojump_clock):
    app = Application()
    bad, *good = a_staff_of(app, 5)
    email = ScriptedSender(script=lambda this: 1 / 0 if this.to == bad.address else TAKEN)  # type: ignore[arg-type, return-value]
    ledger = ShakyLedger(app)
    await ended(a_run(ledger, email))
    assert email.told == [member.address for member in good]
    assert ledger.state(bad.mail) == (State.FAILED, "office_error:ZeroDivisionError")


async def test_an_error_beside_a_cancellation_is_isolated_and_the_cancellation_passes(autojump_clock):
    """Cut at 3 s, one of two calls answers the cancellation with a bug: its office fails, and the run still ends."""
    app = Application()
    bad, _ = (a_member(app, name, office="one") for name in ("bad", "calm"))

    class Sender(ScriptedSender):
        async def send(self, messages, body, idempotency_key):
            try:
                return await super().send(messages, body, idempotency_key)
            except trio.Cancelled:
                if messages[0].to == bad.address:
                    raise RuntimeError from None
                raise

    ledger = ShakyLedger(app)
    context = a_run(ledger, Sender(seconds=100.0, honours_keys=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 2.0, lambda: context.stop.set("signal", 1.0))
        result = await ended(context)
    assert trio.current_time() == exactly(3.0 + GATHER)
    assert (result.state, result.counts and result.counts.offices_failed) == ("interrupted", 1)
    assert ledger.reasons() == {(State.UNKNOWN, "office_error:RuntimeError"): 2}


async def test_what_is_no_longer_due_or_has_lost_its_target_is_expired_with_that_reason(autojump_clock):
    app = Application()
    names = ("leaves", "opts out", "is renewed", "closes", "changes phones", "stays")
    who = {name: a_member(app, name, hosts=["push.example"]) for name in names}
    ledger = ShakyLedger(app)
    await ledger.take_lease(DAY, "an earlier process")
    await ledger.plan(DAY, Rules())
    await ledger.finish(DAY, "an earlier process", "interrupted", "signal")
    app.staff = [(office, staff) for office, staff in app.staff if staff != who["leaves"].staff]
    app.staff = [
        (office, evolve(staff, email_enabled=False) if staff == who["opts out"].staff else staff)
        for office, staff in app.staff
    ]
    app.alerts = [(office, alert) for office, alert in app.alerts if office != who["is renewed"].office]
    del app.offices[who["closes"].office]
    del app.devices[who["changes phones"].devices[0].id]
    email, push = ScriptedSender(), ScriptedSender()
    context = a_run(ledger, email, push)
    await ended(context)
    assert ledger.reasons() == {
        (State.EXPIRED, "staff_gone"): 2,
        (State.EXPIRED, "no_longer_due"): 1 + 2,
        (State.EXPIRED, "office_gone"): 2,
        (State.EXPIRED, "device_gone"): 1,
        (State.SENT, None): 1 + 1 + 2,
    }
    assert email.told == sorted(who[name].address for name in ("changes phones", "stays"))
    assert context.progress.settled[Channel.EMAIL, State.EXPIRED] == 4


async def test_a_bad_address_fails_alone_with_its_reason(autojump_clock):
    """Neither its office, nor its call, nor the push to the same person."""
    app = Application()
    members = [a_member(app, name, office="one", hosts=["push.example"]) for name in ("good", "none", "odd", "far")]
    addresses = [members[0].address, " ", "a@example.jp, b@example.jp", "遠い@example.jp"]
    app.staff = [
        (office, evolve(staff, email=address)) for (office, staff), address in zip(app.staff, addresses, strict=True)
    ]
    ledger, email, push = ShakyLedger(app), ScriptedSender(max_batch=10), ScriptedSender()
    context = a_run(ledger, email, push, renderer=Renderer(Settings()))
    result = await ended(context)
    assert ledger.reasons() == {
        (State.SENT, None): 1 + 4,
        (State.FAILED, "no_address"): 1,
        (State.FAILED, "bad_address"): 1,
        (State.FAILED, "address_not_ascii"): 1,
    }
    assert [call.to for call in email.calls] == [(addresses[0],)]
    assert context.progress.settled[Channel.EMAIL, State.FAILED] == 3
    assert context.progress.offices_failed == 0
    assert exit_code(result) == 1


async def test_a_channel_that_was_switched_off_expires_what_it_left(autojump_clock):
    app = Application()
    member = a_member(app, "taro", hosts=["push.example"])
    ledger = ShakyLedger(app)
    await ledger.plan(DAY, Rules())
    await ended(a_run(ledger, ScriptedSender()))
    assert ledger.state(member.push()) == (State.EXPIRED, "channel_disabled")
    assert ledger.state(member.mail) == (State.SENT, None)


async def test_a_sent_mail_and_the_first_of_several_pushes_are_audited(autojump_clock):
    app = Application()
    member = a_member(app, "taro", hosts=["a.example", "b.example"])
    await ended(a_run(ShakyLedger(app), ScriptedSender(), ScriptedSender()))
    assert sorted((row["channel"], row["target_id"], str(row["details"])) for row in app.audit_log) == [
        ("email", member.staff.id, "{'alerts': 1}"),
        ("push", member.staff.id, "{'alerts': 1}"),
    ]


# Deferred -----------------------------------------------------------------------------------------------------------


async def test_retry_after_is_honoured_by_the_whole_destination_and_costs_nobody_an_attempt(autojump_clock):
    """At 1 s the API asks for 3 s: nothing goes out before 4 s, all goes out in the end."""
    email = ScriptedSender(
        script=lambda this: Deferred("rate_limited:429", 3.0, Blame.PROVIDER) if this.at < 2 else TAKEN
    )
    ledger = ShakyLedger(some_offices(30, staff=1))
    await ended(a_run(ledger, email))
    assert email.began[:2] == [0.0, exactly(4.0 + GATHER)]
    assert len(email.told) == len(set(email.told)) == 30
    assert {(row.delivery.state, row.delivery.attempts) for row in ledger.rows.values()} == {(State.SENT, 0)}


async def test_a_deferral_of_one_destination_leaves_the_others_alone(autojump_clock):
    app = Application()
    for n in range(5):
        a_member(app, f"s{n}", hosts=["busy.example", "calm.example"])
    push = ScriptedSender(
        script=lambda this: (
            Deferred("rate_limited:429", 60.0, Blame.PROVIDER) if "busy" in this.to and this.at < 60 else TAKEN
        )
    )
    email = ScriptedSender()
    await ended(a_run(ShakyLedger(app), email, push))
    assert max(at for at, _, to in push.accepted if "calm" in to) == exactly(1.0)
    assert max(at for at, _, _ in email.accepted) == exactly(1.0)
    assert min(at for at, _, to in push.accepted if "busy" in to) >= 61.0
    assert len(push.told) == 10


@pytest.mark.parametrize("blame", [Blame.MESSAGE, Blame.UNCLEAR])
async def test_an_address_that_is_deferred_while_others_pass_fails_after_its_attempts_and_slows_nobody(
    blame: Blame, autojump_clock
):
    """Of the others every third is deferred once, and every third twice: some pass in each of the bad one's tries."""
    app = Application()
    bad, *others = a_staff_of(app, 31)
    passes_at = {member.address: 1 + n % 3 for n, member in enumerate(others)}

    def script(this: Try) -> Outcome:
        if this.to == bad.address:
            return Deferred("greylisted", blame=blame)
        return TAKEN if this.nth >= passes_at[this.to] else Deferred("greylisted", blame=Blame.MESSAGE)

    async def tell(script: Callable[[Try], Outcome]) -> tuple[ShakyLedger, ScriptedSender]:
        began = trio.current_time()
        ledger = ShakyLedger(app)
        email = ScriptedSender(script=script, seconds=lambda to: 1.0 if to == bad.address else 0.99)
        await ended(a_run(ledger, limited(email, 40), offices=40))
        email.accepted = sorted((round(at - began, 6), key, to) for at, key, to in email.accepted if to != bad.address)
        return ledger, email

    ledger, email = await tell(script)
    assert ledger.reasons() == {(State.SENT, None): 30, (State.FAILED, "greylisted"): 1}
    assert ledger.rows[bad.mail].delivery.attempts == 3
    assert sum(call.to == (bad.address,) for call in email.calls) == 3
    _, healthy = await tell(lambda this: TAKEN if this.to == bad.address else script(this))
    assert email.accepted == healthy.accepted


async def test_one_that_is_deferred_while_nothing_passes_is_tried_to_the_windows_end_and_costs_no_attempt(
    autojump_clock,
):
    """The only one that is left cannot tell its own trouble from the provider's: pauses of 5 s, then of 8 to 60 s."""
    email = ScriptedSender(script=lambda _: Deferred("server_error:500"))
    ledger = ShakyLedger(some_offices(1, staff=1))
    await ended(a_run(ledger, email, window_left=600.0))
    assert len(email.calls) > 10
    assert ledger.reasons() == {(State.EXPIRED, "window_ended (server_error:500)"): 1}
    assert {row.delivery.attempts for row in ledger.rows.values()} == {0}


async def test_a_message_that_was_deferred_for_its_own_sake_waits_longer_each_time(autojump_clock):
    """Tries of 1 s at 0, then 5 s after the first, then 10 s after the second."""
    app = Application()
    member = a_member(app, "taro")
    email = ScriptedSender(script=lambda _: Deferred("greylisted", blame=Blame.MESSAGE))
    await ended(a_run(ShakyLedger(app), email))
    assert email.began == [0.0, exactly(6.0 + GATHER), exactly(17.0 + 2 * GATHER)]
    assert email.calls[0].deliveries == (member.mail,)


async def test_a_provider_that_is_down_for_the_whole_window_fails_nobody_and_everything_expires(autojump_clock):
    """Five calls of 1 s, then pauses of 1, 2, 4 ... 60 s, from the third on with one call; the window ends at 600 s."""
    ledger = ShakyLedger(some_offices(40, staff=1))
    email = ScriptedSender(script=lambda _: DOWN)
    result = await ended(a_run(ledger, email, window_left=600.0))
    pauses = [later - earlier - 1.0 for earlier, later in pairwise(email.began)]
    assert pauses[:7] == [within_gather(seconds) for seconds in (1, 2, 4, 8, 16, 32, 60)]
    assert Counter(Counter(call.began for call in email.calls).values()) == {5: 3, 1: len(pauses) - 2}
    assert set(map(round, pauses[6:])) == {60}
    assert max(email.began) < 600.0
    assert ledger.reasons() == {(State.EXPIRED, "window_ended (connection_failed)"): 40}
    assert {row.delivery.attempts for row in ledger.rows.values()} == {0}
    assert (result.state, result.reason, exit_code(result)) == ("completed", None, 1)
    assert trio.current_time() == exactly(600.0)
    assert ledger.runs[DAY].state == "completed"


async def test_a_refused_sender_is_left_alone_with_one_alarm_and_nobody_is_failed_for_it(autojump_clock):
    """Refused for 60 s: tries at 0, 16, 47 and 108 s (pauses of 15, 30, 60 s after calls of 1 s); then all is sent."""
    ledger = ShakyLedger(some_offices(30, staff=1))
    email = ScriptedSender(script=lambda this: Blocked("blocked:401") if this.at < 60 else TAKEN)
    context = a_run(ledger, email)
    blocked: list[dict[str, str]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 30.0, lambda: blocked.append(context.transports.breakers.blocked()))
        with capture_logs() as logs:
            result = await ended(context)
    assert email.began[:4] == [0.0, *(within_gather(seconds) for seconds in (16.0, 47.0, 108.0))]
    assert ledger.reasons() == {(State.SENT, None): 30}
    assert {row.delivery.attempts for row in ledger.rows.values()} == {0}
    (alarm,) = [line for line in logs if line["event"] == "sender_blocked"]
    assert (alarm["lane"], alarm["reason"], alarm["log_level"]) == ("scripted", "blocked:401", "error")
    assert blocked == [{"scripted": "blocked:401"}]
    assert context.transports.breakers.blocked() == {}
    assert exit_code(result) == 0


async def test_a_rejected_message_fails_and_the_rest_of_its_batch_does_not(autojump_clock):
    app = Application()
    members = [a_member(app, f"s{n}", office="one") for n in range(4)]
    bad = members[2]
    email = ScriptedSender(
        max_batch=10, script=lambda this: Rejected("rejected:422") if this.to == bad.address else TAKEN
    )
    ledger = ShakyLedger(app)
    await ended(a_run(ledger, email))
    assert len(email.calls) == 1
    assert email.told == [member.address for member in members if member is not bad]
    assert ledger.state(bad.mail) == (State.FAILED, "rejected:422")


async def test_one_that_spoils_a_batch_goes_alone_next_time_and_harms_no_other(autojump_clock):
    """A batch that is refused whole for one of its four: each of the four goes alone, and only that one fails.

    With one attempt, too, and though nothing says that it is a message which is to blame.
    """
    app = Application()
    members = [a_member(app, f"s{n}", office="one") for n in range(4)]
    bad = members[1]

    class Strict(ScriptedSender):
        async def send(self, messages, body, idempotency_key):
            outcomes = await super().send(messages, body, idempotency_key)
            return [Deferred("batch_rejected:422")] * 4 if len(messages) == 4 else outcomes

    email = Strict(max_batch=10, script=lambda this: Rejected("rejected:422") if this.to == bad.address else TAKEN)
    ledger = ShakyLedger(app)
    await ended(a_run(ledger, email, attempts=1))
    assert sorted(len(call.to) for call in email.calls) == [1, 1, 1, 1, 4]
    assert ledger.reasons() == {(State.SENT, None): 3, (State.FAILED, "rejected:422"): 1}
    assert len({call.key for call in email.calls}) == 5


# Unknown ------------------------------------------------------------------------------------------------------------


async def test_a_lost_answer_is_settled_by_the_same_call_under_its_key_whole(autojump_clock):
    """Three mails of one office, taken, and the answer lost: the same key, the same body; nobody is told twice."""
    app = Application()
    members = [a_member(app, f"s{n}", office="one") for n in range(3)]
    email = ScriptedSender(max_batch=10, honours_keys=True, script=lambda this: Swallowed() if this.nth == 1 else TAKEN)
    ledger = ShakyLedger(app)
    result = await ended(a_run(ledger, email))
    first, second = email.calls
    assert (second.key, second.body, second.to) == (first.key, first.body, first.to)
    assert email.told == [member.address for member in members]
    assert ledger.states() == {State.SENT: 3}
    assert {(row.delivery.try_no, row.delivery.call_tries, row.delivery.doubts) for row in ledger.rows.values()} == {
        (2, 2, 0)
    }
    assert exit_code(result) == 0


async def test_a_call_that_takes_too_long_is_cut_and_its_answer_counts_as_lost(autojump_clock):
    """30 s for a call; then the same one again."""
    email = ScriptedSender(honours_keys=True, seconds=lambda _: 31.0 if trio.current_time() < 30 else 1.0)
    ledger = ShakyLedger(some_offices(1, staff=1))
    await ended(a_run(ledger, email))
    first, second = email.calls
    assert first.cut == exactly(30.0)
    assert second.key == first.key
    assert ledger.states() == {State.SENT: 1}


async def test_a_deferred_repeat_says_nothing_of_the_call_whose_answer_was_lost(autojump_clock):
    """Lost, then asked to wait, then refused, then lost again: it stays the same call until the key answers."""
    answers: dict[int, Outcome | Swallowed] = {
        1: Unknown("cut"),
        2: Deferred("rate_limited:429", 2.0, Blame.PROVIDER),
        3: Blocked("blocked:403"),
        4: Swallowed("in_progress:409"),
    }
    email = ScriptedSender(honours_keys=True, script=lambda this: answers.get(this.nth, TAKEN))
    ledger = ShakyLedger(some_offices(1, staff=1))
    await ended(a_run(ledger, email))
    assert len(email.calls) == 5
    assert len({(call.key, call.body) for call in email.calls}) == 1
    assert len(email.told) == 1
    (row,) = ledger.rows.values()
    assert (row.delivery.state, row.delivery.attempts, row.delivery.doubts) == (State.SENT, 0, 0)


@pytest.mark.parametrize(("keyed", "script"), [(False, Unknown("cut")), (True, Unknown("conflict", key_usable=False))])
async def test_a_lost_answer_that_no_key_can_settle_is_repeated_once_and_is_then_unknown(
    keyed: bool, script: Unknown, autojump_clock
):
    email = ScriptedSender(honours_keys=keyed, script=lambda _: script)
    ledger = ShakyLedger(some_offices(3, staff=1))
    result = await ended(a_run(ledger, email))
    assert len(email.calls) == 2 * 3
    assert len({call.key for call in email.calls}) == 6, "each time a call of its own"
    assert ledger.reasons() == {(State.UNKNOWN, script.reason): 3}
    assert {row.delivery.doubts for row in ledger.rows.values()} == {2}
    assert exit_code(result) == 1


async def test_a_lost_answer_without_a_key_is_repeated_once_and_the_repeat_counts(autojump_clock):
    email = ScriptedSender(script=lambda this: Unknown("cut") if this.nth == 1 else TAKEN)
    ledger = ShakyLedger(some_offices(3, staff=1))
    await ended(a_run(ledger, email))
    assert (len(email.calls), len(email.told)) == (6, 3)
    assert ledger.states() == {State.SENT: 3}


async def test_with_hold_a_lost_answer_is_unknown_at_once(autojump_clock):
    email = ScriptedSender(script=lambda _: Swallowed())
    ledger = ShakyLedger(some_offices(3, staff=1))
    await ended(a_run(ledger, email, on_unknown="hold"))
    assert len(email.told) == len(email.calls) == 3
    assert ledger.reasons() == {(State.UNKNOWN, "cut"): 3}


# Other processes ----------------------------------------------------------------------------------------------------


async def killed(ledger: ShakyLedger, email: ScriptedSender, when: float, **changes: object) -> ShakyLedger:
    """Run the day until *when*, then die as by kill -9: nothing more is written. Another process' connection."""
    mortal = evolve(ledger, down=lambda: trio.current_time() >= when, reads=[], reserved=[], written=[])
    context = a_run(mortal, email, holder="dead", **changes)  # type: ignore[arg-type]
    context.stop.over_by = when + SETTLE_SECONDS
    with trio.move_on_at(when), capture_logs():
        await run_day(DAY, context)
    return ledger


async def next_process(context: RunContext) -> tuple[float, RunResult]:
    """Try every second for the day, as ``once`` does; when it was had, and how the run ended."""
    while True:
        began = trio.current_time()
        try:
            return began, await ended(context)
        except LeaseHeld:
            await trio.sleep(1.0)


async def test_another_process_goes_on_after_a_kill_and_nobody_is_told_twice(autojump_clock):
    """Killed at 4.5 s with 5 calls in flight, which the API took: the same go again under their keys, then the rest."""
    ledger = ShakyLedger(some_offices(40, staff=1))
    email = ScriptedSender(honours_keys=True, seconds=2.0)
    await killed(ledger, email, 4.5)
    in_flight = [call for call in email.calls if call.cut is not None]
    assert (len(in_flight), ledger.states()) == (5, {State.SENT: 10, State.SENDING: 5, State.PLANNED: 25})
    for call in in_flight:  # the API was still at work when the process died
        email.take(call)
    began, result = await next_process(a_run(ledger, email, holder="next"))
    assert began == exactly(4.0 + LEASE_SECONDS + 0.5), "it waits for the dead one's lease, and no longer"
    again = [call for call in email.calls if call.began > 4.5 and call.key in {cut.key for cut in in_flight}]
    assert {(call.key, call.body) for call in again} == {(call.key, call.body) for call in in_flight}
    assert min(call.began for call in again) >= 4.0 + 40.0, "not before the dead process could have settled them"
    assert len(email.told) == len(set(email.told)) == 40
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 40})


async def test_what_a_dead_process_left_is_repeated_once_where_no_key_helps(autojump_clock):
    ledger = ShakyLedger(some_offices(3, staff=1))
    email = ScriptedSender(seconds=2.0)
    await killed(ledger, email, 1.0)
    await next_process(a_run(ledger, email, holder="next"))
    assert len(email.calls) == 6
    assert {row.delivery.doubts for row in ledger.rows.values()} == {1}
    assert ledger.states() == {State.SENT: 3}

    ledger = ShakyLedger(some_offices(3, staff=1))
    email = ScriptedSender(seconds=2.0)
    await killed(ledger, email, trio.current_time() + 1.0)
    await next_process(a_run(ledger, email, holder="next", on_unknown="hold"))
    assert len(email.calls) == 3
    assert ledger.reasons() == {(State.UNKNOWN, "process_died"): 3}


async def test_a_call_that_can_no_longer_be_made_to_the_byte_falls_under_the_rule_without_keys(autojump_clock):
    """One office's deadline moved after the kill; the other's message is as it was."""
    app = Application()
    moved, same = a_staff_of(app, 2)
    ledger = ShakyLedger(app)
    email = ScriptedSender(honours_keys=True, seconds=2.0)
    await killed(ledger, email, 1.0)
    app.alerts = [
        (office, evolve(alert, recipient_name="renamed") if office == moved.office else alert)
        for office, alert in app.alerts
    ]
    await next_process(a_run(ledger, email, holder="next"))
    keys = {to: [call.key for call in email.calls if call.to == (to,)] for to in (moved.address, same.address)}
    assert len(set(keys[same.address])) == 1
    assert len(set(keys[moved.address])) == 2
    assert ledger.rows[moved.mail].delivery.doubts == 1
    assert ledger.rows[same.mail].delivery.doubts == 0
    assert ledger.states() == {State.SENT: 2}


async def test_a_key_of_another_provider_settles_no_doubt(autojump_clock):
    ledger = ShakyLedger(some_offices(1, staff=1))
    old, new = (ScriptedSender(name=name, honours_keys=True, seconds=2.0) for name in ("old", "new"))
    await killed(ledger, old, 1.0)
    await next_process(a_run(ledger, new, holder="next"))
    assert old.calls[0].key != new.calls[0].key
    (row,) = ledger.rows.values()
    assert (row.delivery.state, row.delivery.doubts) == (State.SENT, 1)


async def test_a_day_that_nobody_came_back_to_is_closed_by_the_next_days_run(autojump_clock):
    ledger = ShakyLedger(some_offices(8, staff=1))
    email = ScriptedSender(seconds=2.0)
    await killed(ledger, email, 1.0)
    await trio.sleep(86_400)
    await run_day(DAY + timedelta(days=1), a_run(ledger, email, holder="next"))
    states = Counter((row.day, row.delivery.state, row.delivery.reason) for row in ledger.rows.values())
    assert states == {
        (DAY, State.UNKNOWN, "window_ended"): 5,
        (DAY, State.EXPIRED, "window_ended"): 3,
        (DAY + timedelta(days=1), State.SENT, None): 8,
    }
    assert (ledger.runs[DAY].state, ledger.runs[DAY].reason) == ("interrupted", "never_resumed")


async def test_two_processes_share_a_day_without_a_double(autojump_clock):
    """The first is cut off from the database at 6 s, and stops its calls; the second goes on when the lease ran out."""
    ledger = ShakyLedger(some_offices(60, staff=1))
    email = ScriptedSender(honours_keys=True, seconds=2.0)
    cut_off = evolve(ledger, down=lambda: trio.current_time() >= 6.5)
    first, second = a_run(cut_off, email, holder="first"), a_run(ledger, email, holder="second")
    results: list[RunResult] = []

    async def wait_and_run() -> None:
        await trio.sleep(1.0)
        began, result = await next_process(second)
        assert began >= 5.0 + LEASE_SECONDS
        results.append(result)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_and_run)
        with pytest.raises(LedgerUnavailable):
            await ended(first)
        assert trio.current_time() == 900.0, "what it knows it tries to write until its window ends"
    assert len(email.told) == len(set(email.told)) == 60
    assert ledger.states() == {State.SENT: 60}
    assert results[0].state == "completed"


async def test_a_finished_day_is_not_sent_again(autojump_clock):
    ledger = ShakyLedger(some_offices(5, staff=2, devices=1))
    email, push = ScriptedSender(), ScriptedSender()
    first = await ended(a_run(ledger, email, push))
    calls = len(email.calls), len(push.calls)
    second = await ended(a_run(ledger, email, push, holder="again"))
    assert (len(email.calls), len(push.calls)) == calls == (10, 10)
    assert first == second


async def test_an_outcome_that_another_programs_lock_keeps_out_is_written_later_and_nobody_is_told_twice(
    autojump_clock,
):
    """Locked from 0 to 70 s, past the try's own time: the answer of 1 s is kept, and no call is made again."""
    ledger = ShakyLedger(some_offices(2, staff=1), refusal="database_refused:55P03")
    email = ScriptedSender()
    locked = min(delivery.id for delivery in ledger.due(DAY, Rules()))
    ledger.refuses = lambda settlements, _: (
        trio.current_time() < 70.0 and locked in {s.delivery.id for s in settlements}
    )
    with capture_logs() as logs:
        result = await ended(a_run(ledger, email))
    assert len(email.accepted) == 2
    assert len(email.calls) == 2
    assert (result.state, ledger.states()) == ("completed", {State.SENT: 2})
    assert len(ledger.app.audit_log) == 2
    events = [line["event"] for line in logs if line["event"] not in {"planned", "ended"}]
    assert events == ["waiting_for_database", "database_back"], "one trouble, however often it is tried"


# The lease ----------------------------------------------------------------------------------------------------------


async def test_the_lease_is_kept_for_as_long_as_the_run_takes_and_then_given_back(autojump_clock):
    ledger = ShakyLedger(some_offices(100, staff=1))
    context = a_run(ledger, ScriptedSender(seconds=4.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ended, context)
        for second in range(1, 80):
            await trio.sleep_until(second)
            with pytest.raises(LeaseHeld, match="held by me"):
                await ledger.take_lease(DAY, "other")
    assert trio.current_time() == exactly(80.0 + GATHER)
    await ledger.take_lease(DAY, "other")


async def test_a_lease_that_cannot_be_renewed_ends_the_calls_before_it_runs_out(autojump_clock):
    """Last renewed at 10 s, out of reach from 12 s: calls are cut at 23 s, 2 s before the lease ends at 25 s."""
    ledger = ShakyLedger(some_offices(20, staff=1), down=between((12.0, 24.0)))
    email = ScriptedSender(honours_keys=True, seconds=lambda _: 3.0 if trio.current_time() < 9 else 25.0)
    with capture_logs() as logs, pytest.raises(LedgerUnavailable):
        await ended(a_run(ledger, email))
    cut = [call.cut for call in email.calls if call.cut is not None]
    assert cut == [exactly(23.0)] * 5
    assert max(call.began for call in email.calls) < 12.0
    assert max(when for when, _ in ledger.reserved) < 12.0
    assert [line["event"] for line in logs].count("lease_lost") == 1
    assert ledger.states() == {State.SENT: 15, State.SENDING: 5}, "cut calls are recorded when it is back in reach"
    assert all(
        row.delivery.reason == "interrupted" for row in ledger.rows.values() if row.delivery.state is State.SENDING
    )


@pytest.mark.parametrize(("hangs_from", "cut"), [(10.0, 21.0), (0.0, 13.0)])
async def test_a_renewal_that_is_never_answered_ends_the_run_before_the_lease_does(
    hangs_from: float, cut: float, autojump_clock
):
    """Renewed at 8 s, and the connection hangs from 10 s on: cut at 21 s. Never renewed: cut at 13 s."""

    class Hanging(ShakyLedger):
        async def renew_lease(self, *args):
            if trio.current_time() >= hangs_from:
                await trio.sleep_forever()
            return await super().renew_lease(*args)

    email = ScriptedSender(seconds=25.0)
    with pytest.raises(LedgerUnavailable, match="timeout"):
        await ended(a_run(Hanging(some_offices(3, staff=1)), email))
    assert {call.cut for call in email.calls} == {cut}


async def test_a_renewal_whose_connection_fell_silent_does_not_keep_the_next_one_from_going(autojump_clock):
    """That of 2 s is never answered; those from 4 s on are, so that calls of 25 s are not cut at 13 s."""
    silent = iter([True])

    class Silent(ShakyLedger):
        async def renew_lease(self, *args):
            if next(silent, False):
                await trio.sleep_forever()
            return await super().renew_lease(*args)

    email = ScriptedSender(seconds=25.0)
    result = await ended(a_run(Silent(some_offices(3, staff=1)), email))
    assert (result.state, len(email.calls), trio.current_time()) == ("completed", 3, exactly(25.0 + GATHER))


async def test_a_renewal_that_meets_the_end_of_the_run_takes_nothing_back(autojump_clock):
    """The run ends and gives the lease back at 4 s, and hears so at 7 s: what a renewal hears at 6 s is no loss."""

    class Slow(ShakyLedger):
        async def finish(self, *args, **kwargs):
            done = await super().finish(*args, **kwargs)
            await trio.sleep(3.0)
            return done

    ledger = Slow(some_offices(1, staff=1))
    result = await ended(a_run(ledger, ScriptedSender(seconds=4.0)))
    assert trio.current_time() == exactly(4.0 + GATHER + 3.0)
    assert (result.state, ledger.runs[DAY].state, ledger.runs[DAY].holder) == ("completed", "completed", None)


async def test_a_lease_that_another_process_took_over_ends_the_run_at_its_next_renewal(autojump_clock):
    """As after a suspend: the other has the day from 7 s on; we learn of it at 8 s, and reserved nothing after 7 s."""
    ledger = ShakyLedger(some_offices(40, staff=1))
    email = ScriptedSender(seconds=2.0)

    def take_over() -> None:
        ledger.runs[DAY].holder = "other"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 7.0, take_over)
        with pytest.raises(LeaseLost):
            await ended(a_run(ledger, email))
    assert 8.0 <= trio.current_time() <= 8.0 + 1.0
    assert max(call.began for call in email.calls) == exactly(6.0)
    assert len([moment for moment in ledger.reads if moment > 7.0]) <= 2, "it does not read in circles meanwhile"


@pytest.mark.parametrize(
    ("error", "run"),
    [
        (StatementRefused("database_refused:22012"), ("interrupted", "database_refused:22012", None)),
        (ZeroDivisionError("a bug"), ("interrupted", "run_died", None)),
        (LedgerUnavailable("database_unavailable:08006"), ("running", None, "me")),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_run_that_an_error_ends_gives_its_lease_back_unless_the_database_is_away(
    error: Exception, run: tuple[str, str | None, str | None], autojump_clock
):
    class Broken(ShakyLedger):
        async def plan(self, *_args):
            raise error

    ledger = Broken(some_offices(1, staff=1))
    with pytest.raises((type(error), ExceptionGroup)):
        await ended(a_run(ledger, ScriptedSender()))
    now = ledger.runs[DAY]
    assert (now.state, now.reason, now.holder) == run
    assert trio.current_time() == 0.0


async def test_a_lease_that_cannot_be_given_back_delays_the_error_by_two_seconds(autojump_clock):
    class Silent(ShakyLedger):
        async def plan(self, *_args):
            raise StatementRefused("database_refused:22012")

        async def give_back(self, *_args):
            await trio.sleep_forever()

    with pytest.raises(StatementRefused, match="22012"):
        await ended(a_run(Silent(some_offices(1, staff=1)), ScriptedSender()))
    assert trio.current_time() == exactly(GIVE_BACK_SECONDS)


# Stopping -----------------------------------------------------------------------------------------------------------


async def test_drain_lets_short_sends_finish(autojump_clock):
    """Stopped at 2 s with 20 s of grace: 15 s of work lands, 500 s is cut at 22 s."""
    app = Application()
    long, short, *rest = a_staff_of(app, 16)
    email = ScriptedSender(honours_keys=True, seconds=lambda to: 500.0 if to == long.address else 15.0)
    ledger = ShakyLedger(app, chunk=2)
    context = a_run(ledger, limited(email, 2), send_timeout=600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 2.0, lambda: context.stop.set("signal", 20.0))
        result = await ended(context)
    assert trio.current_time() == exactly(22.0 + GATHER)
    assert email.accepted == [(exactly(15.0), short.mail, short.address)]
    assert [(call.to, call.cut) for call in email.calls if call.cut] == [((long.address,), exactly(22.0))]
    assert {call.began for call in email.calls} == {0.0}, "no call begins after the stop"
    assert set(ledger.reads) == {0.0}, "nor is another office looked at, when a slot comes free at 15 s"
    assert ledger.state(short.mail) == (State.SENT, None)
    assert ledger.state(long.mail) == (State.SENDING, "interrupted"), "the cut call is recorded"
    assert {ledger.state(member.mail) for member in rest} == {(State.PLANNED, None)}
    assert (result.state, result.reason, exit_code(result)) == ("interrupted", "signal", 4)
    assert (ledger.runs[DAY].state, ledger.runs[DAY].holder) == ("interrupted", None)


async def test_a_stop_is_neither_put_off_nor_renamed_by_the_windows_end(autojump_clock):
    """Stopped at 2 s with 20 s of grace; the window ends at 5 s, which alone would give calls 80 s: cut at 22 s."""
    email = ScriptedSender(seconds=500.0)
    context = a_run(ShakyLedger(some_offices(8, staff=1)), email, window_left=5.0, send_timeout=600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 2.0, lambda: context.stop.set("signal", 20.0))
        result = await ended(context)
    assert {call.cut for call in email.calls} == {22.0}
    assert (result.state, result.reason) == ("interrupted", "signal")


async def test_a_stop_in_the_windows_last_calls_cuts_them_after_its_own_grace(autojump_clock):
    """The window ends at 2 s, and calls may go on; stopped at 5 s with 1 s of grace: cut at 6 s."""
    email = ScriptedSender(seconds=500.0)
    context = a_run(ShakyLedger(some_offices(8, staff=1)), email, window_left=2.0, send_timeout=600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 5.0, lambda: context.stop.set("signal", 1.0))
        result = await ended(context)
    assert {call.cut for call in email.calls} == {6.0}
    assert (result.state, result.reason) == ("interrupted", "signal")


async def test_a_stopped_run_goes_on_where_it_stopped(autojump_clock):
    ledger = ShakyLedger(some_offices(30, staff=1))
    email = ScriptedSender(honours_keys=True, seconds=2.0)
    context = a_run(ledger, email)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 3.0, lambda: context.stop.set("signal", 0.5))
        await ended(context)
    assert ledger.states() == {State.SENT: 5, State.SENDING: 5, State.PLANNED: 20}
    result = await ended(a_run(ledger, email, holder="next"))
    assert ledger.states() == {State.SENT: 30}
    assert len(set(email.told)) == 30
    assert (result.state, exit_code(result)) == ("completed", 0)


@pytest.mark.parametrize("grace", [20.0, 0.0])
async def test_a_call_that_is_being_reserved_when_the_run_is_stopped_is_not_begun(grace: float, autojump_clock):
    """Statements take 1 s: lease, earlier days, plan, done offices, work; at 5 s the reservation. Stopped at 5.5 s."""
    ledger = ShakyLedger(some_offices(1, staff=1), latency=1.0)
    email = ScriptedSender()
    context = a_run(ledger, email)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 5.5, lambda: context.stop.set("signal", grace))
        result = await ended(context)
    assert ledger.reserved == [(6.0, 1)]
    assert email.calls == []
    assert ledger.reasons() == {(State.PLANNED, "not_begun"): 1}
    assert result.state == "interrupted"


async def test_an_idle_run_that_waits_for_its_turn_stops_at_once(autojump_clock):
    ledger = ShakyLedger(some_offices(3, staff=1))
    context = a_run(ledger, ScriptedSender(script=lambda _: Deferred("rate_limited:429", 300.0, Blame.PROVIDER)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 50.0, lambda: context.stop.set("signal", 20.0))
        result = await ended(context)
    assert trio.current_time() == exactly(50.0)
    assert (result.state, ledger.states()) == ("interrupted", {State.PLANNED: 3})


async def test_a_run_that_was_stopped_names_its_failures_and_who_was_not_told(autojump_clock):
    """One mail is rejected, another one waits when the run is stopped."""
    app = Application()
    rejected, waiting = a_staff_of(app, 2)
    put_off = Deferred("rate_limited:429", 300.0, Blame.PROVIDER)
    email = ScriptedSender(script=lambda sent: Rejected("rejected:item") if sent.to == rejected.address else put_off)
    context = a_run(ShakyLedger(app), email)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 50.0, lambda: context.stop.set("signal", 20.0))
        result = await ended(context)
    assert result.state == "interrupted"
    assert result.counts
    assert [failure.office_id for failure in result.counts.failures] == [rejected.office]
    assert set(result.counts.untold_offices) == {rejected.office, waiting.office}


async def test_the_windows_end_expires_what_is_open_and_what_is_in_flight_still_lands(autojump_clock):
    """The window ends at 25 s: calls begun before it land at 40 s, none begins after it."""
    ledger = ShakyLedger(some_offices(20, staff=1))
    email = ScriptedSender(seconds=20.0)
    result = await ended(a_run(ledger, email, window_left=25.0))
    assert trio.current_time() == exactly(40.0 + GATHER)
    assert email.began == [0.0, exactly(20.0)]
    assert ledger.reasons() == {(State.SENT, None): 10, (State.EXPIRED, "window_ended"): 10}
    assert (result.state, exit_code(result)) == ("completed", 1)


async def test_a_window_that_ends_while_the_day_is_planned_ends_all_the_same(autojump_clock):
    """Planning takes 30 s of a window of 33 s: three calls of 1 s each, then the window ends."""

    class Slow(ShakyLedger):
        async def plan(self, day, rules, capacity=UNLIMITED):
            await trio.sleep(30.0)
            return await super().plan(day, rules, capacity)

    ledger = Slow(some_offices(20, staff=1))
    email = ScriptedSender(seconds=1.0)
    await ended(a_run(ledger, limited(email, 1), window_left=32.5))
    assert email.began == [30.0, exactly(31.0), exactly(32.0)]
    assert ledger.states() == {State.SENT: 3, State.EXPIRED: 17}


async def test_a_doubt_that_the_window_left_open_is_unknown_and_a_deferral_is_expired_in_doubt(autojump_clock):
    app = Application()
    keyed = ScriptedSender(honours_keys=True, script=lambda _: Unknown("cut", 1000.0))
    ledger = ShakyLedger(some_offices(1, staff=1))
    await ended(a_run(ledger, keyed, window_left=60.0))
    assert ledger.reasons() == {(State.UNKNOWN, "window_ended (cut)"): 1}

    member = a_member(app, "taro")
    plain = ScriptedSender(
        script=lambda this: Unknown("cut") if this.nth == 1 else Deferred("busy", 900.0, Blame.PROVIDER)
    )
    ledger = ShakyLedger(app)
    await ended(a_run(ledger, plain, window_left=60.0))
    assert ledger.state(member.mail) == (State.EXPIRED, "window_ended_in_doubt (busy)")


async def test_the_windows_end_waits_for_a_dead_process_try_and_then_settles_it(autojump_clock):
    """Killed at 1 s: its try may be settled until 40 s; the window of the next process ends at 30 s."""
    ledger = ShakyLedger(some_offices(1, staff=1))
    email = ScriptedSender(seconds=2.0)
    await killed(ledger, email, 1.0)
    began, result = await next_process(a_run(ledger, email, holder="next", window_left=15.0))
    assert began == exactly(15.0)
    assert trio.current_time() == exactly(40.0)
    assert ledger.reasons() == {(State.UNKNOWN, "window_ended"): 1}
    assert result.state == "completed"


async def test_a_turn_that_came_while_the_day_was_counted_is_waited_for_like_any_other(autojump_clock):
    """The database's clock moves within a statement: seconds to the next turn may come out a little below 0."""

    class Late(ShakyLedger):
        async def counts(self, day, rules, *, interim=False):
            counts = await super().counts(day, rules, interim=interim)
            early = counts.backlog.next_in is not None and counts.backlog.next_in < 1.0
            return evolve(counts, backlog=Backlog(counts.backlog.open, False, -1e-5)) if early else counts

    ledger = Late(some_offices(1, staff=1))
    email = ScriptedSender(seconds=2.0)
    await killed(ledger, email, 1.0)
    await trio.sleep_until(39.5)
    result = await ended(a_run(ledger, email, holder="next", window_left=0.1))
    assert (result.state, ledger.states()) == ("completed", {State.UNKNOWN: 1})


# The database -------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_for_a_while_is_waited_for_and_nothing_is_lost_or_doubled(autojump_clock):
    """Away from 6 s to 14 s: what was in flight lands, no call begins meanwhile, then all goes on."""
    ledger = ShakyLedger(some_offices(60, staff=1), down=between((6.0, 14.0)))
    email = ScriptedSender(seconds=1.5)
    with capture_logs() as logs:
        result = await ended(a_run(ledger, email))
    assert len(email.told) == len(set(email.told)) == 60
    assert len(email.calls) == 60, "nothing was repeated"
    assert not [began for began in email.began if 6.0 < began < 14.0]
    assert ledger.states() == {State.SENT: 60}
    assert {row.delivery.doubts for row in ledger.rows.values()} == {0}
    assert (result.state, exit_code(result)) == ("completed", 0)
    assert "waiting_for_database" in {line["event"] for line in logs}


async def test_a_database_that_is_away_when_a_call_is_reserved_leaves_the_offices_other_calls_alone(autojump_clock):
    """The second push cannot be reserved at 2 s; the mail of that office, in flight until 10 s, is not cut for it."""
    app = Application()
    member = a_member(app, "taro", hosts=["a.example", "b.example"])
    ledger = ShakyLedger(app, down=between((1.5, 4.0)))
    email, push = ScriptedSender(seconds=10.0), ScriptedSender(seconds=2.0)
    await ended(a_run(ledger, email, limited(push, 1)))
    assert [(call.began, call.ended) for call in email.calls] == [(0.0, exactly(10.0))]
    assert email.told == [member.address]
    assert push.told == sorted(device.endpoint for device in member.devices)
    assert ledger.states() == {State.SENT: 3}


async def test_a_database_that_is_away_when_an_office_is_begun_puts_it_off_and_fails_nobody(autojump_clock):
    """What is no longer due cannot be expired for 3 s."""

    class Away(ShakyLedger):
        async def expire(self, day, holder, reasons):
            if trio.current_time() < 3.0:
                raise LedgerUnavailable("database_unavailable:08006")
            return await super().expire(day, holder, reasons)

    app = Application()
    leaver, stays = (a_member(app, name, office="one") for name in ("leaver", "stays"))
    ledger = Away(app)
    await ledger.plan(DAY, Rules(push=False))
    app.staff.remove((leaver.office, leaver.staff))
    email = ScriptedSender()
    context = a_run(ledger, email)
    result = await ended(context)
    assert ledger.state(leaver.mail) == (State.EXPIRED, "staff_gone")
    assert email.told == [stays.address]
    assert (context.progress.offices_failed, result.counts and result.counts.offices_failed) == (0, 0)
    assert 3.0 < trio.current_time() < 6.0, "tried again after a pause, and neither at once nor never"


@pytest.mark.parametrize("keyed", [True, False])
async def test_an_answer_of_the_database_that_got_lost_loses_and_doubles_nothing(keyed: bool, autojump_clock):
    """Statements are carried out from 3 s to 5 s, and nobody learns of it."""
    ledger = ShakyLedger(some_offices(40, staff=1, devices=1), deaf=between((3.0, 5.0)))
    email, push = ScriptedSender(honours_keys=keyed), ScriptedSender()
    await ended(a_run(ledger, email, push))
    assert len(email.told) == len(set(email.told)) == 40
    assert len(push.told) == len(set(push.told)) == 40
    assert ledger.states() == {State.SENT: 80}
    assert ledger.late == []
    assert len(ledger.app.audit_log) == 80


async def test_an_audit_row_that_is_refused_costs_nobody_anything(autojump_clock):
    """One office was just deleted: the lot is refused, then one by one, and that office's goes without its row."""
    app = some_offices(10, staff=1)
    deleted = an_id("office 4")
    ledger = ShakyLedger(
        app, refuses=lambda settlements, bare: not bare and any(s.delivery.office_id == deleted for s in settlements)
    )
    email = ScriptedSender()
    with capture_logs() as logs:
        result = await ended(a_run(ledger, email))
    assert ledger.states() == {State.SENT: 10}
    assert len(email.calls) == 10
    assert {row.delivery.office_id for row in ledger.rows.values() if row.audit_missing} == {deleted}
    assert len(app.audit_log) == 9
    (alarm,) = [line for line in logs if line["event"] == "audit_row_refused"]
    assert (alarm["log_level"], alarm["office"]) == ("error", str(deleted))
    assert exit_code(result) == 0


async def test_a_database_that_is_away_at_the_start_ends_the_run_with_its_error(autojump_clock):
    ledger = ShakyLedger(some_offices(3, staff=1), down=lambda: True)
    with pytest.raises(LedgerUnavailable):
        await ended(a_run(ledger, ScriptedSender()))


async def test_a_database_that_never_comes_back_after_a_stop_is_not_waited_for_for_ever(autojump_clock):
    """Stopped at 2 s with 3 s of grace, the database away from 1 s on: rows stay as evidence; 10 s to write them."""
    ledger = ShakyLedger(some_offices(10, staff=1), down=lambda: trio.current_time() >= 1.0)
    context = a_run(ledger, ScriptedSender(seconds=2.5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 2.0, lambda: context.stop.set("signal", 3.0))
        with capture_logs() as logs, pytest.raises(LedgerUnavailable):
            await ended(context)
    assert trio.current_time() <= 5.0 + 10.0 + SLACK
    assert ledger.states() == {State.SENDING: 5, State.PLANNED: 5}
    assert [(line["event"], line["deliveries"]) for line in logs if line["event"] == "outcomes_not_written"] == [
        ("outcomes_not_written", 5)
    ]


async def test_what_is_older_than_its_retention_goes_once_the_run_is_over(autojump_clock):
    """A day of 401 days ago goes, in as many steps as it takes; one of 400 days ago stays."""
    ledger = ShakyLedger(some_offices(3, staff=1))
    for days in (401, 400):
        day = DAY - timedelta(days=days)
        await ledger.take_lease(day, "then")
        await ledger.plan(day, Rules())
        await ledger.close(day)
        await ledger.finish(day, "then", "completed", None)
    email = ScriptedSender()
    await ended(a_run(ledger, email))
    assert set(ledger.runs) == {DAY - timedelta(days=400), DAY}
    assert {row.day for row in ledger.rows.values()} <= set(ledger.runs)
    assert len(email.calls) == 3


async def test_what_cannot_be_deleted_costs_the_run_nothing(autojump_clock):
    class Shut(ShakyLedger):
        async def forget(self, before):
            raise StatementRefused("database_refused:42501")

    with capture_logs() as logs:
        result = await ended(a_run(Shut(some_offices(3, staff=1)), ScriptedSender()))
    assert (result.state, exit_code(result)) == ("completed", 0)
    assert [line["reason"] for line in logs if line["event"] == "not_forgotten"] == ["database_refused:42501"]


async def test_what_is_planned_again_at_the_last_moment_is_left_to_the_next_run(autojump_clock):
    """Between the run's last look at the ledger and its end: it is not complete then, and the next one sends."""

    class Retried(ShakyLedger):
        async def finish(self, *args):
            await self.retry(DAY, [State.FAILED])
            return await super().finish(*args)

    sender = ScriptedSender(script=lambda t: Rejected("rejected:422") if t.nth == 1 else TAKEN)
    ledger = Retried(some_offices(1, staff=1))
    result = await ended(a_run(ledger, sender))
    assert (result.state, result.reason, exit_code(result)) == ("interrupted", "retried", 4)
    assert result.counts
    assert (result.counts.email.open, result.counts.email.failed) == (1, 0)
    result = await ended(a_run(ledger, sender))
    assert (result.state, exit_code(result), sender.told) == ("completed", 0, ["staff-0-0@example.jp"])


# What a run tells of itself -----------------------------------------------------------------------------------------


async def test_progress_tells_what_was_planned_and_what_became_of_it(autojump_clock):
    app = Application()
    members = [a_member(app, f"s{n}", office="one", hosts=["push.example"]) for n in range(4)]
    bad = members[0]
    email = ScriptedSender(script=lambda this: Rejected("rejected:422") if this.to == bad.address else TAKEN)
    push = ScriptedSender(script=lambda this: Gone("gone:410") if this.to == bad.devices[0].endpoint else TAKEN)
    context = a_run(ShakyLedger(app), email, push)
    result = await ended(context)
    planned, progress = context.progress.planned, context.progress
    assert planned is not None
    assert (planned.offices, planned.email, planned.push) == (1, 4, 4)
    assert progress.settled == {
        (Channel.EMAIL, State.SENT): 3,
        (Channel.EMAIL, State.FAILED): 1,
        (Channel.PUSH, State.SENT): 3,
        (Channel.PUSH, State.GONE): 1,
    }
    assert (progress.done(Channel.EMAIL), progress.done(Channel.PUSH)) == (4, 4)
    assert (progress.offices_done, progress.offices_failed) == (1, 0)
    assert result.counts is not None
    assert (result.counts.email.sent, result.counts.email.failed, result.counts.push.gone) == (3, 1, 1)


async def test_the_tally_of_a_process_is_what_the_ledger_has_of_all_its_days(autojump_clock):
    """Eight offices. Of the first day, a dead process left five mails in flight and three planned.

    On the second, at one mail a second: one address is refused, one office cannot be rendered, and the window ends
    after 4.5 s.
    """
    ledger = ShakyLedger(some_offices(8, staff=1))
    await killed(ledger, ScriptedSender(seconds=2.0), 1.0)
    await trio.sleep(86_400)
    email = ScriptedSender(script=lambda this: Rejected("rejected:422") if this.to.startswith("staff-0-0@") else TAKEN)
    renderer = PlainRenderer({an_id("office 1")})
    context = a_run(ledger, limited(email, 1), holder="next", window_left=4.5, renderer=renderer)
    await run_day(DAY + timedelta(days=1), context)
    metrics = context.progress.metrics
    assert metrics.deliveries == Counter((row.delivery.channel, row.delivery.state) for row in ledger.rows.values())
    assert metrics.deliveries == {
        (Channel.EMAIL, State.UNKNOWN): 5,
        (Channel.EMAIL, State.EXPIRED): 3 + 2,
        (Channel.EMAIL, State.FAILED): 2,
        (Channel.EMAIL, State.SENT): 4,
    }
    calls = metrics.call_seconds["scripted"]
    assert (calls.counts.total(), calls.total) == (5, exactly(5.0))
    assert calls.counts == {calls.bounds.index(1.0): 5}


async def test_calls_in_trouble_are_tallied_by_sender(autojump_clock):
    """Four mails, the first try of one of them deferred, of another lost: six calls, two of them in trouble."""
    troubles: dict[str, Outcome] = {"staff-0-0": Deferred("busy", blame=Blame.MESSAGE), "staff-1-0": Unknown("cut")}
    email = ScriptedSender(script=lambda this: troubles.pop(this.to.partition("@")[0], TAKEN))
    context = a_run(ShakyLedger(some_offices(4, staff=1)), email)
    await ended(context)
    metrics = context.progress.metrics
    assert (metrics.calls_in_trouble, metrics.call_seconds["scripted"].counts.total()) == ({"scripted": 2}, 6)
