"""Print the processes that work on a day, for people."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.markup import escape

from notifierd.commands.display.columns import Column, print_table
from notifierd.messages.text import visible
from notifierd.store.history import MemberLine


def print_members(members: Sequence[MemberLine], now: datetime, console: Console) -> None:
    """Print one line for each process; nothing if there is none."""
    if not members:
        return
    print_table(
        console,
        (
            Column("host", prose=True),
            Column("process", leave_out=1),
            Column("version", leave_out=2),
            Column(),
            Column("mail slots", right=True),
            Column("push slots", right=True),
            Column("rate", right=True),
            Column("offices done", right=True, leave_out=4),
            Column("in hand", right=True, leave_out=5),
            Column("renewed", right=True, leave_out=3),
        ),
        [
            (
                escape(visible(member.host)),
                escape(visible(member.name)),
                escape(visible(member.version)),
                "[cyan]leads[/]" if member.leads else "",
                f"{member.email:,}",
                f"{member.push:,}",
                f"{member.done.rate:,.1f}/s",
                f"{member.done.offices_done:,}",
                f"{member.done.offices_in_hand:,}",
                f"{max(0.0, (now - member.renewed_at).total_seconds()):.0f} s ago",
            )
            for member in members
        ],
    )
