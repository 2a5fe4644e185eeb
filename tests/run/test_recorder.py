"""The recorder: what comes together shares a statement, and what was handed on is written."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import pytest
import trio
from attrs import define, evolve, field
from structlog.testing import capture_logs

from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State
from notifierd.model.errors import LedgerUnavailable, StatementRefused
from notifierd.run.record.outcomes import MOST_TOGETHER
from notifierd.run.record.recorder import ANSWER_SECONDS, GATHER, MOST_UNWRITTEN
from notifierd.run.trouble import CALM
from tests.support.recording import Desk, open_desk, sent
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import ShakyLedger, between

UNAVAILABLE = LedgerUnavailable("database_unavailable:08006")
REFUSED = StatementRefused("database_refused:42501")
BAD_ROW = StatementRefused("database_refused:22021")


def a_ledger(offices: int = 20) -> ShakyLedger:
    return ShakyLedger(some_offices(offices, staff=1))


@define
class RefusingLedger(ShakyLedger):
    """Answers reservations of some deliveries with an error."""

    bad: set[UUID] = field(factory=set)
    error: Exception = REFUSED

    async def reserve(self, day, holder, reservations: Sequence[Reservation]) -> set[UUID]:
        if any(delivery.id in self.bad for reservation in reservations for delivery in reservation.deliveries):
            await self._statement()
            raise self.error
        return await ShakyLedger.reserve(self, day, holder, reservations)


# Reservations -------------------------------------------------------------------------------------------------------


async def test_a_reservation_goes_at_once(autojump_clock):
    async with open_desk(a_ledger()) as desk:
        assert await desk.reserve(desk.deliveries[0])
        assert trio.current_time() == 0.0
        assert desk.deliveries[0].state is State.SENDING


async def reserve_in_turn(desk: Desk, deliveries: Sequence[Delivery]) -> None:
    """Reserve each of *deliveries*, a turn of the scheduler after the one before: their calls' slots came together."""

    async def reserve(delivery: Delivery, turns: int) -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        assert await desk.reserve(delivery)

    async with trio.open_nursery() as nursery:
        for turns, delivery in enumerate(deliveries):
            nursery.start_soon(reserve, delivery, turns)


@pytest.mark.parametrize("began", [0.0, 1000.0])
async def test_reservations_go_one_by_one_until_they_come_thick_and_fast(began, autojump_clock):
    """From the 30th in 0.1 s on, those go together that come within a few turns."""
    ledger = a_ledger(60)
    async with open_desk(ledger) as desk:
        ledger.extend(DAY, 2 * began + 60.0)
        await trio.sleep_until(began)
        for delivery in desk.deliveries[:30]:
            assert await desk.reserve(delivery)
        await reserve_in_turn(desk, desk.deliveries[30:40])
        await trio.sleep(0.05)
        await reserve_in_turn(desk, desk.deliveries[40:44])
        await trio.sleep(0.06)
        for delivery in desk.deliveries[44:48]:
            assert await desk.reserve(delivery)
    reserved = [(round(at - began, 6), count) for at, count in ledger.reserved]
    assert reserved == [*[(0.0, 1)] * 30, (0.0, 10), (0.05, 4), *[(0.11, 1)] * 4]


async def test_a_few_reservations_that_wait_go_half_at_a_time(autojump_clock):
    """19 that come while the first one's statement runs: the first of them, and half of the others; and so on."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.latency = 0.005
        assert await desk.reserve(desk.deliveries[0])
        async with trio.open_nursery() as nursery:
            for delivery in desk.deliveries[1:]:
                nursery.start_soon(desk.reserve, delivery)
        assert [size for _, size in ledger.reserved] == [1, 10, 5, 2, 1, 1]
        assert ledger.states() == {State.SENDING: 20}


@pytest.mark.parametrize("latency", [0.001, 0.003, 0.004, 0.009])
async def test_many_calls_never_queue_up_for_reservations(latency, autojump_clock):
    """200 slots for calls of 0.1 s: however long a statement takes, each call waits for two at most, in the end."""
    ledger = a_ledger(2000)
    async with open_desk(ledger) as desk:
        ledger.latency = latency
        todo = list(desk.deliveries)

        async def slot() -> None:
            while todo:
                assert await desk.reserve(todo.pop())
                await trio.sleep(0.1)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(slot)
        assert trio.current_time() - began < 10 * (0.1 + 2 * latency) + 0.2


async def test_reservations_of_a_slow_database_share_a_statement_after_a_pause_too(autojump_clock):
    """Those that come a few turns apart, as nobody else could do anything meanwhile."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.latency = 0.03
        await reserve_in_turn(desk, desk.deliveries[:5])
        await trio.sleep(0.5)
        await reserve_in_turn(desk, desk.deliveries[5:10])
    assert [size for _, size in ledger.reserved] == [5, 5]


async def test_reservations_that_come_while_a_statement_runs_share_the_next_one(autojump_clock):
    """19 that come while the first one's statement runs, which takes 1 s: the database is slow, so all of them."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.latency = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.reserve, desk.deliveries[0])
            await trio.sleep(0.5)
            for delivery in desk.deliveries[1:]:
                nursery.start_soon(desk.reserve, delivery)
        assert ledger.reserved == [(1.0, 1), (2.0, 19)]
        assert ledger.states() == {State.SENDING: 20}


async def test_each_reservation_of_a_statement_gets_its_own_answer(autojump_clock):
    ledger = a_ledger()
    answers: dict[str, bool] = {}
    async with open_desk(ledger) as desk:
        taken, free, first, *_ = desk.deliveries
        assert await desk.reserve(taken)
        ledger.latency = 1.0

        async def ask(name: str, *deliveries: Delivery) -> None:
            answers[name] = await desk.reserve(*deliveries)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", first)
            await trio.sleep(0.5)
            nursery.start_soon(ask, "taken", taken)
            nursery.start_soon(ask, "free", free)
    assert answers == {"first": True, "taken": False, "free": True}


async def test_without_the_lease_nothing_may_be_sent(autojump_clock):
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.runs[DAY].holder = "other"
        assert not await desk.reserve(desk.deliveries[0])


async def test_an_error_reaches_everybody_who_asked_and_the_next_may_ask_again(autojump_clock):
    ledger = RefusingLedger(some_offices(3, staff=1), error=UNAVAILABLE)
    async with open_desk(ledger) as desk:
        ledger.bad = {desk.deliveries[0].id}
        with pytest.raises(LedgerUnavailable):
            await desk.reserve(desk.deliveries[0])
        assert await desk.reserve(desk.deliveries[1])


async def test_one_that_the_database_refuses_costs_those_that_came_with_it_nothing(autojump_clock):
    ledger = RefusingLedger(some_offices(5, staff=1), latency=1.0)
    answers: dict[UUID, bool | str] = {}
    async with open_desk(ledger) as desk:
        first, bad, *rest = desk.deliveries
        ledger.bad = {bad.id}

        async def ask(delivery: Delivery) -> None:
            try:
                answers[delivery.id] = await desk.reserve(delivery)
            except StatementRefused as refused:
                answers[delivery.id] = refused.reason

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, first)
            await trio.sleep(0.5)
            for delivery in (bad, *rest):
                nursery.start_soon(ask, delivery)
    assert answers == {bad.id: REFUSED.reason} | {delivery.id: True for delivery in (first, *rest)}


@pytest.mark.parametrize(
    ("error", "asked", "granted"),
    [
        (REFUSED, "x.", 1),
        (REFUSED, "xx.xx.", 2),
        (REFUSED, "x.x.x.x.x.", 5),
        (REFUSED, ".xxx..", 1),
        (REFUSED, "xxx....", 0),
        (BAD_ROW, "xxx..xxxx.", 3),
    ],
)
async def test_after_three_refusals_in_a_row_that_are_no_rows_fault_the_others_are_not_tried(
    error: StatementRefused, asked: str, granted: int, autojump_clock
):
    """All share a statement, which is refused; then each goes alone, in the order in which they came."""
    ledger = RefusingLedger(some_offices(20, staff=1), error=error, latency=1.0)
    answers: list[bool] = []
    async with open_desk(ledger) as desk:
        first, *rest = desk.deliveries

        async def ask(delivery: Delivery) -> None:
            try:
                answers.append(await desk.reserve(delivery))
            except StatementRefused as refused:
                assert refused.reason == error.reason  # noqa: PT017 - others are granted
                answers.append(False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, first)
            for delivery, sign in zip(rest, asked, strict=False):
                await trio.sleep(0.01)
                if sign == "x":
                    ledger.bad.add(delivery.id)
                nursery.start_soon(ask, delivery)
    assert len(answers) == 1 + len(asked)
    assert sum(answers) == 1 + granted


async def test_a_reservation_that_is_refused_alone_is_not_tried_again(autojump_clock):
    ledger = RefusingLedger(some_offices(1, staff=1), latency=1.0)
    async with open_desk(ledger) as desk:
        ledger.bad, began = {desk.deliveries[0].id}, trio.current_time()
        with pytest.raises(StatementRefused):
            await desk.reserve(desk.deliveries[0])
        assert trio.current_time() == began + 1.0


async def test_what_waits_is_told_by_number(autojump_clock):
    """Four ask while the statement of another one runs, and two outcomes are handed on."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        flying = await desk.in_flight(2)
        assert desk.recorder.waiting() == {"reserving": 0, "unwritten": 0}
        ledger.latency = 1.0
        async with trio.open_nursery() as nursery:
            for delivery in desk.deliveries[2:7]:
                nursery.start_soon(desk.reserve, delivery)
                await trio.sleep(0.1)
            desk.recorder.settle([sent(delivery) for delivery in flying])
            assert desk.recorder.waiting() == {"reserving": 4, "unwritten": 2}
        await desk.recorder.flush()
        assert desk.recorder.waiting() == {"reserving": 0, "unwritten": 0}


async def test_a_bug_in_the_ledger_ends_the_run_and_leaves_nobody_waiting(autojump_clock):
    ledger = RefusingLedger(some_offices(3, staff=1), error=ZeroDivisionError(), latency=1.0)

    async def ask_twice() -> None:
        async with open_desk(ledger) as desk, trio.open_nursery() as nursery:
            ledger.bad = {desk.deliveries[0].id}
            nursery.start_soon(desk.reserve, desk.deliveries[0])
            await trio.sleep(0.5)
            nursery.start_soon(desk.reserve, desk.deliveries[1])

    with trio.fail_after(100), pytest.raises(ExceptionGroup) as caught:
        await ask_twice()
    assert caught.group_contains(ZeroDivisionError)
    assert ledger.states() == {State.PLANNED: 3}


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_bug_while_reservations_join_leaves_nobody_waiting(turns, autojump_clock):
    """Settling fails while a reservation waits for others to share its statement with."""

    class Ledger(ShakyLedger):
        async def settle(self, settlements, *, without_audit=False):
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

    async def settle_and_ask() -> None:
        async with open_desk(Ledger(some_offices(2, staff=1))) as desk:
            desk.recorder.settle([sent(desk.deliveries[0])])
            await trio.sleep(GATHER)
            await desk.reserve(desk.deliveries[1])
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await settle_and_ask()
    assert caught.group_contains(ZeroDivisionError)
    assert trio.current_time() == pytest.approx(GATHER)


async def test_a_granted_call_is_known_even_if_its_asker_is_cancelled_meanwhile(autojump_clock):
    """Cancelled at 0.5 s, while the statement runs until 1 s: the answer arrives all the same."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.latency = 1.0
        answers: list[tuple[bool, float]] = []
        with trio.move_on_after(0.5):
            answers.append((await desk.reserve(desk.deliveries[0]), trio.current_time()))
        assert answers == [(True, 1.0)]
    assert ledger.states()[State.SENDING] == 1


async def test_an_asker_who_was_cancelled_does_not_wait_for_ever_for_its_answer(autojump_clock):
    """Cancelled at 0.5 s while the database hangs: ANSWER_SECONDS later it gives up."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.latency = 1000.0
        with trio.move_on_after(0.5) as scope:
            await desk.reserve(desk.deliveries[0])
        assert scope.cancelled_caught
        assert trio.current_time() == 0.5 + ANSWER_SECONDS


async def test_an_asker_who_was_cancelled_before_its_turn_reserves_nothing(autojump_clock):
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        ledger.latency = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.reserve, desk.deliveries[0])
            await trio.sleep(0.1)
            with trio.move_on_after(0.5):
                await desk.reserve(desk.deliveries[1])
        assert trio.current_time() == 1.0
    assert ledger.states() == {State.SENDING: 1, State.PLANNED: 19}


# Settlements --------------------------------------------------------------------------------------------------------


async def test_settlements_gather_and_share_a_statement(autojump_clock):
    """Those of the first 50 ms go together, and the one after that goes in the next."""
    ledger = a_ledger()
    async with open_desk(ledger) as desk:
        flying = await desk.in_flight(4)
        for delivery in flying[:3]:
            desk.recorder.settle([sent(delivery)])
            await trio.sleep(0.02)
        desk.recorder.settle([sent(flying[3])])
        await desk.recorder.flush()
        assert [(round(at, 6), count) for at, count in ledger.written] == [(GATHER, 3), (0.06 + GATHER, 1)]
    assert desk.progress.settled == {(Channel.EMAIL, State.SENT): 4}
    assert desk.progress.written == 4
    assert ledger.states()[State.SENT] == 4


async def test_a_statement_does_not_grow_without_end(autojump_clock):
    ledger = a_ledger(1)
    async with open_desk(ledger) as desk:
        (delivery,) = await desk.in_flight(1)
        for _ in range(2 * MOST_TOGETHER + 3):
            desk.recorder.settle([sent(delivery)])
        await desk.recorder.flush()
    assert ledger.written == [(0.0, MOST_TOGETHER), (0.0, MOST_TOGETHER), (GATHER, 3)]


async def test_calls_wait_while_too_much_is_not_written(autojump_clock):
    """A statement of 500 takes 1 s: of 2,600 outcomes no more than 2,000 are left after the second one."""
    ledger = a_ledger(2)
    async with open_desk(ledger) as desk:
        (delivery,) = await desk.in_flight(1)
        other = desk.deliveries[1]
        ledger.latency = 1.0
        for _ in range(MOST_UNWRITTEN + 600):
            desk.recorder.settle([sent(delivery)])
        with trio.move_on_after(1.9) as too_soon:
            await desk.reserve(other)
        assert (too_soon.cancelled_caught, ledger.reserved) == (True, [])
        assert await desk.reserve(other)
        assert trio.current_time() == 3.0, "two statements of settlements, and its own"


@pytest.mark.parametrize(("more", "granted_at"), [(0, 1.0), (1, 2.0)])
async def test_no_call_waits_while_as_much_is_not_written_as_may_be(more, granted_at, autojump_clock):
    """A statement takes 1 s, the first one of 500 outcomes: after that there is room."""
    ledger = a_ledger(2)
    async with open_desk(ledger) as desk:
        (delivery,) = await desk.in_flight(1)
        ledger.latency = 1.0
        desk.recorder.settle([sent(delivery)] * 500)
        desk.recorder.settle([sent(delivery)] * (MOST_UNWRITTEN - 500 + more))
        assert await desk.reserve(desk.deliveries[1])
        assert trio.current_time() == granted_at


async def test_a_trouble_is_over_with_a_reservation_that_passes_and_not_with_one_that_fails(autojump_clock):
    ledger = RefusingLedger(some_offices(3, staff=1))
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            bad, good, _ = desk.deliveries
            ledger.bad = {bad.id}
            desk.progress.trouble.met("reservations", REFUSED.reason)
            await trio.sleep(CALM)
            with pytest.raises(StatementRefused):
                await desk.reserve(bad)
            assert [line["event"] for line in logs] == ["waiting_for_database"]
            assert await desk.reserve(good)
    assert [line["event"] for line in logs] == ["waiting_for_database", "database_back"]


async def test_flush_waits_for_what_was_handed_on_before_it_and_for_nothing_else(autojump_clock):
    """Others go on handing on, so that the recorder never comes to rest; two who flush do not hide one another."""
    ledger = a_ledger()
    flushed: list[float] = []
    async with open_desk(ledger) as desk:
        flying = await desk.in_flight(20)
        ledger.latency = 0.1

        async def flush() -> None:
            await desk.recorder.flush()
            flushed.append(round(trio.current_time(), 6))

        async with trio.open_nursery() as nursery:
            for number, delivery in enumerate(flying):
                desk.recorder.settle([sent(delivery)])
                if number in (0, 1):
                    nursery.start_soon(flush)
                await trio.sleep(0.04)
    assert flushed == [round(GATHER + 0.1, 6)] * 2
    assert ledger.states()[State.SENT] == 20


async def test_there_is_nothing_to_wait_for_where_nothing_was_handed_on(autojump_clock):
    async with open_desk(a_ledger()) as desk:
        await desk.recorder.flush()
        desk.recorder.settle([])
        await desk.recorder.flush()
    assert trio.current_time() == 0.0


async def test_a_lot_that_is_refused_goes_one_by_one_and_one_that_is_refused_goes_bare(autojump_clock):
    ledger = a_ledger()
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            flying = await desk.in_flight(4)
            bad, worst = flying[1], flying[2]
            ledger.refuses = lambda settlements, bare: any(
                s.delivery.id == worst.id or (s.delivery.id == bad.id and not bare) for s in settlements
            )
            desk.recorder.settle([sent(delivery) for delivery in flying])
            await desk.recorder.flush()
    assert [ledger.state(delivery.id)[0] for delivery in flying] == [
        State.SENT,
        State.SENT,
        State.SENDING,
        State.SENT,
    ]
    assert [row.delivery.id for row in ledger.rows.values() if row.audit_missing] == [bad.id]
    assert len(ledger.app.audit_log) == 2
    assert "waiting_for_database" not in {line["event"] for line in logs}, "it is the rows' trouble"
    events = [(line["event"], line.get("delivery")) for line in logs if line["log_level"] == "error"]
    assert events == [
        ("audit_row_refused", str(bad.id)),
        ("audit_row_refused", str(worst.id)),
        ("settlement_refused", str(worst.id)),
    ]


async def test_a_database_that_is_away_is_tried_again_with_growing_pauses(autojump_clock):
    """Away for 4 s: tries at 0.05 s, and after pauses of 0.2, 0.4, 0.8, 1.6 and 3.2 s."""
    ledger = a_ledger()
    tries: list[float] = []

    def down() -> bool:
        tries.append(round(trio.current_time(), 6))
        return trio.current_time() < 4.0

    async with open_desk(ledger) as desk:
        flying = await desk.in_flight(3)
        ledger.down = down
        desk.recorder.settle([sent(delivery) for delivery in flying])
        await desk.recorder.flush()
    assert tries == [0.05, 0.25, 0.65, 1.45, 3.05, 6.25]
    assert ledger.states()[State.SENT] == 3


async def test_a_statement_whose_answer_got_lost_is_said_again_and_counts_once(autojump_clock):
    ledger = a_ledger()
    ledger.deaf = between((0.01, 1.0))
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            (delivery,) = await desk.in_flight(1)
            desk.recorder.settle([sent(delivery)])
            await desk.recorder.flush()
    assert len(ledger.written) > 1
    assert ledger.states()[State.SENT] == 1
    assert (desk.settled, len(ledger.app.audit_log), ledger.late) == (1, 1, [])
    assert "late_outcome" not in {line["event"] for line in logs}


async def test_an_outcome_of_a_try_that_is_no_longer_the_last_is_kept_and_logged(autojump_clock):
    ledger = a_ledger()
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            delivery, other = await desk.in_flight(2)
            ledger.rows[delivery.id].delivery = evolve(delivery, try_no=delivery.try_no + 1)
            desk.recorder.settle([sent(delivery), sent(other)])
            await desk.recorder.flush()
    assert ledger.state(delivery.id) == (State.SENDING, None)
    assert [settlement.delivery.id for settlement in ledger.late] == [delivery.id]
    assert [line["delivery"] for line in logs if line["event"] == "late_outcome"] == [str(delivery.id)]
    assert desk.settled == 1, "the other one's"


async def test_who_was_not_reached_is_logged_without_a_name_or_an_address(autojump_clock):
    ledger = a_ledger()
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            told, failed = await desk.in_flight(2)
            desk.recorder.settle([sent(told), Settlement(failed, failed.try_no, State.FAILED, "rejected:422")])
            await desk.recorder.flush()
    (line,) = [line for line in logs if line["event"] == "not_delivered"]
    assert line == {
        "event": "not_delivered",
        "log_level": "warning",
        "delivery": str(failed.id),
        "office": str(failed.office_id),
        "channel": Channel.EMAIL.value,
        "reason": "rejected:422",
    }


async def test_what_the_database_forgot_is_settled_again_and_counted_over_the_run(autojump_clock):
    """Of three mails that were sent, two passes read one each as due."""
    ledger = a_ledger()
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            flying = await desk.in_flight(3)
            desk.recorder.settle([sent(delivery) for delivery in flying])
            await desk.recorder.flush()
            for delivery in flying[:2]:
                read = ledger.rows[delivery.id].delivery = evolve(delivery, state=State.PLANNED)
                others = [desk.deliveries[10], evolve(flying[2], due=False)]
                assert desk.recorder.settle_forgotten([read, *others]) == {delivery.id}
                await desk.recorder.flush()
            assert desk.recorder.settle_forgotten([]) == set()
    assert ledger.states() == {State.SENT: 3, State.PLANNED: 17}
    assert [(line["event"], line.get("deliveries")) for line in logs] == [("ledger_forgot", 2)]


# The end ------------------------------------------------------------------------------------------------------------


async def test_what_was_handed_on_is_written_though_the_run_is_cancelled(autojump_clock):
    """Handed on in the moment of the cancellation, and 20 ms before it: both are written, within the grace."""
    ledger = a_ledger()
    with trio.move_on_at(1.0) as scope:
        async with open_desk(ledger) as desk:
            early, late = await desk.in_flight(2)
            await trio.sleep_until(0.98)
            desk.recorder.settle([sent(early)])
            ledger.latency = 0.5
            try:
                await trio.sleep_forever()
            finally:
                desk.recorder.settle([sent(late)])
    assert scope.cancelled_caught
    assert ledger.states()[State.SENT] == 2
    assert trio.current_time() == pytest.approx(1.5, abs=0.05)


async def test_writing_at_the_end_has_a_deadline_and_what_is_left_is_counted(autojump_clock):
    ledger = a_ledger()
    with capture_logs() as logs:
        async with open_desk(ledger, grace=7.0) as desk:
            flying = await desk.in_flight(3)
            ledger.down = lambda: True
            desk.recorder.settle([sent(delivery) for delivery in flying])
    assert trio.current_time() == 7.0
    assert [line["deliveries"] for line in logs if line["event"] == "outcomes_not_written"] == [3]
    assert desk.progress.trouble.waiting_for == "", "nothing waits any more"
    assert ledger.states()[State.SENDING] == 3, "evidence, not loss"


async def test_a_recorder_that_wrote_everything_ends_at_once(autojump_clock):
    ledger = a_ledger()
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            (delivery,) = await desk.in_flight(1)
            desk.recorder.settle([sent(delivery)])
            await desk.recorder.flush()
    assert trio.current_time() == pytest.approx(GATHER)
    assert logs == []


async def test_who_is_not_reached_in_many_ways_has_one_line_for_each_reason(autojump_clock):
    """Two people with a mail and 20 devices each, and two reasons in turn: four lines for pushes and two for mails."""
    ledger = ShakyLedger(some_offices(1, staff=2, devices=20))
    with capture_logs() as logs:
        async with open_desk(ledger) as desk:
            found = await desk.in_flight(42)
            why = {d: "bad_address" if d.device_id is None else f"rejected:{400 + n % 2}" for n, d in enumerate(found)}
            desk.recorder.settle([Settlement(d, d.try_no, State.FAILED, reason) for d, reason in why.items()])
            await desk.recorder.flush()
    said = [(line["channel"], line["reason"]) for line in logs if line["event"] == "not_delivered"]
    assert Counter(said) == {("email", "bad_address"): 2, ("push", "rejected:400"): 2, ("push", "rejected:401"): 2}
