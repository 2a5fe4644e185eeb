"""The lease on a day, and the one writer of the outcomes of its deliveries."""
