"""What a message is made from is at most MOST_AGE old when its call begins, however long the call waited; virtual time.

The application changes while a run goes on. Each version of it is kept, so that a call can be held against those of the
seconds before it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import trio
from attrs import define, evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from notifierd.model.delivery import OPEN, Channel, Delivery, Reservation, State
from notifierd.model.errors import StatementRefused
from notifierd.model.office import OfficeWork
from notifierd.model.outcome import Blame, Blocked, Deferred, Outcome, Unknown
from notifierd.rules.due import Rules, Skip, notice_for
from notifierd.run.context import RunContext
from notifierd.run.day import run_day
from notifierd.run.facts import FRESH, MOST_AGE
from notifierd.run.office import AHEAD
from notifierd.run.record.recorder import GATHER
from notifierd.run.trouble import MOST_SLOW
from notifierd.store.ledger import Ended
from notifierd.store.source import CHUNK, CHUNK_LASTS, FIRST_CHUNK, Chunk, ChunkSize, Claim, Place
from tests.support.memory import Application
from tests.support.samples import DAY, a_renewal, some_offices
from tests.support.scripted_senders import (
    TAKEN,
    Made,
    Member,
    PlainRenderer,
    ScriptedSender,
    ShakyLedger,
    Swallowed,
    Try,
    a_member,
    a_run,
    limited,
    most_at_once,
    spans,
)

SLACK = 1e-6
OFFICES = 3


class Change(StrEnum):
    """What happens to an office, or to one of its members. The second time, it is undone."""

    ADDRESS = "another address"
    MAILS_OFF = "mails off"
    LEAVES = "leaves"
    MOVES = "moves to another office"
    CLOSES = "office closes"
    RENEWED = "deadline renewed"
    NEW_OWNER = "device given away"


@frozen
class Event:
    """One change, at a moment of the run."""

    at: float
    change: Change
    who: int


@frozen
class Version:
    """What the application held from a moment on."""

    since: float
    app: Application


@define
class Town(ShakyLedger):
    """A ledger over an application that changes, and remembers what it was.

    Attributes:
        members: everybody, in the order in which events count them.
        ended: when it was decided how a delivery ends that no call carries, and why.
        again: when an office's facts were read again, and which office's.
    """

    members: Sequence[Member] = ()
    versions: list[Version] = field(factory=list)
    changed: set[tuple[Change, int]] = field(factory=set)
    ended: dict[UUID, tuple[float, str]] = field(factory=dict)
    again: list[tuple[float, UUID]] = field(factory=list)

    async def read_again(self, work: OfficeWork, day: Any, rules: Rules) -> OfficeWork:
        self.again.append((self.clock(), work.id))
        return await super().read_again(work, day, rules)

    async def expire(self, day: date, holder: str, reasons: Mapping[Delivery, str]) -> Ended:
        self.ended |= {delivery.id: (self.clock(), reason) for delivery, reason in reasons.items()}
        return await super().expire(day, holder, reasons)

    def meet(self, change: Change, who: int) -> None:
        """Let *change* happen, or be undone."""
        self.changed ^= {(change, who)}
        self.app = changed(self.versions[0].app, self.members, self.changed)
        self.app.audit_log = self.versions[0].app.audit_log
        self.versions.append(Version(self.clock(), self.app))

    def lately(self, moment: float) -> Iterator[Application]:
        """What the application was at *moment*, and in the MOST_AGE before it."""
        for number, version in enumerate(self.versions):
            until = self.versions[number + 1].since if number + 1 < len(self.versions) else float("inf")
            if version.since <= moment + SLACK and until >= moment - MOST_AGE - SLACK:
                yield version.app


def a_town(members: int = 2, offices: int = OFFICES, **settings: Any) -> Town:
    """A few offices; everybody is due a mail, and a push."""
    app = Application()
    everybody = [
        a_member(app, f"s{o}-{m}", office=f"office {o}", hosts=["push.example"], left=o + 1)
        for o in range(offices)
        for m in range(members)
    ]
    return Town(app, members=everybody, versions=[Version(0.0, app)], **settings)


def changed(base: Application, members: Sequence[Member], changes: set[tuple[Change, int]]) -> Application:
    """*base* after *changes*."""
    app = Application(dict(base.offices), list(base.staff), list(base.alerts), dict(base.devices))
    for change, who in sorted(changes):
        member, other = members[who % len(members)], members[(who + 1) % len(members)]
        match change:
            case Change.ADDRESS:
                _replace(app, member, email=f"new-{member.address}")
            case Change.MAILS_OFF:
                _replace(app, member, email_enabled=False)
            case Change.LEAVES:
                app.staff = [(office, staff) for office, staff in app.staff if staff.id != member.staff.id]
            case Change.MOVES:
                elsewhere = next(office for office in base.offices if office != member.office)
                app.staff = [(elsewhere if s.id == member.staff.id else office, s) for office, s in app.staff]
            case Change.CLOSES:
                app.offices.pop(member.office, None)
            case Change.RENEWED:
                app.alerts = [
                    (o, a_renewal(200, "renewed") if o == member.office else alert) for o, alert in app.alerts
                ]
            case Change.NEW_OWNER:
                for device in member.devices:
                    app.devices[device.id] = evolve(device, staff_id=other.staff.id)
    return app


def _replace(app: Application, member: Member, **changes: Any) -> None:
    app.staff = [(office, evolve(s, **changes) if s.id == member.staff.id else s) for office, s in app.staff]


def said(app: Application, delivery: Delivery) -> str | None:
    """What a call has to carry for *delivery* while the application is *app*; None for nothing."""
    there = delivery.office_id in app.offices
    device = app.devices.get(delivery.device_id) if delivery.device_id else None
    work = OfficeWork(
        delivery.office_id,
        app.offices.get(delivery.office_id),
        (delivery,),
        app.staff_of(delivery.office_id) if there else {},
        tuple(app.alerts_of(delivery.office_id)),
        {device.id: device} if device and device.staff_id == delivery.staff_id else {},
        as_of=0.0,
    )
    notice = notice_for(delivery, work, DAY, Rules())
    if isinstance(notice, Skip):
        return None
    if delivery.channel is Channel.EMAIL:
        mail = PlainRenderer().mail(notice, delivery)
        return f"{delivery.id} {mail.to} {mail.text}"
    assert device
    push = PlainRenderer().push(notice, delivery, device, 0)
    return f"{delivery.id} {device.endpoint} {push.payload.decode()}"


async def told(town: Town, context: RunContext, events: Sequence[Event] = ()) -> None:
    """Run the day to its end, and let *events* happen meanwhile."""

    async def happen() -> None:
        for event in sorted(events, key=lambda event: event.at):
            await trio.sleep_until(event.at)
            town.meet(event.change, event.who)

    with trio.fail_after(86_400):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(happen)
            await run_day(DAY, context)
            nursery.cancel_scope.cancel()


async def at(seconds: float, action: Callable[[], object]) -> None:
    await trio.sleep_until(seconds)
    action()


def check(town: Town, calls: Sequence[Made]) -> None:
    """Hold every call, and every end without one, against what the application was shortly before."""
    for call in calls:
        for key, line in zip(call.deliveries, call.body.decode().split("\n"), strict=True):
            delivery = town.rows[key].delivery
            assert line in {said(app, delivery) for app in town.lately(call.began)}, (call.began, line)
    for key, row in town.rows.items():
        delivery = row.delivery
        assert delivery.state not in OPEN, delivery
        assert delivery.state is State.SENT or delivery.reason
        if key in town.ended:
            when, why = town.ended[key]
            assert delivery.reason == why
            assert None in {said(app, delivery) for app in town.lately(when)}, (when, why)
        else:
            assert delivery.state in (State.SENT, State.UNKNOWN)
        if all(said(version.app, delivery) for version in town.versions) and delivery.doubts == 0:
            assert delivery.state is State.SENT, "who was due all the time is told"


# Everything, in every order ------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.builds(
        Event,
        at=st.one_of(st.floats(0.0, 12.0), st.integers(0, 12).map(float)),
        change=st.sampled_from(list(Change)),
        who=st.integers(0, 2 * OFFICES - 1),
    ),
    min_size=1,
    max_size=6,
)


async def everything_happens(
    events: Sequence[Event], batch: int, keyed: bool, latency: float, parallel: int
) -> tuple[Town, list[Made]]:
    """One mail a second, one push every two. Of the first tries one's answer gets lost, and one is deferred."""
    town = a_town(latency=latency)
    first_tries: dict[str, Outcome | Swallowed] = {
        town.members[1].address: Swallowed(),
        town.members[0].address: Deferred("greylisted", blame=Blame.MESSAGE),
    }

    def script(this: Try) -> Outcome | Swallowed:
        return first_tries.get(this.to, TAKEN) if this.nth == 1 else TAKEN

    email = ScriptedSender(max_batch=batch, honours_keys=keyed, script=script)
    push = ScriptedSender(seconds=2.0)
    context = a_run(town, limited(email, 5, per_second=1.0), limited(push, 1), offices=parallel)
    await told(town, context, events)
    return town, [*email.calls, *push.calls]


@settings(max_examples=300)
@given(
    events=EVENTS,
    batch=st.sampled_from([1, 3]),
    keyed=st.booleans(),
    latency=st.sampled_from([0.0, 0.01, 0.4, 1.5, 2.4]),
    parallel=st.sampled_from([1, 10]),
)
def test_nobody_gets_what_was_no_longer_theirs_5_seconds_before_and_nobody_is_lost(
    events: list[Event], batch: int, keyed: bool, latency: float, parallel: int
):
    """Three offices of two members, and up to six changes and reversals while they are told."""
    run = partial(everything_happens, events, batch, keyed, latency, parallel)
    check(*trio.run(run, clock=MockClock(autojump_threshold=0)))


@pytest.mark.parametrize(
    ("change", "mail", "push"),
    [
        (Change.ADDRESS, "new-s9-0@example.jp", "sent"),
        (Change.MAILS_OFF, "no_longer_due", "sent"),
        (Change.LEAVES, "staff_gone", "staff_gone"),
        (Change.MOVES, "staff_gone", "staff_gone"),
        (Change.CLOSES, "office_gone", "office_gone"),
        (Change.RENEWED, "no_longer_due", "no_longer_due"),
        (Change.NEW_OWNER, "s9-0@example.jp", "device_gone"),
    ],
)
async def test_what_changes_while_a_call_waits_is_what_the_call_goes_by(
    change: Change, mail: str, push: str, autojump_clock
):
    """Ten offices, read at 0 s; one mail and one push a second; the last one's change comes at 3 s, its turn at 9 s."""
    town = a_town(members=1, offices=10)
    email, phone = ScriptedSender(), ScriptedSender()
    context = a_run(town, limited(email, 5, per_second=1.0), limited(phone, 1))
    await told(town, context, [Event(3.0, change, 9)])
    last = town.members[9]
    became = [to for _, key, to in email.accepted if key == last.mail]
    became += ["sent" for _, key, _ in phone.accepted if key == last.push()]
    became += [town.ended[key][1] for key in (last.mail, last.push()) if key in town.ended]
    assert sorted(became) == sorted([mail, push])
    assert len(email.accepted) + len(phone.accepted) + len(town.ended) == 20
    check(town, [*email.calls, *phone.calls])


# The turn ------------------------------------------------------------------------------------------------------------


async def test_a_batch_loses_the_member_who_left_and_goes_on_with_the_others(autojump_clock):
    """A call every 10 s, with all mails of an office; one of the second office's three members leaves at 2 s."""
    town = a_town(members=3, offices=2)
    email = ScriptedSender(max_batch=10)
    gone = town.members[4]
    await told(town, a_run(town, limited(email, 5, per_second=0.1)), [Event(2.0, Change.LEAVES, 4)])
    assert [(call.began, sorted(call.to)) for call in email.calls] == [
        (0.0, ["s0-0@example.jp", "s0-1@example.jp", "s0-2@example.jp"]),
        (pytest.approx(10.0), ["s1-0@example.jp", "s1-2@example.jp"]),
    ]
    assert town.state(gone.mail) == (State.EXPIRED, "staff_gone")
    assert town.ended[gone.mail][0] == pytest.approx(10.0 - AHEAD)


async def test_a_rate_that_is_slower_than_facts_grow_old_is_used_whole(autojump_clock):
    """A call every 10 s: each waits for its turn, has its facts read in time, and begins when it comes."""
    town = a_town(members=1, offices=6)
    email = ScriptedSender()
    await told(town, a_run(town, limited(email, 5, per_second=0.1)))
    assert [call.began for call in email.calls] == [pytest.approx(10.0 * n) for n in range(6)]
    assert town.states() == {State.SENT: 6}
    assert [when for when, _ in town.again] == [pytest.approx(10.0 * n - AHEAD) for n in range(1, 6)]


async def test_a_turn_that_a_call_does_not_use_is_the_next_calls(autojump_clock):
    """A call every 10 s: the second to fourth have nothing to say any more, and the fifth begins at 10 s."""
    town = a_town(members=1, offices=6)
    email = ScriptedSender()
    await told(
        town,
        a_run(town, limited(email, 5, per_second=0.1)),
        [Event(1.0, Change.LEAVES, 1), Event(2.0, Change.MAILS_OFF, 2), Event(3.0, Change.CLOSES, 3)],
    )
    assert [(call.began, call.to[0]) for call in email.calls] == [
        (0.0, "s0-0@example.jp"),
        (pytest.approx(10.0), "s4-0@example.jp"),
        (pytest.approx(20.0), "s5-0@example.jp"),
    ]


async def test_the_calls_of_an_office_share_what_is_read_for_one_of_them(autojump_clock):
    """40 calls of one office, one a second: facts are read when they would be FRESH old, and not for each call."""
    town = a_town(members=40, offices=1)
    email = ScriptedSender()
    await told(town, a_run(town, limited(email, 5, per_second=1.0)))
    assert len(email.calls) == 40
    assert len(town.again) == 39 // int(FRESH)
    check(town, email.calls)


async def test_a_call_for_which_nothing_changed_is_the_same_call(autojump_clock):
    """The answer to the first call gets lost; its repeat waits for the turn behind the calls of nine others."""
    town = a_town(members=1, offices=10)
    first = town.members[0].address
    email = ScriptedSender(
        honours_keys=True, script=lambda this: Swallowed() if this.to == first and this.nth == 1 else TAKEN
    )
    await told(town, a_run(town, limited(email, 5, per_second=0.25)))
    lost, again = (call for call in email.calls if call.to == (first,))
    assert (again.key, again.body) == (lost.key, lost.body)
    assert town.again
    assert len(email.told) == len(set(email.told)) == 10


async def test_a_repeat_that_changes_while_it_waits_falls_under_the_rule_without_keys(autojump_clock):
    """A call every 10 s. The first one's answer gets lost; its repeat would go at 20 s; the office changes at 12 s."""
    town = a_town(members=1, offices=2)
    first = town.members[0]
    email = ScriptedSender(
        honours_keys=True, script=lambda this: Unknown("cut") if this.to == first.address and this.nth == 1 else TAKEN
    )
    await told(town, a_run(town, limited(email, 5, per_second=0.1)), [Event(12.0, Change.ADDRESS, 0)])
    lost, _, anew = email.calls
    assert (lost.to, anew.to) == ((first.address,), (f"new-{first.address}",))
    assert lost.key != anew.key
    assert town.rows[first.mail].delivery.doubts == 1
    assert town.states() == {State.SENT: 2}


async def test_what_now_goes_through_another_destination_waits_for_its_share_of_that_one(autojump_clock):
    """One push at a time to each push service: four of 2 s to one of them, one of 20 s to the other.

    Those whose turn has not come move to the other service at 3 s. The turn of the last is at 6 s; it goes as soon as
    the pass is over, though a mail that is beyond the quota gives the run nothing else to do for 30 s.
    """
    town = a_town(members=1, offices=5)
    phones = [town.members[n].devices[0] for n in range(5)]
    busy = evolve(phones[0], endpoint=f"https://elsewhere.example/{phones[0].id}")
    town.app.devices[busy.id] = busy
    push = ScriptedSender(seconds=lambda to: 20.0 if to == busy.endpoint else 2.0)
    context = a_run(town, ScriptedSender(), limited(push, 5, per_destination=1), email_per_day=4)
    moved: list[str] = []

    def move() -> None:
        called = {to for call in push.calls for to in call.to}
        for phone in phones[1:]:
            if phone.endpoint not in called:
                moved.append(f"https://elsewhere.example/{phone.id}")
                town.app.devices[phone.id] = evolve(phone, endpoint=moved[-1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 3.0, move)
        await told(town, context)
    assert most_at_once(spans([call for call in push.calls if call.destination == "elsewhere.example"])) == 1
    assert set(push.calls[-1].to) < set(moved)
    assert push.calls[-1].began == pytest.approx(20.0, abs=1.0)
    assert town.states(Channel.PUSH) == {State.SENT: 5}


async def test_a_destination_that_closes_while_a_call_sees_to_its_facts_is_left_alone(autojump_clock):
    """A call every 10 s. The first is answered at 9.5 s: the provider refuses us, for 15 s."""
    town = a_town(members=1, offices=3)
    email = ScriptedSender(seconds=9.5, script=lambda this: Blocked("blocked:401") if this.at < 10 else TAKEN)
    await told(town, a_run(town, limited(email, 5, per_second=0.1)))
    assert town.again, "the second was about to begin"
    assert email.began[:2] == [0.0, pytest.approx(9.5 + 15.0, abs=2.0)]
    assert town.states() == {State.SENT: 3}


# A database that is slow, away, or refuses ---------------------------------------------------------------------------


@define
class Slow(Town):
    """A database that takes its time, until it is *quick_from*.

    Attributes:
        reserving: seconds before a reservation is carried out.
        reading: seconds in which the answer to a reading is on its way.
        reading_again: the same, for that of one office.
        refusing: whether it refuses to read an office again.
    """

    quick_from: float = float("inf")
    reserving: float = 0.0
    reading: float = 0.0
    reading_again: float = 0.0
    refusing: bool = False

    async def reserve(self, day: Any, holder: str, reservations: Sequence[Reservation]) -> set[UUID]:
        await self._pass(self.reserving)
        return await super().reserve(day, holder, reservations)

    async def read(self, day: Any, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
        chunk = await super().read(day, after, rules, claim, most)
        await self._pass(self.reading)
        return chunk

    async def read_again(self, work: OfficeWork, day: Any, rules: Rules) -> OfficeWork:
        again = await super().read_again(work, day, rules)
        if self.refusing and self.clock() < self.quick_from:
            raise StatementRefused("database_refused:57014")
        await self._pass(self.reading_again)
        return again

    async def _pass(self, seconds: float) -> None:
        if self.clock() < self.quick_from:
            await trio.sleep(seconds)


def a_slow_town(*, offices: int, **settings: Any) -> Slow:
    """Offices of one member each, over a slow database."""
    town = a_town(members=1, offices=offices)
    return Slow(town.app, members=town.members, versions=town.versions, **settings)


async def test_a_call_that_took_long_to_reserve_goes_if_nothing_changed_and_else_the_next_time(autojump_clock):
    """Reserving takes 6 s. The second one's address changes meanwhile: nothing goes to the old one."""
    town = a_slow_town(offices=3, reserving=6.0)
    email, push = ScriptedSender(), ScriptedSender()
    with capture_logs() as logs:
        await told(town, a_run(town, email, push), [Event(3.0, Change.ADDRESS, 1)])
    assert email.told == ["new-s1-0@example.jp", "s0-0@example.jp", "s2-0@example.jp"]
    assert [call.began for call in email.calls][:2] == [pytest.approx(6.0)] * 2
    assert [call.began for call in push.calls] == [pytest.approx(6.0)] * 3, "however long each is kept"
    assert town.states() == {State.SENT: 6}
    assert [line for line in logs if line["log_level"] in ("warning", "error")] == [], "no trouble of anybody's"
    check(town, [*email.calls, *push.calls])


async def test_an_answer_that_is_old_when_it_comes_lets_no_reserved_call_go(autojump_clock):
    """Reserved at 6 s, read at 6 s, and told so at 12 s; the address changes at 6.5 s. Then the database is quick."""
    town = a_slow_town(offices=1, reserving=6.0, reading_again=6.0, quick_from=7.0)
    email = ScriptedSender()
    await told(town, a_run(town, email), [Event(6.5, Change.ADDRESS, 0)])
    assert email.told == ["new-s0-0@example.jp"]
    check(town, email.calls)


async def test_an_office_that_takes_too_long_to_read_is_named_once_and_its_deliveries_say_why(autojump_clock):
    """Reserving a call takes 6 s, and reading its office again then takes 6 s, too: in each pass, until 120 s."""
    town = a_slow_town(offices=2, reserving=6.0, reading_again=6.0)
    email = ScriptedSender()
    with capture_logs() as logs:
        await told(town, a_run(town, email, window_left=120.0))
    assert email.calls == []
    assert town.reasons() == {(State.EXPIRED, "window_ended (not_begun)"): 2}
    lines = [(line["log_level"], line["what"], line["reason"]) for line in logs if line["log_level"] != "info"]
    assert lines == [("error", "reading", "database_unavailable:timeout")] * 2


async def test_no_more_than_ten_offices_are_named_for_taking_too_long_to_read(autojump_clock):
    town = a_slow_town(offices=30, reserving=6.0, reading_again=6.0)
    with capture_logs() as logs:
        await told(town, a_run(town, ScriptedSender(), window_left=300.0))
    assert town.states() == {State.EXPIRED: 30}
    assert [line["event"] for line in logs if line["log_level"] != "info"] == ["waiting_for_database"] * MOST_SLOW


async def test_an_office_whose_reading_took_long_loses_nobody_who_is_due_again(autojump_clock):
    """Mails are off when the office is read, and on again half a second later; the answer comes after 6 s."""
    town = a_slow_town(offices=2, reading=6.0)
    await town.plan(DAY, Rules(push=False))
    town.meet(Change.MAILS_OFF, 0)
    email = ScriptedSender()
    await told(town, a_run(town, email), [Event(0.5, Change.MAILS_OFF, 0)])
    assert email.told == ["s0-0@example.jp", "s1-0@example.jp"]
    check(town, email.calls)


async def test_facts_that_cannot_be_read_for_a_reserved_call_put_it_off(autojump_clock):
    town = a_slow_town(offices=2, reserving=6.0, refusing=True, quick_from=10.0)
    email = ScriptedSender()
    with capture_logs() as logs:
        await told(town, a_run(town, email))
    troubles = [(line["what"], line["reason"]) for line in logs if line["event"] == "waiting_for_database"]
    assert troubles == [("reading", "database_refused:57014")]
    assert len(email.calls) == 2
    assert town.states() == {State.SENT: 2}


async def test_a_stop_while_a_reserved_call_reads_its_facts_keeps_it_from_being_made(autojump_clock):
    """Reserved at 6 s, read until 8 s; stopped at 7 s, with time for all that is in flight."""
    town = a_slow_town(offices=2, reserving=6.0, reading_again=2.0)
    email = ScriptedSender()
    context = a_run(town, email)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 7.0, lambda: context.stop.set("signal", 30.0))
        await told(town, context)
    assert email.calls == []
    assert town.reasons() == {(State.PLANNED, "not_begun"): 2}


async def test_facts_that_cannot_be_read_put_off_their_call_and_no_other(autojump_clock):
    """One mail a second; the database refuses to read one office's facts until 12 s."""

    class Refusing(Town):
        async def read_again(self, work: OfficeWork, day: Any, rules: Rules) -> OfficeWork:
            if work.id == self.members[7].office and self.clock() < 12.0:
                raise StatementRefused("database_refused:57014")
            return await super().read_again(work, day, rules)

    made = a_town(members=1, offices=10)
    town = Refusing(made.app, members=made.members, versions=made.versions)
    email = ScriptedSender()
    with capture_logs() as logs:
        await told(town, a_run(town, limited(email, 5, per_second=1.0)))
    assert [line["what"] for line in logs if line["event"] == "waiting_for_database"] == ["reading"]
    assert [call.to[0][:2] for call in email.calls] == ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s8", "s9", "s7"]
    assert [call.began for call in email.calls][:9] == [pytest.approx(float(n)) for n in range(9)]
    assert town.states() == {State.SENT: 10}


@pytest.mark.parametrize("reserved", [False, True])
async def test_a_run_that_is_stopped_while_a_call_reads_its_facts_ends_in_time_and_sends_nothing(
    reserved: bool, autojump_clock
):
    """Before its reservation and after it; stopped at 20 s with 3 s of grace, while the database gives no answer."""

    town = a_slow_town(offices=2, reserving=6.0 if reserved else 0.0, reading_again=1000.0)
    email = ScriptedSender()
    context = a_run(town, limited(email, 5) if reserved else limited(email, 5, per_second=0.1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at, 20.0, lambda: context.stop.set("signal", 3.0))
        await told(town, context)
    assert trio.current_time() <= 23.0 + GATHER + SLACK + 6.0 * reserved
    assert len(email.calls) == (0 if reserved else 1)
    left = [row.delivery for row in town.rows.values() if row.delivery.state is not State.SENT]
    assert {(delivery.state, delivery.doubts) for delivery in left} == {(State.PLANNED, 0)}


# Chunks --------------------------------------------------------------------------------------------------------------


async def test_at_full_speed_500_offices_are_read_in_three_chunks_and_none_again(autojump_clock):
    """500 offices of a call each, 125 calls a second: 25 of them, then what begins in 2 s, then the rest."""
    town = Town(some_offices(500, staff=2))
    await told(town, a_run(town, limited(ScriptedSender(max_batch=10, seconds=0.04), 5)))
    assert town.reads == pytest.approx([0.0, 0.16, 2.64])
    assert town.again == []


async def test_a_chunk_is_as_large_as_what_is_begun_while_it_is_fresh(autojump_clock):
    """100 offices: one a second up to 40 s, then 100 a second. Each is begun with facts of CHUNK_LASTS at most."""
    chunks: list[int] = []
    email = ScriptedSender(seconds=lambda _: 1.0 if trio.current_time() < 40 else 0.01)

    class Noting(Town):
        async def read(self, day: Any, after: Place, rules: Rules, claim: Claim, most: int = CHUNK) -> Chunk:
            chunks.append(most)
            return await super().read(day, after, rules, claim, most)

    town = Noting(some_offices(100, staff=1))
    await told(town, a_run(town, email, offices=1))
    assert chunks[:3] == [25, 5, 5]
    assert max(chunks[1:9]) == 5
    assert town.again == [], "no call waited so long that it needed newer facts than its chunk's"
    assert chunks[-1] > 5
    places = sorted((urgency, office) for (_, office), urgency in town.offices.items())
    assert [town.rows[call.deliveries[0]].delivery.office_id for call in email.calls] == [o for _, o in places]
    assert len(email.told) == len(set(email.told)) == 100


def test_a_chunks_size_follows_what_is_begun():
    size = ChunkSize()
    assert size.offices == FIRST_CHUNK
    size.became_old(37)
    assert size.offices == 37
    size.used_up(CHUNK_LASTS * 0.6)
    assert size.offices == 37
    size.used_up(CHUNK_LASTS * 0.4)
    assert size.offices == 46
    size.used_up(CHUNK_LASTS * 0.1)
    assert size.offices == 230
    size.used_up(0.0)
    assert size.offices == CHUNK
    size.became_old(0)
    assert size.offices == 1
