"""notifierd tells the staff of welfare offices about deadlines: every business day, once, and never loses one."""

__version__ = "0.1.0"
