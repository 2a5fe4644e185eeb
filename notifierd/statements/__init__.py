"""The statements of the ledger and of the source. Each is one round trip, and one transaction.

``clock_timestamp()`` is the database's clock at the moment it is looked at: leases and tries are reckoned by no other.
"""

DUE = """(
    (d.state = 'planned' and (d.not_before is null or d.not_before <= clock_timestamp()))
    or (d.state = 'sending' and d.try_until <= clock_timestamp()
        and (d.not_before is null or d.not_before <= clock_timestamp()))
)"""
"""Whether a delivery's turn has come: planned, or left over by a try that can no longer settle it."""
