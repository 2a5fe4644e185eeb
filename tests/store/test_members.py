"""The members of a day, in PostgreSQL and in memory: who leads, who claims which offices, who may use how much."""

from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import trio
from attrs import evolve

from notifierd.demo.postgres import Cluster
from notifierd.model.counts import Capacity, Planned
from notifierd.model.delivery import Channel, Delivery, Reservation, Settlement, State
from notifierd.model.errors import ConfigsDiffer, LeaseHeld
from notifierd.rules.cluster.grants import ClusterLimits, Grant
from notifierd.rules.cluster.membership import Standing, Terms, Use
from notifierd.rules.due import Rules
from notifierd.store.database import Connection, open_database
from notifierd.store.ledger import LEASE_SECONDS
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import START, Claim, PostgresSource
from notifierd.store.sql import members
from tests.support import application
from tests.support.ledgers import Desk, open_desk
from tests.support.memory import Application
from tests.support.samples import DAY, a_staff, an_assessment, an_id, some_offices

RULES = Rules()
LIMITS = ClusterLimits(email=5, push=20, per_destination=5)
LOCK_FIRST = "select id from notifierd.deliveries order by id limit 1 for update"
FREE_ROWS = "select id from notifierd.deliveries for update skip locked"
SOMEBODY_WAITS = "select exists (select from pg_locks where not granted)"
LONG = 2 / 3 * LEASE_SECONDS
"""Seconds: two of them are longer than a lease."""
SHARED = Terms(LIMITS, shares=True, host="host", version="1", config_hash="same")


@pytest.fixture(params=["memory", "postgres"])
async def desk(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Desk]:
    """A fresh ledger of either kind."""
    name = f"ledger_{uuid4().hex[:12]}"
    dsn = cluster.create_database(name)
    async with open_desk(cast("str", request.param), dsn, chunk=100) as desk:
        yield desk
    cluster.drop_database(name)


async def begun(desk: Desk, app: Application, *others: str) -> Standing:
    """Let "a" plan the day, and *others* join it; how the last of them stands."""
    await desk.load(app)
    standing = await desk.ledger.take_lease(DAY, "a", SHARED)
    planned = await desk.ledger.plan(DAY, RULES)
    assert await desk.ledger.note_plan(DAY, "a", planned) == 1
    for other in others:
        standing = await desk.ledger.take_lease(DAY, other, SHARED)
    return standing


async def claimed(desk: Desk, member: str, members: int = 2, **more: Any) -> list[Delivery]:
    """What *member* claims in a pass: all deliveries, chunk by chunk."""
    found: list[Delivery] = []
    place = START
    while True:
        claim = evolve(Claim(member, members), **more)
        chunk = await desk.source.read(DAY, place, RULES, claim)
        found += [delivery for work in chunk.offices for delivery in work.deliveries]
        if chunk.after is None:
            return found
        place = chunk.after


def offices(deliveries: list[Delivery]) -> set[UUID]:
    return {delivery.office_id for delivery in deliveries}


def a_call(delivery: Delivery, call_id: UUID | None = None) -> Reservation:
    key = call_id or uuid4()
    marked = evolve(delivery, state=State.SENDING, try_no=delivery.try_no + 1, call_id=key, call_tries=1)
    return Reservation(key, (marked,), b"hash of the body", "resend", 30.0)


async def renewed(desk: Desk, member: str, asked: int = 1, holding: Grant | None = None) -> Standing:
    """How *member* stands after a renewal, in which it holds all that it is granted."""
    everything = Grant(100, 100, 100, 100.0)
    standing = await desk.ledger.renew_lease(DAY, member, Use(asked, holding or everything, LIMITS))
    assert standing is not None
    return standing


# Who is a member, and who leads --------------------------------------------------------------------------------------


async def test_a_newcomer_finds_the_plan_and_does_not_lead(desk: Desk) -> None:
    standing = await begun(desk, some_offices(3, staff=2), "b")
    assert (standing.leads, standing.members, standing.epoch, standing.begins) == (False, 2, 1, False)
    assert standing.planned == Planned(3, 6, 0, calls=6)
    assert (await renewed(desk, "a")).leads


async def test_a_newcomer_finds_what_the_plan_exceeds(desk: Desk) -> None:
    await desk.load(some_offices(3, staff=2))
    await desk.ledger.take_lease(DAY, "a", SHARED)
    planned = await desk.ledger.plan(DAY, RULES, Capacity(mails=3, calls=2))
    await desk.ledger.note_plan(DAY, "a", planned)
    standing = await desk.ledger.take_lease(DAY, "b", SHARED)
    assert standing.planned is not None
    assert standing.planned.excess == planned.excess
    assert [(over.limit, over.mails) for over in planned.excess] == [("email_per_day", 3), ("email_per_second", 4)]


async def test_until_the_leader_has_planned_a_newcomer_has_no_plan(desk: Desk) -> None:
    await desk.load(some_offices(1))
    await desk.ledger.take_lease(DAY, "a", SHARED)
    assert (await desk.ledger.take_lease(DAY, "b", SHARED)).planned is None
    assert await desk.ledger.note_plan(DAY, "b", Planned(1, 1, 0)) == 0, "it does not lead"
    assert (await renewed(desk, "b")).planned is None


async def test_who_shares_nothing_and_who_shares_exclude_each_other(desk: Desk) -> None:
    await begun(desk, some_offices(1))
    with pytest.raises(LeaseHeld):
        await desk.ledger.take_lease(DAY, "b", evolve(SHARED, shares=False))
    await desk.ledger.give_back(DAY, "a", "run_died")
    await desk.ledger.take_lease(DAY, "b", evolve(SHARED, shares=False))
    with pytest.raises(LeaseHeld):
        await desk.ledger.take_lease(DAY, "a", SHARED)


async def test_who_would_send_something_else_may_not_join(desk: Desk) -> None:
    await begun(desk, some_offices(1))
    with pytest.raises(ConfigsDiffer):
        await desk.ledger.take_lease(DAY, "b", evolve(SHARED, config_hash="other"))


async def test_whoever_renews_after_the_leaders_lease_ran_out_leads_on_with_the_same_plan(desk: Desk) -> None:
    """The others' leases are renewed in between. The one that was frozen has lost its own."""
    await begun(desk, some_offices(2), "b", "c")
    await desk.age(LONG)
    await renewed(desk, "b")
    await renewed(desk, "c")
    await desk.age(LONG)
    second = await renewed(desk, "c", 2)
    third = await renewed(desk, "b", 2)
    assert (second.leads, third.leads, second.members, second.epoch) == (True, False, 2, 1)
    assert second.planned is not None
    assert await desk.ledger.renew_lease(DAY, "a") is None


async def test_who_leaves_is_no_member_and_the_last_one_stays_and_leads(desk: Desk) -> None:
    await begun(desk, some_offices(1), "b")
    assert await desk.ledger.leave(DAY, "a")
    assert await desk.ledger.renew_lease(DAY, "a") is None
    assert not await desk.ledger.leave(DAY, "b")
    assert (await renewed(desk, "b")).leads
    run = await desk.ledger.run(DAY)
    assert run is not None
    assert run.state == "running"
    assert await desk.ledger.finish(DAY, "b", "completed", None) is False, "an office is open"


async def test_the_run_that_the_leader_ends_is_over_for_the_others(desk: Desk) -> None:
    """And those who join then begin another one."""
    await begun(desk, Application(), "b")
    assert await desk.ledger.finish(DAY, "b", "completed", None), "without effect: it does not lead"
    assert not (await renewed(desk, "b")).over
    assert await desk.ledger.finish(DAY, "a", "completed", None)
    assert (await renewed(desk, "b", 2)).over
    anew = await desk.ledger.take_lease(DAY, "c", SHARED)
    assert (anew.begins, anew.leads, anew.epoch, anew.planned) == (True, True, 2, None)
    assert (await renewed(desk, "b", 3)).over, "it is a member of the run before"


async def test_a_member_that_gives_its_lease_back_interrupts_the_run_only_as_the_last_one(desk: Desk) -> None:
    await begun(desk, some_offices(1), "b")
    await desk.ledger.give_back(DAY, "a", "run_died")
    assert (await desk.ledger.run(DAY)).state == "running"  # type: ignore[union-attr]
    await desk.ledger.give_back(DAY, "b", "run_died")
    run = await desk.ledger.run(DAY)
    assert run is not None
    assert (run.state, run.reason) == ("interrupted", "run_died")


async def test_an_operators_retry_goes_to_the_members_also_while_nobody_leads(desk: Desk) -> None:
    await begun(desk, some_offices(1, staff=1), "b")
    (delivery,) = await claimed(desk, "b")
    await desk.ledger.fail(DAY, "b", {delivery: "no_address"})
    assert await desk.ledger.leave(DAY, "a")
    assert (await desk.ledger.retry(DAY, [State.FAILED])).email == 1
    assert not (await renewed(desk, "b")).over


# Claims --------------------------------------------------------------------------------------------------------------


async def test_an_office_belongs_to_one_member_until_its_lease_is_over(desk: Desk) -> None:
    """They take turns: each a quarter of its fair part, and at least one, until nothing is left."""
    await begun(desk, some_offices(40, staff=1), "b")
    place, first = START, list[Delivery]()
    chunk = await desk.source.read(DAY, place, RULES, Claim("a", 2))
    first = [delivery for work in chunk.offices for delivery in work.deliveries]
    assert len(first) == 40 // (4 * 2)
    second = await claimed(desk, "b")
    assert not offices(first) & offices(second)
    assert len(offices(first) | offices(second)) == 40
    assert offices(await claimed(desk, "a")) == offices(first), "its own ones are read again"
    await desk.age(LONG)
    await renewed(desk, "a")
    await desk.age(LONG)
    assert len(offices(await claimed(desk, "a"))) == 40


async def test_the_most_urgent_offices_that_nobody_has_come_first(desk: Desk) -> None:
    await begun(desk, some_offices(16, staff=1), "b")
    order = [delivery.office_id for delivery in await claimed(desk, "a", members=1)]
    assert len(order) == 16
    assert await desk.ledger.leave(DAY, "a")
    await desk.ledger.take_lease(DAY, "c", SHARED)
    turns = [await desk.source.read(DAY, START, RULES, Claim(member, 2)) for member in "bcbc"]
    found = [[office for _, office in chunk.places] for chunk in turns]
    assert found == [order[:2], order[2:3], order[:1], order[2:3]], "16 // 8, then 14 // 8 of what is left"


async def test_an_office_with_a_channel_that_a_member_does_not_serve_is_left_to_others(desk: Desk) -> None:
    app = some_offices(1, staff=1, devices=1)
    mails_only = a_staff("mails only")
    office = an_id("another office")
    app.offices[office] = "another"
    app.staff.append((office, mails_only))
    app.alerts.append((office, an_assessment()))
    await begun(desk, app, "b")
    assert offices(await claimed(desk, "b", channels=[Channel.EMAIL])) == {office}
    assert await claimed(desk, "b", channels=[Channel.PUSH]) == []
    assert len(offices(await claimed(desk, "a"))) == 1


async def test_an_office_is_done_when_it_is_finished_and_nothing_is_open(desk: Desk) -> None:
    """It is not looked at again, unless an operator has something retried."""
    await begun(desk, some_offices(2, staff=1), "b")
    first, second = await claimed(desk, "a", members=1)
    call = a_call(first)
    await desk.ledger.reserve(DAY, "a", [call])
    await desk.ledger.settle([Settlement(call.deliveries[0], 1, State.FAILED, reason="rejected:item")])
    both = [first.office_id, second.office_id]
    assert offices(await claimed(desk, "a", finished=both)) == {second.office_id}
    assert await desk.ledger.is_open(DAY)
    await desk.ledger.fail(DAY, "a", {second: "no_address"})
    assert not await desk.ledger.is_open(DAY)
    await claimed(desk, "a", finished=both)
    assert (await desk.ledger.retry(DAY, [State.FAILED])).email == 2
    assert await desk.ledger.is_open(DAY)
    assert len(offices(await claimed(desk, "b"))) == 2, "nobody claims them any more"


async def test_planning_again_reopens_an_office_that_was_done(desk: Desk) -> None:
    await begun(desk, some_offices(1, staff=1))
    (delivery,) = await claimed(desk, "a")
    await desk.ledger.fail(DAY, "a", {delivery: "no_address"})
    await claimed(desk, "a", finished=[delivery.office_id])
    await desk.edit(lambda app: app.staff.append((delivery.office_id, a_staff("newcomer"))))
    planned = await desk.ledger.plan(DAY, RULES)
    assert not await desk.ledger.is_open(DAY)
    assert await desk.ledger.note_plan(DAY, "a", planned) == 1
    assert await desk.ledger.is_open(DAY)
    assert len(await claimed(desk, "a")) == 1


async def test_what_ends_an_office_or_a_delivery_asks_for_the_claim(desk: Desk) -> None:
    await begun(desk, some_offices(1, staff=2), "b")
    first, second = await claimed(desk, "a")
    for stranger in ("b", "nobody"):
        assert not await desk.ledger.expire(DAY, stranger, {first: "no_longer_due"})
        assert not await desk.ledger.fail(DAY, stranger, {first: "no_address"})
        assert not await desk.ledger.fail_office(DAY, stranger, first.office_id, "office_error:ValueError")
    await desk.age(LONG)
    await renewed(desk, "b")
    await desk.age(LONG)
    await desk.ledger.fail(DAY, "a", {first: "no_address"})
    assert not await desk.ledger.fail_office(DAY, "a", first.office_id, "office_error:ValueError")
    assert set((await desk.states()).values()) == {("planned", None)}, "its claim is not in force any more"
    assert len(await claimed(desk, "b")) == 2
    await desk.ledger.expire(DAY, "b", {first: "no_longer_due"})
    assert (await desk.ledger.fail_office(DAY, "b", second.office_id, "office_error:ValueError")).total() == 1


# Reservations --------------------------------------------------------------------------------------------------------


async def test_members_that_reserve_the_same_call_get_it_once(desk: Desk) -> None:
    """Ids of calls are derived, so another one's reservation looks like one's own whose answer was lost."""
    await begun(desk, some_offices(1, staff=1), "b")
    (delivery,) = await claimed(desk, "a")
    call = a_call(delivery)
    assert await desk.ledger.reserve(DAY, "a", [call]) == {call.call_id}
    assert await desk.ledger.reserve(DAY, "b", [call]) == set()
    assert await desk.ledger.reserve(DAY, "a", [call]) == {call.call_id}, "the answer was lost"


async def test_who_is_no_member_of_this_run_reserves_nothing(desk: Desk) -> None:
    await begun(desk, some_offices(1, staff=1), "b")
    (delivery,) = await claimed(desk, "a")
    assert await desk.ledger.reserve(DAY, "stranger", [a_call(delivery)]) == set()
    await desk.ledger.finish(DAY, "a", "interrupted", "signal")
    await desk.ledger.take_lease(DAY, "c", SHARED)
    assert await desk.ledger.reserve(DAY, "b", [a_call(delivery)]) == set(), "a member of the run before"
    await desk.age(LEASE_SECONDS)
    assert await desk.ledger.reserve(DAY, "c", [a_call(delivery)]) == set()


async def test_rows_are_locked_in_the_order_of_their_ids_so_that_members_never_deadlock(database: str) -> None:
    """Somebody has the row with the smallest id. A reservation that names it last has locked no other row meanwhile."""
    async with open_database(database) as db, open_database(database) as other:
        await application.create(db)
        await application.replace(db, some_offices(1, staff=3))
        ledger = PostgresLedger(db)
        await ledger.take_lease(DAY, "a", SHARED)
        await ledger.plan(DAY, RULES)
        (work,) = (await PostgresSource(db).read(DAY, START, RULES, Claim("a"))).offices
        calls = [a_call(one) for one in sorted(work.deliveries, key=lambda one: one.id, reverse=True)]
        locked, free = trio.Event(), list[UUID]()

        async def hold_the_first() -> None:
            async def unit(connection: Connection) -> None:
                async with connection.transaction():
                    await connection.fetch(LOCK_FIRST)
                    locked.set()
                    while not await connection.fetchval(SOMEBODY_WAITS):
                        await connection.fetch("select pg_sleep(0.01)")
                    free.extend(row["id"] for row in await connection.fetch(FREE_ROWS))

            await other.unit(unit)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_the_first)
            await locked.wait()
            assert await ledger.reserve(DAY, "a", calls) == {call.call_id for call in calls}
        assert len(free) == 3, "the two others, and the one that is held here"


# Limits --------------------------------------------------------------------------------------------------------------


async def test_a_newcomer_gains_what_the_others_have_let_go(desk: Desk) -> None:
    """Five mail calls: the first uses all of them, then finishes two."""
    standing = await begun(desk, some_offices(1), "b")
    assert (standing.limits, standing.grant) == (LIMITS, Grant())
    first = await renewed(desk, "a")
    assert (first.grant, first.kept) == (Grant(3, 10, 3), Grant(5, 20, 5))
    assert (await renewed(desk, "b")).grant == Grant()
    holding = Grant(4, 10, 3)
    assert (await renewed(desk, "a", 2, holding)).kept == holding
    assert (await renewed(desk, "b", 2)).grant == Grant(1, 10, 2)
    assert (await renewed(desk, "a", 1, Grant(1, 1, 1))).grant is None, "a renewal that was overtaken"
    assert await desk.ledger.leave(DAY, "a")
    assert (await renewed(desk, "b", 3)).grant == Grant(5, 20, 5)


async def test_a_leader_whose_lease_runs_out_while_another_one_renews_costs_that_one_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends between the two statements that read the day."""
    reads_late = members.MEMBERS.replace("from notifierd", "from (select pg_sleep(1.0)) late cross join notifierd")
    monkeypatch.setattr(members, "MEMBERS", reads_late)
    name = f"ledger_{uuid4().hex[:12]}"
    dsn = cluster.create_database(name)
    async with open_desk("postgres", dsn) as desk:
        await begun(desk, some_offices(1), "b")
        await desk.age(LEASE_SECONDS - 0.5)
        async with open_database(dsn) as db:
            await db.fetch("update notifierd.run_members set until = until + interval '1 min' where name = 'b'")
        assert (await renewed(desk, "b")).members in {1, 2}
        assert (await renewed(desk, "b", 2)).leads
    cluster.drop_database(name)


async def test_the_limits_in_force_are_the_leaders(desk: Desk) -> None:
    await begun(desk, some_offices(1), "b")
    more = evolve(LIMITS, email=50)
    assert (await desk.ledger.renew_lease(DAY, "b", Use(1, Grant(), more))).limits == LIMITS  # type: ignore[union-attr]
    assert (await desk.ledger.renew_lease(DAY, "a", Use(1, Grant(), more))).limits == more  # type: ignore[union-attr]
    assert (await desk.ledger.renew_lease(DAY, "b", Use(2, Grant(), LIMITS))).limits == more  # type: ignore[union-attr]


async def test_the_days_quota_is_drawn_and_what_is_not_used_comes_back(desk: Desk) -> None:
    await begun(desk, some_offices(1, staff=1), "b")
    await desk.ledger.recount_mails(DAY, "b", 100)
    assert await desk.ledger.draw_mails(DAY, "a", 1) == 0, "only the leader counts"
    await desk.ledger.recount_mails(DAY, "a", 100)
    assert await desk.ledger.draw_mails(DAY, "a", 1) == 100 // 4
    assert await desk.ledger.draw_mails(DAY, "a", 1) == 100 // 4, "its answer was lost: nothing more is drawn"
    assert await desk.ledger.draw_mails(DAY, "b", 70) == 70
    assert await desk.ledger.draw_mails(DAY, "b", 140) == 75
    assert await desk.ledger.draw_mails(DAY, "stranger", 1) == 0
    (delivery,) = await claimed(desk, "a")
    await desk.ledger.reserve(DAY, "a", [a_call(delivery)])
    await desk.ledger.renew_lease(DAY, "a", Use(1, mails_used=20))  # of which one is being sent
    await desk.ledger.recount_mails(DAY, "a", 100)
    assert await desk.ledger.leave(DAY, "b")
    first = 100 // 4
    assert await desk.ledger.draw_mails(DAY, "a", 1000) == first + (100 - 1 - 5 - 75)
    await desk.ledger.recount_mails(DAY, "a", 100)
    assert await desk.ledger.draw_mails(DAY, "a", 1000) == first + (100 - 1 - 5 - 75) + 75
