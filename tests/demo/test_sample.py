"""The invented application: the same each time, every case in it, and loaded as the application would have it."""

import base64
import json
from collections import Counter
from datetime import date

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from notifierd.demo.postgres import Cluster
from notifierd.demo.sample import MINIMUM_OFFICES, Sample, load, sample
from notifierd.demo.servers.trouble import ServersConfig
from notifierd.demo.trial import trial_sql
from notifierd.model.address import BadAddress

DAY = date(2026, 11, 24)
URL = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def small() -> Sample:
    """Make the smallest sample there is."""
    return sample(MINIMUM_OFFICES, DAY, URL)


def test_same_arguments_same_sample(small: Sample) -> None:
    """The seed decides everything, keys of devices included."""
    assert sample(MINIMUM_OFFICES, DAY, URL) == small
    assert sample(MINIMUM_OFFICES, DAY, URL, seed=2) != small


def test_too_few_offices_for_all_cases() -> None:
    """Fewer offices than there are roles is refused, in words."""
    with pytest.raises(ValueError, match="5 offices"):
        sample(MINIMUM_OFFICES - 1, DAY, URL)


def test_first_office_by_hand(small: Sample) -> None:
    """Worked out by hand: 11 renewals up to 30 days ahead and 3 missing assessments; 8 renewals up to 10 days."""
    office = small.rows.offices[0]
    mails = {one.address: one for one in small.expected().mails if one.office_id == office.id}
    usual = mails[small.rejected_address]
    assert (len(usual.renewals), len(usual.assessments)) == (11, 3)
    # 21 staff and a double link; without a mail: 2 with email off, 1 deleted, 1 test data.
    linked = [link.staff_id for link in small.rows.links if link.office_id == office.id]
    assert (len(linked), len(set(linked)), len(mails)) == (22, 21, 17)
    assert sorted(Counter(len(mail.renewals) for mail in mails.values()).items()) == [(3, 1), (11, 16)]

    pushes = [one for one in small.expected().pushes if one.office_id == office.id]
    assert {one.assessments for one in pushes} == {3}
    # gone, both, email off and the three odd ones that turn push on have 10 days; the three devices of one have 3.
    assert sorted(Counter(one.renewals for one in pushes).items()) == [(6, 3), (8, 6)]
    assert sum(one.device_id == small.gone_device for one in small.expected().pushes) == 1


def test_trouble_is_where_it_is_said_to_be(small: Sample) -> None:
    """Each troublesome row would be told of were there no trouble, and two offices have nobody to tell."""
    found = small.expected()
    assert found.untold_offices == {small.opted_out_office, small.unstaffed_office}
    assert small.poisoned_office in {one.office_id for one in found.mails}
    assert {small.rejected_address, small.deferred_address} <= {one.address for one in found.mails}
    assert len({one.office_id for one in found.mails if one.staff_id == small.two_office_staff}) == 2
    assert sum(one.staff_id == small.twice_linked_staff for one in found.mails) == 1
    assert sum(link.staff_id == small.twice_linked_staff for link in small.rows.links) == 2


def test_nobody_real_is_addressed() -> None:
    """All addresses are below the domains that RFC 2606 keeps for examples, and each is used once."""
    addresses = [one.email for one in sample(50, DAY, URL).rows.staff]
    assert {address.partition("@")[2] for address in addresses} == {"example.jp", "example.com"}
    assert len(set(addresses)) == len(addresses)


def test_some_offices_have_nothing_due() -> None:
    """Of 50 offices, 42 have mail: 2 have nobody to tell, and each seventh of 45 everyday ones has nothing due."""
    made = sample(50, DAY, URL)
    told = {one.office_id for one in made.expected().mails}
    assert len(told) == 50 - 2 - 45 // 7


def test_devices_can_decrypt(small: Sample) -> None:
    """The key that the push service gets belongs to the key in the subscription."""
    device = small.rows.devices[0]
    scalar = int.from_bytes(base64.urlsafe_b64decode(device.private_key + "="), "big")
    point = base64.urlsafe_b64decode(device.p256dh + "=")
    public = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
    assert ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point) == public
    assert len(base64.urlsafe_b64decode(device.auth + "==")) == 16
    assert device.endpoint == f"{URL}/push/{device.token}"


def test_configuration_of_the_servers_survives_json(small: Sample) -> None:
    """What the servers' process reads is what was meant."""
    config = small.servers(latency_ms=20)
    assert ServersConfig.from_json(config.to_json()) == config
    assert "\n" not in config.to_json()


def test_loaded_as_it_is(cluster: Cluster, database: str, small: Sample) -> None:
    """Every row arrives, with names as awkward and preferences as odd as they were made."""
    load(cluster, database, small)
    counts = {
        "offices": len(small.rows.offices),
        "office_staffs": len(small.rows.links),
        "welfare_recipients": len(small.rows.recipients),
        "support_plan_cycles": len(small.rows.cycles),
        "push_subscriptions": len(small.rows.devices),
        "plan_deliverables": sum(len(one.deliverables) for one in small.rows.cycles),
        "staffs": len(small.rows.staff) + 1,
    }
    for table, count in counts.items():
        assert cluster.psql(f"select count(*) from {table}", database) == f"{count}\n"
    assert cluster.psql("select last_name from welfare_recipients where first_name = '<b>太郎</b> 🌸'", database)
    assert cluster.psql(f"select name from offices where id = '{small.rows.offices[0].id}'", database) == (
        small.rows.offices[0].name + "\n"
    )
    odd = cluster.psql("select jsonb_typeof(notification_preferences), count(*) from staffs group by 1", database)
    assert dict(line.split("|") for line in odd.splitlines()) | {"object": ""} == {
        "object": "",
        "null": "1",
        "string": "1",
        "array": "1",
    }
    kept = cluster.psql("select notification_preferences from staffs where not is_test_data order by email", database)
    meant = [one.preferences for one in sorted(small.rows.staff, key=lambda one: one.email) if not one.test_data]
    assert [json.loads(line) for line in kept.splitlines()] == meant


def test_application_can_go_on_writing(cluster: Cluster, database: str, small: Sample) -> None:
    """A new plan cycle gets a new id of its own after the load."""
    load(cluster, database, small)
    cluster.psql(
        "insert into support_plan_cycles (welfare_recipient_id, office_id, is_latest_cycle, cycle_number, is_test_data)"
        " select welfare_recipient_id, office_id, true, 9, false from support_plan_cycles limit 1",
        database,
    )
    assert int(cluster.psql("select max(id) from support_plan_cycles", database)) == len(small.rows.cycles) + 1


def test_the_sql_of_a_trial_is_an_application_with_one_member_of_staff(cluster: Cluster) -> None:
    """Whatever a valid address has in it."""
    database = "trial_of_the_tests"
    cluster.create_database(database)
    cluster.psql(trial_sql("o'hara@example.jp"), database)
    assert cluster.psql("select email, full_name from staffs", database).strip() == "o'hara@example.jp|試用 花子"
    assert cluster.psql("select count(*) from offices", database).strip() == "1"
    cluster.drop_database(database)


@pytest.mark.parametrize("address", ["", "me", "me@example.jp, you@example.jp", "'; drop table staffs; --"])
def test_a_trial_for_an_address_that_is_none_prints_nothing(address: str) -> None:
    with pytest.raises(BadAddress):
        trial_sql(address)
