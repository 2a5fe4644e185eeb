"""Outcomes and audit rows, whatever the database answers, in virtual time: what is known is written."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import pytest
import trio
import trio.testing
from attrs import define, evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State, delivery_id
from notifierd.model.errors import DatabaseError, LedgerUnavailable, StatementRefused
from notifierd.run.day import run_day
from notifierd.run.record import outcomes
from notifierd.run.record.recorder import LONGEST_OWED, MOST_UNWRITTEN
from tests.support.recording import Desk, open_desk, sent
from tests.support.samples import DAY, some_offices
from tests.support.scripted_senders import ScriptedSender, ShakyLedger, Swallowed, a_run

WAITED_FOR = [
    *("0A000", "25006", "26000", "40001", "42501", "42P01", "42P05", "55P03", "57014", "58030", "P0001", "XX000"),
    *("53100", "53300", "57P03", "08006"),
]
"""SQLSTATEs that say nothing of a row."""


@frozen
class Fault:
    """What the database does to a kind of statement, or to those with certain deliveries, for a while.

    Attributes:
        statements: of "reserve", "settle" (with extras), "bare" and "extras".
        only: the deliveries that it strikes; empty for all.
        slow: seconds until it answers.
    """

    state: str
    statements: frozenset[str]
    begins: float = 0.0
    ends: float = float("inf")
    only: frozenset[UUID] = frozenset()
    slow: float = 0.0

    def strikes(self, statement: str, deliveries: set[UUID]) -> bool:
        """Whether it strikes *statement* now."""
        return (
            statement in self.statements
            and self.begins <= trio.current_time() < self.ends
            and (not self.only or bool(self.only & deliveries))
        )

    def error(self) -> DatabaseError:
        """What store/database.py makes of it."""
        if self.state[:2] in {"53", "08"} or self.state.startswith("57P"):
            return LedgerUnavailable(f"database_unavailable:{self.state}")
        return StatementRefused(f"database_refused:{self.state}")


ALL = frozenset({"reserve", "settle", "bare", "extras"})
AUDIT = frozenset({"settle", "extras"})
SETTLING = frozenset({"settle", "bare", "extras"})


@define
class FaultyLedger(ShakyLedger):
    """A ledger that meets faults.

    Attributes:
        at_work: whose push audit row is being decided on by a statement; two at once would not see each other's.
    """

    faults: list[Fault] = field(factory=list)
    at_work: set[tuple[UUID, UUID]] = field(factory=set)
    tries: list[tuple[float, str, int]] = field(factory=list)

    async def _meet(self, statement: str, deliveries: set[UUID]) -> None:
        self.tries.append((trio.current_time(), statement, len(deliveries)))
        for fault in self.faults:
            if fault.strikes(statement, deliveries):
                await trio.sleep(fault.slow)
                raise fault.error()

    async def reserve(self, day, holder, reservations: Sequence[Reservation]) -> set[UUID]:
        await self._meet("reserve", {d.id for r in reservations for d in r.deliveries})
        return await ShakyLedger.reserve(self, day, holder, reservations)

    async def settle(self, settlements: Sequence[Settlement], *, without_audit: bool = False) -> set[UUID]:
        await self._meet("bare" if without_audit else "settle", {s.delivery.id for s in settlements})
        with self._alone([] if without_audit else settlements):
            return await ShakyLedger.settle(self, settlements, without_audit=without_audit)

    async def settle_extras(self, settlements: Sequence[Settlement]) -> None:
        await self._meet("extras", {s.delivery.id for s in settlements})
        with self._alone(settlements):
            await ShakyLedger.settle_extras(self, settlements)

    @contextmanager
    def _alone(self, settlements: Sequence[Settlement]) -> Iterator[None]:
        pushes = [s.delivery for s in settlements if s.delivery.channel is Channel.PUSH and s.state is State.SENT]
        whose = {(delivery.office_id, delivery.staff_id) for delivery in pushes}
        assert not whose & self.at_work
        self.at_work |= whose
        yield
        self.at_work -= whose

    def unaudited(self) -> set[UUID]:
        """The deliveries that lack their audit row."""
        return {key for key, row in self.rows.items() if row.audit_missing}


def a_ledger(offices: int, *faults: Fault) -> FaultyLedger:
    return FaultyLedger(some_offices(offices, staff=1), faults=list(faults))


async def written(desk: Desk, deliveries: Sequence[Delivery], *, by: Callable[[], bool]) -> float:
    """When *by* held after *deliveries* were sent, to a tenth of a second."""
    desk.recorder.settle([sent(delivery) for delivery in deliveries])
    while not by():  # noqa: ASYNC110 - of virtual time
        await trio.sleep(0.1)
    return trio.current_time()


@pytest.mark.parametrize("statements", [ALL, AUDIT, SETTLING], ids=["all", "audit", "settling"])
@pytest.mark.parametrize("state", WAITED_FOR)
async def test_a_refusal_of_ten_seconds_loses_no_outcome_and_no_audit_row_and_floods_no_log(
    state: str, statements: frozenset[str], autojump_clock
):
    ledger = a_ledger(120, Fault(state, statements, ends=10.0))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=30.0) as desk:
            flying = await flying_under(desk, 120)
            for delivery in flying:
                desk.recorder.settle([sent(delivery)])
                await trio.sleep(0.05)
    assert ledger.states() == {State.SENT: 120}
    assert (len(ledger.app.audit_log), ledger.unaudited()) == (120, set())
    assert desk.settled == 120
    assert len(logs) <= 3
    assert {line["event"] for line in logs} <= {"waiting_for_database", "database_back"}
    assert len([tried for tried in ledger.tries if tried[0] < 10.0]) < 400, "it is not asked without an end"
    assert trio.current_time() < 18.0


async def flying_under(desk: Desk, count: int) -> list[Delivery]:
    """*count* deliveries that were reserved before the faults began."""
    assert isinstance(desk.ledger, FaultyLedger)
    faults, desk.ledger.faults = desk.ledger.faults, []
    flying = await desk.in_flight(count)
    desk.ledger.faults, desk.ledger.tries = faults, []
    return flying


@pytest.mark.parametrize("state", ["42P01", "55P03", "53100"])
async def test_outcomes_are_written_at_once_where_only_their_audit_rows_are_refused(state: str, autojump_clock):
    ledger = a_ledger(20, Fault(state, AUDIT, ends=60.0))
    async with open_desk(ledger, grace=100.0) as desk:
        flying = await flying_under(desk, 20)
        desk.recorder.settle([sent(delivery) for delivery in flying])
        await desk.recorder.flush()
        assert trio.current_time() < 0.1
        assert ledger.states() == {State.SENT: 20}
        assert len(ledger.unaudited()) == 20, "evidence, should the process die now"
    assert (len(ledger.app.audit_log), ledger.unaudited()) == (20, set())
    assert 60.0 <= trio.current_time() <= 60.0 + outcomes.BACKOFF.longest


@pytest.mark.parametrize(("state", "slow"), [("55P03", 2.0), ("57014", 30.0), ("P0001", 0.0)])
async def test_one_audit_row_that_is_locked_or_slow_delays_no_other_and_is_not_given_up(
    state: str, slow: float, autojump_clock
):
    """For 200 s. The lot needs its limit once to be refused; then all others go."""
    ledger = a_ledger(60, Fault(state, AUDIT, ends=200.0, slow=slow))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=1000.0) as desk:
            flying = await flying_under(desk, 60)
            ledger.faults = [evolve(ledger.faults[0], only=frozenset({flying[7].id}))]
            assert await written(desk, flying, by=lambda: len(ledger.app.audit_log) == 59) <= 4 * slow + 1.0
            assert ledger.unaudited() == {flying[7].id}
    assert (len(ledger.app.audit_log), ledger.unaudited()) == (60, set())
    assert len(logs) <= 3


@pytest.mark.parametrize(("state", "slow"), [("55P03", 2.0), ("57014", 30.0)])
async def test_one_locked_delivery_holds_up_neither_those_that_came_with_it_nor_those_after(
    state: str, slow: float, autojump_clock
):
    ledger = a_ledger(60, Fault(state, SETTLING, ends=200.0, slow=slow))
    async with open_desk(ledger, grace=1000.0) as desk:
        flying = await flying_under(desk, 60)
        locked = flying[7]
        ledger.faults = [evolve(ledger.faults[0], only=frozenset({locked.id}))]

        def all_others() -> bool:
            return ledger.states() == {State.SENT: 59, State.SENDING: 1}

        desk.recorder.settle([sent(delivery) for delivery in flying[:40]])
        await trio.sleep(1.0)
        assert await written(desk, flying[40:], by=all_others) <= 3 * slow + 1.0
        assert desk.recorder.has_unwritten(locked)
        assert not any(desk.recorder.has_unwritten(delivery) for delivery in flying if delivery != locked)
        assert not await desk.recorder.settled()
        await desk.recorder.flush()
    assert ledger.states() == {State.SENT: 60}
    assert (len(ledger.app.audit_log), ledger.unaudited()) == (60, set())


async def test_a_call_is_not_made_anew_in_part_while_an_outcome_of_another_part_of_it_is_locked(autojump_clock):
    """The answer to a call of four mails is lost, and one of their rows is locked for 100 s: it goes again then."""
    ledger = a_ledger(0, Fault("55P03", SETTLING, ends=100.0, slow=2.0))
    ledger.app = some_offices(1, staff=4)
    one = ledger.app.staff[0]
    locked = delivery_id(DAY, one[0], one[1].id, Channel.EMAIL)
    ledger.faults = [evolve(ledger.faults[0], only=frozenset({locked}))]
    email = ScriptedSender(max_batch=4, honours_keys=True, script=lambda _: Swallowed())
    await run_day(DAY, a_run(ledger, email))
    assert len(email.told) == len(set(email.told)) == 4
    assert ledger.states() == {State.SENT: 4}
    assert len({call.key for call in email.calls}) == 1


async def test_several_locked_rows_are_tried_in_turn_with_the_others(autojump_clock):
    """The first five of twenty: after three refusals in a row the others have their turn all the same."""
    ledger = a_ledger(20, Fault("55P03", SETTLING, ends=100.0, slow=2.0))
    async with open_desk(ledger, grace=1000.0) as desk:
        flying = await flying_under(desk, 20)
        ledger.faults = [evolve(ledger.faults[0], only=frozenset(delivery.id for delivery in flying[:5]))]
        assert await written(desk, flying, by=lambda: ledger.states()[State.SENT] == 15) < 20.0
    assert (ledger.states(), len(ledger.app.audit_log)) == ({State.SENT: 20}, 20)


async def test_a_refusal_for_a_rows_content_is_final_for_that_row_alone(autojump_clock):
    """One audit row names an office that is no more, one outcome breaks a constraint; meanwhile the view is away."""
    ledger = a_ledger(10, Fault("42P01", AUDIT, ends=8.0))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=60.0) as desk:
            flying = await flying_under(desk, 10)
            no_office, broken = flying[2], flying[5]
            ledger.faults += [
                Fault("23503", AUDIT, only=frozenset({no_office.id})),
                Fault("23514", SETTLING, only=frozenset({broken.id})),
            ]
            desk.recorder.settle([sent(delivery) for delivery in flying])
    assert ledger.states() == {State.SENT: 9, State.SENDING: 1}
    assert ledger.unaudited() == {no_office.id}
    assert len(ledger.app.audit_log) == 8
    errors = [(line["event"], line["delivery"], line["refused"]) for line in logs if line["log_level"] == "error"]
    assert ("audit_row_refused", str(no_office.id), "database_refused:23503") in errors
    assert ("settlement_refused", str(broken.id), "database_refused:23514") in errors
    assert len(errors) == len(set(errors)) <= 3


async def test_one_that_is_locked_beside_one_that_is_refused_for_its_content_is_written_later(autojump_clock):
    """Of ten outcomes one breaks a constraint, and another one's row is locked for 20 s."""
    ledger = a_ledger(10)
    async with open_desk(ledger, grace=60.0) as desk:
        flying = await flying_under(desk, 10)
        broken, locked = flying[2], flying[5]
        ledger.faults = [
            Fault("23514", SETTLING, only=frozenset({broken.id})),
            Fault("55P03", SETTLING, ends=20.0, only=frozenset({locked.id})),
        ]
        desk.recorder.settle([sent(delivery) for delivery in flying])
        await desk.recorder.flush()
        assert desk.recorder.has_unwritten(locked)
        assert ledger.states() == {State.SENT: 8, State.SENDING: 2}
    assert ledger.states() == {State.SENT: 9, State.SENDING: 1}
    assert (len(ledger.app.audit_log), ledger.unaudited()) == (9, set())


def failed(delivery: Delivery) -> Settlement:
    """The provider refused *delivery*: there is nothing to write beside the ledger."""
    return Settlement(delivery, delivery.try_no, State.FAILED, "rejected:422")


async def test_what_is_owed_of_a_lot_is_owed_whatever_else_ended_in_it(autojump_clock):
    """One that failed has no extras, one that was sent has an audit row, and a device that is gone is to be deleted."""
    app = some_offices(2, staff=1, devices=1)
    ledger = FaultyLedger(app, faults=[Fault("42P01", AUDIT, ends=8.0)])
    async with open_desk(ledger, grace=60.0) as desk:
        flying = await flying_under(desk, 4)
        first, second = [delivery for delivery in flying if delivery.channel is Channel.EMAIL]
        push, other = [delivery for delivery in flying if delivery.channel is Channel.PUSH]
        assert push.device_id
        endpoint = app.devices[push.device_id].endpoint
        gone = Settlement(push, push.try_no, State.GONE, "gone:410", gone_endpoint=endpoint)
        desk.recorder.settle([failed(first), sent(second), gone, failed(other)])
        await desk.recorder.flush()
        assert ledger.states() == {State.FAILED: 2, State.SENT: 1, State.GONE: 1}
        assert (app.audit_log, len(app.devices)) == ([], 2)
        assert {size for _, statement, size in ledger.tries if statement == "extras"} <= {1, 2}
    assert {size for _, statement, size in ledger.tries if statement == "extras"} == {1, 2}
    assert [row["target_id"] for row in app.audit_log] == [second.staff_id]
    assert [device.id for device in app.devices.values()] == [other.device_id]


async def test_an_outcome_that_was_set_aside_is_written_without_its_audit_row_where_that_is_refused(autojump_clock):
    """Its row is locked for 5 s, and the audit is away for 60 s."""
    ledger = a_ledger(1, Fault("55P03", SETTLING, ends=5.0), Fault("42P01", AUDIT, ends=60.0))
    async with open_desk(ledger, grace=100.0) as desk:
        flying = await flying_under(desk, 1)
        assert 5.0 <= await written(desk, flying, by=lambda: ledger.states() == {State.SENT: 1}) <= 10.0
        assert ledger.app.audit_log == []
    assert (len(ledger.app.audit_log), ledger.unaudited()) == (1, set())


async def test_what_is_refused_for_its_content_after_it_was_set_aside_is_given_up_and_said(autojump_clock):
    """Of three rows two are locked for 3 s; one of these breaks a constraint then, and one's audit row does."""
    ledger = a_ledger(3)
    with capture_logs() as logs:
        async with open_desk(ledger, grace=100.0) as desk:
            flying = await flying_under(desk, 3)
            broken, no_office = flying[0], flying[1]
            ledger.faults = [
                Fault("55P03", SETTLING, ends=3.0, only=frozenset({broken.id, no_office.id})),
                Fault("23514", SETTLING, only=frozenset({broken.id})),
                Fault("23503", AUDIT, only=frozenset({no_office.id})),
            ]
            desk.recorder.settle([sent(delivery) for delivery in flying])
    assert ledger.states() == {State.SENT: 2, State.SENDING: 1}
    assert ledger.unaudited() == {no_office.id}
    assert [(line["event"], line["delivery"], line["refused"]) for line in logs if line["log_level"] == "error"] == [
        ("settlement_refused", str(broken.id), "database_refused:23514"),
        ("audit_row_refused", str(no_office.id), "database_refused:23503"),
    ]
    assert trio.current_time() < 10.0


async def test_where_two_are_locked_in_a_row_the_others_have_their_turn_at_once(autojump_clock):
    ledger = a_ledger(9)
    async with open_desk(ledger, grace=1000.0) as desk:
        flying = await flying_under(desk, 9)
        locked = frozenset(flying[n].id for n in (0, 1, 3, 4, 6, 7))
        ledger.faults = [Fault("55P03", SETTLING, ends=100.0, only=locked)]
        desk.recorder.settle([sent(delivery) for delivery in flying])
        await trio.sleep(0.1)
        assert ledger.states() == {State.SENT: 3, State.SENDING: 6}
        assert [size for _, statement, size in ledger.tries if statement == "settle"] == [9]


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_set_aside_is_tried_in_one_statement_after_growing_pauses(count: int, autojump_clock):
    """A lot that is refused again goes one by one, too."""
    ledger = a_ledger(count, Fault("55P03", SETTLING, ends=2.0))
    async with open_desk(ledger, grace=100.0) as desk:
        flying = await flying_under(desk, count)
        await written(desk, flying, by=lambda: ledger.states() == {State.SENT: count})
    tries = [(round(at, 2), size) for at, statement, size in ledger.tries if statement == "bare"]
    alone = [1] * count
    refused = [count] * (count > 1) + alone
    assert tries == [
        *[(0.05, size) for size in [count, *alone]],
        *[(at, size) for at in (0.25, 0.65, 1.45) for size in refused],
        (3.05, count),
    ]


@pytest.mark.parametrize(
    ("state", "statements"),
    [("53300", {"settle"}), ("57P03", {"settle"}), ("08006", {"settle"}), ("53100", {"settle", "bare", "extras"})],
)
async def test_a_database_that_takes_no_connection_is_asked_the_same_again(
    state: str, statements: set[str], autojump_clock
):
    ledger = a_ledger(2, Fault(state, AUDIT, ends=3.0))
    async with open_desk(ledger, grace=100.0) as desk:
        flying = await flying_under(desk, 2)
        await written(desk, flying, by=lambda: len(ledger.app.audit_log) == 2)
    assert {statement for _, statement, _ in ledger.tries} == statements


async def test_each_reason_of_a_trouble_is_told_with_what_waits_for_it(autojump_clock):
    ledger = a_ledger(2, Fault("42P01", frozenset({"settle"})), Fault("55P03", frozenset({"extras"}), ends=3.0))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=100.0) as desk:
            desk.recorder.settle([sent(delivery) for delivery in await flying_under(desk, 2)])
    assert [(line["what"], line["reason"]) for line in logs if line["event"] == "waiting_for_database"] == [
        ("outcomes", "database_refused:42P01"),
        ("audit rows", "database_refused:55P03"),
    ]


@pytest.mark.parametrize(
    "fault", [Fault("42P01", AUDIT, ends=9.0), Fault("55P03", SETTLING, ends=9.0)], ids=lambda fault: fault.state
)
async def test_ones_next_push_is_written_without_extras_while_one_is_in_hand_and_ones_mail_is_not(
    fault: Fault, autojump_clock
):
    """In hand is a push that is set aside, or whose audit row is owed."""
    app = some_offices(1, staff=1, devices=2)
    ledger = FaultyLedger(app)
    async with open_desk(ledger, grace=60.0) as desk:
        flying = await flying_under(desk, 3)
        mail, *pushes = sorted(flying, key=lambda delivery: delivery.channel is Channel.PUSH)
        ledger.faults = [evolve(fault, only=frozenset({pushes[0].id}))]
        for delivery in (pushes[0], pushes[1], mail):
            before = len(ledger.tries)
            desk.recorder.settle([sent(delivery)])
            await desk.recorder.flush()
            whole = "settle" in {statement for _, statement, _ in ledger.tries[before:]}
            assert whole == (delivery is not pushes[1])
        assert ledger.states()[State.SENT] == (3 if fault.statements == AUDIT else 2)
    assert (ledger.states(), ledger.unaudited(), len(app.audit_log)) == ({State.SENT: 3}, set(), 2)


async def test_a_push_is_written_whole_where_none_is_in_hand(autojump_clock):
    ledger = FaultyLedger(some_offices(1, staff=1, devices=2))
    async with open_desk(ledger) as desk:
        for delivery in await flying_under(desk, 3):
            desk.recorder.settle([sent(delivery)])
            await desk.recorder.flush()
    assert {statement for _, statement, _ in ledger.tries} == {"settle"}
    assert len(ledger.app.audit_log) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault("08006", ALL, ends=3.0), Fault("55P03", SETTLING, ends=3.0), Fault("42P01", AUDIT, ends=3.0)],
    ids=lambda fault: fault.state,
)
async def test_who_looks_on_sees_what_is_waited_for_as_long_as_it_is(fault: Fault, autojump_clock):
    """Whether the database is out of reach, refuses the outcomes, or refuses their audit rows."""
    ledger = a_ledger(2, fault)
    async with open_desk(ledger, grace=100.0) as desk:
        desk.recorder.settle([sent(delivery) for delivery in await flying_under(desk, 2)])
        for at in (0.5, 1.0, 2.0):
            await trio.sleep_until(at)
            assert desk.progress.waiting_for == f"the database ({fault.error().reason})"
        await trio.sleep_until(10.0)
        assert desk.progress.waiting_for == ""
        assert (ledger.states(), len(ledger.app.audit_log)) == ({State.SENT: 2}, 2)
    assert desk.progress.trouble.waiting_for == ""


async def test_ones_further_pushes_are_written_without_extras_one_by_one_too(autojump_clock):
    """The audit row of each one's first push is undecided; of the second ones, one breaks a constraint."""
    app = some_offices(3, staff=1, devices=2)
    ledger = FaultyLedger(app, faults=[Fault("42P01", AUDIT, ends=5.0)])
    async with open_desk(ledger, grace=60.0) as desk:
        flying = [delivery for delivery in await flying_under(desk, 9) if delivery.channel is Channel.PUSH]
        firsts = list({delivery.staff_id: delivery for delivery in flying}.values())
        broken, *others = [delivery for delivery in flying if delivery not in firsts]
        desk.recorder.settle([sent(delivery) for delivery in firsts])
        await desk.recorder.flush()
        ledger.faults.append(Fault("23514", SETTLING, only=frozenset({broken.id})))
        before = len(ledger.tries)
        desk.recorder.settle([sent(delivery) for delivery in (broken, *others)])
        await desk.recorder.flush()
        assert "settle" not in {statement for _, statement, _ in ledger.tries[before:]}
        assert ledger.states(Channel.PUSH) == {State.SENT: 5, State.SENDING: 1}
    rows = [row for row in app.audit_log if row["channel"] is Channel.PUSH]
    assert (len(rows), ledger.unaudited()) == (3, set())


async def test_of_ones_pushes_one_has_an_audit_row_though_the_audit_was_refused_meanwhile(autojump_clock):
    """Three pushes each to four people, one after the other, with the audit away for a part of it."""
    app = some_offices(4, staff=1, devices=3)
    ledger = FaultyLedger(app, faults=[Fault("42P01", AUDIT, begins=0.1, ends=5.0), Fault("55P03", AUDIT, 7.0, 9.0)])
    async with open_desk(ledger, grace=60.0) as desk:
        flying = await flying_under(desk, 16)
        ledger.latency = 0.3
        for delivery in flying:
            desk.recorder.settle([sent(delivery)])
            await trio.sleep(0.7)
    pushes = [(row["office_id"], row["target_id"]) for row in app.audit_log if row["channel"] is Channel.PUSH]
    assert len(pushes) == len(set(pushes)) == 4
    assert (len(app.audit_log), ledger.unaudited(), ledger.states()) == (8, set(), {State.SENT: 16})


async def test_audit_rows_that_are_refused_to_the_end_are_marked_and_counted_in_one_line(autojump_clock):
    ledger = a_ledger(30, Fault("42P01", AUDIT))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=1000.0) as desk:
            desk.recorder.settle([sent(delivery) for delivery in await flying_under(desk, 30)])
    assert trio.current_time() == pytest.approx(LONGEST_OWED, abs=1.0)
    assert (ledger.states(), len(ledger.unaudited())) == ({State.SENT: 30}, 30)
    assert desk.progress.trouble.waiting_for == "", "nothing waits any more"
    assert [(line["event"], line.get("deliveries")) for line in logs] == [
        ("waiting_for_database", None),
        ("audit_rows_not_written", 30),
    ]


async def test_audit_rows_beyond_what_may_be_owed_are_dropped_and_counted(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outcomes, "MOST_OWED", 20)
    ledger = a_ledger(30, Fault("42P01", AUDIT, ends=10.0))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=1000.0) as desk:
            desk.recorder.settle([sent(delivery) for delivery in await flying_under(desk, 30)])
    assert (ledger.states(), len(ledger.unaudited())) == ({State.SENT: 30}, 10)
    assert [line["deliveries"] for line in logs if line["event"] == "audit_rows_not_written"] == [10]


async def test_outcomes_that_are_refused_to_the_end_are_evidence_and_counted_in_one_line(autojump_clock):
    ledger = a_ledger(30, Fault("25006", SETTLING))
    with capture_logs() as logs:
        async with open_desk(ledger, grace=7.0) as desk:
            desk.recorder.settle([sent(delivery) for delivery in await flying_under(desk, 30)])
    assert trio.current_time() == 7.0
    assert ledger.states() == {State.SENDING: 30}
    assert desk.progress.trouble.waiting_for == "", "nothing waits any more"
    assert len(ledger.tries) < 40, "after growing pauses"
    assert [(line["event"], line.get("deliveries")) for line in logs] == [
        ("waiting_for_database", None),
        ("outcomes_not_written", 30),
    ]


async def test_calls_wait_while_too_many_outcomes_are_refused_and_go_on_when_these_are_written(autojump_clock):
    ledger = a_ledger(MOST_UNWRITTEN + 10, Fault("25006", SETTLING, ends=30.0))
    async with open_desk(ledger, grace=100.0) as desk:
        flying = await flying_under(desk, MOST_UNWRITTEN + 5)
        desk.recorder.settle([sent(delivery) for delivery in flying])
        await desk.recorder.flush()
        ledger.extend(DAY, 900.0)
        with trio.fail_after(100.0):
            assert await desk.reserve(desk.deliveries[-1])
        assert trio.current_time() >= 30.0


async def test_a_moment_that_comes_nearer_after_the_run_ends_the_writing(autojump_clock):
    """Until 900 s, the recorder thought; 5 s into it a signal leaves it 10 s."""
    ledger = a_ledger(3, Fault("08006", SETTLING))
    async with open_desk(ledger, last_moment=lambda _: 15.0 if trio.current_time() >= 5.0 else 900.0) as desk:
        desk.recorder.settle([sent(delivery) for delivery in await flying_under(desk, 3)])
    assert trio.current_time() == 15.0


async def test_many_reservations_that_a_trouble_refuses_are_not_tried_each(autojump_clock):
    ledger = a_ledger(200, Fault("55P03", frozenset({"reserve"}), slow=2.0))
    async with open_desk(ledger) as desk, trio.open_nursery() as nursery:

        async def ask(delivery: Delivery) -> None:
            with pytest.raises(StatementRefused):
                await desk.reserve(delivery)

        for delivery in desk.deliveries:
            nursery.start_soon(ask, delivery)
    assert len(ledger.tries) < 20


ids = st.sets(st.integers(0, 11), max_size=3)
a_fault = st.tuples(
    st.sampled_from(WAITED_FOR),
    st.sets(st.sampled_from(sorted(SETTLING)), min_size=1),
    st.floats(0.0, 20.0),
    st.floats(0.1, 20.0),
    ids,
    st.sampled_from([0.0, 2.0, 30.0]),
)


@settings(max_examples=60)
@given(
    st.lists(a_fault, max_size=6),
    st.lists(st.floats(0.0, 3.0), min_size=12, max_size=12),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_whatever_the_database_refuses_and_whenever_all_is_written_once_in_the_end(
    faults: list[tuple[str, set[str], float, float, set[int], float]], pauses: list[float], latency: float
):
    """Twelve deliveries: a mail and two pushes for each of four people."""
    app = some_offices(4, staff=1, devices=2)
    ledger = FaultyLedger(app)

    async def run() -> None:
        async with open_desk(ledger, grace=1000.0) as desk:
            flying = await desk.in_flight(12)
            ledger.latency = latency
            for state, statements, begins, lasts, only, slow in faults:
                struck = frozenset(flying[n].id for n in only)
                ledger.faults.append(Fault(state, frozenset(statements), begins, begins + lasts, struck, slow))
            for delivery, pause in zip(flying, pauses, strict=True):
                desk.recorder.settle([sent(delivery)])
                await trio.sleep(pause)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert (ledger.states(), ledger.unaudited(), ledger.late) == ({State.SENT: 12}, set(), [])
    rows = [(row["channel"], row["office_id"]) for row in app.audit_log]
    assert len(rows) == len(set(rows)) == 8
