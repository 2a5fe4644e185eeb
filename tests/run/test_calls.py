"""Which calls an office's open deliveries make: batches, repeats to the byte, and what there is nothing to say for."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import RFC_4122, UUID

import pytest
import trio
from attrs import define, evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from notifierd.config.settings import Settings
from notifierd.messages.render import Renderer
from notifierd.model.delivery import Channel, Delivery, Reservation, State, call_id
from notifierd.model.message import Message, Push
from notifierd.model.office import Notice, OfficeWork
from notifierd.rules.breaker import Breakers
from notifierd.rules.due import Rules
from notifierd.run.calls import SHORTEST_TTL, Call, Prepared, describe, prepare
from notifierd.run.context import RunContext
from notifierd.run.transport import Transports
from notifierd.store.source import Claim
from tests.support.memory import Application, MemoryLedger
from tests.support.samples import DAY, a_renewal, an_id, some_offices
from tests.support.scripted_senders import NINE_O_CLOCK, PlainRenderer, ScriptedSender, a_run, limited

BREAKERS = Breakers(lambda: 0.0)
KEYED = ScriptedSender(max_batch=3, honours_keys=True)
RENDERER = Renderer(Settings())


@frozen
class Office:
    """An office's work, and how to change one thing of it."""

    work: OfficeWork
    context: RunContext

    @property
    def mails(self) -> list[Delivery]:
        return [delivery for delivery in self.work.deliveries if delivery.channel is Channel.EMAIL]

    def having(self, *deliveries: Delivery, **changes: Any) -> "Office":
        return evolve(self, work=evolve(self.work, deliveries=deliveries, **changes))

    def prepared(self) -> Prepared:
        described = {delivery: describe(delivery, self.work, DAY, self.context) for delivery in self.work.deliveries}
        return prepare(self.work, described, self.context)

    def calls(self) -> list[Call]:
        return list(self.prepared().calls)

    def expired(self) -> list[str]:
        return sorted(self.prepared().expired.values())


async def an_office(*, staff: int = 7, devices: int = 0, email: ScriptedSender = KEYED) -> Office:
    app = some_offices(1, staff=staff, devices=devices)
    ledger = MemoryLedger(app, clock=lambda: 0.0)
    context = a_run(ledger, email, ScriptedSender(), now=lambda: NINE_O_CLOCK)
    await ledger.plan(DAY, context.rules)
    (work,) = (await ledger.read(DAY, (-(2**31), UUID(int=0)), context.rules, Claim("me"))).offices
    return Office(work, context)


def marked(reservation: Reservation, **changes: Any) -> list[Delivery]:
    """The deliveries of a call as the ledger has them once its answer is lost."""
    return [
        evolve(d, payload_hash=reservation.payload_hash, provider=reservation.provider, **changes)
        for d in reservation.deliveries
    ]


async def test_a_repeat_takes_along_what_was_put_back_and_not_what_was_taken():
    """Of three mails in a call one was taken and one was put back: alone, it would go twice if the call passes."""
    office = await an_office(staff=3)
    (call,) = office.calls()
    sent, planned, lost = marked(call.reservation(40.0))
    former = [evolve(sent, state=State.SENT, due=False), evolve(planned, state=State.PLANNED, attempts=1), lost]
    (repeat,) = office.having(*former).calls()
    assert repeat.deliveries == tuple(former)
    assert [delivery.due for delivery in repeat.tried] == [False, False, True]
    assert [delivery.id for delivery in repeat.reservation(40.0).deliveries] == [planned.id, lost.id]
    (again,) = office.having(*repeat.tried).calls()
    assert (again.id, again.body, again.repeat) == (repeat.id, repeat.body, True)


async def test_what_was_put_back_waits_for_the_rest_of_its_call():
    """A part of the call is still another try's: repeated later, it would carry this one again."""
    office = await an_office(staff=3)
    (call,) = office.calls()
    first, second, third = marked(call.reservation(40.0))
    former = [evolve(first, state=State.PLANNED), evolve(second, due=False), evolve(third, due=False)]
    todo = office.having(*former).prepared()
    assert (todo.calls, todo.waiting) == ((), True)
    todo = office.having(*(evolve(delivery, provider="postmark") for delivery in former)).prepared()
    assert [each.id for each in todo.calls[0].deliveries] == [first.id], "without keys it is not repeated"


# New calls ----------------------------------------------------------------------------------------------------------


async def test_as_many_mails_go_in_one_call_as_the_sender_carries():
    office = await an_office(staff=7)
    calls = office.calls()
    assert [len(call.deliveries) for call in calls] == [3, 3, 1]
    assert [delivery for call in calls for delivery in call.deliveries] == office.mails
    assert len({call.id for call in calls}) == 3
    for call in calls:
        assert call.body == KEYED.encode(call.messages)
        assert [message.delivery_id for message in call.messages] == [delivery.id for delivery in call.deliveries]
        assert (call.repeat, call.destination) == (False, "scripted")


@define
class SmallSender(ScriptedSender):
    """A provider whose calls may weigh so many bytes."""

    bytes_at_most: int = 0

    def encode(self, messages: Sequence[Message]) -> bytes:
        body = super().encode(messages)
        if len(body) > self.bytes_at_most:
            raise ValueError("too much for one call")
        return body


async def test_what_is_too_much_for_one_call_goes_in_halves_and_in_order():
    """Seven mails, of which a call holds the bytes of two: 7 = 3 + 4, 3 = 1 + 2, 4 = 2 + 2."""
    one = len((await an_office(staff=1)).calls()[0].body)
    office = await an_office(staff=7, email=SmallSender(max_batch=7, bytes_at_most=2 * one + 5))
    calls = office.calls()
    assert [len(call.deliveries) for call in calls] == [1, 2, 2, 2]
    assert [delivery for call in calls for delivery in call.deliveries] == office.mails
    assert len({call.id for call in calls}) == 4


async def test_a_mail_that_is_too_much_by_itself_is_an_error():
    office = await an_office(staff=2, email=SmallSender(max_batch=2, bytes_at_most=5))
    with pytest.raises(ValueError, match="too much"):
        office.calls()


async def test_each_push_is_a_call_of_its_own_and_its_destination_is_the_push_services():
    office = await an_office(staff=2, devices=2)
    pushes = [call for call in office.calls() if call.deliveries[0].channel is Channel.PUSH]
    assert [len(call.deliveries) for call in pushes] == [1, 1, 1, 1]
    assert {call.destination for call in pushes} == {"push.example.net"}


async def test_a_reservation_marks_each_delivery_as_it_stands_while_its_call_is_made():
    office = await an_office(staff=2)
    first, second = office.mails
    second = evolve(second, try_no=4, call_id=an_id("an earlier call"), call_tries=3, doubts=1)
    (call,) = office.having(first, second).calls()
    reservation = call.reservation(40.0)
    assert (reservation.call_id, reservation.provider, reservation.expires) == (call.id, "scripted", 40.0)
    assert reservation.payload_hash == hashlib.sha256(call.body).digest()
    assert [
        (d.id, d.state, d.try_no, d.call_id, d.call_tries, d.position, d.doubts) for d in reservation.deliveries
    ] == [
        (first.id, State.SENDING, 1, call.id, 1, 0, 0),
        (second.id, State.SENDING, 5, call.id, 1, 1, 1),
    ]


async def test_one_that_was_deferred_for_its_own_sake_goes_alone():
    office = await an_office(staff=5)
    a, b, c, d, e = office.mails
    calls = office.having(a, evolve(b, attempts=1), c, evolve(d, attempts=2), e).calls()
    assert [[delivery.id for delivery in call.deliveries] for call in calls] == [[a.id, c.id, e.id], [b.id], [d.id]]


@pytest.mark.parametrize("reason", ["batch_rejected:422", "rejected:400", "refused:item", "refused:422:403"])
async def test_one_that_was_refused_goes_alone(reason: str):
    """Alone or with others: should it be what a whole batch is refused for, it harms no other."""
    office = await an_office(staff=4)
    a, b, c, d = office.mails
    calls = office.having(evolve(a, reason="server_error:503"), evolve(b, reason=reason), c, d).calls()
    assert [[delivery.id for delivery in call.deliveries] for call in calls] == [[a.id, c.id, d.id], [b.id]]


async def test_settled_deliveries_and_those_whose_turn_has_not_come_make_no_call():
    office = await an_office(staff=4)
    a, b, c, d = office.mails
    settled = [evolve(b, state=State.SENT, due=False), evolve(c, due=False), evolve(d, state=State.SENDING, due=False)]
    calls = office.having(a, *settled).calls()
    assert [call.deliveries for call in calls] == [(a,)]


# Its key ------------------------------------------------------------------------------------------------------------


def test_a_calls_id_is_a_version_8_uuid_over_its_deliveries_and_its_content():
    """The namespace, then 16 bytes of the id and 4 of put_back for each delivery, then the payload hash."""
    first, second = (Delivery(an_id(name), an_id("office"), an_id(name), Channel.EMAIL) for name in "ab")
    name = b"notifierd" + bytes(6) + b"\x02" + first.id.bytes + bytes(4) + second.id.bytes + b"\0\0\0\x03" + b"hash"
    key = call_id([first, evolve(second, put_back=3)], b"hash")
    assert (key.version, key.variant) == (8, RFC_4122)
    free = hashlib.sha256(name).digest()
    assert [a ^ b for a, b in zip(key.bytes, free[:16], strict=True) if a != b] == [
        key.bytes[n] ^ free[n] for n in (6, 8) if key.bytes[n] != free[n]
    ]


async def test_a_call_has_the_same_key_in_any_process_and_another_one_for_anything_else():
    office = await an_office(staff=2)
    a, b = office.mails

    def key(*deliveries: Delivery, **changes: Any) -> UUID:
        (call,) = office.having(*deliveries, **changes).calls()
        return call.id

    again = await an_office(staff=2)
    assert key(a, b) == again.calls()[0].id
    others = [key(a), key(b), key(evolve(a, put_back=1), evolve(b, put_back=1)), key(a, b, name="renamed")]
    others.append(key(evolve(a, put_back=2), evolve(b, put_back=2)))
    assert len({key(a, b), *others}) == 6
    assert key(b, a) == key(a, b), "whatever order they were read in"
    assert key(evolve(a, try_no=4, reason="x"), b) == key(a, b), "tries are no part of it: a database forgets them"


async def test_what_was_put_back_goes_in_a_call_of_its_own():
    office = await an_office(staff=5)
    a, b, c, d, e = office.mails
    calls = office.having(a, evolve(b, put_back=1), c, evolve(d, put_back=1), e).calls()
    assert [[delivery.id for delivery in call.deliveries] for call in calls] == [[a.id, c.id, e.id], [b.id, d.id]]


STATES = st.fixed_dictionaries(
    {
        "attempts": st.sampled_from([0, 0, 0, 1]),
        "doubts": st.sampled_from([0, 0, 0, 1]),
        "put_back": st.sampled_from([0, 0, 0, 1, 2]),
        "provider": st.sampled_from([None, "first", "second"]),
    }
)


@given(st.data(), st.integers(1, 4), st.lists(STATES, min_size=1, max_size=14))
def test_calls_whose_reservations_are_forgotten_are_made_again_as_they_were(data, size, states):
    """Of any office, and any of its calls: the same deliveries in the same order, the same bytes, the same keys."""

    async def an_office_in_any_state() -> Office:
        office = await an_office(staff=(len(states) + 1) // 2, devices=1)
        names = ("first", "second")
        transports = [limited(ScriptedSender(name=name, max_batch=size, honours_keys=True), 5) for name in names]
        context = a_run(MemoryLedger(Application()), transports, ScriptedSender(), now=lambda: NINE_O_CLOCK)
        found = [evolve(d, **state) for d, state in zip(office.work.deliveries, states, strict=False)]
        return evolve(office.having(*found), context=context)

    office = trio.run(an_office_in_any_state)
    made = office.calls()
    forgotten = data.draw(st.lists(st.sampled_from(made), unique_by=lambda call: call.id))
    left = data.draw(st.permutations([delivery for call in forgotten for delivery in call.deliveries]))

    def said(calls: list[Call]) -> set[tuple[UUID, bytes, str, tuple[UUID, ...]]]:
        return {(c.id, c.body, c.transport.sender.name, tuple(d.id for d in c.deliveries)) for c in calls}

    again = office.having(*left).calls()
    assert said(again) == said(forgotten)
    assert len(again) == len(forgotten)


# The same call again ------------------------------------------------------------------------------------------------


async def test_a_call_whose_answer_was_lost_is_made_again_whole_and_to_the_byte():
    office = await an_office(staff=6)
    lost, other = office.calls()
    left = marked(lost.reservation(40.0))
    calls = office.having(*reversed(left), *other.deliveries).calls()
    fresh, again = calls
    assert (again.id, again.body, again.repeat) == (lost.id, lost.body, True)
    assert [d.id for d in again.deliveries] == [d.id for d in lost.deliveries], "in the order in which it carried them"
    assert [d.id for d in fresh.deliveries] == [d.id for d in other.deliveries]
    assert fresh.id == other.id
    assert [(d.try_no, d.call_tries, d.position) for d in again.reservation(40.0).deliveries] == [
        (2, 2, 0),
        (2, 2, 1),
        (2, 2, 2),
    ]


async def test_a_repeat_carries_what_is_settled_too_and_reserves_only_what_is_open():
    office = await an_office(staff=3)
    (lost,) = office.calls()
    first, second, third = marked(lost.reservation(40.0))
    (again,) = office.having(first, evolve(second, state=State.SENT, due=False), third).calls()
    assert again.body == lost.body
    assert len(again.messages) == 3
    assert [(d.id, d.position) for d in again.reservation(40.0).deliveries] == [(first.id, 0), (third.id, 2)]


async def test_a_repeat_waits_for_its_last_part_to_come_due():
    office = await an_office(staff=3)
    (lost,) = office.calls()
    first, second, third = marked(lost.reservation(40.0))
    todo = office.having(first, second, evolve(third, due=False)).prepared()
    assert (todo.calls, todo.lost, todo.expired) == ((), (), {})


@pytest.mark.parametrize(
    "change",
    [
        {"alerts": (a_renewal(3, "somebody else"),)},
        {"name": "renamed"},
        {"name": None},
        {"alerts": ()},
        {"staff": {}},
    ],
    ids=["another alert", "another name", "office gone", "not due", "staff gone"],
)
async def test_a_call_that_cannot_be_made_as_it_was_is_lost_for_good(change: dict[str, Any]):
    office = await an_office(staff=3)
    (lost,) = office.calls()
    left = marked(lost.reservation(40.0))
    todo = office.having(*left, **change).prepared()
    assert (todo.calls, todo.lost, todo.expired) == ((), tuple(left), {})


async def test_a_call_is_not_repeated_by_another_provider_nor_without_keys_nor_in_part():
    office = await an_office(staff=3)
    (lost,) = office.calls()
    left = marked(lost.reservation(40.0))
    for sender in (ScriptedSender(name="other", max_batch=3, honours_keys=True), ScriptedSender(max_batch=3)):
        other = evolve(office, context=a_run(MemoryLedger(Application()), sender))
        todo = other.having(*left).prepared()
        assert (todo.calls, todo.lost) == ((), tuple(left))
    todo = office.having(*left[:2]).prepared()
    assert (todo.calls, todo.lost) == ((), tuple(left[:2])), "the third was deleted from the ledger"
    switched_off = evolve(office, context=evolve(office.context, transports=Transports(BREAKERS, {})))
    assert switched_off.having(*left).prepared().lost == tuple(left)


async def test_calls_of_one_office_are_repeated_lost_and_waited_for_apart():
    office = await an_office(staff=9)
    waiting, lost, again = office.calls()
    still_out = marked(waiting.reservation(40.0), due=False)
    changed = marked(evolve(lost, digest=b"of another time").reservation(40.0))
    also_changed = marked(evolve(lost, id=an_id("a fourth"), digest=b"of another time").reservation(40.0))
    also_changed = [evolve(d, id=an_id(f"another {d.position}")) for d in also_changed]
    left = [*still_out, *changed, *marked(again.reservation(40.0)), *also_changed]
    todo = office.having(*left).prepared()
    assert [(call.id, call.body) for call in todo.calls] == [(again.id, again.body)]
    assert todo.lost == (*changed, *also_changed)


async def test_what_is_lost_for_good_does_not_take_what_is_settled_with_it():
    office = await an_office(staff=3)
    (lost,) = office.calls()
    first, second, third = marked(lost.reservation(40.0))
    sent = evolve(second, state=State.SENT, due=False)
    todo = office.having(first, sent, third, name="renamed").prepared()
    assert todo.lost == (first, third)


# Nothing to say -----------------------------------------------------------------------------------------------------


async def test_what_has_nothing_to_say_any_more_expires_with_the_reason():
    office = await an_office(staff=1, devices=1)
    assert office.expired() == []
    deliveries = office.work.deliveries
    assert office.having(*deliveries, name=None).expired() == ["office_gone", "office_gone"]
    assert office.having(*deliveries, staff={}).expired() == ["staff_gone", "staff_gone"]
    assert office.having(*deliveries, alerts=()).expired() == ["no_longer_due", "no_longer_due"]
    assert office.having(*deliveries, alerts=(a_renewal(31),)).expired() == ["no_longer_due", "no_longer_due"]
    assert office.having(*deliveries, devices={}).expired() == ["device_gone"]
    mails = [office.context.transports.preferred(Channel.EMAIL)]
    mail_only = evolve(office.context, transports=Transports(BREAKERS, {Channel.EMAIL: mails}))
    assert evolve(office, context=mail_only).expired() == ["channel_disabled"]
    (staff,) = office.work.staff.values()
    shut = {staff.id: evolve(staff, email_enabled=False)}
    assert office.having(*deliveries, staff=shut).expired() == ["no_longer_due"]
    assert len(office.having(*deliveries, staff=shut).calls()) == 1, "the push goes all the same"


async def test_who_has_no_good_address_is_in_no_call_and_harms_no_other_of_the_batch():
    office = await an_office(staff=3)
    assert (office.prepared().failed, len(office.calls())) == ({}, 1)
    bad = office.mails[1]
    staff = {key: evolve(one, email="nobody") if key == bad.staff_id else one for key, one in office.work.staff.items()}
    odd = evolve(office.having(*office.work.deliveries, staff=staff), context=evolve(office.context, renderer=RENDERER))
    assert odd.prepared().failed == {bad: "bad_address"}
    (call,) = odd.calls()
    assert call.deliveries == (office.mails[0], office.mails[2])
    assert odd.expired() == []
    settled = odd.having(evolve(bad, state=State.SENT, due=False), staff=staff)
    assert settled.prepared().failed == {}


async def test_only_what_is_planned_and_due_expires():
    office = await an_office(staff=3)
    a, b, c = office.mails
    gone = office.having(evolve(a, state=State.SENT, due=False), evolve(b, due=False), c, alerts=())
    assert gone.expired() == ["no_longer_due"]
    assert list(gone.prepared().expired) == [c]


# What a message says ------------------------------------------------------------------------------------------------


async def test_a_message_tells_its_reader_alone_and_the_audit_row_counts():
    office = await an_office(staff=2)
    near, far = a_renewal(3, "near"), a_renewal(25, "far")
    brisk, calm = office.work.staff.values()
    staff = {brisk.id: evolve(brisk, email_days=5), calm.id: calm}
    (call,) = evolve(office, work=evolve(office.work, alerts=(far, near), staff=staff)).calls()
    said = {content.message.delivery_id: content for content in call.contents}
    for delivery in call.deliveries:
        content = said[delivery.id]
        expected = "near" if delivery.staff_id == brisk.id else "near, far"
        assert str(getattr(content.message, "text", "")).endswith(f": {expected}")
        assert content.audit == {"alerts": 1 if delivery.staff_id == brisk.id else 2}


@pytest.mark.parametrize(("hours", "ttl"), [(0, 15 * 3600), (10, 5 * 3600), (14.5, SHORTEST_TTL), (40, SHORTEST_TTL)])
async def test_a_push_is_kept_to_the_days_end_but_for_an_hour_at_least(hours: float, ttl: int):
    office = await an_office(staff=1, devices=1)
    clock = evolve(office.context.clock, now=lambda: NINE_O_CLOCK + timedelta(hours=hours))
    context = evolve(office.context, clock=clock)
    pushes = context.transports.preferred(Channel.PUSH)
    (message,) = [call.messages[0] for call in evolve(office, context=context).calls() if call.transport is pushes]
    assert isinstance(message, Push)
    assert message.ttl == ttl


async def test_a_push_goes_to_its_own_device():
    office = await an_office(staff=2, devices=2)
    for call in office.calls():
        (delivery,), (message,) = call.deliveries[:1], call.messages[:1]
        if isinstance(message, Push):
            assert message.device.id == delivery.device_id


async def test_a_notice_says_what_it_is_about_and_each_channel_has_its_audit_row():
    office = await an_office(staff=1, devices=1)
    notices: list[Notice] = []

    class Renderer(PlainRenderer):
        def audit(self, notice: Notice) -> Mapping[str, object]:
            notices.append(notice)
            return {"on": notice.channel.value}

    calls = evolve(office, context=evolve(office.context, renderer=Renderer())).calls()
    assert [(n.day, n.office_id, n.office_name) for n in notices] == [(DAY, office.work.id, office.work.name)] * 2
    assert [call.contents[0].audit for call in calls] == [{"on": call.deliveries[0].channel.value} for call in calls], (
        "in the order of the deliveries"
    )
    assert {notice.channel for notice in notices} == set(Channel)


async def test_the_rules_of_the_configuration_hold_here_too():
    office = await an_office(staff=1)
    without = evolve(office.context, rules=Rules(overdue=False))
    assert evolve(office, context=without).expired() == ["no_longer_due"], "its only renewal is due today"
