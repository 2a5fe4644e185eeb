"""A large day is planned in steps, in PostgreSQL and in memory; `test_plan_property` compares the rows."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest
from attrs import evolve

from notifierd.demo.postgres import Cluster
from notifierd.model.counts import Capacity, Excess
from notifierd.model.delivery import State
from notifierd.rules.due import Rules, Skip, notice_for
from notifierd.rules.reminders import Reminders
from notifierd.store.ledger import UNLIMITED
from notifierd.store.source import START, Claim
from tests.support.ledgers import Desk, open_desk
from tests.support.recording import a_call, sent
from tests.support.samples import DAY, a_renewal, an_id, some_offices

RULES = Rules()


@pytest.fixture(params=["memory", "postgres"])
async def desk(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Desk]:
    """A fresh ledger of either kind."""
    name = f"ledger_{uuid4().hex[:12]}"
    dsn = cluster.create_database(name)
    async with open_desk(cast("str", request.param), dsn) as desk:
        yield desk
    cluster.drop_database(name)


def the_offices(*numbers: int) -> list[UUID]:
    return [an_id(f"office {number}") for number in numbers]


async def open_offices(desk: Desk) -> list[UUID]:
    """The offices that a member can claim, in the order of their urgency."""
    return [work.id for work in (await desk.source.read(DAY, START, RULES, Claim("a", 1))).offices]


async def test_the_most_urgent_offices_are_planned_first(desk: Desk) -> None:
    await desk.load(some_offices(5, staff=2))
    ledger = desk.in_steps(2)
    await ledger.take_lease(DAY, "a")
    plan = await ledger.plan(DAY, RULES)
    assert (plan.offices, plan.email, plan.calls, plan.later) == (2, 4, 4, 3)
    assert await open_offices(desk) == the_offices(0, 1)
    step = await ledger.plan_next(DAY, RULES, UNLIMITED)
    assert (step.offices, step.email, step.calls, step.later) == (2, 4, 4, 1)
    assert await open_offices(desk) == the_offices(0, 1, 2, 3)
    plan = plan.followed_by(step).followed_by(await ledger.plan_next(DAY, RULES, UNLIMITED))
    assert (plan.offices, plan.email, plan.calls, plan.later, plan.is_complete) == (5, 10, 10, 0, True)
    assert (await ledger.plan_next(DAY, RULES, UNLIMITED)).email == 0
    assert len(await desk.states()) == 10


async def test_each_step_says_what_exceeds_the_limits_that_the_earlier_ones_left(desk: Desk) -> None:
    await desk.load(some_offices(5, staff=2))
    ledger, capacity = desk.in_steps(2), Capacity(mails=5, calls=3, batch=2)
    plan = await ledger.plan(DAY, RULES, capacity)
    assert not plan.excess
    while plan.later:
        plan = plan.followed_by(await ledger.plan_next(DAY, RULES, capacity.without(plan)))
    assert plan.excess == (
        Excess("email_per_day", 5, 3, tuple(the_offices(2, 3, 4))),
        Excess("email_per_second", 4, 2, tuple(the_offices(3, 4))),
    )


async def test_planning_again_begins_anew_and_finds_who_came_since(desk: Desk) -> None:
    """The process died after its first step; an office of the first step and one of the last have a new member."""
    await desk.load(some_offices(4, staff=1))
    await desk.in_steps(2).plan(DAY, RULES)
    await desk.load(some_offices(4, staff=2))
    ledger = desk.in_steps(2)
    plan = await ledger.plan(DAY, RULES)
    assert (plan.email, plan.later) == (4, 2)
    assert (await ledger.plan_next(DAY, RULES, UNLIMITED)).later == 0
    assert len(await desk.states()) == 8


async def test_who_was_not_planned_for_before_the_window_ended_has_a_reason_on_the_next_day(desk: Desk) -> None:
    """Renewals are a reason with 30 days left only. On the first day, one of two offices is planned."""
    app = some_offices(2, staff=1)
    app.alerts = [(office, a_renewal(30, "somebody")) for office in app.offices]
    app.staff = [(office, evolve(staff, email_days=60)) for office, staff in app.staff]
    await desk.load(app)
    rules = Rules(horizon_days=60, reminders=Reminders(frozenset({30}), frozenset(), frozenset()))
    ledger = desk.in_steps(1)
    await ledger.take_lease(DAY, "a")
    plan = await ledger.plan(DAY, rules)
    assert (plan.offices, plan.later) == (1, 1)
    (work,) = (await desk.source.read(DAY, START, rules, Claim("a", 1))).offices
    call = a_call(*work.deliveries)
    assert await ledger.reserve(DAY, "a", [call])
    await ledger.settle([sent(delivery) for delivery in call.deliveries])
    await ledger.finish(DAY, "a", "interrupted", "plan_incomplete")
    next_day = DAY + timedelta(days=1)
    await ledger.take_lease(next_day, "a")
    plan = await desk.in_steps(10).plan(next_day, rules)
    assert (plan.offices, plan.email) == (1, 1)
    (again,) = (await desk.source.read(next_day, START, rules, Claim("a", 1))).offices
    assert again.id != work.id
    assert not any(isinstance(notice_for(delivery, again, next_day, rules), Skip) for delivery in again.deliveries)


async def test_planning_again_forgets_what_an_earlier_plan_had_left(desk: Desk) -> None:
    await desk.load(some_offices(3, staff=1))
    await desk.in_steps(1).plan(DAY, RULES)
    plan = await desk.in_steps(10).plan(DAY, RULES)
    assert (plan.email, plan.later) == (3, 0)
    assert (await desk.in_steps(10).plan_next(DAY, RULES, UNLIMITED)).later == 0
    assert len(await desk.states()) == 3


async def test_a_large_day_that_was_planned_is_resumed_without_a_plan(desk: Desk) -> None:
    await desk.load(some_offices(3, staff=2))
    await desk.ledger.take_lease(DAY, "a")
    assert await desk.in_steps(2).resume(DAY) is None, "nothing is planned yet"
    await desk.ledger.plan(DAY, RULES)
    assert await desk.ledger.resume(DAY) is None, "the day is not large"
    (first, *_) = (await desk.source.read(DAY, START, RULES, Claim("a", 1))).offices
    await desk.ledger.fail(DAY, "a", dict.fromkeys(first.deliveries, "no_address"))
    resumed = await desk.in_steps(2).resume(DAY)
    assert resumed is not None
    assert (resumed.offices, resumed.email, resumed.push, resumed.later) == (3, 4, 0, None)
    assert not resumed.is_complete
    await desk.ledger.close(DAY)
    assert await desk.in_steps(2).resume(DAY) is None, "nothing is open"
    assert {state for state, _ in (await desk.states()).values()} == {State.FAILED, State.EXPIRED}
