"""The SQL statements of the ledger and of the source. Each is one round trip and one transaction.

``clock_timestamp()`` is the database's clock at the moment of evaluation: leases and tries use no other clock.
"""

from collections.abc import Container

from notifierd.model import delivery
from notifierd.model.delivery import State


def _states(states: Container[State]) -> str:
    """Return *states* as a list for an IN, in the order of their declaration."""
    return f"({', '.join(repr(str(state)) for state in State if state in states)})"


OPEN_STATES, LOST_STATES = _states(delivery.OPEN), _states(delivery.LOST)
"""The states that are not final, and those of deliveries that reached nobody."""

DUE = """(
    (d.state = 'planned' and (d.not_before is null or d.not_before <= clock_timestamp()))
    or (d.state = 'sending' and d.try_until <= clock_timestamp()
        and (d.not_before is null or d.not_before <= clock_timestamp()))
)"""
"""Condition for a delivery whose turn has come: it is planned, or its last try can no longer settle it."""

# `created_at` is the view's own column if it has one, because the inner name wins; else it is the null of `absent`.
# A column of another type may have no order (json, point), and a statement that orders by it would be refused for
# all offices: such a column counts as absent. The cast by way of text works for every type, and only the text of a
# moment is used.
DEVICES_BY_AGE = """
select v.* from (select null::timestamptz as created_at) absent, lateral (
    select v.id, v.staff_id, v.endpoint, v.p256dh, v.auth,
           case when pg_typeof(created_at) in ('timestamptz'::regtype, 'timestamp'::regtype)
                then created_at::text::timestamptz end as created_at
    from notifierd.devices v where v.id is not null and {where}
) v"""
"""Devices with the time of their subscription, which is an optional column of the view."""

NAME = "coalesce(left({}, 300), '')"
"""The name of a person or an office."""

OFFICE_NAME = f"case when o.id is not null then {NAME.format('o.name')} end"
"""The name of office *o*, which may be empty; null if the office no longer exists."""

STANDS = """jsonb_build_object(
    'offices', (select count(*) from notifierd.run_offices o where o.day = r.day),
    'offices_failed', (select count(*) from notifierd.run_offices o where o.day = r.day and o.state = 'failed'),
    'states', (select coalesce(jsonb_agg(s), '[]') from (
        select d.channel, d.state, count(*) as n from notifierd.deliveries d where d.day = r.day group by 1, 2
    ) s)
)"""
"""The counts of the day of run *r*: its offices, and its deliveries by channel and state."""

DEADLINE = "least(greatest({}, date '0001-01-01'), date '9999-12-31')"
"""A deadline within the range of Python's dates. PostgreSQL cannot subtract an infinite date, and the error would
refuse the statement for all offices. So an infinite deadline counts as the last day of the calendar, or the first."""

DAYS_LEFT = f"({DEADLINE.format('a.due_on')} - $1::date)"
"""Days from the day to the deadline of alert *a*, a renewal."""


def in_scope(*, day: str, last: str, overdue: str) -> str:
    """Return the condition that alert *a* counts on *day*, for any threshold; `rules.due` has the same rule.

    An alert without a recipient does not count: no message includes it, either.

    Args:
        last: the last day of the horizon.
        overdue: whether renewals due on *day* or before it count.
    """
    return f"""(a.recipient_id is not null and (
    a.kind = 'assessment' or (a.kind = 'renewal' and a.due_on <= {last} and ({overdue}::bool or a.due_on > {day}))
))"""
