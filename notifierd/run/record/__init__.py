"""The day's lease, and the one writer of what became of its deliveries."""
