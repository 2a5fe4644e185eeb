"""The rule of who is due stands twice, in SQL and in ``choose``: for random data they are the same."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid5

import pytest
import trio
from attrs import astuple, evolve, field, frozen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notifierd.commands import plan as plans
from notifierd.config.settings import ContentSettings, DatabaseSettings, PushSettings, SafetySettings, Settings
from notifierd.demo.postgres import Cluster
from notifierd.model.counts import Capacity, DayCounts, Planned, Untold
from notifierd.model.delivery import OPEN, Channel, Delivery, State, delivery_id
from notifierd.model.feedback import UNREACHED, MailStatus, Verdict
from notifierd.model.office import Alert, Device, Kind, Notice, OfficeWork, Staff
from notifierd.rules.calendar import WEEKDAYS
from notifierd.rules.due import Rules, channel_decisions, chosen, notice_for
from notifierd.rules.reminders import Reminders
from notifierd.run.day import run_day
from notifierd.store.database import Connection, Database, open_database
from notifierd.store.feedback import Feedback
from notifierd.store.ledger import UNLIMITED, Ledger
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import START, Claim, PostgresSource
from tests.support import application
from tests.support.ledgers import ADD_HOLD
from tests.support.memory import Application, EarlierRun, Hold, MemoryLedger
from tests.support.samples import DAY
from tests.support.scripted_senders import ScriptedSender, a_run

_NAMESPACE = UUID("00000000-0000-4000-8000-00000000abcd")
OFFICES = [uuid5(_NAMESPACE, f"office {n}") for n in range(3)]
STAFF = [uuid5(_NAMESPACE, f"staff {n}") for n in range(3)]
_numbers = count()


@frozen
class World:
    """An application at random, and what it holds that is not of the contract.

    Attributes:
        strange: rows of the alerts' view that tell of nothing: of unknown kinds, or renewals without a date.
        dated: the assessments that have a date all the same, which says nothing.
        states: how deliveries ended, by their place in the order of ids.
        later: devices that are there when the day is planned again.
        room: what the limits leave for mails.
        holds: whose mails are held back.
        told: what a provider tells of the mails that it accepted, by their place in the order of ids.
        earlier: the runs of earlier days.
    """

    app: Application = field(eq=False)
    rules: Rules
    strange: tuple[tuple[UUID, str, date | None], ...] = ()
    dated: tuple[int, ...] = ()
    states: tuple[State, ...] = (State.PLANNED,)
    later: tuple[Device, ...] = ()
    capacity: Capacity = UNLIMITED
    holds: tuple[Hold, ...] = ()
    told: tuple[MailStatus | None, ...] = (None,)
    earlier: tuple[EarlierRun, ...] = ()

    def memory(self) -> MemoryLedger:
        """The ledger in memory before the day is planned."""
        memory = MemoryLedger(self.app, holds=list(self.holds))
        for run in self.earlier:
            memory.remember(run)
        return memory


# Random data ---------------------------------------------------------------------------------------------------------

DAYS_LEFT = st.one_of(
    st.integers(-3, 12), st.sampled_from([-4000, -400, 29, 30, 31, 59, 60, 61, 364, 365, 366, 100_000])
)
THRESHOLDS = st.one_of(st.integers(-1, 12), st.sampled_from([30, 31, 60, 365, 2**31 - 1]))
CAPACITIES = st.builds(Capacity, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9), st.integers(1, 3))
MOSTLY = st.sampled_from([True, True, True, False])
NAMES = st.sampled_from(["", "青木", "O'Neil", '<b>"太字"</b>', "🙂"])


@st.composite
def staff(draw: st.DrawFn) -> tuple[UUID, Staff]:
    """Somebody, of one of the offices, or of one that is not there; the same person may work in several."""
    member = Staff(
        id=draw(st.sampled_from(STAFF)),
        name=draw(NAMES),
        email=draw(st.sampled_from([None, "", " ", "taro@example.jp", "hanako@example.jp", "Jiro@Example.JP"])),
        email_enabled=draw(MOSTLY),
        email_days=draw(THRESHOLDS),
        push_enabled=draw(MOSTLY),
        push_days=draw(THRESHOLDS),
    )
    return draw(st.sampled_from(OFFICES)), member


@st.composite
def alerts(draw: st.DrawFn) -> tuple[UUID, Alert]:
    left = draw(st.none() | DAYS_LEFT)
    kind = Kind.ASSESSMENT if left is None else Kind.RENEWAL
    due_on = None if left is None else DAY + timedelta(days=left)
    number = draw(st.integers(0, 9))
    return draw(st.sampled_from(OFFICES)), Alert(
        UUID(int=number), draw(NAMES), kind, due_on, draw(st.none() | st.integers(1, 2))
    )


@st.composite
def devices(draw: st.DrawFn) -> Device:
    key = uuid5(_NAMESPACE, f"device {next(_numbers)}")
    return Device(key, draw(st.sampled_from(STAFF)), f"https://push.example.net/{key}", "p256dh", "auth")


@st.composite
def holds(draw: st.DrawFn) -> Hold:
    """A hold that is mostly in force, on mails to an address that somebody may have."""
    since = DAY - timedelta(days=draw(st.sampled_from([0, 0, 1, 29, 30, 31, -1])))
    address = draw(st.sampled_from(["taro@example.jp", "hanako@example.jp", "jiro@example.jp", " "]))
    reason = draw(st.sampled_from(["complained", "suppressed"]))
    return Hold(draw(st.sampled_from(STAFF)), address, reason, since, since + timedelta(days=29))


WEEKDAY_SETS = st.frozensets(st.integers(1, 7), max_size=3)
REMINDERS = st.just(Reminders()) | st.builds(
    Reminders, st.frozensets(st.sampled_from([1, 2, 3, 5, 7, 10, 14, 30, 60, 366])), WEEKDAY_SETS, WEEKDAY_SETS
)
RULES = st.builds(
    Rules,
    horizon_days=st.sampled_from([30, 30, 60, 365, 10, 1, 0]),
    overdue=MOSTLY,
    push=MOSTLY,
    only_offices=st.sampled_from([frozenset(), frozenset(), frozenset(OFFICES[:1]), frozenset(OFFICES[1:])]),
    devices_per_person=st.sampled_from([20, 20, 2, 1]),
    reminders=REMINDERS,
)
STRANGE = st.tuples(
    st.sampled_from(OFFICES), st.sampled_from(["renewal", "inspection", "", "Renewal"]), st.none() | DAYS_LEFT
)


@st.composite
def earlier_runs(draw: st.DrawFn) -> EarlierRun:
    """A run of the last weeks, or a day without one, with deliveries that ended in some way."""
    state = draw(st.sampled_from(["completed", "completed", "interrupted", "running", "skipped", "missed"]))
    day = DAY - timedelta(days=draw(st.sampled_from([1, 1, 2, 3, 4, 7, 13, 14, 15])))
    found = draw(st.booleans()) and state not in {"skipped", "missed"}
    deliveries = {}
    for office, someone, device, end in draw(
        st.lists(
            st.tuples(
                st.sampled_from(OFFICES), st.sampled_from(STAFF), st.none() | st.integers(0, 2), st.sampled_from(State)
            ),
            max_size=8 if found else 0,
        )
    ):
        channel = Channel.EMAIL if device is None else Channel.PUSH
        target = None if device is None else uuid5(_NAMESPACE, f"old device {device}")
        key = delivery_id(day, office, someone, channel, target)
        deliveries[key] = Delivery(key, office, someone, channel, target, end)
    return EarlierRun(day, state, tuple(OFFICES) if found else (), tuple(deliveries.values()))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    app = Application()
    app.offices = {office: draw(NAMES) for office in draw(st.lists(st.sampled_from(OFFICES), min_size=1, unique=True))}
    app.staff = draw(st.lists(staff(), min_size=1, max_size=8, unique_by=lambda pair: (pair[0], pair[1].id)))
    app.alerts = draw(st.lists(alerts(), min_size=1, max_size=8))
    app.devices = {device.id: device for device in draw(st.lists(devices(), max_size=6))}
    strange = tuple(
        (office, kind, None if kind == "renewal" or left is None else DAY + timedelta(days=left))
        for office, kind, left in draw(st.lists(STRANGE, max_size=3))
    )
    states = draw(st.lists(st.sampled_from(list(State)), min_size=1, max_size=5))
    dated = draw(st.lists(st.integers(-3, 40), max_size=2))
    later = draw(st.lists(devices(), max_size=3))
    held = draw(st.lists(holds(), max_size=4, unique_by=lambda hold: (hold.staff_id, hold.address)))
    told = draw(st.lists(st.none() | st.sampled_from(MailStatus), min_size=1, max_size=4))
    earlier = draw(st.lists(earlier_runs(), max_size=3, unique_by=lambda run: run.day))
    return World(
        app,
        draw(RULES),
        strange,
        tuple(dated),
        tuple(states),
        tuple(later),
        draw(CAPACITIES),
        tuple(held),
        tuple(told),
        tuple(earlier),
    )


# Both ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dsn(cluster: Cluster) -> Iterator[str]:
    """One database for all examples, with the ledger and an application whose tables are emptied for each."""

    async def create() -> None:
        async with open_database(made) as db:
            await application.create(db)

    made = cluster.create_database("plan_property")
    trio.run(create)
    yield made
    cluster.drop_database("plan_property")


async def load(db: Database, world: World) -> None:
    """Empty the ledger; put *world* into the application's tables, with what is not of the contract."""
    await application.replace(db, world.app)
    assessments = [place for place, (_, alert) in enumerate(world.app.alerts) if alert.kind is Kind.ASSESSMENT]
    dates = [DAY + timedelta(days=left) for left in world.dated[: len(assessments)]]

    async def unit(connection: Connection) -> None:
        tables = ("run_offices", "deliveries", "feedback", "holds", "runs")
        await connection.execute("; ".join(f"delete from notifierd.{table}" for table in tables))
        await connection.executemany(
            ADD_HOLD, [(hold.staff_id, hold.address, hold.reason, hold.since, hold.until) for hold in world.holds]
        )
        await connection.executemany(
            "insert into app.alerts values ($1, $2, 'nobody', $3, $4, 1)",
            [(office, UUID(int=99), kind, due_on) for office, kind, due_on in world.strange],
        )
        await connection.executemany(
            "insert into notifierd.runs (day, state) values ($1, $2)", [(run.day, run.state) for run in world.earlier]
        )
        await connection.executemany(
            "insert into notifierd.run_offices (day, office_id, urgency) values ($1, $2, 0)",
            [(run.day, office) for run in world.earlier for office in run.offices],
        )
        await connection.executemany(
            "insert into notifierd.deliveries (id, day, office_id, staff_id, channel, device_id, state)"
            " values ($1, $2, $3, $4, $5, $6, $7)",
            [
                (d.id, run.day, d.office_id, d.staff_id, d.channel.value, d.device_id, d.state.value)
                for run in world.earlier
                for d in run.deliveries
            ],
        )
        for place, due_on in zip(assessments, dates, strict=False):
            office, alert = world.app.alerts[place]
            await connection.execute(
                "update app.alerts set due_on = $1 where office_id = $2 and recipient_id = $3 and kind = 'assessment'",
                due_on,
                office,
                alert.recipient_id,
            )

    await db.unit(unit)


async def planned(db: Database) -> dict[UUID, Delivery]:
    """The deliveries as they stand in PostgreSQL."""
    rows = await db.fetch(
        "select id, office_id, staff_id, channel, device_id, state from notifierd.deliveries where day = $1", DAY
    )
    return {
        row["id"]: Delivery(
            row["id"],
            row["office_id"],
            row["staff_id"],
            Channel(row["channel"]),
            row["device_id"],
            State(row["state"]),
        )
        for row in rows
    }


async def reasons(db: Database) -> dict[UUID, str]:
    rows = await db.fetch("select id, reason from notifierd.deliveries where reason is not null")
    return {row["id"]: row["reason"] for row in rows}


async def recorded(db: Database) -> tuple[Untold, ...]:
    """The offices that nobody told, as the run's record has them."""
    rows = await db.fetch(
        "select o.office_id, o.alerts, o.overdue from notifierd.runs r,"
        " jsonb_to_recordset(r.untold) as o (office_id uuid, alerts int, overdue int) where r.day = $1",
        DAY,
    )
    return tuple(Untold(**dict(row)) for row in rows)


async def urgencies(db: Database) -> dict[tuple[date, UUID], int]:
    rows = await db.fetch("select day, office_id, urgency from notifierd.run_offices")
    return {(row["day"], row["office_id"]): row["urgency"] for row in rows}


def told(work: OfficeWork, delivery: Delivery, rules: Rules) -> tuple[Alert, ...]:
    """What a delivery's message tells of."""
    return chosen(work.staff[delivery.staff_id], delivery.channel, work.alerts, DAY, rules, work.last_run)


async def would_send(ledger: PostgresLedger, source: PostgresSource, feedback: Feedback, rules: Rules) -> set[UUID]:
    """The deliveries that a run would make now: by the plan, and by what is explained to each staff member."""
    works = await source.works(await ledger.list_due(DAY, rules), DAY, rules)
    planned = {
        delivery.id
        for work in works
        for delivery in work.deliveries
        if isinstance(notice_for(delivery, work, DAY, rules), Notice)
    }
    held = {
        someone: {office: hold.reason for office, hold in (await feedback.held_in(DAY, someone)).items()}
        for someone in STAFF
    }
    explained = [
        decided
        for someone in STAFF
        for work in await source.works_of(someone, DAY)
        for decided in channel_decisions(work.staff[someone], work, DAY, rules, held[someone].get(work.id))
    ]
    targets = [target for decided in explained for target in decided.targets]
    assert all(target.included == (target.reason == "due") for target in targets)
    assert all(
        any(decision.included for decision in decided.decisions) for decided in explained if decided.targets[0].included
    )
    assert {target.delivery.id for target in targets if target.included and target.delivery} == planned
    return planned


async def counted(ledger: Ledger, rules: Rules) -> DayCounts:
    """How the day stands, but for the seconds to the next turn: two clocks."""
    counts = await ledger.counts(DAY, rules)
    return evolve(counts, backlog=evolve(counts.backlog, next_in=None))


async def add(db: Database, devices: Sequence[Device]) -> None:
    """Subscribe *devices* in the application."""

    async def unit(connection: Connection) -> None:
        await connection.copy_records_to_table("devices", schema_name="app", records=map(astuple, devices))

    await db.unit(unit)


async def read_by_both(source: PostgresSource, memory: MemoryLedger, rules: Rules) -> set[UUID]:
    """Read what is due from both, chunk by chunk, and compare; return the deliveries."""
    place, found = START, set()
    while True:
        ours = await source.read(DAY, place, rules, Claim("me"))
        theirs = await evolve(memory, chunk=2).read(DAY, place, rules, Claim("me"))
        assert ours.after == theirs.after
        for work, other in zip(ours.offices, theirs.offices, strict=True):
            assert (work.id, work.name, work.staff) == (other.id, other.name, other.staff)
            assert work.devices == other.devices
            assert work.last_run is not None
            assert other.last_run is not None
            assert work.last_run.day == other.last_run.day
            if rules.reminders.selective:
                assert work.last_run == other.last_run
            assert {d.id for d in work.deliveries} == {d.id for d in other.deliveries}
            for delivery in work.deliveries:
                alerts = told(work, delivery, rules)
                assert alerts == told(other, delivery, rules)
                assert alerts, "who is planned for is told of something"
                found.add(delivery.id)
        if ours.after is None:
            return found
        place = ours.after


async def tell(db: Database, memory: MemoryLedger, told: dict[UUID, MailStatus | None], rules: Rules) -> None:
    """End the run, then let the provider tell of mails; both count the same, and the run's record follows."""
    ledger, feedback = PostgresLedger(db), Feedback(db)
    before = (await counted(ledger, rules)).untold
    await ledger.take_lease(DAY, "me")
    await ledger.finish(DAY, "me", "completed", None, before)
    await feedback.keep("resend", [Verdict(key, status) for key, status in told.items() if status])
    memory.not_reached |= {key for key, status in told.items() if status in UNREACHED}
    after = await counted(ledger, rules)
    assert after == await counted(memory, rules)
    new = {office.office_id for office in after.untold} - {office.office_id for office in before}
    for _ in range(2):
        assert {office.office_id for office in await feedback.recount(DAY, rules)} == new
    assert await recorded(db) == after.untold


async def plan_in_steps(ledger: Ledger, rules: Rules, capacity: Capacity) -> Planned:
    """Plan the day step by step; return what all steps planned."""
    plan = await ledger.plan(DAY, rules, capacity)
    while plan.later:
        plan = plan.followed_by(await ledger.plan_next(DAY, rules, capacity.without(plan)))
    return plan


async def hold_together(world: World, dsn: str) -> None:
    app, rules = world.app, world.rules
    memory = world.memory()
    async with open_database(dsn, pool_size=1) as db:
        ledger, source, feedback = PostgresLedger(db), PostgresSource(db, 2), Feedback(db)
        await load(db, world)

        # The plan, delivery by delivery, with the ids and the order of offices.
        held = {mail.id: reason for mail in memory.due(DAY, rules) if (reason := memory.held(mail, DAY))}
        due = {
            delivery.id: evolve(delivery, state=State.FAILED) if delivery.id in held else delivery
            for delivery in memory.due(DAY, rules)
        }
        due_counts = await ledger.count_due(DAY, rules, world.capacity)
        assert await would_send(ledger, source, feedback, rules) == set(due) - set(held)
        plan = await ledger.plan(DAY, rules, world.capacity)
        assert await memory.plan(DAY, rules, world.capacity) == plan
        assert due_counts.excess == plan.excess
        assert await planned(db) == due
        assert await reasons(db) == held
        assert await urgencies(db) == memory.offices
        assert (plan.held, due_counts.email.failed) == (len(held), len(held))
        assert due_counts.untold == memory.would_be_untold(DAY, rules)
        channels = Counter(delivery.channel for delivery in due.values())
        found = (due_counts.email.planned, due_counts.push.planned, due_counts.offices)
        offices = {delivery.office_id for delivery in due.values()}
        assert found == (channels[Channel.EMAIL], channels[Channel.PUSH], len(offices))

        # In steps, the same is written, and the same counted.
        await db.fetch("delete from notifierd.deliveries where day = $1", DAY)
        await db.fetch("delete from notifierd.run_offices where day = $1", DAY)
        assert await plan_in_steps(PostgresLedger(db, plan_step=1), rules, world.capacity) == plan
        assert await planned(db) == due
        assert await urgencies(db) == memory.offices

        # What is read for them, alert by alert.
        assert await read_by_both(source, memory, rules) == set(due) - set(held)

        # Planning again changes nothing.
        assert await would_send(ledger, source, feedback, rules) == set(due) - set(held)
        plan = evolve(plan, held=0)
        assert await ledger.plan(DAY, rules, world.capacity) == await memory.plan(DAY, rules, world.capacity) == plan
        assert await planned(db) == due
        assert await urgencies(db) == memory.offices
        assert await counted(ledger, rules) == await counted(memory, rules)

        # However the deliveries ended, both count the same, and the same alerts as untold.
        ends = {key: world.states[place % len(world.states)] for place, key in enumerate(sorted(due))}
        for key, state in ends.items():
            memory.rows[key].delivery = evolve(memory.rows[key].delivery, state=state, reason=state.value)
        await db.fetch(
            "update notifierd.deliveries d set state = e.state, reason = e.state, provider = 'resend'"
            " from unnest($1::uuid[], $2::text[]) as e (id, state) where e.id = d.id",
            list(ends),
            [state.value for state in ends.values()],
        )
        assert await counted(ledger, rules) == await counted(memory, rules)

        # Whatever a provider tells of those that it accepted, also after the run has ended.
        mails = [key for key in sorted(due) if due[key].channel is Channel.EMAIL and ends[key] is State.SENT]
        told = {key: world.told[place % len(world.told)] for place, key in enumerate(mails)}
        await tell(db, memory, told, rules)

        # Planned once more with new devices: nobody who was pushed to is pushed to again.
        app.devices |= {device.id: device for device in world.later}
        await add(db, world.later)
        foreseen = await would_send(ledger, source, feedback, rules)
        assert await ledger.plan(DAY, rules, world.capacity) == await memory.plan(DAY, rules, world.capacity)
        states = {key: row.delivery.state for key, row in memory.rows.items() if row.day == DAY}
        assert {key: d.state for key, d in (await planned(db)).items()} == states
        assert foreseen == {key for key, state in states.items() if state in OPEN}
        assert await counted(ledger, rules) == await counted(memory, rules)


async def run_as_planned(world: World, dsn: str) -> None:
    """Plan, have some deliveries end, and then see whether a run sends what the command says, and nothing else."""
    rules = world.rules
    async with open_database(dsn, pool_size=1) as db:
        ledger, source, feedback = PostgresLedger(db), PostgresSource(db, 2), Feedback(db)
        await load(db, world)
        await ledger.plan(DAY, rules)
        for place, key in enumerate(sorted(await planned(db))):
            state = world.states[place % len(world.states)]
            end = State.PLANNED if state is State.SENDING else state
            await db.fetch("update notifierd.deliveries set state = $2 where id = $1", key, end.value)
        if world.later:  # somebody's preferences are not what they were, either
            world.app.devices |= {device.id: device for device in world.later}
            world.app.staff = [(office, evolve(someone, email_days=0)) for office, someone in world.app.staff]
        await application.replace(db, world.app)
        ended = {key for key, delivery in (await planned(db)).items() if delivery.state not in OPEN}

        plan = await plans.plan(settings_of(rules, dsn), DAY)
        foreseen = await would_send(ledger, source, feedback, rules)
        email, push = ScriptedSender(name="mail", seconds=0.0), ScriptedSender(seconds=0.0)
        context = a_run(MemoryLedger(world.app), email, push if rules.push else None, rules=rules)
        context = evolve(context, ledger=ledger, source=source)
        assert (await run_day(DAY, context)).state == "completed"

        assert Counter(key for sender in (email, push) for _, key, _ in sender.accepted) == Counter(foreseen)
        after = await planned(db)
        sent = {(d.office_id, d.staff_id, d.channel) for key, d in after.items() if key in foreseen}
        assert {(o.office_id, s.staff_id, c) for o in plan.offices for s in o.staff for c in channels(s)} == sent
        assert sum(o.mails + o.pushes for o in plan.offices) == len(foreseen)
        lost = {key: delivery for key, delivery in after.items() if key not in foreseen | ended}
        assert {delivery.state for delivery in lost.values()} <= {State.EXPIRED}
        assert Counter((e.office_id, e.staff_id, e.channel) for e in plan.expiring) == Counter(
            (delivery.office_id, delivery.staff_id, delivery.channel) for delivery in lost.values()
        )
        rows = await db.fetch(
            "select office_id, target_id, (details ->> 'alerts')::int from app.audit_log"
            " where target_type = 'email_notification'"
        )
        assert {(o.office_id, s.staff_id, s.email.alerts) for o in plan.offices for s in o.staff if s.email} == {
            tuple(row) for row in rows
        }


def channels(someone: plans.PlannedStaff) -> list[Channel]:
    told = {Channel.EMAIL: someone.email, Channel.PUSH: someone.push}
    return [channel for channel, alerts in told.items() if alerts]


def settings_of(rules: Rules, dsn: str) -> Settings:
    """A configuration with these *rules*."""
    made = Settings(
        database=DatabaseSettings(dsn=dsn),
        content=ContentSettings(
            horizon_days=rules.horizon_days,
            overdue=rules.overdue,
            renewal_days=tuple(rules.reminders.renewal_days),
            overdue_weekdays=tuple(WEEKDAYS[number - 1] for number in rules.reminders.overdue_weekdays),
            assessment_weekdays=tuple(WEEKDAYS[number - 1] for number in rules.reminders.assessment_weekdays),
        ),
        push=PushSettings(enabled=rules.push, devices_per_person=rules.devices_per_person),
        safety=SafetySettings(only_offices=tuple(rules.only_offices)),
    )
    assert Rules.of(made) == rules
    return made


def a_world(*lefts: int, **changes: Any) -> World:
    """One office with a missing assessment, or with renewals so many days away; two staff members want to know.

    One of them wants mails within 5 days, and pushes within 10; the other mails within 30 days.
    """
    app = Application()
    app.offices = {OFFICES[0]: "青木"}
    app.staff = [
        (OFFICES[0], Staff(STAFF[0], "太郎", "taro@example.jp", True, 5, True, 10)),
        (OFFICES[0], Staff(STAFF[1], "花子", "hanako@example.jp", True, 30, False, 30)),
    ]
    renewals = [Alert(UUID(int=n), "次郎", Kind.RENEWAL, DAY + timedelta(days=left), 1) for n, left in enumerate(lefts)]
    assessment = Alert(UUID(int=99), "三郎", Kind.ASSESSMENT, None, 1)
    app.alerts = [(OFFICES[0], alert) for alert in renewals or [assessment]]
    phone, tablet = (
        Device(uuid5(_NAMESPACE, name), STAFF[0], f"https://push.example.net/{name}", "p256dh", "auth")
        for name in ("phone", "tablet")
    )
    app.devices = {phone.id: phone}
    return evolve(World(app, Rules(), states=(State.SENT,), later=(tablet,)), **changes)


HELD = Hold(STAFF[0], "taro@example.jp", "complained", DAY, DAY)

SELECTIVE = Rules(reminders=Reminders(frozenset({14, 7, 3}), frozenset({4}), frozenset({1})))
FAILED = EarlierRun(  # a Friday
    DAY - timedelta(days=4),
    "interrupted",
    (OFFICES[0],),
    (Delivery(UUID(int=1), OFFICES[0], STAFF[0], Channel.EMAIL, None, State.FAILED),),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
@example(a_world())
@example(a_world(3))
@example(a_world(7, 20))
@example(a_world(3, 20, states=(State.SENT, State.FAILED)))
@example(a_world(3, 20, states=(State.FAILED, State.SENT, State.SENT)))
@example(a_world(-1, 40, rules=Rules(push=False)))
@example(a_world(0, rules=Rules(overdue=False)))
@example(a_world(strange=((OFFICES[0], "inspection", DAY), (OFFICES[0], "renewal", None)), states=(State.FAILED,)))
@example(a_world(3, 7, capacity=Capacity(mails=1, calls=1, batch=1)))
@example(a_world(dated=(-9,), rules=Rules(overdue=False)))
@example(a_world(3, holds=(HELD,)))
@example(a_world(3, told=(MailStatus.BOUNCED, MailStatus.COMPLAINED)))
@example(a_world(7, 20, holds=(HELD,), told=(MailStatus.SUPPRESSED,)))
@example(a_world(rules=SELECTIVE))  # DAY is a Tuesday: assessments were told the day before
@example(a_world(rules=SELECTIVE, earlier=(evolve(FAILED, deliveries=()),)))
@example(a_world(4, rules=SELECTIVE, states=(State.FAILED,)))
@example(a_world(4, rules=SELECTIVE, earlier=(FAILED,), states=(State.FAILED,)))
@example(a_world(5, 20, rules=SELECTIVE, states=(State.FAILED,)))
@example(a_world(-1, rules=SELECTIVE, earlier=(FAILED,)))
def test_the_plan_that_sql_writes_is_what_choose_decides(dsn: str, world: World) -> None:
    trio.run(hold_together, world, dsn)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
@example(a_world(3))
@example(a_world(7, 20, states=(State.SENT, State.PLANNED), later=()))
@example(a_world(20, states=(State.PLANNED,)))
@example(a_world(-1, states=(State.PLANNED, State.FAILED)))
@example(a_world(3, states=(State.PLANNED,), holds=(HELD,)))
def test_a_run_sends_what_the_plan_says_delivery_for_delivery(dsn: str, world: World) -> None:
    trio.run(run_as_planned, world, dsn)
