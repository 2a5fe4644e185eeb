"""The audit rows of whole offices: the contract of both ledgers, and what changes of `content.audit` do to it."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from random import Random
from typing import cast
from uuid import UUID, uuid4

import pytest
import trio

from notifierd.config.settings import Audit
from notifierd.demo.postgres import Cluster
from notifierd.model.delivery import Channel, Delivery, Settlement, State
from notifierd.rules.due import Rules
from notifierd.store.ledger import AUDIT_TOGETHER, Ledger
from notifierd.store.source import START, Claim
from tests.support.ledgers import Desk, PostgresDesk, open_desk
from tests.support.memory import Application
from tests.support.recording import a_call
from tests.support.samples import DAY, some_offices

RULES, ME = Rules(), "me"
AUDITS: Sequence[Audit] = ("each", "office", "none")


@pytest.fixture(params=["memory", "postgres"])
async def desk(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Desk]:
    """A fresh ledger of either kind."""
    name = f"ledger_{uuid4().hex[:12]}"
    dsn = cluster.create_database(name)
    async with open_desk(cast("str", request.param), dsn) as desk:
        yield desk
    cluster.drop_database(name)


async def planned(desk: Desk, app: Application) -> list[Delivery]:
    """Load *app*, take the lease, plan the day; what is due then, in the order of names."""
    await desk.load(app)
    await desk.ledger.take_lease(DAY, ME)
    await desk.ledger.plan(DAY, RULES)
    return await due(desk)


async def due(desk: Desk) -> list[Delivery]:
    chunk = await desk.source.read(DAY, START, RULES, Claim(ME))
    return [delivery for work in chunk.offices for delivery in work.deliveries if delivery.due]


async def ended(
    ledger: Ledger, deliveries: Sequence[Delivery], state: State, *, bare: bool = False
) -> list[Settlement]:
    """Reserve each of *deliveries* by itself, and settle them together in *state*."""
    calls = [a_call(delivery) for delivery in deliveries]
    assert await ledger.reserve(DAY, ME, calls) == {call.call_id for call in calls}
    settlements = [
        Settlement(d, d.try_no, state, audit={"renewal_count": 1} if state is State.SENT else None)
        for call in calls
        for d in call.deliveries
    ]
    assert await ledger.settle(settlements, without_audit=bare) == set()
    return settlements


def a_row(office: int, staff: int, mails: int, pushes: int = 0) -> dict[str, object]:
    return {
        "day": str(DAY),
        "office_name": f"Office {office}",
        "staff_count": staff,
        "email_count": mails,
        "push_count": pushes,
    }


async def test_an_office_has_one_row_with_what_was_sent_once_nothing_is_open(desk: Desk) -> None:
    """Of three people with two devices each: two mails and three pushes are sent; one mail fails, one push is gone."""
    deliveries = await planned(desk, some_offices(1, staff=3, devices=2))
    ledger = desk.with_audit("office")
    mails = [d for d in deliveries if d.channel is Channel.EMAIL]
    pushes = [d for d in deliveries if d.channel is Channel.PUSH]
    people = {d.staff_id for d in [*mails[:2], *pushes[:4]]}
    await ended(ledger, [*mails[:2], *pushes[:4]], State.SENT)
    assert await desk.unaudited() == {d.id for d in [*mails[:2], *pushes[:4]]}
    await ended(ledger, [mails[2]], State.FAILED)
    assert (await ledger.counts(DAY, RULES)).unaudited == 0
    assert (await ledger.unaudited_offices(DAY), await ledger.audit_offices(DAY)) == ([], 0)
    assert await desk.audit_log() == [], "two pushes are open"
    await ended(ledger, pushes[4:], State.GONE)
    assert (await ledger.counts(DAY, RULES)).unaudited == 1
    office = mails[0].office_id
    assert await ledger.unaudited_offices(DAY) == [(DAY, office)]
    for owed in (1, 0):
        assert await ledger.audit_offices(DAY) == owed
        assert await desk.office_rows() == [a_row(0, len(people), 2, 4)]
        assert await desk.audit_log() == [(office, office)]
        assert (await desk.unaudited(), (await ledger.counts(DAY, RULES)).unaudited) == (set(), 0)


async def test_an_office_to_which_nothing_was_sent_has_no_row(desk: Desk) -> None:
    deliveries = await planned(desk, some_offices(2, staff=1))
    ledger = desk.with_audit("office")
    await ended(ledger, deliveries, State.FAILED)
    assert (await ledger.unaudited_offices(DAY), await ledger.audit_offices(DAY)) == ([], 0)
    assert await desk.audit_log() == []


async def test_what_a_retry_adds_has_a_further_row_of_its_own(desk: Desk) -> None:
    first, second, third = await planned(desk, some_offices(1, staff=3))
    ledger = desk.with_audit("office")
    await ended(ledger, [first], State.SENT)
    await ended(ledger, [second, third], State.FAILED)
    assert await ledger.audit_offices(DAY) == 1
    await ledger.retry(DAY, [State.FAILED])
    again = await due(desk)
    await ended(ledger, again[:1], State.FAILED)
    assert await ledger.audit_offices(DAY) == 0
    await ended(ledger, again[1:], State.SENT)
    assert await ledger.audit_offices(DAY) == 1
    assert await desk.office_rows() == [a_row(0, 1, 1)] * 2
    await ledger.retry(DAY, [State.FAILED])
    await ended(ledger, await due(desk), State.FAILED)
    assert await ledger.audit_offices(DAY) == 0, "the second retry added nothing"


async def test_offices_are_audited_in_portions_or_one_at_a_time(desk: Desk) -> None:
    offices = AUDIT_TOGETHER + 4
    deliveries = await planned(desk, some_offices(offices, staff=1))
    ledger = desk.with_audit("office")
    while deliveries:  # a chunk at a time
        await ended(ledger, deliveries, State.SENT)
        deliveries = await due(desk)
    for one in (await ledger.unaudited_offices(DAY))[-2:]:
        assert [await ledger.audit_offices(DAY, one) for _ in range(2)] == [1, 0]
    assert [await ledger.audit_offices(DAY) for _ in range(3)] == [AUDIT_TOGETHER, 2, 0]
    assert len(await desk.office_rows()) == offices


async def test_a_row_that_is_given_up_leaves_the_marks_and_what_comes_later_counts_them(desk: Desk) -> None:
    first, second = await planned(desk, some_offices(1, staff=2))
    ledger = desk.with_audit("office")
    await ended(ledger, [first], State.SENT)
    await ended(ledger, [second], State.FAILED)
    await ledger.give_up_audit((DAY, first.office_id))
    assert (await ledger.unaudited_offices(DAY), await ledger.audit_offices(DAY)) == ([], 0)
    assert await desk.unaudited() == {first.id}
    await ledger.retry(DAY, [State.FAILED])
    await ended(ledger, await due(desk), State.SENT)
    assert await ledger.audit_offices(DAY) == 1
    assert await desk.office_rows() == [a_row(0, 2, 2)]


async def test_the_row_of_an_earlier_day_is_written_on_a_later_one(desk: Desk) -> None:
    """Its process died after the last outcome: the next day's run owes the row."""
    deliveries = await planned(desk, some_offices(1))
    ledger = desk.with_audit("office")
    await ended(ledger, deliveries, State.SENT)
    await desk.age(60)
    tomorrow = DAY + timedelta(days=1)
    await ledger.take_lease(tomorrow, ME)
    await ledger.close_earlier(tomorrow)
    assert (await ledger.counts(tomorrow, RULES)).unaudited == 1
    assert await ledger.audit_offices(DAY - timedelta(days=1)) == 0
    assert await ledger.audit_offices(tomorrow) == 1
    assert await desk.office_rows() == [a_row(0, 2, 2)]


async def test_without_audit_rows_nothing_is_written_or_marked_and_a_debt_stays(desk: Desk) -> None:
    first, second, third, fourth = await planned(desk, some_offices(1, staff=4))
    none, office = desk.with_audit("none"), desk.with_audit("office")
    await ended(office, [first], State.SENT)
    whole = await ended(none, [second], State.SENT)
    bare = await ended(none, [third, fourth], State.SENT, bare=True)
    await none.settle_extras([*whole, *bare])
    assert await none.audit_offices(DAY) == 0
    assert (await desk.audit_log(), await desk.unaudited()) == ([], {first.id})
    assert await desk.with_audit("each").audit_offices(DAY) == 1
    assert await desk.office_rows() == [a_row(0, 1, 1)]


async def test_a_gone_device_is_deleted_whatever_the_audit_is(desk: Desk) -> None:
    app = some_offices(2, staff=1, devices=1)
    pushes = [d for d in await planned(desk, app) if d.channel is Channel.PUSH]
    for audit, push, bare in zip(("office", "none"), pushes, (False, True), strict=True):
        ledger = desk.with_audit(cast("Audit", audit))
        call = a_call(push)
        assert await ledger.reserve(DAY, ME, [call])
        endpoint = app.devices[cast("UUID", push.device_id)].endpoint
        gone = [Settlement(d, d.try_no, State.GONE, gone_endpoint=endpoint) for d in call.deliveries]
        await ledger.settle(gone, without_audit=bare)
        assert (push.device_id in await desk.device_ids()) is bare
        await ledger.settle_extras(gone)
        assert push.device_id not in await desk.device_ids()


@pytest.mark.parametrize("seed", range(12))
async def test_each_sent_mail_is_in_exactly_one_row_however_often_the_key_changes(desk: Desk, seed: int) -> None:
    """Four offices' mails end whole or bare under each value, are retried, and rows are written in between."""
    random = Random(seed)
    await planned(desk, some_offices(4, staff=4))
    own, summed, none = set[UUID](), set[UUID](), set[UUID]()
    owed: list[tuple[Ledger, list[Settlement]]] = []
    for _ in range(60):
        audit = random.choice(AUDITS)
        ledger = desk.with_audit(audit)
        match random.randrange(5):
            case 0 | 1 if open_ones := await due(desk):
                lot = random.sample(open_ones, min(len(open_ones), random.randint(1, 4)))
                bare = random.random() < 0.3
                state = random.choice([State.SENT, State.SENT, State.FAILED])
                settlements = await ended(ledger, lot, state, bare=bare)
                if state is State.SENT:
                    {"each": own, "office": summed, "none": none}[audit].update(d.id for d in lot)
                    if bare:
                        owed.append((ledger, settlements))
            case 2:
                await ledger.retry(DAY, [State.FAILED])
            case 3 if owed:
                late, settlements = owed.pop()
                await late.settle_extras(settlements)
            case _:
                await ledger.audit_offices(DAY)
    for late, settlements in owed:
        await late.settle_extras(settlements)
    if rest := await due(desk):
        await ended(desk.with_audit("office"), rest, State.SENT)
        summed |= {d.id for d in rest}
    while await desk.with_audit("each").audit_offices(DAY):
        pass
    rows = await desk.office_rows()
    pairs = [pair for pair in await desk.audit_log() if pair[0] != pair[1]]
    assert len(pairs) == len(set(pairs)), "nobody has two rows"
    assert len(pairs) + sum(row["email_count"] for row in rows) == len(own) + len(summed)
    assert len(pairs) <= len(own)
    assert sum(row["email_count"] for row in rows) >= len(summed)
    assert await desk.unaudited() == set()


async def test_an_office_that_is_gone_has_a_row_without_its_name(desk: Desk) -> None:
    """Where the application's audit log allows that."""
    deliveries = await planned(desk, some_offices(1))
    ledger = desk.with_audit("office")
    await ended(ledger, deliveries, State.SENT)
    if isinstance(desk, PostgresDesk):
        await desk.db.fetch("alter table app.audit_log drop constraint audit_log_office_id_fkey")
    await desk.edit(lambda app: app.offices.clear())
    assert await ledger.audit_offices(DAY) == 1
    assert await desk.office_rows() == [a_row(0, 2, 2) | {"office_name": None}]


async def test_each_sent_mail_is_counted_once_while_several_settle_retry_and_audit_at_once(desk: Desk) -> None:
    """Three offices' mails fail and are retried one by one, while two others write rows all the time."""
    mails = await planned(desk, some_offices(3, staff=8))
    ledger = desk.with_audit("office")
    done = trio.Event()

    async def tell(part: Sequence[Delivery]) -> None:
        await ended(ledger, part[:1], State.FAILED)
        for mail in part[1:]:
            await ended(ledger, [mail], State.SENT)

    async def audit() -> None:
        while not done.is_set():
            await ledger.audit_offices(DAY)

    async with trio.open_nursery() as auditing:
        auditing.start_soon(audit)
        auditing.start_soon(audit)
        async with trio.open_nursery() as telling:
            for number in range(4):
                telling.start_soon(tell, mails[number::4])
        await ledger.retry(DAY, [State.FAILED])
        async with trio.open_nursery() as telling:
            for mail in await due(desk):
                telling.start_soon(ended, ledger, [mail], State.SENT)
        done.set()
    await ledger.audit_offices(DAY)
    assert sum(row["email_count"] for row in await desk.office_rows()) == len(mails)
    assert (await desk.unaudited(), await ledger.unaudited_offices(DAY)) == (set(), [])
