"""The statements of the ledger and of the source. Each is one round trip, and one transaction.

``clock_timestamp()`` is the database's clock at the moment it is looked at: leases and tries are reckoned by no other.
"""

DUE = """(
    (d.state = 'planned' and (d.not_before is null or d.not_before <= clock_timestamp()))
    or (d.state = 'sending' and d.try_until <= clock_timestamp()
        and (d.not_before is null or d.not_before <= clock_timestamp()))
)"""
"""Whether a delivery's turn has come: planned, or left over by a try that can no longer settle it."""

STANDS = """jsonb_build_object(
    'offices', (select count(*) from notifierd.run_offices o where o.day = r.day),
    'offices_failed', (select count(*) from notifierd.run_offices o where o.day = r.day and o.state = 'failed'),
    'states', (select coalesce(jsonb_agg(s), '[]') from (
        select d.channel, d.state, count(*) as n from notifierd.deliveries d where d.day = r.day group by 1, 2
    ) s)
)"""
"""How the day of run *r* stands: its offices, and its deliveries by channel and state."""
