"""Whose mails are held back stands twice, in SQL and here: for random histories they are the same."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from uuid import UUID, uuid5

import pytest
import trio
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifierd.demo.postgres import Cluster
from notifierd.model.delivery import Channel, delivery_id
from notifierd.model.feedback import MailStatus, Verdict
from notifierd.model.office import Staff
from notifierd.store.database import Connection, Database, open_database
from notifierd.store.feedback import Feedback, Held
from tests.support import application
from tests.support.memory import Application
from tests.support.samples import DAY

_NAMESPACE = UUID("00000000-0000-4000-8000-00000000abcd")
OFFICES = [uuid5(_NAMESPACE, f"office {n}") for n in range(2)]
STAFF = [uuid5(_NAMESPACE, f"staff {n}") for n in range(4)]
ADDRESSES = ["taro@example.jp", "Taro@Example.JP", "jiro@example.jp", "hanako@other.example", "no address", "", None]
NAMED = ["", "", "", "taro@example.jp", "JIRO@example.jp"]
CODES = ["", "5.1.1", "5.7.1"]
OFTEN = [MailStatus.SUPPRESSED] * 4 + [MailStatus.COMPLAINED]


@frozen
class Mail:
    """A mail that a provider accepted (or not), and what it told of it, in order."""

    office: UUID
    staff: UUID
    sent: bool
    verdicts: tuple[tuple[MailStatus, str, str], ...]


@frozen
class History:
    """Some days, in order, each with its mails and with those whose hold is lifted after it."""

    staff: tuple[tuple[UUID, UUID, str | None], ...] = field(repr=True)
    days: tuple[tuple[date, tuple[Mail, ...], frozenset[UUID]], ...]


MAILS = st.builds(
    Mail,
    st.sampled_from(OFFICES),
    st.sampled_from(STAFF),
    st.sampled_from([True, True, True, False]),
    st.lists(
        st.tuples(st.sampled_from(list(MailStatus) + OFTEN), st.sampled_from(CODES), st.sampled_from(NAMED)),
        max_size=2,
    ).map(tuple),
)
PLACES = st.tuples(st.sampled_from(OFFICES), st.sampled_from(STAFF), st.sampled_from(ADDRESSES))


@st.composite
def histories(draw: st.DrawFn) -> History:
    back = sorted(draw(st.sets(st.sampled_from([0, 1, 2, 3, 29, 30, 31, 60]), min_size=1, max_size=5)), reverse=True)
    staff = draw(st.lists(PLACES, min_size=2, max_size=8, unique_by=lambda row: row[:2]))
    lifted = st.sampled_from([frozenset(), frozenset(), frozenset(STAFF[:1]), frozenset(STAFF[1:])])
    mails = st.lists(MAILS, max_size=8, unique_by=lambda mail: (mail.office, mail.staff)).map(tuple)
    return History(tuple(staff), tuple((DAY - timedelta(days=n), draw(mails), draw(lifted)) for n in back))


# The rule, in Python -------------------------------------------------------------------------------------------------


@frozen
class Report:
    """The worst that was told of one mail."""

    day: date
    office: UUID
    staff: UUID
    status: MailStatus
    code: str
    address: str | None


def worst(day: date, mail: Mail, present: str | None) -> Report | None:
    if not mail.sent or not mail.verdicts:
        return None
    (status, code, named), *others = mail.verdicts
    address = named or present
    for other, its_code, its_name in others:
        if other.severity > status.severity:
            status, code, address = other, its_code, its_name or present or address
    return Report(day, mail.office, mail.staff, status, code, None if address is None else address.lower())


def grounds(
    reports: list[Report], mails: tuple[Mail, ...], present: dict[tuple[UUID, UUID], str | None]
) -> set[Report]:
    """The reports of one day that count."""
    domains: dict[str, list[MailStatus | None]] = defaultdict(list)
    told = {(report.office, report.staff): report.status for report in reports}
    for mail in mails:
        address = present.get((mail.office, mail.staff))
        if mail.sent and address is not None:
            domains[domain(address)].append(told.get((mail.office, mail.staff)))

    def troubled(address: str) -> bool:
        statuses = [status for status in domains[domain(address)] if status is not MailStatus.SUPPRESSED]
        return 5 * sum(status in (MailStatus.BOUNCED, MailStatus.REFUSED) for status in statuses) > len(statuses)

    return {
        report
        for report in reports
        if report.status in (MailStatus.SUPPRESSED, MailStatus.COMPLAINED)
        and not report.code.startswith("5.7.")
        and (address := present.get((report.office, report.staff))) is not None
        and not troubled(address)
    }


def domain(address: str) -> str:
    return address.rpartition("@")[2].lower()


def expected(history: History, on: date) -> set[Held]:
    present = {(office, staff): address for office, staff, address in history.staff}
    last = history.days[-1][0]
    counting: set[Report] = set()
    valid: set[Report] = set()  # seen after the last lift
    mailed: dict[UUID, list[tuple[date, UUID]]] = defaultdict(list)
    for day, mails, lifted in history.days:
        found = [report for mail in mails if (report := worst(day, mail, present.get((mail.office, mail.staff))))]
        new = grounds(found, mails, present)
        counting |= new
        valid = {report for report in valid | new if report.staff not in lifted}
        for mail in mails:
            if mail.sent and (mail.office, mail.staff) in present:
                mailed[mail.staff].append((day, mail.office))
    valid = {report for report in valid if report.address is not None}

    holds: dict[tuple[UUID, str], tuple[date, str]] = {}
    for staff, address in {(report.staff, str(report.address)) for report in valid}:
        mine = [report for report in valid if (report.staff, report.address) == (staff, address)]
        options = [(r.day, "complained") for r in mine if r.status is MailStatus.COMPLAINED]
        days = sorted({r.day for r in mine if r.status is MailStatus.SUPPRESSED}, reverse=True)
        suppressed = {
            (r.day, r.office)
            for r in counting
            if (r.staff, r.address, r.status) == (staff, address, MailStatus.SUPPRESSED)
        }
        if len(days) > 1 and {mail for mail in mailed[staff] if mail[0] >= days[1]} <= suppressed:
            options.append((days[0], "suppressed"))
        options = [(day, reason) for day, reason in options if day + timedelta(days=30) >= last]
        if options:
            holds[staff, address] = min(options, key=lambda option: (-option[0].toordinal(), option[1]))
    return {
        Held(staff, reason, day + timedelta(days=1), day + timedelta(days=30))  # type: ignore[arg-type]
        for (staff, address), (day, reason) in holds.items()
        if day < on <= day + timedelta(days=30)
        and address in {(email or "").lower() for (_, one), email in present.items() if one == staff}
    }


# In PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dsn(cluster: Cluster) -> Iterator[str]:
    async def create() -> None:
        async with open_database(made) as db:
            await application.create(db)

    made = cluster.create_database("hold_property")
    trio.run(create)
    yield made
    cluster.drop_database("hold_property")


async def load(db: Database, history: History) -> None:
    app = Application(offices=dict.fromkeys(OFFICES, "Office"))
    app.staff = [(office, Staff(staff, "", email, True, 30, False, 10)) for office, staff, email in history.staff]
    await application.replace(db, app)

    async def unit(connection: Connection) -> None:
        tables = ("runs", "deliveries", "feedback", "holds", "lifts")
        await connection.execute("; ".join(f"delete from notifierd.{table}" for table in tables))

    await db.unit(unit)


async def live(db: Database, history: History) -> None:
    """Run each day, keep what is told of it, hold back; and lift."""
    feedback = Feedback(db)
    for day, mails, lifted in history.days:
        await db.fetch("insert into notifierd.runs (day, state) values ($1, 'completed')", day)
        verdicts: list[list[Verdict]] = [[], []]
        for mail in mails:
            key = delivery_id(day, mail.office, mail.staff, Channel.EMAIL)
            await db.fetch(
                "insert into notifierd.deliveries (id, day, office_id, staff_id, channel, state, provider)"
                " values ($1, $2, $3, $4, 'email', $5, 'resend')",
                key,
                day,
                mail.office,
                mail.staff,
                "sent" if mail.sent else "failed",
            )
            for place, (status, code, named) in enumerate(mail.verdicts):
                verdicts[place].append(Verdict(key, status, code, named))
        for lot in verdicts:
            await feedback.keep("resend", lot)
            await feedback.hold_again(day)
        for staff in lifted:
            await feedback.lift(staff)


async def hold_together(history: History, dsn: str) -> None:
    async with open_database(dsn, pool_size=1) as db:
        await load(db, history)
        await live(db, history)
        last = history.days[-1][0]
        await Feedback(db).hold_again(last)
        for number in (0, 1, 2, 27, 29, 30, 31):
            on = last + timedelta(days=number)
            assert set(await Feedback(db).held(on)) == expected(history, on), number


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_who_is_held_back_is_who_the_rule_says(dsn: str, history: History) -> None:
    trio.run(hold_together, history, dsn)
