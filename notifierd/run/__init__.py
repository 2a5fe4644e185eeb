"""One day's run, from the lease to the report."""
