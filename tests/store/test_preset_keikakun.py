"""The views for keikakun over the application's own tables: its README to the letter, and odd data survived."""

import re
from collections.abc import AsyncIterator
from datetime import date
from uuid import UUID, uuid4

import pytest

from notifierd.store.database import Connection, open_database
from notifierd.store.schema import init
from tests.support.application import OwnPath

DEFAULTS = (True, 30, False, 10)


class Application:
    """The application's rows, made as it makes them: every value that has no default is given."""

    def __init__(self, db: OwnPath) -> None:
        self.db = db
        self._author: UUID | None = None

    async def staff(
        self,
        *offices: UUID,
        name: str = "山田 太郎",
        preferences: str | None = None,
        deleted: bool = False,
        test: bool = False,
    ) -> UUID:
        staff_id = uuid4()
        await self.db.fetch(
            """
            insert into staffs (id, email, hashed_password, full_name, role, is_email_verified, is_mfa_enabled,
                is_mfa_verified_by_user, mfa_backup_codes_used, failed_password_attempts, is_locked, is_deleted,
                deleted_at, is_test_data)
            values ($1, $1::uuid || '@example.jp', '', $2, 'employee', true, false, false, 0, 0, false, $3::bool,
                case when $3 then now() end, $4)
            """,
            staff_id,
            name,
            deleted,
            test,
        )
        if preferences is not None:
            await self.db.fetch(
                "update staffs set notification_preferences = $2::text::jsonb where id = $1", staff_id, preferences
            )
        for office in offices:
            await self.link(office, staff_id)
        return staff_id

    async def link(self, office: UUID, staff: UUID) -> None:
        await self.db.fetch(
            "insert into office_staffs (staff_id, office_id, is_primary, is_test_data) values ($1, $2, true, false)",
            staff,
            office,
        )

    async def office(self, name: str = "第一事業所", *, deleted: bool = False, test: bool = False) -> UUID:
        self._author = self._author or await self.staff()
        rows = await self.db.fetch(
            """
            insert into offices (name, is_group, type, created_by, last_modified_by, is_deleted, deleted_at,
                is_test_data)
            values ($1, false, 'type_B_office', $2, $2, $3::bool, case when $3 then now() end, $4) returning id
            """,
            name,
            self._author,
            deleted,
            test,
        )
        return UUID(str(rows[0]["id"]))

    async def recipient(self, *, test: bool = False) -> UUID:
        recipient_id = uuid4()
        await self.db.fetch(
            "insert into welfare_recipients values ($1, '花子', '佐藤', '', '', '1990-01-01', 'female', $2)",
            recipient_id,
            test,
        )
        return recipient_id

    async def cycle(
        self, office: UUID, recipient: UUID, deadline: str | None, *, latest: bool = True, number: int = 1
    ) -> int:
        rows = await self.db.fetch(
            """
            insert into support_plan_cycles (welfare_recipient_id, office_id, next_renewal_deadline, is_latest_cycle,
                cycle_number, is_test_data)
            values ($1, $2, $3::text::date, $4, $5, false) returning id
            """,
            recipient,
            office,
            deadline,
            latest,
            number,
        )
        return int(rows[0]["id"])

    async def deliverable(self, cycle: int, kind: str) -> None:
        assert self._author is not None
        await self.db.fetch(
            """
            insert into plan_deliverables (plan_cycle_id, deliverable_type, file_path, original_filename, uploaded_by,
                is_test_data)
            values ($1, $2::text::deliverabletype, '', '', $3, false)
            """,
            cycle,
            kind,
            self._author,
        )


@pytest.fixture
async def app(database: str) -> AsyncIterator[Application]:
    async with open_database(database) as db:
        await init(db, "keikakun")
        yield Application(OwnPath(db))


async def alerts(app: Application) -> list[tuple[str, date | None, int]]:
    rows = await app.db.fetch("select kind, due_on, cycle from notifierd.alerts order by cycle, kind")
    return [(row["kind"], row["due_on"], row["cycle"]) for row in rows]


async def preferences(app: Application, staff: UUID) -> tuple[bool, int, bool, int]:
    (row,) = await app.db.fetch(
        "select email_enabled, email_days, push_enabled, push_days from notifierd.staff where id = $1", staff
    )
    return (row["email_enabled"], row["email_days"], row["push_enabled"], row["push_days"])


async def test_offices_are_those_neither_deleted_nor_for_tests(app: Application) -> None:
    kept = await app.office("残る")
    await app.office(deleted=True)
    await app.office(test=True)
    rows = await app.db.fetch("select id, name from notifierd.offices")
    assert [tuple(row) for row in rows] == [(kept, "残る")]


async def test_staff_are_those_neither_deleted_nor_for_tests(app: Application) -> None:
    office = await app.office()
    kept = await app.staff(office, name="残る 人")
    await app.staff(office, deleted=True)
    await app.staff(office, test=True)
    await app.staff()  # of no office
    rows = await app.db.fetch("select office_id, id, name, email from notifierd.staff")
    assert [tuple(row) for row in rows] == [(office, kept, "残る 人", f"{kept}@example.jp")]


async def test_staff_without_address_are_left_out(app: Application) -> None:
    """The table forbids null today; the old batch asked all the same."""
    await app.db.fetch("alter table staffs alter column email drop not null")
    staff = await app.staff(await app.office())
    await app.db.fetch("update staffs set email = null where id = $1", staff)
    assert await app.db.fetch("select from notifierd.staff") == []


async def test_one_row_for_each_office_and_staff_member(app: Application) -> None:
    """Linked three times to one office and once to another: two rows."""
    first, second = await app.office("一"), await app.office("二")
    await app.staff(first, first, second, first)
    rows = await app.db.fetch("select office_id from notifierd.staff")
    assert sorted(row["office_id"] for row in rows) == sorted([first, second])


async def test_preferences_as_they_were_chosen(app: Application) -> None:
    chosen = '{"email_notification": false, "system_notification": true, "email_threshold_days": 7, '
    chosen += '"push_threshold_days": 0}'
    staff = await app.staff(await app.office(), preferences=chosen)
    assert await preferences(app, staff) == (False, 7, True, 0)


async def outcome(app: Application, written: list[str]) -> dict[str, tuple[bool, int, bool, int]]:
    """What the view makes of each jsonb in *written*."""
    office = await app.office()
    return {odd: await preferences(app, await app.staff(office, preferences=odd)) for odd in written}


async def test_preferences_of_another_shape_are_the_defaults(app: Application) -> None:
    """A jsonb that is empty, null, an array, a scalar: no key to be found in it."""
    shapes = ["{}", "null", "[]", '["email_notification", {"email_threshold_days": 5}]', "5", "true", '"x"', '{"a": 1}']
    assert await outcome(app, shapes) == dict.fromkeys(shapes, DEFAULTS)


async def test_odd_days_are_the_defaults(app: Application) -> None:
    """Null, text, NaN as text, fractions, negative, huge beyond any integer: none is a number of days."""
    odd = ["null", '"15"', '"NaN"', '"Infinity"', "true", "[15]", '{"days": 15}', "15.5", "-1", "3651", "1e400"]
    odd += ["-1e400", "1e-400", "9" * 400, '""']
    written = [f'{{"email_threshold_days": {value}, "push_threshold_days": {value}}}' for value in odd]
    assert await outcome(app, written) == dict.fromkeys(written, DEFAULTS)


async def test_whole_days_count_however_they_are_written(app: Application) -> None:
    days = {"0": 0, "1": 1, "15.0": 15, "1.5e1": 15, "-0": 0, "3650": 3650}
    written = {f'{{"email_threshold_days": {value}, "push_threshold_days": {value}}}': n for value, n in days.items()}
    assert await outcome(app, list(written)) == {value: (True, n, False, n) for value, n in written.items()}


async def test_odd_switches_are_the_defaults(app: Application) -> None:
    odd = ["null", '"false"', '"true"', "0", "1", "[]", "{}"]
    written = [f'{{"email_notification": {value}, "system_notification": {value}}}' for value in odd]
    assert await outcome(app, written) == dict.fromkeys(written, DEFAULTS)


async def test_one_odd_member_ends_nobody_elses_plan(app: Application) -> None:
    """All oddities in one office: the view gives a row for each, in one statement."""
    office = await app.office()
    for odd in ("null", "[]", '{"email_threshold_days": "x"}', '{"push_threshold_days": 1e999}', '{"a": 1}'):
        await app.staff(office, preferences=odd)
    rows = await app.db.fetch("select * from notifierd.staff where office_id = $1", office)
    assert len(rows) == 5


async def test_alerts_of_a_cycle(app: Application) -> None:
    """A renewal for its deadline, an assessment for the missing sheet; both with the recipient's name, family first."""
    office, recipient = await app.office(), await app.recipient()
    await app.cycle(office, recipient, "2026-12-01", number=3)
    rows = await app.db.fetch("select * from notifierd.alerts order by kind")
    assert [tuple(row) for row in rows] == [
        (office, recipient, "佐藤 花子", "assessment", None, 3),
        (office, recipient, "佐藤 花子", "renewal", date(2026, 12, 1), 3),
    ]


async def test_alerts_come_from_latest_cycles(app: Application) -> None:
    office, recipient = await app.office(), await app.recipient()
    await app.cycle(office, recipient, "2026-06-01", latest=False, number=1)
    await app.cycle(office, recipient, "2026-12-01", number=2)
    assert await alerts(app) == [("assessment", None, 2), ("renewal", date(2026, 12, 1), 2)]


async def test_no_alerts_for_test_recipients(app: Application) -> None:
    await app.cycle(await app.office(), await app.recipient(test=True), "2026-12-01")
    assert await alerts(app) == []


async def test_only_an_assessment_sheet_ends_the_assessment_alert(app: Application) -> None:
    office, recipient = await app.office(), await app.recipient()
    with_other, with_sheet = [await app.cycle(office, recipient, None, number=number) for number in (1, 2)]
    await app.deliverable(with_other, "draft_plan_pdf")
    await app.deliverable(with_sheet, "monitoring_report_pdf")
    for _ in range(2):
        await app.deliverable(with_sheet, "assessment_sheet")
    assert await alerts(app) == [("assessment", None, 1)]


async def test_no_deadline_no_renewal(app: Application) -> None:
    await app.cycle(await app.office(), await app.recipient(), None)
    assert await alerts(app) == [("assessment", None, 1)]


async def test_deadlines_beyond_all_calendars(app: Application) -> None:
    """A year mistyped is still told, and days can be counted from it."""
    first, last = date(1, 1, 1), date(9999, 12, 31)
    beyond = {"infinity": last, "-infinity": first, "0044-03-15 BC": first, "20261-12-01": last}
    office, recipient = await app.office(), await app.recipient()
    for number, deadline in enumerate(beyond):
        await app.cycle(office, recipient, deadline, number=number)
    rows = await app.db.fetch(
        """
        select due_on, due_on - date '2026-11-24' as days from notifierd.alerts where kind = 'renewal' order by cycle
        """
    )
    today = date(2026, 11, 24)
    assert [tuple(row) for row in rows] == [(due_on, (due_on - today).days) for due_on in beyond.values()]


async def test_devices_are_the_subscriptions(app: Application) -> None:
    """Read under our names, and deleted for good."""
    staff = await app.staff()
    for n in range(2):
        await app.db.fetch(
            "insert into push_subscriptions (staff_id, endpoint, p256dh_key, auth_key) values ($1, $2, 'p', 'a')",
            staff,
            f"https://push.example/{n}",
        )
    rows = await app.db.fetch("select staff_id, endpoint, p256dh, auth from notifierd.devices order by endpoint")
    assert [tuple(row) for row in rows] == [(staff, f"https://push.example/{n}", "p", "a") for n in range(2)]
    await app.db.fetch("delete from notifierd.devices where endpoint = 'https://push.example/0'")
    rows = await app.db.fetch("select endpoint from push_subscriptions")
    assert [row["endpoint"] for row in rows] == ["https://push.example/1"]


async def test_audit_rows_are_as_the_application_writes_them(app: Application) -> None:
    office, staff = await app.office(), await app.staff()
    await app.db.fetch(
        """
        insert into notifierd.audit_log (action, target_type, target_id, office_id, details)
        values ('deadline_notification_sent', 'email_notification', $1, $2, '{"renewal_count": 2}')
        """,
        staff,
        office,
    )
    (row,) = await app.db.fetch("select * from audit_logs")
    assert {name: value for name, value in row.items() if value is not None and name not in {"id", "timestamp"}} == {
        "actor_role": "system",
        "action": "deadline_notification_sent",
        "target_type": "email_notification",
        "target_id": staff,
        "office_id": office,
        "details": '{"renewal_count": 2}',
        "is_test_data": False,
    }


MANY = """
insert into offices (id, name, is_group, type, created_by, last_modified_by, is_deleted, is_test_data)
select gen_random_uuid(), 'office', false, 'type_B_office', id, id, false, false
from staffs, generate_series(1, 2000);
insert into office_staffs (staff_id, office_id, is_primary, is_test_data)
select s.id, o.id, true, false from staffs s, offices o, generate_series(1, 5);
insert into support_plan_cycles (welfare_recipient_id, office_id, next_renewal_deadline, is_latest_cycle, cycle_number,
    is_test_data)
select r.id, o.id, '2026-12-01', n = 1, n, false from welfare_recipients r, offices o, generate_series(1, 5) n;
create index on office_staffs (office_id, staff_id);
analyze;
"""


async def test_offices_asked_for_are_looked_up_by_index(app: Application) -> None:
    """``office_id = any (...)`` reaches the tables through the views: of staff, and both branches of alerts.

    The application has the indexes that ``notifierd check`` advises.
    """
    await app.staff()
    await app.recipient()

    async def load(connection: Connection) -> None:
        await connection.execute(MANY)

    await app.db.unit(load)
    for view, times in (("staff", 1), ("alerts", 2)):
        statement = f"explain (format json) select * from notifierd.{view} where office_id = any ($1::uuid[])"
        (row,) = await app.db.fetch(statement, [uuid4(), uuid4()])
        assert len(re.findall(r'"Index Cond": "\(+office_id = ANY \(', row[0])) == times, row[0]
