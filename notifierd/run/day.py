"""Run one day: take the lease, plan, make passes over the offices that are due, conclude."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import date, timedelta
from functools import partial

import structlog
import trio

from notifierd.model.counts import DayCounts, Planned
from notifierd.model.delivery import Channel
from notifierd.model.errors import DatabaseError, LedgerUnavailable, unwrap_groups
from notifierd.model.imports import await_loads
from notifierd.model.office import OfficeWork
from notifierd.model.reasons import Reason
from notifierd.rules.report import RunResult
from notifierd.run.context import RunContext
from notifierd.run.office import guard_office
from notifierd.run.progress import RETRIES, keep_deadline, retry_while_unavailable
from notifierd.run.record.claims import Claims
from notifierd.run.record.interim import keep_interim
from notifierd.run.record.lease import Lease, hold_lease
from notifierd.run.record.offices import OfficeRows
from notifierd.run.record.passes import DATABASE_PAUSE, IDLE, NEVER, RunPass
from notifierd.run.record.planning import is_planned, plan_rest, recount_mails
from notifierd.run.record.recorder import Recorder, open_recorder
from notifierd.store.ledger import LEASE_SECONDS
from notifierd.store.source import CHUNK_LASTS, START, ChunkSize, Place

log = structlog.get_logger(__name__)


async def run_day(day: date, context: RunContext) -> RunResult:
    """Plan *day*, send until nothing is open or the window ends, and return how the day stands.

    Raises:
        LeaseHeld: another process runs the day, and does not share it.
        LedgerUnavailable: PostgreSQL was unreachable for the plan, or at the end; open deliveries stay open.
    """
    counts = None
    try:
        with unwrap_groups(), structlog.contextvars.bound_contextvars(run=str(day)):
            async with hold_lease(day, context) as lease:
                context.progress.has_day = True
                with context.stop.scope:
                    if await is_planned(day, context, lease):
                        counts = await tell_everyone(day, context, lease)
                    if counts and counts.unaudited:
                        await OfficeRows(context.ledger, day, context.progress).complete(counts.unaudited)
                lease.given_back = True
                result = await conclude(day, context, lease, counts)
            context.progress.trouble.over()
            await forget_old(day, context)
    finally:
        await_loads()
    return result


async def tell_everyone(day: date, context: RunContext, lease: Lease) -> DayCounts | None:
    """Make passes until nothing is open or the run is stopped; if the window ended, close the day.

    Returns None if the day goes on without this process, or if another one ended it.
    """
    async with (
        open_recorder(
            context.ledger, day, context.holder, context.progress, last_moment=context.last_moment
        ) as recorder,
        trio.open_nursery() as nursery,
    ):
        context.progress.channels = recorder.waiting
        nursery.start_soon(end_window, context)
        nursery.start_soon(keep_interim, day, context, lease)
        async with trio.open_nursery() as planning:
            planning.start_soon(plan_rest, day, context, lease)
            counts, is_done = await make_passes(day, context, lease, recorder)
            planning.cancel_scope.cancel()
        if not is_done and context.stop.reason == "window_ended":
            with trio.move_on_after(context.limits.call_expires):  # so that no known outcome is closed as unknown
                while not await recorder.settled():
                    pass
            if lease.standing.leads:
                with trio.move_on_after(LEASE_SECONDS):  # another process that has just died closes no day
                    while not lease.is_alone:
                        await lease.renewed()
            counts = None if await leave(day, context, lease) else await close_day(day, context, lease.standing.planned)
        elif counts and counts.backlog.open:
            counts = await count(day, context)
        nursery.cancel_scope.cancel()
    return counts


async def make_passes(
    day: date, context: RunContext, lease: Lease, recorder: Recorder
) -> tuple[DayCounts | None, bool]:
    """Make passes until nothing is open or the run is stopped.

    Returns:
        How the day stands, as far as it is known, and whether everything is planned and nothing is open.
    """
    rows, size = OfficeRows(context.ledger, day, context.progress), ChunkSize()
    claims, done = Claims(context.holder, lease, recorder), START
    given = lease.standing.planned.mails_given if lease.standing.planned else None
    while True:
        this_pass = RunPass(day, context, recorder, lease, claims, await mails_left(given, day, context))
        if lease.grants.channels() != []:
            await pass_over(this_pass, size, done)
        await recorder.flush()
        if not await recorder.settled():
            this_pass.skip(DATABASE_PAUSE)
        all_are_planned = lease.all_are_planned  # asked first: what is planned during the count is not in it
        counts = await left_to_do(this_pass)
        if counts and counts.unaudited and counts.backlog.open:
            await rows.write()
        is_done = counts is not None and not counts.backlog.open and all_are_planned
        if lease.standing.over or is_done:
            return counts, is_done
        wait = this_pass.next_turn(counts.backlog) if counts else this_pass.next_look()
        if await context.pause(wait if all_are_planned else min(wait, IDLE)):
            return counts, False
        given = None
        done = counts.backlog.done if counts and counts.backlog.done and all_are_planned else START


async def mails_left(given: int | None, day: date, context: RunContext) -> float:
    """Return how many mails a pass may give to a provider. A quota that is shared is drawn office by office.

    Args:
        given: how many a provider was given before; None: that is not known.
    """
    if context.terms.shares or not context.limits.email_per_day:
        return NEVER
    if given is None:
        given = await retry_while_unavailable(context.progress, "counting", partial(context.ledger.mails_given, day))
    return context.limits.mails_left(given)


async def left_to_do(this_pass: RunPass) -> DayCounts | None:
    """Count the day's deliveries if only this process can still do something about them; None: others may, too.

    Of several processes, the leader counts, once no office is open any more.
    """
    day, context, lease = this_pass.day, this_pass.context, this_pass.lease
    if not this_pass.offices:
        await lease.grants.let_go(day)
    if not lease.standing.leads:
        return None
    if lease.grants.must_recount():
        await recount_mails(day, context)
    if not lease.all_are_planned and (context.terms.shares or not context.limits.email_per_day):
        return None  # more is coming, so only a quota that no other process counts has to be counted
    if not lease.is_alone and await is_open(day, context):
        return None
    counts = await count(day, context, interim=True)
    if counts.backlog.due_now and (not this_pass.offices or this_pass.claims.may_reopen()):
        # An operator had some retried just when their office was done.
        await retry_while_unavailable(context.progress, "counting", partial(context.ledger.reopen, day))
    return counts


async def is_open(day: date, context: RunContext) -> bool:
    """Whether an office has open deliveries; wait for the database if it is unavailable."""
    return await retry_while_unavailable(context.progress, "counting", partial(context.ledger.is_open, day))


async def leave(day: date, context: RunContext, lease: Lease) -> bool:
    """Leave the day to the other processes that share it; return False if there are none, and this one leads."""
    if not context.terms.shares:
        return False
    lease.given_back = True
    leaving = partial(context.ledger.leave, day, context.holder)
    lease.has_left = await retry_while_unavailable(context.progress, "the run's end", leaving)
    lease.given_back = lease.has_left
    if lease.has_left and not lease.standing.over:
        log.info("day_left", members=lease.standing.members - 1)
    return lease.has_left


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
            this_pass.offices += 1
            work = this_pass.as_known(work)
            await this_pass.draw_mails(work)
            work = this_pass.within_quota(work)
            nursery.start_soon(guard_office, work, slot, this_pass)


async def due_offices(this_pass: RunPass, size: ChunkSize, start: Place) -> AsyncGenerator[OfficeWork, None]:
    """Yield the offices behind *start* that are due, the most urgent first. They are read in chunks, as needed.

    The rest of a chunk that was claimed before other processes joined is left to all of them.
    The rest of a chunk that has become too old is read again, with two exceptions. The first office of a chunk is used
    however long the reading took, so that the pass goes on; its calls check the age of their facts. An office without
    facts is also used, because its facts are read separately.
    """
    context = this_pass.context
    after: Place | None = start
    while after is not None:
        if this_pass.claims.are_too_many:
            await release_claims(this_pass)
        claim = this_pass.claims.next()
        most = min(size.offices, 2 * int(context.offices.total_tokens)) if claim.members > 1 else size.offices
        read = partial(context.source.read, this_pass.day, after, context.rules, claim, most)
        chunk = await retry_while_unavailable(context.progress, "reading", read)
        began, after = trio.current_time(), chunk.after
        for begun, work in enumerate(chunk.offices):
            if begun and this_pass.claims.are_too_many:
                after = chunk.places[begun - 1]
                break
            if begun and work.is_read and trio.current_time() - work.as_of > CHUNK_LASTS:
                size.became_old(begun)
                after = chunk.places[begun - 1]
                break
            yield work
        else:
            size.used_up(trio.current_time() - began)


async def release_claims(this_pass: RunPass) -> None:
    """Leave what is not begun to the processes that have joined: this one had claimed it for itself alone."""
    context = this_pass.context
    kept = this_pass.claims.in_hand | context.progress.in_flight.keys()
    give = partial(context.ledger.release, this_pass.day, context.holder, kept)
    await retry_while_unavailable(context.progress, "reading", give)
    this_pass.claims.are_released()


async def end_window(context: RunContext) -> None:
    """Stop the run when its window ends. Calls that are in flight then may still finish."""
    while (left := context.clock.window_left()) > 0:  # noqa: ASYNC110 - in slices: the clock may be set meanwhile
        await trio.sleep(min(context.progress.slice_seconds, left))
    context.stop.set("window_ended", grace=2 * context.limits.call_expires)


async def close_day(day: date, context: RunContext, planned: Planned | None) -> DayCounts:
    """Close what the window left open of what was *planned*.

    A try of a dead process is closed once that process can no longer settle it.
    """
    close = partial(context.ledger.close, day, unsent_mail_reason(context, planned))
    while True:
        context.progress.end(await retry_while_unavailable(context.progress, "closing", close))
        counts = await count(day, context)
        if not counts.backlog.open:
            return counts
        await context.progress.sleep(max(RETRIES.first, counts.backlog.next_in or 0.0))  # negative if it is past


def unsent_mail_reason(context: RunContext, planned: Planned | None) -> str | None:
    """Why mails that were due were not tried; None if neither a limit nor an outage is the reason."""
    if context.progress.withheld:
        return "email_per_day"
    if out := context.transports.breakers.outages().get(context.transports.preferred(Channel.EMAIL).sender.name):
        return out
    return "email_per_second" if planned and planned.excess else None


async def conclude(day: date, context: RunContext, lease: Lease, counts: DayCounts | None) -> RunResult:
    """Write how the run ended, and release the lease. *counts* is None if this process did not see the end.

    A process that shares the day only leaves it, as long as there are others.

    Raises:
        LedgerUnavailable: it could not be written in time: by the window's end or within SETTLE_SECONDS, whichever is
            later, or before the process must exit.
    """
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_deadline, scope, partial(context.last_moment, trio.current_time()))
            if lease.standing.over:
                await leave(day, context, lease)
                result = await ended_by_another(day, context)
            elif counts is not None and not lease.has_left and not counts.backlog.open:
                ended = RunResult.of(counts, context.stop.reason, is_planned=lease.all_are_planned)
                result = await finish(day, context, ended)
            elif lease.has_left or await leave(day, context, lease):
                result = RunResult("interrupted", context.stop.reason, await count(day, context))
            else:  # whatever the ledger says now, not everything was done if the run was cut short
                counts = counts or await count(day, context)
                result = await finish(
                    day, context, RunResult("interrupted", context.stop.reason or Reason.INTERRUPTED, counts)
                )
            nursery.cancel_scope.cancel()
        log.info("ended", state=result.state, reason=result.reason)
        return result
    raise LedgerUnavailable(Reason.DATABASE_UNAVAILABLE.of("timeout"))


async def ended_by_another(day: date, context: RunContext) -> RunResult:
    """Return how the leader ended the run, or that another run of the day has begun since."""
    run = await retry_while_unavailable(context.progress, "counting", partial(context.ledger.run, day))
    counts = await count(day, context)
    if run and run.state == "completed":
        return RunResult("completed", run.reason, counts)
    return RunResult("interrupted", (run and run.reason) or Reason.INTERRUPTED, counts)


async def finish(day: date, context: RunContext, result: RunResult) -> RunResult:
    """Write how the run ended. If deliveries were planned again in the meantime, the run was interrupted."""
    untold = result.counts.untold if result.counts else ()
    write = partial(context.ledger.finish, day, context.holder, result.state, result.reason, untold)
    if await retry_while_unavailable(context.progress, "the run's end", write):
        return result
    return RunResult("interrupted", Reason.RETRIED, await count(day, context))


async def forget_old(day: date, context: RunContext) -> None:
    """Delete what is older than `retention_days`, in small steps. What cannot be deleted now is left to the next run.

    The end of the window does not stop that. A signal does, and bounds the step that is under way.
    """
    before = day - timedelta(days=context.retention_days)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_deadline, scope, lambda: context.stop.over_by)
            try:
                while context.stop.reason != "signal" and await context.ledger.forget(before):
                    pass
            except DatabaseError as error:
                log.warning("not_forgotten", reason=error.reason)
            nursery.cancel_scope.cancel()


async def count(day: date, context: RunContext, *, interim: bool = False) -> DayCounts:
    """Count the day's deliveries; wait for the database if it is unavailable. *interim*: see `Ledger.counts`."""
    counts = partial(context.ledger.counts, day, context.rules, interim=interim)
    return await retry_while_unavailable(context.progress, "counting", counts)
