"""What the ledger tells of the days, in PostgreSQL."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from attrs import evolve, frozen

from notifierd.model.counts import ChannelCounts, Tallies, Untold
from notifierd.model.delivery import Channel, State, delivery_id
from notifierd.rules.cluster.grants import NOTHING, ClusterLimits, Grant
from notifierd.rules.cluster.membership import Terms, Use
from notifierd.rules.due import Rules
from notifierd.store.database import Database, open_database
from notifierd.store.history import (
    Day,
    FailureFilter,
    Open,
    Overview,
    ReasonCount,
    TroubledOffice,
    UntoldOffice,
    UntoldTotal,
)
from notifierd.store.postgres import PostgresLedger
from notifierd.store.sql import feedback, history, members
from tests.support import application
from tests.support.memory import Application
from tests.support.samples import DAY, a_renewal, an_id

ME = "me"
YESTERDAY, TOMORROW = DAY - timedelta(days=1), DAY + timedelta(days=1)
NORTH, SOUTH, WEST = sorted(an_id(name) for name in ("north", "south", "west"))
NAMES = {NORTH: "North", SOUTH: "South", WEST: "West"}


@frozen
class Archive:
    """A ledger, and who looks at it."""

    db: Database
    ledger: PostgresLedger
    overview: Overview

    async def add(self, office: UUID, state: str, *, day: date = DAY, reason: str | None = None, **more: Any) -> UUID:
        """Put a delivery into the ledger; its id."""
        channel, staff = more.pop("channel", "email"), more.pop("staff", uuid4())
        device = uuid4() if channel == "push" else None
        key = delivery_id(day, office, staff, Channel(channel), device)
        row = {"id": key, "day": day, "office_id": office, "staff_id": staff, "channel": channel, "device_id": device}
        row |= {"state": state, "reason": reason, **more}
        names, values = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await self.db.fetch(f"insert into notifierd.deliveries ({names}) values ({values})", *row.values())
        return key

    async def run(self, day: date, *states: str, untold: Sequence[Untold] = ()) -> None:
        """A run of *day* for NORTH, whose mails came to these *states*."""
        await self.ledger.take_lease(day, ME)
        for state in states:
            await self.add(NORTH, state, day=day)
        await self.ledger.finish(day, ME, "completed", None, untold)


@pytest.fixture
async def archive(database: str) -> AsyncIterator[Archive]:
    async with open_database(database) as db, open_database(database, read_only=True) as watching:
        await application.create(db)
        await application.replace(db, Application(offices=dict(NAMES)))
        yield Archive(db, PostgresLedger(db), Overview(watching))


# Days ----------------------------------------------------------------------------------------------------------------


async def test_nothing_is_told_of_a_ledger_without_runs(archive: Archive) -> None:
    assert await archive.overview.days(DAY) == ()
    assert await archive.overview.day(DAY) is None
    assert await archive.overview.open() == ()
    assert await archive.overview.untold(DAY) == ()
    assert await archive.overview.office(DAY, NORTH) == ()


async def test_the_days_come_the_newest_first_and_no_more_than_are_asked_for(archive: Archive) -> None:
    days = [DAY - timedelta(days=n) for n in range(5)]
    await archive.ledger.record(dict.fromkeys([*days, TOMORROW], ("missed", "not_running")))
    assert [day.day for day in await archive.overview.days(DAY, 3)] == days[:3]
    assert [day.day for day in await archive.overview.days(days[3])] == days[3:]
    assert [day.day for day in await archive.overview.days(DAY, first=days[1])] == days[:2]
    (missed,) = await archive.overview.days(DAY, 1)
    assert (missed.state, missed.reason, missed.offices, missed.untold) == ("missed", "not_running", 0, None)
    assert missed.email == missed.push == ChannelCounts()


async def test_a_day_is_counted_by_channel_and_state_while_it_goes_on(archive: Archive) -> None:
    await archive.ledger.take_lease(DAY, ME)
    for state in ("sent", "sent", "failed", "unknown", "expired", "planned", "sending"):
        await archive.add(NORTH, state)
    for state in ("sent", "gone"):
        await archive.add(NORTH, state, channel="push")
    await archive.db.fetch("insert into notifierd.run_offices values ($1, $2, 0, 'failed', 'x')", DAY, NORTH)
    await archive.db.fetch("insert into notifierd.run_offices values ($1, $2, 0)", DAY, SOUTH)
    day = await archive.overview.day(DAY)
    assert day
    assert (day.state, day.holder, day.finished_at, day.untold) == ("running", ME, None, None)
    assert (day.offices, day.offices_failed) == (2, 1)
    assert day.email == ChannelCounts(planned=7, sent=2, failed=1, unknown=1, expired=1, open=2)
    assert day.push == ChannelCounts(planned=2, sent=1, gone=1)


async def test_a_lease_that_ran_out_has_no_holder(archive: Archive) -> None:
    await archive.ledger.take_lease(DAY, ME)
    await archive.db.fetch("update notifierd.runs set lease_until = now() - interval '1 second'")
    day = await archive.overview.day(DAY)
    assert day
    assert (day.state, day.holder) == ("running", None)


async def test_what_a_run_came_to_is_kept_with_it_and_counted_no_more(archive: Archive) -> None:
    await archive.run(DAY, "sent", "failed", untold=[Untold(SOUTH, 3, 1), Untold(WEST, 2, 0)])
    before = await archive.overview.day(DAY)
    assert before
    assert before.untold == UntoldTotal(alerts=5, overdue=1, offices=2)
    assert before.email == ChannelCounts(planned=2, sent=1, failed=1)
    await archive.db.fetch("delete from notifierd.deliveries")
    assert await archive.overview.day(DAY) == before


async def test_a_run_that_goes_on_again_is_counted_anew(archive: Archive) -> None:
    await archive.run(DAY, "sent", untold=[Untold(SOUTH, 3, 1)])
    await archive.ledger.take_lease(DAY, ME)
    await archive.add(NORTH, "planned")
    day = await archive.overview.day(DAY)
    assert day
    assert (day.email, day.untold) == (ChannelCounts(planned=2, sent=1, open=1), None)
    await archive.ledger.finish(DAY, ME, "interrupted", "signal")
    day = await archive.overview.day(DAY)
    assert day
    assert day.untold == UntoldTotal(0, 0, 0)


async def test_a_day_that_was_settled_after_its_run_is_counted_as_it_is_now(archive: Archive) -> None:
    """Its run was stopped, nobody came back, and the next day's run closed it: what went untold then still stands."""
    await archive.ledger.take_lease(YESTERDAY, ME)
    await archive.add(NORTH, "planned", day=YESTERDAY)
    await archive.ledger.finish(YESTERDAY, ME, "interrupted", "signal", [Untold(NORTH, 1, 1)])
    assert await archive.ledger.close_earlier(DAY) == {(Channel.EMAIL, State.EXPIRED): 1}
    day = await archive.overview.day(YESTERDAY)
    assert day
    assert (day.state, day.reason) == ("interrupted", "never_resumed (signal)")
    assert day.email == ChannelCounts(planned=1, expired=1)
    assert day.untold == UntoldTotal(1, 1, 1)
    assert await archive.overview.open() == ()
    assert await archive.ledger.close_earlier(DAY) == {}


async def test_the_counts_of_days_that_nobody_works_on_are_kept_once_they_are_counted(archive: Archive) -> None:
    """Of six days, those whose run was cut and never resumed."""
    days = [DAY - timedelta(days=n) for n in range(6)]
    today, done, active, lost, missed, cut = days
    await archive.run(done, "sent")
    for day in (active, lost, cut, today):
        await archive.ledger.take_lease(day, ME)
        await archive.add(NORTH, "sent", day=day)
        await archive.add(NORTH, "expired", day=day, channel="push")
    await archive.ledger.give_back(cut, ME, "signal")
    await archive.ledger.give_back(today, ME, "signal")
    await archive.ledger.record({missed: ("missed", "not_running")})
    await archive.db.fetch("update notifierd.runs set lease_until = now() - interval '1 s' where day = $1", lost)
    before = await archive.overview.days(today)
    assert await archive.overview.uncounted(today) == 2
    assert await archive.overview.uncounted(today, 5) == 1, "of so many days only one"
    assert [await archive.ledger.keep_counts(today) for _ in range(3)] == [lost, cut, None]
    assert await archive.overview.uncounted(today) == 0
    assert await archive.overview.days(today) == before
    await archive.db.fetch("delete from notifierd.deliveries where day = any ($1)", [lost, cut, active])
    after = {day.day: day for day in await archive.overview.days(today)}
    kept = {day.day: day for day in before}
    assert (after[lost], after[cut]) == (kept[lost], kept[cut])
    assert after[active].email == ChannelCounts(), "a run is active: that day is counted at each look"


async def test_the_last_run_is_the_last_day_that_was_neither_skipped_nor_missed(archive: Archive) -> None:
    assert await archive.overview.last_run(DAY) is None
    await archive.run(YESTERDAY - timedelta(days=1), "sent")
    await archive.ledger.record({YESTERDAY: ("missed", "not_running"), DAY: ("skipped", "sunday")})
    assert await archive.overview.last_run(DAY) == YESTERDAY - timedelta(days=1)


# A day ---------------------------------------------------------------------------------------------------------------


async def a_bad_day(archive: Archive) -> None:
    await archive.ledger.take_lease(DAY, ME)
    for office, state, reason, channel in (
        (NORTH, "failed", "rejected:422", "email"),
        (NORTH, "failed", "rejected:422", "email"),
        (NORTH, "unknown", "timeout", "email"),
        (NORTH, "sent", None, "email"),
        (SOUTH, "failed", "rejected:422", "email"),
        (SOUTH, "expired", "window_ended", "push"),
        (WEST, "gone", "gone:410", "push"),
    ):
        await archive.add(office, state, reason=reason, channel=channel)
    await archive.add(NORTH, "failed", day=YESTERDAY, reason="rejected:400")


async def test_reasons_stand_once_the_most_frequent_first(archive: Archive) -> None:
    await a_bad_day(archive)
    rejected = ReasonCount(Channel.EMAIL, State.FAILED, "rejected:422", deliveries=3, offices=2)
    timeout = ReasonCount(Channel.EMAIL, State.UNKNOWN, "timeout", 1, 1)
    expired = ReasonCount(Channel.PUSH, State.EXPIRED, "window_ended", 1, 1)
    assert await archive.overview.reasons(DAY) == (rejected, timeout, expired)
    assert await archive.overview.reasons(DAY, limit=1) == (rejected,)
    assert await archive.overview.reasons(DAY, FailureFilter(office_id=NORTH)) == (
        evolve(rejected, deliveries=2, offices=1),
        timeout,
    )


async def test_failures_come_in_pages_and_can_be_narrowed_down(archive: Archive) -> None:
    await a_bad_day(archive)
    every = await archive.overview.failures(DAY)
    assert [(line.office_name, line.state) for line in every].count(("North", State.FAILED)) == 2
    assert [line.office_id for line in every] == [NORTH, NORTH, NORTH, SOUTH, SOUTH]
    first = await archive.overview.failures(DAY, limit=2)
    second = await archive.overview.failures(DAY, after=first[-1], limit=2)
    third = await archive.overview.failures(DAY, after=second[-1], limit=2)
    assert first + second + third == every
    for chosen, number in (
        (FailureFilter(channel=Channel.PUSH), 1),
        (FailureFilter(state=State.FAILED), 3),
        (FailureFilter(reason="timeout"), 1),
        (FailureFilter(office_id=SOUTH), 2),
        (FailureFilter(office_id=SOUTH, channel=Channel.EMAIL, state=State.EXPIRED), 0),
    ):
        assert len(await archive.overview.failures(DAY, chosen)) == number, chosen


async def test_an_office_that_is_no_more_has_no_name(archive: Archive) -> None:
    await a_bad_day(archive)
    await application.replace(archive.db, Application(offices={SOUTH: "South"}))
    assert {line.office_name for line in await archive.overview.failures(DAY)} == {None, "South"}
    assert await archive.overview.office_name(NORTH) is None
    assert await archive.overview.office_name(SOUTH) == "South"


async def test_offices_in_trouble_come_with_the_most_failures_first(archive: Archive) -> None:
    await a_bad_day(archive)
    await archive.db.fetch(
        "insert into notifierd.run_offices values ($1, $2, 0, 'failed', 'office_error:X')", DAY, SOUTH
    )
    north = TroubledOffice(NORTH, "North", failed=2, unknown=1, expired=0, error=None)
    south = TroubledOffice(SOUTH, "South", failed=1, unknown=0, expired=1, error="office_error:X")
    assert await archive.overview.troubled_offices(DAY) == (north, south)
    assert await archive.overview.troubled_offices(DAY, 1) == (north,)


async def test_who_was_not_told_is_named_the_most_overdue_first(archive: Archive) -> None:
    """From the run's own reckoning, through the ledger, to the page."""
    app = Application(offices=dict(NAMES))
    for office, lefts in ((NORTH, (20,)), (SOUTH, (-3, -2)), (WEST, (-1, 5, 9))):
        app.alerts += [(office, a_renewal(left, f"{office} {left}")) for left in lefts]
    await application.replace(archive.db, app)
    counts = await archive.ledger.counts(DAY, Rules())
    await archive.run(DAY, untold=counts.untold)
    south, west = UntoldOffice(SOUTH, "South", 2, 2), UntoldOffice(WEST, "West", 3, 1)
    assert await archive.overview.untold(DAY) == (south, west, UntoldOffice(NORTH, "North", 1, 0))
    assert await archive.overview.untold(DAY, 2) == (south, west)


# While a day goes on -------------------------------------------------------------------------------------------------


async def test_while_a_day_goes_on_its_numbers_are_those_that_the_leader_kept(archive: Archive) -> None:
    """What came since is not counted, until the leader counts again, or dies, or the run ends."""
    await archive.ledger.take_lease(DAY, ME)
    for state in ("sent", "sent", "planned", "sending"):
        await archive.add(NORTH, state)
    for office in (NORTH, SOUTH):
        await archive.add(office, "failed", reason="rejected:422")
    await archive.db.fetch("insert into notifierd.run_offices values ($1, $2, 0, 'done')", DAY, NORTH)
    await archive.db.fetch("insert into notifierd.run_offices values ($1, $2, 0)", DAY, SOUTH)
    assert await archive.ledger.keep_interim(DAY, ME) == 1

    async def seen() -> tuple[Day | None, Sequence[Open], Sequence[ReasonCount]]:
        overview = archive.overview
        return await overview.day(DAY), await overview.open(), await overview.reasons(DAY)

    kept = day, opened, reasons = await seen()
    assert day
    assert (day.email, day.offices, day.offices_done) == (ChannelCounts(6, sent=2, failed=2, open=2), 2, 1)
    assert opened == (Open(DAY, Channel.EMAIL, planned=1, sending=1, waiting=0, next_turn=None),)
    rejected = ReasonCount(Channel.EMAIL, State.FAILED, "rejected:422", deliveries=2, offices=2)
    assert reasons == (rejected,)
    await archive.add(WEST, "failed", reason="timeout")
    assert await seen() == kept
    assert await archive.overview.reasons(DAY, FailureFilter(state=State.UNKNOWN)) == ()
    assert [one.reason for one in await archive.overview.reasons(DAY, FailureFilter(office_id=WEST))] == ["timeout"]
    await archive.ledger.keep_interim(DAY, ME)
    assert [one.reason for one in (await seen())[2]] == ["rejected:422", "timeout"]
    await archive.add(WEST, "expired", reason="x")
    await archive.db.fetch("update notifierd.run_members set until = now()")
    await archive.db.fetch("update notifierd.runs set lease_until = now()")
    assert [one.reason for one in (await seen())[2]] == ["rejected:422", "x", "timeout"], "nobody works on the day"
    await archive.ledger.take_lease(DAY, ME)
    assert len((await seen())[2]) == 3, "this run was not counted yet"


async def test_nobody_who_looks_reads_the_rows_of_a_day_that_goes_on(archive: Archive) -> None:
    await archive.run(YESTERDAY, "sent")
    await archive.ledger.take_lease(DAY, ME)
    for _ in range(3):
        await archive.add(NORTH, "sent", provider="resend")
    await archive.ledger.keep_interim(DAY, ME)
    nothing = (None, None, None, None, 10)
    for statement, arguments in (
        (history.DAYS, (YESTERDAY, DAY, 30)),
        (history.OPEN, ()),
        (history.REASONS, (DAY, *nothing)),
        (feedback.DAYS, (DAY, 1)),
        (members.AT_WORK, ()),
    ):
        assert await reads(archive.db, statement, *arguments) == set(), statement
    assert await reads(archive.db, "select count(*) from notifierd.deliveries") == {"deliveries"}


async def reads(db: Database, statement: str, *arguments: object) -> set[str]:
    """Which of the tables with rows for each delivery or office *statement* reads, beyond a first row."""
    ((plan,),) = await db.fetch(f"explain (analyze, timing off, format json) {statement}", *arguments)

    def tables(node: dict[str, Any]) -> set[str]:
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        own = {node["Relation Name"]} if rows * node["Actual Loops"] > 1 and "Relation Name" in node else set()
        return own.union(*map(tables, node.get("Plans", ())))

    return tables(json.loads(plan)[0]["Plan"]) & {"deliveries", "run_offices"}


async def test_who_works_on_a_day_is_listed_with_what_they_told_last(archive: Archive) -> None:
    shared = Terms(ClusterLimits(email=5, push=20), shares=True, host="web1", version="0.1.0", config_hash="x")
    await archive.ledger.take_lease(DAY, "web1:1:a", shared)
    await archive.ledger.take_lease(DAY, "web2:2:b", evolve(shared, host="web2"))
    done = Tallies({(Channel.EMAIL, State.SENT): 7, (Channel.PUSH, State.GONE): 2}, 3, 4, 1.5)
    for asked, name in ((1, "web1:1:a"), (1, "web2:2:b"), (2, "web1:1:a")):
        holding = Grant(3, 10, 5) if name == "web1:1:a" else NOTHING
        await archive.ledger.renew_lease(DAY, name, Use(asked, holding, shared.limits, tallies=done))
    first, second = await archive.overview.members()
    assert (first.name, first.host, first.version, first.leads, first.day) == ("web1:1:a", "web1", "0.1.0", True, DAY)
    assert (second.name, second.leads, first.done) == ("web2:2:b", False, done)
    assert (first.email, first.push) == (3, 10)
    assert first.joined_at < second.joined_at < second.renewed_at < first.renewed_at
    assert first.as_json()["settled"] == {"email": 7, "push": 2}
    await archive.ledger.leave(DAY, "web2:2:b")
    assert [one.name for one in await archive.overview.members()] == ["web1:1:a"]
    await archive.ledger.finish(DAY, "web1:1:a", "completed", None)
    assert await archive.overview.members() == ()


# An office, and what is open -----------------------------------------------------------------------------------------


async def test_an_offices_deliveries_of_a_day(archive: Archive) -> None:
    await a_bad_day(archive)
    someone = an_id("someone")
    key = await archive.add(WEST, "sent", staff=someone, provider="resend", provider_message_id="re_1", attempts=2)
    await archive.db.fetch("update notifierd.deliveries set try = 3 where id = $1", key)
    mail, push = await archive.overview.office(DAY, WEST)
    assert (mail.id, mail.staff_id, mail.state, mail.tries, mail.attempts) == (key, someone, State.SENT, 3, 2)
    assert (mail.provider, mail.provider_message_id, mail.device_id) == ("resend", "re_1", None)
    assert (push.channel, push.state, push.reason) == (Channel.PUSH, State.GONE, "gone:410")
    assert len(await archive.overview.office(DAY, WEST, limit=1)) == 1


async def test_an_offices_days(archive: Archive) -> None:
    await archive.run(YESTERDAY, "sent", "sent")
    await archive.run(DAY, "failed")
    await archive.ledger.record({TOMORROW: ("missed", "not_running")})
    today, yesterday = await archive.overview.office_days(NORTH, TOMORROW)
    assert (today.day, today.email) == (DAY, ChannelCounts(planned=1, failed=1))
    assert (yesterday.day, yesterday.email) == (YESTERDAY, ChannelCounts(planned=2, sent=2))
    assert await archive.overview.office_days(NORTH, TOMORROW, limit=1) == ()
    assert await archive.overview.office_days(SOUTH, TOMORROW) == ()


async def test_what_is_open_is_told_by_day_and_channel_with_the_next_turn(archive: Archive) -> None:
    await archive.ledger.take_lease(DAY, ME)
    soon, later = "now() + interval '1 minute'", "now() + interval '1 hour'"
    for state in ("planned", "planned", "sending", "sent"):
        await archive.add(NORTH, state)
    await archive.add(NORTH, "planned", channel="push")
    await archive.db.fetch(f"update notifierd.deliveries set try_until = {soon} where state = 'sending'")
    key = await archive.add(SOUTH, "planned")
    await archive.db.fetch(f"update notifierd.deliveries set not_before = {later} where id = $1", key)
    ((turn,),) = await archive.db.fetch("select try_until from notifierd.deliveries where state = 'sending'")
    assert await archive.overview.open() == (
        Open(DAY, Channel.EMAIL, planned=3, sending=1, waiting=2, next_turn=turn),
        Open(DAY, Channel.PUSH, planned=1, sending=0, waiting=0, next_turn=None),
    )
