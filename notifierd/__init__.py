"""notifierd tells the staff of welfare offices about deadlines: every business day, once, and never loses one."""

from importlib.metadata import version

__version__ = version("notifierd")
