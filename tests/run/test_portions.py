"""A large office is told in portions: the same calls as of the whole, and no more of them held than are wanted."""

from uuid import UUID

import pytest
import trio
from attrs import define, evolve
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notifierd.model.delivery import Delivery, State
from notifierd.model.message import Mail
from notifierd.model.office import Notice
from notifierd.run import portions
from notifierd.run.calls import Call
from notifierd.run.day import run_day
from notifierd.run.facts import Facts
from tests.run.test_calls import STATES, Office, an_office, marked
from tests.support.memory import Application, MemoryLedger
from tests.support.samples import DAY, an_id, some_offices
from tests.support.scripted_senders import (
    NINE_O_CLOCK,
    PlainRenderer,
    ScriptedSender,
    ShakyLedger,
    a_member,
    a_run,
    limited,
)

STAFF = 150


async def in_portions(office: Office) -> list[list[Call]]:
    """The calls of each destination, made portion by portion."""
    facts = Facts(office.work, DAY, office.context)
    destinations = await facts.portions(since=0.0)
    return [
        [call for portion in portions for call in (await facts.prepare(portion, since=0.0)).calls]
        for portions in destinations
    ]


def said(call: Call) -> tuple[object, ...]:
    return (
        str(call.id),
        call.body,
        call.transport.sender.name,
        call.destination,
        tuple(d.id for d in call.deliveries),
        call.repeat,
    )


@given(st.lists(STATES, min_size=1, max_size=30), st.integers(1, 7), st.integers(0, 4))
def test_a_large_office_makes_the_same_calls_in_portions_as_at_once(states, size, lost):
    """Some deliveries were tried before, by one of two providers, and the answers to some calls are lost."""

    async def made() -> None:
        office = await an_office(staff=60, devices=1)
        senders = [ScriptedSender(name=name, max_batch=size, honours_keys=True) for name in ("first", "second")]
        context = a_run(
            MemoryLedger(Application()),
            [limited(s, 5) for s in senders],
            ScriptedSender(),
            now=lambda: NINE_O_CLOCK,
        )
        deliveries = [evolve(d, **states[n % len(states)]) for n, d in enumerate(office.work.deliveries)]
        office = evolve(office.having(*deliveries), context=context)
        gone = {d for call in office.calls()[:lost] for d in call.deliveries}
        again = [each for call in office.calls()[:lost] for each in marked(call.reservation(40.0))]
        office = office.having(*again, *(d for d in deliveries if d not in gone))
        assert len(office.work.deliveries) > portions.AT_ONCE
        destinations = await in_portions(office)
        assert len(destinations) > 1
        for calls in destinations:
            assert len({call.destination for call in calls}) <= 1
        found = [said(call) for calls in destinations for call in calls]
        assert len(found) == len(set(found))
        assert set(found) == set(map(said, office.calls()))

    trio.run(made)


@define
class Counting(PlainRenderer):
    """Counts the mails that it makes; *odd* cannot be made one for."""

    made: int = 0
    odd: UUID | None = None

    def mail(self, notice: Notice, delivery: Delivery) -> Mail:
        self.made += 1
        if notice.staff.id == self.odd:
            raise ValueError("odd")
        return PlainRenderer.mail(self, notice, delivery)


@pytest.mark.parametrize("batch", [1, 10])
async def test_of_a_large_office_no_more_messages_are_made_than_are_in_flight_and_the_next_call(
    batch: int, autojump_clock
):
    """150 mails, five slots: one mail to see the way, then those of five calls and the one that waits."""
    ledger, renderer = ShakyLedger(some_offices(1, staff=STAFF)), Counting()
    ahead: list[int] = []
    email = ScriptedSender(
        max_batch=batch, seconds=0.1, meanwhile=lambda: ahead.append(renderer.made - len(email.accepted))
    )
    await run_day(DAY, a_run(ledger, limited(email, 5), renderer=renderer))
    assert ledger.states() == {State.SENT: STAFF}
    assert max(ahead) <= 1 + 6 * batch
    assert renderer.made == STAFF + 1


async def test_a_message_that_cannot_be_made_ends_a_large_office_and_cuts_nothing_in_flight(autojump_clock):
    """The 78th of 150 mails: those before it are told, once, and the others fail; the next office is told."""
    app = some_offices(2, staff=STAFF)
    office = an_id("office 0")
    members = sorted(staff.id for place, staff in app.staff if place == office)
    ledger, email = ShakyLedger(app), ScriptedSender(seconds=20.0)
    with capture_logs() as logs:
        await run_day(DAY, a_run(ledger, limited(email, 5), renderer=Counting(odd=members[77]), window_left=86_400.0))
    assert ledger.reasons() == {(State.SENT, None): STAFF + 77, (State.FAILED, "office_error:ValueError"): STAFF - 77}
    assert len(email.told) == len(set(email.told)) == STAFF + 77
    assert all(call.cut is None for call in email.calls)
    assert [line["office"] for line in logs if line["event"] == "office_failed"] == [str(office)]


async def test_a_slow_push_service_holds_up_neither_the_mails_nor_the_other_pushes_of_a_large_office(autojump_clock):
    """150 members with a phone each, at two services; one takes 20 s for a push, and has a quarter of 20 slots."""
    app = Application()
    for n in range(STAFF):
        a_member(app, f"m{n}", office="large", hosts=["slow.example" if n % 2 else "quick.example"])
    email = ScriptedSender()
    push = ScriptedSender(seconds=lambda to: 20.0 if "slow" in to else 1.0)
    context = a_run(ShakyLedger(app), limited(email, 5), limited(push, 20, per_destination=5))
    await run_day(DAY, context)
    assert max(at for at, *_ in email.accepted) == pytest.approx(STAFF / 5, abs=1.0)
    assert max(at for at, _, to in push.accepted if "quick" in to) == pytest.approx(75 / 5, abs=1.0)
    assert len(push.told) == len(email.told) == STAFF
