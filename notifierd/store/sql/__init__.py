"""The SQL statements of the ledger and of the source. Each is one round trip and one transaction.

``clock_timestamp()`` is the database's clock at the moment of evaluation: leases and tries use no other clock.
"""

from collections.abc import Container

from notifierd.model import delivery
from notifierd.model.delivery import State
from notifierd.model.feedback import UNREACHED, MailStatus


def _states(states: Container[State]) -> str:
    """Return *states* as a list for an IN, in the order of their declaration."""
    return f"({', '.join(repr(str(state)) for state in State if state in states)})"


OPEN_STATES, LOST_STATES = _states(delivery.OPEN), _states(delivery.LOST)
"""The states that are not final, and those of deliveries that reached nobody."""

IS_MEMBER = """(m.until > clock_timestamp() and (m.shares or exists (
    select from notifierd.runs led
    where led.day = m.day and led.holder = m.name and led.lease_until > clock_timestamp()
)))"""
"""Condition for the lease of member *m* to be in force. One that shares nothing is a member only while it leads."""

IN_PROGRESS = f"""(r.state = 'running' and (
    coalesce(r.lease_until > clock_timestamp(), false) or exists (
        select from notifierd.run_members m where m.day = r.day and m.epoch = r.epoch and {IS_MEMBER}
    )
))"""
"""Condition for a process to work on run *r*. If its leader died, another member leads at its next renewal."""

DUE = """(
    (d.state = 'planned' and (d.not_before is null or d.not_before <= clock_timestamp()))
    or (d.state = 'sending' and d.try_until <= clock_timestamp()
        and (d.not_before is null or d.not_before <= clock_timestamp()))
)"""
"""Condition for a delivery whose turn has come: it is planned, or its last try can no longer settle it."""

NEXT_TURN = "greatest(d.not_before, case d.state when 'sending' then d.try_until end)"
"""When the turn of an open delivery comes that is not due."""

INTERIM = f"""(
    select m.interim from notifierd.run_members m
    where m.day = r.day and m.epoch = r.epoch and r.state = 'running' and m.interim is not null and {IS_MEMBER}
    order by (m.interim ->> 'at')::float8 desc limit 1
)"""
"""The counts of run *r* so far, as the process that leads it last kept them; null if nobody works on it, or nobody has
counted yet."""

GIVEN = """(
    select count(*) from notifierd.deliveries d
    where d.day = $1::date and d.channel = 'email' and (d.state in ('sent', 'sending', 'unknown') or d.doubts > 0)
)"""
"""The number of mails of the day that a provider accepted, or may have accepted."""

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


NOT_REACHED = f"({', '.join(repr(str(status)) for status in MailStatus if status in UNREACHED)})"
"""The statuses of accepted mails that reached nobody."""

REACHED = f"""(d.state = 'sent' and not exists (
    select from notifierd.feedback f where f.day = d.day and f.delivery_id = d.id and f.status in {NOT_REACHED}
))"""
"""Condition for a delivery that reached somebody: it was sent, and as far as the provider tells it was not lost then.
Who complained was reached."""

ADDRESS_KEY = """substring(sha256(
    (select outer_pad from notifierd.address_pads) || sha256(
        (select inner_pad from notifierd.address_pads)
        || convert_to(lower(left({}, 320) collate "C"), getdatabaseencoding())
    )
) for 16)"""
"""The key of an address: 16 bytes of its HMAC-SHA-256 (RFC 2104). Addresses are compared without regard to case. They
are ASCII where mails can be sent to them. Others keep the bytes that the database has: a conversion would fail for some
text in some encoding, and with it the statement for all offices."""

HOLDS = """(
    select h.staff_id, h.address_key, h.reason, h.since, h.until
    from notifierd.holds h left join notifierd.lifts l on l.staff_id = h.staff_id
    where $1::date between h.since and h.until and (l.lifted_at is null or l.lifted_at < h.seen_at)
)"""
"""The holds in force on the day $1: those that nobody has lifted."""

IS_HELD = f"h.staff_id = s.id and h.address_key is not distinct from {ADDRESS_KEY.format('s.email')}"
"""Condition for hold *h* to concern row *s* of the view staff. With a plain `=`, PostgreSQL would compute the key of
every address for a hash join; so it does for staff members with a hold only."""


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
