"""A notice becomes a mail or a push."""
