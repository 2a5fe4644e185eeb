"""The contract of the ledger and its source, held by the one in PostgreSQL and the one in memory."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import trio
from attrs import evolve

from notifierd.demo.postgres import Cluster
from notifierd.model.counts import Capacity, ChannelCounts
from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State
from notifierd.model.errors import LeaseHeld
from notifierd.model.office import OfficeWork
from notifierd.rules.due import Rules
from notifierd.store.source import START, Claim
from tests.support.ledgers import Desk, open_desk
from tests.support.memory import Application, Hold
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_assessment, an_id, some_offices

RULES = Rules()
ME = "me"


@pytest.fixture(params=["memory", "postgres"])
async def desk(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Desk]:
    """A fresh ledger of either kind."""
    name = f"ledger_{uuid4().hex[:12]}"
    dsn = cluster.create_database(name)
    async with open_desk(cast("str", request.param), dsn, chunk=3) as desk:
        yield desk
    cluster.drop_database(name)


async def work_of(desk: Desk, rules: Rules = RULES) -> list[OfficeWork]:
    """All that is due, over as many chunks as it takes."""
    found: list[OfficeWork] = []
    place = START
    while True:
        chunk = await desk.source.read(DAY, place, rules, Claim(ME))
        found += chunk.offices
        if chunk.after is None:
            return found
        place = chunk.after


async def deliveries_of(desk: Desk) -> list[Delivery]:
    """All deliveries that are due."""
    return [delivery for work in await work_of(desk) for delivery in work.deliveries]


async def planned(desk: Desk, app: Application) -> list[Delivery]:
    """Load *app*, take the lease, plan the day; what is due then."""
    await desk.load(app)
    await desk.ledger.take_lease(DAY, ME)
    await desk.ledger.plan(DAY, RULES)
    return await deliveries_of(desk)


def a_call(*deliveries: Delivery, call_id: UUID | None = None, expires: float = 30.0) -> Reservation:
    """A call of *deliveries*, each marked for its next try."""
    key = call_id or uuid4()
    marked = [
        evolve(
            delivery,
            state=State.SENDING,
            try_no=delivery.try_no + 1,
            call_id=key,
            position=position,
            call_tries=delivery.call_tries + 1 if delivery.call_id == key else 1,
        )
        for position, delivery in enumerate(deliveries)
    ]
    return Reservation(key, tuple(marked), b"hash of the body", "resend", expires)


def ending(call: Reservation, state: State, **more: Any) -> list[Settlement]:
    """Every delivery of *call* ends its try in *state*."""
    return [evolve(Settlement(d, d.try_no, state), **more) for d in call.deliveries]


async def reserved(desk: Desk, *calls: Reservation, holder: str = ME) -> bool:
    """Whether all of *calls* were reserved."""
    return await desk.ledger.reserve(DAY, holder, calls) == {call.call_id for call in calls}


async def test_no_more_offices_are_read_than_are_asked_for(desk: Desk) -> None:
    """Five, of which the desk itself reads at most three at once."""
    await planned(desk, some_offices(5, staff=1))
    all_at_once = [work.id for work in await work_of(desk)]
    found, place = [], START
    for most in (2, 1, 500):
        chunk = await desk.source.read(DAY, place, RULES, Claim(ME), most)
        works = list(chunk.offices)
        assert [office for _, office in chunk.places] == [work.id for work in works]
        assert len(works) == min(most, 2)
        found += [work.id for work in works]
        place = chunk.places[-1]
        assert chunk.after in (place, None)
    assert found == all_at_once


async def test_an_office_that_is_read_again_is_as_it_was_read_until_something_changes(desk: Desk) -> None:
    await planned(desk, some_offices(2, staff=2, devices=2))
    before = trio.current_time()
    works = await work_of(desk)
    for work in works:
        again = await desk.source.read_again(work, DAY, RULES)
        assert (again.id, again.name, again.staff, again.devices) == (work.id, work.name, work.staff, work.devices)
        assert set(again.alerts) == set(work.alerts)
        assert again.deliveries == work.deliveries
        assert before <= work.as_of <= again.as_of <= trio.current_time()
    mails_only = evolve(works[0], deliveries=works[0].deliveries[:2])
    assert (await desk.source.read_again(mails_only, DAY, RULES)).devices == {}


async def test_an_office_that_is_read_again_shows_what_changed(desk: Desk) -> None:
    """A member leaves, another has a new address, a phone changes hands, a deadline moves, an office closes."""
    await planned(desk, some_offices(2, staff=3, devices=1))
    work, closing = await work_of(desk)
    gone, moved, other = sorted(work.staff.values(), key=lambda staff: staff.name)
    phone = next(device for device in work.devices.values() if device.staff_id == moved.id)

    def change(app: Application) -> None:
        app.staff = [
            (office, evolve(staff, email="new@example.jp") if staff.id == moved.id else staff)
            for office, staff in app.staff
            if staff.id != gone.id
        ]
        app.devices[phone.id] = evolve(phone, staff_id=other.id)
        app.alerts = [(office, a_renewal(200) if office == work.id else alert) for office, alert in app.alerts]
        del app.offices[closing.id]

    await desk.edit(change)
    again = await desk.source.read_again(work, DAY, RULES)
    assert again.staff == {moved.id: evolve(moved, email="new@example.jp"), other.id: other}
    assert phone.id not in again.devices, "it is not the device of the staff member whom the delivery is for"
    assert again.alerts == ()
    assert again.deliveries == work.deliveries
    closed = await desk.source.read_again(closing, DAY, RULES)
    assert (closed.name, closed.staff) == (None, {})


async def test_planning_twice_changes_nothing(desk: Desk) -> None:
    before = await planned(desk, some_offices(4, staff=2, devices=1))
    again = await desk.ledger.plan(DAY, RULES)
    assert len(before) == 16
    assert (again.offices, again.email, again.push) == (4, 8, 8)
    assert await deliveries_of(desk) == before


async def test_planning_again_adds_what_is_new(desk: Desk) -> None:
    app = some_offices(1, staff=1)
    before = await planned(desk, app)
    office = next(iter(app.offices))
    await desk.edit(lambda app: app.staff.append((office, a_staff("newcomer"))))
    assert (await desk.ledger.plan(DAY, RULES)).email == 2
    after = await deliveries_of(desk)
    assert len(before) == 1
    assert set(before) < set(after)


async def test_the_most_urgent_office_comes_first_over_chunks(desk: Desk) -> None:
    app = Application()
    lefts = [12, -3, 0, 30, 7, 1, 29]
    for left in lefts:
        office = an_id(f"office {left}")
        app.offices[office] = f"office {left}"
        app.staff.append((office, a_staff(f"staff {left}")))
        app.alerts.append((office, a_renewal(left)))
    calm = an_id("calm")
    app.offices[calm] = "calm"
    app.staff.append((calm, a_staff("calm staff")))
    app.alerts.append((calm, an_assessment()))
    await planned(desk, app)
    assert [work.name for work in await work_of(desk)] == [f"office {left}" for left in sorted(lefts)] + ["calm"]


async def test_an_office_comes_with_all_that_its_messages_are_made_from(desk: Desk) -> None:
    app = some_offices(2, staff=2, devices=2)
    await planned(desk, app)
    for work in await work_of(desk):
        assert work.staff == app.staff_of(work.id)
        assert list(work.alerts) == app.alerts_of(work.id)
        wanted = {d.device_id for d in work.deliveries if d.channel is Channel.PUSH}
        assert {device.id for device in work.devices.values()} == wanted
        assert all(work.devices[key] == app.devices[key] for key in work.devices)


async def test_a_device_of_somebody_else_is_not_read(desk: Desk) -> None:
    app = some_offices(1, staff=1, devices=1)
    await planned(desk, app)
    (device,) = app.devices.values()
    ledger_day = await deliveries_of(desk)
    assert len(ledger_day) == 2
    stolen = evolve(device, staff_id=an_id("somebody else"))
    await desk.edit(lambda app: app.devices.update({device.id: stolen}))
    (work,) = await work_of(desk)
    assert work.devices == {}


async def test_only_one_process_has_the_lease(desk: Desk) -> None:
    await desk.load(Application())
    await desk.ledger.take_lease(DAY, ME)
    await desk.ledger.take_lease(DAY, ME)
    with pytest.raises(LeaseHeld, match=ME):
        await desk.ledger.take_lease(DAY, "other")
    assert not await desk.ledger.renew_lease(DAY, "other")
    await desk.ledger.finish(DAY, ME, "completed", None)
    await desk.ledger.take_lease(DAY, "other")


async def test_a_lease_that_ran_out_is_taken_over_and_cannot_be_renewed(desk: Desk) -> None:
    await desk.load(Application())
    await desk.ledger.take_lease(DAY, ME)
    await desk.age(10)
    assert await desk.ledger.renew_lease(DAY, ME)
    await desk.age(10)
    with pytest.raises(LeaseHeld):
        await desk.ledger.take_lease(DAY, "other")
    await desk.age(6)
    assert not await desk.ledger.renew_lease(DAY, ME)
    await desk.ledger.take_lease(DAY, "other")
    await desk.ledger.finish(DAY, ME, "completed", None)
    assert await desk.ledger.renew_lease(DAY, "other"), "a finish of the former holder changes nothing"


async def test_a_lease_that_is_given_back_is_free_at_once_and_the_run_is_interrupted(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    await desk.ledger.give_back(DAY, "other", "run_died")
    assert await how_it_ended(desk) == ("running", None), "only its holder gives it back"
    await desk.ledger.give_back(DAY, ME, "database_refused:22012")
    assert await how_it_ended(desk) == ("interrupted", "database_refused:22012")
    assert not await desk.ledger.renew_lease(DAY, ME)
    assert not await reserved(desk, a_call(delivery))
    await desk.ledger.take_lease(DAY, "other")
    await desk.ledger.give_back(DAY, ME, "run_died")
    assert await how_it_ended(desk) == ("running", None), "it is another's by now"


async def test_nothing_is_reserved_without_the_lease(desk: Desk) -> None:
    (delivery, *_) = await planned(desk, some_offices(1))
    assert not await reserved(desk, a_call(delivery), holder="other")
    await desk.age(16)
    assert not await reserved(desk, a_call(delivery))
    assert (await desk.states())[delivery.id] == ("planned", None)


async def test_a_reserved_delivery_is_nobody_elses(desk: Desk) -> None:
    first, second, *_ = await planned(desk, some_offices(2))
    call = a_call(first)
    assert await reserved(desk, call)
    assert not await reserved(desk, a_call(first)), "by another call"
    assert not await reserved(desk, a_call(first, second)), "a call is reserved whole or not at all"
    assert (await desk.states())[second.id][0] == "planned"
    assert await reserved(desk, call), "asking again, since the answer was lost, is harmless"
    assert first.id not in {d.id for d in await deliveries_of(desk) if d.due}


async def test_the_same_call_that_another_process_reserved_is_not_taken_for_ones_own(desk: Desk) -> None:
    """Ids are derived: who lost the lease while its statement was on its way asked for this call as this try, too."""
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    call = a_call(delivery)
    assert await reserved(desk, call)
    await desk.age(16)
    await desk.ledger.take_lease(DAY, "other")
    assert not await reserved(desk, call, holder="other")
    assert not await reserved(desk, call)
    await desk.age(16)
    await desk.ledger.take_lease(DAY, ME)
    assert not await reserved(desk, call), "nor that of a time before the lease was lost"


async def test_a_lease_that_is_taken_again_in_time_has_no_break(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    call = a_call(delivery)
    assert await reserved(desk, call)
    await desk.ledger.take_lease(DAY, ME)
    assert await desk.ledger.renew_lease(DAY, ME)
    assert await reserved(desk, call)


async def test_how_often_a_delivery_was_put_back_is_kept(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    for put_back in (1, 2):
        call = a_call(delivery)
        assert await reserved(desk, call)
        await desk.ledger.settle(ending(call, State.PLANNED, put_back=put_back))
        (delivery,) = await deliveries_of(desk)
        assert delivery.put_back == put_back


async def test_calls_are_reserved_together_and_judged_apart(desk: Desk) -> None:
    first, second, third, *_ = await planned(desk, some_offices(3))
    assert await reserved(desk, a_call(first))
    bad, good = a_call(first, second), a_call(third)
    assert await desk.ledger.reserve(DAY, ME, [bad, good]) == {good.call_id}


async def test_a_settled_delivery_is_never_sent_again(desk: Desk) -> None:
    (delivery, *_) = await planned(desk, some_offices(1))
    call = a_call(delivery)
    assert await reserved(desk, call)
    assert await desk.ledger.settle(ending(call, State.SENT, audit={}, provider_message_id="x")) == set()
    await desk.age(3600)
    await desk.ledger.take_lease(DAY, ME)
    await desk.ledger.plan(DAY, RULES)
    assert delivery.id not in {d.id for d in await deliveries_of(desk)}
    assert not await reserved(desk, a_call(evolve(delivery, try_no=1)))


async def test_settling_writes_the_audit_rows_with_it(desk: Desk) -> None:
    deliveries = await planned(desk, some_offices(1, staff=1, devices=3))
    pushes = [d for d in deliveries if d.channel is Channel.PUSH]
    (mail,) = [d for d in deliveries if d.channel is Channel.EMAIL]
    calls = [a_call(d) for d in (mail, *pushes)]
    assert await reserved(desk, *calls)
    both = [s for call in calls[:3] for s in ending(call, State.SENT, audit={"renewal_count": 1})]
    await desk.ledger.settle(both)
    await desk.ledger.settle(ending(calls[3], State.SENT, audit={}))
    who = (mail.office_id, mail.staff_id)
    assert await desk.audit_log() == [who, who], "one for the mail, one for the first of three pushes"


async def test_what_was_settled_bare_has_its_audit_row_and_its_deletion_later_and_once(desk: Desk) -> None:
    app = some_offices(1, staff=1, devices=1)
    deliveries = await planned(desk, app)
    (device,) = app.devices.values()
    call = a_call(*deliveries)
    assert await reserved(desk, call)
    ends = [
        evolve(s, state=State.GONE, gone_endpoint=device.endpoint) if s.delivery.channel is Channel.PUSH else s
        for s in ending(call, State.SENT, audit={"renewal_count": 1})
    ]
    await desk.ledger.settle(ends, without_audit=True)
    assert (await desk.audit_log(), await desk.device_ids()) == ([], {device.id})
    assert len(await desk.unaudited()) == 1
    for _ in range(2):
        await desk.ledger.settle_extras(ends)
        mail = call.deliveries[0]
        assert await desk.audit_log() == [(mail.office_id, mail.staff_id)]
        assert (await desk.unaudited(), await desk.device_ids()) == (set(), set())


async def test_extras_are_written_for_what_the_same_try_settled_bare_and_for_nothing_else(desk: Desk) -> None:
    """One delivery was settled whole, one is still being sent, one failed, and one was settled by another try."""
    app = some_offices(4, staff=1, devices=1)
    deliveries = [d for d in await planned(desk, app) if d.channel is Channel.EMAIL]
    calls = [a_call(delivery) for delivery in deliveries]
    assert await reserved(desk, *calls)
    whole, sending, failed, other = (ending(call, State.SENT, audit={}) for call in calls)
    await desk.ledger.settle(whole)
    await desk.ledger.settle(ending(calls[2], State.FAILED), without_audit=True)
    await desk.ledger.settle(other, without_audit=True)
    before = await desk.audit_log()
    stale = [evolve(s, try_no=s.try_no + 1) for s in other]
    await desk.ledger.settle_extras([*whole, *sending, *failed, *stale])
    assert await desk.audit_log() == before
    assert await desk.unaudited() == {other[0].delivery.id}


@pytest.mark.parametrize("owed_first", [True, False])
async def test_of_ones_pushes_one_has_an_audit_row_whichever_was_owed(desk: Desk, owed_first: bool) -> None:
    """The first of three was settled bare, then the second whole; the third, bare again, is like the first."""
    deliveries = await planned(desk, some_offices(1, staff=1, devices=3))
    pushes = [d for d in deliveries if d.channel is Channel.PUSH]
    calls = [a_call(push) for push in pushes]
    assert await reserved(desk, *calls)
    first, second, third = (ending(call, State.SENT, audit={}) for call in calls)
    await desk.ledger.settle(first, without_audit=True)
    await desk.ledger.settle(third, without_audit=True)
    if owed_first:
        await desk.ledger.settle_extras([*first, *third])
        await desk.ledger.settle(second)
    else:
        await desk.ledger.settle(second)
        await desk.ledger.settle_extras([*first, *third])
    assert await desk.audit_log() == [(pushes[0].office_id, pushes[0].staff_id)]
    assert await desk.unaudited() == set()


async def test_settling_again_is_harmless_and_no_late_outcome(desk: Desk) -> None:
    (delivery, *_) = await planned(desk, some_offices(1))
    call = a_call(delivery)
    assert await reserved(desk, call)
    for _ in range(2):
        assert await desk.ledger.settle(ending(call, State.SENT, audit={})) == set()
    assert len(await desk.audit_log()) == 1
    assert await desk.late() == []


async def test_a_late_outcome_of_another_try_is_kept_and_changes_nothing(desk: Desk) -> None:
    (delivery, *_) = await planned(desk, some_offices(1))
    stale = a_call(delivery, expires=5)
    assert await reserved(desk, stale)
    await desk.age(6)
    (again,) = [d for d in await deliveries_of(desk) if d.id == delivery.id]
    assert (again.state, again.try_no, again.call_tries) == (State.SENDING, 1, 1)
    repeat = a_call(again, call_id=stale.call_id)
    assert await reserved(desk, repeat)
    assert await desk.ledger.settle(ending(stale, State.FAILED, reason="late")) == {delivery.id}
    assert (await desk.states())[delivery.id] == ("sending", None)
    await desk.ledger.settle(ending(repeat, State.SENT, audit={}))
    assert (await desk.states())[delivery.id] == ("sent", None)
    assert await desk.late() == [delivery.id]


async def test_a_late_delivered_settles_what_is_planned(desk: Desk) -> None:
    """The database forgot the try, or the delivery was put back meanwhile: to send it would be to send it twice."""
    first, second = await planned(desk, some_offices(1, staff=2))
    forgotten, back = a_call(first), a_call(second)
    assert await reserved(desk, back)
    await desk.ledger.settle(ending(back, State.PLANNED, put_back=1))
    late = [evolve(s, delivery=evolve(s.delivery, provider="resend")) for s in ending(forgotten, State.SENT)]
    said = [
        evolve(s, audit={"n": 1}, provider_message_id=f"m-{n}")
        for n, s in enumerate([*late, *ending(back, State.SENT)])
    ]
    assert await desk.ledger.settle(said) == set()
    assert set((await desk.states()).values()) == {("sent", None)}
    assert len(await desk.audit_log()) == 2
    assert await desk.ledger.settle(said) == set(), "said again, as its answer was lost"
    assert (await desk.late(), len(await desk.audit_log())) == ([], 2)


@pytest.mark.parametrize("state", [State.FAILED, State.PLANNED, State.SENDING, State.UNKNOWN, State.GONE])
async def test_no_other_late_outcome_settles_what_is_planned(desk: Desk, state: State) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    assert await desk.ledger.settle(ending(a_call(delivery), state, reason="late")) == {delivery.id}
    assert (await desk.states())[delivery.id] == ("planned", None)


async def test_a_late_delivered_is_evidence_only_of_what_is_settled_or_being_sent_anew(desk: Desk) -> None:
    first, second = await planned(desk, some_offices(1, staff=2))
    stale = [a_call(delivery) for delivery in (first, second)]
    assert await reserved(desk, *stale)
    await desk.ledger.settle([s for call in stale for s in ending(call, State.PLANNED, put_back=1)])
    await desk.ledger.expire(DAY, ME, {first: "no_longer_due"})
    found = {delivery.id: delivery for delivery in await deliveries_of(desk)}
    await desk.ledger.expire(DAY, ME, {found[first.id]: "no_longer_due"})
    assert await reserved(desk, a_call(found[second.id]))
    said = [s for call in stale for s in ending(call, State.SENT, audit={})]
    assert await desk.ledger.settle(said) == {first.id, second.id}
    assert {state for state, _ in (await desk.states()).values()} == {"expired", "sending"}


async def test_a_late_delivered_settles_an_older_try_whose_repeat_was_forgotten(desk: Desk) -> None:
    """The row still shows the try before, whose answer was lost: to repeat the call could send it twice."""
    first, second = await planned(desk, some_offices(1, staff=2))
    calls = [a_call(delivery, expires=5) for delivery in (first, second)]
    assert await reserved(desk, *calls)
    await desk.age(6)
    found = {delivery.id: delivery for delivery in await deliveries_of(desk)}
    repeat = a_call(found[first.id], call_id=calls[0].call_id)
    anew = a_call(found[second.id])
    said = [s for call in (repeat, anew) for s in ending(call, State.SENT, audit={})]
    assert await desk.ledger.settle(said) == set()
    assert set((await desk.states()).values()) == {("sent", None)}
    assert (await desk.late(), len(await desk.audit_log())) == ([], 2)


async def test_a_try_whose_number_was_given_again_says_only_of_another_call_that_it_was_delivered(desk: Desk) -> None:
    """The database forgot a reservation, and the number of its try was given to a call of other content."""
    first, second = await planned(desk, some_offices(1, staff=2))
    former, now = [a_call(delivery) for delivery in (first, second)], [a_call(d) for d in (first, second)]
    assert await reserved(desk, *now)
    said = [*ending(former[0], State.FAILED, reason="rejected:422"), *ending(former[1], State.SENT, audit={})]
    assert await desk.ledger.settle(said) == {first.id}
    states = await desk.states()
    assert (states[first.id], states[second.id]) == (("sending", None), ("sent", None))


async def test_a_try_is_taken_up_by_another_only_when_it_ran_out(desk: Desk) -> None:
    (delivery, *_) = await planned(desk, some_offices(1, staff=1))
    call = a_call(delivery, expires=40)
    assert await reserved(desk, call)
    backlog = (await desk.ledger.counts(DAY, RULES)).backlog
    assert (backlog.open, backlog.due_now) == (1, False)
    assert backlog.next_in == pytest.approx(40, abs=3)
    await desk.age(41)
    await desk.ledger.take_lease(DAY, ME)
    (left,) = await deliveries_of(desk)
    assert (left.call_id, left.provider, left.payload_hash) == (call.call_id, "resend", b"hash of the body")
    assert (await desk.ledger.counts(DAY, RULES)).backlog.due_now
    repeat = a_call(left, call_id=call.call_id)
    assert await reserved(desk, repeat)
    await desk.ledger.settle(ending(repeat, State.SENDING, reason="timeout"))
    (once_more,) = await deliveries_of(desk)
    assert (once_more.call_tries, once_more.try_no) == (2, 2)


async def test_a_call_to_be_repeated_comes_whole_with_what_is_settled_of_it(desk: Desk) -> None:
    deliveries = await planned(desk, some_offices(1, staff=3))
    call = a_call(*deliveries, expires=5)
    assert await reserved(desk, call)
    first, *rest = ending(call, State.SENT, audit={})
    await desk.ledger.settle([first])
    await desk.age(6)
    found = await deliveries_of(desk)
    assert {(d.id, d.state, d.due) for d in found} == {
        (first.delivery.id, State.SENT, False),
        *((other.delivery.id, State.SENDING, True) for other in rest),
    }
    assert sorted(d.position for d in found) == [0, 1, 2]


async def test_what_waits_is_not_read_before_its_time(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    call = a_call(delivery)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.PLANNED, reason="rate_limited:429", wait=60.0, attempts=1))
    assert await deliveries_of(desk) == []
    backlog = (await desk.ledger.counts(DAY, RULES)).backlog
    assert (backlog.open, backlog.due_now) == (1, False)
    assert backlog.next_in == pytest.approx(60, abs=3)
    await desk.age(61)
    (later,) = await deliveries_of(desk)
    assert (later.attempts, later.try_no, later.reason) == (1, 1, "rate_limited:429")


async def test_a_device_that_is_gone_goes_with_the_outcome_unless_it_was_renewed(desk: Desk) -> None:
    app = some_offices(1, staff=1, devices=2)
    pushes = [d for d in await planned(desk, app) if d.channel is Channel.PUSH]
    calls = [a_call(push) for push in pushes]
    assert await reserved(desk, *calls)
    gone, renewed = (app.devices[push.device_id] for push in pushes if push.device_id)
    said = [
        *ending(calls[0], State.GONE, reason="gone:410", gone_endpoint=gone.endpoint),
        *ending(calls[1], State.GONE, reason="gone:410", gone_endpoint="https://push.example.net/the-old-one"),
    ]
    await desk.ledger.settle(said)
    assert await desk.device_ids() == {renewed.id}


async def test_settled_bare_lacks_its_extras(desk: Desk) -> None:
    app = some_offices(1, staff=1, devices=1)
    calls = [a_call(delivery) for delivery in await planned(desk, app)]
    assert await reserved(desk, *calls)
    device = next(iter(app.devices.values()))
    for call in calls:
        mail = call.deliveries[0].channel is Channel.EMAIL
        end = ending(call, State.SENT, audit={}) if mail else ending(call, State.GONE, gone_endpoint=device.endpoint)
        await desk.ledger.settle(end, without_audit=True)
    assert {state for state, _ in (await desk.states()).values()} == {"sent", "gone"}
    assert await desk.audit_log() == []
    assert await desk.device_ids() == {device.id}


async def test_expiring_and_failing_touch_only_what_is_planned(desk: Desk) -> None:
    first, second, third = await planned(desk, some_offices(1, staff=3))
    assert await reserved(desk, a_call(first))
    await desk.ledger.expire(DAY, ME, {first: "no_longer_due", second: "staff_gone"})
    await desk.ledger.fail(DAY, ME, {first: "bad_address", second: "bad_address", third: "no_address"})
    states = await desk.states()
    expected = [("sending", None), ("expired", "staff_gone"), ("failed", "no_address")]
    assert [states[delivery.id] for delivery in (first, second, third)] == expected


async def test_a_failed_office_fails_alone(desk: Desk) -> None:
    app = some_offices(2, staff=2)
    bad, good = app.offices
    deliveries = await planned(desk, app)
    poisoned = [delivery for delivery in deliveries if delivery.office_id == bad]
    assert await reserved(desk, a_call(poisoned[0], expires=5))
    await desk.age(6)
    await desk.ledger.take_lease(DAY, ME)
    ended = await desk.ledger.fail_office(DAY, ME, bad, "office_error:ValueError")
    assert ended == {(Channel.EMAIL, State.FAILED): 1, (Channel.EMAIL, State.UNKNOWN): 1}
    counts = await desk.ledger.counts(DAY, RULES)
    assert (counts.offices, counts.offices_failed) == (2, 1)
    assert {(f.office_id, f.reason) for f in counts.failures} == {(bad, "office_error:ValueError")}
    assert {delivery.office_id for delivery in await deliveries_of(desk)} == {good}


async def test_each_persons_first_failure_comes_before_anybodys_second(desk: Desk) -> None:
    """One of eight people is a member of all four offices: the list ends with three more failures of that person."""
    app = some_offices(4, staff=2)
    (home, everywhere), *others = app.staff
    app.staff += [(office, everywhere) for office in app.offices if office != home]
    deliveries = await planned(desk, app)
    await desk.ledger.fail(DAY, ME, dict.fromkeys(deliveries, "rejected:item"))
    failures = [failure.office_id for failure in (await desk.ledger.counts(DAY, RULES)).failures]
    first, *more = sorted(app.offices)
    assert failures == [*sorted([first, *(office for office, _ in others)]), *more]


async def test_while_anything_is_open_an_interim_count_tells_of_that_alone(desk: Desk) -> None:
    first, second = await planned(desk, some_offices(2, staff=1))
    await desk.ledger.fail(DAY, ME, {first: "rejected:item"})
    whole, interim = await desk.ledger.counts(DAY, RULES), await desk.ledger.counts(DAY, RULES, interim=True)
    assert ([failure.office_id for failure in whole.failures], len(whole.untold)) == ([first.office_id], 2)
    nothing = ChannelCounts()
    assert interim == evolve(whole, email=nothing, push=nothing, failures=(), failures_omitted=0, untold=())
    assert (interim.backlog.open, interim.offices) == (1, 2)
    await desk.ledger.fail(DAY, ME, {second: "rejected:item"})
    whole, interim = await desk.ledger.counts(DAY, RULES), await desk.ledger.counts(DAY, RULES, interim=True)
    assert (len(whole.failures), len(whole.untold)) == (2, 2)
    assert interim == whole


async def test_the_backlog_names_the_last_office_before_the_first_with_anything_open(desk: Desk) -> None:
    """So the next pass need not look at the others again."""
    await planned(desk, some_offices(4, staff=2))
    works = await work_of(desk)
    chunk = await desk.source.read(DAY, START, RULES, Claim(ME))
    places = [*chunk.places, *(await desk.source.read(DAY, chunk.places[-1], RULES, Claim(ME))).places]

    async def done() -> object:
        return (await desk.ledger.counts(DAY, RULES)).backlog.done

    assert await done() is None
    await sent(desk, works[1].deliveries[0])
    await sent(desk, works[1].deliveries[1])
    await sent(desk, works[0].deliveries[0])
    assert await done() is None, "somebody of the first office is left"
    await sent(desk, works[0].deliveries[1])
    assert await done() == places[1]
    (waits, other), last = works[2].deliveries, works[3].deliveries
    call = a_call(waits)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.PLANNED, reason="rate_limited:429", wait=60.0))
    await sent(desk, other)
    assert await done() == places[1], "what waits is open"
    for delivery in last:
        await sent(desk, delivery)
    assert await done() == places[1]
    await desk.ledger.close(DAY)
    assert await done() is None, "nothing is open"


async def test_the_windows_end_settles_what_is_open(desk: Desk) -> None:
    deliveries = await planned(desk, some_offices(1, staff=4))
    deferred, stale, flying, untouched = deliveries
    call = a_call(deferred)
    assert await reserved(desk, call, a_call(stale, expires=5), a_call(flying, expires=60))
    await desk.ledger.settle(ending(call, State.PLANNED, reason="timeout", doubts=1, wait=900.0))
    await desk.age(6)
    ended = await desk.ledger.close(DAY)
    assert ended == {(Channel.EMAIL, State.EXPIRED): 2, (Channel.EMAIL, State.UNKNOWN): 1}
    states = await desk.states()
    assert states[untouched.id] == ("expired", "window_ended")
    assert states[deferred.id] == ("expired", "window_ended_in_doubt (timeout)")
    assert states[stale.id] == ("unknown", "window_ended")
    assert states[flying.id] == ("sending", None)
    counts = await desk.ledger.counts(DAY, RULES)
    assert (counts.email.planned, counts.email.expired, counts.email.unknown, counts.email.open) == (4, 2, 1, 1)


async def test_what_kept_mails_back_is_said_of_those_that_were_not_tried(desk: Desk) -> None:
    deliveries = await planned(desk, some_offices(1, staff=2, devices=1))
    (tried, untouched), pushes = [d for d in deliveries if d.channel is Channel.EMAIL], deliveries[2:]
    call = a_call(tried)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.PLANNED, reason="server_error:500", wait=900.0))
    assert (await desk.ledger.close(DAY, "email_per_day")).total() == 4
    states = await desk.states()
    assert states[tried.id] == ("expired", "window_ended (server_error:500)")
    assert states[untouched.id] == ("expired", "window_ended (email_per_day)")
    assert {states[push.id] for push in pushes} == {("expired", "window_ended")}


async def test_a_plan_names_what_there_is_no_room_for(desk: Desk) -> None:
    """Offices 0 to 3 days from their deadline, with 3, 3, 3 and 3 mails."""
    app = some_offices(4, staff=3, devices=1)
    await desk.load(app)
    await desk.ledger.take_lease(DAY, ME)
    urgent = [an_id(f"office {left}") for left in range(4)]

    async def beyond(capacity: Capacity) -> list[tuple[str, int, list[UUID]]]:
        plan = await desk.ledger.plan(DAY, RULES, capacity)
        assert all(over.offices == len(over.first) for over in plan.excess)
        return [(over.limit, over.mails, list(over.first)) for over in plan.excess]

    assert await beyond(Capacity()) == []
    assert await beyond(Capacity(mails=12, calls=12)) == []
    assert await beyond(Capacity(mails=7)) == [("email_per_day", 5, urgent[2:])]
    assert await beyond(Capacity(mails=0, calls=2, batch=100)) == [
        ("email_per_day", 12, urgent),
        ("email_per_second", 6, urgent[2:]),
    ]
    assert await beyond(Capacity(calls=5, batch=2)) == [("email_per_second", 6, urgent[2:])]
    first, second, *_ = [d for d in await deliveries_of(desk) if d.channel is Channel.EMAIL]
    sent, flying = a_call(first), a_call(second)
    assert await reserved(desk, sent, flying)
    await desk.ledger.settle(ending(sent, State.SENT, audit={}))
    assert await beyond(Capacity(mails=7)) == [("email_per_day", 5, urgent[2:])], (
        "what was given counts, and waits no more"
    )
    assert (await desk.ledger.plan(DAY, RULES)).mails_given == await desk.ledger.mails_given(DAY) == 2


async def test_a_day_that_nobody_came_back_to_is_settled_by_the_next(desk: Desk) -> None:
    first, second, *_ = await planned(desk, some_offices(1, staff=2))
    assert await reserved(desk, a_call(first, expires=5))
    await desk.age(60)
    ended = await desk.ledger.close_earlier(DAY + timedelta(days=1))
    assert ended == {(Channel.EMAIL, State.EXPIRED): 1, (Channel.EMAIL, State.UNKNOWN): 1}
    states = await desk.states()
    assert (states[first.id][0], states[second.id][0]) == ("unknown", "expired")
    assert await desk.ledger.close_earlier(DAY + timedelta(days=1)) == {}


async def test_a_day_that_another_process_still_runs_is_left_alone(desk: Desk) -> None:
    await planned(desk, some_offices(1, staff=2))
    assert await desk.ledger.close_earlier(DAY + timedelta(days=1)) == {}


async def sent(desk: Desk, delivery: Delivery) -> None:
    """Have a provider accept *delivery*."""
    call = a_call(delivery)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.SENT, provider_message_id=f"re_{delivery.id}", audit={}))


async def test_a_mail_that_bounced_after_it_was_accepted_reached_nobody(desk: Desk) -> None:
    """Of two offices, one has a colleague who was reached."""
    lost, told = await planned(desk, some_offices(2, staff=1))
    await desk.edit(lambda app: app.staff.append((told.office_id, a_staff("colleague"))))
    await desk.ledger.plan(DAY, RULES)
    (colleague,) = [d for d in await deliveries_of(desk) if d.id not in (lost.id, told.id)]
    for delivery in (lost, told, colleague):
        await sent(desk, delivery)
    assert (await desk.ledger.counts(DAY, RULES)).untold == ()
    await desk.lose(lost.id)
    await desk.lose(told.id)
    counts = await desk.ledger.counts(DAY, RULES)
    assert counts.untold_offices == (lost.office_id,)
    assert (counts.email.sent, counts.email.failed) == (3, 0), "history is not rewritten"


async def test_a_mail_that_is_held_back_fails_before_anything_is_sent_and_pushes_go_on(desk: Desk) -> None:
    app = some_offices(2, staff=1, devices=1)
    someone, other = (staff for _, staff in app.staff)
    month = timedelta(days=30)
    await desk.hold(Hold(someone.id, f"{someone.name}@example.jp", "complained", DAY, DAY + month))
    await desk.hold(Hold(other.id, "former@example.jp", "suppressed", DAY - month, DAY + month))
    await desk.load(app)
    await desk.ledger.take_lease(DAY, ME)
    plan = await desk.ledger.plan(DAY, RULES)
    assert (plan.offices, plan.email, plan.push, plan.held) == (2, 1, 2, 1)
    due = await deliveries_of(desk)
    assert {d.staff_id for d in due if d.channel is Channel.EMAIL} == {other.id}
    (key,) = [key for key, (state, _) in (await desk.states()).items() if state == "failed"]
    assert (await desk.states())[key] == ("failed", "held:complained")
    counts = await desk.ledger.counts(DAY, RULES)
    assert (counts.email.planned, counts.email.failed, counts.email.open, counts.offices) == (2, 1, 1, 2)
    assert [failure.reason for failure in counts.failures] == ["held:complained"]
    again = await desk.ledger.plan(DAY, RULES)
    assert (again.email, again.held) == (1, 0), "it is held back once"


@pytest.mark.parametrize("first", [-31, -30, -1, 0, 1])
async def test_a_hold_is_in_force_from_its_first_day_to_its_last(desk: Desk, first: int) -> None:
    app = some_offices(1, staff=1)
    ((_, someone),) = app.staff
    since = DAY + timedelta(days=first)
    await desk.hold(Hold(someone.id, f"{someone.name}@example.jp", "suppressed", since, since + timedelta(days=30)))
    await desk.load(app)
    await desk.ledger.take_lease(DAY, ME)
    assert (await desk.ledger.plan(DAY, RULES)).held == (first in (-30, -1, 0))


async def test_what_is_held_back_is_not_retried_until_there_is_another_address(desk: Desk) -> None:
    app = some_offices(2, staff=1)
    (first, someone), (_, other) = app.staff
    await desk.hold(Hold(someone.id, f"{someone.name}@example.jp", "complained", DAY, DAY))
    failing = [d for d in await planned(desk, app) if d.staff_id == other.id]
    call = a_call(*failing)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.FAILED, reason="rejected:422"))
    await desk.hold(Hold(other.id, f"{other.name}@example.jp", "suppressed", DAY, DAY))
    assert (await desk.ledger.retry(DAY, [State.FAILED])).email == 0, "neither who was held back, nor who is by now"

    def move(app: Application) -> None:
        app.staff[0] = first, evolve(someone, email="new@example.jp")

    await desk.edit(move)
    assert (await desk.ledger.retry(DAY, [State.FAILED])).email == 1
    assert {d.staff_id for d in await deliveries_of(desk)} == {someone.id}


async def test_pushes_are_not_added_for_somebody_who_was_pushed_to(desk: Desk) -> None:
    app = some_offices(1, staff=2, devices=1)
    pushes = [d for d in await planned(desk, app) if d.channel is Channel.PUSH]
    call = a_call(pushes[0])
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.SENT, audit={}))
    tablets = [a_device(someone, "new tablet") for _, someone in app.staff]
    await desk.edit(lambda app: app.devices.update({tablet.id: tablet for tablet in tablets}))
    await desk.ledger.plan(DAY, RULES)
    due = [d for d in await deliveries_of(desk) if d.channel is Channel.PUSH]
    assert {d.staff_id for d in due} == {pushes[1].staff_id}
    assert len(due) == 2


async def test_alerts_that_reached_nobody_are_counted(desk: Desk) -> None:
    app = Application()
    nobody, out, later, reached, failed = (an_id(name) for name in ("nobody", "out", "later", "reached", "failed"))
    app.offices = dict.fromkeys((nobody, out, later, reached, failed), "x")
    for office in app.offices:
        app.alerts += [(office, a_renewal(20, f"{office} 20")), (office, a_renewal(-2, f"{office} -2"))]
    app.alerts.append((nobody, an_assessment()))
    app.staff = [
        (out, a_staff("out", email_enabled=False)),
        (later, a_staff("later", email_days=10)),
        (reached, a_staff("reached", email_days=30)),
        (failed, a_staff("failed")),
    ]
    for delivery in await planned(desk, app):
        call = a_call(delivery)
        assert await reserved(desk, call)
        state = State.FAILED if delivery.office_id == failed else State.SENT
        await desk.ledger.settle(ending(call, state, audit={}))
    counts = await desk.ledger.counts(DAY, RULES)
    assert set(counts.untold_offices) == {nobody, out, failed}
    assert (counts.untold_alerts, counts.untold_overdue) == (3 + 2 + 2, 3)


async def test_only_the_offices_of_the_safety_table_exist(desk: Desk) -> None:
    app = some_offices(3, staff=1)
    wanted = next(iter(app.offices))
    await desk.load(app)
    await desk.ledger.take_lease(DAY, ME)
    rules = Rules(only_offices=frozenset({wanted}))
    assert (await desk.ledger.plan(DAY, rules)).offices == 1
    assert {delivery.office_id for delivery in await deliveries_of(desk)} == {wanted}
    assert set((await desk.ledger.counts(DAY, rules)).untold_offices) == {wanted}


async def test_a_retry_plans_again_what_ended_badly_and_nothing_else(desk: Desk) -> None:
    app = some_offices(1, staff=4)
    failed, expired, sent, _ = await planned(desk, app)
    calls = [a_call(failed), a_call(sent)]
    assert await reserved(desk, *calls)
    await desk.ledger.settle(ending(calls[0], State.FAILED, reason="rejected:422", attempts=2, doubts=1))
    await desk.ledger.settle(ending(calls[1], State.SENT, audit={}))
    await desk.ledger.expire(DAY, ME, {expired: "no_longer_due"})
    again = await desk.ledger.retry(DAY, [State.FAILED])
    assert (again.offices, again.email, again.push) == (1, 1, 0)
    states = await desk.states()
    assert (states[failed.id], states[expired.id][0], states[sent.id][0]) == (("planned", None), "expired", "sent")
    (back,) = [d for d in await deliveries_of(desk) if d.id == failed.id]
    assert (back.attempts, back.doubts, back.put_back, back.try_no) == (0, 0, 1, 1)
    assert await reserved(desk, a_call(back))


async def test_a_retry_leaves_an_unknown_call_of_a_provider_with_keys_to_be_made_again(desk: Desk) -> None:
    app = some_offices(1, staff=5)
    first, second, sent, failed, untried = await planned(desk, app)
    call, other = a_call(first, sent, second), a_call(failed)
    assert await reserved(desk, call, other)
    lost, taken, also_lost = ending(call, State.UNKNOWN, reason="timeout", attempts=1, doubts=1)
    taken = evolve(taken, state=State.SENT, reason=None, audit={})
    await desk.ledger.settle([lost, taken, also_lost, *ending(other, State.FAILED, reason="rejected:422")])
    await desk.ledger.fail(DAY, ME, {untried: "no_address"})
    again = await desk.ledger.retry(DAY, [State.UNKNOWN, State.FAILED], ["resend"])
    assert (again.offices, again.email) == (1, 4)
    found = {delivery.id: delivery for delivery in await deliveries_of(desk)}
    for delivery in (first, second):
        left = found[delivery.id]
        assert (left.state, left.due, left.call_id, left.try_no, left.call_tries) == (
            "sending",
            True,
            call.call_id,
            1,
            1,
        )
        assert (left.attempts, left.doubts, left.put_back, left.reason) == (0, -1, 0, None)
        assert left.payload_hash == call.payload_hash
    assert [found[d.id].position for d in (first, sent, second)] == [0, 1, 2]
    assert (found[sent.id].state, found[sent.id].due) == (State.SENT, False)
    assert [(found[d.id].state, found[d.id].put_back) for d in (failed, untried)] == [(State.PLANNED, 1)] * 2
    repeat = a_call(found[first.id], found[second.id], call_id=call.call_id)
    assert await reserved(desk, repeat)


async def test_a_retry_makes_a_new_call_of_what_is_unknown_without_a_key(desk: Desk) -> None:
    first, second = await planned(desk, some_offices(1, staff=2))
    call = a_call(first)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.UNKNOWN, reason="timeout", doubts=2))
    assert (await desk.ledger.retry(DAY, [State.UNKNOWN], ["postmark"])).email == 1
    found = {delivery.id: delivery for delivery in await deliveries_of(desk)}
    assert (found[first.id].state, found[first.id].doubts, found[first.id].put_back) == (State.PLANNED, 0, 1)
    assert found[second.id].put_back == 0


async def test_a_failed_office_is_open_again_after_a_retry(desk: Desk) -> None:
    app = some_offices(1, staff=2)
    (office,) = app.offices
    await planned(desk, app)
    await desk.ledger.fail_office(DAY, ME, office, "office_error:ValueError")
    assert (await desk.ledger.retry(DAY, [State.FAILED, State.EXPIRED])).email == 2
    assert (await desk.ledger.counts(DAY, RULES)).offices_failed == 0


async def test_a_completed_run_is_to_be_resumed_after_a_retry_that_found_something(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    call = a_call(delivery)
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.FAILED, reason="rejected:422"))
    assert await desk.ledger.finish(DAY, ME, "completed", None)
    await desk.ledger.retry(DAY, [State.EXPIRED])
    assert await how_it_ended(desk) == ("completed", None)
    await desk.ledger.retry(DAY, [State.FAILED])
    assert await how_it_ended(desk) == ("interrupted", "retried")
    await desk.ledger.take_lease(DAY, ME)
    assert (await deliveries_of(desk))[0].id == delivery.id


async def test_a_retry_leaves_a_run_that_goes_on_as_it_is_which_then_cannot_be_completed(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    await desk.ledger.expire(DAY, ME, {delivery: "no_longer_due"})
    await desk.ledger.retry(DAY, [State.EXPIRED])
    assert await how_it_ended(desk) == ("running", None)
    assert not await desk.ledger.finish(DAY, ME, "completed", None)
    assert await how_it_ended(desk) == ("interrupted", "retried")
    assert await desk.ledger.finish(DAY, ME, "completed", None), "asked again, as its answer was lost"
    assert await how_it_ended(desk) == ("interrupted", "retried")


async def test_what_nobody_came_back_to_after_a_retry_is_settled_by_the_next_day(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    await desk.ledger.expire(DAY, ME, {delivery: "no_longer_due"})
    await desk.ledger.finish(DAY, ME, "completed", None)
    await desk.ledger.retry(DAY, [State.EXPIRED])
    assert await desk.ledger.close_earlier(DAY + timedelta(days=1)) == {(Channel.EMAIL, State.EXPIRED): 1}
    assert (await desk.states())[delivery.id] == ("expired", "window_ended")
    assert await how_it_ended(desk) == ("interrupted", "never_resumed")


async def test_what_a_run_left_open_is_counted_and_a_run_that_died_is_interrupted(desk: Desk) -> None:
    first, second, third = await planned(desk, some_offices(1, staff=3))
    call = a_call(first)
    assert await reserved(desk, call, a_call(second, expires=60))
    await desk.ledger.settle(ending(call, State.SENT, audit={}))
    assert await desk.ledger.leave_open(DAY) == 2
    assert await how_it_ended(desk) == ("running", None), "its process lives"
    await desk.age(16)
    assert await desk.ledger.leave_open(DAY) == 2
    assert await how_it_ended(desk) == ("interrupted", "run_died")
    assert (await desk.states())[third.id] == ("planned", None)
    assert await desk.ledger.close_earlier(DAY) == {}
    assert await desk.ledger.close_earlier(DAY + timedelta(days=1)) == {
        (Channel.EMAIL, State.EXPIRED): 1,
        (Channel.EMAIL, State.UNKNOWN): 1,
    }
    assert await how_it_ended(desk) == ("interrupted", "never_resumed (run_died)")
    assert await desk.ledger.leave_open(DAY) == 0


async def test_a_run_that_has_ended_is_left_as_it_is(desk: Desk) -> None:
    (delivery,) = await planned(desk, some_offices(1, staff=1))
    await desk.ledger.finish(DAY, ME, "interrupted", "signal")
    assert await desk.ledger.leave_open(DAY) == 1
    assert await how_it_ended(desk) == ("interrupted", "signal")
    assert (await desk.states())[delivery.id] == ("planned", None)


async def how_it_ended(desk: Desk) -> tuple[str, str | None]:
    """The state of DAY's run, and its reason."""
    run = await desk.ledger.run(DAY)
    assert run
    return run.state, run.reason


async def test_old_days_are_forgotten_step_by_step_and_newer_ones_stay(desk: Desk) -> None:
    deliveries = await planned(desk, some_offices(2, staff=2))
    call = a_call(*deliveries[:2])
    assert await reserved(desk, call)
    await desk.ledger.settle(ending(call, State.SENT, audit={}))
    await desk.ledger.close(DAY)
    await desk.ledger.finish(DAY, ME, "completed", None)
    assert not await desk.ledger.forget(DAY)
    assert len(await desk.states()) == 4
    tomorrow = DAY + timedelta(days=1)
    assert await desk.ledger.forget(tomorrow), "the deliveries"
    assert await desk.ledger.forget(tomorrow), "the day itself"
    assert not await desk.ledger.forget(tomorrow)
    assert await desk.states() == {}
    assert (await desk.ledger.counts(DAY, RULES)).offices == 0


async def test_a_day_without_a_run_is_recorded_once_and_a_run_stays_what_it_is(desk: Desk) -> None:
    before, after = DAY - timedelta(days=1), DAY + timedelta(days=1)
    await planned(desk, some_offices(1, staff=1))
    assert await desk.ledger.record({DAY: ("missed", "not_running"), before: ("skipped", "weekend: sunday")}) == [
        before
    ]
    assert await desk.ledger.record({before: ("missed", "not_running"), after: ("missed", "slept_through")}) == [after]
    runs = [await desk.ledger.run(day) for day in (before, DAY, after)]
    assert [run and (run.state, run.reason) for run in runs] == [
        ("skipped", "weekend: sunday"),
        ("running", None),
        ("missed", "slept_through"),
    ]
    assert [run and run.finished_at is None for run in runs] == [False, True, False]


async def test_an_alarm_is_raised_once_for_each_day_and_cause_whoever_comes_first(desk: Desk) -> None:
    """Ten processes at once, twice; another cause and another day are alarms of their own."""
    first: list[bool] = []

    async def one() -> None:
        first.append(await desk.ledger.claim_alarm(DAY, "failures"))

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
    assert (first.count(True), len(first)) == (1, 20)
    assert await desk.ledger.claim_alarm(DAY, "untold")
    assert await desk.ledger.claim_alarm(DAY + timedelta(days=1), "failures")


async def test_alarms_are_forgotten_with_their_day(desk: Desk) -> None:
    tomorrow = DAY + timedelta(days=1)
    await desk.ledger.record({DAY: ("missed", "not_running"), tomorrow: ("missed", "not_running")})
    for day in (DAY - timedelta(days=1), DAY, tomorrow):
        assert await desk.ledger.claim_alarm(day, "missed")
    assert await desk.ledger.forget(tomorrow)
    days = [DAY - timedelta(days=1), DAY, tomorrow]
    assert [await desk.ledger.claim_alarm(day, "missed") for day in days] == [True, True, False]


async def test_the_last_day_of_which_anything_is_written(desk: Desk) -> None:
    assert await desk.ledger.last_day(DAY) is None
    assert await desk.ledger.run(DAY) is None
    future = DAY + timedelta(days=365)
    await desk.ledger.record({DAY - timedelta(days=3): ("missed", "not_running"), future: ("missed", "not_running")})
    assert await desk.ledger.last_day(DAY) == DAY - timedelta(days=3)
    assert await desk.ledger.last_day(future) == future


async def test_a_run_tells_how_it_ended(desk: Desk) -> None:
    await planned(desk, some_offices(1, staff=1))
    run = await desk.ledger.run(DAY)
    assert run
    assert (run.state, run.reason, run.finished_at) == ("running", None, None)
    await desk.ledger.finish(DAY, ME, "interrupted", "signal")
    run = await desk.ledger.run(DAY)
    assert run
    assert (run.state, run.reason) == ("interrupted", "signal")
    assert run.finished_at


async def test_a_recorded_day_can_still_be_run(desk: Desk) -> None:
    """A clock that was set forward and back again: the day was taken for missed, and its window comes."""
    await desk.ledger.record({DAY: ("missed", "slept_through")})
    assert len(await planned(desk, some_offices(1, staff=1))) == 1
    run = await desk.ledger.run(DAY)
    assert run
    assert (run.state, run.reason) == ("running", None)
