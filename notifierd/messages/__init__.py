"""A notice becomes a mail or a push, and an alarm a message for the operator."""
