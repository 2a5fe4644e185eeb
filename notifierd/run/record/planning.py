"""Plan a day: before the first message or, if the day is large, the rest of it while messages are sent."""

from collections.abc import Sequence
from datetime import date
from functools import partial

import structlog
from attrs import asdict, evolve

from notifierd.model.counts import Capacity, Excess, Planned
from notifierd.model.delivery import Channel, State
from notifierd.model.errors import DatabaseError, LedgerUnavailable
from notifierd.model.imports import load_ahead
from notifierd.rules.due import Rules
from notifierd.run.context import RunContext
from notifierd.run.progress import RETRIES, retry_while_unavailable
from notifierd.run.record.lease import Lease
from notifierd.send import webpush

log = structlog.get_logger(__name__)


async def is_planned(day: date, context: RunContext, lease: Lease) -> bool:
    """Plan the day if this process leads, else wait for the leader's plan. Return False if the run ended before.

    What `plan_rest` has to plan is left to it.
    """
    load_ahead(*context.loads)
    while not (planned := lease.standing.planned):
        if lease.standing.leads:
            context.progress.metrics.deliveries.update(await context.ledger.close_earlier(day))
            planned = await context.ledger.resume(day) if lease.standing.epoch > 1 else None
            planned = planned or await context.ledger.plan(day, context.rules, context.capacity())
            report_plan(planned, planned, context)
            await recount_mails(day, context)  # first: once the plan is noted, the members draw
            if await note(planned, day, context, lease):
                break
        await lease.renewed()
        if lease.standing.over or context.stop.is_set():
            return False
    context.progress.planned = planned
    if planned.push:
        load_ahead(webpush.load)
    return True


async def plan_rest(day: date, context: RunContext, lease: Lease) -> None:
    """Plan what is left, step by step, while this process leads. If another one leads then, it goes on with that."""
    pauses, planned, capacity = RETRIES.pauses(), None, context.capacity()
    with context.progress.trouble.place("planning"):
        while True:
            if not lease.standing.leads:
                planned = None
            elif planned := planned or lease.standing.planned:
                try:
                    if not planned.is_complete:
                        planned = await plan_more(planned, day, context, capacity)
                    noted = planned is lease.standing.planned or await note(planned, day, context, lease)
                except DatabaseError as error:
                    if planned.later and isinstance(error, LedgerUnavailable):  # the step may have been planned
                        planned = evolve(planned, later=None)
                    context.progress.trouble.met("planning", error.reason)
                    await context.progress.wait(next(pauses), "planning", error.reason)
                    continue
                context.progress.passed("planning")
                pauses = RETRIES.pauses()
                if noted and planned.is_complete:
                    return
                if noted:
                    continue
            await lease.renewed()


async def plan_more(planned: Planned, day: date, context: RunContext, capacity: Capacity) -> Planned:
    """Plan the next step after *planned*; return what is planned then.

    Args:
        capacity: what the limits allow for the whole plan.
    """
    if planned.later is None:
        now = step = await context.ledger.plan(day, context.rules, context.capacity())
    else:
        step = await context.ledger.plan_next(day, context.rules, capacity.without(planned))
        now = planned.followed_by(step)
    report_plan(now, step, context)
    progress = context.progress
    if planned.later is None:  # what this process has sent is not open any more
        email, push = (
            count + progress.done(channel) for channel, count in zip(Channel, (now.email, now.push), strict=True)
        )
        progress.planned = evolve(now, email=email, push=push)
    elif progress.planned:
        progress.planned = progress.planned.followed_by(step)
    if step.push:
        load_ahead(webpush.load)
    return now


async def note(planned: Planned, day: date, context: RunContext, lease: Lease) -> bool:
    """Let the members send what is planned; return False if this process does not lead any more."""
    members = await context.ledger.note_plan(day, context.holder, planned)
    if members:
        lease.is_planned(planned, members)
    return bool(members)


async def recount_mails(day: date, context: RunContext) -> None:
    """Count anew what is left of the day's quota, if it is shared: refused mails may have made room."""
    if context.terms.shares and (quota := context.limits.email_per_day):
        recount = partial(context.ledger.recount_mails, day, context.holder, quota)
        await retry_while_unavailable(context.progress, "counting", recount)


def report_plan(planned: Planned, step: Planned, context: RunContext) -> None:
    """Log what is open, which mails exceed a limit, and who has more devices than get pushes.

    Of a plan in steps, each step says how far it came; the first and the last one say which mails exceed a limit.
    """
    context.progress.metrics.deliveries[Channel.EMAIL, State.FAILED] += step.held
    log.info(
        "planned",
        offices=planned.offices,
        email=planned.email,
        push=planned.push,
        held=planned.held,
        offices_later=planned.later,
    )
    if planned.is_complete or planned is step:
        report_excess(planned.excess)
    report_crowded(step, context.rules)


def report_crowded(planned: Planned, rules: Rules) -> None:
    """Log who has more devices than get pushes."""
    for staff, devices in planned.crowded.items():
        log.warning("devices_left_out", staff=str(staff), devices=devices, pushed=rules.devices_per_person)


def report_excess(excess: Sequence[Excess]) -> None:
    """Log which mails of a plan exceed the limits."""
    for over in excess:
        labels = asdict(over) | {"first": [str(office) for office in over.first]}
        log.error("plan_does_not_fit", **labels)
