"""What changes while a run goes on, for real: a process of its own, PostgreSQL, HTTP, and changes made by SQL."""

from collections.abc import Mapping
from datetime import timedelta

from attrs import evolve

from notifierd.demo.application import Rows
from notifierd.demo.servers.trouble import MailConfig, PushConfig, PushDevice, ServersConfig
from tests.support.processes import API_KEY, DAY, DOMAIN, Place, an_id, ended, invent, until

FIRST = 12
"""Offices that come first, one a second: what changes meanwhile is older than 5 s when the others' turns come."""

CHANGES: Mapping[str, tuple[str, str, str]] = {
    "another address": (
        "update staffs set email = 'new-{name}@{domain}' where id = '{staff}'",
        "sent, new-{name}@{domain}",
        "sent",
    ),
    "mails off": (
        "update staffs set notification_preferences['email_notification'] = 'false' where id = '{staff}'",
        "expired, no_longer_due",
        "sent",
    ),
    "leaves": (
        "update staffs set deleted_at = now() where id = '{staff}'",
        "expired, staff_gone",
        "expired, staff_gone",
    ),
    "moves": (
        "update office_staffs set office_id = '{other_office}' where staff_id = '{staff}'",
        "expired, staff_gone",
        "expired, staff_gone",
    ),
    "office closes": (
        "update offices set deleted_at = now() where id = '{office}'",
        "expired, office_gone",
        "expired, office_gone",
    ),
    "renewed": (
        "update support_plan_cycles set next_renewal_deadline = '2027-11-24' where office_id = '{office}'",
        "expired, no_longer_due",
        "expired, no_longer_due",
    ),
    "device given away": (
        "update push_subscriptions set staff_id = '{other_staff}' where staff_id = '{staff}'",
        "sent, {name}@{domain}",
        "expired, device_gone",
    ),
    "nothing": ("select 1", "sent, {name}@{domain}", "sent"),
}
"""What happens to a member of an office, as SQL; how their mail ends, and to whom it goes; how their push ends."""


def an_application(push_url: str) -> Rows:
    """FIRST offices whose deadlines are the most urgent, and one for each change; a member and a phone for each."""
    rows = invent(FIRST + len(CHANGES), staff=1, push_url=push_url)
    cycles = tuple(
        evolve(cycle, deadline=DAY - timedelta(days=30 if number < FIRST else 3), deliverables=("assessment_sheet",))
        for number, cycle in enumerate(rows.cycles)
    )
    return evolve(rows, cycles=cycles)


def named(number: int) -> dict[str, str]:
    """What a change may name, of the office of that number."""
    return {
        "name": f"o{number}s0",
        "domain": DOMAIN,
        "staff": str(an_id(f"o{number}s0")),
        "office": str(an_id(f"o{number}")),
        "other_staff": str(an_id("o0s0")),
        "other_office": str(an_id("o0")),
    }


def test_what_changed_more_than_5_seconds_before_a_call_is_what_the_call_goes_by(place: Place):
    """One mail and one push a second, one connection to the database; all changes come when the first mail is out."""
    rows = an_application(place.servers.push_url)
    place.load(rows)
    devices = tuple(PushDevice(str(d.id), d.token, d.private_key, d.auth) for d in rows.devices)
    mail = MailConfig(api_key=API_KEY, keep_eml=False)
    place.servers.configure(ServersConfig(mail, PushConfig(latency_ms=1000.0, devices=devices)))
    limits = {"email_per_second": 1.0, "push": 1, "offices": len(rows.offices)}  # all are begun, and wait
    place.configure(database={"pool_size": 1}, limits=limits)
    who = {change: named(FIRST + number) for number, change in enumerate(CHANGES)}
    with place.running_once() as process:
        until(lambda: bool(place.mails()), "the first mail")
        place.sql(";".join(sql.format(**who[change]) for change, (sql, _, _) in CHANGES.items()))
        assert len(place.mails()) < FIRST - 5, "the changes came too late to tell anything"
        report = ended(process).report
    mailed = {mail.delivery_id: mail.to[0] for mail in place.mails()}
    assert len(mailed) == len(place.mails())

    def became(change: str, channel: str) -> str:
        found = place.sql(
            "select id, state, coalesce(reason, '') from notifierd.deliveries"
            f" where office_id = '{who[change]['office']}' and channel = '{channel}'"
        )
        key, state, reason = found.split("|")
        return ", ".join(filter(None, (state, reason, mailed.get(key))))

    found = {change: (became(change, "email"), became(change, "push")) for change in CHANGES}
    assert found == {change: (m.format(**who[change]), p) for change, (_, m, p) in CHANGES.items()}
    assert report["email"]["sent"] == FIRST + 3
    assert report["push"]["sent"] == len(place.pushes()) == FIRST + 3
    assert {push.device_id for push in place.pushes()}.isdisjoint(
        str(device.id) for device in rows.devices if str(device.staff_id) == who["device given away"]["staff"]
    )
