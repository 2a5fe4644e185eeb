"""What comes out of the views is bounded where it is read, whatever somebody wrote there."""

from datetime import timedelta
from uuid import UUID

import pytest
from attrs import evolve

from notifierd.config.settings import Settings
from notifierd.messages.render import Renderer
from notifierd.model.office import Notice, OfficeWork
from notifierd.rules.due import Rules, notice_for
from notifierd.store.database import Database, open_database
from notifierd.store.postgres import PostgresLedger
from notifierd.store.source import MOST_DEVICES, START, Claim, PostgresSource
from tests.support import application
from tests.support.memory import Application, MemoryLedger
from tests.support.processes import Place, invent
from tests.support.samples import DAY, a_device, a_renewal, a_staff, an_assessment, an_id

OFFICE = an_id("office")
MEGABYTE = 1_000_000


async def read(db: Database, rules: Rules) -> OfficeWork:
    """Plan the day, and read its only office."""
    await PostgresLedger(db).plan(DAY, rules)
    (work,) = (await PostgresSource(db).read(DAY, START, rules, Claim("me"))).offices
    return work


async def test_no_text_of_a_view_is_longer_than_its_bound(database: str):
    app = Application(offices={OFFICE: "名" * MEGABYTE})
    member = evolve(a_staff("staff", email=f"{'a' * MEGABYTE}@example.jp", push_enabled=True), name="太" * MEGABYTE)
    app.staff.append((OFFICE, member))
    app.alerts.append((OFFICE, evolve(a_renewal(3), recipient_name="佐" * MEGABYTE)))
    device = a_device(a_staff("staff"))
    long = {
        "endpoint": evolve(device, id=an_id("1"), endpoint=f"https://push.example/{'x' * 2048}"),
        "p256dh": evolve(device, id=an_id("2"), p256dh="\x01" * MEGABYTE),
        "auth": evolve(device, id=an_id("3"), auth="A" * 65),
    }
    app.devices = {each.id: each for each in long.values()}
    async with open_database(database) as db:
        await application.create(db)
        await application.replace(db, app)
        work = await read(db, Rules())
    (found,), (alert,) = work.staff.values(), work.alerts
    assert (work.name, found.name, alert.recipient_name) == ("名" * 300, "太" * 300, "佐" * 300)
    assert found.email == "a" * 321, "one more than an address can have, so that it is none"
    assert work.devices == {
        long["endpoint"].id: evolve(long["endpoint"], endpoint=""),
        long["p256dh"].id: evolve(long["p256dh"], p256dh=""),
        long["auth"].id: evolve(long["auth"], auth=""),
    }


@pytest.mark.parametrize("with_age", [True, False])
async def test_pushes_go_to_the_newest_devices_of_a_person(database: str, with_age: bool):
    """Three of 150: by the view's `created_at` where it has one, else by id. The person is named once."""
    app = Application(offices={OFFICE: "Office"})
    crowded, other = (a_staff(name, push_enabled=True, push_days=30) for name in ("crowded", "other"))
    app.staff += [(OFFICE, crowded), (OFFICE, other)]
    app.alerts.append((OFFICE, a_renewal(3)))
    devices = [a_device(crowded, f"device {n}") for n in range(150)]
    app.devices = {device.id: device for device in [*devices, a_device(other, "phone")]}
    rules = Rules(devices_per_person=3)
    newest = sorted((device.id for device in devices), reverse=True)[:3]
    async with open_database(database) as db:
        await application.create(db)
        await application.replace(db, app)
        if with_age:
            ages = {device.id: timedelta(days=n) for n, device in enumerate(devices)}
            newest = [device.id for device in devices[:3]]
            await db.fetch("create table app.ages (id uuid, age interval)")
            insert = "insert into app.ages select * from unnest($1::uuid[], $2::interval[])"
            await db.fetch(insert, list(ages), list(ages.values()))
            await db.fetch(
                "create or replace view notifierd.devices as"
                " select d.*, now() - a.age as created_at from app.devices d left join app.ages a using (id)"
            )
        planned = await PostgresLedger(db).plan(DAY, rules)
        work = await read(db, rules)
        (explained,) = await PostgresSource(db).works_of(crowded.id, DAY)
    assert planned.crowded == {crowded.id: 150}
    assert planned.push == 4
    assert {device.id for device in work.devices.values() if device.staff_id == crowded.id} == set(newest)
    assert list(explained.devices)[:3] == newest
    assert len(explained.devices) == MOST_DEVICES


def test_who_has_too_many_devices_is_named_once_and_costs_nobody_else(place: Place):
    """200 devices of one person, in the log one line; everybody is told."""
    rows = invent(3, staff=2, push_url=place.servers.push_url)
    place.load(rows)
    victim: UUID = rows.devices[0].staff_id
    place.sql(
        "insert into push_subscriptions (staff_id, endpoint, p256dh_key, auth_key)"
        f" select '{victim}', 'https://push.example/' || n, repeat(chr(1), 1000000), 'x' from generate_series(1, 200) n"
    )
    done = place.once(code=1)
    assert done.err.count("devices_left_out") == 1
    assert done.report["email"]["sent"] == done.report["email"]["planned"] == 6
    assert done.report["push"]["failed"] + done.report["push"]["sent"] == done.report["push"]["planned"] < 40


async def test_of_alerts_beyond_those_that_a_mail_lists_only_numbers_are_read(database: str):
    """Of 260 renewals, with many on each day, and 150 assessments, 100 each; all mails and pushes are to the byte the
    same as with all of them, whatever the threshold, whether they are told of what is overdue or not."""
    app = Application(offices={OFFICE: "Office"})
    app.staff = [
        (OFFICE, a_staff(f"within{days}", email_days=days, push_enabled=True, push_days=days))
        for days in (-4, 0, 1, 7, 30)
    ]
    for n in range(260):
        name = ("", "青木", "O'Neil", "🙂", "Ａ")[n % 5]
        app.alerts.append((OFFICE, evolve(a_renewal(n % 41 - 12, f"{name}{n % 3}"), recipient_id=an_id(str(n)))))
    app.alerts += [(OFFICE, evolve(an_assessment(f"a{n % 9}"), recipient_id=an_id(f"a{n}"))) for n in range(150)]
    phones = [a_device(staff) for _, staff in app.staff]
    app.devices = {phone.id: phone for phone in phones}
    renderer = Renderer(Settings())

    def said(work: OfficeWork, rules: Rules) -> dict[UUID, object]:
        texts: dict[UUID, object] = {}
        for delivery in work.deliveries:
            notice = notice_for(delivery, work, DAY, rules)
            assert isinstance(notice, Notice)
            if delivery.device_id:
                texts[delivery.id] = renderer.push(notice, delivery, work.devices[delivery.device_id], 60)
            else:
                texts[delivery.id] = renderer.mail(notice, delivery), renderer.audit(notice)
        return texts

    async with open_database(database) as db:
        await application.create(db)
        await application.replace(db, app)
        for rules in (Rules(), Rules(overdue=False)):
            await db.fetch("delete from notifierd.deliveries")
            work = await read(db, rules)
            again = await PostgresSource(db).read_again(work, DAY, rules)
            memory = MemoryLedger(app)
            await memory.plan(DAY, rules)
            (whole,) = (await memory.read(DAY, START, rules, Claim("me"))).offices
            assert len(whole.alerts) > 380
            assert len(work.alerts) <= 200 + 41 + 1
            assert said(work, rules) == said(again, rules) == said(whole, rules)
