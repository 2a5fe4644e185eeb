"""Pushes of a whole run, as its users see them: odd devices, devices that are gone, a key that is refused."""

from collections import Counter

import pytest

from tests.support.processes import Place, invent


@pytest.mark.parametrize(
    ("column", "reason"),
    [("endpoint", "endpoint_refused:malformed_url"), ("p256dh", "bad_subscription"), ("auth", "bad_subscription")],
)
def test_a_device_with_a_null_costs_its_owner_a_push_and_nobody_else_anything(place: Place, column: str, reason: str):
    """A view of another application may have some; a mail to the same person goes out."""
    rows = invent(2, push_url=place.servers.push_url)
    place.load(rows)
    columns = {"endpoint": "endpoint", "p256dh": "p256dh_key", "auth": "auth_key"}
    broken = f"case when id = '{rows.devices[0].id}' then null else {columns[column]} end"
    shown = ", ".join(f"{broken if name == column else own} as {name}" for name, own in columns.items())
    shown = f"id, staff_id, {shown}, created_at"
    place.sql(f"create or replace view notifierd.devices as select {shown} from push_subscriptions")
    place.once(code=1)
    ends = place.sql("select channel, state, reason from notifierd.deliveries").splitlines()
    assert Counter(ends) == {"email|sent|": 4, "push|sent|": 3, f"push|failed|{reason}": 1}
