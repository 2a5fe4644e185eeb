"""One office: prepare its calls; for each, wait for its turn, check that its facts are fresh, reserve, send, settle."""

from collections.abc import Sequence

import structlog
import trio
from attrs import evolve

from notifierd.model.delivery import Delivery, Reservation, Settlement
from notifierd.model.errors import DatabaseError, first_of, frame_locations, may_pass, office_error
from notifierd.model.message import Push
from notifierd.model.office import OfficeWork
from notifierd.model.outcome import Blocked, Deferred, Delivered, Gone, Outcome, Unknown
from notifierd.model.reasons import Reason
from notifierd.rules.lifecycle import NOT_BEGUN, Circumstances, settle
from notifierd.run.calls import Call, Content, Prepared
from notifierd.run.context import RunContext
from notifierd.run.facts import FRESH, Facts
from notifierd.run.portions import Portion
from notifierd.run.record.passes import DATABASE_PAUSE, NEVER, RunPass

AHEAD = 1.0
"""Seconds before its turn at which a call refreshes its facts, so that the turn seldom waits for the database."""

FAIL_SECONDS = 10.0
log = structlog.get_logger(__name__)


async def guard_office(work: OfficeWork, slot: object, this_pass: RunPass) -> None:
    """Work on one office, which holds *slot*. Its errors affect no other office; cancellations pass."""
    progress = this_pass.context.progress
    progress.in_flight[work.id], progress.names[work.id] = trio.current_time(), work.name or ""
    try:
        with structlog.contextvars.bound_contextvars(office=str(work.id)):
            await tell_office(work, this_pass)
    except* Exception as group:  # noqa: BLE001 - the one place that isolates
        passing, lasting = group.split(may_pass)
        if lasting:
            await fail_office(work, this_pass, first_of(lasting))
        elif passing:
            progress.trouble.met("offices", first_of(passing).args[0])
            this_pass.skip(DATABASE_PAUSE)
    finally:
        this_pass.context.offices.release_on_behalf_of(slot)
        this_pass.claims.finish(work.id)
        this_pass.lease.grants.finish(work.id)
        progress.offices_done += 1
        del progress.in_flight[work.id], progress.names[work.id]


async def tell_office(work: OfficeWork, this_pass: RunPass) -> None:
    """Send the deliveries of one office, portion by portion.

    The messages of a portion are all made before the first is sent, so that bad data is found before. In a large
    office, each destination has its own portions, so that slow mails delay no push, and a slow push service delays no
    other. An error ends the office, but cancels no call in flight.
    """
    facts, errors = Facts(work, this_pass.day, this_pass.context), list[Exception]()
    destinations = await facts.portions(since=trio.current_time() - FRESH)
    try:
        async with trio.open_nursery() as nursery:
            for portions in destinations[1:]:
                nursery.start_soon(tell_destination, portions, facts, this_pass, errors)
            for portions in destinations[:1]:  # usually the only one, and not worth a task
                await tell_destination(portions, facts, this_pass, errors)
    except BaseException as cut:  # noqa: BLE001 - a cancellation passes together with the errors
        raise BaseExceptionGroup("an office was cut", [cut, *errors]) from None
    if errors:
        raise errors[0]


async def tell_destination(
    portions: Sequence[Portion], facts: Facts, this_pass: RunPass, errors: list[Exception]
) -> None:
    """Make the calls of one portion after the other. The next portion begins once all calls of this one have slots.

    So memory holds the messages in flight, and one portion of those that wait.
    """
    async with trio.open_nursery() as nursery:
        for portion in portions:
            if errors or this_pass.context.stop.is_set():
                return
            try:
                await begin(portion, facts, this_pass, nursery, errors)
            except Exception as error:  # noqa: BLE001 - raised later by tell_office
                errors.append(error)


async def begin(
    portion: Portion, facts: Facts, this_pass: RunPass, nursery: trio.Nursery, errors: list[Exception]
) -> None:
    """Prepare *portion*, start its calls, and wait until each of them has got its slots."""
    todo = await facts.prepare(portion, since=trio.current_time() - FRESH)
    await end_others(todo, this_pass)
    if todo.waiting:
        this_pass.skip(DATABASE_PAUSE)

    def start(call: Call) -> trio.Event:
        turn = trio.Event()
        nursery.start_soon(make_call, call, facts, this_pass, turn, errors)
        return turn

    turns = [start(call) for call in todo.calls]
    del todo  # from here on, only the calls' tasks hold their messages
    for turn in turns:
        await turn.wait()


async def end_others(todo: Prepared, this_pass: RunPass) -> None:
    """Settle the deliveries that no call carries: without content, with a bad address, or with a lost answer."""
    context = this_pass.context
    this_pass.recorder.settle([abandon(delivery, context) for delivery in todo.lost])
    if todo.expired:
        context.progress.end(await context.ledger.expire(this_pass.day, context.holder, todo.expired))
    if todo.failed:
        context.progress.end(await context.ledger.fail(this_pass.day, context.holder, todo.failed))


async def make_call(
    prepared: Call, facts: Facts, this_pass: RunPass, turn: trio.Event, errors: list[Exception]
) -> None:
    """Make one HTTP request when its turn comes. It holds its slots until its end; *turn* is set once it has them.

    An error is added to *errors*, and the other calls of the office go on.
    """
    transport = prepared.transport
    try:
        async with transport.limiter_for(prepared.destination), transport.limiter:
            turn.set()
            async with transport.in_turn():
                call = await when_due(prepared, facts, this_pass)
                if call is None:
                    return
                transport.begin()
            with this_pass.context.transports.breakers[call.destination].in_use():
                await carry_out(call, facts, this_pass)
    except Exception as error:  # noqa: BLE001 - raised later by tell_office
        errors.append(error)
    finally:
        turn.set()


async def when_due(call: Call, facts: Facts, this_pass: RunPass) -> Call | None:
    """Wait for the turn of *call*, and return the call, made from fresh facts; None if a later pass has to make it."""
    transport = call.transport
    if must_wait(call, this_pass):
        return None
    await transport.wait(AHEAD)
    fresh = transport.turn - FRESH
    ready = call if call.as_of >= fresh else await make_anew(call, facts, fresh, this_pass)
    await transport.wait()
    return None if ready is None or must_wait(ready, this_pass) else ready


async def make_anew(call: Call, facts: Facts, since: float, this_pass: RunPass) -> Call | None:
    """Compose *call* anew, from facts that were read at *since* or later; None if there is no call to make now.

    Deliveries that no longer have any content are settled. Those that have another route now, or need a further call,
    are left to the next pass, because no slots are held for them. If the database does not answer, all are left to it.
    """
    try:
        todo = await facts.prepare(call.tried, since)
        await end_others(todo, this_pass)
    except DatabaseError as error:
        this_pass.context.progress.trouble.met("reading", error.reason)
        this_pass.skip(DATABASE_PAUSE)
        return None
    route = call.transport, call.destination
    ready = next((again for again in todo.calls if (again.transport, again.destination) == route), None)
    if len(todo.calls) > (ready is not None):
        this_pass.skip(0.0)
    return ready


async def carry_out(call: Call, facts: Facts, this_pass: RunPass) -> None:
    """Reserve, send, settle."""
    context = this_pass.context
    limits = context.limits  # a reload may replace them before the call begins
    reservation = call.reservation(limits.call_expires)
    if not await reserved(reservation, this_pass):
        return
    began = trio.current_time()
    outcomes: Sequence[Outcome] = [NOT_BEGUN] * len(call.deliveries)
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not await borne_out(call, facts, context) or context.stop.is_set():
            return
        began = trio.current_time()
        outcomes = [Unknown(Reason.INTERRUPTED)] * len(call.deliveries)
        with trio.move_on_after(limits.send_timeout) as time:
            outcomes = await call.transport.sender.send(call.messages, call.body, str(call.id))
        if time.cancelled_caught:
            outcomes = [Unknown(Reason.TIMEOUT)] * len(call.deliveries)
        record_outcomes(call, outcomes, began, context)
    finally:
        this_pass.recorder.settle(settlements(call, reservation.deliveries, outcomes, began, context))


async def borne_out(call: Call, facts: Facts, context: RunContext) -> bool:
    """Whether a call that is reserved may still be made: see `Facts.bear_out`."""
    try:
        return await facts.bear_out(call)
    except DatabaseError as error:
        context.progress.trouble.met("reading", error.reason)
        return False


def must_wait(call: Call, this_pass: RunPass) -> bool:
    """Whether the call must not begin now. Its deliveries then stay planned for another pass."""
    context = this_pass.context
    wait = context.transports.breakers[call.destination].retry_in(call.deliveries[0].office_id)
    if wait:
        this_pass.skip(min(wait, other_transport_in(call, context)))
    return bool(wait) or context.stop.is_set()


def other_transport_in(call: Call, context: RunContext) -> float:
    """Seconds until the deliveries of *call* may use another transport; NEVER if they may use none."""
    if call.repeat:
        return NEVER
    return context.transports.other_opens_in(call.transport, call.deliveries[0], call.messages[0])


async def reserved(reservation: Reservation, this_pass: RunPass) -> bool:
    """Reserve a call, and return whether it may be made. Database trouble affects no other call of the office.

    Nor may the call be made if another process is active, or has one of its deliveries. A later pass tries again.
    """
    try:
        granted = await this_pass.recorder.reserve(reservation)
    except DatabaseError as error:
        this_pass.context.progress.trouble.met("reservations", error.reason)
        granted = False
    if not granted:
        this_pass.skip(DATABASE_PAUSE)
    return granted


def record_outcomes(call: Call, outcomes: Sequence[Outcome], began: float, context: RunContext) -> None:
    """Record in the destination's breaker how a call ended; log a trouble, and an outage's beginning and end."""
    destination, sender, metrics = call.destination, call.transport.sender.name, context.progress.metrics
    breaker = context.transports.breakers[destination]
    blocked, outage = breaker.blocked, breaker.outage
    breaker.record(outcomes, began, call.deliveries[0].office_id)
    troubled = [
        (delivery.staff_id, outcome.reason)
        for delivery, outcome in zip(call.deliveries, outcomes, strict=True)
        if isinstance(outcome, Deferred | Blocked | Unknown)
    ]
    metrics.call_seconds[sender].observe(trio.current_time() - began)
    metrics.calls_in_trouble[sender] += bool(troubled)
    if outage and not breaker.outage:
        log.info("sender_back", lane=destination)
    if breaker.blocked and not blocked:
        log.error("sender_blocked", lane=destination, reason=breaker.blocked, retry_in=round(breaker.retry_in(), 1))
    elif breaker.outage and not outage:
        log.error("sender_out", lane=destination, reason=breaker.outage, retry_in=round(breaker.retry_in(), 1))
    elif troubled and context.progress.call_troubles.are_new(
        call.deliveries[0].office_id, destination, sender, troubled
    ):
        reasons = sorted({str(reason) for _, reason in troubled})
        log.warning("call_in_trouble", lane=destination, reasons=reasons, retry_in=round(breaker.retry_in(), 1))


def settlements(
    call: Call, tried: Sequence[Delivery], outcomes: Sequence[Outcome], began: float, context: RunContext
) -> list[Settlement]:
    """The settlement of each delivery that the call reserved."""
    breaker = context.transports.breakers[call.destination]
    wait, took = breaker.retry_in(), [isinstance(outcome, Delivered) for outcome in outcomes]
    now = Circumstances(
        call.transport.sender.honours_keys,
        breaker.passed_since(began),
        wait,
        other_transport_preferred=not all(took) and other_transport_in(call, context) <= wait,
        destination_works=breaker.works,
        carried_out=any(took),
    )
    return [
        settled(delivery, outcomes[delivery.position], call.contents[delivery.position], now, context)
        for delivery in tried
    ]


def settled(
    delivery: Delivery, outcome: Outcome, content: Content, now: Circumstances, context: RunContext
) -> Settlement:
    """The settlement of one delivery, with the endpoint to delete if its device is gone."""
    settlement = settle(delivery, outcome, now, context.policy(delivery.channel), content.audit)
    match outcome, content.message:
        case Gone(), Push(device=device):
            return evolve(settlement, gone_endpoint=device.endpoint)
    return settlement


def abandon(delivery: Delivery, context: RunContext) -> Settlement:
    """The settlement of a try that a dead process left, and whose call cannot be repeated unchanged."""
    lost = Unknown(delivery.reason or Reason.PROCESS_DIED, key_usable=False)
    return settle(delivery, lost, Circumstances(keyed=False), context.policy(delivery.channel))


async def fail_office(work: OfficeWork, this_pass: RunPass, error: BaseException) -> None:
    """Fail the deliveries of an office that an error ended; the report names the office."""
    reason = office_error(error)
    log.error("office_failed", office=str(work.id), reason=reason, where=frame_locations(error))
    context = this_pass.context
    context.progress.offices_failed += 1
    with trio.CancelScope(shield=True, deadline=trio.current_time() + FAIL_SECONDS):
        await this_pass.recorder.flush()  # the outcomes of its calls first, as they may put deliveries back to planned
        try:
            context.progress.end(await context.ledger.fail_office(this_pass.day, context.holder, work.id, reason))
        except DatabaseError as database:
            context.progress.trouble.met("offices", database.reason)
            this_pass.skip(DATABASE_PAUSE)
