"""Run one day: take the lease, plan, make passes over the offices that are due, conclude."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import date, timedelta
from functools import partial
from typing import TypeVar

import structlog
import trio
from attrs import asdict

from notifierd.model.counts import DayCounts, Excess, Planned
from notifierd.model.delivery import Channel, State
from notifierd.model.errors import DatabaseError, LedgerUnavailable, unwrap_groups
from notifierd.model.office import OfficeWork
from notifierd.model.reasons import Reason
from notifierd.rules.backoff import Backoff
from notifierd.rules.due import Rules
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.run.office import DATABASE_PAUSE, RunPass, guard_office
from notifierd.run.progress import Progress, keep_deadline
from notifierd.run.record.lease import hold_lease
from notifierd.run.record.offices import OfficeRows
from notifierd.run.record.recorder import open_recorder
from notifierd.send.webpush import load_ahead
from notifierd.store.source import CHUNK_LASTS, START, ChunkSize, Place

T = TypeVar("T")

RETENTION = timedelta(days=400)

BACKOFF = Backoff(first=0.5, longest=5.0)
"""Pauses before the next tries of a statement that the database does not carry out."""

log = structlog.get_logger(__name__)


async def run_day(day: date, context: RunContext) -> RunResult:
    """Plan *day*, send until nothing is open or the window ends, and return how the day stands.

    Raises:
        LeaseHeld: another process runs the day.
        LedgerUnavailable: PostgreSQL was unreachable for the plan, or at the end; open deliveries stay open.
    """
    counts = None
    with unwrap_groups(), structlog.contextvars.bound_contextvars(run=str(day)):
        async with hold_lease(context.ledger, day, context.holder, context.progress.trouble) as lease:
            context.progress.has_day = True
            with context.stop.scope:
                context.progress.metrics.deliveries.update(await context.ledger.close_earlier(day))
                planned = context.progress.planned = await context.ledger.plan(day, context.rules, context.capacity())
                context.progress.metrics.deliveries[Channel.EMAIL, State.FAILED] += planned.held
                report_plan(planned, context.rules)
                if planned.push:
                    load_ahead()
                counts = await tell_everyone(day, context, planned)
                if counts.unaudited:
                    await OfficeRows(context.ledger, day, context.progress).complete(counts.unaudited)
            lease.given_back = True
            result = await conclude(day, context, counts)
        context.progress.trouble.over()
        await forget_old(day, context)
    return result


def report_plan(planned: Planned, rules: Rules) -> None:
    """Log what is open, which mails exceed a limit, and who has more devices than get pushes."""
    log.info("planned", offices=planned.offices, email=planned.email, push=planned.push, held=planned.held)
    report_excess(planned.excess)
    for staff, devices in planned.crowded.items():
        log.warning("devices_left_out", staff=str(staff), devices=devices, pushed=rules.devices_per_person)


def report_excess(excess: Sequence[Excess]) -> None:
    """Log which mails of a plan exceed the limits."""
    for over in excess:
        labels = asdict(over) | {"first": [str(office) for office in over.first]}
        log.error("plan_does_not_fit", **labels)


async def tell_everyone(day: date, context: RunContext, planned: Planned) -> DayCounts:
    """Make passes until nothing is open or the run is stopped; if the window ended, close the day."""
    async with (
        open_recorder(
            context.ledger, day, context.holder, context.progress, last_moment=context.last_moment
        ) as recorder,
        trio.open_nursery() as nursery,
    ):
        context.progress.channels = recorder.waiting
        nursery.start_soon(end_window, context)
        given, size, rows = planned.mails_given, ChunkSize(), OfficeRows(context.ledger, day, context.progress)
        done = START
        while True:
            this_pass = RunPass(day, context, recorder, context.limits.mails_left(given))
            await pass_over(this_pass, size, done)
            await recorder.flush()
            if not await recorder.settled():
                this_pass.skip(DATABASE_PAUSE)
            counts = await count(day, context, interim=True)
            if counts.unaudited and counts.backlog.open:
                await rows.write()
            if not counts.backlog.open or await context.pause(this_pass.next_turn(counts.backlog)):
                break
            given, done = counts.mails_given, counts.backlog.done or START
        if counts.backlog.open and context.stop.reason == "window_ended":
            with trio.move_on_after(context.limits.call_expires):  # so that no known outcome is closed as unknown
                while not await recorder.settled():
                    pass
            counts = await close_day(day, context)
        elif counts.backlog.open:
            counts = await count(day, context)
        nursery.cancel_scope.cancel()
    return counts


async def pass_over(this_pass: RunPass, size: ChunkSize, after: Place) -> None:
    """Work on every office behind *after* that is due.

    An office is read once there is a slot for it. So its facts do not age in a queue, and no task waits in memory.
    """
    offices = this_pass.context.offices
    this_pass.context.progress.withheld = 0
    async with trio.open_nursery() as nursery, aclosing(due_offices(this_pass, size, after)) as due:
        while True:
            slot, work = object(), None
            await offices.acquire_on_behalf_of(slot)
            try:
                if not this_pass.context.stop.is_set():
                    work = await anext(due, None)
            finally:
                if work is None:
                    offices.release_on_behalf_of(slot)
            if work is None:
                return
            work = this_pass.within_quota(this_pass.as_known(work))
            nursery.start_soon(guard_office, work, slot, this_pass)


async def due_offices(this_pass: RunPass, size: ChunkSize, start: Place) -> AsyncGenerator[OfficeWork, None]:
    """Yield the offices behind *start* that are due, the most urgent first. They are read in chunks, as needed.

    The rest of a chunk that has become too old is read again, with two exceptions. The first office of a chunk is used
    however long the reading took, so that the pass goes on; its calls check the age of their facts. An office without
    facts is also used, because its facts are read separately.
    """
    context = this_pass.context
    after: Place | None = start
    while after is not None:
        read = partial(context.source.read, this_pass.day, after, context.rules, size.offices)
        chunk = await retry_while_unavailable(context.progress, "reading", read)
        began, after = trio.current_time(), chunk.after
        for begun, work in enumerate(chunk.offices):
            if begun and work.is_read and trio.current_time() - work.as_of > CHUNK_LASTS:
                size.became_old(begun)
                after = chunk.places[begun - 1]
                break
            yield work
        else:
            size.used_up(trio.current_time() - began)


async def end_window(context: RunContext) -> None:
    """Stop the run when its window ends. Calls that are in flight then may still finish."""
    while (left := context.clock.window_left()) > 0:  # noqa: ASYNC110 - in slices: the clock may be set meanwhile
        await trio.sleep(min(context.progress.slice_seconds, left))
    context.stop.set("window_ended", grace=2 * context.limits.call_expires)


async def close_day(day: date, context: RunContext) -> DayCounts:
    """Close what the window left open. A try of a dead process is closed once that process can no longer settle it."""
    close = partial(context.ledger.close, day, unsent_mail_reason(context))
    while True:
        context.progress.end(await retry_while_unavailable(context.progress, "closing", close))
        counts = await count(day, context)
        if not counts.backlog.open:
            return counts
        await context.progress.sleep(max(BACKOFF.first, counts.backlog.next_in or 0.0))  # negative if it is past


def unsent_mail_reason(context: RunContext) -> str | None:
    """Why mails that were due were not tried; None if neither a limit nor an outage is the reason."""
    if context.progress.withheld:
        return "email_per_day"
    if out := context.transports.breakers.outages().get(context.transports.preferred(Channel.EMAIL).sender.name):
        return out
    excess = context.progress.planned.excess if context.progress.planned else ()
    return "email_per_second" if excess else None


async def conclude(day: date, context: RunContext, counts: DayCounts | None) -> RunResult:
    """Write how the run ended, and release the lease. *counts* is None if the run was cut short.

    Raises:
        LedgerUnavailable: it could not be written in time: by the window's end or within SETTLE_SECONDS, whichever is
            later, or before the process must exit.
    """
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_deadline, scope, partial(context.last_moment, trio.current_time()))
            if counts is None:  # whatever the ledger says now, not everything was done
                result = RunResult("interrupted", context.stop.reason, await count(day, context))
            else:
                result = RunResult.of(counts, context.stop.reason)
            result = await finish(day, context, result)
            nursery.cancel_scope.cancel()
        log.info("ended", state=result.state, reason=result.reason)
        return result
    raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("timeout"))


async def finish(day: date, context: RunContext, result: RunResult) -> RunResult:
    """Write how the run ended. If deliveries were planned again in the meantime, the run was interrupted."""
    untold = result.counts.untold if result.counts else ()
    write = partial(context.ledger.finish, day, context.holder, result.state, result.reason, untold)
    if await retry_while_unavailable(context.progress, "the run's end", write):
        return result
    return RunResult("interrupted", Reason.RETRIED, await count(day, context))


async def forget_old(day: date, context: RunContext) -> None:
    """Delete what is older than RETENTION, in small steps. What cannot be deleted now is left to the next run.

    The end of the window does not stop that. A signal does, and bounds the step that is under way.
    """
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_deadline, scope, lambda: context.stop.over_by)
            try:
                while context.stop.reason != "signal" and await context.ledger.forget(day - RETENTION):
                    pass
            except DatabaseError as error:
                log.warning("not_forgotten", reason=error.reason)
            nursery.cancel_scope.cancel()


async def count(day: date, context: RunContext, *, interim: bool = False) -> DayCounts:
    """Count the day's deliveries; wait for the database if it is unavailable. *interim*: see `Ledger.counts`."""
    counts = partial(context.ledger.counts, day, context.rules, interim=interim)
    return await retry_while_unavailable(context.progress, "counting", counts)


async def retry_while_unavailable(progress: Progress, what: str, statement: Callable[[], Awaitable[T]]) -> T:
    """Make *statement*, after growing pauses again, until the database carries it out; *what* is its name in the log.

    Only a cancellation ends that earlier.

    Raises:
        StatementRefused: the database refused a row's content, so another try would not help.
    """
    pauses = BACKOFF.pauses()
    with progress.trouble.place(what):
        while True:
            try:
                answer = await statement()
            except DatabaseError as error:
                if error.about_row:
                    raise
                progress.trouble.met(what, error.reason)
                await progress.wait(next(pauses), what, error.reason)
            else:
                progress.passed(what)
                return answer
